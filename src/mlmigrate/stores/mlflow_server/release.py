"""Which MLflow a server runs, and what that one cannot hold yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlmigrate.contract import Capabilities
from mlmigrate.errors import ItemError
from mlmigrate.model import Kind
from mlmigrate.stores.mlflow_server.rest import Refused, Rest

_VERSION = re.compile(r"(\d+)\.(\d+)(\.\w+)*")
_DATASETS = (2, 4)
_ALIASES = (2, 3)
_LOGGED_MODELS = (3, 0)
#: Takes spans by OTLP into its database, and then lets all else be said of the trace
#: that it makes of them (``SqlAlchemyStore.start_trace``): older ones fail there.
_TRACES = (3, 13)
_SEARCHES_EXPERIMENTS = (1, 28)
_NEWEST = (1_000, 0)

#: Until which release a field was shorter, and how long it was.
_SHORTER = (
    ((3, 16), "experiment_tag.value", 5000),
    ((3, 2), "model_version_tag.value", 5000),
    ((2, 17), "tag.value", 5000),
    ((2, 15), "dataset.schema", 65_535),
    ((2, 8), "param.value", 500),
    ((1, 28), "param.value", 250),
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of MLflow."""

    number: tuple[int, int]
    name: str


def release_of(rest: Rest) -> Release:
    """Find out which MLflow a server runs; nothing is changed there."""
    found = _VERSION.fullmatch(_told(rest))
    if found:
        number = int(found[1]), int(found[2])
        return Release(number, f"MLflow {found[0]}")
    # The first of 2.x do not tell, and a proxy may hide it.
    if _knows(rest, "runs/log-inputs"):
        return Release(_NEWEST, "an MLflow of a version that it does not tell")
    if _knows(rest, "experiments/search"):
        return Release(_SEARCHES_EXPERIMENTS, "an MLflow before 2.4")
    return Release((1, 0), "an MLflow before 1.28")


def _told(rest: Rest) -> str:
    try:
        with rest.download("/version") as stream:
            return stream.read(100).decode(errors="replace").strip()
    except (ItemError, OSError):
        return ""


def _knows(rest: Rest, path: str) -> bool:
    try:
        rest.post(path, {})  # lacks what it needs: refused where it is known
    except Refused as refusal:
        return not refusal.unknown
    return True


def lacks(release: Release) -> list[str]:
    """Return what MLflow has, but this release has no place for."""
    return [
        name
        for since, name in ((_DATASETS, "dataset inputs"), (_ALIASES, "aliases"))
        if release.number < since
    ]


def has_workspaces(rest: Rest) -> bool:
    """Tell whether a server has workspaces. It says so whatever workspace it is asked
    in; to ask for them is refused, by one without, like what may be tried again.
    """
    try:
        return bool(rest.get("/api/3.0/mlflow/server-info").get("workspaces_enabled"))
    except Refused:
        return False  # MLflow before 3.10


#: Where entities of each kind are made.
_MADE: Mapping[Kind, str] = {
    "evaluation_dataset": "/api/3.0/mlflow/datasets/create",
    "scorer": "/api/3.0/mlflow/scorers/register",
    "label_schema": "/api/3.0/mlflow/label-schemas/create",
    "review_queue": "/api/3.0/mlflow/review-queues/create",
    "issue": "/api/3.0/mlflow/issues",
    "webhook": "webhooks",
    "mcp_server": "/api/3.0/mlflow/mcp-servers",
}


def kinds_of(rest: Rest) -> frozenset[Kind]:
    """Find out which kinds of entities a server has; nothing is changed there."""
    return frozenset(kind for kind, path in _MADE.items() if _knows(rest, path))


def narrowed(
    current: Capabilities, release: Release, kinds: frozenset[Kind]
) -> Capabilities:
    """Return what *release* can hold of what the *current* MLflow can, where it has
    entities of some *kinds*.
    """
    text = dict(current.text)
    for until, name, limit in _SHORTER:
        if release.number < until:
            text[name] = limit
    return replace(
        current,
        text=text,
        dataset_inputs=release.number >= _DATASETS,
        aliases=release.number >= _ALIASES,
        logged_models=(
            current.logged_models if release.number >= _LOGGED_MODELS else None
        ),
        traces=current.traces if release.number >= _TRACES else None,
        entities=current.entities & kinds,
    )
