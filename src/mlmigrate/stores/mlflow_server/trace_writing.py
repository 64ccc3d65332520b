"""The sink half for traces.

Spans go first, those of many traces in one OTLP request. Then one request says all
else of a trace (``StartTraceV3``): it may come twice, and it overrules what the server
made of the spans. It also bears the mark, unless something is left to do that it cannot
say: files, links, and assessments that make others invalid. The mark then comes last.

Spans that OTLP does not hold as they are, such as those of MLflow 2, go to the trace's
file ``traces.json``, where MLflow has all spans before 3.5, and still finds them.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from mlmigrate import marks
from mlmigrate.artifacts import combined_checksum
from mlmigrate.contract import Delivery, Mark, Written
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.mlflow_messages import duration, timestamp
from mlmigrate.mlflow_traces import (
    ARTIFACT_LOCATION,
    SOURCE_RUN,
    SPANS_FILE,
    SPANS_LOCATION,
    trace_id,
)
from mlmigrate.model import (
    Artifact,
    Assessment,
    Failed,
    Finding,
    Loss,
    Note,
    Ref,
    Span,
    Tag,
    Trace,
    TraceLink,
)
from mlmigrate.stores.mlflow_server import otlp, trace_infos, traces
from mlmigrate.stores.mlflow_server.experiments import Experiments
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.rest import (
    Json,
    Refused,
    Rest,
    creating,
    quoted,
)
from mlmigrate.stores.mlflow_server.trace_files import contents
from mlmigrate.stores.mlflow_server.trace_infos import API, place
from mlmigrate.stores.mlflow_server.uploads import Uploads

#: What a server adds to the metadata of a trace that is said whole.
_FINALIZED = "mlflow.trace.infoFinalized"
#: Of the spans in one request.
_BYTES_A_BATCH = 2_000_000
_TRACES_A_BATCH = 100
#: What a server answers whose store takes no spans by OTLP.
_NOT_IMPLEMENTED = 501
#: The release since which servers keep the kinds of spans.
_KINDS_SINCE = (3, 18)


@dataclass(slots=True)
class _Work:
    """One trace while it is written."""

    delivery: Delivery
    header: Trace
    id: str
    held: Json | None  # what the server says of the copy that is to grow
    messages: list[bytes] = field(default_factory=list)  # the spans for OTLP
    file: list[Span] = field(default_factory=list)  # the spans for traces.json
    findings: list[Finding] = field(default_factory=list)
    failed: Failed | None = None
    whole: bool = True  # nothing is left out that a later copy should look for


class Traces:
    """Writes traces. Safe to use from many threads."""

    def __init__(
        self,
        rest: Rest,
        reader: Reader,
        experiments: Experiments,
        uploads: Uploads,
        pool: Executor,
    ) -> None:
        self._rest = rest
        self._reader = reader
        self._experiments = experiments
        self._uploads = uploads
        self._pool = pool

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """Write traces, or what their copies lack, and answer in order.

        Raises:
            StoreError: the server is gone.
        """
        works = list(self._pool.map(self._begun, deliveries))
        batches = [work for work in works if isinstance(work, _Work)]
        list(self._pool.map(self._send, _batches(batches)))
        return list(self._pool.map(self._ended, works))

    # -- spans --------------------------------------------------------------------

    def _keeps_kinds(self) -> bool:
        return self._reader.release.number >= _KINDS_SINCE

    def _begun(self, delivery: Delivery) -> _Work | Failed:
        """Make a copy incomplete that is to grow, and find out how spans get there."""
        item, header = delivery.item, delivery.item.header
        if not isinstance(header, Trace):
            return Failed(item.ref, "is no trace")
        id = delivery.into.id if delivery.into else trace_id(item.origin, in_path=True)
        try:
            self._experiments.open(header.experiment.id)
            held = None
            if delivery.into is not None:
                held = trace_infos.infos(self._rest, [id]).get(id)
                if held is None:
                    raise ItemError(f"trace {id} is not there any more")
                if marks.MARK in held["tags"]:
                    self._delete_tag(id, marks.MARK)
            work = _Work(delivery, header, id, held)
            self._sort_spans(work)
        except StoreError:
            raise
        except ItemError as error:
            return Failed(item.ref, str(error))
        return work

    def _sort_spans(self, work: _Work) -> None:
        """Decide whether spans go by OTLP or into a file: all of a trace one way."""
        item = work.delivery.item
        if not item.spans:
            return
        found = [otlp.message(span, work.id, self._keeps_kinds) for span in item.spans]
        work.messages = [message for message in found if message is not None]
        tags = work.held["tags"] if work.held else {}
        if tags.get(SPANS_LOCATION) == "TRACKING_STORE":
            for span, message in zip(item.spans, found, strict=True):
                if message is None:
                    what = f"span {span.id}: the server does not hold it as it is"
                    work.findings.append(Loss(item.ref, what, carried=False))
                    work.whole = False
            return
        before = self._spans_in_file(work) if work.held else {}
        if before or len(work.messages) < len(found):
            work.messages = []
            if all(file.path != SPANS_FILE for file in item.artifacts):
                before.update((span.id, span) for span in item.spans)
                work.file = list(before.values())

    def _spans_in_file(self, work: _Work) -> dict[str, Span]:
        ref = Ref("trace", work.id)
        files = self._reader.files
        found = contents(self._rest, files, ref, str(ref), stored=False, more=False)
        for finding in found.findings:
            what = f"{finding.what}: none are added"
            raise ItemError(what)
        return {span.id: span for span in found.spans}

    def _send(self, batch: Sequence[_Work]) -> None:
        """Send spans of traces of one experiment; where they are refused together, each
        trace's alone.
        """
        home = batch[0].header.experiment.id
        try:
            self._post(home, [part for work in batch for part in work.messages])
        except Refused as refusal:
            never = refusal.unknown or refusal.status == _NOT_IMPLEMENTED
            if never or len(batch) == 1:
                for work in batch:
                    _redirect(work, refusal)
            else:
                for work in batch:
                    self._send([work])

    def _post(self, experiment: str, spans: Sequence[bytes]) -> None:
        headers = {"Content-Type": otlp.TYPE, otlp.EXPERIMENT: experiment}
        self._rest.post_bytes(otlp.PATH, otlp.request(spans), headers)

    # -- all else -----------------------------------------------------------------

    def _ended(self, work: _Work | Failed) -> Written | Failed:
        if isinstance(work, Failed):
            return work
        if work.failed is not None:
            return work.failed
        try:
            return self._whole(work)
        except StoreError:
            raise
        except (ItemError, OSError, OverflowError) as error:
            return Failed(work.delivery.item.ref, str(error))

    def _whole(self, work: _Work) -> Written:
        item, delivery = work.delivery.item, work.delivery
        files = _files(work)
        later = _overriding(item.assessments)
        first = [each for each in item.assessments if each not in later]
        again = self._made_again(work, later)
        left = bool(files.item.artifacts or later or again or item.trace_links)
        left = left or not work.whole
        own = _own_tags(work)
        mark = [] if left else [Tag(marks.MARK, _text_of(delivery.mark))]
        started = self._start(work, first, [*own, *mark])
        checksums: dict[str, str] = {}
        size = 0
        if files.item.artifacts:
            uri = str(started["tags"].get(ARTIFACT_LOCATION) or "")
            ref = Ref("trace", work.id)
            self._reader.files.note(ref, uri)
            checksums, size = self._uploads.write(ref, uri, files, work.findings)
            if work.file:
                checksums.pop(SPANS_FILE, None)
        made = [assessment_message(each, work.id) for each in later]
        for each in [*made, *again]:
            self._assess(work, each)
        self._link(work)
        if left:
            last = delivery.mark if work.whole else replace(delivery.mark, digest="")
            if checksums:
                # Of a copy that was added to, only a part was read just now.
                whole = None if delivery.into else combined_checksum(checksums)
                last = replace(last, checksums=whole)
            self._set_tag(work.id, Tag(marks.MARK, _text_of(last)))
        return Written(
            Ref("trace", work.id),
            checksums=combined_checksum(checksums) if checksums else None,
            files=len(checksums),
            bytes=size,
            findings=tuple(work.findings),
        )

    def _start(
        self, work: _Work, assessments: Sequence[Assessment], own: Sequence[Tag]
    ) -> Json:
        item, header = work.delivery.item, work.header
        tags = {tag.key: tag.value for tag in (*item.tags, *own)}
        metadata = {pair.key: pair.value for pair in item.metadata}
        if header.source_run is not None:
            metadata[SOURCE_RUN] = header.source_run.id
        info: Json = {
            "trace_id": work.id,
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": header.experiment.id},
            },
            "request_time": timestamp(header.request_time or 0),
            "state": header.state,
            "tags": tags,
            "trace_metadata": metadata,
            "assessments": [assessment_message(each, work.id) for each in assessments],
        }
        if header.execution_duration is not None:
            info["execution_duration"] = duration(header.execution_duration)
        for name in ("client_request_id", "request_preview", "response_preview"):
            if (value := getattr(header, name)) is not None:
                info[name] = value
        answer = self._rest.post(API, {"trace": {"trace_info": info}})
        return trace_infos.info_of(answer["trace"]["trace_info"])

    # -- assessments that make others invalid -------------------------------------

    def _made_again(self, work: _Work, later: Sequence[Assessment]) -> list[Json]:
        """Return the copy's own assessments that override those which are written now:
        to write one makes it valid.
        """
        if work.held is None:
            return []
        written = {
            each.id for each in work.delivery.item.assessments if not each.valid
        } - {each.overrides for each in later}
        new = {each.id for each in work.delivery.item.assessments}
        return [
            said
            for said in work.held.get("assessments") or ()
            if said.get("overrides") in written and said.get("assessment_id") not in new
        ]

    def _assess(self, work: _Work, said: Json) -> None:
        """Make an assessment that overrides another, which is thus invalid."""
        own = str(said["assessment_id"])
        path = f"{place(work.id)}/assessments"

        def create() -> Json:
            return self._rest.create(path, {"assessment": said})

        def find() -> Json | None:
            try:
                return self._rest.get(f"{path}/{quoted(own)}")
            except Refused as refusal:
                if refusal.absent:
                    return None
                raise

        held = (work.held or {}).get("assessments") or ()
        if any(each.get("assessment_id") == own for each in held):
            self._rest.change("DELETE", f"{path}/{quoted(own)}", {})
        creating(create, find)

    # -- links and tags -----------------------------------------------------------

    def _link(self, work: _Work) -> None:
        """Link a trace to the runs and prompts that are there."""
        made: list[TraceLink] = []
        for link in work.delivery.item.trace_links:
            path, body = _link_request(work.id, link)
            try:
                self._rest.post(path, body)
            except Refused as refusal:
                if not refusal.absent:
                    raise
                # An older server has no such links.
                gone = "no place" if refusal.unknown else "is not there"
                what = f"link to {link.kind} {link.id}: {gone}"
                work.findings.append(Loss(work.delivery.item.ref, what, carried=False))
                work.whole = False
            else:
                made.append(link)
        self._reader.links.note(work.id, made)

    def _set_tag(self, id: str, tag: Tag) -> None:
        body = {"key": tag.key, "value": tag.value}
        self._rest.change("PATCH", f"{place(id)}/tags", body)

    def _delete_tag(self, id: str, key: str) -> None:
        try:
            self._rest.change("DELETE", f"{place(id)}/tags", {"key": key})
        except Refused as refusal:
            if not refusal.absent:  # an answer was lost, and it is gone already
                raise


def _redirect(work: _Work, refusal: Refused) -> None:
    """Let spans go to a file, where a server, or a proxy before it, takes no OTLP, or
    not those: MLflow's own client puts them there then, too.
    """
    item = work.delivery.item
    if work.held and work.held["tags"].get(SPANS_LOCATION) == "TRACKING_STORE":
        what = f"its other spans are in the database, and OTLP is refused: {refusal}"
        work.failed = Failed(item.ref, what)
        return
    named = any(file.path == SPANS_FILE for file in item.artifacts)
    work.messages, work.file = [], [] if named else list(item.spans)
    what = f"its spans go to {SPANS_FILE}: {refusal}"
    work.findings.append(Note(str(item.ref), what))


def _batches(works: Sequence[_Work]) -> Iterator[list[_Work]]:
    """Yield works of one experiment whose spans fit into one request."""
    homes: Mapping[str, list[_Work]] = defaultdict(list)
    for work in works:
        if work.messages:
            homes[work.header.experiment.id].append(work)
    for group in homes.values():
        batch: list[_Work] = []
        size = 0
        for work in group:
            own = sum(map(len, work.messages))
            if batch and (size + own > _BYTES_A_BATCH or len(batch) == _TRACES_A_BATCH):
                yield batch
                batch, size = [], 0
            batch.append(work)
            size += own
        if batch:
            yield batch


def _files(work: _Work) -> Delivery:
    """Return the delivery of a trace's files alone, its spans' among them."""
    delivery, item = work.delivery, work.delivery.item
    opened = delivery.open
    files = item.artifacts if opened is not None else ()
    if not work.file:
        return replace(delivery, item=replace(item, artifacts=files))
    text = ", ".join(span.content for span in work.file)
    data = f'{{"spans": [{text}]}}'.encode()
    files = (*files, Artifact(SPANS_FILE, len(data)))

    def open_(ref: Ref, path: str) -> BinaryIO:
        if path == SPANS_FILE:
            return io.BytesIO(data)
        assert opened is not None
        return opened(ref, path)

    return replace(delivery, item=replace(item, artifacts=files), open=open_)


def _overriding(assessments: Sequence[Assessment]) -> list[Assessment]:
    """Return those that make others invalid, each behind what it overrides."""
    invalid = {each.id for each in assessments if not each.valid}
    left = [each for each in assessments if each.overrides in invalid]
    ordered: list[Assessment] = []
    while left:
        waiting = {each.id for each in left}
        ready = [each for each in left if each.overrides not in waiting]
        if not ready:  # they override one another: none of them can be first
            break
        ordered += ready
        left = [each for each in left if each not in ready]
    return ordered


def assessment_message(each: Assessment, trace: str) -> Json:
    """Return an assessment of a trace as a server takes it."""
    value = json.loads(each.value)
    said: Json = {
        "assessment_id": each.id,
        "assessment_name": each.name,
        "trace_id": trace,  # MLflow < 3.17 does not add it
        "source": {"source_type": each.source_type},
        "create_time": timestamp(each.created or 1),
        "last_update_time": timestamp(each.updated or each.created or 1),
        "valid": each.valid,
    }
    match each.kind:
        case "feedback":
            said["feedback"] = {"value": value}
            if each.error is not None:
                error = json.loads(each.error)
                given = {key: text for key, text in error.items() if text is not None}
                said["feedback"]["error"] = given
        case "issue":
            said["issue"] = value
        case _:
            # Of a plain value a server would make a float.
            said["expectation"] = {
                "serialized_value": {
                    "serialization_format": "JSON_FORMAT",
                    "value": each.value,
                }
            }
    if each.source_id is not None:
        said["source"]["source_id"] = each.source_id
    for name, text in (
        ("rationale", each.rationale),
        ("span_id", each.span),
        ("overrides", each.overrides),
    ):
        if text is not None:
            said[name] = text
    if each.metadata is not None:
        said["metadata"] = json.loads(each.metadata)
    return said


def _link_request(id: str, link: TraceLink) -> tuple[str, Json]:
    """Return the path and the body of what links a trace to something."""
    if link.kind == "run":
        return "traces/link-to-run", {"trace_ids": [id], "run_id": link.id}
    name, _, version = link.id.rpartition("/")
    prompts = [{"name": name, "version": version}]
    return "traces/link-prompts", {"trace_id": id, "prompt_versions": prompts}


def _own_tags(work: _Work) -> list[Tag]:
    """Return the tags that mlmigrate adds to a trace, without the mark."""
    item, held = work.delivery.item, work.held
    own = []
    if item.origin != work.id:
        own.append(Tag(marks.ORIGIN, item.origin))
    brought = any(pair.key == _FINALIZED for pair in item.metadata)
    if brought and held is not None and traces.GIVEN in held["tags"]:
        own.append(Tag(traces.GIVEN, "[]"))
    elif not brought and (held is None or _FINALIZED not in held["trace_metadata"]):
        own.append(Tag(traces.GIVEN, json.dumps([_FINALIZED])))
    if item.trace_links:
        before = traces.named_ends(held) if held is not None else []
        ends = {(each.kind, each.id) for each in item.trace_links}
        text = json.dumps(sorted(ends.union(before)))
        short = len(text) <= traces.SHOWN_TAG
        own.append(Tag(traces.LINKED, text if short else traces.MANY))
    if item.artifacts and work.delivery.open is not None:
        spans_too = any(file.path == SPANS_FILE for file in item.artifacts)
        own.append(Tag(traces.FILES, traces.ALL_FILES if spans_too else "beside"))
    return own


def _text_of(mark: Mark) -> str:
    """Return the text of a mark, as much of it as a server shows."""
    text = marks.dump(mark)
    return (
        text if len(text) <= traces.SHOWN_TAG else marks.dump(replace(mark, tags=None))
    )
