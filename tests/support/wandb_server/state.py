"""What the server keeps, all of it in memory: projects, runs, artifacts, sweeps."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: An entity and a project.
Place = tuple[str, str]

#: The registries that every organization has from the start.
FIRST_REGISTRIES = ("wandb-registry-model", "wandb-registry-dataset")


def now() -> str:
    """Return the time as the service writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def opaque(*words: object) -> str:
    """Return an id such as the service gives out."""
    return base64.b64encode(":".join(map(str, words)).encode()).decode()


class Lines:
    """A file of lines which arrive in pieces, each for a place of its own."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._lines = dict(enumerate(lines))
        #: The number after the last line's.
        self.count = len(self._lines)
        self._parsed: list[dict[str, Any]] | None = None

    def write(self, offset: int, lines: Iterable[str]) -> None:
        """Put *lines* at *offset*, over what may be there."""
        for number, line in enumerate(lines, offset):
            self._lines[number] = line
            self.count = max(self.count, number + 1)
        self._parsed = None

    def hide(self, numbers: Iterable[int]) -> dict[int, str]:
        """Take lines out that still count, as a server may that is behind."""
        hidden = {number: self._lines.pop(number) for number in numbers}
        self._parsed = None
        return hidden

    def show(self, hidden: dict[int, str]) -> None:
        """Put back what was hidden."""
        self._lines.update(hidden)
        self._parsed = None

    @property
    def all(self) -> list[str]:
        """The lines there are, in order."""
        return [self._lines[number] for number in sorted(self._lines)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines' JSON, which is parsed once as clients read page by page."""
        if self._parsed is None:
            self._parsed = [json.loads(line) for line in self.all]
        return self._parsed


@dataclass
class StoredFile:
    """A file of a run."""

    data: bytes
    mimetype: str = "application/octet-stream"
    updated: str = field(default_factory=now)

    @property
    def md5(self) -> str:
        """The checksum in base64, as W&B writes it."""
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()


@dataclass
class Run:
    """A run, with what was last said of it."""

    entity: str
    project: str
    id: str
    display_name: str
    number: int
    state: str = "running"
    #: As it travels: each value wrapped in `{"value": ...}`.
    raw_config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history_lines: Lines = field(default_factory=Lines)
    event_lines: Lines = field(default_factory=Lines)
    log_lines: Lines = field(default_factory=Lines)
    files: dict[str, StoredFile] = field(default_factory=dict)
    #: Parquet files of the first rows, as the service makes them some time after.
    exports: list[bytes] = field(default_factory=list)
    #: How many rows these hold.
    exported: int = 0
    notes: str | None = None
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    host: str | None = None
    commit: str | None = None
    program: str | None = None
    exit_code: int | None = None
    #: Whether a client has said that no more will come.
    complete: bool = False
    #: File names that a client has said to be uploaded.
    uploaded: list[str] = field(default_factory=list)
    created: str = field(default_factory=now)
    heartbeat: str = field(default_factory=now)
    #: Ids of artifacts, in the order of use.
    used: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    @property
    def storage_id(self) -> str:
        """The id by which mutations refer to it."""
        return opaque("Run", "v1", self.id, self.project, self.entity)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration's plain values, without W&B's own."""
        return {
            key: value["value"] if isinstance(value, dict) else value
            for key, value in self.raw_config.items()
            if key != "_wandb"
        }

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows."""
        return self.history_lines.rows

    @property
    def events(self) -> list[dict[str, Any]]:
        """The system metrics."""
        return self.event_lines.rows

    @property
    def log(self) -> list[str]:
        """The console's lines, as they were sent."""
        return self.log_lines.all


@dataclass
class Artifact:
    """One version of an artifact, or one that still lacks its commit."""

    id: str
    entity: str
    project: str
    collection: str
    type: str
    digest: str
    digest_algorithm: str = "MANIFEST_MD5"
    state: str = "PENDING"
    version: int | None = None
    description: str | None = None
    metadata: str | None = None
    #: Aliases to give when it is committed.
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    run: tuple[str, str, str] | None = None
    client_id: str | None = None
    history_step: int | None = None
    ttl_seconds: int | None = None
    manifest_id: str = ""
    #: The bytes of the current manifest.
    manifest: bytes = b""
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries by path."""
        return dict(json.loads(self.manifest)["contents"]) if self.manifest else {}

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(entry.get("size") or 0 for entry in self.entries.values())


@dataclass
class Membership:
    """A version's place in a collection."""

    artifact: str
    version: int
    aliases: list[str] = field(default_factory=list)
    created: str = field(default_factory=now)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class Collection:
    """Versions under one name: a sequence of uploads, or a portfolio of links."""

    id: str
    kind: str
    entity: str
    project: str
    name: str
    type: str
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    members: list[Membership] = field(default_factory=list)
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)

    def member(self, word: str) -> Membership | None:
        """Find a version by an alias, or by `v` and its number."""
        for one in self.members:
            if word in one.aliases or word == f"v{one.version}":
                return one
        return None

    def add(self, artifact: str, aliases: Iterable[str]) -> Membership:
        """Take a version in, or give one that is here more aliases."""
        found = next((m for m in self.members if m.artifact == artifact), None)
        wanted = list(aliases)
        if found is None:
            version = max((m.version for m in self.members), default=-1) + 1
            found = Membership(artifact, version)
            self.members.append(found)
            wanted.append("latest")
        for alias in wanted:
            self.name_it(found, alias)
        self.updated = now()
        return found

    def name_it(self, member: Membership, alias: str) -> None:
        """Give an alias, which only one version of a collection can have."""
        for other in self.members:
            if alias in other.aliases:
                other.aliases.remove(alias)
        member.aliases.append(alias)


@dataclass
class Project:
    """A project; a registry is one too."""

    entity: str
    name: str
    number: int
    description: str | None = None
    types: list[str] = field(default_factory=list)
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)

    @property
    def id(self) -> str:
        """The id by which mutations refer to it."""
        return opaque("Project", "v1", self.name, self.entity)


@dataclass
class Sweep:
    """A sweep, which is only kept."""

    entity: str
    project: str
    name: str
    config: str = "{}"
    display_name: str | None = None
    description: str | None = None
    state: str = "RUNNING"
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)

    @property
    def id(self) -> str:
        """The id by which mutations refer to it."""
        return opaque("Sweep", "v1", self.name, self.project, self.entity)


@dataclass
class State:
    """Everything; hold `lock` to see it at rest."""

    user: str = "tester"
    #: The entity that the API key's owner writes to by default.
    entity: str = "tester"
    organization: str = "acme"
    org_entity: str = "acme-org"
    runs: dict[tuple[str, str, str], Run] = field(default_factory=dict)
    deleted_runs: set[tuple[str, str, str]] = field(default_factory=set)
    projects: dict[Place, Project] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    collections: dict[tuple[str, str, str], Collection] = field(default_factory=dict)
    sweeps: dict[tuple[str, str, str], Sweep] = field(default_factory=dict)
    #: Contents of artifacts, by their digest in hexadecimal.
    blobs: dict[str, bytes] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        for name in FIRST_REGISTRIES:
            self.project(self.org_entity, name).types.append(name.rpartition("-")[2])

    def project(self, entity: str, name: str) -> Project:
        """Return a project, made if there is none."""
        place = (entity, name)
        if place not in self.projects:
            self.projects[place] = Project(entity, name, len(self.projects) + 1)
        return self.projects[place]

    def run_by_storage_id(self, id: str | None) -> Run | None:
        """Find a run by the id that mutations use."""
        return next((run for run in self.runs.values() if run.storage_id == id), None)

    def runs_of(self, entity: str, project: str) -> list[Run]:
        """Return a project's runs, oldest first."""
        return [
            r for r in self.runs.values() if (r.entity, r.project) == (entity, project)
        ]

    def collection(
        self, entity: str, project: str, name: str, *, kind: str, type: str
    ) -> Collection:
        """Return a collection, made if there is none."""
        key = (entity, project, name)
        if key not in self.collections:
            id = opaque("ArtifactCollection", uuid.uuid4().hex)
            self.collections[key] = Collection(id, kind, *key, type)
        return self.collections[key]

    def links(
        self, entity: str, project: str, name: str
    ) -> list[tuple[Artifact, Membership]]:
        """Return the versions in a collection, with their places in it."""
        found = self.collections.get((entity, project, name))
        if found is None:
            return []
        return [(self.artifacts[m.artifact], m) for m in found.members]
