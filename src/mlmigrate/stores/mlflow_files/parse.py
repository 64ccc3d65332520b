"""MLflow's files to records: meta.yaml, metric lines, params and tags.

Every function takes bytes and tells what is wrong instead of raising: damage costs only
the damaged thing.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

#: MLflow's integers for ``status`` (RunStatus, LoggedModelStatus) and ``source_type``
#: (SourceType).
STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_STATUS_OF_TEXT = {
    text: name for number, name in STATUS.items() for text in (str(number), name)
}
MODEL_STATUS = ("UNSPECIFIED", "PENDING", "READY", "FAILED")
SOURCE_TYPE = {1: "NOTEBOOK", 2: "JOB", 3: "PROJECT", 4: "LOCAL", 1000: "UNKNOWN"}

_MAX_META = 4 << 20  # a real meta.yaml has under 2 KB; schemas and profiles some MB
_DEEPEST_META = 50

_LINE = re.compile(
    rb"([a-z_]+): ?"
    rb"(?:(null)|'([^'\\\n]*)'|(-?[1-9][0-9]{0,17}|0)|(\[\])"
    rb"|([A-Za-z/.](?:[A-Za-z0-9/._%=+@-]|:(?=[A-Za-z0-9/._-]))*"
    rb"|[0-9a-f]*[a-f][0-9a-f]*))?$"
)
#: Plain scalars that YAML 1.1 does not read as text.
_NOT_TEXT = re.compile(
    rb"(?i)(true|false|yes|no|on|off|null|[.]nan|[-+]?[.]inf|y|n|[.]|[.][0-9_]+"
    rb"|0b[01_]+|[0-9_]+)$"
)

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_meta(data: bytes) -> tuple[dict[str, Any], str | None]:
    """Parse a meta.yaml.

    Returns:
        Its fields, and what is wrong with it, if anything.
    """
    if not data.strip(b"\0 \r\n\t"):
        return {}, "is empty"
    if len(data) > _MAX_META:
        return {}, f"has {len(data)} bytes: not read"
    plain = _plain_meta(data)
    if plain is not None:
        return plain, None
    try:
        hostile = _hostile(data)
        if hostile is not None:
            return _salvage(data), hostile
        loaded = yaml.load(data, _LOADER)
        repr(loaded)  # ValueError for an integer too long ever to be shown
    except (yaml.YAMLError, ValueError, RecursionError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        return _salvage(data), f"is not valid YAML{line}"
    if not isinstance(loaded, dict):
        return {}, "holds no fields"
    return {str(key): value for key, value in loaded.items()}, None


def _hostile(data: bytes) -> str | None:
    """Tell what makes a YAML document unsafe to build: nesting that exhausts the stack,
    in C, or aliases, which MLflow never writes and which explode when walked. Its
    events, unlike its tree, cost nothing.
    """
    depth = 0
    for event in yaml.parse(data, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            return "uses YAML aliases: only its plain lines are read"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST_META:
                return "is nested too deeply: only its plain lines are read"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _plain_meta(data: bytes) -> dict[str, Any] | None:
    """Parse the flat form that MLflow itself writes, twenty times faster than a YAML
    parser; None where a line is anything but the plainest.
    """
    fields: dict[str, Any] = {}
    for line in data.split(b"\n"):
        if not line or line == b"tags: []":
            continue
        match = _LINE.match(line)
        if match is None:
            return None
        key, null, quoted, number, empty, text = match.groups()
        if empty is not None:
            fields[key.decode()] = []
            continue
        if number is not None:
            value: Any = int(number)
        elif text is not None:
            if _NOT_TEXT.match(text):
                return None
            value = text.decode()
        elif quoted is not None:
            try:
                value = quoted.decode()
            except UnicodeDecodeError:
                return None
        elif null is not None or line.endswith((b":", b": ")):
            value = None
        else:
            return None
        fields[key.decode()] = value
    return fields


def _salvage(data: bytes) -> dict[str, Any]:
    """Return the fields of a broken meta.yaml that stand on whole plain lines."""
    fields: dict[str, Any] = {}
    for line in data.replace(b"\r", b"").split(b"\n"):
        plain = _plain_meta(line)
        if plain:
            fields.update(plain)
    return fields


def text(value: Any) -> str | None:
    """Return a meta field as text; None where it is absent or empty."""
    if value is None or value == "" or isinstance(value, list | dict):
        return None
    return str(value)


def status(value: Any) -> str:
    """Return a run's status from the integer or the name that its meta has."""
    return known_status(value) or "RUNNING"


def known_status(value: Any) -> str | None:
    """Return a run's status, None where *value* is none of MLflow's."""
    return _STATUS_OF_TEXT.get(str(value))


def model_status(value: Any) -> str | None:
    """Return a logged model's status from the integer or the name that its meta has;
    None where *value* is none of MLflow's.
    """
    if isinstance(value, int) and 0 <= value < len(MODEL_STATUS):
        return MODEL_STATUS[value]
    return value if value in MODEL_STATUS else None


def source_type(value: Any) -> str | None:
    """Return a run's source type from the integer or the name that its meta has."""
    if isinstance(value, int):
        return SOURCE_TYPE.get(value)
    return str(value) if value in SOURCE_TYPE.values() else None


def read_text(data: bytes) -> tuple[str, bool]:
    r"""Decode a param or a tag. Returns the text, and whether it was sound UTF-8; what
    is not appears as ``\\xNN``.
    """
    try:
        return data.decode("utf-8"), True
    except UnicodeDecodeError:
        return data.decode("utf-8", "backslashreplace"), False
