"""Runs of W&B's own as items: what W&B knows of them, in MLflow's words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlmigrate.model import Finding, MetricHistory, Note, Param, Tag
from mlmigrate.wandb_runs.history import History
from mlmigrate.wandb_runs.mapping import NOTE, WANDB
from mlmigrate.wandb_runs.values import KeyPath, leaves, named, text

#: The file of a run's whole summary.
SUMMARY = "wandb/summary.json"
#: Longer texts of the summary are only in its file.
_LONGEST_TAG = 5000


@dataclass(frozen=True, slots=True)
class About:
    """What W&B knows of a run beside config, summary and history; empty texts where it
    does not.
    """

    id: str
    project: str
    entity: str
    group: str = ""
    job_type: str = ""
    sweep: str = ""
    host: str = ""
    notes: str = ""
    tags: Sequence[str] = ()
    git_commit: str = ""
    git_remote: str = ""
    cli_version: str = ""
    python_version: str = ""
    exit_code: int | None = None


def tags(about: About, summary: Mapping[str, Any], history: History) -> list[Tag]:
    """Return what W&B knows of a run as tags, with what of its summary is not simply
    the last of its history.
    """
    found = {
        "wandb.run_id": about.id,
        "wandb.project": about.project,
        "wandb.entity": about.entity,
        "wandb.group": about.group,
        "wandb.job_type": about.job_type,
        "wandb.sweep_id": about.sweep,
        "wandb.host": about.host,
        NOTE: about.notes,
        "wandb.tags": json.dumps(list(about.tags)) if about.tags else "",
        "mlflow.source.git.commit": about.git_commit,
        "mlflow.source.git.repoURL": about.git_remote,
        "wandb.cli_version": about.cli_version,
        "wandb.python_version": about.python_version,
        "wandb.exit_code": "" if about.exit_code is None else str(about.exit_code),
    }
    kept = [Tag(key, value) for key, value in found.items() if value]
    return [*kept, *_summary(summary, history.last)]


def _summary(summary: Mapping[str, Any], last: Mapping[KeyPath, Any]) -> Iterator[Tag]:
    """Yield a tag for each plain value of the summary that is not simply the last of
    the history.
    """
    chosen = {
        path: leaf
        for key, value in summary.items()
        if not key.startswith("_")
        for path, leaf in leaves(value, (key,))
        if not isinstance(leaf, dict | list) and not _is_last(last, path, leaf)
    }
    names, _ = named(chosen)
    for path, leaf in chosen.items():
        value = text(leaf)
        if len(value) <= _LONGEST_TAG:
            yield Tag(f"wandb.summary.{names[path]}", value)


def _is_last(last: Mapping[KeyPath, Any], path: KeyPath, leaf: Any) -> bool:
    found = last.get(path)
    return found is not None and text(found) == text(leaf)


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return the text of `SUMMARY`; empty where there is no summary."""
    return json.dumps(summary, indent=1, sort_keys=True) + "\n" if summary else ""


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


def metrics(history: History, where: str) -> tuple[list[MetricHistory], list[Finding]]:
    """Return the history and the system metrics; they can be asked for once."""
    names, changed = named(history.metrics)
    found = [points.history(names[path]) for path, points in history.metrics.items()]
    history.metrics.clear()
    return found, _renamed("metric", changed, where)


def _renamed(word: str, names: Sequence[str], where: str) -> list[Finding]:
    what = "a nested and a plain key are equal when joined by '/'"
    return [Note(where, f"{what}: {word} {name}") for name in names]
