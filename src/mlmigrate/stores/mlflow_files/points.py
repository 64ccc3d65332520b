"""Metric files to histories: lines of ``timestamp value step``, and all that was ever
written instead.

Every function takes bytes and tells what is wrong instead of raising.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mlmigrate.metrics import history
from mlmigrate.model import Float64s, Int64s, MetricHistory

_Column = TypeVar("_Column", Int64s, Float64s)

_DAY = 86_400_000

#: Bytes of text below which beginning to parse takes longer than parsing.
_FEW = 8192


def read_together(
    files: Sequence[tuple[str, bytes]],
) -> list[MetricHistory | None]:
    """Parse small metric files, keys and texts, all at once.

    Arrow does it several times as fast as Python, but takes as long to begin as for one
    of them.

    Returns:
        For each file its history; None where a line is anything but three plain
        numbers, which `read_metric` reads.
    """
    found: list[MetricHistory | None] = [None] * len(files)
    texts = [text if text.endswith(b"\n") else text + b"\n" for _, text in files]
    whole = b"".join(texts)
    chosen = list(range(len(files)))
    if not _is_regular(whole):
        chosen = [at for at in chosen if _is_regular(texts[at])]
        whole = b"".join(texts[at] for at in chosen)
    if len(whole) < _FEW:
        return found
    columns = _columns(whole)
    if columns is None:
        return found
    timestamps, values, steps = columns
    start = 0
    for at in chosen:
        end = start + texts[at].count(b"\n")
        part = slice(start, end)
        key = files[at][0]
        found[at] = history(key, steps[part], timestamps[part], values[part])
        start = end
    return found


def _columns(text: bytes) -> tuple[Int64s, Float64s, Int64s] | None:
    """Return timestamps, values and steps of regular lines; None where one has a field
    that is no number of its column after all.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    types = {"timestamp": pa.int64(), "value": pa.float64(), "step": pa.int64()}
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            pa_csv.ReadOptions(column_names=list(types), use_threads=False),
            pa_csv.ParseOptions(
                delimiter=" ", quote_char=False, ignore_empty_lines=False
            ),
            pa_csv.ConvertOptions(column_types=types, null_values=[]),
        )
    except pa.ArrowInvalid:
        return None
    # Its own `to_numpy` would import pandas, if that is installed.
    buffers = [column.combine_chunks().buffers()[1] for column in table.columns]
    return (
        np.frombuffer(buffers[0], np.int64),
        np.frombuffer(buffers[1], np.float64),
        np.frombuffer(buffers[2], np.int64),
    )


def _is_regular(text: bytes) -> bool:
    """Tell whether all lines look like three plain numbers."""
    if text.translate(None, _PLAIN_NUMBERS):
        return False
    shape = text.translate(None, _SEPARATORS)
    return shape == b"  \n" * text.count(b"\n")


def read_metric(
    key: str, chunks: Iterable[bytes]
) -> tuple[MetricHistory, list[str], int]:
    """Parse a metric file: lines of ``timestamp value``, ``timestamp value step``
    or ``timestamp value step dataset-name dataset-digest``. MLflow's own reader takes
    the last kind for step 0, and its databases keep no dataset with a run's points:
    `point_datasets` tells which are lost.

    Args:
        key: the metric's.
        chunks: the file's bytes, cut anywhere.

    Returns:
        The history, what is wrong with the lines that could not be read, and how many
        points name a dataset.
    """
    steps: list[Int64s] = []
    timestamps: list[Int64s] = []
    values: list[Float64s] = []
    stepless: list[Sequence[int]] = []
    wrong: list[str] = []
    datasets = 0
    for first, block in blocks(chunks):
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
    metric = history(key, _joined(steps), _joined(timestamps), _joined(values))
    return metric, wrong, datasets


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


def blocks(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
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
#: The letters of nan, inf and infinity, as Python writes and reads them.
_WORDS = b"nNaAiIfFtTyY"


def _regular_points(first: int, data: bytes) -> _Points | None:
    """Return the points of a block whose lines all have the same 2 or 3 plain numeric
    fields; None for any other, which `_read_lines` reads.
    """
    if data.translate(None, _PLAIN_NUMBERS + _WORDS):
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
