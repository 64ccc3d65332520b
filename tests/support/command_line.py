"""The command line, called in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from mlmigrate.cli import main

#: Returns an exit code, output and errors.
Called = Callable[..., tuple[int, str, str]]
#: Returns an exit code, and JSON where that was asked for and is there, else text.
Cli = Callable[..., tuple[int, Any]]


def called(said: Callable[[], tuple[str, str]]) -> Called:
    """Return what calls it; *said* tells what it wrote."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with patch.object(sys, "argv", ["mlmigrate", *map(str, arguments)]):
            try:
                main()
                code = None
            except SystemExit as ended:
                code = ended.code
        assert isinstance(code, int)
        return code, *said()

    return call


def cli(called: Called) -> Cli:
    """Return what calls it and reads JSON."""

    def call(*arguments: object) -> tuple[int, Any]:
        code, out, err = called(*arguments)
        if "--json" in arguments and out.startswith("{"):
            return code, json.loads(out)
        return code, out + err

    return call
