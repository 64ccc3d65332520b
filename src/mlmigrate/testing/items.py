"""Items to copy, with something in every field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    DatasetInput,
    Experiment,
    Item,
    LoggedModel,
    MetricHistory,
    ModelLink,
    ModelMetric,
    ModelVersion,
    Param,
    Ref,
    RegisteredModel,
    Run,
    Tag,
)

#: 2023-11-14T22:13:20Z, in milliseconds.
NOW = 1_700_000_000_000
RUN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
MODEL = f"m-{RUN}"


def points(key: str, *triples: tuple[int, float], at: int = NOW) -> MetricHistory:
    """Return the history of (step, value) pairs, a second apart."""
    steps = [step for step, _ in triples]
    return history(
        key,
        np.array(steps, dtype=np.int64),
        np.array([at + 1000 * max(step, 0) for step in steps], dtype=np.int64),
        np.array([value for _, value in triples], dtype=np.float64),
    )


def experiment(id: str = "1", name: str = "churn", **more: Any) -> Item:
    """Return an experiment."""
    tags = more.pop("tags", ())
    header = Experiment(
        name, **{"creation_time": NOW - 5000, "last_update_time": NOW - 4000, **more}
    )
    return Item(Ref("experiment", id), header, f"{id}/{name}", tags=tags)


def run(id: str = RUN, experiment: str = "1", **more: Any) -> Item:
    """Return a finished run; keywords are fields of the item or of its header."""
    own = {name: more.pop(name) for name in list(more) if name in _ITEM_FIELDS}
    header = {
        "name": "tidy-owl-1",
        "status": "FINISHED",
        "start_time": NOW,
        "end_time": NOW + 60_000,
        "user": "dana",
        **more,
    }
    return Item(Ref("run", id), Run(Ref("experiment", experiment), **header), id, **own)


_ITEM_FIELDS = {"params", "tags", "metrics", "inputs", "artifacts"}
_ITEM_FIELDS |= {"links", "model_metrics"}


def logged_model(id: str = MODEL, experiment: str = "1", **more: Any) -> Item:
    """Return a logged model; keywords are fields of the item or of its header."""
    own = {name: more.pop(name) for name in list(more) if name in _ITEM_FIELDS}
    header = {
        "name": "net",
        "status": "READY",
        "source_run": Ref("run", RUN),
        "creation_time": NOW + 10_000,
        "last_updated_time": NOW + 20_000,
        **more,
    }
    home = Ref("experiment", experiment)
    return Item(Ref("logged_model", id), LoggedModel(home, **header), id, **own)


def link(id: str = MODEL, step: int = 0, role: Any = "output") -> ModelLink:
    """Return a link of a run to a logged model."""
    return ModelLink(Ref("logged_model", id), role, step)


def model_points(
    key: str,
    *triples: tuple[int, float],
    run: str = RUN,
    dataset: tuple[str, str] | None = None,
    at: int = NOW,
) -> ModelMetric:
    """Return what *run* measured of a logged model: pairs of step and value."""
    name, checksum = dataset or (None, None)
    return ModelMetric(Ref("run", run), points(key, *triples, at=at), name, checksum)


def version(model: str, number: int, created: int, **more: Any) -> ModelVersion:
    """Return a model version."""
    return ModelVersion(
        number,
        f"{model}/{number}@{created}",
        creation_time=created,
        last_updated_time=created,
        **more,
    )


def model(name: str, *versions: ModelVersion, aliases: Sequence[Alias] = ()) -> Item:
    """Return a registered model."""
    return Item(
        Ref("registered_model", name),
        RegisteredModel(
            name, "predicts", NOW, max(v.creation_time or 0 for v in versions)
        ),
        name,
        tags=(Tag("team", "growth"),),
        versions=versions,
        aliases=tuple(aliases),
    )


def everything() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    """Return an item of each kind with something in every field, and its artifacts."""
    data = {"model/weights.bin": bytes(range(256)) * 100, "notes ä.txt": b"", "x": b"1"}
    full = run(
        params=(
            Param("lr", "0.1"),
            Param("empty", ""),
            Param("nested/key", "line\nbreak"),
        ),
        tags=(Tag("note", "größer 🚀"), Tag("mlflow.source.name", "train.py")),
        metrics=(
            points("loss", *((step, 1 / (step + 1)) for step in range(300))),
            points("val/acc", (-3, 0.5), (2**40, 0.25)),
        ),
        inputs=(
            DatasetInput(
                "cats",
                "d1",
                "local",
                '{"uri": "/cats"}',
                schema="{}",
                profile='{"rows": 3}',
                tags=(Tag("mlflow.data.context", "training"),),
            ),
        ),
        artifacts=tuple(Artifact(path, len(b)) for path, b in sorted(data.items())),
    )
    child = run(
        OTHER,
        name="child",
        parent=Ref("run", RUN),
        lifecycle="deleted",
        deleted_time=NOW + 70_000,
    )
    registered = model(
        "classifier",
        version(
            "classifier",
            1,
            NOW + 1,
            description="first",
            user="mei",
            stage="Production",
            run=Ref("run", RUN),
            source=f"runs:/{RUN}/model",
            source_run=Ref("run", RUN),
            source_path="model",
            tags=(Tag("ok", "yes"),),
        ),
        version("classifier", 3, NOW + 3, status="FAILED_REGISTRATION"),
        aliases=[Alias("champion", 3)],
    )
    items = [
        experiment(tags=(Tag("team", "growth"),)),
        full,
        child,
        registered,
    ]
    return items, {(full.ref, path): content for path, content in data.items()}


def with_logged_models() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    """Return `everything`, and logged models that its runs made, used and measured.

    One was made at a step above 0 and is registered; one is deleted and has no run.
    """
    items, files = everything()
    experiment, made, child, registered = items
    data = {"MLmodel": b"flavors: {}\n", "data/weights ü.bin": bytes(1000)}
    net = logged_model(
        model_type="classifier",
        params=(Param("layers", "3"), Param("empty", "")),
        tags=(Tag("stage", "größer 🚀"),),
        model_metrics=(
            model_points("acc", (0, 0.5), (7, 0.75)),
            model_points("acc", (7, 0.25), run=OTHER, dataset=("cats", "d1")),
            model_points("loss", *((step, 1 / (step + 1)) for step in range(200))),
        ),
        artifacts=tuple(Artifact(path, len(b)) for path, b in sorted(data.items())),
    )
    lost = logged_model(
        f"m-{OTHER}",
        name="lost",
        status="FAILED",
        status_message="no space",
        source_run=None,
        lifecycle="deleted",
    )
    made = replace(made, links=(link(step=7), link(lost.ref.id)))
    child = replace(child, links=(link(role="input"),))
    of_model = replace(
        registered.versions[1],
        source=f"models:/{MODEL}",
        source_path="",
        source_model=net.ref,
        logged_model=net.ref,
        run=made.ref,
        storage_location="/gone/models",
    )
    registered = replace(registered, versions=(registered.versions[0], of_model))
    files.update({(net.ref, path): content for path, content in data.items()})
    return [experiment, made, child, net, lost, registered], files


def rows_of(item: Item) -> list[tuple[str, int, int, float]]:
    """Return the points of a run as `Peeked` has them: by key, step and time."""
    return sorted(
        (metric.key, *row)
        for metric in item.metrics
        for row in zip(
            metric.steps.tolist(),
            metric.timestamps.tolist(),
            metric.values.tolist(),
            strict=True,
        )
    )
