"""W&B's client: imported when a store is opened, and what it raises translated."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError, MlmigrateError, StoreError, translated
from mlmigrate.stores.wandb_cloud import surroundings

_PAGE = 100


class Client:
    """W&B's SDK and its public API, for one open store."""

    def __init__(self, *, retries: int, timeout: float) -> None:
        """Connect to the server that ``WANDB_BASE_URL`` or ``wandb login`` say.

        Raises:
            StoreError: wandb is not installed, nobody is logged in, or the server
                cannot be reached.
        """
        surroundings.hold(retries)
        self._timeout = timeout
        self._local = threading.local()
        self._open = True
        #: The client began a run in vain, and holds its id as long as it lives.
        self.stuck = False
        try:
            self.sdk: Any = import_module("wandb")
        except ImportError as error:
            self.close()
            raise StoreError(
                f"W&B's client cannot be imported: {error};"
                " pip install 'mlmigrate[wandb]'"
            ) from error
        with translated(self._refusal):
            self.api  # noqa: B018  connects

    def _refusal(self, error: Exception) -> StoreError:
        self.close()
        return StoreError(
            f"W&B does not let us in: {short(error)}. Set WANDB_API_KEY or run"
            " `wandb login`; WANDB_BASE_URL names a server of your own"
        )

    @property
    def api(self) -> Any:
        """The public API: one for each thread, as it caches what it read."""
        found = getattr(self._local, "api", None)
        if found is None:
            self._local.api = found = self.sdk.Api(timeout=self._timeout)
        return found

    def run(self, entity: str, project: str, id: str) -> Any:
        """Read a run anew, with all that its own query gives.

        Raises:
            ItemError: it is not there, or cannot be read.
        """
        with asking(f"run {entity}/{project}/{id}"):
            self.api.flush()
            return self.api.run(f"{entity}/{project}/{id}")

    def present(self, entity: str, project: str, ids: Collection[str]) -> set[str]:
        """Return which runs of a project are there; none where there is no project.

        Raises:
            ItemError: that cannot be told.
        """
        path = f"{entity}/{project}"
        with asking(f"the runs of {path}"):
            self.api.flush()
            wanted = {"name": {"$in": list(ids)}}
            found = self.api.runs(path, filters=wanted, per_page=_PAGE)
            try:
                # Not every server heeds the filter.
                return {run.id for run in found if run.id in ids}
            except ValueError as error:
                if "Could not find project" in str(error):
                    return set()
                raise

    def runs(self, entity: str, project: str) -> Iterator[Any] | None:
        """Yield all runs of a project, oldest first; None where there is no project.

        Raises:
            StoreError: they cannot be listed.
        """
        self.api.flush()
        found = self.api.runs(f"{entity}/{project}", per_page=_PAGE, lazy=False)
        with listing(f"the runs of {entity}/{project}"):
            try:
                first = next(found, None)
            except ValueError as error:
                if "Could not find project" in str(error):
                    return None
                raise
        return self._listed(found, first, f"the runs of {entity}/{project}")

    def _listed(self, found: Any, run: Any, what: str) -> Iterator[Any]:
        while run is not None:
            yield run
            # The paginator keeps all that it gave.
            found.objects[found.index] = None
            with listing(what):
                run = next(found, None)

    def projects(self, entity: str) -> list[str]:
        """Return the names of an entity's projects.

        Raises:
            StoreError: they cannot be listed.
        """
        with listing(f"the projects of {entity}"):
            self.api.flush()
            found = self.api.projects(entity, per_page=_PAGE)
            return [str(project.name) for project in found]

    def close(self) -> None:
        """Leave the environment as it was. May be called twice."""
        if self._open:
            self._open = False
            if self.stuck and self.sdk.run is None:
                self.sdk.teardown()  # no run of the user's own is under way
            surroundings.release()


def asking(what: str) -> AbstractContextManager[None]:
    """Translate what the client raises about one item into an `ItemError`; an `OSError`
    passes.
    """
    return translated(
        lambda error: ItemError(f"{what}: W&B says: {short(error)}"),
        passing=(MlmigrateError, OSError),
    )


def listing(what: str) -> AbstractContextManager[None]:
    """Translate what the client raises about all of a store into a `StoreError`."""
    return translated(
        lambda error: StoreError(f"{what} cannot be listed: W&B says: {short(error)}")
    )
