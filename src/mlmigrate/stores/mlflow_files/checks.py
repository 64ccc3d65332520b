"""What a meta.yaml says that no record can hold: told, never dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mlmigrate.mlflow_messages import whole_number
from mlmigrate.model import Problem
from mlmigrate.stores.mlflow_files import parse

Kind = Literal[
    "experiment", "run", "logged model", "model", "version", "dataset", "input"
]

_TIMES = {
    "start_time",
    "end_time",
    "deleted_time",
    "creation_time",
    "last_update_time",
    "creation_timestamp",
    "last_updated_timestamp",
}
_LIFECYCLE = ("active", "deleted")
_MODEL = {"name", "description", "creation_timestamp", "last_updated_timestamp"}
#: What is read, or is said elsewhere in the store as well.
_FIELDS: dict[Kind, set[str]] = {
    "experiment": {
        *("artifact_location", "creation_time", "experiment_id", "last_update_time"),
        *("lifecycle_stage", "name"),
    },
    "run": {
        *("artifact_uri", "deleted_time", "end_time", "entry_point_name"),
        *("experiment_id", "lifecycle_stage", "name", "run_id", "run_name"),
        *("run_uuid", "source_name", "source_type", "source_version", "start_time"),
        *("status", "tags", "user_id"),
    },
    "logged model": {
        *("artifact_location", "creation_timestamp", "experiment_id"),
        *("last_updated_timestamp", "lifecycle_stage", "model_id", "model_type"),
        *("model_uri", "name", "source_run_id", "status", "status_message"),
    },
    "model": {*_MODEL, "aliases", "latest_versions"},
    "version": {
        *_MODEL,
        *(
            "aliases",
            "current_stage",
            "model_id",
            "run_id",
            "run_link",
            "source",
            "status",
        ),
        *("status_message", "storage_location", "user_id", "version"),
    },
    "dataset": {"digest", "name", "profile", "schema", "source", "source_type"},
    "input": {
        *("destination_id", "destination_type", "source_id", "source_type", "step"),
        "tags",
    },
}
_PLAIN = {
    kind: fields - _TIMES - {"lifecycle_stage", "status", "source_type"}
    for kind, fields in _FIELDS.items()
}
#: What MLflow writes where nobody chose anything.
_DEFAULTS = {"workspace": "default"}
_NESTED = {"tags", "aliases", "latest_versions"}


def doubts(meta: Mapping[str, Any], kind: Kind, where: str) -> list[Problem]:
    """Tell which fields of the meta.yaml of a *kind* are not taken as they stand."""
    found = []
    plain = _PLAIN[kind]
    for key, value in meta.items():
        if not value and value != 0:
            continue
        if isinstance(value, str) and key in plain:
            continue  # nearly all: this runs for every field of every run
        what = _doubt(key, value, kind)
        if what is not None:
            shown = repr(value)
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            found.append(Problem(where, f"meta.yaml: {key} {shown} {what}"))
    return found


def _doubt(key: str, value: Any, kind: Kind) -> str | None:
    if key not in _FIELDS[kind] and _DEFAULTS.get(key) == value:
        return None
    if key not in _FIELDS[kind]:
        return "has no place in other stores: not copied"
    if key in _TIMES:
        time = whole_number(value)
        if time is None:
            return "is no time in milliseconds: left out"
        if isinstance(value, float) and value != time:
            return f"has parts of a millisecond: read as {time}"
        return None
    if isinstance(value, list | dict):
        return None if key in _NESTED else "is no text: left out"
    if key == "lifecycle_stage" and value not in _LIFECYCLE:
        return "is none of MLflow's: read as active"
    if kind == "logged model" and key == "status":
        known = parse.model_status(value) is not None
        return None if known else "is none of MLflow's: read as UNSPECIFIED"
    if kind == "run" and key == "status" and parse.known_status(value) is None:
        return "is none of MLflow's: read as RUNNING"
    if kind == "run" and key == "source_type" and parse.source_type(value) is None:
        return "is none of MLflow's: left out"
    if isinstance(value, bool | float):  # "1.50", written without quotes
        return "is no text: read as it stands here"
    return None
