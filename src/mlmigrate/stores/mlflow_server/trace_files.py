"""The spans of a server's traces, and the files beside them."""

from __future__ import annotations

from dataclasses import dataclass

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError
from mlmigrate.mlflow_traces import (
    ATTACHMENT,
    SPANS_FILE,
    spans_in,
    stored_spans,
)
from mlmigrate.model import Artifact, Finding, Problem, Ref, Span
from mlmigrate.stores.mlflow_server.files import SPANS, Files
from mlmigrate.stores.mlflow_server.rest import Refused, Rest


@dataclass(frozen=True, slots=True)
class Contents:
    """The spans of a trace, the files that say more than they do, and what is wrong."""

    spans: tuple[Span, ...] = ()
    files: tuple[Artifact, ...] = ()
    findings: tuple[Finding, ...] = ()


def contents(
    rest: Rest,
    files: Files,
    ref: Ref,
    where: str,
    *,
    stored: bool,
    more: bool,
    every: bool = False,
) -> Contents:
    """Get the spans and the files of a trace.

    Args:
        rest: the server.
        files: opens artifacts, and knows where those of the trace are.
        ref: the trace.
        where: what to call it in findings.
        stored: its spans are in the server's database.
        more: there are files beside them. Otherwise none is looked for, unless spans
            name some, or are in a file themselves.
        every: the file of spans is one of them.
    """
    findings: list[Finding] = []
    try:
        with rest.download(SPANS, {"request_id": ref.id}) as stream:
            data = stream.read()
    except Refused as refusal:
        data = b""
        if not refusal.absent and refusal.status != 404:
            findings.append(Problem(where, f"its spans cannot be read: {refusal}"))
    except OSError as error:
        data = b""
        what = f"its spans cannot be read: {short(error)}"
        findings.append(Problem(where, what))
    spans: list[Span] = []
    wrong = None
    if data:
        spans, wrong = (stored_spans if stored else spans_in)(data)
    named = any(ATTACHMENT in span.content for span in spans)
    if not (more or named or not stored or wrong):
        return Contents(tuple(spans), (), tuple(findings))
    try:
        beside = sorted(files.listed(ref), key=lambda file: file.path)
    except ItemError as error:
        beside = []
        if more or named:
            what = f"its files cannot be listed: {error}"
            findings.append(Problem(where, what))
    if wrong is not None:
        what = f"{SPANS_FILE} {wrong}"
        kept = any(file.path == SPANS_FILE for file in beside)
        what += "; the file is copied as it is" if kept else ""
        findings.append(Problem(where, what))
    elif not every and (spans or not data):
        # MLflow's client also writes there what the database has.
        beside = [file for file in beside if file.path != SPANS_FILE]
    return Contents(tuple(spans), tuple(beside), tuple(findings))
