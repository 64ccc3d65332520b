"""Lossless migration of machine-learning experiments between tracking stores.

>>> import mlmigrate
>>> report = mlmigrate.copy(["./mlruns", "old.db"], "sqlite:///all.db")
>>> report.copied, report.losses, report.problems, report.failed
"""

from __future__ import annotations

from mlmigrate.api import copy, open_store, plan, verify
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

__all__ = [
    "ItemError",
    "LocationError",
    "MlmigrateError",
    "SchemaError",
    "SourceChanged",
    "StoreError",
    "StoreNotFound",
    "UnsafePath",
    "UsageError",
    "copy",
    "open_store",
    "plan",
    "verify",
]

__version__ = "0.1.0"
