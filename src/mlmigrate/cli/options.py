"""The options that copy, plan and verify share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mlmigrate.errors import UsageError
from mlmigrate.filters import Filters, parse_kinds, parse_time
from mlmigrate.pipeline import Options

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.argument("sources", nargs=-1, required=True, metavar="SOURCE..."),
    click.argument("sink", metavar="SINK"),
    click.option(
        "-i",
        "source_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the sources' adapters; see `mlmigrate stores NAME`.",
    ),
    click.option(
        "-o",
        "sink_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of the sink's adapter; see `mlmigrate stores NAME`.",
    ),
    click.option(
        "--experiment",
        "experiments",
        multiple=True,
        metavar="GLOB",
        help="Only experiments of such a name; may be given several times.",
    ),
    click.option(
        "--run-filter",
        "run_filters",
        multiple=True,
        metavar="TERM",
        help="Only runs for which it holds: status=FINISHED, name~base*, tag.KEY=VALUE,"
        " start>=2026-01-31; several must all hold.",
    ),
    click.option(
        "--since",
        metavar="TIME",
        help="Only runs active since then: 2026-01-31, or an age such as 7d.",
    ),
    click.option(
        "--kinds",
        metavar="LIST",
        help="Only these, with their experiments: some of run, logged_model,"
        " registered_model and trace, with commas between them.",
    ),
    click.option(
        "--deleted",
        type=click.Choice(["include", "skip"]),
        default="include",
        show_default=True,
        help="What to do with deleted runs and experiments.",
    ),
    click.option(
        "--artifacts",
        type=click.Choice(["copy", "link", "skip"]),
        default="copy",
        show_default=True,
        help="link: leave the bytes where they are, and record their URIs.",
    ),
    click.option(
        "--map-artifacts",
        multiple=True,
        metavar="OLD=NEW",
        help="Where artifacts recorded below OLD are now.",
    ),
    click.option(
        "--experiment-name",
        metavar="TEMPLATE",
        help="Names at the sink, such as '{store}/{name}', which keeps stores apart;"
        " {workspace} is the workspace's.",
    ),
    click.option(
        "--on-conflict",
        type=click.Choice(["fail", "newest", "keep-both"]),
        default="fail",
        show_default=True,
        help="For a run of which two versions differ both ways.",
    ),
    click.option(
        "--redact-credentials",
        is_flag=True,
        help="Mask tokens and passwords in params, tags, descriptions and URIs.",
    ),
    click.option(
        "--deep", is_flag=True, help="Compare artifacts by content, not by size."
    ),
    click.option(
        "--quick",
        is_flag=True,
        help="Do not read again what had ended when it was copied, and still has.",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Readers at once [as many as cores]."
    ),
    click.option(
        "--temp-dir",
        type=click.Path(file_okay=False, exists=True),
        help="Where snapshots of live SQLite files go.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def shared(command: Command) -> Command:
    """Give *command* the options that copy, plan and verify share."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `mlmigrate.copy` for what the command line gave.

    Raises:
        UsageError: a filter is not understood.
    """
    return {
        "sources": list(given["sources"]),
        "sink": given["sink"],
        "options": Options(
            filters=_filters(given),
            artifacts=given["artifacts"],
            on_conflict=given["on_conflict"],
            experiment_name=given["experiment_name"],
            redact_credentials=given["redact_credentials"],
            deep=given["deep"],
            quick=given["quick"],
            workers=given["workers"],
        ),
        "source_options": given["source_options"],
        "sink_options": given["sink_options"],
        "shared": {
            "map-artifacts": list(given["map_artifacts"]),
            "temp-dir": given["temp_dir"],
        },
    }


def _filters(given: dict[str, Any]) -> Filters:
    since = given["since"]
    try:
        return Filters(
            experiments=given["experiments"],
            runs=given["run_filters"],
            since=parse_time(since) if since is not None else None,
            deleted=given["deleted"],
            kinds=parse_kinds(given["kinds"]) if given["kinds"] else (),
        )
    except OverflowError as error:
        raise UsageError("--since or --run-filter: there is no such time") from error
