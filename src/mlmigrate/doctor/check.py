"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass

#: Of a list of places, so many are named.
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; *fix* says what to do where it is not *ok*."""

    name: str
    ok: bool
    what: str
    fix: str = ""


def listed(places: list[str]) -> str:
    """Return the first few of *places*, and how many more there are."""
    more = len(places) - SHOWN
    return ", ".join(places[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def many(count: int, word: str) -> str:
    """Return *count* with *word* in the singular or plural."""
    return f"{count:,} {word}{'s' * (count != 1)}"
