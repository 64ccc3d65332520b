"""A run of MLflow's in W&B's words: ids, names, groups, config, summary."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b, md5
from typing import Any, Literal, TypeAlias

from mlmigrate.metrics import latest
from mlmigrate.model import Item, MetricHistory, Run
from mlmigrate.told.inputs import inputs_record
from mlmigrate.told.values import carried, plain, pruned
from mlmigrate.wandb_runs.rows import STEP, TIMESTAMP, Steps

#: Keys of the config that hold what MLflow, mlmigrate and W&B itself keep there.
MLFLOW, MLMIGRATE, WANDB = "mlflow", "mlmigrate", "_wandb"
NOTE = "mlflow.note.content"
FORMAT = 1

_LONGEST_PROJECT = _LONGEST_NAME = _LONGEST_ID = 128
_LONGEST_TAG = 64
_LONGEST_RUNTIME = (1 << 31) - 1  # W&B's client has 32 bits for it
_BAD_IN_ID = re.compile(r"[:;,#?/'\s\x00-\x1f\x7f]")
_BAD_IN_PROJECT = re.compile(r"[/\\#?%:\x00-\x1f\x7f]")
#: What W&B keeps in each row itself.
_ROW_KEYS = {"_step", "_timestamp", "_runtime", "_wandb", STEP, TIMESTAMP, ""}
_EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 255}


#: What the group of a run is: the run above all that it is nested in, its experiment,
#: or nothing.
Grouping: TypeAlias = Literal["nesting", "experiment", "none"]


@dataclass(frozen=True, slots=True)
class Naming:
    """Where runs go, as the options of a sink say."""

    entity: str = ""
    project: str | None = None  # None: one for each experiment
    salt: str = ""
    typed: bool = False
    grouping: Grouping = "nesting"

    def project_of(self, experiment: Mapping[str, Any]) -> str:
        """Return the project of the runs of an experiment, given by its record."""
        return self.project or project_of(str(experiment["name"]))


def naming_of(
    options: Mapping[str, Any], *, entity: str, project: str | None
) -> Naming:
    """Return where runs go as the options say that all sinks have."""
    return Naming(
        entity,
        project,
        options.get("id-salt") or "",
        options.get("typed-params") == "yes",
        options.get("grouping") or "nesting",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """A run as W&B is told of it; its history is `mlmigrate.wandb_runs.rows`."""

    id: str
    entity: str
    project: str
    name: str
    notes: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    start: int | None  # milliseconds
    exit_code: int | None  # None where the run goes on
    runtime: int  # seconds
    user: str
    host: str
    program: str
    git_commit: str
    git_remote: str
    steps: Steps
    metrics: tuple[MetricHistory, ...]  # under W&B's keys


def run_id(origin: str, salt: str = "") -> str:
    """Return the id that a run gets at W&B: its origin where W&B takes that, and
    otherwise one made of it, always the same.

    *salt* makes all ids others: W&B blocks the id of a run that was deleted for days.
    """
    fits = len(origin) <= _LONGEST_ID and not _BAD_IN_ID.search(origin)
    if fits and origin and not salt:
        return origin
    text = f"{salt}\0{origin}" if salt else origin
    return md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def project_of(experiment: str) -> str:
    """Return the project that an experiment becomes: its name where W&B takes that."""
    plain = _BAD_IN_PROJECT.sub("-", experiment).strip() or "-"
    if plain == experiment and len(plain) <= _LONGEST_PROJECT:
        return plain
    tail = "-" + blake2b(experiment.encode(), digest_size=3).hexdigest()
    return plain[: _LONGEST_PROJECT - len(tail)] + tail


def logged(
    item: Item,
    experiment: Mapping[str, Any],
    naming: Naming,
    *,
    mark: str,
    source: str,
    steps: Steps,
    nested: tuple[str, str],
    told: Mapping[str, Any],
) -> Logged:
    """Return *item*, a run, in W&B's words.

    Args:
        item: the run, whole.
        experiment: the record of its experiment.
        naming: where runs go.
        mark: the text of `mlmigrate.marks.MARK`.
        source: where it was read, for people.
        steps: what ``_step`` of its rows counts.
        nested: the group and the job type that nesting gives it, '' for none.
        told: what the run tells beside: `mlmigrate.wandb_runs.own.Told.config`.
    """
    header = item.header
    assert isinstance(header, Run)
    id = run_id(item.origin, naming.salt)
    tags = plain(item.tags)
    own: dict[str, Any] = {
        "format": FORMAT,
        "origin": item.origin,
        "source": source,
        "steps": steps,
        "carried": carried(item.tags),
    }
    params: dict[str, Any] = {}
    typed: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for key, param in zip(
        _keys([each.key for each in item.params], {MLFLOW, MLMIGRATE, WANDB, ""}),
        item.params,
        strict=True,
    ):
        params[key] = param.value
        if key != param.key:
            renamed[key] = param.key
        if naming.typed and (value := _typed(param.value)) is not None:
            params[key] = value
            typed[key] = param.value
    metric_keys = _keys([metric.key for metric in item.metrics], _ROW_KEYS)
    metrics = tuple(
        replace(metric, key=key)
        for key, metric in zip(metric_keys, item.metrics, strict=True)
    )
    own["params"], own["typed"] = renamed, typed
    own["metrics"] = {
        key: metric.key
        for key, metric in zip(metric_keys, item.metrics, strict=True)
        if key != metric.key
    }
    own["mark"] = mark
    mlflow = {
        **{name: value for name, value in asdict(header).items() if value is not None},
        "run_id": item.origin,
        "experiment": dict(experiment),
        "parent": header.parent.id if header.parent else None,
        "tags": tags,
        "inputs": inputs_record(item.inputs),
    }
    mlflow.update(told)
    group, job_type = nested
    return Logged(
        id=id,
        entity=naming.entity,
        project=naming.project_of(experiment),
        name=shown_name(header.name, id),
        notes=tags.get(NOTE, ""),
        group=group or _group(tags, experiment, naming),
        job_type=job_type or tags.get("wandb.job_type", ""),
        tags=_wandb_tags(tags),
        config={**params, MLFLOW: pruned(mlflow), MLMIGRATE: pruned(own)},
        summary=_summary(metrics),
        start=header.start_time,
        exit_code=_EXIT_CODES.get(header.status),
        runtime=_runtime(header),
        user=header.user or "",
        host=tags.get("wandb.host", ""),
        program=tags.get("mlflow.source.name", ""),
        git_commit=tags.get("mlflow.source.git.commit", ""),
        git_remote=tags.get("mlflow.source.git.repoURL", ""),
        steps=steps,
        metrics=metrics,
    )


def shown_name(name: str | None, id: str) -> str:
    """Return the display name of a run."""
    return (name or id)[:_LONGEST_NAME]


def _group(tags: Mapping[str, str], experiment: Mapping[str, Any], to: Naming) -> str:
    """Return the group of a run that is not nested, or not grouped by that: what it was
    at W&B, or its experiment where all are in one project.
    """
    if to.grouping == "none":
        return ""
    own = tags.get("wandb.group", "")
    if to.grouping == "nesting" and (own or to.project is None):
        return own
    return str(experiment["name"])[:_LONGEST_NAME]


def _runtime(header: Run) -> int:
    if header.start_time is None or header.end_time is None:
        return 0
    seconds = (header.end_time - header.start_time) // 1000
    return min(max(0, seconds), _LONGEST_RUNTIME)


def _wandb_tags(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return W&B's own tags, which a run from there bears as a JSON list."""
    try:
        found = json.loads(tags.get("wandb.tags", "[]"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(found, list):
        return ()
    return tuple(
        tag for tag in found if isinstance(tag, str) and 0 < len(tag) <= _LONGEST_TAG
    )


def _typed(text: str) -> bool | int | float | None:
    """Return the number or truth value that a param's text says, if any."""
    try:
        value = json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, bool | int | float):
        return None
    # W&B reads its config through floats, and has none for NaN in it.
    if not math.isfinite(value) or abs(value) >= 2**53:
        return None
    return value


def _keys(keys: Sequence[str], reserved: set[str]) -> list[str]:
    """Return *keys* with those changed that W&B keeps for itself."""
    taken = set(keys)
    result = []
    for key in keys:
        name = key
        while name in reserved or (name != key and name in taken):
            name = f"mlflow.{name}"
        taken.add(name)
        result.append(name)
    return result


def _summary(metrics: Sequence[MetricHistory]) -> dict[str, Any]:
    """Return of each metric what MLflow shows of it."""
    return {
        metric.key: float(metric.values[latest(metric)])
        for metric in metrics
        if len(metric.steps)
    }
