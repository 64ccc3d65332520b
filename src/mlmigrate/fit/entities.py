"""Entities as a sink can hold them: by the width of each column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlmigrate import entities
from mlmigrate.contract import Capabilities
from mlmigrate.fit.fitting import Fitting
from mlmigrate.model import Item, Loss, Row

_DISABLED = "DISABLED"


def fitted_entity(item: Item, sink: Capabilities) -> tuple[Item, tuple[Loss, ...]]:
    """Return an entity, and what became of it: it has no tags to carry that in.

    Where what stands at the sink acts, a webhook is disabled: MLflow would call its
    address for whatever happens to the copy.
    """
    fitting = Fitting(item, sink)
    rows = tuple(_fitted(row, fitting) for row in item.rows)
    losses = tuple(Loss(item.ref, what, carried=False) for what in fitting.losses)
    return replace(item, rows=rows), losses


def _fitted(row: Row, fitting: Fitting) -> Row:
    changed: dict[str, Any] = {}
    for column, value in entities.values(row).items():
        if isinstance(value, str):
            kind = f"{row.table}.{column}"
            fits = fitting.text(kind, value, f"{row.table} {column}")
            if fits != value:
                changed[column] = fits
    if fitting.sink.acts and row.table == "webhooks":
        changed["status"] = _DISABLED
    return entities.changed(row, **changed) if changed else row
