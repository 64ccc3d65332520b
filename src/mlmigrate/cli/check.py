"""``mlmigrate check``: the integrity of an archive, without its sources."""

from __future__ import annotations

import sys
from typing import Any

import click
from tqdm import tqdm

from mlmigrate.cli import EXITS
from mlmigrate.errors import UsageError
from mlmigrate.report import to_json

#: More items than these are named with --json only.
_SHOWN = 10


@click.command(epilog=EXITS + "\n\nExample: mlmigrate check /backup/mlflow")
@click.argument("archive", metavar="DIR")
@click.option(
    "--sample",
    metavar="SHARE",
    help="Read only such a part of the artifacts, say 5%; look for all the others.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(archive: str, sample: str | None, *, as_json: bool) -> None:
    """Compare every file of the archive DIR with its checksum.

    Finds every flipped bit, and every truncated or missing file, and names the items
    that it costs. The rest can still be restored. Nothing is changed.
    """
    share = _share(sample)
    from mlmigrate.stores.archive import checking, place_of

    place = place_of(archive)
    off = not sys.stderr.isatty()
    bar = tqdm(desc="read", unit="B", unit_scale=True, disable=off, leave=False)

    def read(size: int) -> None:
        bar.update(size)

    try:
        found = checking.check(place, share=share, observe=read)
    finally:
        bar.close()
        place.close()
    data = {
        "whole": {"files": found.files, "bytes": found.bytes},
        "damaged": [
            {
                "where": each.where,
                "what": each.what,
                "hurts": [str(ref) for ref in each.hurts],
            }
            for each in found.damaged
        ],
        "notes": found.notes,
        "blobs": {"read": found.read, "of": found.blobs},
    }
    click.echo(to_json(data) if as_json else "\n".join(_lines(data)))
    if found.damaged:
        raise SystemExit(3)


def _share(text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--sample {text!r} is no share: give 5% or 0.05")
    return share


def _lines(data: dict[str, Any]) -> list[str]:
    whole, blobs = data["whole"], data["blobs"]
    lines = [f"whole: {whole['files']:,} files, {whole['bytes']:,} bytes"]
    if blobs["read"] < blobs["of"]:
        lines.append(f"a sample: {blobs['read']:,} of {blobs['of']:,} artifacts read")
    if data["damaged"]:
        lines.append(f"damaged ({len(data['damaged'])}):")
    for each in data["damaged"]:
        lines.append(f"  {each['where']} {each['what']}")
        lines += [f"    hurts {ref}" for ref in each["hurts"][:_SHOWN]]
        if len(each["hurts"]) > _SHOWN:
            more = len(each["hurts"]) - _SHOWN
            lines.append(f"    … and {more:,} more (all of them with --json)")
        if not each["hurts"]:
            lines.append("    hurts no item")
    lines += [f"note: {note}" for note in data["notes"]]
    if not data["damaged"]:
        lines.append("no damage")
    return lines
