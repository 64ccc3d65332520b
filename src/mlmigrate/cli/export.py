"""``mlmigrate export``: back up into an archive."""

from __future__ import annotations

from typing import Any

import click

from mlmigrate import api
from mlmigrate.cli import EXITS
from mlmigrate.cli.options import arguments, shared
from mlmigrate.cli.progress import bars
from mlmigrate.report import to_json

_PREFIX = "archive:"


@click.command(epilog=EXITS + "\n\nExample: mlmigrate export ./mlruns /backup/mlflow")
@shared
@click.option("--no-artifacts", is_flag=True, help="The same as --artifacts skip.")
@click.option(
    "--verify", "read_back", is_flag=True, help="Read the archive back after."
)
def command(**given: Any) -> None:
    """Back up everything in SOURCE... into the archive DIR, which is made.

    Run it again to add what is new; what is archived stays readable at every moment.
    `mlmigrate copy DIR SINK` restores it, `-i as-of=TIME` an earlier state, and
    `mlmigrate check DIR` looks whether it is still whole.
    """
    if given["no_artifacts"]:
        given["artifacts"] = "skip"
    given["sink"] = _PREFIX + given["sink"].removeprefix(_PREFIX)
    wanted = arguments(given)
    with bars("exporting") as shown:
        report = api.copy(**wanted, observe=shown)
    if given["read_back"]:
        with bars("verifying") as shown:
            report.verification = api.verify(**wanted, observe=shown)
    click.echo(to_json(report.data()) if given["as_json"] else report.text())
    raise SystemExit(report.exit_code)


for _parameter in command.params:
    if _parameter.name == "sink":
        _parameter.metavar = "DIR"
