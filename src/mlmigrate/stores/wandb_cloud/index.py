"""What runs are there: one listing for as long as a store is open, kept current."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlmigrate.stores.wandb_cloud.client import Client
from mlmigrate.stores.wandb_cloud.place import Place
from mlmigrate.stores.wandb_cloud.times import moment
from mlmigrate.wandb_runs.index import Entry, Index, known_of
from mlmigrate.wandb_runs.own import own


@dataclass(frozen=True, slots=True)
class Listed(Entry):
    """A run at W&B, as the listing shows it."""

    sweep: str
    start: int | None  # when the server saw it first, milliseconds
    end: int | None  # and last
    goes_on: bool


def add_run(index: Index[Listed], run: Any) -> str:
    """Add a run of the public API's to what is known, or note how it is now; return
    the id of its ref.
    """
    config: Mapping[str, Any] = run.config
    found = own(config) if isinstance(config, dict) else None
    listed = Listed(
        run.entity,
        run.project,
        run.id,
        run.group or "",
        run.job_type or "",
        known_of(found),
        run.sweep_name or "",
        moment(run.created_at),
        moment(run.heartbeat_at),
        run.state in ("running", "pending"),
    )
    return index.put(listed, found, "/".join(listed.place))


def index_of(client: Client, place: Place) -> tuple[Index[Listed], bool]:
    """List the runs of a place; tell, too, whether it is there.

    Raises:
        StoreError: they cannot be listed.
    """
    index = Index[Listed]()
    there = False
    names = [place.project] if place.project else client.projects(place.entity)
    for name in names:
        runs = client.runs(place.entity, name)
        if runs is None:
            continue
        there = True
        for run in runs:
            add_run(index, run)
    return index, there
