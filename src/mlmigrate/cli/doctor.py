"""``mlmigrate doctor``: look for the usual traps."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from mlmigrate import doctor
from mlmigrate.cli import EXITS
from mlmigrate.errors import UsageError
from mlmigrate.report import to_json


@click.command(epilog=EXITS + "\n\nExample: mlmigrate doctor sqlite:///mlflow.db")
@click.argument("store", metavar="[STORE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(store: str | None, *, as_json: bool) -> None:
    """Look for the usual traps: at STORE, or where MLflow would log to from here.

    Nothing is changed. Each trap comes with what to do about it.
    """
    if store is not None and not store.strip():
        raise UsageError("an empty text is no location: give a store, or nothing")
    checks = doctor.diagnose(store, os.environ, ".")
    if as_json:
        click.echo(to_json({"checks": [asdict(check) for check in checks]}))
    else:
        width = max((len(check.name) for check in checks), default=0)
        for check in checks:
            click.echo(
                f"{'ok' if check.ok else 'FAIL':4}  {check.name:{width}}  {check.what}"
            )
            if not check.ok:
                click.echo(f"{'':{width + 6}}  -> {check.fix}")
    if not all(check.ok for check in checks):
        raise SystemExit(3)
