"""What an adapter is held to: a conformance suite, faults and random records.

``suite`` needs pytest, and ``strategies`` Hypothesis; import them by their own names.
A third party's adapter is tested by a subclass of `mlmigrate.testing.suite.SinkSuite`.
"""

from __future__ import annotations

from mlmigrate.testing.faults import (
    BrokenFile,
    FailingSink,
    FailingStore,
    Killed,
    failing,
)

__all__ = ["BrokenFile", "FailingSink", "FailingStore", "Killed", "failing"]
