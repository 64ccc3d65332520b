"""The command line: a click group, and one file a command."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib import import_module

import click

from mlmigrate import errors

_COMMANDS = {
    "check": "look whether an archive is still whole",
    "copy": "copy everything from stores into one",
    "doctor": "look for the usual traps",
    "export": "back up stores into an archive",
    "inspect": "tell what one store holds, and what is wrong with it",
    "plan": "tell what copy would do; writes nothing",
    "scan": "find every store below a path",
    "stores": "list the adapters and what each can hold",
    "verify": "compare a copy with its sources, value by value",
}


class _Lazy(click.Group):
    """Commands are imported when they are called: ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"mlmigrate.cli.{cmd_name}").command
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


EXITS = (
    "Exit codes: 0 all well; 1 stopped by an error; 2 wrong usage; 3 finished, but"
    " something failed, was lost or differs; 130 interrupted."
)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXITS + "\n\nExample: mlmigrate copy ./mlruns old.db sqlite:///all.db",
)
@click.version_option(package_name="mlmigrate")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
def group(*, debug: bool) -> None:
    """Bring machine-learning experiments together, and prove that nothing was lost."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )


def main() -> None:
    """Run the command line; every error becomes a message and an exit code here."""
    debug = "--debug" in sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be no text, and a terminal may know few letters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = group(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except errors.UsageError as error:
        _stop(error, 2, debug=debug)
    except errors.MlmigrateError as error:
        _stop(error, 1, debug=debug)
    except BrokenPipeError:
        # Whoever reads our output has read enough. Python would flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _stop(error, 1, debug=debug)


def _stop(error: Exception, code: int, *, debug: bool) -> None:
    if debug:
        raise error
    from mlmigrate.artifacts import redact_within  # not for --help: numpy is slow

    click.echo(f"mlmigrate: {redact_within(str(error))}", err=True)
    sys.exit(code)
