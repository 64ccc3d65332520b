"""``mlmigrate copy``: copy everything from stores into one."""

from __future__ import annotations

from typing import Any

import click

from mlmigrate import api
from mlmigrate.cli import EXITS
from mlmigrate.cli.options import arguments, shared
from mlmigrate.cli.progress import bars
from mlmigrate.report import to_json


@click.command(
    epilog=EXITS
    + "\n\nExample: mlmigrate copy ./mlruns old.db sqlite:///all.db --verify"
)
@shared
@click.option("--verify", "read_back", is_flag=True, help="Read the copy back after.")
def command(**given: Any) -> None:
    """Copy everything from SOURCE... into SINK.

    Nothing at the sources is changed. Run it again to go on where it was stopped, or to
    bring over what is new.
    """
    wanted = arguments(given)
    with bars("copying") as shown:
        report = api.copy(**wanted, observe=shown)
    if given["read_back"]:
        with bars("verifying") as shown:
            report.verification = api.verify(**wanted, observe=shown)
    click.echo(to_json(report.data()) if given["as_json"] else report.text())
    raise SystemExit(report.exit_code)
