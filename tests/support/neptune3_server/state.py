"""What the server keeps: projects, runs and stored files, in memory."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..neptune_server.state import RUN, Container, free_key, milliseconds
from .attributes import Atom, Attribute, FileRef, Point, Preview, Series, StoredFile

__all__ = ["Project", "Request", "Run", "State", "milliseconds"]

#: What takes part in lineage, whatever becomes of single values.
SERIES = ("floatSeries", "stringSeries", "histogramSeries", "fileRefSeries")

_COUNTED = {
    "bool": "bool",
    "float": "float",
    "int": "int",
    "string": "string",
    "stringSet": "string_set",
    "histogram": "histogram",
    "fileRef": "file_ref",
    "floatSeries": "float_series",
    "stringSeries": "string_series",
    "histogramSeries": "histogram_series",
    "fileRefSeries": "file_ref_series",
}


@dataclass
class Run(Container):
    """
    A run, by `run_id`; `run["path"]` is a value, of a series its last.

    `run.points("path")` are the run's own points, `run.history("path")` also those
    that it has from the runs it was forked from.
    """

    experiment: str | None = None
    parent: Run | None = None
    fork_step: float | None = None
    #: A parent that was asked for and that there is not.
    requested_parent: str | None = None
    archived: bool = False
    #: When it was made by the server's clock, whatever its maker says.
    begun: int = field(default_factory=milliseconds)
    previews: dict[str, list[Preview]] = field(default_factory=dict)
    #: What the request that made it said, as the protocol's message.
    request: Any = None

    @property
    def run_id(self) -> str:
        """What its maker calls it."""
        return self.custom_id or ""

    @property
    def root(self) -> Run:
        """The run that all began with."""
        return self.parent.root if self.parent else self

    @property
    def depth(self) -> int:
        """How many forks there are between it and the root."""
        return self.parent.depth + 1 if self.parent else 0

    def data(self, path: str, number: int = -1) -> bytes:
        """Return what is in a file, or in that with a number of a file series."""
        found: Any = self.attributes[path]
        ref = found.values[number] if isinstance(found, Series) else found
        assert isinstance(ref, FileRef)
        files: dict[str, StoredFile] = self.project.files
        return files[ref.path].data

    def history(self, path: str, shown: bool = False) -> list[Point]:
        """Return the points of a series, with those of the runs it was forked from."""
        attributes = self.shown() if shown else self.attributes
        found = attributes.get(path)
        own = [*found.points] if isinstance(found, Series) else []
        if self.parent is None or self.fork_step is None:
            return own
        limit = self.fork_step
        taken = {point.step for point in own}
        before = self.parent.history(path, shown)
        return [p for p in before if p.step <= limit and p.step not in taken] + own

    def inherited(self) -> dict[str, Attribute]:
        """Return the series that it has only from the runs it was forked from."""
        found: dict[str, Attribute] = {}
        for run in self.ancestors():
            for path, attribute in run.shown().items():
                if isinstance(attribute, Series) and path not in self.attributes:
                    points = self.history(path, shown=True)
                    columns = [list(one) for one in zip(*points, strict=True)]
                    if columns and path not in found:
                        found[path] = Series(attribute.type, *columns)
        return found

    def ancestors(self) -> Iterator[Run]:
        """Yield its parent, and so on."""
        run = self.parent
        while run is not None:
            yield run
            run = run.parent


@dataclass
class Project:
    """A project, the runs in it and the files that belong to them."""

    workspace: str
    name: str
    #: What the `sys/id`s of its runs begin with.
    key: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    #: By the id that their makers gave them.
    runs: dict[str, Run] = field(default_factory=dict)
    #: By their place in the storage.
    files: dict[str, StoredFile] = field(default_factory=dict)
    visibility: str = "priv"
    description: str | None = None
    _count: int = 0

    @property
    def full_name(self) -> str:
        """Its name with its workspace's."""
        return f"{self.workspace}/{self.name}"

    def next_id(self) -> str:
        """Return the next free `sys/id`."""
        self._count += 1
        return f"{self.key}-{self._count}"

    def with_sys_id(self, sys_id: str) -> Run | None:
        """Return a run by its `sys/id`."""
        return next((one for one in self.runs.values() if one.sys_id == sys_id), None)

    def heads(self) -> dict[str, Run]:
        """Return the youngest run of each experiment."""
        found: dict[str, Run] = {}
        for run in self.runs.values():
            if run.experiment is not None:
                found[run.experiment] = run
        return found


@dataclass
class Request:
    """What became of an ingested request: the code of each single thing in it."""

    project: str
    codes: list[tuple[str, str]]
    #: By the clock that only runs forward.
    known_from: float = 0.0


@dataclass
class State:
    """All that the server keeps."""

    projects: dict[str, Project] = field(default_factory=dict)
    #: Names of projects that shall not exist.
    missing: set[str] = field(default_factory=set)
    #: Who owns all that is made.
    owner: str = "owner"
    #: New data shows in answers to readers only after so many seconds.
    lag: float = 0.0
    #: What became of a request is told only after so many seconds.
    status_lag: float = 0.0
    #: Where files go: `gcp`, `azure` or `aws`; each is spoken to in its own way.
    provider: str = "gcp"
    #: With `aws`, larger files come in parts of this size.
    part_size: int = 5 * 1024 * 1024
    #: How long a signed address holds.
    url_seconds: float = 3600.0
    #: No operation may be larger.
    operation_limit: int = 2 * 1024 * 1024
    #: No request may be larger.
    request_limit: int = 16 * 1024 * 1024
    #: How many values of a series (of strings, histograms, files) a page holds.
    page_size: int = 10_000
    #: How many values of series of numbers an answer holds at most.
    points_limit: int = 1_000_000
    #: Whether a series' times may not decrease.
    orders_times: bool = True
    #: Whether a run outside of experiments is called by its id.
    names_runs: bool = False
    ingested: dict[str, Request] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def project(self, name: str) -> Project | None:
        """Return a project by its full name; what has a new name is made."""
        workspace, _, short = name.partition("/")
        if not workspace or not short or "/" in short or name in self.missing:
            return None
        if name not in self.projects:
            taken = {one.key for one in self.projects.values()}
            self.projects[name] = Project(workspace, short, free_key(short, taken))
        return self.projects[name]

    def run(self, identifier: str) -> Run | None:
        """Return a run by `team/proj/PROJ-1` or `CUSTOM/team/proj/run-id`."""
        custom = identifier.startswith("CUSTOM/")
        workspace, short, id = identifier.removeprefix("CUSTOM/").split("/", 2)
        project = self.projects.get(f"{workspace}/{short}")
        if project is None:
            return None
        return project.runs.get(id) if custom else project.with_sys_id(id)

    def create(self, project: Project, run_id: str, **facts: Any) -> Run:
        """Put a new run into a project; *facts* are fields of `Run`."""
        sys_id = facts.pop("sys_id", None) or project.next_id()
        run = Run(project, RUN, sys_id, custom_id=run_id, **facts)
        project.runs[run_id] = run
        run.list_after(self.lag)
        return run

    def show_all(self) -> None:
        """Show at once what would show only later."""
        with self.lock:
            for project in self.projects.values():
                for each in project.runs.values():
                    each.show()

    def seen(self, run: Run) -> dict[str, Attribute]:
        """Return all that a reader sees of a run by now."""
        return {**self._system(run), **run.inherited(), **run.shown()}

    def _system(self, run: Run) -> dict[str, Attribute]:
        pinged = run.modified or run.begun
        seconds = max(0, pinged - run.begun) / 1000
        files: dict[str, StoredFile] = run.project.files
        size = sum(
            len(files[one.path].data)
            for one in run.attributes.values()
            if isinstance(one, FileRef) and one.path in files
        )
        said: dict[str, tuple[str, Any]] = {
            "id": ("string", run.sys_id),
            "custom_run_id": ("string", run.run_id),
            "owner": ("string", self.owner),
            "family": ("string", run.root.run_id),
            "creation_time": ("datetime", run.created),
            "modification_time": ("datetime", pinged),
            "ping_time": ("datetime", pinged),
            "relative_creation_time_ms": ("int", run.created - run.root.created),
            "running_time_seconds": ("float", seconds),
            "size": ("int", size),
            "state": ("experimentState", "idle"),
            "failed": ("bool", False),
            "trashed": ("bool", run.trashed),
            "archived": ("bool", run.archived),
            "forking/depth": ("int", run.depth),
            "diagnostics/project_uuid": ("string", run.project.id),
            "diagnostics/run_uuid": ("string", run.id),
            **self._counts(run),
        }
        if run.parent is not None:
            said["forking/parent"] = ("string", run.parent.run_id)
            said["forking/step"] = ("float", run.fork_step)
        if run.requested_parent is not None:
            said["forking/requested_parent"] = ("string", run.requested_parent)
        if run.experiment is not None:
            head = run.project.heads()[run.experiment] is run
            said["name"] = said["experiment/name"] = ("string", run.experiment)
            said["experiment/is_head"] = ("bool", head)
            said["experiment/running_time_seconds"] = ("float", seconds)
        elif self.names_runs:
            said["name"] = ("string", run.run_id)
        return {f"sys/{name}": Atom(*facts) for name, facts in said.items()}

    @staticmethod
    def _counts(run: Run) -> dict[str, tuple[str, Any]]:
        counts = dict.fromkeys(_COUNTED.values(), 0)
        points = 0
        for path, attribute in run.attributes.items():
            if attribute.type in _COUNTED and not path.startswith("sys/"):
                counts[_COUNTED[attribute.type]] += 1
                points += len(attribute) if isinstance(attribute, Series) else 0
        below = "diagnostics/attributes"
        found: dict[str, tuple[str, Any]] = {
            f"{below}/{kind}_count": ("int", count) for kind, count in counts.items()
        }
        found[f"{below}/total_count"] = ("int", sum(counts.values()))
        found[f"{below}/total_series_datapoints"] = ("int", points)
        return found
