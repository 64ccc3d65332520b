"""Runs as items: what their logs say, in MLflow's words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlmigrate.model import Finding, MetricHistory, Note, Param, Problem, Tag
from mlmigrate.stores.wandb_offline.folders import RunFolders
from mlmigrate.stores.wandb_offline.records import Gathered
from mlmigrate.wandb_runs.mapping import WANDB
from mlmigrate.wandb_runs.values import leaves, named, text

#: Longer texts of the summary are only in its file.
_LONGEST_TAG = 5000
_PLAIN_TAGS = {
    "wandb.group": "run_group",
    "wandb.job_type": "job_type",
    "wandb.sweep_id": "sweep_id",
    "wandb.host": "host",
    "mlflow.note.content": "notes",
}


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


def params(config: Mapping[str, Any], where: str) -> tuple[list[Param], list[Finding]]:
    """Return a config, nested keys joined by ``/``, without what W&B keeps there."""
    found = {
        path: leaf
        for key, value in config.items()
        if key != WANDB
        for path, leaf in leaves(value, (key,))
    }
    names, changed = named(found)
    keys = [Param(names[path], text(leaf)) for path, leaf in found.items()]
    return keys, _renamed("param", changed, where)


def metrics(
    gathered: Gathered, where: str
) -> tuple[list[MetricHistory], list[Finding]]:
    """Return the history and the system metrics; each can be asked for once."""
    names, changed = named(gathered.metrics)
    found = [points.history(names[path]) for path, points in gathered.metrics.items()]
    gathered.metrics.clear()
    return found, _renamed("metric", changed, where)


def _renamed(word: str, names: list[str], where: str) -> list[Finding]:
    what = "a nested and a plain key are equal when joined by '/'"
    return [Note(where, f"{what}: {word} {name}") for name in names]


def tags(run: RunFolders, gathered: Gathered) -> list[Tag]:
    """Return what W&B knows of a run beside config and history."""
    said = gathered.run
    found = {"wandb.run_id": run.id, "wandb.project": run.project}
    if run.entity:
        found["wandb.entity"] = run.entity
    for tag, name in _PLAIN_TAGS.items():
        if said.get(name):
            found[tag] = said[name]
    if said.get("tags"):
        found["wandb.tags"] = json.dumps(said["tags"])
    git = said.get("git") or gathered.environment.get("git") or {}
    if git.get("commit"):
        found["mlflow.source.git.commit"] = git["commit"]
    if git.get("remote_url"):
        found["mlflow.source.git.repoURL"] = git["remote_url"]
    for name in ("cli_version", "python_version"):
        if gathered.telemetry.get(name):
            found[f"wandb.{name}"] = gathered.telemetry[name]
    if gathered.exit is not None:
        found["wandb.exit_code"] = str(gathered.exit.get("exit_code", 0))
    found.update(_summary(gathered))
    return [Tag(key, value) for key, value in found.items()]


def _summary(gathered: Gathered) -> Iterator[tuple[str, str]]:
    """Yield a tag for each plain value of the summary that is not simply the last of
    the history.
    """
    chosen: Mapping[Any, Any] = {
        path: leaf
        for key, value in gathered.summary.items()
        if not key.startswith("_")
        for path, leaf in leaves(value, (key,))
        if not isinstance(leaf, dict | list) and not _is_last(gathered, path, leaf)
    }
    names, _ = named(chosen)
    for path, leaf in chosen.items():
        value = text(leaf)
        if len(value) <= _LONGEST_TAG:
            yield f"wandb.summary.{names[path]}", value


def _is_last(gathered: Gathered, path: Any, leaf: Any) -> bool:
    last = gathered.last.get(path)
    return last is not None and text(last) == text(leaf)


def findings(gathered: Gathered, where: str) -> list[Finding]:
    """Tell what a run's logs lack, and what was repaired."""
    found: list[Finding] = [Problem(where, what) for what in gathered.wrong]
    for what, count in gathered.repairs.items():
        found.append(Note(where, f"{count} {what}"))
    if gathered.exit is None:
        found.append(Note(where, "no record says how it ended: kept as RUNNING"))
    return found
