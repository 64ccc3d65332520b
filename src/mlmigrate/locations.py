"""Locations to stores: by which adapter, with which options, in which workspace."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from mlmigrate import workspaces
from mlmigrate.adapters import ADAPTERS, MANIFESTS, WORKSPACE, Adapter, Option, adapters
from mlmigrate.artifacts import local_path, redact
from mlmigrate.contract import Sink, Source
from mlmigrate.errors import LocationError, UsageError
from mlmigrate.location_checks import refusal

__all__ = [
    "ADAPTERS",
    "MANIFESTS",
    "Adapter",
    "Opened",
    "Option",
    "adapters",
    "chosen_workspace",
    "identity",
    "resolve",
    "shown",
    "within",
    "workspace_of",
]


@dataclass(frozen=True, slots=True)
class Opened:
    """A location with the adapter and the options to open it with: all that another
    process needs.
    """

    location: str
    adapter: Adapter
    options: Mapping[str, Any]

    def source(self) -> Source:
        """Open the store for reading.

        Raises:
            LocationError: the location is malformed, or names no store.
            StoreError: the store cannot be opened.
        """
        if not self.adapter.source:
            raise UsageError(f"{redact(self.location)} cannot be read from")
        if self.adapter.check is not None:
            self.adapter.check(self.location)
        opened: Source = import_module(self.adapter.module).open_source(
            self.location, self.options
        )
        return opened

    def sink(self) -> Sink:
        """Open the store for writing.

        Raises:
            LocationError: the location is malformed.
            StoreError: the store cannot be opened.
        """
        if not self.adapter.sink:
            raise UsageError(
                f"{redact(self.location)} cannot be written to; see `mlmigrate stores`"
            )
        if self.adapter.check is not None:
            self.adapter.check(self.location)
        opened: Sink = import_module(self.adapter.module).open_sink(
            self.location, self.options
        )
        return opened


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
        # No path holds a NUL, and few functions bear to be asked.
        if "\0" not in location and adapter.matches(location):
            break
    else:
        raise LocationError(refusal(location))
    known = {option.name: option for option in adapter.options}
    values: dict[str, Any] = {option.name: option.default for option in known.values()}
    for option in adapter.options:
        if option.variable and (text := os.environ.get(option.variable, "").strip()):
            values[option.name] = _valued(option, option.variable, text)
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"option {text!r} is not of the form KEY=VALUE")
        if key in known:
            values[key] = _valued(known[key], f"option {key}", value)
        elif strict:
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{adapter.name} has no option {key!r}; it has: {names}")
    return Opened(location, adapter, {**values, **(shared or {})})


def _valued(option: Option, name: str, text: str) -> Any:
    try:
        return option.type(text)
    except ValueError as error:
        raise UsageError(f"{name}: {text!r} is wrong: {error}") from error


# -- workspaces -----------------------------------------------------------------------


def chosen_workspace(opened: Opened) -> str | None:
    """Return the workspace that somebody chose of a store; None where nobody did."""
    chosen: str | None = opened.options.get(WORKSPACE.name)
    return chosen


def workspace_of(opened: Opened) -> str:
    """Return the workspace that a store is opened in."""
    return chosen_workspace(opened) or workspaces.DEFAULT


def within(opened: Opened, workspace: str) -> Opened:
    """Return a store opened in one of its workspaces."""
    return replace(opened, options={**opened.options, WORKSPACE.name: workspace})


def shown(opened: Opened) -> str:
    """Name a store for people, with the workspace if that is not the default one."""
    place = redact(opened.location)
    name = workspace_of(opened)
    return place if name == workspaces.DEFAULT else f"{place} workspace {name}"


# -- which store ----------------------------------------------------------------------


def identity(opened: Opened) -> str:
    """Return what tells whether two locations are the same store."""
    location = opened.location
    if opened.adapter.name == "archive":
        location = location.removeprefix("archive:")
        remote = "://" in location and not location.startswith("file:")
        root = (
            location.rstrip("/") if remote else os.path.realpath(local_path(location))
        )
        # A workspace of an archive is an archive, too.
        inner = workspace_of(opened)
        return root if inner == workspaces.DEFAULT else f"{root}/workspaces/{inner}"
    if opened.adapter.name in ("wandb_offline", "neptune_export"):
        return os.path.realpath(location.partition(":")[2])
    if opened.adapter.name == "neptune_offline":
        folder = os.path.realpath(location.removeprefix("neptune-offline:"))
        inner = os.path.join(folder, ".neptune")
        return inner if os.path.isdir(inner) else folder
    if opened.adapter.name in ("mlflow_files", "mlflow_db") and (
        "://" not in location or location.startswith(("sqlite:", "file:"))
    ):
        path = location.split("///", 1)[-1] if "://" in location else location
        if location.startswith(("sqlite:////", "file:///")):
            path = "/" + path.lstrip("/")
        return os.path.realpath(path)
    return location.rstrip("/")
