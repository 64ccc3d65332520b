"""``mlmigrate plan``: tell what copy would do."""

from __future__ import annotations

from typing import Any

import click

from mlmigrate import api
from mlmigrate.cli import EXITS
from mlmigrate.cli.options import arguments, shared
from mlmigrate.cli.progress import bars
from mlmigrate.report import to_json


@click.command(
    epilog=EXITS + "\n\nExample: mlmigrate plan ./mlruns http://tracking:5000"
)
@shared
def command(**given: Any) -> None:
    """Tell what copying SOURCE... into SINK would do. Writes nothing."""
    with bars("planning") as shown:
        report = api.plan(**arguments(given), observe=shown)
    click.echo(to_json(report.data()) if given["as_json"] else report.text())
    raise SystemExit(report.exit_code)
