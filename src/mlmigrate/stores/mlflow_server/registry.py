"""The sink half for registered models and their versions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from mlmigrate import marks
from mlmigrate.contract import Delivery, Written
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Alias,
    Finding,
    ModelVersion,
    Note,
    Problem,
    Ref,
    RegisteredModel,
    Tag,
    named_version,
)
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.registry_reading import is_prompt
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest, creating

_NO_WEBHOOKS = (400, 404, 405, 501)
_DELIVERS = "registry writes start what its webhooks start (such as a deployment)"


@dataclass(slots=True)
class _Work:
    """One model while it is written."""

    delivery: Delivery
    name: str
    findings: list[Finding]
    versions: list[Json]

    @property
    def where(self) -> str:
        return f"registered_model/{self.name}"

    def note(self, what: str) -> None:
        self.findings.append(Note(self.where, what))


class Registry:
    """Writes registered models, one at a time: the server numbers their versions."""

    def __init__(self, rest: Rest, reader: Reader, *, fire_webhooks: bool) -> None:
        self._rest = rest
        self._reader = reader
        self._lock = threading.Lock()
        self._may_write = fire_webhooks
        #: (model, number asked) -> number given: what was written may be named later.
        self._given: dict[tuple[str, int], int] = {}

    def write(self, delivery: Delivery) -> Written:
        """Write one model with its versions and aliases.

        Raises:
            ItemError: the server refuses it.
        """
        header = delivery.item.header
        if not isinstance(header, RegisteredModel):
            raise ItemError(f"{delivery.item.ref}: not a registered model")
        with self._lock:
            self._check_webhooks()
            name = delivery.into.id if delivery.into else header.name
            self._open_model(delivery, name, header)
            own = is_prompt(delivery.item.tags)
            held = self._reader.registry.versions(name, prompt=own)
            work = _Work(delivery, name, [], held)
            self._write_versions(work)
            self._write_aliases(work)
            for tag in marks.own_tags(delivery, mark=delivery.mark):
                self._set_tag(name, tag)
        ref = Ref("registered_model", name)
        return Written(ref, findings=tuple(work.findings))

    def _check_webhooks(self) -> None:
        """Check that nobody is told of what we write.

        Raises:
            ItemError: somebody is, or may be.
        """
        if self._may_write:
            return
        try:
            hooks = list(self._rest.pages("webhooks", "webhooks", {"max_results": 100}))
        except Refused as refusal:
            if refusal.status not in _NO_WEBHOOKS:
                raise ItemError(
                    f"{self._rest.base} does not tell whether it has webhooks"
                    f" ({refusal}), and {_DELIVERS}: allow it with -o fire-webhooks=yes"
                ) from refusal
            hooks = []
        active = [hook for hook in hooks if hook.get("status", "ACTIVE") == "ACTIVE"]
        if active:
            names = ", ".join(str(hook.get("name")) for hook in active[:5])
            raise ItemError(
                f"{self._rest.base} has active webhooks ({names}), and {_DELIVERS}:"
                " disable them, or allow it with -o fire-webhooks=yes"
            )
        self._may_write = True

    # -- the model ----------------------------------------------------------------

    def _open_model(
        self, delivery: Delivery, name: str, header: RegisteredModel
    ) -> None:
        """Make the model, or withdraw the mark of the one that is there."""
        held = self._model_or_none(name)
        if held is None:
            own = [Tag(marks.ORIGIN, delivery.item.origin)]
            body = {
                "name": name,
                "description": header.description or "",
                "tags": _tags((*delivery.item.tags, *own)),
            }
            try:
                creating(
                    lambda: self._rest.create("registered-models/create", body),
                    lambda: self._model_or_none(name),
                )
                return
            except Refused as refusal:
                if not refusal.exists:
                    raise
            held = self._reader.registry.model(name)  # someone else made it just now
        if answers.pairs_of(held).get(marks.MARK):
            self._set_tag(name, Tag(marks.MARK, ""))
        for tag in delivery.item.tags:
            self._set_tag(name, tag)
        if header.description and header.description != held.get("description"):
            body = {"name": name, "description": header.description}
            self._rest.change("PATCH", "registered-models/update", body)

    def _model_or_none(self, name: str) -> Json | None:
        try:
            return self._reader.registry.model(name)
        except Refused as refusal:
            if refusal.absent:
                return None
            raise

    def _set_tag(self, name: str, tag: Tag) -> None:
        body = {"name": name, "key": tag.key, "value": tag.value}
        self._rest.post("registered-models/set-tag", body)

    # -- versions -----------------------------------------------------------------

    def _write_versions(self, work: _Work) -> None:
        """Write all versions, and note which numbers were given."""
        for version in work.delivery.item.versions:
            try:
                entry = self._existing(work, version)
                if entry is None:
                    entry = self._make(work, version)
                self._fill(work, version, entry)
            except ItemError as error:
                what = f"version {version.version} was refused: {error}"
                work.findings.append(Problem(work.where, what))
                continue
            self._given[work.name, version.version] = int(entry["version"])

    def _existing(self, work: _Work, version: ModelVersion) -> Json | None:
        """Find a version by origin.

        One that a killed copy left at a number which is not its own is removed.
        """
        for entry in work.versions:
            tags = answers.pairs_of(entry)
            if tags.get(marks.ORIGIN, _natural_origin(entry)) != version.origin:
                continue
            behind = int(entry["version"]) < version.version
            if behind and marks.ORIGIN in tags and not tags.get(marks.MARK):
                self._delete(entry)
                continue
            return entry
        return None

    def _make(self, work: _Work, version: ModelVersion) -> Json:
        """Create a version at the number asked.

        The server counts up. Where the number is above the next one, what it makes is
        deleted again: a deleted version keeps its number for ever, as at the source.
        """
        body = self._body(work, version)
        while True:
            entry = creating(
                lambda: cast(
                    Json,
                    self._rest.create("model-versions/create", body)["model_version"],
                ),
                lambda: next(iter(self._bearing(work, version.origin)), None),
            )
            number = int(entry["version"])
            if number >= version.version:
                break
            self._delete(entry)
        for other in self._bearing(work, version.origin):
            if other["version"] != entry["version"]:
                self._delete(other)  # made by a create whose answer came never
        if number > version.version:
            work.note(
                f"version {version.version} became {number}: the server has used the"
                " numbers up to there"
            )
        return entry

    def _bearing(self, work: _Work, origin: str) -> list[Json]:
        """Return the unfinished versions that bear an origin."""
        found = []
        own = is_prompt(work.delivery.item.tags)
        for entry in self._reader.registry.versions(work.name, prompt=own):
            tags = answers.pairs_of(entry)
            if tags.get(marks.ORIGIN) == origin and not tags.get(marks.MARK):
                found.append(entry)
        return found

    def _delete(self, entry: Json) -> None:
        body = {"name": entry["name"], "version": str(entry["version"])}
        try:
            self._rest.change("DELETE", "model-versions/delete", body)
        except Refused as refusal:
            if not refusal.absent:  # an answer was lost, and it is gone already
                raise

    def _body(self, work: _Work, version: ModelVersion) -> Json:
        named = named_version(version.source)
        if named is not None:
            lineage = self._lineage(work, version, named)
        else:
            lineage = self._files(work, version)
        body: Json = {
            "name": work.name,
            **lineage,
            "description": version.description or "",
            "tags": _tags(
                (
                    *version.tags,
                    Tag(marks.ORIGIN, version.origin),
                    Tag(marks.SOURCE, work.delivery.source),
                )
            ),
        }
        if version.run_link:
            body["run_link"] = version.run_link
        return body

    def _lineage(
        self, work: _Work, version: ModelVersion, named: tuple[str, int]
    ) -> Json:
        """Return the source of a version that names another one, and the run and the
        logged model of that: the server takes no others.
        """
        name, asked = named
        number = str(self._given.get(named, asked))
        answer = self._rest.get("model-versions/get", name=name, version=number)
        other = cast(Json, answer["model_version"])
        lineage: Json = {"source": f"models:/{name}/{number}"}
        for key in ("run_id", "model_id"):
            if other.get(key):
                lineage[key] = other[key]
        own = version.run.id if version.run else None
        if own != lineage.get("run_id"):
            work.note(
                f"version {version.version} names run {lineage.get('run_id')} now: the"
                " server wants that of the version that it was copied from"
            )
        return lineage

    def _files(self, work: _Work, version: ModelVersion) -> Json:
        """Return the source of a version, and the run and the logged model to name with
        it.
        """
        source, run = self._source(version)
        found: Json = {"source": source}
        if run is not None:
            found["run_id"] = run
            if version.run is None:
                work.note(
                    f"version {version.version} names run {run} now: the server wants"
                    " the run that its source lies in"
                )
        if version.source_model is not None:
            found["model_id"] = version.source_model.id
        return found

    def _source(self, version: ModelVersion) -> tuple[str, str | None]:
        """Return the source as it is at the sink, and the run to name with it."""
        run = version.run.id if version.run else None
        if version.source_model is not None:
            model = version.source_model
            below = f"/{version.source_path}" if version.source_path else ""
            if (version.source or "").startswith("models:/"):
                return f"models:/{model.id}{below}", run
            return f"{self._reader.files.uri(model).rstrip('/')}{below}", run
        if version.source_run is None or version.source_path is None:
            return version.source or "", run
        owner = version.source_run.id
        if (version.source or "").startswith("runs:/"):
            root = f"runs:/{owner}"
        else:
            root = self._reader.files.uri(version.source_run).rstrip("/")
        source = f"{root}/{version.source_path}" if version.source_path else root
        checked = root.startswith(("runs:", "mlflow-artifacts:", "/", "file:"))
        return source, run or (owner if checked else None)

    def _fill(self, work: _Work, version: ModelVersion, entry: Json) -> None:
        """Give a version what it lacks, the mark last."""
        number = str(entry["version"])
        held = answers.pairs_of(entry)
        for tag in version.tags:
            if held.get(tag.key) != tag.value:
                self._set_version_tag(work.name, number, tag)
        if version.description and version.description != entry.get("description"):
            body = {
                "name": work.name,
                "version": number,
                "description": version.description,
            }
            self._rest.change("PATCH", "model-versions/update", body)
        self._set_stage(work, version, entry)
        if marks.ORIGIN in held or version.origin != _natural_origin(entry):
            mark = replace(work.delivery.mark, tags=None, checksums=None)
            tag = Tag(marks.MARK, marks.dump(mark))
            self._set_version_tag(work.name, number, tag)

    def _set_stage(self, work: _Work, version: ModelVersion, entry: Json) -> None:
        stands = entry.get("current_stage") or "None"
        if version.stage in ("None", stands):
            return
        if stands != "None":
            work.note(
                f"version {entry['version']} stays in stage {stands}; the source has"
                f" it in {version.stage}"
            )
            return
        body = {
            "name": work.name,
            "version": str(entry["version"]),
            "stage": version.stage,
            "archive_existing_versions": False,
        }
        self._rest.post("model-versions/transition-stage", body)

    def _set_version_tag(self, name: str, number: str, tag: Tag) -> None:
        body = {"name": name, "version": number, "key": tag.key, "value": tag.value}
        self._rest.post("model-versions/set-tag", body)

    # -- aliases ------------------------------------------------------------------

    def _write_aliases(self, work: _Work) -> None:
        aliases: Sequence[Alias] = work.delivery.item.aliases
        if not aliases:
            return
        listed = self._reader.registry.model(work.name).get("aliases") or ()
        standing = {str(entry["alias"]): int(entry["version"]) for entry in listed}
        for alias in aliases:
            number = self._given.get((work.name, alias.version), alias.version)
            stands = standing.get(alias.name)
            if stands is not None and stands != number:
                work.note(
                    f"alias {alias.name} stays at version {stands}; the source has it"
                    f" at {number}"
                )
            elif stands is None:
                self._set_alias(work, alias, number)

    def _set_alias(self, work: _Work, alias: Alias, number: int) -> None:
        body = {"name": work.name, "alias": alias.name, "version": str(number)}
        try:
            self._rest.post("registered-models/alias", body)
        except Refused as refusal:
            what = f"alias {alias.name} was refused: {refusal}"
            work.findings.append(Problem(work.where, what))


def _natural_origin(entry: Json) -> str:
    created = int(entry.get("creation_timestamp") or 0) or None
    return f"{entry['name']}/{entry['version']}@{created}"


def _tags(tags: Sequence[Tag]) -> list[Json]:
    return [{"key": tag.key, "value": tag.value} for tag in tags]
