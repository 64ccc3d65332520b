"""``mlmigrate inspect``: what one store holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from mlmigrate import inspection
from mlmigrate.artifacts import parse_maps
from mlmigrate.cli import EXITS
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import UsageError
from mlmigrate.filters import parse_kinds
from mlmigrate.locations import resolve
from mlmigrate.report import to_json

#: More findings than these are told with --json only.
_SHOWN = 30


@click.command(epilog=EXITS + "\n\nExample: mlmigrate inspect ./mlruns")
@click.argument("store", metavar="STORE")
@click.option(
    "-i",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the store's adapter; see `mlmigrate stores NAME`.",
)
@click.option(
    "--map-artifacts",
    multiple=True,
    metavar="OLD=NEW",
    help="Where artifacts recorded below OLD are now.",
)
@click.option(
    "--kinds",
    metavar="LIST",
    help="Read and count only these: some of run, logged_model, registered_model and"
    " trace, with commas between them.",
)
@click.option(
    "--temp-dir",
    type=click.Path(file_okay=False, exists=True),
    help="Where the snapshot of a live SQLite file goes.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Readers at once [as many as cores]."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    store: str,
    options: tuple[str, ...],
    map_artifacts: tuple[str, ...],
    kinds: str | None,
    temp_dir: str | None,
    *,
    workers: int | None,
    as_json: bool,
) -> None:
    """Tell what STORE holds, and what is wrong with it.

    Everything but the artifacts' bytes is read; deleted runs count, too.
    """
    try:
        parse_maps(map_artifacts)
    except ValueError as error:
        raise UsageError(f"--map-artifacts: {error}") from error
    shared = {"map-artifacts": list(map_artifacts), "temp-dir": temp_dir}
    chosen = parse_kinds(kinds) if kinds else ()
    data = inspection.inspect(resolve(store, options, shared=shared), workers, chosen)
    click.echo(to_json(data) if as_json else "\n".join(_lines(data)))
    if data["problems"]:
        raise SystemExit(3)


def _lines(data: dict[str, Any]) -> Iterator[str]:
    yield f"{data['location']} ({data['adapter']})"
    for label, value in _rows(data):
        yield f"  {label:19} {value}"
    yield from _section(
        "problems", [f"{each['where']}: {each['what']}" for each in data["problems"]]
    )
    yield from _section(
        "notes",
        [
            f"{each['what']} [{each['count']}x: {each['where']}]"
            for each in data["notes"]
        ],
    )


def _rows(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("experiments", "runs"):
        deleted = data[key]["deleted"]
        and_deleted = f", and {deleted:,} deleted" if deleted else ""
        yield key, f"{data[key]['active']:,}{and_deleted}"
    yield "params", f"{data['params']:,}"
    yield "tags", f"{data['tags']:,}"
    metrics = data["metrics"]
    yield "metrics", f"{metrics['keys']:,} histories, {metrics['points']:,} points"
    yield "datasets", f"{data['datasets']:,}"
    artifacts = data["artifacts"]
    yield "artifacts", f"{artifacts['files']:,} files, {artifacts['bytes']:,} bytes"
    for key in ("registered_models", "model_versions", "logged_models", "traces"):
        yield key.replace("_", " "), f"{data[key]:,}"
    for kind in ENTITIES:
        if count := data[f"{kind}s"]:
            yield f"{kind}s".replace("_", " "), f"{count:,}"


def _section(title: str, rows: list[str]) -> Iterator[str]:
    if not rows:
        return
    yield f"{title} ({len(rows)}):"
    yield from (f"  {row}" for row in rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"  … and {len(rows) - _SHOWN} more (all of them with --json)"
