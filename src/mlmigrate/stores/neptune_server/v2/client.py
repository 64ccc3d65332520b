"""A project at a Neptune server, through the client's own way to it.

Not by `neptune.init_run`, which sends in threads of its own and only logs what the
server refused, but by what it and ``neptune sync`` are built on: `HostedNeptuneBackend`
answers each request with the errors in it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError, StoreError, StoreNotFound, translated
from mlmigrate.neptune_runs.attributes import ContainerKind
from mlmigrate.neptune_runs.points import LARGEST_STEP
from mlmigrate.stores.neptune_server import silence
from mlmigrate.stores.neptune_server.access import TOKEN, Place, check_access
from mlmigrate.stores.neptune_server.operations import Operation
from mlmigrate.stores.neptune_server.server import Entry, Fetched
from mlmigrate.stores.neptune_server.v2.operations import of_client

T = TypeVar("T")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: Points and texts of one page; the client takes as many.
_PAGE = 1000
#: Runs of one page of a listing.
_ENTRIES = 500
#: Operations of one request, as the client has it.
_OPERATIONS = 1000
_API: Mapping[ContainerKind, str] = {
    "run": "RUN",
    "model": "MODEL",
    "model_version": "MODEL_VERSION",
}


def asking(what: str) -> AbstractContextManager[None]:
    """Turn what Neptune's client raises into an error that says so."""
    return translated(lambda error: ItemError(f"{what}: {told(error)}"))


def told(error: Exception) -> str:
    """Return in one line what an error of Neptune's client says, which is a page with
    a banner and colours.
    """
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines()]
    said = [line for line in lines if line and not line.startswith("----")]
    text = said[0].rstrip(".") if said else type(error).__name__
    cause, answer = getattr(error, "cause", None), getattr(error, "response", None)
    if isinstance(cause, Exception):
        text += f" ({short(cause)})"
    elif isinstance(answer, str) and answer not in text:
        text += f": {answer}"
    return short(ItemError(text))


class Client:
    """One project; see `mlmigrate.stores.neptune_server.server.Server`."""

    has_models = True
    only_grows = False
    lowest_step = -LARGEST_STEP

    def __init__(self, place: Place) -> None:
        """Reach the project.

        Raises:
            StoreError: no server can be reached by the token, or it refuses us.
            StoreNotFound: it has no such project.
        """
        check_access("neptune", "neptune")
        from neptune.core.components.operation_storage import OperationStorage
        from neptune.exceptions import ProjectNotFound
        from neptune.internal.backends.hosted_neptune_backend import (
            HostedNeptuneBackend,
        )
        from neptune.internal.container_type import ContainerType
        from neptune.internal.credentials import Credentials
        from neptune.internal.id_formats import QualifiedName

        self.place = place
        self._types = ContainerType
        with ExitStack() as opened, translated(_unreachable):
            silence.hold()
            opened.callback(silence.release)
            self._backend: Any = HostedNeptuneBackend(Credentials.from_token())
            opened.callback(self._backend.close)
            try:
                project = self._backend.get_project(QualifiedName(place.name))
            except ProjectNotFound:
                raise StoreNotFound(
                    f"{place}: the server has no such project, or shows it to others"
                    " only: make it there, or give another"
                ) from None
            # Its own attributes are asked for as those of a run are.
            self.teller: str = project.id
            # Files are named by whole paths: nothing is ever put there.
            folder = tempfile.TemporaryDirectory(prefix="mlmigrate-")
            opened.callback(folder.cleanup)
            self._storage = OperationStorage(Path(folder.name))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Release everything. May be called twice."""
        self._opened.close()

    # -- what is there ----------------------------------------------------------

    def entries(self, kind: ContainerKind, columns: Sequence[str]) -> Iterator[Entry]:
        """See `Server.entries`."""
        with translated(lambda error: StoreError(f"{self.place}: {told(error)}")):
            for entry in self._backend.search_leaderboard_entries(
                project_id=self.teller,
                types=[getattr(self._types, _API[kind])],
                columns=["sys/id", *columns],
                sort_by="sys/id",
                ascending=True,
                step_size=_ENTRIES,
                progress_bar=False,
            ):
                values = {
                    each.path: each.properties.get("value") for each in entry.attributes
                }
                name = values.get("sys/id") or entry.id
                yield Entry(entry.id, str(name), values)

    def fetch(
        self,
        id: str,
        kind: ContainerKind,
        *,
        temporary: str | None = None,
        series_too: bool = True,
    ) -> Fetched:
        """See `Server.fetch`."""
        from mlmigrate.stores.neptune_server.v2.fetching import fetch

        return fetch(self, id, kind, temporary=temporary, series_too=series_too)

    def attributes(self, uuid: str) -> list[Any]:
        """Return all attributes of a container, as the API has them.

        Raises:
            ItemError: they cannot be read.
        """
        api = self._backend.leaderboard_client.api

        def ask() -> Any:
            return api.getExperimentAttributes(experimentId=uuid).response().result

        with asking(f"attributes of {uuid}"):
            found: list[Any] = _patient(ask).attributes
        return found

    def points(self, uuid: str, path: str) -> tuple[list[float], list[int], list[Any]]:
        """Return the steps, the times in milliseconds and the values of a float series.

        Raises:
            ItemError: they cannot be read.
        """
        return self._pages(self._backend.get_float_series_values, uuid, path)

    def texts(self, uuid: str, path: str) -> tuple[list[float], list[int], list[Any]]:
        """Return the steps, the times in milliseconds and the texts of a series.

        Raises:
            ItemError: they cannot be read.
        """
        return self._pages(self._backend.get_string_series_values, uuid, path)

    def _pages(
        self, fetch: Callable[..., Any], uuid: str, path: str
    ) -> tuple[list[float], list[int], list[Any]]:
        steps: list[float] = []
        times: list[int] = []
        values: list[Any] = []
        with asking(f"series {path}"):
            while True:
                page = fetch(
                    container_id=uuid,
                    container_type=self._types.RUN,
                    path=path.split("/"),
                    offset=len(steps),
                    limit=_PAGE,
                )
                steps += [point.step for point in page.values]
                times += [point.timestampMillis for point in page.values]
                values += [point.value for point in page.values]
                if not page.values or len(steps) >= page.totalItemCount:
                    return steps, times, values

    def images(self, uuid: str, path: str) -> int:
        """Return how many files a series has.

        Raises:
            ItemError: it cannot be read.
        """
        with asking(f"series {path}"):
            found = self._backend.get_image_series_values(
                uuid, self._types.RUN, path.split("/"), 0, 1
            )
        return int(found.totalItemCount)

    def tracked(self, hash: str) -> list[dict[str, Any]]:
        """Return the files that an artifact tracks.

        Raises:
            ItemError: they cannot be listed.
        """
        with asking(f"artifact {hash}"):
            found = self._backend.list_artifact_files(self.teller, hash)
            return [file.to_dto() for file in found]

    def file(self, uuid: str, path: str, *, temporary: str | None) -> BinaryIO:
        """Return the bytes of a file: it is downloaded to an unnamed temporary file.

        Raises:
            ItemError: it cannot be downloaded.
        """
        return self._downloaded(self._backend.download_file, uuid, path, temporary)

    def file_set(self, uuid: str, path: str, *, temporary: str | None) -> BinaryIO:
        """Return the ZIP archive of a set of files, likewise.

        Raises:
            ItemError: it cannot be downloaded.
        """
        return self._downloaded(self._backend.download_file_set, uuid, path, temporary)

    def image(
        self, uuid: str, path: str, index: int, *, temporary: str | None
    ) -> tuple[str, BinaryIO]:
        """Return the ending and the bytes of a file in a series.

        Raises:
            ItemError: it cannot be downloaded.
        """
        with tempfile.TemporaryDirectory(prefix="mlmigrate-", dir=temporary) as folder:
            with asking(f"file {index} of {path}"):
                self._backend.download_file_series_by_index(
                    uuid, self._types.RUN, path.split("/"), index, folder, False
                )
            (found,) = Path(folder).iterdir()
            return found.suffix, found.open("rb")

    def _downloaded(
        self, download: Callable[..., Any], uuid: str, path: str, temporary: str | None
    ) -> BinaryIO:
        with tempfile.TemporaryDirectory(prefix="mlmigrate-", dir=temporary) as folder:
            place = Path(folder) / "file"
            with asking(f"file {path}"):
                kind, parts = self._types.RUN, path.split("/")
                download(uuid, kind, parts, str(place), progress_bar=False)
            # The file stays readable after its folder is gone, until it is closed.
            return place.open("rb")

    # -- what is made -----------------------------------------------------------

    def create_run(self, custom_id: str, created: int | None) -> str:
        """See `Server.create_run`; when it was made the server says itself."""
        with asking(f"run {custom_id}"):
            found = self._backend.create_run(self.teller, custom_run_id=custom_id)
        return str(found.id)

    def create_model(self, key: str) -> str:
        """See `Server.create_model`."""
        with asking(f"model {key}"):
            return str(self._backend.create_model(self.teller, key).id)

    def create_version(self, model: str) -> str:
        """See `Server.create_version`."""
        with asking(f"a version of model {model}"):
            return str(self._backend.create_model_version(self.teller, model).id)

    def send(self, id: str, operations: Sequence[Operation]) -> list[str]:
        """See `Server.send`."""
        refused: list[str] = []
        left = [of_client(operation) for operation in operations]
        while left:
            with asking(f"run {id}"):
                done, errors = self._backend.execute_operations(
                    container_id=id,
                    container_type=self._types.RUN,
                    operations=left[:_OPERATIONS],
                    operation_storage=self._storage,
                )
            refused += [told(error) for error in errors]
            # It may take fewer: what belongs to one attribute goes in turn.
            left = left[max(done, 1) :]
        return refused


def _patient(ask: Callable[[], T]) -> T:
    """Ask as the client does: again where the server does not answer."""
    from neptune.common.backends.utils import with_api_exceptions_handler

    patient: Any = with_api_exceptions_handler
    found: T = patient(ask)()
    return found


def _unreachable(error: Exception) -> StoreError:
    return StoreError(f"the Neptune server that {TOKEN} leads to: {told(error)}")
