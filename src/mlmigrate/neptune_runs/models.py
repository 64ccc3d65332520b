"""Neptune's model registry: models and their versions, as MLflow registers them.

A registered model of MLflow's holds neither series nor files: those of a Neptune model
or version are a run, in an experiment of their own, which the version names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mlmigrate.model import Finding, Item, ModelVersion, Note, Ref, RegisteredModel, Tag
from mlmigrate.neptune_runs.attributes import Container
from mlmigrate.neptune_runs.items import text_of

_STAGES = {
    "none": "None",
    "staging": "Staging",
    "production": "Production",
    "archived": "Archived",
}
_PLACED = ("sys/description", "sys/stage")
_VERSION_ID = re.compile(r"(?P<model>.+)-(?P<number>\d{1,9})$")


def model_of_version(id: str) -> tuple[str, int] | None:
    """Return the model and the number of the version ``PROJ-MODEL-3``."""
    match = _VERSION_ID.match(id)
    return (match["model"], int(match["number"])) if match else None


def model_item(
    ref: Ref,
    model: Container | None,
    versions: Iterable[tuple[int, Ref, Container]],
    findings: Iterable[Finding] = (),
) -> Item:
    """Return a registered model.

    Args:
        ref: its address; its id is the model's.
        model: what is known of it; None where only versions are there.
        versions: the number of each, the run that holds all of it, and what is known.
        findings: what cannot be read of them.
    """
    created = model.number("sys/creation_time") if model else None
    changed = model.number("sys/modification_time") if model else None
    found = list(findings)
    header = RegisteredModel(
        name=ref.id,
        description=(model.text("sys/description") or None) if model else None,
        creation_time=created if isinstance(created, int) else None,
        last_updated_time=changed if isinstance(changed, int) else None,
    )
    known = [_version(ref.id, *each, found) for each in versions]
    return Item(
        ref,
        header,
        origin=ref.id,
        tags=tuple(_tags(model)) if model else (),
        versions=tuple(sorted(known, key=lambda version: version.version)),
        findings=tuple(found),
    )


def _version(
    name: str, number: int, run: Ref, version: Container, findings: list[Finding]
) -> ModelVersion:
    created = version.number("sys/creation_time")
    changed = version.number("sys/modification_time")
    said = version.text("sys/stage") or "none"
    stage = _STAGES.get(said.lower())
    if stage is None:
        what = f"version {number} has the stage {said!r}, which MLflow has not"
        findings.append(Note(f"model {name}", what))
    at = created if isinstance(created, int) else None
    return ModelVersion(
        version=number,
        origin=f"{name}/{number}@{at}",
        creation_time=at,
        last_updated_time=changed if isinstance(changed, int) else None,
        description=version.text("sys/description") or None,
        user=version.text("sys/owner") or None,
        stage=stage or "None",
        source=f"runs:/{run.id}",
        source_run=run,
        source_path="",
        run=run,
        tags=tuple(_tags(version)),
    )


def _tags(container: Container) -> Iterator[Tag]:
    yield Tag("neptune.project", container.project)
    for path, scalar in container.scalars.items():
        if path not in _PLACED and text_of(scalar):
            key = (
                path.replace("sys/", "neptune.", 1) if path.startswith("sys/") else path
            )
            yield Tag(key, text_of(scalar))
