"""Copies and comparisons in this process, as a test asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlmigrate import pipeline
from mlmigrate.locations import resolve
from mlmigrate.pipeline import Options
from mlmigrate.testing.suite import Result
from mlmigrate.verification import Different, Missing, verify


def copied(
    source: str, sink: str, options: Sequence[str] = (), inward: Sequence[str] = ()
) -> Result:
    """Copy *source* to *sink*, with ``KEY=VALUE`` texts for the adapters of both."""
    target = resolve(sink, options, shared={"artifacts": "copy"})
    return Result(list(pipeline.copy([resolve(source, inward)], target, Options())))


def differences(source: str, sink: str) -> list[Any]:
    """Verify, and return what differs or is missing."""
    found = verify([resolve(source)], resolve(sink), Options())
    return [each for each in found if isinstance(each, Different | Missing)]
