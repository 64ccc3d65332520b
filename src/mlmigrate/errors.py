"""Every error that mlmigrate raises.

    MlmigrateError            stops the command, exit code 1
    ├── UsageError            exit code 2: the command line or the options are wrong
    │   └── LocationError     a location that is malformed, or names no store
    ├── StoreError            a store as a whole cannot be opened, read or written
    │   ├── StoreNotFound     (also a FileNotFoundError) nothing is there
    │   ├── SchemaError       a database of another schema than is needed
    │   └── SourceChanged     a source changed while it was read
    ├── ItemError             one item is bad; the others go on
    └── UnsafePath            (an ItemError) a path that leads out of its root

The message of each says what, where, and what to do next.
"""

from __future__ import annotations


class MlmigrateError(Exception):
    """The root of all errors that mlmigrate raises on purpose."""


class UsageError(MlmigrateError):
    """What was asked for makes no sense."""


class LocationError(UsageError):
    """A location that is malformed, or names no store that an adapter understands."""


class StoreError(MlmigrateError):
    """A store as a whole cannot be opened, read or written."""


class StoreNotFound(StoreError, FileNotFoundError):
    """Nothing is there."""


class SchemaError(StoreError):
    """A database has another schema than is needed."""


class SourceChanged(StoreError):
    """A source changed while it was read."""


class ItemError(MlmigrateError):
    """One item cannot be read or written; the others go on."""


class UnsafePath(ItemError):
    """A path out of a store leads out of its root."""
