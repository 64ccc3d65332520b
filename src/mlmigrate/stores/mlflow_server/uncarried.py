"""What a server holds and this version does not carry over, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlmigrate.model import Finding, Note, Problem
from mlmigrate.stores.mlflow_server.rest import (
    EXPERIMENTS_A_SEARCH,
    Json,
    Refused,
    Rest,
)


def findings(rest: Rest, experiments: Sequence[str]) -> Iterator[Finding]:
    """Tell what of these kinds there is.

    Args:
        rest: the server.
        experiments: the ids of all its experiments.
    """
    where = rest.base
    try:
        count = sum(1 for _ in _first(_any_traces(rest, experiments), 1000))
    except Refused as refusal:
        if not refusal.absent and refusal.status != 400:
            yield Note(where, f"traces cannot be counted: {refusal}")
        return
    if count:
        many = "1000 or more" if count == 1000 else str(count)
        yield Problem(where, f"{many} traces are not carried over")


def _any_traces(rest: Rest, experiments: Sequence[str]) -> Iterator[Json]:
    try:
        yield from _traces(rest, experiments)
    except Refused as refusal:
        if not refusal.unknown:
            raise
        yield from _older_traces(rest, experiments)


def _traces(rest: Rest, experiments: Sequence[str]) -> Iterator[Json]:
    for at in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
        body = {
            "locations": [
                {
                    "type": "MLFLOW_EXPERIMENT",
                    "mlflow_experiment": {"experiment_id": id},
                }
                for id in experiments[at : at + EXPERIMENTS_A_SEARCH]
            ],
            "max_results": 500,
        }
        path = "/api/3.0/mlflow/traces/search"
        yield from rest.posted_pages(path, "traces", body)


def _older_traces(rest: Rest, experiments: Sequence[str]) -> Iterator[Json]:
    """Yield traces as the servers from MLflow 2.13 to 3.1 list them."""
    for at in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
        ids = experiments[at : at + EXPERIMENTS_A_SEARCH]
        query = {"experiment_ids": ids, "max_results": 500}
        yield from rest.pages("traces", "traces", query)


def _first(entries: Iterator[Json], count: int) -> Iterator[Json]:
    for at, entry in enumerate(entries, 1):
        yield entry
        if at >= count:
            return
