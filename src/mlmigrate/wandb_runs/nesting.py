"""Runs in runs, which W&B shows as groups: each is named for the run at its top."""

from __future__ import annotations


class Nesting:
    """Which run is nested in which, by their origins."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._above: set[str] = set()

    def add(self, origin: str, parent: str | None) -> None:
        """Note that a run is nested in another; both may be unknown yet."""
        if parent:
            self._parents[origin] = parent
            self._above.add(parent)

    def is_parent(self, origin: str) -> bool:
        """Tell whether runs are nested in this one."""
        return origin in self._above

    def root(self, origin: str) -> str | None:
        """Return the origin of the run at the top of those that one is nested in; None
        where it is nested in none.
        """
        seen = {origin}
        top = origin
        while (above := self._parents.get(top)) is not None and above not in seen:
            seen.add(above)
            top = above
        return top if top != origin else None
