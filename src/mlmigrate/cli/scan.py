"""``mlmigrate scan``: find every store below a path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from mlmigrate import discover, inspection
from mlmigrate.cli import EXITS
from mlmigrate.errors import MlmigrateError, UsageError
from mlmigrate.locations import Opened, resolve
from mlmigrate.model import Problem
from mlmigrate.report import to_json

_COLUMNS = ("store", "adapter", "experiments", "runs", "points", "files", "bytes")


@click.command(epilog=EXITS + "\n\nExample: mlmigrate scan ~/projects /mnt/cluster")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(paths: tuple[str, ...], *, as_json: bool) -> None:
    """Find every store below each PATH [the current folder].

    Tells what each holds, and which stores hold the same runs. Links are not followed.
    """
    if not all(path.strip() for path in paths):
        raise UsageError("an empty text is no path: give a folder, or nothing at all")
    stores: list[dict[str, Any]] = []
    readable: list[Opened] = []
    problems: list[dict[str, str]] = []
    for found in discover.scan(paths or (".",)):
        if isinstance(found, Problem):
            problems.append({"where": found.where, "what": found.what})
            continue
        try:
            opened = resolve(found)
            stores.append(inspection.inspect(opened))
        except MlmigrateError as error:
            problems.append({"where": found, "what": str(error)})
        else:
            readable.append(opened)
    data = {
        "stores": stores,
        "overlaps": discover.overlaps(readable),
        "problems": problems,
    }
    click.echo(to_json(data) if as_json else "\n".join(_lines(data)))
    if problems or any(store["problems"] for store in stores):
        raise SystemExit(3)


def _lines(data: dict[str, Any]) -> Iterator[str]:
    stores = data["stores"]
    if stores:
        yield from _table([_COLUMNS, *(_row(store) for store in stores)])
    else:
        yield "no store found"
    for overlap in data["overlaps"]:
        places = ", ".join(overlap["stores"])
        yield f"{overlap['runs']:,} runs are in each of: {places}"
    for store in stores:
        count = len(store["problems"])
        if count:
            yield (
                f"{count:,} problems in {store['location']}:"
                f" mlmigrate inspect {store['location']}"
            )
    for problem in data["problems"]:
        yield f"{problem['where']}: {problem['what']}"


def _row(store: dict[str, Any]) -> tuple[str, ...]:
    return (
        store["location"],
        store["adapter"],
        f"{sum(store['experiments'].values()):,}",
        f"{sum(store['runs'].values()):,}",
        f"{store['metrics']['points']:,}",
        f"{store['artifacts']['files']:,}",
        f"{store['artifacts']['bytes']:,}",
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
