"""The logged models that a run made and used: ``outputs/`` and ``inputs/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlmigrate.mlflow_messages import whole_number
from mlmigrate.model import Finding, ModelLink, Problem, Ref
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.checks import doubts
from mlmigrate.stores.mlflow_files.layout import read_meta_file
from mlmigrate.stores.mlflow_files.strays import entries, strangers


def read_links(path: Path, where: str) -> tuple[list[ModelLink], list[Finding]]:
    """Read which logged models the run in the folder *path* made, and used."""
    findings: list[Finding] = []
    links: dict[tuple[str, str], ModelLink] = {}
    for link in _outputs(path / "outputs", f"{where}/outputs", findings):
        links.setdefault((link.role, link.model.id), link)
    for link in _inputs(path / "inputs", f"{where}/inputs", findings):
        links.setdefault((link.role, link.model.id), link)
    return list(links.values()), findings


def _outputs(folder: Path, where: str, findings: list[Finding]) -> Iterator[ModelLink]:
    if not folder.is_dir():
        return
    names, files = entries(folder)
    findings += strangers(folder, (), files, (), where)
    for name in names:
        meta, problems = read_meta_file(folder / name, f"{where}/{name}")
        findings += [*problems, *doubts(meta, "input", f"{where}/{name}")]
        step = whole_number(meta.get("step")) or 0
        # The folder bears the model's id; which field does depends on the release.
        yield ModelLink(Ref("logged_model", name), "output", step)


def _inputs(folder: Path, where: str, findings: list[Finding]) -> Iterator[ModelLink]:
    if not folder.is_dir():
        return
    for name in entries(folder)[0]:
        meta, _ = read_meta_file(folder / name, "")  # whose faults are told elsewhere
        if not links_model(meta):
            continue
        model = parse.text(meta.get("source_id"))
        if model is None:
            what = "names no logged model: not copied"
            findings.append(Problem(f"{where}/{name}", what))
            continue
        step = whole_number(meta.get("step")) or 0
        yield ModelLink(Ref("logged_model", model), "input", step)


def links_model(meta: dict[str, Any]) -> bool:
    """Tell whether an input of a run is a logged model rather than a dataset."""
    return str(meta.get("source_type", "DATASET")).upper().startswith("MODEL")
