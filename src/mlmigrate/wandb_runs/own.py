"""Runs that mlmigrate wrote, read from W&B as the runs that they were.

What stands in a config is untrusted: whatever is not as mlmigrate writes it is left
out, and a config of which too little is left is nobody's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlmigrate.model import (
    DatasetInput,
    Item,
    MetricHistory,
    Param,
    Ref,
    Run,
    Tag,
)
from mlmigrate.told.experiments import experiment_id
from mlmigrate.told.inputs import inputs_of
from mlmigrate.told.runs import header_of
from mlmigrate.told.values import as_dicts, as_text, as_texts
from mlmigrate.wandb_runs.mapping import FORMAT, MLFLOW, MLMIGRATE, NOTE, shown_name
from mlmigrate.wandb_runs.rows import Steps


@dataclass(frozen=True, slots=True)
class Told:
    """What a run tells beside itself and its own experiment, by names: W&B has no other
    place for it.
    """

    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    experiments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def and_more(self, more: Told) -> Told:
        """Return all that both tell; of one thing, what *more* does."""
        return Told(
            {**self.models, **more.models}, {**self.experiments, **more.experiments}
        )

    def config(self) -> dict[str, Any]:
        """Return the part of a config that says so."""
        said = {"registered_models": self.models, "experiments": self.experiments}
        return {name: dict(records) for name, records in said.items() if records}


@dataclass(frozen=True, slots=True)
class Own:
    """What the config of a run says that mlmigrate wrote."""

    origin: str
    source: str
    mark: str | None
    steps: Steps
    experiment: Mapping[str, Any]
    header: Mapping[str, Any]
    tags: Mapping[str, str]
    inputs: tuple[DatasetInput, ...]
    params: Mapping[str, str]  # W&B's key -> MLflow's, where they differ
    metrics: Mapping[str, str]  # likewise
    typed: Mapping[str, str]  # the texts of params that stand there as numbers
    carried: Mapping[str, str]
    told: Told

    @property
    def experiment_id(self) -> str:
        """The id of its experiment."""
        return experiment_id(str(self.experiment["name"]))

    @property
    def parent(self) -> str | None:
        """The origin of its parent."""
        parent: Ref | None = self.header["parent"]
        return parent.id if parent else None


def own(config: Mapping[str, Any]) -> Own | None:
    """Return what mlmigrate keeps in a config, None where it wrote none."""
    kept, mlflow = config.get(MLMIGRATE), config.get(MLFLOW)
    if not isinstance(kept, dict) or not isinstance(mlflow, dict):
        return None
    origin, experiment = kept.get("origin"), mlflow.get("experiment")
    if kept.get("format") != FORMAT or not isinstance(origin, str) or not origin:
        return None
    if not isinstance(experiment, dict) or not isinstance(experiment.get("name"), str):
        return None
    return Own(
        origin=origin,
        source=as_text(kept.get("source")) or "",
        mark=as_text(kept.get("mark")),
        steps="native" if kept.get("steps") == "native" else "rows",
        experiment=experiment,
        header=header_of(mlflow),
        tags=as_texts(mlflow.get("tags")),
        inputs=inputs_of(mlflow.get("inputs")),
        params=as_texts(kept.get("params")),
        metrics=as_texts(kept.get("metrics")),
        typed=as_texts(kept.get("typed")),
        carried=as_texts(kept.get("carried")),
        told=Told(
            as_dicts(mlflow.get("registered_models")),
            as_dicts(mlflow.get("experiments")),
        ),
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """What people can change of a run in W&B's own pages."""

    id: str
    name: str = ""
    notes: str = ""
    tags: Sequence[str] = field(default=())


def restored(
    found: Own,
    ref: Ref,
    shown: Shown,
    params: Sequence[Param],
    metrics: Sequence[MetricHistory],
) -> Item:
    """Return the run that mlmigrate wrote, with what people changed at W&B.

    *params* and *metrics* are as W&B has them: those of a run of its own.
    """
    header = dict(found.header)
    if shown.name and shown.name != shown_name(header["name"], shown.id):
        header["name"] = shown.name
    tags = dict(found.tags)
    if shown.notes:
        tags[NOTE] = shown.notes
    if shown.tags and list(shown.tags) != _list(tags.get("wandb.tags")):
        tags["wandb.tags"] = json.dumps(list(shown.tags))
    return Item(
        ref,
        Run(experiment=Ref("experiment", found.experiment_id), **header),
        origin=found.origin,
        params=tuple(_params(found, params)),
        tags=tuple(Tag(key, value) for key, value in tags.items()),
        metrics=tuple(
            MetricHistory(
                found.metrics.get(metric.key, metric.key),
                metric.steps,
                metric.timestamps,
                metric.values,
            )
            for metric in metrics
        ),
        inputs=found.inputs,
        mark=found.mark,
    )


def _params(found: Own, params: Sequence[Param]) -> Iterable[Param]:
    for param in params:
        value = found.typed.get(param.key)
        if value is None or not _same(value, param.value):
            value = param.value
        yield Param(found.params.get(param.key, param.key), value)


def _same(written: str, value: str) -> bool:
    """Tell whether a typed param still says what its text says."""
    word = written.lower() if written in ("True", "False") else written
    try:
        return bool(json.loads(word) == json.loads(value))
    except (ValueError, RecursionError):
        return False


def _list(value: str | None) -> Any:
    try:
        return json.loads(value or "null")
    except (ValueError, RecursionError):
        return None
