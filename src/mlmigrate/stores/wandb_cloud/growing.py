"""A copy that is there already: what it holds, and the rows that it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.metrics import missing
from mlmigrate.model import Item, MetricHistory
from mlmigrate.stores.wandb_cloud.histories import Stored
from mlmigrate.stores.wandb_cloud.index import Listed
from mlmigrate.wandb_runs.mapping import Logged
from mlmigrate.wandb_runs.own import Own
from mlmigrate.wandb_runs.rows import Row, rows


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """A copy that is there, as it was before it grew."""

    listed: Listed
    run: Any  # of the public API's
    own: Own
    item: Item
    stored: Stored
    artifacts: Mapping[str, Any] = field(default_factory=dict)  # by name, the latest


def new_rows(written: Logged, before: Before | None) -> Iterator[Row]:
    """Return the rows that the server lacks.

    Raises:
        ItemError: they cannot be added: W&B drops rows at steps that it has passed.
    """
    if before is None:
        return rows(written.metrics, written.steps)
    held = before.stored
    lacking = [
        metric
        for each in written.metrics
        if len((metric := missing(held.metrics.get(each.key), each)).steps)
    ]
    if written.steps == "native":
        _check_above(lacking, held.last, before)
    return rows(lacking, written.steps, first=held.last + 1)


def _check_above(lacking: Sequence[MetricHistory], last: int, before: Before) -> None:
    late = sum(int((metric.steps <= last).sum()) for metric in lacking)
    if late:
        raise ItemError(
            f"run {before.listed.id} lacks {late} points at steps up to {last}, which"
            " W&B has passed and does not take any more: delete the run at W&B and copy"
            " it with -o id-salt=TEXT"
        )
