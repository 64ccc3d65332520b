"""Neptune's servers, of 2.x and of 3.x, by what tests do alike with both."""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mlmigrate.locations import resolve
from mlmigrate.model import Artifact, Failed, Item, Kind, Param, Ref, Tag
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW, RUN
from mlmigrate.testing.suite import Result

from . import copies, neptune3_server, neptune_server
from .neptune_server import Deny, Forget
from .planted import Request
from .reading import contents, held, metric

#: What a server says at once.
HASTY = ("settle=0.01",)


class Neptune(ABC):
    """A server, and the project at it that tests copy to."""

    scheme: str
    #: That of its clients.
    package: str
    #: Operations, or parts of paths, of requests that change something.
    changing: tuple[str, ...]
    #: The operation that brings values.
    bringing: str
    #: What is in the path of each request.
    asking: str
    #: How it says that it does not know a token.
    unknown: str
    #: In how many parts it gets the points of a series of some hundred.
    parts: int
    #: What is true of a run that people threw away.
    trashed: str
    #: Whether it has models of its own; else a run tells of those of MLflow.
    has_models: bool
    #: Where files go: to the server itself, or to whom it says.
    providers: tuple[str, ...]

    def __init__(self, server: Any) -> None:
        self.server = server

    @property
    def sink(self) -> str:
        """Where the project is."""
        return self.location("proj")

    def location(self, project: str) -> str:
        """Return where a project is."""
        return f"{self.scheme}://team/{project}"

    def project(self, name: str = "proj") -> Any:
        """Return what the server has of a project."""
        return self.server.projects[f"team/{name}"]

    def copy(self, origin: str, *options: str, project: str = "proj") -> Result:
        """Copy to a project."""
        return copies.copied(origin, self.location(project), [*HASTY, *options])

    def differences(self, origin: str, project: str = "proj") -> list[Any]:
        """Return what is not as it is to be."""
        return copies.differences(origin, self.location(project))

    def sent(self) -> int:
        """Count the requests that changed something."""
        return sum(map(self.server.count, self.changing))

    def asked_to_read_all(self) -> set[str]:
        """Return what a reader of all items and files asks for, beside GETs."""
        with closing(resolve(self.sink).source()) as store:
            kinds: list[Kind] = ["experiment", "run", "registered_model"]
            for item in (item for kind in kinds for item in held(store, kind)):
                contents(store, item)
            list(store.findings())
        return {
            request.operation
            for request in self.server.requests
            if request.method != "GET" and not request.path.endswith("/token")
        }

    def requests_to_open(self, project: str) -> int:
        """Count what a project is asked when it is opened, once the server is known."""
        first = len(self.server.requests)
        resolve(self.location(project)).source().close()
        return len(self.server.requests) - first

    def record(self, run: Any) -> dict[str, Any]:
        """Return what a copy says of itself."""
        text = run.values("mlmigrate/").get("record")
        found = json.loads(text or self.data(run, "mlmigrate/record_file"))
        assert isinstance(found, dict)
        return found

    def aside(self, run: Any) -> list[dict[str, Any]]:
        """Return the points of a copy that no series takes."""
        if not self.record(run)["aside"]:
            return []
        data = self.data(run, "mlmigrate/points")
        return pq.read_table(io.BytesIO(data)).to_pylist()

    def marked(self, id: str = RUN) -> bool:
        """Whether a run is there and bears a mark."""
        return any(
            one.values("mlmigrate/").get("mark")
            for one in self.project().runs.values()
            if one.custom_id == id
        )

    def is_whole(self, origin: str) -> None:
        """Check that all is there, once, and that a further copy changes nothing."""
        again = self.copy(origin)
        assert {"skipped"} == set(again.counts()), again.events
        assert [] == self.differences(origin)

    def cut_short(
        self,
        origin: str,
        begin: Callable[[], Any],
        *,
        opening: int,
        status: int = 403,
        times: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Copy again and again, each time with one request more that passes.

        Args:
            origin: what is copied.
            begin: makes what there is before; what it returns is yielded, behind the
                number of the requests that passed.
            opening: how many pass the first time.
            status: with which the next is refused.
            times: how many are; all that come, where that is not said.
        """
        for skip in range(opening, 500):
            begun = begin()
            self.server.plant(self.asking, Deny(status), skip=skip, times=times)
            before = len(self.server.requests)
            self.copy(origin)
            asked = len(self.server.requests) - before
            self.server.clear()
            if asked <= skip:
                return
            yield skip, begun
        raise AssertionError("it never ended")

    @abstractmethod
    def state(self, origin: str, project: str = "proj") -> dict[str, Any]:
        """Return what is the same in any two projects that copies of *origin* are in,
        by the item that it belongs to.
        """

    @abstractmethod
    def put_file(self, run: Any, path: str, data: bytes) -> None:
        """Set an attribute, which is a file, past the server's doors."""

    @abstractmethod
    def uploaded(self, requests: Iterable[Request]) -> list[str]:
        """Return the attributes of the files that requests brought."""

    @abstractmethod
    def containers(self, project: str = "proj") -> list[Any]:
        """Return all that holds attributes in a project."""

    @abstractmethod
    def run(self, id: str = RUN, project: str = "proj") -> Any:
        """Return a run by the id that its maker gave it."""

    @abstractmethod
    def add_run(self, project: str, id: str, attributes: Mapping[str, Any]) -> Any:
        """Put in a run past the server's doors."""

    @abstractmethod
    def lose(self, lost: Forget) -> None:
        """Let the server forget what it says to have of runs."""

    @abstractmethod
    def data(self, run: Any, path: str) -> bytes:
        """Return what is in a file."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the variables for a client in another process."""


class Neptune2(Neptune):
    """A server of 2.x."""

    scheme = package = "neptune"
    changing = ("createExperiment", "executeOperations", "/upload")
    bringing = "executeOperations"
    asking = "/api/"
    unknown = "token"
    parts = 2
    trashed = "trashed"
    has_models = True
    providers = ("own",)

    def containers(self, project: str = "proj") -> list[Any]:
        """See `Neptune.containers`."""
        found = self.project(project)
        return [found.own, *found.containers.values()]

    def run(self, id: str = RUN, project: str = "proj") -> Any:
        """See `Neptune.run`."""
        return self.project(project).run(id)

    def add_run(self, project: str, id: str, attributes: Mapping[str, Any]) -> Any:
        """See `Neptune.add_run`."""
        return neptune_server.add_run(self.server, project, attributes, custom_id=id)

    def lose(self, lost: Forget) -> None:
        """See `Neptune.lose`."""
        self.server.plant("experiments", lost, times=None)
        self.server.plant("attributes", lost, times=None)

    def data(self, run: Any, path: str) -> bytes:
        """See `Neptune.data`."""
        return run[path].data

    def environment(self) -> dict[str, str]:
        """See `Neptune.environment`."""
        return neptune_server.client_environment(self.server)

    def is_whole(self, origin: str) -> None:
        """See `Neptune.is_whole`; also, that the project is what one copy makes."""
        assert [] == self.copy(origin, project="clean").of(Failed)
        assert {} == unlike(self.state(origin, "clean"), self.state(origin))
        super().is_whole(origin)

    def put_file(self, run: Any, path: str, data: bytes) -> None:
        """See `Neptune.put_file`."""
        run.put(path, neptune_server.File(data, "bin"))

    def uploaded(self, requests: Iterable[Request]) -> list[str]:
        """See `Neptune.uploaded`."""
        return [r.variables["attribute"] for r in requests if "/upload" in r.path]

    def state(self, origin: str, project: str = "proj") -> dict[str, Any]:
        """Return all that a project holds, but what Neptune itself says of it, and what
        grows with each time that something is told.
        """
        return {
            f"{one.kind} {one.custom_id or one.sys_id.partition('-')[2]} {path}": (
                re.sub(_GROWS, "", repr(attribute))
            )
            for one in self.containers(project)
            for path, attribute in sorted(one.attributes.items())
            if not path.startswith("sys/") or (path in _SHOWN and one.kind != "project")
            if path != "mlmigrate/source"
        }


#: A copy that was completed has no checksum of all its files.
_GROWS = r"memory:\w+|\"revision\": \d+|,\"checksums\":\"\w*\""
_SHOWN = ("sys/name", "sys/description", "sys/failed", "sys/group_tags", "sys/tags")


def unlike(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what is not the same in two states."""
    return {
        key: (one.get(key, ""), other.get(key, ""))
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    }


class Neptune3(Neptune):
    """A server of 3.x."""

    scheme = "neptune3"
    package = "neptune_scale"
    changing = ("submit", "upload")
    bringing = "submit"
    asking = "/"
    unknown = "rejected"
    parts = 1
    trashed = "archived"
    has_models = False
    providers = ("gcp", "aws", "azure")

    def containers(self, project: str = "proj") -> list[Any]:
        """See `Neptune.containers`."""
        return [*self.project(project).runs.values()]

    def run(self, id: str = RUN, project: str = "proj") -> Any:
        """See `Neptune.run`."""
        return self.project(project).runs[id]

    def add_run(self, project: str, id: str, attributes: Mapping[str, Any]) -> Any:
        """See `Neptune.add_run`."""
        return neptune3_server.add_run(self.server, project, id, attributes)

    def lose(self, lost: Forget) -> None:
        """See `Neptune.lose`; what the run has that tells of experiments stays."""
        of_run = {"run_id": RUN}.items()
        self.server.plant(
            "submit", lost, times=None, when=lambda said: of_run <= said.items()
        )

    def data(self, run: Any, path: str) -> bytes:
        """See `Neptune.data`."""
        return run.data(path)

    def put_file(self, run: Any, path: str, data: bytes) -> None:
        """See `Neptune.put_file`."""
        place, kind = f"{run.run_id}/{path}", "application/octet-stream"
        run.project.files[place] = neptune3_server.StoredFile(data, kind)
        run.put(path, neptune3_server.FileRef(place, len(data), kind))

    def uploaded(self, requests: Iterable[Request]) -> list[str]:
        """See `Neptune.uploaded`; its place is called after an attribute."""
        places = {r.path: None for r in requests if r.operation == "upload"}
        names = {path.replace("/", "_"): path for path in self.run().attributes}
        return [
            path for place in places for name, path in names.items() if name in place
        ]

    def state(self, origin: str, project: str = "proj") -> dict[str, Any]:
        """Return what is not as *origin* has it."""
        found = self.differences(origin, project)
        return {f"{each.ref} {getattr(each, 'field', '')}": True for each in found}

    def environment(self) -> dict[str, str]:
        """See `Neptune.environment`."""
        return neptune3_server.client_environment(self.server)


# -- what is copied there -------------------------------------------------------------

Files = dict[tuple[Ref, str], bytes]

#: Points of which a series takes some.
ODD = metric(
    "odd", (0, NOW, 1.0), (0, NOW + 1, 2.0), (1, NOW, np.nan), (2, NOW + 2, 4.0)
)


def full() -> tuple[Item, Files]:
    """Return a run with something in every place that a run has at Neptune."""
    items, files = suite.everything()
    item = next(item for item in items if item.ref.id == RUN)
    params = (*item.params, Param("long", "x" * 20_000))
    return replace(item, params=params, metrics=(*item.metrics, ODD)), files


def everything() -> tuple[list[Item], Files]:
    """Return an item of each kind, of the runs also a full one."""
    items, _ = suite.everything()
    run, files = full()
    return [run if item.ref.id == RUN else item for item in items], files


def growing() -> tuple[Item, Item, Files]:
    """Return a full run, the same as it ends, and the files of both."""
    run, files = full()
    header: Any = run.header
    run = replace(run, header=replace(header, status="RUNNING", end_time=None))
    files[run.ref, "new/file"] = b"new"
    loss = suite.points("loss", *((step, 1 / (step + 1)) for step in range(400)))
    more = suite.points("val/acc", (-3, 0.5), (-1, 0.75), (2**40, 0.25))
    grown = replace(
        run,
        header=replace(header, status="FINISHED", end_time=NOW + 70_000),
        params=(*run.params, Param("p", "1")),
        tags=(*run.tags, Tag("neptune.tags", '["a"]')),
        metrics=(loss, more, suite.points("new", (0, 1.0)), ODD),
        artifacts=(*run.artifacts, Artifact("new/file", 3)),
    )
    return run, grown, files
