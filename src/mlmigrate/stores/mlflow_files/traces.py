"""Traces: ``<experiment>/traces/<trace>/trace_info.yaml``, ``tags/``,
``request_metadata/``, ``assessments/*.yaml`` and ``artifacts/traces.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import Place, Remote, list_folder, open_file, short
from mlmigrate.errors import ItemError
from mlmigrate.mlflow_messages import (
    NOT_READ,
    assessment_of,
    length,
    millis,
    whole_number,
)
from mlmigrate.mlflow_traces import (
    ARTIFACT_LOCATION,
    SPANS_FILE,
    expects_spans,
    lift,
    spans_in,
    state,
)
from mlmigrate.model import (
    Artifact,
    Assessment,
    Finding,
    Item,
    Problem,
    Ref,
    Span,
    Trace,
)
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.layout import ItemFolder, read_yaml
from mlmigrate.stores.mlflow_files.records import bytes_of, read_pairs
from mlmigrate.stores.mlflow_files.strays import is_litter, unknown

INFO = "trace_info.yaml"
_FOLDERS = frozenset({"tags", "request_metadata", "assessments", "artifacts"})
_TIMES = ("request_time", "timestamp_ms")
_LENGTHS = ("execution_duration", "execution_duration_ms", "execution_time_ms")
#: What is read of a trace_info.yaml, or stands elsewhere as well.
_FIELDS = {
    *("trace_id", "trace_location", "state", "client_request_id", "request_preview"),
    *("response_preview", "assessments", *_TIMES, *_LENGTHS),
    *("request_id", "experiment_id", "status"),  # MLflow < 3
}


def read_trace(
    ref: Ref, folder: ItemFolder, where: str, place: Callable[[str], Place]
) -> Item:
    """Read a trace; *place* says where its files are, by the id in its findings."""
    path = folder.path
    findings: list[Finding] = list(folder.findings)
    meta, wrong = read_yaml(path / INFO)
    if wrong is not None:
        what = f"{INFO} {wrong}: the trace is recovered from its other files"
        findings.append(Problem(where, what))
    findings += _doubts(meta, ref, path, where)
    tags, problems = read_pairs(path / "tags", where)
    findings += problems
    metadata, problems = read_pairs(path / "request_metadata", where)
    findings += problems
    lifted = lift(tags, metadata)
    spans, files, problems = _spans(place(where), where)
    findings += problems
    said = state(meta.get("state", meta.get("status")))
    if not spans and not files and not problems and expects_spans(lifted, said):
        findings.append(Problem(where, f"its spans are gone: there is no {SPANS_FILE}"))
    assessments, problems = _assessments(path / "assessments", where)
    findings += problems
    time = millis(meta.get("request_time", meta.get("timestamp_ms")))
    length = _length(meta)
    for names, read in ((_TIMES, time), (_LENGTHS, length)):
        said_so = [str(meta[name])[:40] for name in names if meta.get(name) is not None]
        if said_so and read is None:
            what = f"{INFO}: {names[0]} {said_so[0]!r} is no time: not copied"
            findings.append(Problem(where, what))
    if time is None and spans:
        time = min(span.start_time for span in spans) // 1_000_000
    header = Trace(
        experiment=Ref("experiment", folder.experiment),
        state=said,
        request_time=time,
        execution_duration=length,
        client_request_id=parse.text(meta.get("client_request_id")),
        request_preview=parse.text(meta.get("request_preview")),
        response_preview=parse.text(meta.get("response_preview")),
        source_run=lifted.source_run,
        artifact_location=lifted.location,
    )
    return Item(
        ref,
        header,
        origin=lifted.origin or ref.id,
        tags=lifted.tags,
        metadata=lifted.metadata,
        spans=tuple(spans),
        assessments=tuple(assessments),
        artifacts=tuple(files),
        mark=lifted.mark,
        findings=tuple(findings),
    )


def location_of(folder: ItemFolder) -> str | None:
    """Return where the files of a trace are, as it says itself."""
    try:
        return bytes_of(str(folder.path / "tags" / ARTIFACT_LOCATION)).decode() or None
    except (OSError, ValueError):
        return None


def _doubts(meta: Mapping[str, Any], ref: Ref, path: Path, where: str) -> list[Finding]:
    found: list[Finding] = [
        Problem(where, f"{INFO}: {key} has no place in other stores: not copied")
        for key, value in meta.items()
        if key not in _FIELDS and value
    ]
    said = parse.text(meta.get("trace_id")) or parse.text(meta.get("request_id"))
    if said is not None and said != ref.id.split("~")[0]:
        found.append(Problem(where, f"its {INFO} says trace {said}; kept as {ref.id}"))
    if meta.get("assessments") and not (path / "assessments").is_dir():
        what = f"{INFO} has assessments, of which there are no files: not copied"
        found.append(Problem(where, what))
    return found + unknown(path, _FOLDERS, where, header=INFO)


def _length(meta: Mapping[str, Any]) -> int | None:
    for key in _LENGTHS[1:]:
        if meta.get(key) is not None:
            return whole_number(meta[key])
    return length(meta.get("execution_duration"))


# -- spans and files ------------------------------------------------------------------


def _spans(
    place: Place, where: str
) -> tuple[list[Span], list[Artifact], list[Finding]]:
    """Return the spans, the files that say more than they do, and what is wrong."""
    findings: list[Finding] = list(place.findings)
    try:
        if place.folder is not None:
            files, problems = list_folder(place.folder, where)
            findings += problems
        elif place.uri is not None:
            files = Remote(place.uri).list()
        else:
            return [], [], findings
        if all(file.path != SPANS_FILE for file in files):
            return [], files, findings
        if place.folder is not None:
            opened = open_file(place.folder, SPANS_FILE)
        else:
            opened = Remote(place.uri or "").open(SPANS_FILE)
        with opened as file:
            spans, more = spans_in(file.read())
    except (OSError, ItemError) as error:
        what = f"its spans cannot be read: {short(error)}"
        return [], [], [*findings, Problem(where, what)]
    if more is None:
        return spans, [file for file in files if file.path != SPANS_FILE], findings
    what = f"artifacts/{SPANS_FILE} {more}; the file is copied as it is"
    return spans, files, [*findings, Problem(where, what)]


# -- assessments ----------------------------------------------------------------------


def _assessments(folder: Path, where: str) -> tuple[list[Assessment], list[Finding]]:
    found: list[Assessment] = []
    problems: list[Finding] = []
    if not folder.is_dir():
        return found, problems
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            continue
        meta, wrong = read_yaml(path)
        try:
            if wrong is not None:
                raise ValueError(wrong)
            found.append(assessment_of(meta, path.stem))
        except NOT_READ as error:
            what = f"is no assessment that can be read: {error}: not copied"
            problems.append(Problem(f"{where}/assessments/{path.name}", what))
    return found, problems
