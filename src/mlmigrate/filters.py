"""What is copied: which kinds, and which runs, by experiment, status, tag, name and
time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal

from mlmigrate.digest import activity
from mlmigrate.entities import HOUSES
from mlmigrate.errors import UsageError
from mlmigrate.model import KINDS, Experiment, Item, Kind, Run

_TERM = re.compile(
    r"^(status|name|start|end|tag\.(?P<tag>.+?))\s*(?P<op>!=|>=|<=|=|~)\s*(?P<value>.*)$"
)
_AGE = re.compile(r"^(\d+)([dhw])$")
#: Where everything else is.
_HOMES = ("experiment", *HOUSES)


@dataclass(frozen=True, slots=True)
class Filters:
    """What the options of a command ask for; all must hold."""

    experiments: tuple[str, ...] = ()  # globs; any may match
    runs: tuple[str, ...] = ()  # terms such as 'status=FINISHED' or 'tag.team~vis*'
    since: int | None = None  # milliseconds
    deleted: Literal["include", "skip"] = "include"
    kinds: tuple[Kind, ...] = ()  # all, if none is named; `_HOMES` always follow

    def __post_init__(self) -> None:
        for term in self.runs:
            _parse(term)

    def takes(self, kind: Kind) -> bool:
        """Tell whether items of a kind are wanted at all."""
        return kind in _HOMES or not self.kinds or kind in self.kinds

    def takes_experiment(self, item: Item) -> bool:
        """Tell whether an experiment's runs are wanted at all."""
        header = item.header
        assert isinstance(header, Experiment)
        if self.deleted == "skip" and header.lifecycle == "deleted":
            return False
        return not self.experiments or any(
            fnmatchcase(header.name, glob) for glob in self.experiments
        )

    def takes_run(self, item: Item) -> bool:
        """Tell whether a run is wanted."""
        header = item.header
        assert isinstance(header, Run)
        if self.deleted == "skip" and header.lifecycle == "deleted":
            return False
        if self.since is not None and activity(item) < self.since:
            return False
        return all(_holds(term, item, header) for term in self.runs)

    @property
    def of_runs(self) -> bool:
        """Whether some runs of an experiment may be left out."""
        return bool(self.runs or self.since)

    @property
    def narrow(self) -> bool:
        """Whether anything at all is left out."""
        return bool(self.experiments or self.runs or self.since)


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds that a list such as ``run,trace`` names.

    Raises:
        UsageError: it names something else.
    """
    names = [name.strip().lower().replace("-", "_") for name in text.split(",")]
    found = tuple(kind for kind in KINDS if {kind, f"{kind}s"} & set(names))
    known = {*KINDS, *(f"{kind}s" for kind in KINDS)}
    for name in names:
        if name not in known:
            raise UsageError(f"{name!r} is no kind: give some of {', '.join(KINDS)}")
    return found


def parse_time(text: str) -> int:
    """Return an ISO date or time, or an age such as ``7d``, as milliseconds.

    Raises:
        UsageError: it is neither.
    """
    age = _AGE.match(text)
    if age:
        unit = {"h": "hours", "d": "days", "w": "weeks"}[age.group(2)]
        then = datetime.now(UTC) - timedelta(**{unit: int(age.group(1))})
        return int(then.timestamp() * 1000)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no time: give 2026-01-31, 2026-01-31T12:00 or an age like 7d"
        ) from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return int(time.timestamp() * 1000)


def _parse(term: str) -> re.Match[str]:
    match = _TERM.match(term)
    if match is None:
        raise UsageError(
            f"run filter {term!r} is not understood: give FIELD=VALUE, FIELD!=VALUE or"
            " FIELD~GLOB, where FIELD is status, name or tag.KEY; or start>=TIME,"
            " end<=TIME"
        )
    if match.group(1) in ("start", "end"):
        parse_time(match.group("value"))
    return match


def _holds(term: str, item: Item, header: Run) -> bool:
    match = _parse(term)
    name, operator, wanted = match.group(1), match.group("op"), match.group("value")
    if name in ("start", "end"):
        time = header.start_time if name == "start" else header.end_time
        if time is None:
            return False
        limit = parse_time(wanted)
        return {"<=": time <= limit, ">=": time >= limit, "=": time == limit}.get(
            operator, time != limit
        )
    if name == "status":
        value: str | None = header.status
    elif name == "name":
        value = header.name
    else:
        tags = {tag.key: tag.value for tag in item.tags}
        value = tags.get(match.group("tag"))
    if operator == "!=":
        return value != wanted
    if value is None:
        return False
    return fnmatchcase(value, wanted) if operator == "~" else value == wanted
