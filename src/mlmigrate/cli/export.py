"""``mlmigrate export``: back up into an archive."""

from __future__ import annotations

from typing import Any

import click

from mlmigrate import api, pipeline
from mlmigrate.artifacts import redact
from mlmigrate.cli import EXITS
from mlmigrate.cli.options import arguments, shared
from mlmigrate.cli.progress import bars
from mlmigrate.contract import Sink
from mlmigrate.locations import Opened
from mlmigrate.model import (
    Conflict,
    Copied,
    Failed,
    Finding,
    Loss,
    Note,
    Problem,
    Skipped,
    Updated,
)
from mlmigrate.report import Report, to_json

_PREFIX = "archive:"


class _Watched(Opened):
    """An archive whose open sink is told what is found on the way."""

    __slots__ = ("archive",)
    archive: Any

    def sink(self) -> Sink:
        """See `mlmigrate.locations.Opened.sink`."""
        object.__setattr__(self, "archive", super().sink())
        opened: Sink = self.archive
        return opened


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
        report = _export(wanted, shown)
    if given["read_back"]:
        with bars("verifying") as shown:
            report.verification = api.verify(**wanted, observe=shown)
    click.echo(to_json(report.data()) if given["as_json"] else report.text())
    raise SystemExit(report.exit_code)


for _parameter in command.params:
    if _parameter.name == "sink":
        _parameter.metavar = "DIR"


def _export(wanted: dict[str, Any], shown: Any) -> Report:
    options = wanted["options"]
    places = {key: value for key, value in wanted.items() if key != "options"}
    sources, target = api.resolve_all(**places, artifacts=options.artifacts)
    watched = _Watched(target.location, target.adapter, target.options)
    label = ", ".join(sorted({redact(source.location) for source in sources}))
    report = Report()
    try:
        for event in pipeline.copy(sources, watched, options):
            report.add(event)
            shown(event)
            for finding in _beside_items(event):
                watched.archive.note(label, finding)
            if isinstance(event, pipeline.Total) and event.kind == "run":
                watched.archive.note(label)
    finally:
        report.done()
    return report


def _beside_items(event: Any) -> list[Finding]:
    """Return what an event tells that no item of the archive holds."""
    match event:
        case Problem() | Note() | Loss():
            return [event]
        case Failed(ref, why):
            return [Problem(str(ref), f"not archived: {why}")]
        case Conflict(ref, what):
            return [Problem(str(ref), f"not archived: {what}")]
        case Copied() | Updated() | Skipped() if event.ref.kind == "run":
            return [each for each in event.findings if isinstance(each, Loss)]
        case Copied() | Updated() | Skipped():
            return list(event.findings)
    return []
