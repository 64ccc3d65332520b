"""Runs as items: what their logs say, in MLflow's words."""

from __future__ import annotations

from typing import Any

from mlmigrate.model import Finding, Note, Problem
from mlmigrate.stores.wandb_offline.folders import RunFolders
from mlmigrate.stores.wandb_offline.records import Gathered
from mlmigrate.wandb_runs.items import About


def header(run: RunFolders, gathered: Gathered, user: str | None) -> dict[str, Any]:
    """Return the fields of a run's header, but for its experiment."""
    exit = gathered.exit
    if exit is None or exit.get("not_complete"):
        status = "RUNNING"
    else:
        status = "FAILED" if exit.get("exit_code", 0) else "FINISHED"
    return {
        "name": gathered.run.get("display_name") or run.id,
        "status": status,
        "start_time": gathered.start,
        "end_time": gathered.ended if status != "RUNNING" else None,
        "user": gathered.environment.get("username") or user,
    }


def about(run: RunFolders, gathered: Gathered) -> About:
    """Return what the logs say of a run beside config, summary and history."""
    said, environment = gathered.run, gathered.environment
    git = said.get("git") or environment.get("git") or {}
    exit = gathered.exit
    return About(
        run.id,
        run.project,
        run.entity,
        group=said.get("run_group", ""),
        job_type=said.get("job_type", ""),
        sweep=said.get("sweep_id", ""),
        host=said.get("host", ""),
        notes=said.get("notes", ""),
        tags=said.get("tags", ()),
        git_commit=git.get("commit", ""),
        git_remote=git.get("remote_url", ""),
        cli_version=gathered.telemetry.get("cli_version", ""),
        python_version=gathered.telemetry.get("python_version", ""),
        exit_code=None if exit is None else exit.get("exit_code", 0),
    )


def findings(gathered: Gathered, where: str) -> list[Finding]:
    """Tell what a run's logs lack, and what was repaired."""
    found: list[Finding] = [Problem(where, what) for what in gathered.wrong]
    for what, count in gathered.repairs.items():
        found.append(Note(where, f"{count} {what}"))
    if gathered.exit is None and gathered.own is None:
        found.append(Note(where, "no record says how it ended: kept as RUNNING"))
    return found
