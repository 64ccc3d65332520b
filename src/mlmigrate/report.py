"""Outcomes folded into what a person or a program reads."""

from __future__ import annotations

import csv
import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mlmigrate.model import (
    Conflict,
    Copied,
    Failed,
    Finding,
    Loss,
    Note,
    Problem,
    Ref,
    Skipped,
    Updated,
)
from mlmigrate.pipeline import Event, Total
from mlmigrate.verification import Different, Extra, Missing, Same, Verdict

#: Equal notes and carried losses are told once, with the first places they concern.
_EXAMPLES = 5


class Grouped:
    """Texts with the places they concern, equal texts together."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, what: str, where: str) -> None:
        """Count *what* once more."""
        places = self._places.setdefault(what, [])
        if len(places) < _EXAMPLES:
            places.append(where)
        self._counts[what] += 1

    def rows(self) -> list[tuple[str, list[str], int]]:
        """Return (what, first places, count), in the order of their first place."""
        return [
            (what, places, self._counts[what]) for what, places in self._places.items()
        ]

    def where(self, places: list[str], count: int) -> str:
        """Return the places as text."""
        more = count - len(places)
        return ", ".join(places) + (f" and {more} more" if more else "")


@dataclass(slots=True)
class VerifyReport:
    """What a verification found."""

    same: Counter[str] = field(default_factory=Counter)
    different: list[Different] = field(default_factory=list)
    missing: list[Ref] = field(default_factory=list)
    extra: Counter[str] = field(default_factory=Counter)
    problems: dict[Problem, None] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Fold one verdict in."""
        match verdict:
            case Same(ref):
                self.same[ref.kind] += 1
            case Different():
                self.different.append(verdict)
            case Missing(ref):
                self.missing.append(ref)
            case Extra(kind, count):
                self.extra[kind] += count
            case Problem():
                self.problems[verdict] = None
            case _:
                pass

    @property
    def exit_code(self) -> int:
        """0, or 3 where something differs or could not be read."""
        return 3 if self.different or self.missing or self.problems else 0

    def data(self) -> dict[str, Any]:
        """Return the object that ``verify --json`` prints."""
        return {
            "same": dict(self.same),
            "different": [
                {
                    "ref": str(each.ref),
                    "field": each.field,
                    "source": each.source,
                    "sink": each.sink,
                }
                for each in self.different
            ],
            "missing": [str(ref) for ref in self.missing],
            "extra": dict(self.extra),
            "problems": [_place(each) for each in self.problems],
        }

    def text(self) -> str:
        """Return what a person reads."""
        lines = [f"verified: {_counts(self.same) or 'nothing'} the same"]
        for each in self.different[:50]:
            lines.append(f"  DIFFERENT {each.ref} {each.field}")
            lines.append(f"    source: {_short(each.source)}")
            lines.append(f"    sink:   {_short(each.sink)}")
        if len(self.different) > 50:
            lines.append(f"  … and {len(self.different) - 50} more differences")
        lines += [f"  MISSING {ref}" for ref in self.missing[:50]]
        if self.extra:
            lines.append(f"  only at the sink: {_counts(self.extra)}")
        if self.problems:
            lines.append(f"  {len(self.problems)} problems at the sources")
        if not self.different and not self.missing:
            lines.append("  no differences")
        return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """What a copy did."""

    dry: bool = False
    copied: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    problems: dict[Problem, None] = field(default_factory=dict)
    notes: Grouped = field(default_factory=Grouped)
    conflicts: list[Conflict] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    points: int = 0
    ids: str | None = None
    seconds: float = 0.0
    verification: VerifyReport | None = None
    _started: float = field(default_factory=time.monotonic)
    _table: Any = None
    _carried: Grouped = field(default_factory=Grouped)

    def add(self, event: Event) -> None:
        """Fold one event in."""
        match event:
            case Copied() | Updated() | Skipped():
                self._add_outcome(event)
            case Failed():
                self.failed.append(event)
            case Conflict():
                self.conflicts.append(event)
                self._add_findings(event.findings)
            case Total():
                pass
            case _:
                self._add_findings((event,))

    def _add_outcome(self, event: Copied | Updated | Skipped) -> None:
        kind = event.ref.kind
        match event:
            case Copied():
                self.copied[kind] += 1
            case Updated():
                self.updated[kind] += 1
            case Skipped():
                self.skipped[kind] += 1
        if not isinstance(event, Skipped):
            self.files += event.files
            self.bytes += event.bytes
            self.points += event.points
        self._add_findings(event.findings)
        if not self.dry:
            self._write_ids(event.ref, event.to)

    def _add_findings(self, findings: tuple[Finding, ...]) -> None:
        for finding in findings:
            match finding:
                case Problem():
                    self.problems[finding] = None
                case Note(where, what):
                    self.notes.add(what, where)
                case Loss(ref, what, carried):
                    if carried:
                        self._carried.add(what, str(ref))
                    else:
                        self.losses.append(finding)

    def _write_ids(self, old: Ref, new: Ref) -> None:
        if self._table is None:
            handle, self.ids = tempfile.mkstemp(prefix="mlmigrate-ids-", suffix=".csv")
            self._table = os.fdopen(handle, "w", newline="")
            csv.writer(self._table).writerow(["kind", "old", "new"])
        csv.writer(self._table).writerow([old.kind, old.id, new.id])

    def done(self) -> None:
        """Stop the clock and close the table of ids."""
        self.seconds = time.monotonic() - self._started
        if self._table is not None:
            self._table.close()

    @property
    def exit_code(self) -> int:
        """0, or 3 where something failed, was lost or differs."""
        lost = self.failed or self.losses or self.problems or self.conflicts
        differs = self.verification is not None and self.verification.exit_code
        return 3 if lost or differs else 0

    def data(self) -> dict[str, Any]:
        """Return the object that ``copy --json`` and ``plan --json`` print."""
        carried = [
            {"ref": self._carried.where(places, count), "what": what, "carried": True}
            for what, places, count in self._carried.rows()
        ]
        data: dict[str, Any] = {
            "copied": dict(self.copied),
            "updated": dict(self.updated),
            "skipped": dict(self.skipped),
            "failed": [{"ref": str(each.ref), "why": each.why} for each in self.failed],
            "losses": [
                *(
                    {"ref": str(each.ref), "what": each.what, "carried": False}
                    for each in self.losses
                ),
                *carried,
            ],
            "problems": [_place(each) for each in self.problems],
            "notes": [
                {
                    "where": self.notes.where(places, count),
                    "what": what,
                    "count": count,
                }
                for what, places, count in self.notes.rows()
            ],
            "conflicts": [
                {"ref": str(each.ref), "what": each.what} for each in self.conflicts
            ],
            "artifacts": {"files": self.files, "bytes": self.bytes},
            "ids": self.ids,
            "seconds": round(self.seconds, 3),
        }
        if self.verification is not None:
            data["verify"] = self.verification.data()
        return data

    def text(self) -> str:
        """Return what a person reads."""
        verb = "would copy" if self.dry else "copied"
        lines = [
            f"{verb}: {_counts(self.copied) or 'nothing'}"
            + (f" ({self.points:,} metric points)" if self.points else "")
        ]
        if self.updated:
            lines.append(f"updated: {_counts(self.updated)}")
        if self.skipped:
            lines.append(f"already there: {_counts(self.skipped)}")
        if self.files:
            lines.append(f"artifacts: {self.files:,} files, {_size(self.bytes)}")
        lines += _section("failed", [f"{each.ref}: {each.why}" for each in self.failed])
        lines += _section(
            "conflicts (--on-conflict newest or keep-both settles them)",
            [f"{each.ref}: {each.what}" for each in self.conflicts],
        )
        lines += _section("lost", [f"{each.ref}: {each.what}" for each in self.losses])
        lines += _section(
            "problems", [f"{each.where}: {each.what}" for each in self.problems]
        )
        for title, grouped in (
            ("kept in tags (mlmigrate.*)", self._carried),
            ("notes", self.notes),
        ):
            lines += _section(
                title,
                [
                    f"{what} [{count}x: {', '.join(places[:2])}{', …' * (count > 2)}]"
                    for what, places, count in grouped.rows()
                ],
            )
        if self.ids:
            lines.append(f"old and new ids: {self.ids}")
        lines.append(f"took {self.seconds:.1f} s")
        if self.verification is not None:
            lines.append(self.verification.text())
        return "\n".join(lines)


def _section(title: str, rows: list[str]) -> list[str]:
    if not rows:
        return []
    shown = [f"  {row}" for row in rows[:30]]
    if len(rows) > 30:
        shown.append(f"  … and {len(rows) - 30} more (all of them with --json)")
    return [f"{title} ({len(rows)}):", *shown]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(
        f"{count:,} {kind.replace('_', ' ')}{'s' * (count != 1)}"
        for kind, count in counts.items()
    )


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _place(problem: Problem) -> dict[str, str]:
    return {"where": problem.where, "what": problem.what}


def to_json(data: dict[str, Any]) -> str:
    """Return *data* as one line of JSON; text that is not UTF-8 is escaped."""
    return json.dumps(data, default=str)
