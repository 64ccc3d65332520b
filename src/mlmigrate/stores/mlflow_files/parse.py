"""MLflow's files to records: meta.yaml, metric lines, params and tags.

Every function takes bytes and tells what is wrong instead of raising: damage costs only
the damaged thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import yaml

from mlmigrate.metrics import history
from mlmigrate.model import Float64s, Int64s, MetricHistory

#: MLflow's integers for ``status`` (RunStatus) and ``source_type`` (SourceType).
STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_STATUS_OF_TEXT = {
    text: name for number, name in STATUS.items() for text in (str(number), name)
}
SOURCE_TYPE = {1: "NOTEBOOK", 2: "JOB", 3: "PROJECT", 4: "LOCAL", 1000: "UNKNOWN"}

_Column = TypeVar("_Column", Int64s, Float64s)

_MAX_META = 4 << 20  # a real meta.yaml has under 2 KB; schemas and profiles some MB
_DEEPEST_META = 50
_DAY = 86_400_000

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


def millis(value: Any) -> int | None:
    """Return a meta field as milliseconds, None where it is absent or no number."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        time = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return time if -(2**63) <= time < 2**63 else None  # as databases hold them


def status(value: Any) -> str:
    """Return a run's status from the integer or the name that its meta has."""
    return known_status(value) or "RUNNING"


def known_status(value: Any) -> str | None:
    """Return a run's status, None where *value* is none of MLflow's."""
    return _STATUS_OF_TEXT.get(str(value))


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


def read_metric(key: str, chunks: Iterable[bytes]) -> tuple[MetricHistory, list[str]]:
    """Parse a metric file: lines of ``timestamp value``, ``timestamp value step``
    or ``timestamp value step dataset-name dataset-digest``. MLflow's own reader takes
    the last kind for step 0, and its databases keep no dataset with a run's points.

    Args:
        key: the metric's.
        chunks: the file's bytes, cut anywhere.

    Returns:
        The history, and what is wrong with the lines that could not be read.
    """
    steps: list[Int64s] = []
    timestamps: list[Int64s] = []
    values: list[Float64s] = []
    stepless: list[Sequence[int]] = []
    wrong: list[str] = []
    datasets = 0
    for first, block in _blocks(chunks):
        points = _regular_points(first, block)
        if points is None:
            points, unread = _read_lines(first, block)
            wrong += unread
        steps.append(points.steps)
        timestamps.append(points.timestamps)
        values.append(points.values)
        stepless.append(points.stepless)
        datasets += points.datasets
    if sum(map(len, stepless)) < sum(map(len, steps)):
        wrong += [
            f"line {number} has no step: read as 0"
            for numbers in stepless
            for number in numbers
        ]
    if datasets:
        wrong.insert(0, f"the datasets that {datasets} points name are not copied")
    metric = history(key, _joined(steps), _joined(timestamps), _joined(values))
    return metric, wrong


def _joined(parts: list[_Column]) -> _Column:
    """Join the parts of a column, and forget them: a history may be of any length."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    parts.clear()
    return whole


#: As Windows and old Macs write it; "\\r\\r\\n" comes of converting twice.
_LINE_END = re.compile(rb"\r+\n?")


@dataclass(frozen=True, slots=True)
class _Points:
    timestamps: Int64s
    values: Float64s
    steps: Int64s
    stepless: Sequence[int]  # the numbers of the lines that gave no step
    datasets: int = 0  # lines that name one


def _blocks(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cut a file behind line ends; yield each block's first line's number, too.

    What is parsed at once is small: fields take many times their text's memory.
    """
    first, rest = 1, b""
    for chunk in chunks:
        data = rest + chunk
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            block = _plain_ends(data[:end])
            yield first, block
            first += block.count(b"\n")
    if rest or first == 1:
        yield first, _plain_ends(rest)


def _plain_ends(block: bytes) -> bytes:
    return _LINE_END.sub(b"\n", block) if b"\r" in block else block


_SEPARATORS = bytes(set(range(256)) - set(b" \n"))
_PLAIN_NUMBERS = b"0123456789+-.eE \n"


def _regular_points(first: int, data: bytes) -> _Points | None:
    """Return the points of a block whose lines all have the same 2 or 3 plain numeric
    fields; None for any other, which `_read_lines` reads.
    """
    if data.translate(None, _PLAIN_NUMBERS):
        return None
    shape = data.translate(None, _SEPARATORS)
    lines = shape.count(b"\n")
    if not data.endswith(b"\n"):
        lines += 1
        shape += b"\n"
    width = 3 if shape == b"  \n" * lines else 2 if shape == b" \n" * lines else 0
    if not width:
        return None
    fields = data.split()
    if len(fields) != lines * width:
        return None
    whole = b"".join(fields[0::width]) + b"".join(
        fields[2::width] if width == 3 else ()
    )
    if whole.translate(None, b"0123456789-"):
        return None  # a timestamp or step with a point or an exponent is none
    stepless = range(first, first + lines) if width == 2 else ()
    try:
        timestamps = np.array(list(map(int, fields[0::width])), dtype=np.int64)
        values = np.array(list(map(float, fields[1::width])), dtype=np.float64)
        steps = (
            np.array(list(map(int, fields[2::width])), dtype=np.int64)
            if width == 3
            else np.zeros(lines, dtype=np.int64)
        )
    except (ValueError, OverflowError):
        return None
    return _Points(timestamps, values, steps, stepless)


def _read_lines(first: int, data: bytes) -> tuple[_Points, list[str]]:
    timestamps: list[int] = []
    values: list[float] = []
    steps: list[int] = []
    wrong: list[str] = []
    stepless: list[int] = []
    datasets = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, first):
        fields = line.split()
        if not fields:
            if number - first < len(lines) - 1:
                wrong.append(f"line {number} is blank")
            continue
        try:
            # A dataset's name may hold blanks: then there are more than five.
            if len(fields) in (1, 4):
                raise ValueError
            timestamp, value = int(fields[0]), float(fields[1])
            step = int(fields[2]) if len(fields) > 2 else 0
            np.array([timestamp, step], dtype=np.int64)  # OverflowError beyond 64 bits
        except (ValueError, OverflowError):
            shown = line[:80].decode("utf-8", "backslashreplace")
            wrong.append(f"line {number} is not a metric point: {shown!r}")
            continue
        timestamps.append(timestamp)
        values.append(value)
        steps.append(step)
        if len(fields) == 2:
            stepless.append(number)
        datasets += len(fields) > 3
    points = _Points(
        np.array(timestamps, dtype=np.int64),
        np.array(values, dtype=np.float64),
        np.array(steps, dtype=np.int64),
        stepless,
        datasets,
    )
    return points, wrong


def seconds_to_millis(
    metric: MetricHistory, start: int | None, end: int | None
) -> MetricHistory | None:
    """Convert the timestamps that MLflow 0.x wrote in seconds; None where none is.

    Only a timestamp that falls within the run, give or take a day, once multiplied is
    taken for seconds: people also log ``timestamp=1``.
    """
    if start is None or not len(metric.timestamps):
        return None
    if int(metric.timestamps.min()) > 100_000_000_000:
        return None
    last = end if end is not None and end >= start else start + 365 * _DAY
    seconds = (metric.timestamps >= (start - _DAY) / 1000) & (
        metric.timestamps <= (last + _DAY) / 1000
    )
    if not seconds.any():
        return None
    timestamps = np.where(seconds, metric.timestamps * 1000, metric.timestamps)
    return history(metric.key, metric.steps, timestamps, metric.values)
