"""The files of a trace: its spans where no row holds them, and what is attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from mlmigrate.archived_spans import ARCHIVE_FILE, spans_of
from mlmigrate.artifacts import Place, Remote, list_folder, open_file, short
from mlmigrate.errors import ItemError
from mlmigrate.mlflow_traces import ATTACHMENT, SPANS_FILE, spans_in
from mlmigrate.model import Artifact, Finding, Problem, Span
from mlmigrate.stores.mlflow_db.places import Around, Spot, listed, place


@dataclass(frozen=True, slots=True)
class Home:
    """What tells where the files of a trace are."""

    around: Around
    spot: Spot
    where: str

    def place(self) -> Place:
        """Find them."""
        return place(self.around, self.spot, self.where)

    def listed(self) -> tuple[list[Artifact], list[Finding]]:
        """List them."""
        return listed(self.around, self.spot, self.where)


def home(
    around: Around, row: Mapping[str, Any], location: str | None, where: str
) -> Home:
    """Return where the files of the trace of a row of ``trace_info`` are."""
    id = str(row["request_id"])
    below = f"{row['experiment_id']}/traces/{id}/artifacts"
    return Home(around, Spot(id, location, below), where)


def put_away(home: Home, uri: str) -> tuple[list[Span], list[Finding]]:
    """Return the spans that MLflow has put away at *uri*, and what is wrong."""
    found = place(home.around, replace(home.spot, uri=uri), home.where)
    try:
        with _opened(found, ARCHIVE_FILE) as file:
            return spans_of(file.read()), []
    except (OSError, ItemError, ValueError) as error:
        what = f"its spans, which MLflow has put away, cannot be read: {short(error)}"
        return [], [*found.findings, Problem(home.where, what)]


def contents(
    home: Home, spans: list[Span]
) -> tuple[list[Span], list[Artifact], list[Finding]]:
    """Return the spans, the files that say more than they do, and what is wrong.

    *spans* are those of the table.
    """
    if spans:
        return spans, *_beside(home, spans)
    files, findings = home.listed()
    if all(file.path != SPANS_FILE for file in files):
        return [], files, findings
    try:
        with _opened(home.place(), SPANS_FILE) as file:
            read, more = spans_in(file.read())
    except (OSError, ItemError) as error:
        what = f"its spans cannot be read: {short(error)}"
        return [], [], [*findings, Problem(home.where, what)]
    if more is None:
        return read, [file for file in files if file.path != SPANS_FILE], findings
    what = f"{SPANS_FILE} {more}; the file is copied as it is"
    return read, files, [*findings, Problem(home.where, what)]


def _opened(place: Place, name: str) -> BinaryIO:
    if place.folder is not None:
        return open_file(place.folder, name)
    if place.uri is None:
        raise ItemError(f"{name} is nowhere to be found")
    return Remote(place.uri).open(name)


def _repeats(place: Place, spans: Sequence[Span]) -> bool:
    """Tell whether the file of spans says nothing beyond those of the table."""
    try:
        with _opened(place, SPANS_FILE) as file:
            read, more = spans_in(file.read())
    except (OSError, ItemError):
        return False
    known = {span.id for span in spans}
    return more is None and all(span.id in known for span in read)


def _beside(home: Home, spans: Sequence[Span]) -> tuple[list[Artifact], list[Finding]]:
    """List the files of a trace whose spans are in the database: mostly there is no
    such folder, and to ask a remote place for each trace would take long.
    """
    found = home.place()
    if found.folder is not None:
        files, problems = list_folder(found.folder, home.where)
        if any(file.path == SPANS_FILE for file in files) and _repeats(found, spans):
            files = [file for file in files if file.path != SPANS_FILE]
        return files, [*problems]
    if any(ATTACHMENT in span.content for span in spans):
        return home.listed()
    return [], []
