"""Registered models, from the tables ``registered_model*`` and ``model_version*``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from mlmigrate import marks
from mlmigrate.artifacts import lift_files
from mlmigrate.model import (
    Alias,
    Finding,
    Item,
    ModelVersion,
    Note,
    Problem,
    Ref,
    RegisteredModel,
)
from mlmigrate.stores.mlflow_db.tables import Rows, Tables
from mlmigrate.stores.mlflow_db.values import escapes, text, time

_VERSION = (
    "version",
    "creation_time",
    "last_updated_time",
    "description",
    "user_id",
    "current_stage",
    "source",
    "run_id",
    "status",
    "status_message",
    "run_link",
    "storage_location",
)


def names(tables: Tables) -> Iterator[str]:
    """Yield the names of all models."""
    for (name,) in tables.keyed("registered_models", "name"):
        yield str(name)


def read(tables: Tables, ref: Ref) -> Item | None:
    """Read one model with its versions and aliases; None where there is none."""
    only: dict[str, Any] = {"name": ref.id}
    rows = tables.rows(
        "registered_models",
        "name",
        "description",
        "creation_time",
        "last_updated_time",
        where=only,
    )
    if not rows:
        return None
    _, description, created, updated = rows[0]
    tags = tables.rows("registered_model_tags", "key", "value", where=only)
    pairs = [(text(key) or "", text(value) or "") for key, value in tags]
    aliases = tables.rows("registered_model_aliases", "alias", "version", where=only)
    where = f"{tables.location} model {ref.id}"
    findings: list[Finding] = []
    versions = _versions(tables, ref.id, only, where, findings)
    header = RegisteredModel(
        ref.id,
        text(description) or None,
        time(created, "creation_time", where, findings),
        time(updated, "last_updated_time", where, findings),
    )
    lifted = marks.lift(pairs)
    findings += escapes(where, header, lifted)
    return Item(
        ref,
        header,
        origin=ref.id,
        tags=lifted.tags,
        versions=tuple(versions),
        aliases=tuple(_aliases(aliases, where, findings)),
        findings=tuple(findings),
    )


def _aliases(rows: Rows, where: str, findings: list[Finding]) -> Iterator[Alias]:
    for alias, number in rows:
        if isinstance(number, int):
            yield Alias(text(alias) or "", number)
        else:
            what = f"alias {alias!r} names no version: {number!r}"
            findings.append(Problem(where, what))


def _versions(
    tables: Tables,
    model: str,
    only: Mapping[str, Any],
    where: str,
    findings: list[Finding],
) -> list[ModelVersion]:
    tags: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for number, key, value in tables.rows(
        "model_version_tags", "version", "key", "value", where=only
    ):
        tags[number].append((text(key) or "", text(value) or ""))
    versions, hidden = [], 0
    for row in tables.rows("model_versions", *_VERSION, where=only):
        fields = dict(zip(_VERSION, row, strict=True))
        number = fields["version"]
        if fields["current_stage"] == "Deleted_Internal":
            hidden += 1
        elif isinstance(number, int):
            place = f"{where} version {number}"
            versions.append(_version(model, fields, tags[number], place, findings))
        else:
            what = f"version {number!r} is no number: not copied"
            findings.append(Problem(where, what))
    if hidden:
        what = f"{hidden} internally deleted versions are not copied"
        findings.append(Note(where, what))
    return versions


def _version(
    model: str,
    fields: Mapping[str, Any],
    pairs: list[tuple[str, str]],
    where: str,
    findings: list[Finding],
) -> ModelVersion:
    number: int = fields["version"]
    lifted = marks.lift(pairs)
    created = time(fields["creation_time"], "creation_time", where, findings)
    updated = fields["last_updated_time"]
    source = text(fields["source"]) or None
    storage = text(fields["storage_location"]) or None
    led = lift_files(source, storage)
    origin = lifted.origin if marks.load(lifted.mark) else None
    run = text(fields["run_id"])
    version = ModelVersion(
        version=number,
        origin=origin or f"{model}/{number}@{created}",
        creation_time=created,
        last_updated_time=time(updated, "last_updated_time", where, findings),
        description=text(fields["description"]) or None,
        user=text(fields["user_id"]) or None,
        stage=text(fields["current_stage"]) or "None",
        source=source,
        source_run=led.run,
        source_path=led.path,
        source_model=led.model,
        storage_location=storage,
        run=Ref("run", run) if run else None,
        run_link=text(fields["run_link"]) or None,
        status=text(fields["status"]) or "READY",
        status_message=text(fields["status_message"]) or None,
        tags=lifted.tags,
        mark=lifted.mark,
    )
    findings += escapes(where, version, lifted)
    return version
