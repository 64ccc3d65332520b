"""What is read of a run, attribute by attribute, until it is a whole one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from mlmigrate.errors import ItemError
from mlmigrate.model import Artifact, Finding, Note, Problem
from mlmigrate.neptune_runs import series
from mlmigrate.neptune_runs.attributes import (
    MILLIONTHS,
    Container,
    ContainerKind,
    FloatSeries,
    Scalar,
)
from mlmigrate.neptune_runs.steps import millionths
from mlmigrate.stores.neptune_server.access import Place
from mlmigrate.stores.neptune_server.server import Fetched, Opener, made


@dataclass(slots=True)
class Gathered:
    """What is known of a run so far, by the paths of its attributes."""

    scalars: dict[str, Scalar] = field(default_factory=dict)
    floats: dict[str, FloatSeries] = field(default_factory=dict)
    #: The size of each file, and what opens it.
    files: dict[str, tuple[int, Opener]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # series as lines
    unknown: dict[str, str] = field(default_factory=dict)  # and its type
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _odd: dict[str, ItemError] = field(default_factory=dict)

    def add_points(
        self, path: str, steps: Sequence[float], times: Sequence[int], values: Any
    ) -> None:
        """Add a series of numbers; as lines where its steps are too large for columns.

        Args:
            path: its attribute's.
            steps: of its points.
            times: in milliseconds.
            values: numbers, or None where one is not a number.
        """
        try:
            exact = millionths(np.array(steps, dtype=np.float64))
        except ItemError as error:
            self._odd[path] = error
            self.add_lines(path, steps, times, values)
            return
        numbers = [np.nan if value is None else value for value in values]
        self.floats[path] = FloatSeries(
            exact,
            np.array(times, dtype=np.int64),
            np.array(numbers, dtype=np.float64),
        )

    def add_lines(
        self, path: str, steps: Sequence[float], times: Sequence[int], values: Any
    ) -> None:
        """Add a series of anything as lines, likewise."""
        self.texts[path] = "".join(
            series.line(round(Fraction(step) * MILLIONTHS), time, value)
            for step, time, value in zip(steps, times, values, strict=True)
        )

    def whole(
        self,
        place: Place,
        kind: ContainerKind,
        id: str,
        name: str,
        paths: Iterable[str],
    ) -> Fetched:
        """Return the run.

        Args:
            place: its project.
            kind: what it is.
            id: what the server is asked for it by.
            name: what it is called there.
            paths: of all of its attributes.
        """
        where = f"{place}/{name}"
        for path, type in self.unknown.items():
            what = f"{path} is of type {type}, which is not known: left out"
            self.problems.append(what)
        taken = {*self.files, *self.scalars, *self.floats}
        for path, file in _named(self.texts, taken).items():
            self.files[file] = made(self.texts[path])
            if path in self._odd:
                self.problems.append(
                    f"{path} has {self._odd[path]}: it is the artifact {file}, and no"
                    " metric"
                )
        findings: list[Finding] = [Problem(where, what) for what in self.problems]
        findings += [Note(where, what) for what in self.notes]
        container = Container(
            kind,
            place.name,
            name,
            self.scalars,
            self.floats,
            tuple(Artifact(path, size) for path, (size, _) in self.files.items()),
            findings=tuple(findings),
        )
        openers = {path: opener for path, (_, opener) in self.files.items()}
        return Fetched(container, id, openers, frozenset(paths))


def _named(texts: Iterable[str], taken: Set[str]) -> dict[str, str]:
    """Return the name of the file that each series is: none that an attribute has."""
    names = {}
    for path in texts:
        name = path + series.SUFFIX
        while name in taken:
            name = f"{name.removesuffix(series.SUFFIX)}~{series.SUFFIX}"
        names[path] = name
    return names
