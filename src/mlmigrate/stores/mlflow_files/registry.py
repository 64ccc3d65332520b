"""The model registry of a file store: ``models/<name>/version-<n>/``."""

from __future__ import annotations

import re
from pathlib import Path

from mlmigrate import marks
from mlmigrate.artifacts import lift_files, lift_model
from mlmigrate.mlflow_messages import whole_number
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
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.checks import doubts
from mlmigrate.stores.mlflow_files.layout import read_meta_file
from mlmigrate.stores.mlflow_files.records import read_pairs
from mlmigrate.stores.mlflow_files.strays import unknown

#: As MLflow writes it; "version-01" and "version-1" would be one.
_VERSION = re.compile(r"version-([1-9][0-9]{0,8}|0)$")
#: A version's number, as an alias has it.
_NUMBER = re.compile(r"[0-9]{1,9}$")
_MODEL_FOLDERS = frozenset({"tags", "aliases"})
_VERSION_FOLDERS = frozenset({"tags"})


def read_model(ref: Ref, folder: Path, where: str) -> Item:
    """Read a registered model and its versions."""
    meta, problems = read_meta_file(folder, where)
    findings: list[Finding] = [*problems, *doubts(meta, "model", where)]
    pairs, wrong = read_pairs(folder / "tags", where)
    findings += wrong
    alias_pairs, wrong = read_pairs(folder / "aliases", where)
    findings += wrong
    aliases = []
    for alias, value in alias_pairs:
        if _NUMBER.match(value.strip()):
            aliases.append(Alias(alias, int(value)))
        else:
            what = f"alias {alias!r} names no version: {value[:80]!r}"
            findings.append(Problem(where, what))
    name = parse.text(meta.get("name")) or ref.id
    versions, hidden = [], 0
    folders = sorted(
        path for path in folder.iterdir() if _VERSION.match(path.name) and path.is_dir()
    )
    known = _MODEL_FOLDERS | {path.name for path in folders}
    findings += unknown(folder, known, where)
    for path in folders:
        version, wrong = _read_version(path, name, f"{where}/{path.name}")
        findings += wrong
        if version.stage == "Deleted_Internal":
            hidden += 1
        else:
            versions.append(version)
    if hidden:
        what = f"{hidden} internally deleted versions are not copied"
        findings.append(Note(where, what))
    return Item(
        ref,
        RegisteredModel(
            name=name,
            description=parse.text(meta.get("description")),
            creation_time=whole_number(meta.get("creation_timestamp")),
            last_updated_time=whole_number(meta.get("last_updated_timestamp")),
        ),
        origin=name,
        tags=marks.lift(pairs).tags,
        versions=tuple(sorted(versions, key=lambda version: version.version)),
        aliases=tuple(aliases),
        findings=tuple(findings),
    )


def _read_version(
    path: Path, name: str, where: str
) -> tuple[ModelVersion, list[Finding]]:
    meta, problems = read_meta_file(path, where)
    findings: list[Finding] = [
        *problems,
        *doubts(meta, "version", where),
        *unknown(path, _VERSION_FOLDERS, where),
    ]
    number = path.name.removeprefix("version-")
    said = parse.text(meta.get("version"))
    if said is not None and said != number:
        what = f"its meta.yaml says version {said}; kept as the folder's"
        findings.append(Problem(where, what))
    pairs, wrong = read_pairs(path / "tags", where)
    findings += wrong
    lifted = marks.lift(pairs)
    created = whole_number(meta.get("creation_timestamp"))
    source = parse.text(meta.get("source"))
    storage = parse.text(meta.get("storage_location"))
    led = lift_files(source, storage)
    model_id = parse.text(meta.get("model_id"))
    if model_id == lift_model(source)[0]:
        model_id = None  # its source says so, and in a database that alone
    run_id = parse.text(meta.get("run_id"))
    origin = lifted.origin if marks.load(lifted.mark) else None
    version = ModelVersion(
        version=int(number),
        origin=origin or f"{name}/{number}@{created}",
        creation_time=created,
        last_updated_time=whole_number(meta.get("last_updated_timestamp")),
        description=parse.text(meta.get("description")),
        user=parse.text(meta.get("user_id")),
        stage=str(meta.get("current_stage") or "None"),
        source=source,
        source_run=led.run,
        source_path=led.path,
        storage_location=storage,
        run=Ref("run", run_id) if run_id else None,
        run_link=parse.text(meta.get("run_link")),
        status=str(meta.get("status") or "READY"),
        status_message=parse.text(meta.get("status_message")),
        tags=lifted.tags,
        mark=lifted.mark,
        source_model=led.model,
        logged_model=Ref("logged_model", model_id) if model_id else None,
    )
    return version, findings
