"""The answers of an MLflow server about logged models, as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from mlmigrate import marks
from mlmigrate.metrics import by_series, history
from mlmigrate.model import (
    Artifact,
    Finding,
    Item,
    LoggedModel,
    ModelLink,
    ModelMetric,
    Param,
    Ref,
)
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.rest import (
    EXPERIMENTS_A_SEARCH,
    Json,
    Refused,
    Rest,
    quoted,
)

#: The most that a server gives at once.
_A_PAGE = 50
#: What a server calls a status -> what MLflow's own records do.
STATUSES = {
    "LOGGED_MODEL_STATUS_UNSPECIFIED": "UNSPECIFIED",
    "LOGGED_MODEL_PENDING": "PENDING",
    "LOGGED_MODEL_READY": "READY",
    "LOGGED_MODEL_UPLOAD_FAILED": "FAILED",
}


def place(id: str) -> str:
    """Return the path of a logged model below the API."""
    return f"logged-models/{quoted(id)}"


def search(rest: Rest, experiments: Sequence[str]) -> Iterator[Json]:
    """Yield the logged models of some experiments, all that are not deleted; none of a
    server that does not know any.
    """
    for at in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
        ids = experiments[at : at + EXPERIMENTS_A_SEARCH]
        body = {"experiment_ids": ids, "max_results": _A_PAGE}
        try:
            yield from rest.posted_pages("logged-models/search", "models", body)
        except Refused as refusal:
            if refusal.unknown:
                return
            raise


def item_of(
    ref: Ref, found: Json, artifacts: Iterable[Artifact], findings: Sequence[Finding]
) -> Item:
    """Return the logged model that a server says."""
    info, data = found["info"], found.get("data") or {}
    lifted = marks.lift(answers.key_values(info.get("tags")))
    run = answers.text(info.get("source_run_id"))
    status = str(info.get("status") or "LOGGED_MODEL_STATUS_UNSPECIFIED")
    origin = lifted.origin if marks.load(lifted.mark) else None
    return Item(
        ref,
        LoggedModel(
            experiment=Ref("experiment", str(info["experiment_id"])),
            name=str(info.get("name") or ""),
            status=STATUSES.get(status, "UNSPECIFIED"),
            status_message=answers.text(info.get("status_message")),
            model_type=answers.text(info.get("model_type")),
            source_run=Ref("run", run) if run else None,
            creation_time=answers.millis(info.get("creation_timestamp_ms")),
            last_updated_time=answers.millis(info.get("last_updated_timestamp_ms")),
            artifact_location=answers.text(info.get("artifact_uri")),
        ),
        origin=origin or ref.id,
        params=tuple(
            Param(key, value) for key, value in answers.key_values(data.get("params"))
        ),
        tags=lifted.tags,
        model_metrics=_metrics(data.get("metrics") or ()),
        artifacts=tuple(artifacts),
        mark=lifted.mark or None,
        findings=tuple(findings),
    )


def _metrics(entries: Iterable[Json]) -> tuple[ModelMetric, ...]:
    points: dict[tuple[Any, ...], list[list[Any]]] = {}
    for entry in entries:
        dataset = answers.text(entry.get("dataset_name"))
        checksum = answers.text(entry.get("dataset_digest"))
        series = (str(entry["key"]), str(entry.get("run_id") or ""), dataset, checksum)
        steps, timestamps, values = points.setdefault(series, [[], [], []])
        steps.append(int(entry.get("step") or 0))
        timestamps.append(int(entry.get("timestamp") or 0))
        values.append(float(entry.get("value") or 0.0))  # also "NaN" and "Infinity"
    found = [
        ModelMetric(
            Ref("run", run),
            history(
                key,
                np.array(steps, dtype=np.int64),
                np.array(timestamps, dtype=np.int64),
                np.array(values, dtype=np.float64),
            ),
            dataset,
            checksum,
        )
        for (key, run, dataset, checksum), (steps, timestamps, values) in points.items()
    ]
    return tuple(by_series(found).values())


def links_of(run: Json) -> tuple[ModelLink, ...]:
    """Return which logged models a run, which was got rather than searched, made and
    used.
    """
    made = (run.get("outputs") or {}).get("model_outputs") or ()
    used = (run.get("inputs") or {}).get("model_inputs") or ()
    return (
        *(_link(each, "output") for each in made),
        *(_link(each, "input") for each in used),
    )


def _link(entry: Json, role: Literal["input", "output"]) -> ModelLink:
    model = Ref("logged_model", str(entry["model_id"]))
    return ModelLink(model, role, int(entry.get("step") or 0))
