"""``mlmigrate stores``: the adapters and what each can hold."""

from __future__ import annotations

import click

from mlmigrate.cli import EXITS
from mlmigrate.errors import UsageError
from mlmigrate.locations import Adapter, adapters
from mlmigrate.report import to_json


@click.command(epilog=EXITS + "\n\nExample: mlmigrate stores mlflow_db")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, *, as_json: bool) -> None:
    """List the adapters, or the options of the adapter NAME."""
    shown = [adapter for adapter in adapters() if name in (None, adapter.name)]
    if not shown:
        known = ", ".join(adapter.name for adapter in adapters())
        raise UsageError(f"there is no adapter {name!r}; there are: {known}")
    if as_json:
        click.echo(to_json({"stores": [_data(adapter) for adapter in shown]}))
        return
    for adapter in shown:
        uses = [word for word in ("source", "sink") if getattr(adapter, word)]
        click.echo(f"{adapter.name:14} {', '.join(uses):13} {adapter.locations}")
        click.echo(f"{'':28} holds {adapter.holds}")
        for option in adapter.options if name else ():
            click.echo(f"  {option.name}={option.default}  {option.help}")


def _data(adapter: Adapter) -> dict[str, object]:
    return {
        "name": adapter.name,
        "locations": adapter.locations,
        "source": adapter.source,
        "sink": adapter.sink,
        "holds": adapter.holds,
        "options": [
            {"name": option.name, "default": option.default, "help": option.help}
            for option in adapter.options
        ],
    }
