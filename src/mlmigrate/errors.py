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

The message of each says what, where, and what to do next. What the code of others
raises becomes one of them by `translated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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


@contextmanager
def translated(
    told: Callable[[Exception], Exception],
    *,
    passing: tuple[type[Exception], ...] = (MlmigrateError,),
) -> Iterator[None]:
    """Turn what a vendor's code raises into what *told* makes of it.

    The clients of object stores, of W&B and of Neptune, MLflow's artifact repositories
    over them, and Arrow over a damaged file have no common root of what they raise
    below `Exception`: one refused request, or one flipped bit, is a botocore error
    here, and a plain `ValueError`, `TypeError`, `KeyError` or `AssertionError` there.
    Nothing is swallowed: what was raised is the cause of what is raised in its place.

    Args:
        told: makes the error; the original is its cause.
        passing: what is already as it should be.
    """
    try:
        yield
    except passing:
        raise
    # Of any kind: there is no narrower root, see above.
    except Exception as error:
        raise told(error) from error
