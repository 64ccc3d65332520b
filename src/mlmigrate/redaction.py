"""Credentials in what is copied, found by their form and masked.

A copy must stay true, so only what is certainly a credential is masked: a URL is read
as RFC 3986 says, and ``pad_token=`` is no secret. What is merely shown to people goes
through `mlmigrate.artifacts.redact`, which masks in case of doubt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from mlmigrate import entities
from mlmigrate.model import (
    Assessment,
    DatasetInput,
    Entity,
    Experiment,
    Item,
    Kind,
    LoggedModel,
    ModelVersion,
    Note,
    Param,
    RegisteredModel,
    Row,
    Run,
    Span,
    Tag,
    Trace,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MASK = "***"

#: Lengths are bounded: a hostile text must not take quadratic time.
_PATTERNS = (
    # user:password@ in a URL, also in JSON that escapes slashes. A password with a
    # slash of its own shows by what would be the port: it is no number.
    re.compile(
        r"(?:(?<=://)|(?<=:\\/\\/))(?!\[)[^\s/?#:@\"]{0,256}"
        r":(?:[^\s/?#\"]{0,2048}|(?!\d*\\?[/?#])[^\s\"]{0,2048})(?=@)"
    ),
    # token@ in a URL; what Azure has there is a container
    re.compile(
        r"(?<=://)(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)"
        r"[A-Za-z0-9_.~%+=-]{20,2048}(?=@)"
    ),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"),  # GitHub
    re.compile(r"\bgithub_pat_[A-Za-z0-9_]{30,}\b"),  # GitHub
    re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}\b"),  # GitLab
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # AWS
    re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),  # Google
    re.compile(r"\bdapi[0-9a-f]{32}\b"),  # Databricks
    re.compile(r"\bsk-[A-Za-z0-9_-]{20,}\b"),  # OpenAI and others
    re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),  # Hugging Face
    re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b"),  # Slack
    re.compile(  # a JSON Web Token
        r"\beyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]*"
    ),
    re.compile(r"(?<=\b[Bb]earer )(?=[^\s\"]{0,100}\d)[A-Za-z0-9._~+/=-]{16,}"),
    re.compile(  # also one that was cut off: tags have a limit
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?"
        r"(?:-----END [A-Z ]{0,40}KEY-----|\Z)"
    ),
)
#: What is a secret wherever a value is given to it.
_NAMES = (
    r"(?:password|passwd|passphrase|secret|(?:api|access|account|secret|private)[-_]?key"
    r"|shared[-_]?access[-_]?signature)"
)
_ASSIGNED = re.compile(
    rf"({_NAMES}(?:\\?[\"'])?\s{{0,3}}=\s{{0,3}}|{_NAMES}\\?[\"']\s{{0,3}}:\s{{0,3}}(?=\\?[\"']))"
    r"(?:(\\?[\"'])(.{0,2048}?)\2|([^\s\"'&;,})\]]+))",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"([?&;#]([^\s=&?#;\"]{1,100})=)([^\s&#\"'<>;]+)")
#: Ends of the names of URL parameters that are secrets, without hyphens.
_SECRET_PARAMETERS = (
    *("password", "passwd", "pwd", "secret", "token", "signature", "credential"),
    *("apikey", "accesskey", "accesskeyid", "privatekey"),
)
_SHORT_PARAMETERS = frozenset({"sig", "pass"})
#: Keys of params and tags whose whole value is a secret. Not those that end in
#: "token": a model's tokens for padding and the like are no secrets.
_SECRET_KEY = re.compile(rf"{_NAMES}$", re.IGNORECASE)
_NO_SECRETS = frozenset({"", "none", "null", "true", "false", MASK})

#: The texts of each record, beside the values of its tags and params. Names and keys
#: stay: things are found again by them.
_TEXTS: dict[type, tuple[str, ...]] = {
    Experiment: ("artifact_location",),
    Run: ("artifact_uri", "source_name"),
    LoggedModel: ("artifact_location", "status_message"),
    RegisteredModel: ("description",),
    ModelVersion: (
        "description",
        "source",
        "storage_location",
        "run_link",
        "status_message",
    ),
    DatasetInput: ("source",),
    Trace: ("artifact_location", "request_preview", "response_preview"),
    Entity: (),
    Assessment: ("value", "error", "rationale", "metadata"),
    Span: ("content",),
}
#: Those of them that are JSON: what is masked must leave it so.
_JSON = frozenset({"value", "error", "metadata", "content"})

_Record = TypeVar("_Record", bound="DataclassInstance")
_Pair = TypeVar("_Pair", Param, Tag)


def mask(text: str) -> str:
    """Return *text* with every credential masked. Masking twice changes nothing."""
    while True:
        masked = text
        for pattern in _PATTERNS:
            masked = pattern.sub(MASK, masked)
        masked = _ASSIGNED.sub(_mask_assigned, masked)
        masked = _PARAMETER.sub(_mask_parameter, masked)
        if masked == text:
            return text
        # What was masked may have parted one credential from the next.
        text = masked


def _mask_json(text: str) -> str:
    """Return JSON with every credential in its texts masked."""
    if not bears_credential(text):
        return text
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return mask(text)
    return json.dumps(_masked_leaves(loaded), ensure_ascii=False)


def _masked_leaves(value: Any) -> Any:
    match value:
        case str():
            return mask(value)
        case list():
            return [_masked_leaves(each) for each in value]
        case dict():
            return {
                key: MASK
                if _SECRET_KEY.search(key)
                and isinstance(each, str)
                and each.lower() not in _NO_SECRETS
                else _masked_leaves(each)
                for key, each in value.items()
            }
    return value


def _mask_assigned(match: re.Match[str]) -> str:
    name, quote, quoted, bare = match.groups()
    if (quoted if quote else bare) in ("", MASK):
        return match.group()
    return f"{name}{quote or ''}{MASK}{quote or ''}"


def _mask_parameter(match: re.Match[str]) -> str:
    start, name, _ = match.groups()
    plain = re.sub(r"[-_.]", "", name).lower()
    if plain in _SHORT_PARAMETERS or plain.endswith(_SECRET_PARAMETERS):
        return start + MASK
    return match.group()


def bears_credential(text: str) -> bool:
    """Tell whether *text* holds something of a credential's form."""
    return mask(text) != text


@dataclass(slots=True)
class _Masking:
    """The places in one item where something was masked so far."""

    places: list[str] = field(default_factory=list)

    def texts(self, record: _Record, label: str = "") -> _Record:
        """Return *record* with its own texts masked."""
        changed: dict[str, Any] = {}
        for name in _TEXTS[type(record)]:
            value = getattr(record, name)
            masked = _mask_json(value or "") if name in _JSON else mask(value or "")
            if value and masked != value:
                changed[name] = masked
                self.places.append(label + name)
        return replace(record, **changed) if changed else record

    def pairs(
        self, records: Sequence[_Pair], word: str, label: str = ""
    ) -> tuple[_Pair, ...]:
        """Return params or tags with their values masked."""
        return tuple(self._pair(record, f"{label}{word}") for record in records)

    def row(self, kind: Kind, row: Row) -> Row:
        """Return a row of an entity with its texts masked: all but those by which
        it is found again.
        """
        table = entities.table_of(kind, row)
        kept = {*table.key, *table.refs, *table.always, table.minted}
        changed: dict[str, str] = {}
        said = entities.values(row)
        for column, value in said.items():
            if isinstance(value, str) and column not in kept:
                is_json = value[:1] in ("{", "[")
                masked = _mask_json(value) if is_json else mask(value)
                if column == "value" and _SECRET_KEY.search(str(said.get("key", ""))):
                    masked = value if value.lower() in _NO_SECRETS else MASK
                if masked != value:
                    changed[column] = masked
                    self.places.append(f"{row.table} {column}")
        return entities.changed(row, **changed) if changed else row

    def _pair(self, record: _Pair, label: str) -> _Pair:
        value = mask(record.value)
        if _SECRET_KEY.search(record.key) and value.lower() not in _NO_SECRETS:
            value = MASK
        if value == record.value:
            return record
        self.places.append(f"{label} {record.key}")
        return replace(record, value=value)


def redacted(item: Item) -> Item:
    """Return *item* with the credentials in its texts masked, and a note for each.

    Masked are the values of params and of tags (those of runs, experiments, models,
    versions and datasets), descriptions, and every place of origin: artifact URIs, the
    sources of datasets, of versions and of the runs of MLflow < 1.0.
    """
    masking = _Masking()
    header = masking.texts(item.header)
    params = masking.pairs(item.params, "param")
    tags = masking.pairs(item.tags, "tag")
    inputs = []
    for dataset in item.inputs:
        label = f"dataset {dataset.name} "
        own = masking.pairs(dataset.tags, "tag", label)
        inputs.append(replace(masking.texts(dataset, label), tags=own))
    versions = []
    for version in item.versions:
        label = f"version {version.version} "
        own = masking.pairs(version.tags, "tag", label)
        versions.append(replace(masking.texts(version, label), tags=own))
    metadata = masking.pairs(item.metadata, "metadata")
    spans = [masking.texts(each, f"span {each.id} ") for each in item.spans]
    assessments = [
        masking.texts(each, f"assessment {each.id} ") for each in item.assessments
    ]
    rows = [masking.row(item.ref.kind, row) for row in item.rows]
    if not masking.places:
        return item
    notes = [
        Note(str(item.ref), f"a credential in {place} was masked")
        for place in masking.places
    ]
    return replace(
        item,
        header=header,
        params=params,
        tags=tags,
        inputs=tuple(inputs),
        versions=tuple(versions),
        metadata=metadata,
        spans=tuple(spans),
        assessments=tuple(assessments),
        rows=tuple(rows),
        findings=(*item.findings, *notes),
    )
