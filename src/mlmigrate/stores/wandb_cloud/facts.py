"""What W&B knows of a run beside rows and files: set exactly, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.wandb_runs.mapping import MLMIGRATE, WANDB, Logged
from mlmigrate.wandb_runs.values import number


def put(run: Any, written: Logged, *, mark: str | None) -> None:
    """Set what the public API can set exactly, and the SDK cannot: config, summary,
    name, notes, tags, group and job type.

    Raises:
        ItemError: W&B refuses.
    """
    own_part = {**written.config[MLMIGRATE], "mark": mark}
    run.config.update({**written.config, MLMIGRATE: own_part})
    run.name, run.notes, run.tags = written.name, written.notes, list(written.tags)
    run.group, run.job_type = written.group, written.job_type
    summary = run.summary_metrics
    summary.update(written.summary)
    kept = summary.get(WANDB)
    kept = kept if isinstance(kept, dict) else {}
    summary[WANDB] = {**kept, "runtime": written.runtime}
    save(run)


def save(run: Any) -> None:
    """Send what was changed of a run of the public API's.

    Raises:
        ItemError: W&B refuses.
    """
    # The client sends back no key that it takes for the server's.
    for key in run.rawconfig.keys() - run.config.keys() - {WANDB}:
        run.config[key] = run.rawconfig[key]
    with asking(f"run {run.id}"):
        run.update()


def prove(client: Client, written: Logged, *, mark: str | None) -> Any:
    """Check that the server has a run's config and summary; return the run.

    Raises:
        ItemError: it has not, or cannot be read.
    """
    run = client.run(written.entity, written.project, written.id)
    wrong = differing(run, written, mark=mark)
    if wrong is not None:
        raise ItemError(f"{wrong} of run {written.id} reads back otherwise")
    return run


def differing(run: Any, written: Logged, *, mark: str | None) -> str | None:
    """Name what of a run's config or summary the server has otherwise, if anything."""
    own_part = {**written.config[MLMIGRATE], "mark": mark}
    wanted = json.loads(json.dumps({**written.config, MLMIGRATE: own_part}))
    wrong = _differing(run.rawconfig, wanted)
    if wrong is not None:
        return f"config {wrong!r}"
    summary = run.summary_metrics
    for key, value in written.summary.items():
        found = number(summary.get(key))
        if found is None or not _same(found[0], float(value)):
            return f"summary {key!r}, which is {summary.get(key)!r}, not {value!r},"
    kept = summary.get(WANDB)
    if not isinstance(kept, dict) or kept.get("runtime") != written.runtime:
        return "the runtime"
    return None


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    absent = object()
    for key, value in wanted.items():
        if found.get(key, absent) != value:
            return key
    return None


def _same(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)  # noqa: PLR0124  NaN
