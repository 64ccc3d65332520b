"""Logged models: ``<experiment>/models/m-…`` (MLflow >= 3.0)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlmigrate import marks
from mlmigrate.metrics import by_series, history
from mlmigrate.mlflow_messages import whole_number
from mlmigrate.model import (
    Artifact,
    Finding,
    Item,
    LoggedModel,
    ModelMetric,
    Param,
    Problem,
    Ref,
)
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.checks import doubts
from mlmigrate.stores.mlflow_files.layout import ItemFolder, read_meta_file
from mlmigrate.stores.mlflow_files.records import (
    bytes_of,
    files_of,
    key_of,
    read_pairs,
)

#: Lines of one file that are told of when they are no points.
_TOLD = 20


def read_logged_model(
    ref: Ref,
    folder: ItemFolder,
    where: str,
    elsewhere: Sequence[tuple[Path, str]],
    artifacts: tuple[list[Artifact], list[Finding]],
) -> Item:
    """Read a logged model, whose *artifacts* were listed already. Points of it are also
    in the folders *elsewhere*, each given with its place in words.
    """
    meta, problems = read_meta_file(folder.path, where)
    if problems:
        problems.append(Problem(where, "logged model recovered from its other files"))
    findings: list[Finding] = [*folder.findings, *problems]
    findings += doubts(meta, "logged model", where)
    said = parse.text(meta.get("model_id"))
    if said is not None and said != folder.path.name:
        findings.append(
            Problem(where, f"its meta.yaml says model {said}; kept as {ref.id}")
        )
    said = parse.text(meta.get("experiment_id"))
    if said is not None and said != folder.experiment.split("~")[0]:
        what = f"its meta.yaml says experiment {said}; kept in {folder.experiment}"
        findings.append(Problem(where, what))
    pairs, wrong = read_pairs(folder.path / "tags", where)
    findings += wrong
    lifted = marks.lift(pairs)
    params, wrong = read_pairs(folder.path / "params", where)
    findings += wrong
    metrics: list[ModelMetric] = []
    for path, place in ((folder.path, where), *elsewhere):
        found, wrong = _metrics(path / "metrics", place)
        metrics += found
        findings += wrong
    run = parse.text(meta.get("source_run_id"))
    header = LoggedModel(
        experiment=Ref("experiment", folder.experiment),
        name=parse.text(meta.get("name")) or ref.id,
        status=parse.model_status(meta.get("status")) or "UNSPECIFIED",
        status_message=parse.text(meta.get("status_message")),
        model_type=parse.text(meta.get("model_type")),
        source_run=Ref("run", run) if run else None,
        creation_time=whole_number(meta.get("creation_timestamp")),
        last_updated_time=whole_number(meta.get("last_updated_timestamp")),
        lifecycle="deleted" if meta.get("lifecycle_stage") == "deleted" else "active",
        artifact_location=parse.text(meta.get("artifact_location")),
    )
    origin = lifted.origin if marks.load(lifted.mark) else None
    files, wrong = artifacts
    return Item(
        ref,
        header,
        origin=origin or ref.id,
        params=tuple(Param(key, value) for key, value in params),
        tags=lifted.tags,
        model_metrics=tuple(by_series(metrics).values()),
        artifacts=tuple(files),
        mark=lifted.mark,
        findings=(*findings, *wrong),
    )


# -- metrics --------------------------------------------------------------------------


def _metrics(folder: Path, where: str) -> tuple[list[ModelMetric], list[Finding]]:
    """Read files of lines ``timestamp value step run``, or with a dataset behind."""
    findings: list[Finding] = []
    found: list[ModelMetric] = []
    for name, path in files_of(folder):
        key = key_of(name, "metrics", where, findings)
        try:
            data = bytes_of(path)
        except OSError as error:
            what = f"metrics/{key} cannot be read: {error.strerror}"
            findings.append(Problem(where, what))
            continue
        metrics, wrong = read_points(key, data)
        said = [f"metrics/{key}: {each}" for each in wrong[:_TOLD]]
        if len(wrong) > _TOLD:
            more = len(wrong) - _TOLD
            said.append(f"metrics/{key}: {more} more lines are no points")
        findings += [Problem(where, each) for each in said]
        if not metrics and not wrong:
            findings.append(Problem(where, f"metrics/{key} is empty: not copied"))
        found += metrics
    return found, findings


#: As Windows and old Macs write it; "\\r\\r\\n" comes of converting twice.
_LINE_END = re.compile(r"\r+\n?|\n")
#: A run, and the name and digest of a dataset.
_Owner = tuple[str, str | None, str | None]


def read_points(key: str, data: bytes) -> tuple[list[ModelMetric], list[str]]:
    """Parse the lines of one metric; tell what is wrong with those that are no points.

    A dataset's name may hold blanks.
    """
    points: dict[_Owner, list[list[Any]]] = {}
    wrong: list[str] = []
    text, _ = parse.read_text(data)
    lines = _LINE_END.split(text)
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            wrong.append(f"line {number} is blank")
            continue
        try:
            if len(fields) < 4 or len(fields) == 5:
                raise ValueError
            timestamp, value, step = int(fields[0]), float(fields[1]), int(fields[2])
            np.array([timestamp, step], dtype=np.int64)  # OverflowError beyond 64 bits
        except (ValueError, OverflowError):
            wrong.append(f"line {number} is not a metric point: {line[:80]!r}")
            continue
        dataset = " ".join(fields[4:-1]) or None
        owner = (fields[3], dataset, fields[-1] if dataset else None)
        own = points.setdefault(owner, [[], [], []])
        for column, entry in zip(own, (step, timestamp, value), strict=True):
            column.append(entry)
    return [
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
        for (run, dataset, checksum), (steps, timestamps, values) in points.items()
    ], wrong
