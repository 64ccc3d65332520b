"""The kinds of items that travel as rows of MLflow's tables, described as data.

An evaluation dataset, a scorer, a webhook: MLflow keeps each in one row of a table and
in rows of others that name it. What is described here is read, copied, merged,
archived and verified by the same code; a further table costs a line. The tables are
those of ``mlflow/store/tracking/dbmodels/models.py`` and
``mlflow/store/model_registry/dbmodels/models.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlmigrate.model import Entity, Kind, Ref, Row

#: The columns of a row that say something, without those that hold NULL.
Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of which an entity has one row, or several."""

    name: str
    owner: str
    """The column that holds the entity's id."""
    key: tuple[str, ...] = ()
    """The columns that tell a row from the entity's others; none where it has one."""
    minted: str | None = None
    """A column with an id that MLflow draws: it is kept, and says nothing."""
    refs: Mapping[str, Kind] = field(default_factory=dict)
    """Columns that name other items."""
    updated: str | None = None
    """The column with the time of the last change, in milliseconds."""
    always: Mapping[str, str] = field(default_factory=dict)
    """What columns hold in rows that are the entity's; others are not carried."""
    derived: tuple[str, ...] = ()
    """Columns that say nothing but what others do."""
    hidden: Mapping[str, str] = field(default_factory=dict)
    """What columns hold in rows that MLflow has deleted, and shows to nobody."""
    given: Mapping[str, str] = field(default_factory=dict)
    """What MLflow by itself writes into columns: they say nothing then."""
    numbered: bool = False
    """Rows are versions, never changed: of two with one number, the later arrival gets
    the next one that is free."""
    secret: tuple[str, ...] = ()
    """Columns that are never read: they hold secrets."""


@dataclass(frozen=True, slots=True)
class Description:
    """A kind of entity: its own table first, then those of its parts."""

    kind: Kind
    names: tuple[str, ...]
    """The columns of the entity's own row of which, in its experiment or in the store,
    no two have the same. The first is its name."""
    tables: tuple[Table, ...]
    of_experiment: bool = False
    """It belongs to the experiment that its column ``experiment_id`` names."""
    houses: bool = False
    """Everything else stands in it: it is copied first, whatever else is wanted."""

    @property
    def own(self) -> Table:
        """The table that has one row for each entity."""
        return self.tables[0]


ENTITIES: dict[Kind, Description] = {
    each.kind: each
    for each in (
        Description(
            "workspace",
            ("name",),
            (
                Table(
                    "workspaces",
                    "name",
                    given={"description": "Default workspace for legacy resources"},
                ),
            ),
            houses=True,
        ),
        Description(
            "evaluation_dataset",
            ("name",),
            (
                Table(
                    "evaluation_datasets",
                    "dataset_id",
                    updated="last_update_time",
                ),
                Table("evaluation_dataset_tags", "dataset_id", ("key",)),
                Table(
                    "evaluation_dataset_records",
                    "dataset_id",
                    ("input_hash",),
                    minted="dataset_record_id",
                    updated="last_update_time",
                ),
                Table(
                    "entity_associations",
                    "source_id",
                    ("destination_id",),
                    minted="association_id",
                    refs={"destination_id": "experiment"},
                    always={
                        "source_type": "evaluation_dataset",
                        "destination_type": "experiment",
                    },
                ),
            ),
        ),
        Description(
            "scorer",
            ("scorer_name",),
            (
                Table("scorers", "scorer_id"),
                Table(
                    "scorer_versions", "scorer_id", ("scorer_version",), numbered=True
                ),
                Table(
                    "online_scoring_configs",
                    "scorer_id",
                    minted="online_scoring_config_id",
                    refs={"experiment_id": "experiment"},
                ),
            ),
            of_experiment=True,
        ),
        Description(
            "label_schema",
            ("name",),
            (Table("label_schemas", "schema_id", updated="last_update_time"),),
            of_experiment=True,
        ),
        Description(
            "review_queue",
            ("name_key",),  # MLflow's own: the name in lower case
            (
                Table("review_queues", "queue_id", updated="last_update_time_ms"),
                Table("review_queue_users", "queue_id", ("user_id",)),
                Table(
                    "review_queue_label_schemas",
                    "queue_id",
                    ("schema_id",),
                    refs={"schema_id": "label_schema"},
                ),
                Table(
                    "review_queue_items",
                    "queue_id",
                    ("item_id",),
                    refs={"item_id": "trace"},
                    updated="last_update_time_ms",
                ),
            ),
            of_experiment=True,
        ),
        Description(
            "issue",
            ("name", "description"),
            (
                Table(
                    "issues",
                    "issue_id",
                    refs={"source_run_id": "run"},
                    updated="last_updated_timestamp",
                ),
                Table("issue_categories", "issue_id", ("category_hash",)),
            ),
            of_experiment=True,
        ),
        Description(
            "webhook",
            ("name", "url"),
            (
                Table(
                    "webhooks",
                    "webhook_id",
                    updated="last_updated_timestamp",
                    secret=("secret",),
                ),
                Table("webhook_events", "webhook_id", ("entity", "action")),
            ),
        ),
        Description(
            "mcp_server",
            ("name",),
            (
                Table("mcp_servers", "name", updated="last_updated_at"),
                Table("mcp_server_tags", "name", ("key",)),
                Table(
                    "mcp_server_versions",
                    "name",
                    ("version",),
                    updated="last_updated_at",
                    derived=(
                        *("version_major", "version_minor", "version_patch"),
                        "version_prerelease_sort_key",
                    ),
                    hidden={"status": "deleted"},
                ),
                Table("mcp_server_version_tags", "name", ("version", "key")),
                Table("mcp_server_aliases", "name", ("alias",)),
                Table(
                    "mcp_access_endpoints",
                    "server_name",
                    ("id",),
                    updated="last_updated_at",
                ),
            ),
        ),
    )
}

#: The kinds that house the others, and these.
HOUSES: tuple[Kind, ...] = tuple(each.kind for each in ENTITIES.values() if each.houses)
HOUSED: tuple[Kind, ...] = tuple(kind for kind in ENTITIES if kind not in HOUSES)

_TABLES: dict[tuple[Kind, str], Table] = {
    (each.kind, table.name): table
    for each in ENTITIES.values()
    for table in each.tables
}


def table_of(kind: Kind, row: Row) -> Table:
    """Return how the table is described in which a row of an entity stands."""
    return _TABLES[kind, row.table]


def name(kind: Kind, id: str, said: Values) -> str:
    """Return the name of an entity whose own row says *said*: what tells it from others
    in its place. Where the row does not say it, its id does.
    """
    columns = ENTITIES[kind].names
    return ": ".join(str(said[each]) for each in columns if each in said) or id


def address(kind: Kind, header: Entity) -> Ref:
    """Return the ref by which `Sink.copies` finds an entity that has another id, but
    stands in its place: under its name, in its experiment.
    """
    home = header.experiment.id if header.experiment else ""
    return Ref(kind, f"{home}/{header.name}")


def row(table: str, values: Values) -> Row:
    """Make a row of those columns that hold something."""
    said = {name: value for name, value in values.items() if value is not None}
    return Row(table, json.dumps(said, sort_keys=True, separators=(",", ":")))


def values(row: Row) -> dict[str, Any]:
    """Return the columns of a row."""
    found: dict[str, Any] = json.loads(row.values)
    return found


def changed(row_: Row, **columns: Any) -> Row:
    """Return a row with other values in some columns."""
    return row(row_.table, {**values(row_), **columns})


def key(
    table: Table, said: Values, columns: Mapping[str, frozenset[str]] | None = None
) -> tuple[Any, ...]:
    """Return what tells a row among those of its entity; of a sink that gives the keys
    itself (`mlmigrate.contract.Capabilities.columns`), all that it holds of the row.
    """
    kept = None if columns is None else columns.get(table.name)
    if kept is None or kept.issuperset(table.key):
        return tuple(said.get(name) for name in table.key)
    return tuple(sorted((name, said[name]) for name in said.keys() & kept))


def label(table: Table, said: Values) -> str:
    """Name a row for people."""
    return " ".join(map(str, (table.name, *key(table, said))))


def without_given(table: Table, columns: Values) -> dict[str, Any]:
    """Return the columns of a row without what MLflow wrote there by itself."""
    return {
        name: value
        for name, value in columns.items()
        if name not in table.given or value != table.given[name]
    }


def by_place(kind: Kind, rows: Iterable[Row]) -> dict[tuple[str, Any], Row]:
    """Return rows of an entity by their tables and keys."""
    return {(row.table, key(table_of(kind, row), values(row))): row for row in rows}


def says(table: Table, said: Values) -> dict[str, Any]:
    """Return what a row says, in a form to compare: JSON by what it holds, not by how
    it is written, nor its numbers; without the id that was drawn for it.
    """
    return {name: _plain(value) for name, value in said.items() if name != table.minted}


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            # As text: there NaN equals itself, and true is not 1.
            return json.dumps(json.loads(value, parse_float=_number), sort_keys=True)
        except (ValueError, RecursionError):
            return value
    return _number(value) if isinstance(value, float) else value


def _number(written: str | float) -> int | float:
    """Return a number as it counts: a server may write 1.0 as 1, and 1 as 1.0."""
    number = float(written)
    return int(number) if number.is_integer() else number
