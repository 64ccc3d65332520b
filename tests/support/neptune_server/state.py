"""What the server keeps: projects, and the runs and models in them, in memory."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .attributes import Artifact, Atom, Attribute, Point, Series, StringSet, frozen

#: The kinds of containers, in the API's words.
RUN, PROJECT, MODEL, MODEL_VERSION = "run", "project", "model", "modelVersion"


def milliseconds() -> int:
    """Return the time by the server's clock."""
    return time.time_ns() // 1_000_000


@dataclass
class Container:
    """A run, a project, a model or a version of one: what holds attributes."""

    project: Any  # a `Project`, of this kind of server or of that for 3.x
    kind: str
    sys_id: str
    custom_id: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    #: Of a model version, the `sys/id` of its model.
    model_id: str | None = None
    #: All that was sent or planted; change them by `put` and `remove`.
    attributes: dict[str, Attribute] = field(default_factory=dict)
    created: int = field(default_factory=milliseconds)
    modified: int = 0
    #: When a client last said that it runs.
    pinged: int = 0
    trashed: bool = False
    #: How many attributes there are below each namespace.
    _namespaces: Counter[str] = field(default_factory=Counter, repr=False)
    #: What was shown before the changes that are not yet shown, and these.
    _shown: dict[str, Attribute] = field(default_factory=dict, repr=False)
    _coming: list[tuple[float, dict[str, Attribute]]] = field(
        default_factory=list, repr=False
    )
    _listed_from: float = 0.0

    def __getitem__(self, path: str) -> Any:
        """Return a plain value: of a series its last, of a set its strings."""
        found = self.attributes[path]
        if isinstance(found, Atom):
            return found.value
        if isinstance(found, Series):
            return found.values[-1] if found.values else None
        if isinstance(found, StringSet):
            return set(found.values)
        return found.hash if isinstance(found, Artifact) else found

    def __contains__(self, path: str) -> bool:
        return path in self.attributes

    def points(self, path: str) -> list[Point]:
        """Return the points of a series."""
        found = self.attributes[path]
        assert isinstance(found, Series)
        return [*found.points]

    def values(self, namespace: str = "") -> dict[str, Any]:
        """Return the atoms below a namespace, by what follows it in their paths."""
        return {
            path.removeprefix(namespace): attribute.value
            for path, attribute in self.attributes.items()
            if isinstance(attribute, Atom) and path.startswith(namespace)
        }

    def obstacle(self, path: str) -> str | None:
        """Return which path is in the way of a new attribute."""
        if self._namespaces[path]:
            return f"{path}/…"
        parents = _parents(path)
        return next((one for one in parents if one in self.attributes), None)

    def put(self, path: str, attribute: Attribute) -> None:
        """Set an attribute, whatever was there."""
        if path not in self.attributes:
            self._namespaces.update(_parents(path))
        self.attributes[path] = attribute

    def remove(self, path: str) -> None:
        """Remove an attribute, if it is there."""
        if self.attributes.pop(path, None) is not None:
            self._namespaces.subtract(_parents(path))

    @contextmanager
    def changing(self, lag: float) -> Iterator[None]:
        """Note a change, which shows only after so many seconds."""
        if lag and not self._coming:
            self._shown = _frozen(self.attributes)
        yield
        self.modified = milliseconds()
        if lag or self._coming:
            due = time.monotonic() + lag
            self._coming.append((due, _frozen(self.attributes)))

    def listed(self) -> bool:
        """Whether tables show it by now."""
        return time.monotonic() >= self._listed_from

    def list_after(self, lag: float) -> None:
        """Let tables show it only after so many seconds."""
        self._listed_from = time.monotonic() + lag if lag else 0

    def show(self) -> None:
        """Show at once what would show only later."""
        self._coming.clear()
        self._listed_from = 0.0

    def shown(self) -> dict[str, Attribute]:
        """Return the attributes that a client sees by now, but those of the system."""
        while self._coming and self._coming[0][0] <= time.monotonic():
            _, self._shown = self._coming.pop(0)
        return self._shown if self._coming else self.attributes


@dataclass
class Project:
    """A project, and what is in it."""

    workspace: str
    name: str
    #: What the `sys/id`s of its runs begin with.
    key: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    #: By `sys/id`; the project itself is not among them.
    containers: dict[str, Container] = field(default_factory=dict)
    #: Lists of files by the hash of an artifact's version.
    artifacts: dict[str, ArtifactFiles] = field(default_factory=dict)
    #: What the project itself holds.
    own: Container = field(init=False)
    _numbers: Counter[str] = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        self.own = Container(self, PROJECT, self.key, id=self.id)

    @property
    def full_name(self) -> str:
        """Its name with its workspace's."""
        return f"{self.workspace}/{self.name}"

    def of_kind(self, kind: str) -> dict[str, Container]:
        """Return what there is of one kind, by `sys/id`."""
        return {id: one for id, one in self.containers.items() if one.kind == kind}

    @property
    def runs(self) -> dict[str, Container]:
        """Its runs by `sys/id`."""
        return self.of_kind(RUN)

    @property
    def models(self) -> dict[str, Container]:
        """Its models by `sys/id`."""
        return self.of_kind(MODEL)

    @property
    def model_versions(self) -> dict[str, Container]:
        """The versions of its models by `sys/id`."""
        return self.of_kind(MODEL_VERSION)

    def run(self, custom_id: str) -> Container:
        """Return the run with a custom id.

        Raises:
            KeyError: there is none.
        """
        for one in self.containers.values():
            if one.custom_id == custom_id:
                return one
        raise KeyError(custom_id)

    def next_id(self, prefix: str) -> str:
        """Return the next free `sys/id` that begins so."""
        self._numbers[prefix] += 1
        return f"{prefix}-{self._numbers[prefix]}"


@dataclass
class ArtifactFiles:
    """The files of a version of an artifact, as the client has listed them."""

    size: int | None
    files: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False


@dataclass
class Upload:
    """A file that comes in parts."""

    container: Container
    path: str
    total: int
    ext: str = ""
    inner: str = ""
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class State:
    """All that the server keeps."""

    projects: dict[str, Project] = field(default_factory=dict)
    #: Names of projects that shall not exist.
    missing: set[str] = field(default_factory=set)
    #: Who owns all that is made.
    owner: str = "owner"
    #: New data shows in answers only after so many seconds.
    lag: float = 0.0
    #: A run is active for so many seconds after its client's last sign of life.
    active_for: float = 15.0
    #: Larger files come in parts of this size.
    part_size: int = 5 * 1024 * 1024
    #: Whether runs get a name from the server; else the client calls them "Untitled".
    names_runs: bool = False
    uploads: dict[str, Upload] = field(default_factory=dict)
    #: Archives of file sets that were asked for: a container's id and a path.
    downloads: dict[str, tuple[str, str]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _by_id: dict[str, Container] = field(default_factory=dict, repr=False)

    def project(self, name: str) -> Project | None:
        """Return a project by its full name or id; what has a new name is made."""
        if name in self._by_id:
            return self._by_id[name].project
        workspace, _, short = name.partition("/")
        if not short or "/" in short or name in self.missing:
            return None
        if name not in self.projects:
            taken = {one.key for one in self.projects.values()}
            made = Project(workspace, short, free_key(short, taken))
            self.projects[name] = made
            self._by_id[made.id] = made.own
            made.own.put("sys/name", Atom("string", short))
        return self.projects[name]

    def container(self, id: str) -> Container | None:
        """Return a container by its id, or by `workspace/project/sys_id`."""
        if id in self._by_id:
            return self._by_id[id]
        project, _, sys_id = id.rpartition("/")
        if project not in self.projects:
            return None
        return self.projects[project].containers.get(sys_id)

    def add(self, container: Container) -> Container:
        """Put a container into its project."""
        container.project.containers[container.sys_id] = container
        self._by_id[container.id] = container
        container.list_after(self.lag)
        return container

    def show_all(self) -> None:
        """Show at once what would show only later."""
        with self.lock:
            for each in self._by_id.values():
                each.show()

    def discard(self, container: Container) -> None:
        """Remove a container for ever."""
        container.project.containers.pop(container.sys_id, None)
        self._by_id.pop(container.id, None)

    def seen(self, container: Container) -> dict[str, Attribute]:
        """Return all that a client sees of a container by now."""
        return {**self._system(container), **container.shown()}

    def _system(self, container: Container) -> dict[str, Attribute]:
        now = milliseconds()
        pinged = container.pinged or container.created
        active = container.pinged and now - container.pinged < self.active_for * 1000
        sizes = (_size(one) for one in container.attributes.values())
        found: dict[str, Attribute] = {
            "sys/id": Atom("string", container.sys_id),
            "sys/owner": Atom("string", self.owner),
            "sys/creation_time": Atom("datetime", container.created),
            "sys/modification_time": Atom(
                "datetime", container.modified or container.created
            ),
            "sys/ping_time": Atom("datetime", pinged),
            "sys/running_time": Atom("float", (pinged - container.created) / 1000),
            "sys/monitoring_time": Atom("int", (pinged - container.created) // 1000),
            "sys/size": Atom("float", float(sum(sizes))),
            "sys/trashed": Atom("bool", container.trashed),
            "sys/state": Atom("experimentState", "running" if active else "idle"),
        }
        if container.custom_id is not None:
            found["sys/custom_run_id"] = Atom("string", container.custom_id)
        if container.model_id is not None:
            found["sys/model_id"] = Atom("string", container.model_id)
        return found


def free_key(name: str, taken: Set[str]) -> str:
    """Return the key of a new project, which is like its name."""
    letters = "".join(c for c in name.upper() if c.isascii() and c.isalnum())
    stem = letters[:10] or "P"
    numbered = (f"{stem}{number}" for number in range(2, len(taken) + 3))
    return next(key for key in (stem, *numbered) if key not in taken)


def create(
    state: State,
    project: Project,
    kind: str,
    sys_id: str,
    attributes: Mapping[str, Attribute] | None = None,
    **facts: Any,
) -> Container:
    """Put a new container into a project, with what the server itself says of it."""
    container = Container(project, kind, sys_id, **facts)
    given: dict[str, Attribute] = {"sys/tags": StringSet()}
    if kind == RUN:
        given |= {"sys/group_tags": StringSet(), "sys/failed": Atom("bool", False)}
        if state.names_runs:
            given["sys/name"] = Atom("string", container.custom_id or sys_id)
    if kind == MODEL_VERSION:
        given["sys/stage"] = Atom("string", "none")
    for path, attribute in {**given, **(attributes or {})}.items():
        container.put(path, attribute)
    return state.add(container)


def _size(attribute: Attribute) -> int:
    if isinstance(attribute, Series):
        return 8 * len(attribute)
    return int(attribute.properties().get("size") or 0)


def _parents(path: str) -> list[str]:
    words = path.split("/")
    return ["/".join(words[:count]) for count in range(1, len(words))]


def _frozen(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {path: frozen(one) for path, one in attributes.items()}
