"""A fault of this server alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..planted import Lie


@dataclass(frozen=True, slots=True)
class Forget(Lie):
    """A lie: answer as if all rows of a `file_stream` were stored, keep only some."""

    keep: int = 0
