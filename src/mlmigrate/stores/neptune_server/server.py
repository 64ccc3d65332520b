"""What is asked of a Neptune server, whatever its API: what `v2` and `v3` answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, Protocol, TypeAlias

from mlmigrate.errors import ItemError
from mlmigrate.neptune_runs.attributes import Container, ContainerKind
from mlmigrate.stores.neptune_server.access import Place
from mlmigrate.stores.neptune_server.operations import Operation

#: Opens the bytes of an artifact.
Opener: TypeAlias = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Entry:
    """A run, a model or a version, as a listing shows it."""

    id: str  # what the server is asked for it by
    name: str  # what it is called there
    values: Mapping[str, Any]

    def text(self, path: str) -> str:
        """Return the value of a string attribute, '' where there is none."""
        found = self.values.get(path)
        return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A run, and how the files of its attributes are opened, by their names.

    The artifacts of the container are named by their attributes, as they are, and have
    the sizes of what is stored.
    """

    container: Container
    id: str
    files: Mapping[str, Opener] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    """Of all attributes, also of those that were not read."""

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ItemError: there is none, or it cannot be downloaded.
        """
        if path not in self.files:
            raise ItemError(f"{path} is not there")
        with self.files[path]() as data:
            return data.read()


def made(text: str) -> tuple[int, Opener]:
    """Return the size of a text in bytes, and what opens it as a file."""
    data = text.encode()
    return len(data), lambda: BytesIO(data)


class Server(Protocol):
    """One project at a server."""

    place: Place

    @property
    def teller(self) -> str:
        """The id of what tells of the project's experiments: it is read and sent to as
        a run is, and there is no need to make it.
        """

    @property
    def has_models(self) -> bool:
        """It has models and versions of them. Otherwise the *teller* tells of them."""

    @property
    def only_grows(self) -> bool:
        """No attribute can be deleted, and a series takes points behind its last only.
        Otherwise both can be deleted, and made anew.
        """

    @property
    def lowest_step(self) -> int:
        """The least step that a series takes."""

    def entries(self, kind: ContainerKind, columns: Sequence[str]) -> Iterator[Entry]:
        """List what is in the project, also what is in its trash.

        Args:
            kind: what is listed.
            columns: the paths of the attributes that are told of each.

        Raises:
            StoreError: it cannot be listed.
        """

    def fetch(
        self,
        id: str,
        kind: ContainerKind,
        *,
        temporary: str | None = None,
        series_too: bool = True,
    ) -> Fetched:
        """Read a run, a model or a version.

        Args:
            id: what the server knows it by.
            kind: what it is.
            temporary: a folder for what is downloaded.
            series_too: whether its series are read, too.

        Raises:
            ItemError: it cannot be read.
        """

    def create_run(self, custom_id: str, created: int | None) -> str:
        """Make a run, or find the one that has this id; return what it is asked for by.

        Args:
            custom_id: what we call it.
            created: when it began, in milliseconds, for a server that asks.

        Raises:
            ItemError: the server refuses it.
        """

    def create_model(self, key: str) -> str:
        """Make a model, where the server has models; return its id.

        Raises:
            ItemError: the server refuses it, or there is one with this key.
        """

    def create_version(self, model: str) -> str:
        """Make a version of a model, where the server has models; return its id.

        Raises:
            ItemError: the server refuses it.
        """

    def send(self, id: str, operations: Sequence[Operation]) -> list[str]:
        """Do operations, in turn; return what the server refused of them.

        It may refuse what it has: where an answer was lost it is sent again. Only what
        is read back tells.

        Raises:
            ItemError: the server does not answer.
        """

    def close(self) -> None:
        """Release everything. May be called twice."""
