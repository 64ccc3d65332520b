"""Neptune's steps, which may be fractions, as MLflow's, which are whole numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlmigrate.errors import ItemError
from mlmigrate.model import Float64s, Int64s
from mlmigrate.neptune_runs.attributes import MILLIONTHS

_LARGEST = 2**63 - 1


def millionths(steps: Float64s) -> Int64s:
    """Return steps in millionths.

    Raises:
        ItemError: they do not fit in 64 bits then.
    """
    if len(steps) and not float(np.abs(steps).max()) < _LARGEST // MILLIONTHS:
        raise ItemError("steps of more than 12 digits")
    # Not in one: a float has not all the digits of a large step's millionths.
    units = np.floor(steps)
    rest = np.rint((steps - units) * MILLIONTHS)
    return units.astype(np.int64) * MILLIONTHS + rest.astype(np.int64)


def floating(steps: Int64s) -> Float64s:
    """Return steps, given in millionths, as numbers."""
    units, rest = np.divmod(steps, MILLIONTHS)
    found: Float64s = units + rest / MILLIONTHS
    return found


def multiplier_of(steps: Iterable[Int64s]) -> int:
    """Return the least number that makes all of a run's steps whole.

    Args:
        steps: those of each series, in millionths.
    """
    common = MILLIONTHS
    for each in steps:
        if common > 1 and len(each) and (each % common).any():
            common = int(np.gcd(common, np.gcd.reduce(each)))
    return MILLIONTHS // common


def whole(path: str, steps: Int64s, multiplier: int) -> Int64s:
    """Return steps, given in millionths, times *multiplier*.

    Raises:
        ItemError: they are not whole then, or do not fit in 64 bits.
    """
    shared = int(np.gcd(multiplier, MILLIONTHS))
    divisor, factor = MILLIONTHS // shared, multiplier // shared
    if (steps % divisor).any():
        raise ItemError(
            f"steps of {path} are fractions that times {multiplier} are not whole: give"
            f" -i step-multiplier={multiplier_of([steps])}, or a multiple of that"
        )
    found = steps // divisor
    if factor > 1 and len(found) and int(np.abs(found).max()) > _LARGEST // factor:
        raise ItemError(f"steps of {path} times {multiplier} do not fit in 64 bits")
    return found * factor


def shown(step: int) -> str:
    """Return a step, given in millionths, as a decimal number."""
    sign, (units, rest) = "-" * (step < 0), divmod(abs(step), MILLIONTHS)
    return (
        f"{sign}{units}.{rest:06}".rstrip("0").rstrip(".") if rest else f"{sign}{units}"
    )
