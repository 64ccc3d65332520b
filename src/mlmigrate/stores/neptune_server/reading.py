"""Projects at a Neptune server, read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, BinaryIO, Literal

from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import ItemError
from mlmigrate.model import Artifact, Failed, Finding, Item, Problem, Ref, Run
from mlmigrate.neptune_runs.attributes import Container
from mlmigrate.neptune_runs.items import ATTRIBUTES, attributes_text, run_item
from mlmigrate.neptune_runs.models import model_item, model_of_version
from mlmigrate.neptune_runs.names import Names
from mlmigrate.neptune_runs.own import own, restored
from mlmigrate.run_files import FilesOfLastRuns
from mlmigrate.stores.neptune_server.access import PREFIX3, Place, place_of
from mlmigrate.stores.neptune_server.index import Index, Listed, index_of
from mlmigrate.stores.neptune_server.registry import read_model
from mlmigrate.stores.neptune_server.server import Fetched, Opener, Server, made
from mlmigrate.told.experiments import experiment_of
from mlmigrate.told.models import model_of

#: So many runs' files are known at once.
_KEPT = 64


class NeptuneProject:
    """A project at a server; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "thread"

    def __init__(
        self, location: str, options: Mapping[str, Any], *, as_copies: bool = False
    ) -> None:
        """List what is in a project.

        Args:
            location: names it.
            options: the adapter's.
            as_copies: read a run of which the record is not there, as its maker was
                killed, as a copy that holds nothing yet; else as one of Neptune's own.

        Raises:
            LocationError: *location* names none.
            StoreError: the server cannot be reached, or refuses us.
        """
        place = place_of(location)
        self.location = str(place)
        self.server: Server = _reached(place)
        try:
            self.index: Index = index_of(self.server)
        except BaseException:
            self.server.close()
            raise
        self._as_copies = as_copies
        self._multiplier: int | None = options.get("step-multiplier")
        self.temporary: str | None = options.get("temp-dir")
        threads = int(options.get("threads") or 8)
        self._pool = ThreadPoolExecutor(threads, "mlmigrate-neptune-read")
        self._files: FilesOfLastRuns[Mapping[str, Opener]] = FilesOfLastRuns(_KEPT)

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self.index.refs(selection)

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`: of runs that mlmigrate wrote, the
        listing says how they stand.
        """
        for ref in refs:
            run = self.index.runs.get(ref.id)
            if run is not None and run.own:
                yield Glance(ref, run.origin, run.status, run.end_time, run.lifecycle)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        if len(refs) == 1:
            yield self._read(refs[0])
        else:
            yield from self._pool.map(self._read, refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        found = self._files.get(ref.id)
        if found is None:
            run = self.index.runs.get(ref.id)
            if run is None:
                raise ItemError(f"{ref} is not there")
            found = self._read_run(ref, run)[1]
        if path not in found:
            raise ItemError(f"{ref} has no artifact {path!r}")
        return found[path]()

    def forget(self, origin: str) -> None:
        """Drop what is kept of a run that changes."""
        self._files.forget(origin)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return list(self.index.findings)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._pool.shutdown(cancel_futures=True)
        self.server.close()

    def _read(self, ref: Ref) -> Item | Failed:
        try:
            if ref.kind == "run":
                return self._read_run(ref, self.index.runs[ref.id])[0]
            if ref.kind == "experiment":
                return experiment_of(self.index.experiments[ref.id], ref)
            if ref.id in self.index.models:
                return read_model(self.server, ref, self.index.models[ref.id])
            if ref.id in self.index.told_models:
                return model_of(self.index.told_models[ref.id], ref)
            return self._registered(ref)
        except KeyError:
            return Failed(ref, f"{self.location} holds no such {ref.kind}")
        except (OSError, ItemError) as error:
            return Failed(ref, f"cannot be read: {error}")

    def fetched(self, run: Listed) -> Fetched:
        """Read all of a run.

        Raises:
            ItemError: it cannot be read.
        """
        return self.server.fetch(run.id, run.kind, temporary=self.temporary)

    def _read_run(self, ref: Ref, run: Listed) -> tuple[Item, Mapping[str, Opener]]:
        found = self.fetched(run)
        kept = own(found.container, found.read) if run.own else None
        if kept is not None:
            back = restored(found.container, kept, ref, found.read)
            item = back.item
            header = item.header
            if run.lifecycle == "deleted" and isinstance(header, Run):
                item = replace(item, header=replace(header, lifecycle="deleted"))
            files: Mapping[str, Opener] = {
                path: found.files[at] for path, at in back.files.items()
            }
        elif run.own and self._as_copies:
            begun = Run(Ref("experiment", run.experiment))
            item, files = Item(ref, begun, origin=run.origin), {}
        else:
            item, files = _of_neptune(found, ref, self._multiplier)
        self._files.keep(ref.id, files)
        return item, files

    def _registered(self, ref: Ref) -> Item:
        """Read a model that others registered."""
        findings: list[Finding] = []
        model: Container | None = None
        versions: list[tuple[int, Ref, Container]] = []
        for origin, each in self.index.runs.items():
            of = model_of_version(each.name) if each.kind == "model_version" else None
            mine = each.kind == "model" and each.name == ref.id
            if not mine and (of is None or of[0] != ref.id):
                continue
            try:
                found = self.server.fetch(each.id, each.kind, series_too=False)
            except ItemError as error:
                findings.append(Problem(each.name, f"cannot be read: {error}"))
                continue
            if of is None:
                model = found.container
            else:
                versions.append((of[1], Ref("run", origin), found.container))
        if model is None and not versions:
            raise KeyError(ref.id)
        return model_item(ref, model, versions, findings)


def _reached(place: Place) -> Server:
    """Reach a project by the client of its API: each takes long to import."""
    if place.prefix == PREFIX3:
        from mlmigrate.stores.neptune_server.v3.client import Client3

        return Client3(place)
    from mlmigrate.stores.neptune_server.v2.client import Client

    reached: Server = Client(place)
    return reached


def _of_neptune(
    found: Fetched, ref: Ref, multiplier: int | None
) -> tuple[Item, Mapping[str, Opener]]:
    """Return a run that others logged, and its files."""
    names = Names()
    told = attributes_text(found.container)
    size, opener = made(told)
    artifacts = [Artifact(names.give(ATTRIBUTES), size)] if told else []
    files: dict[str, Opener] = {ATTRIBUTES: opener} if told else {}
    for artifact in found.container.artifacts:
        name = names.give(artifact.path)
        artifacts.append(Artifact(name, artifact.size))
        files[name] = found.files[artifact.path]
    container = replace(found.container, artifacts=tuple(artifacts))
    return run_item(container, ref, multiplier), files
