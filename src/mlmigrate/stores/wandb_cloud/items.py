"""Runs as items: what the public API says of them, in MLflow's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlmigrate.stores.wandb_cloud.times import moment
from mlmigrate.wandb_runs.history import History
from mlmigrate.wandb_runs.items import About
from mlmigrate.wandb_runs.mapping import WANDB

_STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "crashed": "FAILED",
    "killed": "KILLED",
}
#: States that a status tells whole.
_PLAIN_STATES = ("finished", "failed", "killed", "running")
STATE, ACCOUNT = "wandb.state", "wandb.user"


def header(
    run: Any, history: History, summary: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a run's header, but for its experiment.

    It ended at its start plus its runtime, but not before its last time.
    """
    status = _STATUS.get(run.state, "RUNNING")
    start = moment(metadata.get("startedAt")) or moment(run.created_at)
    return {
        "name": run.name or run.id,
        "status": status,
        "start_time": start,
        "end_time": None if status == "RUNNING" else _end(run, history, summary, start),
        "user": _text(metadata.get("username")) or account(run) or None,
    }


def _end(
    run: Any, history: History, summary: Mapping[str, Any], start: int | None
) -> int | None:
    kept = summary.get(WANDB)
    runtime = kept.get("runtime") if isinstance(kept, dict) else None
    if start is not None and isinstance(runtime, int | float) and runtime > 0:
        end = start + int(runtime) * 1000
        return max(end, history.latest or end)
    return history.latest or moment(run.heartbeat_at)


def more_tags(run: Any) -> dict[str, str]:
    """Return what W&B's folders have no word of."""
    found = {} if run.state in _PLAIN_STATES else {STATE: str(run.state)}
    if user := account(run):
        found[ACCOUNT] = user
    return found


def about(run: Any, kept: Mapping[str, Any], metadata: Mapping[str, Any]) -> About:
    """Return what W&B says of a run beside config, summary and history.

    Args:
        run: a run of the public API's.
        kept: what W&B itself keeps in its config.
        metadata: what is in its ``wandb-metadata.json``.
    """
    git = metadata.get("git")
    git = git if isinstance(git, dict) else {}
    return About(
        run.id,
        run.project,
        run.entity,
        group=_text(run.group),
        job_type=_text(run.job_type),
        sweep=_text(run.sweep_name),
        host=_text(metadata.get("host")),
        notes=_text(run.notes),
        tags=[tag for tag in run.tags or () if isinstance(tag, str)],
        git_commit=_text(run.commit) or _text(git.get("commit")),
        git_remote=_text(git.get("remote")),
        cli_version=_text(kept.get("cli_version")),
        python_version=_text(kept.get("python_version")),
        exit_code=0 if run.state == "finished" else None,
    )


def account(run: Any) -> str:
    """Return the name of the account that sent a run; empty where it is not said."""
    user = getattr(run, "user", None)
    return _text(getattr(user, "username", None))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
