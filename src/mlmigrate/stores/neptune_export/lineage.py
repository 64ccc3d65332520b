"""Forks of 3.x: a run goes on from a step of another, and holds its own points only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlmigrate.model import Finding, Problem
from mlmigrate.neptune_runs.attributes import MILLIONTHS, Scalar
from mlmigrate.stores.neptune_export.layout import Entry

PARENT, STEP = "sys/forking/parent", "sys/forking/step"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A run whose points, up to a step in millionths, are another's as well."""

    entry: Entry
    up_to: int


def parent_of(scalars: dict[str, Scalar]) -> tuple[str, int] | None:
    """Return the run that one goes on from, and the step in millionths."""
    parent, step = scalars.get(PARENT), scalars.get(STEP)
    if parent is None or not isinstance(parent.value, str) or not parent.value:
        return None
    at = step.value if step else 0
    if isinstance(at, str | bool | tuple) or not abs(at) < 2**40:
        at = 0
    return parent.value, round(at * MILLIONTHS)


def ancestors(
    entry: Entry,
    scalars: dict[str, Scalar],
    find: Callable[[str, str], Entry | None],
    scalars_of: Callable[[Entry], dict[str, Scalar]],
    findings: list[Finding],
) -> Iterator[Ancestor]:
    """Yield the runs that *entry* goes on from, the nearest first.

    Args:
        entry: the run.
        scalars: its attributes with one value.
        find: finds a run by its project and its id.
        scalars_of: reads such attributes.
        findings: gets the runs that are lacking.
    """
    seen = {entry.id}
    up_to: int | None = None
    here = entry
    while (said := parent_of(scalars)) is not None:
        parent, step = said
        up_to = step if up_to is None else min(up_to, step)
        found = find(entry.project, parent)
        if found is None or found.id in seen:
            what = (
                f"it goes on from step {step / MILLIONTHS:g} of {parent}, which is not"
                " in the archive: the points before are not there"
            )
            if found is not None:
                what = f"it goes on from {parent}, which goes on from it"
            findings.append(Problem(here.where, what))
            return
        yield Ancestor(found, up_to)
        seen.add(found.id)
        here, scalars = found, scalars_of(found)
