"""Records that a sink can hold, and what that cost. Pure functions.

Fitting is idempotent. A text that is too long is cut, and a point whose value a sink
cannot hold is replaced; the whole of it is then carried in the copy's tags
``mlmigrate.whole.1``, ``.2``, … as JSON, where it fits there.
"""

from __future__ import annotations

from mlmigrate.fit.records import fit

__all__ = ["fit"]
