"""A copy that is there already: what it holds, and the rows that it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.metrics import missing
from mlmigrate.model import Failed, Item, MetricHistory, Ref
from mlmigrate.stores.wandb_cloud import facts
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.stores.wandb_cloud.files import logged_artifacts, name_of
from mlmigrate.stores.wandb_cloud.histories import Stored, stored
from mlmigrate.stores.wandb_cloud.index import Listed
from mlmigrate.stores.wandb_cloud.reading import CloudSource
from mlmigrate.wandb_runs.mapping import MLMIGRATE, Logged
from mlmigrate.wandb_runs.own import Own, own
from mlmigrate.wandb_runs.rows import Row, rows

_FIRST_WAIT = 0.25  # seconds


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """A copy that is there, as it was before it grew."""

    listed: Listed
    run: Any  # of the public API's
    own: Own
    item: Item
    stored: Stored
    artifacts: Mapping[str, Any] = field(default_factory=dict)  # by name, the latest


def read_before(
    client: Client, reader: CloudSource, at: Listed, ref: Ref, *, settle: float
) -> Before:
    """Read the copy *ref*, which is at W&B as *at* says.

    A server may show rows later than it takes them. What it is about to show must not
    be sent again: for *settle* seconds it gets the time to show all that it counts.

    Raises:
        ItemError: it is another's, or cannot be read.
    """
    deadline = time.monotonic() + settle
    wait = _FIRST_WAIT
    while True:
        run = client.run(*at.place)
        found = own(run.config)
        if found is None:
            raise ItemError(
                f"run {at.id} is there and was not written by mlmigrate: it cannot be"
                " added to; -o id-salt=TEXT gives all runs other ids"
            )
        with asking(f"run {at.id}"):
            held = stored(run, found)
        whole = held.rows >= (run.historyLineCount or 0)
        if whole or time.monotonic() + wait > deadline:
            break
        time.sleep(wait)
        wait *= 2
    with asking(f"run {at.id}"):
        artifacts = {name_of(each): each for each in logged_artifacts(run)}
    item = next(iter(reader.read([ref])))
    if isinstance(item, Failed):
        raise ItemError(f"run {at.id} cannot be read back: {item.why}")
    return Before(at, run, found, item, held, artifacts)


def withdraw(before: Before) -> bool:
    """Take the mark off a copy that is about to change, and let W&B's client go on
    after the last row that is there: it goes by the summary, which may have arrived
    where rows did not. Tell whether that changed anything.

    Raises:
        ItemError: W&B refuses.
    """
    run, last = before.run, before.stored.last
    summary = run.summary_metrics
    behind = "_step" in summary and summary["_step"] != last
    if before.own.mark is None and not behind:
        return False
    if behind:
        summary["_step"] = last
    run.config[MLMIGRATE] = {**run.config[MLMIGRATE], "mark": None}
    facts.save(run)
    return True


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
