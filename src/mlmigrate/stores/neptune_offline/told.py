"""What is known of one run, when all of it was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlmigrate.model import Finding, Note, Problem
from mlmigrate.neptune_runs.attributes import FloatSeries
from mlmigrate.stores.neptune_offline.gathered import Gathered

_MOST_TOLD = 20  # findings of one sort


@dataclass(slots=True)
class Told:
    """What is known of a run."""

    gathered: Gathered
    where: str  # what to call it in findings
    began: int | None = None
    heard: int | None = None
    about: dict[str, str] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)
    floats: dict[str, FloatSeries] = field(default_factory=dict)  # in the end
    #: Operations that were sent, written, and sent and then removed by the client.
    sent: int = 0
    written: int = 0
    removed: int = 0

    def saw(self, time: int | None) -> None:
        """Note that the client wrote something."""
        if time is not None:
            self.began = time if self.began is None else min(self.began, time)
            self.heard = time if self.heard is None else max(self.heard, time)

    def wrong(self, name: str, texts: Sequence[str]) -> None:
        """Tell what is wrong with a part of the run."""
        self.found += [
            Problem(self.where, f"{name}: {what}") for what in texts[:_MOST_TOLD]
        ]
        if len(texts) > _MOST_TOLD:
            what = f"{name}: {len(texts) - _MOST_TOLD} more of this sort"
            self.found.append(Problem(self.where, what))

    def finish(self) -> None:
        """Tell what is known only in the end."""
        self.floats = self.gathered.series()
        if self.began is None:  # old clients did not write when they did something
            for time in self.gathered.span or ():
                self.saw(time)
            for series in self.floats.values():
                self.saw(int(series.timestamps.min()))
                self.saw(int(series.timestamps.max()))
        if self.removed:
            what = (
                f"{self.removed} of its operations were sent to Neptune, whose client"
                " then removed them: what they logged is not in this folder"
            )
            self.found.append(Problem(self.where, what))
        if self.sent:
            what = f"{self.sent} of {self.written} operations were already sent"
            self.found.append(Note(self.where, what))
        whole = self.sent and self.sent >= self.written
        self.about["sent"] = "all" if whole else "part" if self.sent else "none"
        self.found += _counted(self.gathered.wrong, self.where, Problem)
        self.found += _counted(self.gathered.notes, self.where, Note)


def _counted(
    texts: Mapping[str, int], where: str, kind: type[Problem] | type[Note]
) -> list[Finding]:
    """Return findings of what happened, each with how often it did."""
    shown = list(texts.items())[:_MOST_TOLD]
    found: list[Finding] = [kind(where, f"{count} {what}") for what, count in shown]
    if len(texts) > _MOST_TOLD:
        rest = Counter(texts).total() - sum(count for _, count in shown)
        found.append(kind(where, f"{rest} more of this sort"))
    return found
