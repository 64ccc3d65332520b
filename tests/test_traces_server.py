"""Traces over REST: into an MLflow server, and out of it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from support import faults, servers, traced
from support.copies import copied, differences
from support.killing import as_new, killed_at_every_call
from support.traced import shown

import mlmigrate
from mlmigrate import marks, pipeline
from mlmigrate.contract import Selection
from mlmigrate.differences import Different, Extra
from mlmigrate.differences import differences as compared
from mlmigrate.digest import digest
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.filters import Filters
from mlmigrate.fit import fit
from mlmigrate.locations import resolve
from mlmigrate.model import (
    Artifact,
    Failed,
    Item,
    Loss,
    Problem,
    Ref,
    Span,
    Tag,
    Trace,
    TraceLink,
)
from mlmigrate.pipeline import Options
from mlmigrate.span_content import says_all
from mlmigrate.stores.mlflow_server import CAPABILITIES, trace_infos, traces
from mlmigrate.stores.mlflow_server.otlp import message
from mlmigrate.stores.mlflow_server.trace_files import Contents
from mlmigrate.testing.items import NOW, OTHER, RUN, experiment, run
from mlmigrate.testing.suite import MemorySources, Result, Traces, with_traces
from mlmigrate.testing.trace_items import (
    CHILD,
    OTHER_TRACE,
    ROOT,
    TRACE,
    assessment,
    span,
    trace,
)
from mlmigrate.verification import verify


class TestConformance(Traces):
    """The shipped suite for traces, against a real server."""

    @pytest.fixture
    def sink_location(self, server: str) -> str:
        return server


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with traces, written by MLflow."""
    path = tmp_path_factory.mktemp("traced") / "mlflow.db"
    traced.write(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def source_server(
    database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server that has that database."""
    folder = tmp_path_factory.mktemp("source-server")
    uri = f"sqlite:///{database}"
    with servers.mlflow_server(folder, backend_uri=uri) as url:
        yield url


@pytest.fixture(autouse=True)
def _allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def read(location: str) -> dict[str, Item]:
    """Read all traces."""
    store = resolve(location).source()
    try:
        found = list(store.read(list(store.refs(Selection("trace")))))
        assert not [each for each in found if isinstance(each, Failed)]
        return {item.ref.id: item for item in found if isinstance(item, Item)}
    finally:
        store.close()


def losses(result: Result) -> list[str]:
    """Return what is gone."""
    found = [each for each in result.findings() if isinstance(each, Loss)]
    return [each.what for each in found if not each.carried]


def with_origins(found: Any, url: str) -> Any:
    """Return what is shown of traces, with the ids that runs had at their origin."""
    client = MlflowClient(url)
    homes = [each.experiment_id for each in client.search_experiments()]
    text = json.dumps(found)
    for each in client.search_runs(homes):
        origin = each.data.tags.get(marks.ORIGIN, each.info.run_id)
        text = text.replace(each.info.run_id, origin)
    return json.loads(text)


def linked(url: str, run: str, prompt: str) -> list[list[str]]:
    """Return the traces of a run, and those of a version of a prompt."""
    client = MlflowClient(url)
    homes = [each.experiment_id for each in client.search_experiments()]
    return [
        sorted(each.info.trace_id for each in client.search_traces(homes, query))
        for query in (f"run_id = '{run}'", f"prompt = '{prompt}'")
    ]


class TestByMlflow:
    """What MLflow's client shows of a copy is what it shows of the source."""

    def test_server_to_server(self, source_server: str, server: str) -> None:
        """Field by field; and a repeat skips all."""
        result = copied(source_server, server)

        assert [*result.of(Failed), *result.of(Problem), *losses(result)] == []
        assert result.counts("trace") == {"copied": 2}
        wanted = json.loads(json.dumps(shown(source_server)))
        assert wanted == with_origins(shown(server), server)
        assert differences(source_server, server) == []
        (id,) = [id for id, each in wanted.items() if each["assessments"]]
        (old,) = {each["metadata"]["mlflow.sourceRun"] for each in [wanted[id]]}
        new = shown(server)[id]["metadata"]["mlflow.sourceRun"]
        assert linked(source_server, old, "ask/1") == [[id], [id]]
        assert linked(server, new, "ask/1") == [[id], [id]]
        assert set(copied(source_server, server).counts(None)) == {"skipped"}

    def test_database_to_server(
        self, database: Path, source_server: str, server: str
    ) -> None:
        """Rows are as MLflow makes them, with tokens and costs."""
        there, here = read(f"sqlite:///{database}"), read(source_server)
        for id, item in there.items():  # one store, by SQL and over REST
            assert item.spans == here[id].spans
            assert item.header == replace(
                here[id].header,
                artifact_location=getattr(item.header, "artifact_location", None),
            )
        copied(f"sqlite:///{database}", server)

        wanted = json.loads(json.dumps(shown(source_server)))
        assert wanted == with_origins(shown(server), server)
        assert differences(f"sqlite:///{database}", server) == []
        for id, item in read(server).items():
            assert item.spans == there[id].spans

    def test_files_to_server_to_database(self, server: str, tmp_path: Path) -> None:
        """With what MLflow makes of the spans of a file store."""
        files = tmp_path / "files" / "mlruns"
        files.parent.mkdir()
        traced.write(str(files))
        copied(str(files), server)
        sink = servers.fresh_database(tmp_path / "sink.db")
        copied(server, sink)
        wanted, found = shown(str(files)), shown(sink)
        for each in found.values():  # which a server makes of the model and its tokens
            each["metadata"].pop("mlflow.trace.cost", None)
            for own in each["spans"].values():
                own["attributes"].pop("mlflow.llm.cost", None)

        assert wanted == found
        assert differences(str(files), server) == []
        assert differences(server, sink) == []
        assert copied(str(files), sink).counts("trace") == {"skipped": 2}

    def test_server_to_archive(self, source_server: str, tmp_path: Path) -> None:
        archive = f"archive:{tmp_path / 'a'}"
        copied(source_server, archive)
        ours = {id: digest(item) for id, item in read(source_server).items()}

        assert ours == {id: digest(item) for id, item in read(archive).items()}

    def test_what_is_new_comes_later(
        self, database: Path, server: str, tmp_path: Path
    ) -> None:
        """Assessments that override others, spans and tags; edits at the sink stay."""
        path = tmp_path / "own.db"
        with closing(sqlite3.connect(database)) as base:
            base.execute(f"vacuum into '{path}'")
        source = f"sqlite:///{path}"
        copied(source, server)
        (id,) = [id for id, each in shown(source).items() if each["assessments"]]
        there, here = MlflowClient(server), MlflowClient(source)
        there.set_trace_tag(id, "team", "edited there")
        here.set_trace_tag(id, "new", "yes")
        here.set_trace_tag(id, "team", "edited here")
        store = here._tracking_client.store
        known = {each.name: each for each in here.get_trace(id).info.assessments}
        later = known["judge"]
        later.overrides, later.assessment_id = later.assessment_id, None
        store.create_assessment(later)
        result = copied(source, server)
        found, wanted = with_origins(shown(server), server)[id], shown(source)[id]

        assert result.counts("trace") == {"updated": 1, "skipped": 1}
        assert found["tags"]["new"] == "yes"
        assert found["tags"]["team"] == "edited there"
        assert found["assessments"] == json.loads(json.dumps(wanted["assessments"]))
        assert set(copied(source, server).counts(None)) == {"skipped"}
        # What is overridden already is changed: it stays so.
        first = min(known.values(), key=lambda each: each.create_time_ms)
        store.update_assessment(id, first.assessment_id, rationale="other")
        copied(source, server)
        found, wanted = with_origins(shown(server), server)[id], shown(source)[id]
        assert found["assessments"] == json.loads(json.dumps(wanted["assessments"]))


def test_tokens_and_costs_are_summed(sources: MemorySources, server: str) -> None:
    """As MLflow does where spans arrive without them."""
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    cost = {"input_cost": 0.5, "output_cost": 0.25, "total_cost": 0.75}
    own = {"mlflow.chat.tokenUsage": usage, "mlflow.llm.cost": cost}
    item = trace(spans=(span(), span(CHILD, parent=ROOT, attributes=own)))
    copied(sources(experiment(), item), server)
    metadata = shown(server)[TRACE]["metadata"]

    assert json.loads(metadata["mlflow.trace.tokenUsage"]) == usage
    assert json.loads(metadata["mlflow.trace.cost"]) == cost


def test_sums_that_older_releases_did_not_make_are_extra(
    sources: MemorySources, server: str, sqlite_uri: str
) -> None:
    """They did not count cached tokens; a server counts them by the spans."""
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    cached = {**usage, "cache_read_input_tokens": 3}
    item = trace(
        metadata=(Tag("mlflow.trace.tokenUsage", json.dumps(usage)),),
        spans=(span(attributes={"mlflow.chat.tokenUsage": cached}),),
    )
    origin = sources(experiment(), item)
    result = copied(origin, server)

    assert losses(result) == []
    held = shown(server)[TRACE]["metadata"]["mlflow.trace.tokenUsage"]
    assert json.loads(held) == cached
    found = list(verify([resolve(origin)], resolve(server), Options()))
    assert [each for each in found if isinstance(each, Different)] == []
    assert Extra("metadata") in found
    assert set(copied(origin, server).counts(None)) == {"skipped"}
    copied(server, sqlite_uri)
    assert differences(server, sqlite_uri) == []


@pytest.mark.parametrize(
    "held",
    [
        {"input_tokens": 10, "output_tokens": 6, "total_tokens": 15},
        {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3},
        {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "other": 1},
        {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15.0},
        [],
        "text",
    ],
)
def test_other_sums_are_different(held: Any) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    one, other = (
        trace(metadata=(Tag("mlflow.trace.tokenUsage", json.dumps(said)),))
        for said in (usage, held)
    )
    assert any(isinstance(each, Different) for each in compared(one, other))


# -- spans --------------------------------------------------------------------------


def changed(content: str, **fields: Any) -> Span:
    """Return a span whose content says other things."""
    said = json.loads(content)
    attributes = {**said["attributes"], **fields.pop("attributes", {})}
    text = json.dumps({**said, "attributes": attributes, **fields})
    return replace(span(), content=text)


PLAIN = span().content
IN_FILES = {
    "no JSON": changed(PLAIN, attributes={"a": "{"}),
    "no text": changed(PLAIN, attributes={"a": 1}),
    "large": changed(PLAIN, attributes={"a": str(2**64)}),
    "twice JSON": changed(PLAIN, attributes={"a": json.dumps('{"b": 1}')}),
    "deep": changed(PLAIN, attributes={"a": "[" * 90 + "]" * 90}),
    "half a character": changed(PLAIN, attributes={"a": '"\\ud800"'}),
    "more": changed(PLAIN, own="field"),
    "message": changed(PLAIN, status={"code": "STATUS_CODE_OK", "message": "fine"}),
    "other trace": changed(PLAIN, attributes={"mlflow.traceRequestId": '"tr-1"'}),
    "event": changed(
        PLAIN, events=[{"name": "e", "time_unix_nano": 1, "attributes": {"a": {}}}]
    ),
    "link": changed(PLAIN, links=[{"trace_id": "t", "span_id": "s"}]),
}
BY_OTLP = {
    "values": changed(
        PLAIN,
        attributes={
            "a": '{"z":[1,1.0,true,null,"\\u00fc"],"a":{}}',
            "b": "NaN",
            "c": "[]",
            "d": str(-(2**63)),
            "e": '""',
            "f": "1e400",
            "g": '"1"',
        },
    ),
    "hex": changed(
        PLAIN,
        trace_id=TRACE,
        span_id=ROOT,
        parent_span_id=CHILD,
        status={"code": "ERROR", "message": "boom ü"},
    ),
    "events": changed(
        PLAIN,
        events=[
            {"name": "e", "time_unix_nano": 5, "attributes": {"z": 1, "a": [1.5]}},
            {"name": "f", "time_unix_nano": 6, "attributes": {}},
        ],
        links=[
            {"trace_id": OTHER_TRACE, "span_id": CHILD, "attributes": {"k": "v"}},
            {"trace_id": OTHER_TRACE, "span_id": CHILD, "attributes": None},
        ],
    ),
    "internal": changed(PLAIN, kind="SPAN_KIND_INTERNAL"),
    # Sums that MLflow cannot make: a server refuses the span, and its client, too,
    # puts it into the file then.
    "sums": changed(
        PLAIN,
        attributes={
            "mlflow.chat.tokenUsage": '{"input_tokens": 1.5, "output_tokens": "2"}'
        },
    ),
}


def test_spans_of_any_form_arrive(sources: MemorySources, server: str) -> None:
    """By OTLP where a server keeps what they mean, otherwise in a file, as they are."""
    items = []
    for n, (name, one) in enumerate((*BY_OTLP.items(), *IN_FILES.items())):
        id = f"tr-{n:032x}"
        other = _base64(n) if one.content.count("ASNFZ") else id
        content = one.content.replace(TRACE, id).replace(_base64(int(RUN, 16)), other)
        (own,) = (replace(one, content=content),)
        assert (message(own, id, lambda: True) is not None) == (name in BY_OTLP), name
        items.append(trace(id, spans=(own,)))
    origin = sources(experiment(), *items)
    result = copied(origin, server)
    back = read(server)

    assert [*result.of(Failed), *result.of(Problem), *losses(result)] == []
    for item in items:
        (own,), (there,) = item.spans, back[item.ref.id].spans
        assert says_all(there, own), own.content
        assert back[item.ref.id].artifacts == ()
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}


def test_a_trace_that_a_server_fails_to_tell(
    sources: MemorySources, reusable_server: servers.ReusableServer, tmp_path: Path
) -> None:
    """MLflow takes NaN for an assessment, and cannot say it: all else is copied."""
    reusable_server.reset()
    items = [
        trace(
            id := f"tr-{n:032x}",
            spans=(changed(PLAIN, trace_id=_base64(n), attributes=_id(id)),),
            assessments=(assessment(f"a-{n}"),),
        )
        for n in range(5)
    ]
    copied(sources(experiment(), *items), reusable_server.url)
    with closing(sqlite3.connect(reusable_server.folder / "mlflow.db")) as held:
        done = held.execute(
            "update assessments set value = 'NaN' where trace_id = ?", (f"tr-{3:032x}",)
        )
        assert done.rowcount == 1
        held.commit()
    sink = f"sqlite:///{tmp_path / 'sink.db'}"
    result = copied(reusable_server.url, sink)

    assert result.counts("trace") == {"copied": 5}
    (problem,) = [each for each in result.findings() if isinstance(each, Problem)]
    assert f"{3:032x}" in problem.where
    assert "its assessments and previews cannot be read" in problem.what
    there = read(sink)
    for item in items:
        held_there = there[item.ref.id]
        assert says_all(held_there.spans[0], item.spans[0])
        whole = item.ref.id != f"tr-{3:032x}"
        assert [each.id for each in held_there.assessments] == [
            each.id for each in item.assessments if whole
        ]


def _id(trace: str) -> dict[str, str]:
    return {"mlflow.traceRequestId": json.dumps(trace)}


def test_kinds_of_spans(sources: MemorySources, server: str) -> None:
    """MLflow keeps them since 3.18; an older server gets such spans in a file."""
    own = changed(PLAIN, kind="SPAN_KIND_CLIENT")
    origin = sources(experiment(), trace(f"tr-{TRACE}", spans=(own,)))
    result = copied(origin, server)
    (there,) = read(server)[f"tr-{TRACE}"].spans

    assert result.counts("trace") == {"copied": 1}
    assert '"kind": "SPAN_KIND_CLIENT"' in there.content
    assert says_all(there, own)
    assert not says_all(there, span())
    assert differences(origin, server) == []
    assert (message(own, f"tr-{TRACE}", lambda: False)) is None


def _base64(number: int) -> str:
    import base64

    return base64.b64encode(number.to_bytes(16, "big")).decode()


OLD_SPAN = {
    "name": "b",
    "context": {"span_id": "0xb2", "trace_id": "0x1"},
    "parent_id": None,
    "start_time": NOW * 1_000_000,
    "end_time": NOW * 1_000_000 + 5,
    "status_code": "OK",
    "status_message": "",
    "attributes": {"mlflow.traceRequestId": '"0123"', "mlflow.spanType": '"LLM"'},
    "events": [],
}


def test_traces_of_mlflow_2(sources: MemorySources, server: str) -> None:
    """They have ids and spans of another form, and grow, too."""
    id = "0123"
    old = Span(
        "00000000000000b2",
        json.dumps(OLD_SPAN),
        None,
        "b",
        "LLM",
        "OK",
        NOW * 1_000_000,
        NOW * 1_000_000 + 5,
    )
    origin = sources(experiment(), trace(id, spans=(old,)))
    copied(origin, server)
    mlflow.set_tracking_uri(server)  # for `mlflow-artifacts:`
    try:
        (there,) = MlflowClient(server).get_trace(id).data.spans
    finally:
        mlflow.set_tracking_uri(None)
    assert (there.name, there.span_type, there.start_time_ns) == (
        *("b", "LLM"),
        NOW * 1_000_000,
    )
    more = replace(
        old,
        id="00000000000000c3",
        content=old.content.replace("b2", "c3"),
    )
    sources.put(origin, trace(id, spans=(old, more), execution_duration=900))
    copied(origin, server)

    assert set(read(server)[id].spans) == {old, more}
    assert differences(origin, server) == []


# -- faults and kills ---------------------------------------------------------------

LOST = [faults.drop(), faults.lie(502), faults.truncate()]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.kind.name)
def test_a_lost_answer_makes_nothing_twice(
    sources: MemorySources, server: str, fault: faults.Fault
) -> None:
    items, data = with_traces()
    origin = sources(*items, files=data)
    with faults.fault_proxy(server) as proxy:
        proxy.plan = faults.any_of(
            faults.on("POST", "/v1/traces", fault),
            faults.on("POST", "3.0/mlflow/traces", fault),
            faults.on("POST", "/assessments", fault),
            faults.on("POST", "/link-to-run", fault),
            faults.on("POST", "/link-prompts", fault),
            faults.on("PATCH", "/tags", fault),
        )
        result = copied(origin, proxy.url)
        assert sum(proxy.faults.values()) == 6
    assert result.of(Failed) == []
    assert result.counts("trace") == {"copied": 3}
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}


def test_killed_at_every_call(
    sources: MemorySources, reusable_server: servers.ReusableServer
) -> None:
    """And run again, it is as if it had not been."""
    items, data = with_traces()
    url, origin = reusable_server.url, sources(*items, files=data)
    filled = killed_at_every_call(origin, as_new(reusable_server), "half", 3)
    next(filled)
    expected = _told(url)
    for _ in filled:
        assert expected == _told(url)
        assert differences(origin, url) == []


@pytest.mark.parametrize("grown", [False, True], ids=["new", "grown"])
def test_killed_at_every_request(
    sources: MemorySources, reusable_server: servers.ReusableServer, *, grown: bool
) -> None:
    """A copy that lost its server in the midst of traces is completed."""
    items, data = with_traces()
    url, origin = reusable_server.url, sources(*items, files=data)
    young = [replace(each, spans=(), assessments=(), tags=()) for each in items[3:]]
    before = sources(*items[:3], *(young if grown else ()))
    expected = None
    for last in range(1, 200):
        reusable_server.reset()
        copied(before, url)
        seen = 0

        def plan(method: str, path: str, n: int) -> faults.Fault | None:
            nonlocal seen
            if "traces" not in path or path.endswith(("search", "batchGetInfos")):
                return None
            seen += 1
            return faults.refuse(503) if seen > last else None  # noqa: B023

        with faults.fault_proxy(url, plan) as proxy:
            sink = resolve(proxy.url, ["retries=0"], shared={"artifacts": "copy"})
            try:
                list(pipeline.copy([resolve(origin)], sink, Options()))
                whole = True
            except StoreError:
                whole = False
        assert all(each.mark is None or _whole(each) for each in read(url).values())
        copied(origin, url)
        expected = expected or _told(url)
        assert expected == _told(url), last
        assert differences(origin, url) == [], last
        if whole:
            return
    raise AssertionError("there was no end to it")


def _whole(item: Item) -> bool:
    """Tell whether a marked trace has all that the fullest of them has."""
    young = not item.spans and item.ref.id != OTHER_TRACE
    full = item.ref.id != TRACE or len(item.trace_links) == 2
    return young or full


def _told(url: str) -> list[str]:
    """Return what stands there, without the ids that a server gives runs."""
    found = []
    for item in read(url).values():
        assert isinstance(item.header, Trace)
        header = replace(item.header, source_run=None)
        links = (
            TraceLink(each.kind, "" if each.kind == "run" else each.id)
            for each in item.trace_links
        )
        judged = (replace(each, run=None, metadata=None) for each in item.assessments)
        found.append(
            digest(
                replace(
                    item,
                    header=header,
                    trace_links=tuple(links),
                    assessments=tuple(judged),
                )
            )
        )
    return sorted(found)


# -- what a server cannot hold --------------------------------------------------------


def test_an_older_server_has_no_place_for_them(
    sources: MemorySources, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlmigrate.stores.mlflow_server import reading
    from mlmigrate.stores.mlflow_server.release import Release

    old = Release((3, 12), "MLflow 3.12.0")
    monkeypatch.setattr(reading, "release_of", lambda _: old)
    items, data = with_traces()
    origin = sources(*items, files=data)
    told = "3 traces: the sink has no place for them"

    planned = [loss.what for loss in mlmigrate.plan([origin], server).losses]
    assert told in planned
    assert losses(copied(origin, server)) == [told]


def test_what_messages_cannot_say_is_carried(
    sources: MemorySources, server: str
) -> None:
    """Values change to what a server tells, and are kept beside."""
    item = trace(
        request_time=10**17,
        execution_duration=10**17,
        assessments=(
            assessment("a-int", 5),
            assessment("a-large", 2**80 + 1),
            assessment("a-nan", float("nan")),
            assessment("a-text", {"b": 1, "a": [None]}, valid=False),
            assessment("a-none", None, kind="expectation", rationale="because"),
            assessment("a-issue", {"issue_name": "slow"}, kind="issue", name="i-1"),
            assessment("a-odd", 1, source_type="ROBOT", created=None, updated=None),
            assessment("a-run", 1, run=Ref("run", OTHER)),
            assessment("a-meta", 1, metadata='{"b": 1, "a": "x"}'),
            assessment("a-late", 1, created=10**17, updated=10**17),
            assessment(
                "a-error",
                None,
                error=json.dumps({"error_code": "E", "stack_trace": "s" * 20_000}),
            ),
        ),
        trace_links=(TraceLink("dataset", "d-1"), TraceLink("run", RUN)),
        source_run=Ref("run", RUN),
        spans=(
            span(),
            replace(span(CHILD), content="{}"),
            replace(span("c3"), content=""),
        ),
    )
    origin = sources(experiment(), run(), run(OTHER), item)
    result = copied(origin, server)
    back = {each.id: each for each in read(server)[TRACE].assessments}
    found = [each for each in result.findings() if isinstance(each, Loss)]
    said = [re.sub(": .*", "", each.what) for each in found if each.ref == item.ref]

    assert [*result.of(Failed), *result.of(Problem), *losses(result)] == []
    assert said == [
        *("request_time", "execution_duration", "assessment a-large value"),
        *("assessment a-nan value", "assessment a-text valid"),
        *("assessment a-none value", "assessment a-none rationale"),
        *("assessment a-odd created", "assessment a-odd source_type"),
        "assessment a-run run",
        *("assessment a-meta metadata", "assessment a-late created"),
        *("assessment a-late updated", "assessment a-error error"),
        *("link to dataset d-1", f"span {CHILD}"),
    ]
    assert (back["a-int"].value, back["a-nan"].value) == ("5.0", '"nan"')
    fitted, _ = fit(item, CAPABILITIES)
    again, more = fit(fitted, CAPABILITIES)
    assert (digest(again), more) == (digest(fitted), ())
    assert back["a-text"].value == '{"a": [null], "b": 1.0}'
    assert back["a-issue"].value == '{"issue_name": "slow"}'
    assert len(json.loads(back["a-error"].error or "")["stack_trace"]) == 10_000
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}


def test_a_span_that_comes_too_late_for_a_file(
    sources: MemorySources, server: str
) -> None:
    """Where spans went to the database, one that it does not hold is lost, each time
    that it is copied.
    """
    young = trace(state="IN_PROGRESS", spans=(span(),))
    origin = sources(experiment(), young)
    copied(origin, server)
    odd = replace(IN_FILES["large"], id=CHILD)
    odd = replace(odd, content=odd.content.replace("AAAAAAAAAKE=", "AAAAAAAAALI="))
    sources.put(origin, trace(execution_duration=900, spans=(span(), odd)))
    for _ in range(2):
        told = [f"span {CHILD}: the server does not hold it as it is"]
        assert losses(copied(origin, server)) == told
    assert [one.id for one in read(server)[TRACE].spans] == [ROOT]


@pytest.mark.parametrize("status", [404, 501])
def test_a_proxy_that_passes_no_otlp(
    sources: MemorySources, server: str, status: int
) -> None:
    """Spans go to the file of their trace; where a database has some, they fail."""
    items, data = with_traces()
    origin = sources(*items, files=data)

    def plan(method: str, path: str, n: int) -> faults.Fault | None:
        return faults.refuse(status) if path == "/v1/traces" else None

    with faults.fault_proxy(server, plan) as proxy:
        result = copied(origin, proxy.url)
    assert [*result.of(Failed), *losses(result)] == []
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}
    later = trace(f"tr-{'7' * 32}", state="IN_PROGRESS", spans=())
    own = span(trace=later.ref.id)
    sources.put(origin, replace(later, spans=(own,)))
    copied(origin, server)
    more = span(CHILD, trace=later.ref.id)
    sources.put(origin, replace(later, spans=(own, more)))
    with faults.fault_proxy(server, plan) as proxy:
        (failed,) = copied(origin, proxy.url).of(Failed)
    assert "its other spans are in the database" in failed.why


def test_a_link_waits_for_its_run(sources: MemorySources, server: str) -> None:
    """It is told as lost until a later copy brings the run."""
    item = trace(trace_links=(TraceLink("run", OTHER),))
    late = run(OTHER, tags=(Tag("late", "yes"),))
    origin = sources(experiment(), run(), late, item)
    early = Options(filters=Filters(kinds=frozenset({"trace", "experiment"})))
    for _ in range(2):
        store = resolve(server)
        first = Result(list(pipeline.copy([resolve(origin)], store, early)))
        assert losses(first) == [f"link to run/{OTHER}, which is not there"]
    copied(origin, server)

    assert len(read(server)[TRACE].trace_links) == 1
    assert differences(origin, server) == []


def test_what_may_be_cut_is_told(server: str, source_server: str) -> None:
    """A server shows no more than the beginning of a value."""
    client = MlflowClient(server)
    copied(source_server, server)
    id = next(iter(shown(server)))
    client.delete_trace_tag(id, marks.MARK)
    client.set_trace_tag(id, "long", "v" * 5000)
    client.set_trace_tag(id, "short", "v" * 4000)
    told = [
        each.what for each in read(server)[id].findings if isinstance(each, Problem)
    ]

    assert [what.split(":")[0] for what in told] == ["tag long"]


def test_a_trace_that_cannot_be_read_fails_alone(
    server: str, source_server: str
) -> None:
    """Odd answers of a server cost the trace that they are about."""
    copied(source_server, server)
    with faults.fault_proxy(server) as proxy:
        proxy.plan = faults.on("GET", "get-trace-artifact", faults.refuse(400))
        found = read(proxy.url)
    told = [
        [each.what for each in item.findings if isinstance(each, Problem)]
        for item in found.values()
    ]
    assert sorted(map(len, told)) == [0, 1]
    assert any("its spans cannot be read" in what for each in told for what in each)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"request_time": "noon"}, "its request_time 'noon' is no time: not copied"),
        ({"execution_duration": []}, "its execution_duration '[]' is no time"),
        ({"assessments": [{"assessment_name": "a"}]}, "an assessment cannot be read"),
        ({"assessments": [7]}, "an assessment cannot be read"),
        ({"assessments": {"a": 1}, "tags": [], "trace_metadata": 7}, ""),
        ({"tags": {"mlflow.linkedPrompts": "[7]", "mlmigrate.given": "{"}}, ""),
    ],
)
def test_odd_answers(said: dict[str, Any], told: str) -> None:
    """Whatever a server says of a trace costs that alone."""
    whole = {"trace_id": "tr-1", "request_time": "2026-01-01T00:00:00Z", "state": 5}
    info = trace_infos.info_of({**whole, **said})
    lifted = traces.lifted_of(info)
    named = traces.named_ends(info)
    item = traces.item_of(info, lifted, Contents(), (), "here")
    found = [each.what for each in item.findings if isinstance(each, Problem)]

    assert (len(found), named) == (int(bool(told)), [])
    assert all(what.startswith(told) for what in found)


def test_an_odd_preview_fails_alone() -> None:
    info = trace_infos.info_of({"trace_id": "tr-1", "request_preview": 5})
    with pytest.raises(ItemError, match="'5' is no text"):
        traces.item_of(info, traces.lifted_of(info), Contents(), (), "here")


def test_spans_that_a_server_does_not_give_are_told(
    server: str, sources: MemorySources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow 3.4 and 3.5 have them in the database and look for a file."""
    from mlmigrate.stores.mlflow_server import reading
    from mlmigrate.stores.mlflow_server.release import Release

    old = Release((3, 5), "MLflow 3.5.1")
    copied(sources(experiment(), trace(spans=(span(),))), server)
    monkeypatch.setattr(reading, "release_of", lambda _: old)
    with faults.fault_proxy(server) as proxy:
        proxy.plan = faults.on("GET", "get-trace-artifact", faults.refuse(404))
        (item,) = read(proxy.url).values()
    (told,) = item.findings
    assert "MLflow 3.4 and 3.5 keep in the database" in getattr(told, "what", "")


def test_files_on_the_disk_of_a_server(
    sources: MemorySources, start_server: Any, tmp_path: Path
) -> None:
    """They are written where both see it, and read where that folder is mapped to."""
    items, data = with_traces()
    origin = sources(*items, files=data)
    url = start_server(artifacts="direct")
    result = copied(origin, url)
    root = next(tmp_path.glob("server-*")) / "artifacts"
    written = list(root.rglob("*.bin"))

    assert result.of(Failed) == []
    assert [path.read_bytes() for path in written] == list(data.values())
    maps = [f"{root.as_uri()}={root}"]
    store = resolve(url, shared={"map-artifacts": maps}).source()
    (item,) = store.read([Ref("trace", TRACE)])
    store.close()
    assert isinstance(item, Item)
    assert item.artifacts == (Artifact("attachments/1/a ü.bin", 1000),)
    (plain,) = [each for id, each in read(url).items() if id == TRACE]
    assert any(
        "start it with --serve-artifacts" in getattr(each, "what", "")
        for each in plain.findings
    )
    assert isinstance(plain.header, Trace)


def test_traces_of_a_deleted_experiment(
    sources: MemorySources, server: str, sqlite_uri: str
) -> None:
    """It takes them until the copy ends, and they are read as others are."""
    item = trace(spans=(span(),), assessments=(assessment("a-1"),))
    origin = sources(experiment(lifecycle="deleted"), item)
    result = copied(origin, server)
    assert [*result.of(Failed), *losses(result)] == []
    assert differences(origin, server) == []
    copied(server, sqlite_uri)

    assert differences(server, sqlite_uri) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}


def test_few_requests_a_trace(sources: MemorySources, server: str) -> None:
    """One says all of a trace, and one gets its spans; all else is for many."""
    ids = [f"tr-{n:032x}" for n in range(120)]
    many = [trace(id, spans=(span(trace=id),)) for id in ids]
    origin = sources(experiment(), run(), *many)
    with faults.fault_proxy(server) as proxy:
        copied(origin, proxy.url)
        into = [each for each in proxy.seen if "traces" in each.path]
        assert len(into) < len(ids) + 10
    with faults.fault_proxy(server) as proxy:
        set(copied(origin, proxy.url).counts("trace"))
        again = [each for each in proxy.seen if "traces" in each.path]
        assert len(again) < 10
    with faults.fault_proxy(server) as proxy:
        assert len(read(proxy.url)) == len(ids)
        out = [each for each in proxy.seen if "trace" in each.path]
        assert len(out) < len(ids) + 10
