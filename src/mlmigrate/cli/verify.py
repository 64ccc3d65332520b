"""``mlmigrate verify``: compare a copy with its sources."""

from __future__ import annotations

from typing import Any

import click

from mlmigrate import api
from mlmigrate.cli import EXITS
from mlmigrate.cli.options import arguments, shared
from mlmigrate.cli.progress import bars
from mlmigrate.report import to_json


@click.command(
    epilog=EXITS + "\n\nExample: mlmigrate verify ./mlruns old.db sqlite:///all.db"
)
@shared
def command(**given: Any) -> None:
    """Compare what SINK reads back with SOURCE..., value by value, byte by byte.

    Give the options that were given to copy.
    """
    with bars("verifying") as shown:
        report = api.verify(**arguments(given), observe=shown)
    click.echo(to_json(report.data()) if given["as_json"] else report.text())
    raise SystemExit(report.exit_code)
