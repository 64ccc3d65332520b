"""The datasets that a run used: its ``inputs/``, and ``datasets/`` beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlmigrate.model import DatasetInput, Finding, Problem, Tag
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.checks import doubts
from mlmigrate.stores.mlflow_files.layout import read_meta_file
from mlmigrate.stores.mlflow_files.links import links_model
from mlmigrate.stores.mlflow_files.strays import entries, strangers


def read_inputs(path: Path, where: str) -> tuple[list[DatasetInput], list[Finding]]:
    """Read the inputs of the run in the folder *path*."""
    inputs: dict[str, DatasetInput] = {}
    findings: list[Finding] = []
    if not (path / "inputs").is_dir():
        return [], findings
    folders, files = entries(path / "inputs")
    findings += strangers(path / "inputs", (), files, (), f"{where}/inputs")
    for name in folders:
        place = f"{where}/inputs/{name}"
        meta, problems = read_meta_file(path / "inputs" / name, place)
        findings += [*problems, *doubts(meta, "input", place)]
        source = parse.text(meta.get("source_id"))
        if source is None:
            if not problems:
                findings.append(Problem(place, "names no dataset: not copied"))
            continue
        if links_model(meta):
            continue
        if "/" in source or source in (".", ".."):
            findings.append(Problem(place, f"names no dataset: {source!r}"))
            continue
        tags = _tags(meta.get("tags"), place, findings)
        if source in inputs:  # one run has a dataset once
            what = f"dataset {source} stands twice among its inputs: merged"
            findings.append(Problem(place, what))
            had = {tag.key for tag in inputs[source].tags}
            new = tuple(tag for tag in tags if tag.key not in had)
            inputs[source] = replace(inputs[source], tags=(*inputs[source].tags, *new))
            continue
        dataset = path.parent / "datasets" / source
        there = f"{place}: dataset {source}"
        data, problems = read_meta_file(dataset, there)
        findings += [*problems, *doubts(data, "dataset", there)]
        if data:
            inputs[source] = _input(data, tags)
    return list(inputs.values()), findings


def unused_datasets(
    experiment: Path, runs: Iterable[Path], where: str
) -> list[Finding]:
    """Name the datasets of an experiment that none of its *runs* used: only inputs of
    runs are copied.
    """
    if not (experiment / "datasets").is_dir():
        return []
    held = set(entries(experiment / "datasets")[0])
    for run in runs:
        if held and (run / "inputs").is_dir():
            for name in entries(run / "inputs")[0]:
                meta, _ = read_meta_file(run / "inputs" / name, "")
                held.discard(parse.text(meta.get("source_id")) or "")
    what = "is an input of no run: not copied"
    return [Problem(f"{where}/datasets/{name}", what) for name in sorted(held)]


def _tags(tags: Any, place: str, findings: list[Finding]) -> tuple[Tag, ...]:
    if isinstance(tags, dict):
        return tuple(Tag(str(key), str(value)) for key, value in tags.items())
    if tags:
        what = f"its tags {tags!r} cannot be read: not copied"
        findings.append(Problem(place, what))
    return ()


def _input(data: dict[str, Any], tags: tuple[Tag, ...]) -> DatasetInput:
    return DatasetInput(
        name=str(data.get("name") or ""),
        digest=str(data.get("digest") or ""),
        source_type=str(data.get("source_type") or ""),
        source=str(data.get("source") or ""),
        schema=parse.text(data.get("schema")),
        profile=parse.text(data.get("profile")),
        tags=tags,
    )
