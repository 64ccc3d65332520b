"""The answers of an MLflow server as records, and the tags that its sink needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from mlmigrate import marks
from mlmigrate.artifacts import lift_files, lift_model
from mlmigrate.model import (
    DatasetInput,
    Lifecycle,
    ModelLink,
    ModelVersion,
    Ref,
    Tag,
)
from mlmigrate.stores.mlflow_server.rest import Json

RUN_NAME = "mlflow.runName"
#: What a run was called at its origin where the server cannot leave a run unnamed:
#: JSON of {"given": name here, "name": name there, "tag": mlflow.runName there}.
NAMED = "mlmigrate.named"
#: On a run that a lost answer made twice: the run that stayed.
DUPLICATE = "mlmigrate.duplicate"
#: On an experiment that `finish` deletes, or whose runs it deletes, again.
RESTORED = "mlmigrate.restored"
#: On an active experiment while another is restored or deleted: the promise for that
#: one, which takes no tags as long as it is deleted, as ``what@id``.
RESTORING = "mlmigrate.restoring"

#: On a run that waits for logged models: a JSON list of [role, origin, step].
WAITING = "mlmigrate.links"

PROXIED = "mlflow-artifacts"


@dataclass(frozen=True, slots=True)
class _Named:
    given: str
    name: str | None
    tag: str | None


def _named(info: Json, pairs: Sequence[tuple[str, str]]) -> _Named | None:
    """Return what a copy was called at its origin, while nobody renamed it here."""
    tags = dict(pairs)
    try:
        said = _Named(**json.loads(tags.get(NAMED) or "null"))
    except (ValueError, TypeError):
        return None
    if not _shown_name(info, tags) == tags.get(RUN_NAME) == said.given:
        return None
    return said


def there_name(info: Json, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Return a run's name, None where the server invented it for a copy."""
    said = _named(info, pairs)
    return said.name if said else _shown_name(info, dict(pairs))


def _shown_name(info: Json, tags: dict[str, str]) -> str | None:
    """Return a run's name, which before MLflow 1.30 is a tag and nothing else."""
    return text(info.get("run_name")) or text(tags.get(RUN_NAME))


def named_there(info: Json, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a run's tags, with the name's tag as the origin had it."""
    said = _named(info, pairs)
    if said is None:
        return pairs
    others = [(key, value) for key, value in pairs if key != RUN_NAME]
    return others if said.tag is None else [*others, (RUN_NAME, said.tag)]


def waiting_tag(links: Iterable[ModelLink]) -> Tag:
    """Return the tag of a run that waits for logged models, whose refs are origins."""
    entries = [[link.role, link.model.id, link.step] for link in links]
    return Tag(WAITING, json.dumps(entries, separators=(",", ":")))


def waiting_links(tags: Mapping[str, str]) -> list[ModelLink]:
    """Return the links that `waiting_tag` says."""
    try:
        return [
            ModelLink(Ref("logged_model", str(origin)), role, int(step))
            for role, origin, step in json.loads(tags.get(WAITING) or "[]")
            if role in ("input", "output")
        ]
    except (ValueError, TypeError):
        return []


def run_id(run: Json) -> str:
    """Return the id of a run that was searched or got."""
    info = run["info"]
    return str(info.get("run_id") or info["run_uuid"])


def tags_of(run: Json) -> dict[str, str]:
    """Return all tags of a run that was searched or got."""
    return dict(key_values((run.get("data") or {}).get("tags")))


def pairs_of(entry: Json) -> dict[str, str]:
    """Return all tags of an experiment, a model or a version."""
    return dict(key_values(entry.get("tags")))


def origins_of(text: str | None, otherwise: str) -> list[str]:
    """Return the origins that the tag of an experiment lists."""
    try:
        origins = json.loads(text or "[]")
    except ValueError:
        origins = [text]
    if not isinstance(origins, list):
        origins = [text]
    return [str(origin) for origin in origins] or [otherwise]


def lifecycle(entry: Json) -> Lifecycle:
    """Return the lifecycle of an experiment or of a run's info."""
    return "deleted" if entry.get("lifecycle_stage") == "deleted" else "active"


def proxied_root(uri: str) -> str | None:
    """Return the path below the server's own artifact root, None elsewhere."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # a host that is none: whoever opens it says so
        return None
    if parts.scheme != PROXIED or parts.netloc:
        return None
    return parts.path.strip("/")


def version_of(entry: Json, storage: str | None = None) -> ModelVersion:
    """Return a version of a registered model.

    Args:
        entry: what the server says of it.
        storage: where its files are, which a source that names another version does
            not say.
    """
    name, number = entry["name"], int(entry["version"])
    lifted = marks.lift(key_values(entry.get("tags")))
    created = millis(entry.get("creation_timestamp"))
    source = text(entry.get("source"))
    led = lift_files(source, storage)
    model_id = text(entry.get("model_id"))
    if model_id == lift_model(source)[0]:
        model_id = None  # its source says so, and in a database that alone
    own_run = text(entry.get("run_id"))
    origin = lifted.origin if marks.load(lifted.mark) else None
    version = ModelVersion(
        version=number,
        origin=origin or f"{name}/{number}@{created}",
        creation_time=created,
        last_updated_time=millis(entry.get("last_updated_timestamp")),
        description=text(entry.get("description")),
        user=text(entry.get("user_id")),
        stage=str(entry.get("current_stage") or "None"),
        source=source,
        source_run=led.run,
        source_path=led.path,
        run=Ref("run", own_run) if own_run else None,
        run_link=text(entry.get("run_link")),
        tags=lifted.tags,
        mark=lifted.mark or None,
    )
    return replace(
        version,
        status=str(entry.get("status") or "READY"),
        status_message=text(entry.get("status_message")),
        source_model=led.model,
        logged_model=Ref("logged_model", model_id) if model_id else None,
    )


def dataset_of(entry: Json) -> DatasetInput:
    """Return a dataset input of a run."""
    dataset = entry.get("dataset") or {}
    return DatasetInput(
        name=str(dataset.get("name") or ""),
        digest=str(dataset.get("digest") or ""),
        source_type=str(dataset.get("source_type") or ""),
        source=str(dataset.get("source") or ""),
        schema=text(dataset.get("schema")),
        profile=text(dataset.get("profile")),
        tags=tuple(Tag(key, value) for key, value in key_values(entry.get("tags"))),
    )


def key_values(entries: Any) -> list[tuple[str, str]]:
    """Return params or tags as pairs."""
    return [
        (str(entry.get("key") or ""), str(entry.get("value") or ""))
        for entry in entries or ()
    ]


def text(value: Any) -> str | None:
    """Return a text, None for an empty one: the wire cannot tell them apart."""
    return str(value) if value else None


def millis(value: Any) -> int | None:
    """Return a time in milliseconds, None for 0: the wire cannot tell them apart."""
    return int(value) if value and int(value) else None
