"""Single values of a row: SQLite holds anything in any column, and bytes as text."""

from __future__ import annotations

from typing import Any

from mlmigrate import marks
from mlmigrate.mlflow_messages import whole_number
from mlmigrate.model import Finding, MetricHistory, Problem


class Escaped(str):
    """Text that was not UTF-8, with escapes for what was not."""

    __slots__ = ()


def decoded(data: bytes) -> str:
    """Return *data* as text: `Escaped` where it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Escaped(data.decode("utf-8", "backslashreplace"))


def text(value: Any) -> str | None:
    """Return a value of any type as text."""
    if value is None or isinstance(value, str):
        return value
    return decoded(value) if isinstance(value, bytes) else str(value)


def time(value: Any, name: str, where: str, findings: list[Finding]) -> int | None:
    """Return a time in milliseconds; what is none is told in *findings*."""
    found = _whole(value)
    if found is None and value is not None:
        findings.append(Problem(where, f"{name} {value!r} is no time: not copied"))
    elif isinstance(value, float) and value != found:
        what = f"{name} {value!r} has parts of a millisecond: read as {found}"
        findings.append(Problem(where, what))
    return found


def _whole(value: Any) -> int | None:
    return whole_number(value) if isinstance(value, int | float | str) else None


def escapes(where: str, header: Any, lifted: marks.Lifted, *more: Any) -> list[Finding]:
    """Name the fields whose text was not UTF-8."""
    names = [name for name in header.__slots__ if _is_escaped(getattr(header, name))]
    pairs: list[tuple[str, str]] = [(tag.key, tag.value) for tag in lifted.tags]
    for entries in more:
        for entry in entries:
            pairs.append((entry.key, "") if isinstance(entry, MetricHistory) else entry)
    names += [str(pair[0]) for pair in pairs if any(map(_is_escaped, pair))]
    what = "is not UTF-8: kept with \\x escapes"
    return [Problem(where, f"{name} {what}") for name in names]


def _is_escaped(value: Any) -> bool:
    return isinstance(value, Escaped)
