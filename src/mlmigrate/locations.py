"""Locations to adapters: the registry, as data.

An adapter is imported only when one of its locations is opened. Third parties add
theirs through the entry-point group ``mlmigrate.stores``: an entry point that loads to
an `Adapter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import redact
from mlmigrate.contract import Sink, Source
from mlmigrate.errors import LocationError, UsageError


@dataclass(frozen=True, slots=True)
class Option:
    """An option of one adapter, given as ``-o NAME=VALUE`` or ``-i NAME=VALUE``."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is known of an adapter without importing it."""

    name: str
    module: str  # has open_source(location, options), open_sink(location, options)
    locations: str  # for people
    matches: Callable[[str], bool]
    source: bool
    sink: bool
    holds: str  # one line for `mlmigrate stores`
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A location with the adapter and the options to open it with: all that another
    process needs.
    """

    location: str
    adapter: Adapter
    options: Mapping[str, Any]

    def source(self) -> Source:
        """Open the store for reading."""
        if not self.adapter.source:
            raise UsageError(f"{redact(self.location)} cannot be read from")
        opened: Source = import_module(self.adapter.module).open_source(
            self.location, self.options
        )
        return opened

    def sink(self) -> Sink:
        """Open the store for writing."""
        if not self.adapter.sink:
            raise UsageError(
                f"{redact(self.location)} cannot be written to; see `mlmigrate stores`"
            )
        opened: Sink = import_module(self.adapter.module).open_sink(
            self.location, self.options
        )
        return opened


_DATABASES = ("sqlite:", "postgresql", "postgres:", "mysql", "mariadb")


def _is_database(location: str) -> bool:
    if location.startswith(_DATABASES) and "://" in location:
        return True
    if "://" in location:
        return False
    path = Path(location)
    if path.is_file():
        with path.open("rb") as file:
            return file.read(16) in (b"SQLite format 3\0", b"")
    return path.suffix in (".db", ".sqlite", ".sqlite3") and not path.is_dir()


def _is_folder(location: str) -> bool:
    return location.startswith("file:") or Path(location).is_dir()


ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "memory",
        "mlmigrate.stores.memory",
        "memory:NAME",
        lambda location: location.startswith("memory:"),
        source=True,
        sink=True,
        holds="everything, while the process lives",
    ),
    Adapter(
        "mlflow_server",
        "mlmigrate.stores.mlflow_server",
        "http(s)://HOST:PORT",
        lambda location: location.startswith(("http://", "https://")),
        source=True,
        sink=True,
        holds="all but run ids and creation times, which it gives itself",
        options=(
            Option("threads", int, None, "requests at once [8 reading, 4 writing]"),
            Option("timeout", float, 120.0, "seconds to wait for an answer"),
            Option("retries", int, 6, "tries after a lost or refused request"),
            Option(
                "fire-webhooks", str, "no", "yes: write to a registry with webhooks"
            ),
        ),
    ),
    Adapter(
        "mlflow_db",
        "mlmigrate.stores.mlflow_db",
        "sqlite:///FILE, FILE.db, postgresql://…, mysql://…",
        _is_database,
        source=True,
        sink=True,
        holds="everything, ids and times too",
        options=(
            Option(
                "artifact-root",
                str,
                None,
                "folder or URL for artifacts [mlartifacts beside a SQLite file]",
            ),
        ),
    ),
    Adapter(
        "mlflow_files",
        "mlmigrate.stores.mlflow_files",
        "FOLDER (an mlruns/), file:///FOLDER",
        _is_folder,
        source=True,
        sink=False,
        holds="everything; read without importing mlflow",
    ),
)

#: Options of every source, given by options of the commands.
_SHARED = {"map-artifacts", "temp-dir", "artifacts"}


def adapters() -> tuple[Adapter, ...]:
    """Return every adapter, those of third parties first."""
    found = entry_points(group="mlmigrate.stores")
    return (*(point.load() for point in found), *ADAPTERS)


def resolve(
    location: str,
    options: Sequence[str] = (),
    *,
    shared: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> Opened:
    """Find the adapter of *location* and check its options.

    Args:
        location: a path or URL.
        options: ``KEY=VALUE`` texts.
        shared: options that every adapter takes.
        strict: refuse options that the adapter does not declare; otherwise drop them
            (sources of several kinds share one ``-i``).

    Raises:
        LocationError: no adapter understands it.
        UsageError: an option is unknown or malformed.
    """
    for adapter in adapters():
        if adapter.matches(location):
            break
    else:
        raise LocationError(
            f"{redact(location)!r} is no store that mlmigrate knows: there is no such"
            " folder or file; see `mlmigrate stores` for what a location looks like"
        )
    known = {option.name: option for option in adapter.options}
    values: dict[str, Any] = {option.name: option.default for option in known.values()}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"option {text!r} is not of the form KEY=VALUE")
        if key in known:
            try:
                values[key] = known[key].type(value)
            except ValueError as error:
                raise UsageError(
                    f"option {key}: {value!r} is wrong: {error}"
                ) from error
        elif strict:
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{adapter.name} has no option {key!r}; it has: {names}")
    return Opened(location, adapter, {**values, **(shared or {})})


def identity(opened: Opened) -> str:
    """Return what tells whether two locations are the same store."""
    location = opened.location
    if opened.adapter.name in ("mlflow_files", "mlflow_db") and (
        "://" not in location or location.startswith(("sqlite:", "file:"))
    ):
        path = location.split("///", 1)[-1] if "://" in location else location
        if location.startswith(("sqlite:////", "file:///")):
            path = "/" + path.lstrip("/")
        return str(Path(path).resolve())
    return location.rstrip("/")
