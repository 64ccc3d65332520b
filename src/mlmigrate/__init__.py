"""Lossless migration of machine-learning experiments between tracking stores.

>>> import mlmigrate
>>> report = mlmigrate.copy(["./mlruns", "old.db"], "sqlite:///all.db")
>>> report.copied, report.losses, report.problems, report.failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlmigrate.errors import (
    ItemError,
    LocationError,
    MlmigrateError,
    SchemaError,
    SourceChanged,
    StoreError,
    StoreNotFound,
    UnsafePath,
    UsageError,
)

if TYPE_CHECKING:
    from mlmigrate.api import copy, inspect, open_store, plan, scan, verify
    from mlmigrate.filters import Filters
    from mlmigrate.pipeline import Options
    from mlmigrate.report import Report, VerifyReport

__all__ = [
    "Filters",
    "ItemError",
    "LocationError",
    "MlmigrateError",
    "Options",
    "Report",
    "SchemaError",
    "SourceChanged",
    "StoreError",
    "StoreNotFound",
    "UnsafePath",
    "UsageError",
    "VerifyReport",
    "copy",
    "inspect",
    "open_store",
    "plan",
    "scan",
    "verify",
]

__version__ = "0.1.0"

_LAZY = {
    "Filters": "filters",
    "Options": "pipeline",
    "Report": "report",
    "VerifyReport": "report",
    "copy": "api",
    "inspect": "api",
    "open_store": "api",
    "plan": "api",
    "scan": "api",
    "verify": "api",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `mlmigrate --help` needs none of it.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mlmigrate.{_LAZY[name]}"), name)
