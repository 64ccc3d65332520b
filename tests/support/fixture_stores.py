"""The stores that `fixtures` keeps, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stores"
#: What there is of each kind in each store, by its name.
COUNTS: dict[str, dict[str, Any]] = json.loads(
    FIXTURES.with_name("counts.json").read_text()
)


def location(name: str) -> str:
    """Return where a store is that has such a name."""
    path = FIXTURES / name
    return f"sqlite:///{path}" if path.suffix == ".db" else str(path)
