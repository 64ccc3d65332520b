"""All of one run: its rows, those of the runs that it goes on from, and its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlmigrate.model import Artifact, Finding, Note, Problem
from mlmigrate.named_files import Found, as_artifacts, bytes_of
from mlmigrate.neptune_runs.attributes import Container, FloatSeries
from mlmigrate.neptune_runs.items import ATTRIBUTES, attributes_text
from mlmigrate.neptune_runs.names import Names
from mlmigrate.neptune_runs.series import SUFFIX
from mlmigrate.stores.neptune_export.files import places
from mlmigrate.stores.neptune_export.index import Index, scalars_of
from mlmigrate.stores.neptune_export.layout import Entry
from mlmigrate.stores.neptune_export.lineage import ancestors
from mlmigrate.stores.neptune_export.lines import Lines
from mlmigrate.stores.neptune_export.tables import read_rows
from mlmigrate.stores.neptune_export.zones import early_by


@dataclass(frozen=True, slots=True)
class Gathered:
    """A run, and where its artifacts come from."""

    container: Container
    told: str  # the text of `ATTRIBUTES`
    files: Mapping[str, Found]  # by the names of artifacts
    lines: Mapping[str, str]  # the paths of series, by the names of artifacts

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ItemError: there is none.
            OSError: it cannot be read.
        """
        return bytes_of(self.files, path)


def gather(entry: Entry, index: Index, lines: Lines | None = None) -> Gathered:
    """Read a run; its series that are lines go into *lines*, if given: then its points
    are not wanted.

    Raises:
        ItemError: nothing of it can be read.
    """
    sizes: Counter[str] = Counter()

    def write(path: str, step: int | None, time: int | None, line: str) -> None:
        sizes[path] += len(line)  # JSON is written in ASCII
        if lines is not None:
            lines.add(path, step, time, line)

    where = entry.where
    # Files are made of other rows, but a run of our own is put together as a whole.
    points = lines is None or bool(entry.origin)
    rows = read_rows(entry, write, points=points)
    findings: list[Finding] = [Problem(where, what) for what in rows.wrong]
    for what, number in rows.repairs.items():
        findings.append(Note(where, f"{number} {what}"))
    told_of = Container(entry.kind, entry.project, entry.id, rows.scalars)
    own_floats = rows.floats()
    if early := early_by(told_of, own_floats):
        findings.append(Note(where, early))
    floats = {path: [series] for path, series in own_floats.items()}
    for above in ancestors(entry, rows.scalars, index.run, scalars_of, findings):
        up_to = above.up_to

        def before(
            path: str, step: int | None, time: int | None, line: str, up_to: int = up_to
        ) -> None:
            if step is None or step <= up_to:
                write(path, step, time, line)

        theirs = read_rows(above.entry, before, points=points)
        for path, series in theirs.floats(up_to).items():
            floats.setdefault(path, []).append(series)
        rows.files += [
            row
            for row in theirs.files
            if row.type == "file_series" and row.step is not None and row.step <= up_to
        ]
    names = Names()
    told = attributes_text(told_of)
    made = {names.give(ATTRIBUTES): len(told)} if told else {}
    files, wrong = places(rows.files, index.files_of(entry), names, where)
    findings += wrong
    named = {names.give(path + SUFFIX): path for path in sorted(sizes)}
    made |= {name: sizes[path] for name, path in named.items()}
    container = Container(
        entry.kind,
        entry.project,
        entry.id,
        rows.scalars,
        {path: _joined(parts) for path, parts in floats.items()},
        (
            *(Artifact(name, size) for name, size in made.items()),
            *as_artifacts(files),
        ),
        tuple(findings),
    )
    return Gathered(container, told, files, named)


def _joined(parts: Sequence[FloatSeries]) -> FloatSeries:
    if len(parts) == 1:
        return parts[0]
    return FloatSeries(
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
