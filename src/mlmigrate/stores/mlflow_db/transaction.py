"""A transaction that is being filled, and the order in which its rows go in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from mlmigrate.stores.mlflow_db import bulk
from mlmigrate.stores.mlflow_db.workspaces import is_home
from mlmigrate.workspaces import COLUMN, DEFAULT

#: Each after what it refers to.
_ORDER = (
    "runs",
    "params",
    "tags",
    "latest_metrics",
    "logged_models",
    "logged_model_params",
    "logged_model_tags",
    "logged_model_metrics",
    "datasets",
    "inputs",
    "input_tags",
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "span_metrics",
    "trace_metrics",
    "assessments",
    "entity_associations",
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction, the tables as reflected, and rows that wait: those of all
    items go in together, one statement a table.
    """

    connection: sa.Connection
    tables: Mapping[str, sa.Table]
    workspace: str = DEFAULT
    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in _ORDER}
    )
    metrics: list[bulk.RunMetric] = field(default_factory=list)
    #: (experiment id, name, digest) -> uuid of the datasets met so far.
    datasets: dict[tuple[int, str, str], str] = field(default_factory=dict)

    def home(self, table: str) -> dict[str, str]:
        """Return what says of a row of a table in which workspace it stands; nothing
        in a database that has none.
        """
        has = COLUMN in self.tables[table].c
        return {COLUMN: self.workspace} if has else {}

    def is_home(self, table: str) -> sa.ColumnElement[bool]:
        """Tell the rows of a table that stand there."""
        return is_home(self.tables[table], self.workspace)

    def add(self, table: str, row: dict[str, Any]) -> None:
        """Let a row wait for `flush`."""
        self.rows[table].append(row)

    def flush(self) -> None:
        """Insert what waits."""
        for name in _ORDER:
            if self.rows[name]:
                self.connection.execute(sa.insert(self.tables[name]), self.rows[name])
        bulk.insert(self.connection, self.metrics)
