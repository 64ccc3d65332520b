"""Sweeps and groups of W&B's as runs that others are nested in.

MLflow has one word for runs that belong together: they have one parent. A sweep, or
else a group of several, becomes that parent. It is no run at W&B, unless a group is
named for a run in it. What W&B knows of a sweep (the space that it searches, above
all) is its file ``wandb/sweep.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlmigrate.errors import ItemError
from mlmigrate.model import Finding, Item, Note, Ref, Run, Tag
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.stores.wandb_cloud.index import Listed

SWEEP_FILE = "wandb/sweep.json"
#: Tells such a parent from a run.
NESTING = "wandb.nesting"


@dataclass(frozen=True, slots=True)
class Above:
    """A sweep or a group."""

    kind: Literal["sweep", "group"]
    name: str
    entity: str
    project: str
    experiment: str
    start: int | None  # of its first run, milliseconds
    end: int | None  # of its last run; None while one goes on


@dataclass(frozen=True, slots=True)
class Parents:
    """What the runs of a place are nested in."""

    above: Mapping[str, Above]  # by the ids that they have as runs
    of: Mapping[tuple[str, str], str]  # (project, run id) -> the id of its parent


def parents(runs: Iterable[Listed]) -> Parents:
    """Find the sweeps and groups of runs. Those that mlmigrate wrote are left out: each
    knows its own parent.
    """
    members: dict[tuple[str, str, str], list[Listed]] = {}
    for run in runs:
        word = f"sweep:{run.sweep}" if run.sweep else f"group:{run.group}"
        if run.known is None and (run.sweep or run.group):
            members.setdefault((run.entity, run.project, word), []).append(run)
    above: dict[str, Above] = {}
    of: dict[tuple[str, str], str] = {}
    for (entity, project, word), some in members.items():
        named_for = next((run for run in some if run.id == run.group), None)
        if word.startswith("group:") and len(some) == 1:
            continue  # a label
        if named_for is not None and not named_for.sweep:
            id = named_for.origin
        else:
            id = f"wandb:{entity}/{project}/{word}"
            above[id] = _above(some)
        of.update(((run.project, run.id), id) for run in some if run is not named_for)
    return Parents(above, of)


def _above(runs: list[Listed]) -> Above:
    first = runs[0]
    starts = [run.start for run in runs if run.start is not None]
    ends = [run.end for run in runs if run.end is not None]
    return Above(
        "sweep" if first.sweep else "group",
        first.sweep or first.group,
        first.entity,
        first.project,
        first.experiment,
        min(starts, default=None),
        None if any(run.goes_on for run in runs) else max(ends, default=None),
    )


def item_of(above: Above, ref: Ref, findings: tuple[Finding, ...]) -> Item:
    """Return a sweep or a group as a run."""
    tags = {
        NESTING: above.kind,
        "wandb.project": above.project,
        "wandb.entity": above.entity,
    }
    tags["wandb.sweep_id" if above.kind == "sweep" else "wandb.group"] = above.name
    return Item(
        ref,
        Run(
            experiment=Ref("experiment", above.experiment),
            name=f"{above.kind} {above.name}",
            status="RUNNING" if above.end is None else "FINISHED",
            start_time=above.start,
            end_time=above.end,
        ),
        origin=ref.id,
        tags=tuple(Tag(key, value) for key, value in tags.items()),
        findings=findings,
    )


def sweep_text(client: Client, above: Above) -> tuple[str, tuple[Finding, ...]]:
    """Return what W&B knows of a sweep, as JSON; '' where it does not say."""
    path = f"{above.entity}/{above.project}/{above.name}"
    try:
        with asking(f"sweep {path}"):
            sweep = client.api.sweep(path)
            said: Mapping[str, Any] = {
                "id": sweep.id,
                "name": sweep.name,
                "config": sweep.config,
            }
            return json.dumps(said, indent=1, sort_keys=True) + "\n", ()
    except ItemError as error:
        return "", (Note(path, f"what it searched is not said: {error}"),)
