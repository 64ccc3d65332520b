"""Runs of Neptune's own as items: what Neptune knows of them, in MLflow's words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

from mlmigrate.metrics import history
from mlmigrate.model import (
    Experiment,
    Finding,
    Item,
    MetricHistory,
    Note,
    Param,
    Ref,
    Run,
    Tag,
)
from mlmigrate.neptune_runs.attributes import Container, Scalar
from mlmigrate.neptune_runs.steps import multiplier_of, whole
from mlmigrate.neptune_runs.values import iso

#: The artifact that tells each attribute with one value, and its type.
ATTRIBUTES = "neptune/attributes.json"
NOTE = "mlflow.note.content"
#: What follows a project in the name of the experiment of its models.
REGISTRY = " (model registry)"
MULTIPLIER = "neptune.step_multiplier"
_SYS = "sys/"
#: What 2.x and 3.x say of a run in the trash.
GONE = ("sys/trashed", "sys/archived")
#: These have places of their own in a run of MLflow's.
_PLACED = {"sys/name", "sys/description", "sys/owner", "sys/tags", "sys/group_tags"}


def origin_of(container: Container) -> str:
    """Return what a run, a model or a version is at its first home."""
    kind = "" if container.kind == "run" else f"{container.kind}/"
    return f"neptune:{container.project}/{kind}{container.id}"


def experiment_name(container: Container) -> str:
    """Return the name of the experiment that holds a container as a run."""
    return container.project + ("" if container.kind == "run" else REGISTRY)


def experiment_ref(name: str) -> Ref:
    """Return the ref of the experiment that a project is, ``workspace/name``."""
    return Ref("experiment", quote(name, safe="").replace("%2F", ":"))


def experiment_item(name: str) -> Item:
    """Return the experiment that a project is."""
    ref = experiment_ref(name)
    return Item(ref, Experiment(name=name), origin=f"{ref.id}/{name}")


def run_item(container: Container, ref: Ref, multiplier: int | None = None) -> Item:
    """Return a run as the item that it is for MLflow.

    Args:
        container: the run.
        ref: its address.
        multiplier: of its steps; None for the least that makes them whole.

    Raises:
        ItemError: its steps are fractions, and *multiplier* does not make them whole.
    """
    findings: list[Finding] = list(container.findings)
    steps = [series.steps for series in container.floats.values()]
    factor = multiplier_of(steps) if multiplier is None else multiplier
    if factor != 1:
        what = f"its steps are fractions: they are times {factor}"
        findings.append(Note(f"{container.project}/{container.id}", what))
    metrics = tuple(_metrics(container, factor))
    return Item(
        ref,
        _header(container, metrics),
        origin=origin_of(container),
        params=tuple(
            Param(path, text_of(scalar))
            for path, scalar in container.scalars.items()
            if not path.startswith(_SYS)
        ),
        tags=tuple(_tags(container, factor)),
        metrics=metrics,
        artifacts=container.artifacts,
        findings=tuple(findings),
    )


def _metrics(container: Container, factor: int) -> Iterator[MetricHistory]:
    for path, series in container.floats.items():
        steps = whole(path, series.steps, factor)
        yield history(path, steps, series.timestamps, series.values)


def _header(container: Container, metrics: tuple[MetricHistory, ...]) -> Run:
    running = container.text("sys/state").lower() in ("running", "active")
    failed = container.scalars.get("sys/failed")
    status = "RUNNING" if running else "FINISHED"
    if failed is not None and failed.value is True:
        status = "FAILED"
    start = _time(container, "sys/creation_time")
    if start is None:
        start = container.began
    return Run(
        experiment=experiment_ref(experiment_name(container)),
        name=container.text("sys/name") or container.id,
        status=status,
        start_time=start,
        end_time=None if status == "RUNNING" else _end(container, start, metrics),
        user=container.text("sys/owner") or None,
        lifecycle="deleted" if any(_is_true(container, p) for p in GONE) else "active",
    )


def _end(
    container: Container, start: int | None, metrics: tuple[MetricHistory, ...]
) -> int | None:
    """Return when a run ended: when its client was last heard of, else after the time
    that it ran, but not before its last point. Neptune keeps no such time itself.
    """
    last = max(
        (int(each.timestamps.max()) for each in metrics if len(each.steps)),
        default=None,
    )
    heard, ran = _time(container, "sys/ping_time"), container.number("sys/running_time")
    if heard is None and start is not None and ran is not None:
        heard = start + round(ran * 1000)
    if heard is None:
        heard = container.heard
    known = [time for time in (heard, last) if time is not None]
    return max(known) if known else _time(container, "sys/modification_time")


def _time(container: Container, path: str) -> int | None:
    found = container.scalars.get(path)
    if found is None or found.type != "datetime" or not isinstance(found.value, int):
        return None
    return found.value


def _is_true(container: Container, path: str) -> bool:
    found = container.scalars.get(path)
    return found is not None and found.value is True


def _tags(container: Container, factor: int) -> Iterator[Tag]:
    yield Tag("neptune.project", container.project)
    yield Tag("neptune.run_id", container.id)
    if container.kind != "run":
        yield Tag("neptune.kind", container.kind)
    if description := container.text("sys/description"):
        yield Tag(NOTE, description)
    if factor != 1:
        yield Tag(MULTIPLIER, str(factor))
    for path in ("sys/tags", "sys/group_tags"):
        if words := container.words(path):
            yield Tag(f"neptune.{path.removeprefix(_SYS)}", json.dumps(sorted(words)))
    for path, scalar in container.scalars.items():
        if path.startswith(_SYS) and path not in _PLACED:
            yield Tag(f"neptune.{path.removeprefix(_SYS)}", text_of(scalar))
    for name, value in container.about.items():
        if f"{_SYS}{name}" not in container.scalars:
            yield Tag(f"neptune.{name}", value)


def text_of(scalar: Scalar) -> str:
    """Return a value as a param holds it: as Python writes numbers and truth values,
    times by ISO 8601, sets as JSON.
    """
    value = scalar.value
    if scalar.type == "datetime" and isinstance(value, int):
        return iso(value)
    if isinstance(value, tuple):
        return json.dumps(sorted(value), ensure_ascii=False)
    return value if isinstance(value, str) else repr(value)


def attributes_text(container: Container) -> str:
    """Return the text of `ATTRIBUTES`; '' where there is none to tell."""
    said = {
        path: {
            "type": scalar.type,
            "value": sorted(scalar.value)
            if isinstance(scalar.value, tuple)
            else iso(scalar.value)
            if scalar.type == "datetime" and isinstance(scalar.value, int)
            else scalar.value,
        }
        for path, scalar in sorted(container.scalars.items())
    }
    return json.dumps(said, indent=1) + "\n" if said else ""
