"""The functions that a program calls; the command line calls them, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlmigrate import inspection, pipeline
from mlmigrate.artifacts import parse_maps
from mlmigrate.contract import Source
from mlmigrate.errors import UsageError
from mlmigrate.locations import Opened, resolve
from mlmigrate.model import Kind
from mlmigrate.pipeline import Options
from mlmigrate.report import Report, VerifyReport
from mlmigrate.verification import Verdict
from mlmigrate.verification import verify as verdicts


def open_store(location: str, *options: str) -> Source:
    """Open the store at *location* for reading.

    Args:
        location: a path or URL; see ``mlmigrate stores``.
        options: ``KEY=VALUE`` texts, options of its adapter.

    Raises:
        LocationError: no adapter understands it.
        StoreError: it cannot be opened.
    """
    return resolve(location, options).source()


def inspect(location: str, *options: str, kinds: Sequence[Kind] = ()) -> dict[str, Any]:
    """Count what the store at *location* holds, and tell what is wrong with it.

    Args:
        location: the store.
        options: ``KEY=VALUE`` texts, options of its adapter.
        kinds: what to read and count beside experiments; everything if none is named.

    Returns:
        The object that ``mlmigrate inspect --json`` prints.
    """
    return inspection.inspect(resolve(location, options), kinds=kinds)


def scan(*paths: str) -> list[str]:
    """Return the locations of every store below *paths*."""
    # It knows how every store looks: half a second that no copy needs.
    from mlmigrate import discover

    found = discover.scan([Path(path) for path in paths])
    return [place for place in found if isinstance(place, str)]


def resolve_all(
    sources: Sequence[str],
    sink: str,
    *,
    source_options: Sequence[str] = (),
    sink_options: Sequence[str] = (),
    shared: Mapping[str, Any] | None = None,
    artifacts: str = "copy",
    dry: bool = False,
) -> tuple[list[Opened], Opened]:
    """Find the adapters of the sources and the sink, and check their options."""
    try:
        parse_maps((shared or {}).get("map-artifacts", ()))
    except ValueError as error:
        raise UsageError(f"--map-artifacts: {error}") from error
    opened = [
        resolve(source, source_options, shared=shared, strict=len(sources) == 1)
        for source in sources
    ]
    target = resolve(sink, sink_options, shared={"artifacts": artifacts, "dry": dry})
    return opened, target


def copy(
    sources: Sequence[str],
    sink: str,
    options: Options | None = None,
    *,
    source_options: Sequence[str] = (),
    sink_options: Sequence[str] = (),
    shared: Mapping[str, Any] | None = None,
    dry: bool = False,
    observe: Callable[[pipeline.Event], None] | None = None,
) -> Report:
    """Copy everything from *sources* into *sink*.

    Args:
        sources: locations, read in this order.
        sink: the location to write to.
        options: what to copy and how.
        source_options: ``KEY=VALUE`` texts for the sources' adapters.
        sink_options: ``KEY=VALUE`` texts for the sink's adapter.
        shared: ``map-artifacts`` (texts ``OLD=NEW``) and ``temp-dir`` for all sources.
        dry: decide everything, write nothing.
        observe: called with every event, for progress.

    Raises:
        UsageError: the locations or options make no sense.
        StoreError: a store cannot be opened at all.
    """
    options = options or Options()
    opened, target = resolve_all(
        sources,
        sink,
        source_options=source_options,
        sink_options=sink_options,
        shared=shared,
        artifacts=options.artifacts,
        dry=dry,
    )
    report = Report(dry=dry)
    try:
        for event in pipeline.copy(opened, target, options, dry=dry):
            report.add(event)
            if observe is not None:
                observe(event)
    finally:
        report.done()
    return report


def plan(
    sources: Sequence[str], sink: str, options: Options | None = None, **more: Any
) -> Report:
    """Tell what `copy` would do; writes nothing. Takes the same arguments."""
    return copy(sources, sink, options, dry=True, **more)


def verify(
    sources: Sequence[str],
    sink: str,
    options: Options | None = None,
    *,
    source_options: Sequence[str] = (),
    sink_options: Sequence[str] = (),
    shared: Mapping[str, Any] | None = None,
    observe: Callable[[Verdict], None] | None = None,
) -> VerifyReport:
    """Compare what *sink* holds with *sources*, value by value and byte by byte.

    Takes the arguments of the `copy` that it verifies, and raises what that raises.
    """
    options = options or Options()
    opened, target = resolve_all(
        sources,
        sink,
        source_options=source_options,
        sink_options=sink_options,
        shared=shared,
        artifacts=options.artifacts,
        dry=True,
    )
    report = VerifyReport()
    for verdict in verdicts(opened, target, options):
        report.add(verdict)
        if observe is not None:
            observe(verdict)
    return report
