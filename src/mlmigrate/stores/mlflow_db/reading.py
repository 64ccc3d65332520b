"""Source ``mlflow_db``: any MLflow database since 2019, by the columns that are there.

Nothing is upgraded: tables and columns that a revision lacks read as absent. Every
table that holds rows and is not carried over is named in the findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import sqlalchemy as sa

from mlmigrate.artifacts import Place, Remote, open_file, parse_maps
from mlmigrate.contract import Glance, Selection
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError, StoreError, StoreNotFound
from mlmigrate.model import Failed, Finding, Item, Problem, Ref
from mlmigrate.stores.mlflow_db import (
    entities,
    experiments,
    leftovers,
    logged_models,
    registry,
    runs,
    snapshot,
    traces,
    workspaces,
)
from mlmigrate.stores.mlflow_db.places import Around, place
from mlmigrate.stores.mlflow_db.tables import IN, Tables
from mlmigrate.workspaces import DEFAULT

#: Items that are read at once: all their points are in memory together.
_AT_ONCE = 50
#: Traces are small; a dataset comes with all its records.
_AT_ONCE_OF = {"trace": 250, "evaluation_dataset": 1}
#: The kinds that no experiment has.
_HOMELESS = (
    *("experiment", "registered_model"),
    *(each.kind for each in ENTITIES.values() if not each.of_experiment),
)


class DbReader:
    """See `mlmigrate.contract.Source`."""

    # One connection holds one snapshot; a thread reads ahead while another writes.
    parallel: Literal["process", "thread"] = "thread"

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        path = snapshot.sqlite_path(location)
        self._path: Path | None = path
        self._engine, self._shared, self._cleanup = snapshot.open_readonly(
            options.get("snapshot") or location, options.get("temp-dir")
        )
        maps = parse_maps(options.get("map-artifacts") or ())
        try:
            self._connection: sa.Connection | None = self._engine.connect()
            self._set_up(
                str(path) if path else snapshot.redacted(location),
                Around(path.parent if path else None, tuple(maps)),
                options.get("workspace") or DEFAULT,
            )
            self._check_workspace()
        except BaseException:
            self._cleanup()
            raise

    @property
    def shared(self) -> str:
        """What another process gives as option ``snapshot`` to read the same state.

        It holds until this reader is closed.
        """
        return self._shared

    @classmethod
    def over(
        cls,
        engine: sa.Engine,
        location: str,
        workspace: str = DEFAULT,
        known: Mapping[str, sa.Table] | None = None,
    ) -> DbReader:
        """Read back a workspace by an engine that someone else opens and closes."""
        reader = cls.__new__(cls)
        reader._connection = None
        reader._path = None
        reader._shared = ""
        reader._engine = engine
        database = engine.url.database or ""
        is_file = engine.dialect.name == "sqlite"
        around = Around(Path(database).parent if is_file else None)
        reader._set_up(location, around, workspace, known)
        return reader

    def _set_up(
        self,
        location: str,
        around: Around,
        workspace: str,
        known: Mapping[str, sa.Table] | None = None,
    ) -> None:
        self.location = location
        self._around = around
        self._tables = Tables(
            self._engine, self._connection, location, workspace, known
        )
        self._place_of = lru_cache(maxsize=64)(self._find_place)

    def _check_workspace(self) -> None:
        wanted = self._tables.workspace
        if wanted == DEFAULT or wanted in (known := self.workspaces()):
            return
        named = ", ".join(known) or DEFAULT
        raise StoreNotFound(
            f"{self.location} has no workspace {wanted!r}; it has: {named}"
        )

    def workspaces(self) -> Sequence[str]:
        """See `mlmigrate.contract.Housing.workspaces`."""
        with self._tables.lock:
            return self._tables.workspaces

    def view(self, workspace: str) -> Mapping[str, object]:
        """See `mlmigrate.contract.Housing.view`."""
        return {"workspace": workspace, "snapshot": self._shared or None}

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        homes = selection.experiments
        if homes is None and selection.kind not in _HOMELESS and self._is_part:
            homes = frozenset(experiments.ids(self._tables))
        match selection.kind:
            case "experiment":
                found = experiments.ids(self._tables)
            case "run":
                found = runs.ids(self._tables, homes)
            case "logged_model":
                found = logged_models.ids(self._tables, homes)
            case "trace":
                found = traces.ids(self._tables, homes)
            case "registered_model":
                found = registry.names(self._tables)
            case _:
                found = entities.ids(self._tables, selection.kind, homes)
        yield from (Ref(selection.kind, id) for id in found)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        size = _AT_ONCE_OF.get(refs[0].kind, _AT_ONCE) if refs else 1
        for at in range(0, len(refs), size):
            yield from self._read_part(refs[at : at + size])

    def _read_part(self, refs: Sequence[Ref]) -> list[Item | Failed]:
        try:
            found = self._find(refs)
        except StoreError as error:
            snapshot.check_unchanged(self._shared)
            if not self._tables.is_file:
                raise  # a server that does not answer has no bad item
            if len(refs) == 1:
                return [Failed(refs[0], str(error))]
            # One damaged page of the file costs the items on it alone.
            return [item for ref in refs for item in self._read_part([ref])]
        snapshot.check_unchanged(self._shared)
        missing = f"{self.location} holds no such"
        return [found.get(ref) or Failed(ref, f"{missing} {ref.kind}") for ref in refs]

    def _find(self, refs: Sequence[Ref]) -> dict[Ref, Item]:
        found: dict[Ref, Item] = {}
        with self._tables.lock:
            ids = [ref.id for ref in refs if ref.kind == "run"]
            if ids:
                found.update(runs.read(self._tables, ids, self._around))
            ids = [ref.id for ref in refs if ref.kind == "logged_model"]
            if ids:
                # A copy that is read back has what the sink wrote.
                models = logged_models.read(
                    self._tables,
                    ids,
                    self._around,
                    zero_is_nan=self._connection is not None,
                )
                found.update(models)
            ids = [ref.id for ref in refs if ref.kind == "trace"]
            if ids:
                found.update(traces.read(self._tables, ids, self._around))
            for kind in ENTITIES:
                ids = [ref.id for ref in refs if ref.kind == kind]
                if ids:
                    found.update(entities.read(self._tables, kind, ids))
            for ref in refs:
                if ref.kind == "experiment":
                    found[ref] = experiments.read(self._tables, ref)
                elif ref.kind == "registered_model":
                    model = registry.read(self._tables, ref)
                    if model is not None:
                        found[ref] = model
        return found

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        for at in range(0, len(refs), IN):
            with self._tables.lock:
                ids = [ref.id for ref in refs[at : at + IN]]
                found = list(runs.glances(self._tables, ids))
            snapshot.check_unchanged(self._shared)
            yield from found

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        with self._tables.lock:
            if ref.kind == "trace":
                place = traces.place_of(self._tables, self._around, ref.id)
            else:
                place = self._place_of(ref)
        if place.folder is not None:
            return open_file(place.folder, path)
        if place.uri is not None:
            return Remote(place.uri).open(path)
        raise ItemError(f"{ref}: its artifacts are nowhere to be read")

    def _find_place(self, ref: Ref) -> Place:
        if ref.kind == "logged_model":
            spot = logged_models.spot(self._tables, ref.id)
        else:
            rows = runs.rows(self._tables, [ref.id])
            spot = runs.spot(rows[0]) if rows else None
        if spot is None:
            raise ItemError(f"{self.location} holds no {ref}")
        return place(self._around, spot, f"{self.location} {ref}")

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        with self._tables.lock:
            if self._connection is not None:
                snapshot.check_unchanged(self._shared)
            return [
                *self._shortage(),
                *workspaces.findings(self._tables),
                *leftovers.findings(self._tables),
            ]

    @cached_property
    def _is_part(self) -> bool:
        """Whether there are other workspaces than that which is read."""
        return bool({*self._tables.workspaces} - {self._tables.workspace})

    def _shortage(self) -> Iterator[Finding]:
        missing = snapshot.missing_bytes(self._path) if self._path else 0
        if missing:
            what = f"its file is cut: the last {missing} bytes are gone with their rows"
            yield Problem(self.location, what)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        if self._connection is not None:
            self._connection.close()
            self._engine.dispose()
            self._cleanup()
            self._connection = None
