"""The adapter `mlflow_server` against real servers on loopback."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any, BinaryIO, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from support import faults

from mlmigrate import marks
from mlmigrate.artifacts import combined_checksum
from mlmigrate.contract import Delivery, Selection, Written
from mlmigrate.digest import digest
from mlmigrate.errors import StoreError
from mlmigrate.fit import fit
from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    DatasetInput,
    Experiment,
    Failed,
    Item,
    Kind,
    Loss,
    MetricHistory,
    ModelVersion,
    Note,
    Param,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Tag,
    Trace,
)
from mlmigrate.stores.mlflow_server import (
    CAPABILITIES,
    Server,
    open_sink,
    open_source,
)
from mlmigrate.stores.mlflow_server.release import Release, narrowed

SOURCE = "/home/someone/mlruns"


# -- items made by hand -----------------------------------------------------------


def points(key: str, *rows: tuple[int, int, float]) -> MetricHistory:
    steps, times, values = zip(*rows, strict=True)
    return history(
        key, np.array(steps), np.array(times), np.array(values, dtype=np.float64)
    )


def experiment(name: str = "vision", **fields: Any) -> Item:
    return Item(
        Ref("experiment", "7"),
        Experiment(name, **fields),
        origin=f"7/{name}",
        tags=(Tag("team", "blue"),),
    )


def run(at: Ref, id: str = "a" * 32, **fields: Any) -> Item:
    header = {
        "name": "first",
        "status": "FINISHED",
        "start_time": 1_600_000_000_001,
        "end_time": 1_600_000_900_002,
        "user": "marie",
        **fields,
    }
    return Item(
        Ref("run", id),
        Run(experiment=at, **header),
        origin=id,
        params=tuple(Param(f"p{at}", f"Grüße {at}") for at in range(150)),
        tags=(Tag("mlflow.runName", header["name"] or ""), Tag("note", "it's fine"))
        if header["name"]
        else (Tag("note", ""),),
        metrics=(
            points("loss", (0, 5, 0.1), (1, 6, float("nan")), (-3, 0, 1e300)),
            points("long/er", *((step, step * 2, step / 3) for step in range(2345))),
        ),
        inputs=(
            DatasetInput(
                "d", "x1", "local", "{}", "s", "p", (Tag("context", "train"),)
            ),
        ),
    )


def model(versions: tuple[ModelVersion, ...], *aliases: Alias) -> Item:
    header = RegisteredModel("churn", "Who leaves?")
    tags = (Tag("owner", "ops"),)
    return Item(
        Ref("registered_model", "churn"),
        header,
        origin="churn",
        tags=tags,
        versions=versions,
        aliases=aliases,
    )


def deliver(item: Item, **fields: Any) -> Delivery:
    mark = marks.mark_of(item, digest=digest(item), options="", source=SOURCE)
    return Delivery(item, mark, SOURCE, **fields)


def files(contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Artifacts for an item, and what opens them for its delivery."""

    def open_(ref: Ref, path: str) -> BinaryIO:
        return io.BytesIO(contents[path])

    listed = tuple(Artifact(path, len(data)) for path, data in contents.items())
    return {"artifacts": listed, "open": open_}


# -- what tests do again and again ------------------------------------------------


@contextmanager
def sink(url: str, **options: Any) -> Iterator[Server]:
    opened = open_sink(url, options)
    try:
        yield opened
    finally:
        opened.close()


def put(store: Server, item: Item, **fields: Any) -> Written:
    [answer] = store.write([deliver(item, **fields)])
    assert isinstance(answer, Written), answer
    return answer


def get(store: Server, ref: Ref) -> Item:
    [item] = store.read([ref])
    assert isinstance(item, Item), item
    return item


def api(url: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Ask a server past the adapter."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/{path}".replace("2.0/mlflow/../../", ""),
        data,
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def runs_at(url: str, view: str = "ALL") -> list[dict[str, Any]]:
    found = api(url, "experiments/search?max_results=99&view_type=ALL")
    ids = [one["experiment_id"] for one in found["experiments"]]
    body = {"experiment_ids": ids, "run_view_type": view, "max_results": 1000}
    return list(api(url, "runs/search", body).get("runs", []))


def tags_of(entry: Mapping[str, Any]) -> dict[str, str]:
    tags = entry["data"]["tags"] if "data" in entry else entry.get("tags", [])
    return {tag["key"]: tag["value"] for tag in tags}


# -- round trips ------------------------------------------------------------------


def test_a_run_comes_back_whole(server: str) -> None:
    contents = {"model/MLmodel": b"x" * 3_000_000, "a b/ü?=&.txt": b"hi", "empty": b""}
    with sink(server) as store:
        at = put(store, experiment()).ref
        item = replace(run(at), artifacts=(extra := files(contents))["artifacts"])
        written = put(store, item, open=extra["open"])

        back = get(store, written.ref)
        assert digest(back) == digest(item)
        assert back.origin == item.origin
        assert (written.files, written.bytes) == (3, 3_000_002)
        sums = {path: sha256(data).hexdigest() for path, data in contents.items()}
        assert written.checksums == combined_checksum(sums)
        for path, data in contents.items():
            with store.open(written.ref, path) as stream:
                assert stream.read() == data

        mark = marks.load(back.mark)
        assert mark is not None
        assert mark.checksums == written.checksums
        copies = store.copies([Ref("run", item.origin), Ref("run", "b" * 32)])
        assert {ref.id: copy.ref for ref, copy in copies.items()} == {
            item.origin: written.ref
        }
    with sink(server) as store:  # in a process that knows nothing
        assert store.copies([Ref("run", item.origin)]) == copies
        assert digest(get(store, written.ref)) == digest(item)


def test_a_run_without_a_name_stays_without(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        item = run(at, name=None, end_time=None, status="RUNNING", user=None)
        written = put(store, item)
        assert digest(get(store, written.ref)) == digest(item)
    [raw] = runs_at(server)
    assert raw["info"]["run_name"] == item.origin


def test_runs_read_in_parallel_keep_their_order(server: str) -> None:
    with sink(server, threads=3) as store:
        at = put(store, experiment()).ref
        items = [run(at, f"{n:032x}", name=f"r{n}") for n in range(12)]
        answers = store.write([deliver(item) for item in items])
        assert [answer for answer in answers if isinstance(answer, Failed)] == []
        refs = [answer.ref for answer in answers if isinstance(answer, Written)]
        back = list(store.read(refs))
        assert [one.origin for one in back if isinstance(one, Item)] == [
            item.origin for item in items
        ]
        listed = list(store.refs(Selection("run", frozenset([at.id]))))
        assert sorted(ref.id for ref in listed) == sorted(ref.id for ref in refs)
        assert list(store.refs(Selection("run"))) == listed
        assert list(store.refs(Selection("run", frozenset(["0"])))) == []


@pytest.mark.parametrize(("writes", "noted"), [(1, False), (99, True)])
def test_a_run_that_is_written_while_it_is_read_is_read_again(
    server: str, writes: int, noted: bool
) -> None:
    step = 0
    logged: dict[str, Any] = {}

    def plan(method: str, path: str, n: int) -> faults.Fault | None:
        nonlocal step
        if "get-history" in path and step < writes:
            step += 1
            api(server, "runs/log-metric", {**logged, "step": step, "timestamp": step})
        return None

    with sink(server) as store:
        at = put(store, experiment()).ref
        moving = replace(run(at, status="RUNNING", end_time=None), metrics=())
        logged = {"run_id": put(store, moving).ref.id, "key": "loss", "value": 0.5}
        api(server, "runs/log-metric", {**logged, "step": 0, "timestamp": 0})
    with (
        faults.fault_proxy(server, plan) as proxy,
        closing(open_source(proxy.url, {})) as source,
    ):
        (item,) = source.read(list(source.refs(Selection("run"))))
    assert isinstance(item, Item)
    notes = [each for each in item.findings if isinstance(each, Note)]
    assert [("written all the while" in note.what) for note in notes] == [True] * noted
    if not noted:
        (metric,) = item.metrics
        assert metric.steps.tolist() == [0, 1]


def test_runs_of_one_dataset_do_not_meet_at_the_server(server: str) -> None:
    asked: list[float] = []

    def plan(method: str, path: str, n: int) -> faults.Fault | None:
        if not path.endswith("runs/log-inputs"):
            return None
        asked.append(monotonic())
        # The first time another copy was at it.
        return faults.refuse(400) if len(asked) == 1 else faults.delay(0.1)

    with faults.fault_proxy(server, plan) as proxy, sink(proxy.url) as store:
        at = put(store, experiment()).ref
        items = [run(at, f"{n:032x}") for n in range(4)]
        answers = store.write([deliver(item) for item in items])
        assert [answer for answer in answers if isinstance(answer, Failed)] == []
    assert len(asked) == 5
    assert min(late - early for early, late in pairwise(asked[1:])) >= 0.1


def test_reading_changes_nothing(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        put(store, run(at))
        id = f"tr-{'1' * 32}"
        put(store, Item(Ref("trace", id), Trace(at, "OK", 1), origin=id))
    with faults.fault_proxy(server) as proxy:
        source = open_source(proxy.url, {})
        kinds: tuple[Kind, ...] = ("experiment", "run", "registered_model", "trace")
        for kind in kinds:
            refs = list(source.refs(Selection(kind)))
            assert not [one for one in source.read(refs) if isinstance(one, Failed)]
        assert list(source.findings()) == []
        source.close()
        source.close()
        asked = {(one.method, one.path) for one in proxy.seen}
    searches = ("runs/search", "logged-models/search", "traces/search", "GetInfos")
    assert all(method == "GET" or path.endswith(searches) for method, path in asked), (
        asked
    )


def test_an_experiment_merges_into_the_one_of_its_name(server: str) -> None:
    with sink(server) as store:
        first = put(store, experiment())
        other = replace(experiment(), origin="9/vision", tags=(Tag("more", "yes"),))
        second = put(store, other, into=first.ref)
        assert second.ref == first.ref
        assert {tag.key for tag in get(store, first.ref).tags} == {"team", "more"}
        asked = [Ref("experiment", origin) for origin in ("7/vision", "9/vision")]
        assert {copy.ref for copy in store.copies(asked).values()} == {first.ref}
        [default] = store.copies([Ref("experiment", "0/Default")]).values()
        assert default.ref.id == "0"


# -- older servers ----------------------------------------------------------------


def without(*endings: str) -> faults.Plan:
    """Hide endpoints, as a server does that is older than they are."""

    def plan(method: str, path: str, n: int) -> faults.Fault | None:
        return faults.refuse(404) if path.endswith(endings) else None

    return plan


def test_what_an_older_server_has_no_place_for_is_carried(server: str) -> None:
    plan = without("/version", "runs/log-inputs", "registered-models/alias")
    with faults.fault_proxy(server, plan) as proxy, sink(proxy.url) as store:
        at = put(store, experiment()).ref
        item, losses = fit(run(at), store.capabilities)
        [said] = [loss for loss in losses if "dataset" in loss.what]
        assert said.carried
        written = put(store, item)
        back = get(store, written.ref)
        assert (back.inputs, back.params) == ((), item.params)
        source = f"runs:/{written.ref.id}/m"
        version = ModelVersion(1, "churn/1@5", source=source, run=written.ref)
        named, losses = fit(model((version,), Alias("live", 1)), store.capabilities)
        assert [loss.what for loss in losses if loss.carried] == [
            "alias live: no place for aliases"
        ]
        assert get(store, put(store, named).ref).aliases == ()
        [note] = store.finish()
    whole = tags_of(runs_at(server)[0])[f"{marks.WHOLE}1"]
    assert json.loads(whole)[0]["dataset"]["digest"] == "x1"
    assert isinstance(note, Note)
    assert "an MLflow before 2.4, which has no dataset inputs and no aliases" in (
        note.what
    )
    with sink(server) as store:
        without_others = CAPABILITIES.entities - {"workspace"}
        assert store.capabilities == replace(CAPABILITIES, entities=without_others)
        assert list(store.finish()) == []


@pytest.mark.parametrize(
    ("number", "param", "tag"),
    [((1, 20), 250, 5000), ((2, 0), 500, 5000), ((2, 9), 6000, 5000)],
)
def test_an_older_server_holds_shorter_texts(
    number: tuple[int, int], param: int, tag: int
) -> None:
    release = Release(number, "an old MLflow")
    text = narrowed(CAPABILITIES, release, frozenset()).text
    assert (text["param.value"], text["tag.value"]) == (param, tag)


def test_traces_of_an_older_server_are_read(server: str) -> None:
    """Those before MLflow 3 know neither their paths nor assessments."""
    body = {
        "experiment_id": "0",
        "timestamp_ms": 1_700_000_000_001,
        "request_metadata": [{"key": "k", "value": "v"}],
        "tags": [{"key": "t", "value": "ü"}],
    }
    id = api(server, "traces", body)["trace_info"]["request_id"]
    end = {"timestamp_ms": 1_700_000_000_251, "status": "OK"}
    requests.patch(f"{server}/api/2.0/mlflow/traces/{id}", json=end, timeout=60)
    with (
        faults.fault_proxy(server, _before_3) as proxy,
        closing(open_source(proxy.url, {})) as store,
    ):
        [item] = store.read(list(store.refs(Selection("trace"))))
    assert isinstance(item, Item)
    assert item.header == Trace(
        Ref("experiment", "0"),
        "OK",
        1_700_000_000_001,
        250,
        artifact_location=f"mlflow-artifacts:/0/traces/{id}/artifacts",
    )
    assert (item.metadata, item.tags) == ((Tag("k", "v"),), (Tag("t", "ü"),))
    assert item.findings == ()


def _before_3(method: str, path: str, n: int) -> faults.Fault | None:
    return faults.refuse(404) if "/api/3.0/" in path else None


class _Before128(BaseHTTPRequestHandler):
    """Answers as MLflow 1.20.2 does."""

    RUN: ClassVar[dict[str, Any]] = {
        "info": {
            "run_id": "a" * 32,
            "experiment_id": "1",
            "status": "FINISHED",
            "start_time": "5",
            "artifact_uri": "/nowhere/artifacts",
            "lifecycle_stage": "active",
        },
        "data": {"tags": [{"key": "mlflow.runName", "value": "first"}]},
    }
    ANSWERS: ClassVar[dict[str, Any]] = {
        "experiments/list": {"experiments": [{"experiment_id": "1", "name": "e"}]},
        "runs/search": {"runs": [RUN]},
        "artifacts/list": {"root_uri": "/nowhere/artifacts"},
    }

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.partition("/mlflow/")[2]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.ANSWERS.get(path)
        body = json.dumps(answer).encode() if answer else b"<h1>Not Found</h1>"
        self.send_response(200 if answer else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def test_a_server_that_only_lists_experiments_is_read() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Before128) as old:
        Thread(target=old.serve_forever, args=(0.02,)).start()
        with closing(open_source(f"http://127.0.0.1:{old.server_port}", {})) as store:
            assert list(store.refs(Selection("experiment"))) == [Ref("experiment", "1")]
            [ref] = store.refs(Selection("run"))
            [item] = store.read([ref])
        with sink(f"http://127.0.0.1:{old.server_port}") as opened:
            assert opened.capabilities.text["param.value"] == 250
        old.shutdown()
    assert isinstance(item, Item)
    assert isinstance(item.header, Run)
    # Its run had no field for a name yet.
    assert item.header.name == "first"


def test_an_experiment_made_without_its_tags_gets_them(server: str) -> None:
    """As by MLflow before 1.23, or by another in the moment of a lost answer."""
    plan = faults.on("POST", "experiments/create", faults.refuse(502))
    with faults.fault_proxy(server, plan) as proxy, sink(proxy.url) as store:
        assert store.copies([Ref("experiment", "7/vision")]) == {}
        api(server, "experiments/create", {"name": "vision"})
        written = put(store, experiment())
        assert get(store, written.ref).tags == (Tag("team", "blue"),)


# -- deleted things ---------------------------------------------------------------


def test_a_deleted_run_stays_deleted_and_takes_more(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        item = run(at, lifecycle="deleted")
        written = put(store, item)
        back = get(store, written.ref)
        assert digest(back) == digest(item)
        [copy] = store.copies([Ref("run", item.origin)]).values()
        assert copy.lifecycle == "deleted"
        assert copy.mark is not None
        assert copy.mark.lifecycle == "deleted"

        more = replace(item, params=(Param("new", "1"),), metrics=(), inputs=())
        put(store, more, into=written.ref)
        back = get(store, written.ref)
        assert isinstance(back.header, Run)
        assert back.header.lifecycle == "deleted"
        assert {"new", "p0"} <= {param.key for param in back.params}
        assert marks.load(back.mark) is not None


def test_a_deleted_experiment_is_filled_and_deleted(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment(lifecycle="deleted")).ref
        gone = put(store, run(at, "1" * 32, lifecycle="deleted")).ref
        alive = put(store, run(at, "2" * 32)).ref
        [copy] = store.copies([Ref("experiment", "7/vision")]).values()
        assert copy.lifecycle == "deleted"
        assert list(store.finish()) == []
    _expect(server, at, "deleted", {gone.id: "deleted", alive.id: "active"})

    with sink(server) as store:  # a later copy brings one more
        late = put(store, run(at, "3" * 32, lifecycle="deleted")).ref
        list(store.finish())
    states = {gone.id: "deleted", alive.id: "active", late.id: "deleted"}
    _expect(server, at, "deleted", states)


def test_a_killed_copy_leaves_no_experiment_restored(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment(lifecycle="deleted")).ref
        put(store, run(at, "1" * 32, lifecycle="deleted"))
        # killed: no finish
    with sink(server) as store:
        [copy] = store.copies([Ref("experiment", "7/vision")]).values()
        assert copy.lifecycle == "deleted"
        list(store.finish())
    with sink(server) as store:
        put(store, run(at, "2" * 32, lifecycle="deleted"))
    with sink(server) as store:
        list(store.finish())
    found = api(server, f"experiments/get?experiment_id={at.id}")["experiment"]
    assert found["lifecycle_stage"] == "deleted"
    assert len(runs_at(server, "DELETED_ONLY")) == 2

    # Someone restores it afterwards: that is not undone.
    api(server, "experiments/restore", {"experiment_id": at.id})
    with sink(server) as store:
        list(store.finish())
    found = api(server, f"experiments/get?experiment_id={at.id}")["experiment"]
    assert found["lifecycle_stage"] == "active"


def test_a_deleted_experiment_at_an_older_server(server: str) -> None:
    """It refuses to restore what is active, and to delete what is deleted."""
    plan = faults.any_of(
        faults.on("POST", "runs/restore", faults.lie(400), times=99),
        faults.on("POST", "runs/delete", faults.lie(400), times=99),
    )
    with faults.fault_proxy(server, plan) as proxy, sink(proxy.url) as store:
        at = put(store, experiment(lifecycle="deleted")).ref
        gone = put(store, run(at, "1" * 32, lifecycle="deleted")).ref
        alive = put(store, run(at, "2" * 32)).ref
        list(store.finish())
        assert sum(proxy.faults.values()) == 2
    _expect(server, at, "deleted", {gone.id: "deleted", alive.id: "active"})


def cut_off_after(ending: str) -> faults.Plan:
    """Let one request to a path's *ending* through, its answer and no other."""
    seen: list[str] = []

    def plan(method: str, path: str, n: int) -> faults.Fault | None:
        if seen:
            return faults.reset()
        if path.endswith(ending):
            seen.append(path)
        return None

    return plan


@pytest.mark.parametrize("again", [True, False], ids=["later copy", "finish"])
def test_a_copy_cut_off_as_it_restores_deletes_again(server: str, again: bool) -> None:
    with sink(server) as store:
        at = put(store, experiment(lifecycle="deleted")).ref
        gone = put(store, run(at, "1" * 32, lifecycle="deleted")).ref
        list(store.finish())
    late = run(at, "2" * 32, lifecycle="deleted")
    plan = cut_off_after("experiments/restore")
    with (
        faults.fault_proxy(server, plan) as proxy,
        sink(proxy.url, retries=0) as store,
        pytest.raises(StoreError),
    ):
        store.write([deliver(late)])
    states = {gone.id: "deleted"}
    with sink(server) as store:
        [copy] = store.copies([Ref("experiment", "7/vision")]).values()
        assert copy.lifecycle == "deleted"
        if again:
            states[put(store, late).ref.id] = "deleted"
        list(store.finish())
    _expect(server, at, "deleted", states)

    # Someone restores it afterwards: that is not undone.
    api(server, "experiments/restore", {"experiment_id": at.id})
    with sink(server) as store:
        list(store.finish())
    found = api(server, f"experiments/get?experiment_id={at.id}")["experiment"]
    assert found["lifecycle_stage"] == "active"


def test_a_copy_cut_off_as_it_restores_for_good_leaves_runs_deleted(
    server: str,
) -> None:
    theirs = api(server, "experiments/create", {"name": "vision"})["experiment_id"]
    old = api(server, "runs/create", {"experiment_id": theirs})["run"]["info"]["run_id"]
    api(server, "experiments/delete", {"experiment_id": theirs})
    plan = cut_off_after("experiments/restore")
    with (
        faults.fault_proxy(server, plan) as proxy,
        sink(proxy.url, retries=0) as store,
        pytest.raises(StoreError),
    ):
        store.write([deliver(experiment())])
    with sink(server) as store:
        put(store, experiment())
        list(store.finish())
    _expect(server, Ref("experiment", theirs), "active", {old: "deleted"})


def test_a_deleted_name_is_restored_but_not_its_runs(server: str) -> None:
    theirs = api(server, "experiments/create", {"name": "vision"})["experiment_id"]
    old = api(server, "runs/create", {"experiment_id": theirs})["run"]["info"]["run_id"]
    api(server, "experiments/delete", {"experiment_id": theirs})
    with sink(server) as store:
        written = put(store, experiment())
        list(store.finish())
    assert written.ref.id == theirs
    _expect(server, written.ref, "active", {old: "deleted"})


def _expect(url: str, at: Ref, lifecycle: str, runs: Mapping[str, str]) -> None:
    found = api(url, f"experiments/get?experiment_id={at.id}")["experiment"]
    assert found["lifecycle_stage"] == lifecycle
    states = {
        one["info"]["run_id"]: one["info"]["lifecycle_stage"] for one in runs_at(url)
    }
    assert states == runs


# -- nested runs ------------------------------------------------------------------


def test_a_parent_that_comes_later_is_linked(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        child = put(
            store, run(at, "c" * 32, lifecycle="deleted"), missing_parent="f" * 32
        )
        nested = replace(run(at, "d" * 32))
        header = nested.header
        assert isinstance(header, Run)
        nested = replace(nested, header=replace(header, parent=child.ref))
        assert get(store, put(store, nested).ref).header == replace(
            header,
            parent=child.ref,
            artifact_uri=f"mlflow-artifacts:/{at.id}/{_id_of(server, 'd')}/artifacts",
        )
        list(store.finish())
        orphan = get(store, child.ref).header
        assert isinstance(orphan, Run)
        assert orphan.parent is None
    with sink(server) as store:
        parent = put(store, run(at, "f" * 32))
        list(store.finish())
        back = get(store, child.ref)
    assert isinstance(back.header, Run)
    assert back.header.parent == parent.ref
    assert back.header.lifecycle == "deleted"
    raw = {one["info"]["run_id"]: tags_of(one) for one in runs_at(server)}
    assert marks.UNRESOLVED not in raw[child.ref.id]


def _id_of(url: str, letter: str) -> str:
    [found] = [
        one["info"]["run_id"]
        for one in runs_at(url)
        if tags_of(one).get(marks.ORIGIN) == letter * 32
    ]
    return str(found)


# -- the registry -----------------------------------------------------------------


def test_versions_keep_their_numbers_sources_and_stages(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        home = put(store, run(at)).ref
        versions = (
            ModelVersion(
                2,
                "churn/2@5",
                description="good",
                stage="Production",
                source=f"/x/{'a' * 32}/artifacts/model",
                source_run=home,
                source_path="model",
                run=home,
                tags=(Tag("k", "v"),),
            ),
            ModelVersion(3, "churn/3@6", source="models:/m-0123", run=home),
            ModelVersion(
                5,
                "churn/5@7",
                source=f"runs:/{'a' * 32}/model",
                source_run=home,
                source_path="model",
                run=home,
            ),
            ModelVersion(6, "churn/6@8", source="s3://bucket/model", run=home),
        )
        written = put(store, model(versions, Alias("best", 5), Alias("lost", 3)))
        problems = [one.what for one in written.findings if isinstance(one, Problem)]
        assert len(problems) == 2, problems
        assert "version 3 was refused" in problems[0]
        back = get(store, written.ref)
        put(store, model(versions, Alias("best", 2)), into=written.ref)
        again = get(store, written.ref)
    assert [version.version for version in back.versions] == [2, 5, 6]
    assert [version.origin for version in back.versions] == [
        "churn/2@5",
        "churn/5@7",
        "churn/6@8",
    ]
    first, second, third = back.versions
    root = f"mlflow-artifacts:/{at.id}/{home.id}/artifacts"
    assert (first.source, first.stage) == (f"{root}/model", "Production")
    assert (first.source_run, first.source_path) == (home, "model")
    assert (first.description, first.tags) == ("good", (Tag("k", "v"),))
    assert second.source == f"runs:/{home.id}/model"
    assert third.source == "s3://bucket/model"
    assert back.aliases == (Alias("best", 5),)
    assert isinstance(back.header, RegisteredModel)
    assert back.header.description == "Who leaves?"
    assert back.tags == (Tag("owner", "ops"),)
    assert marks.load(back.mark) is not None
    # A second time changes nothing, and an alias that stands is not moved.
    assert [one.version for one in again.versions] == [2, 5, 6]
    assert again.aliases == back.aliases


def test_active_webhooks_stop_the_registry(
    start_server: Callable[..., str],
) -> None:
    from cryptography.fernet import Fernet

    key = Fernet.generate_key().decode()
    env = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key,
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    url = start_server(env=env)
    hook = {
        "name": "deploy",
        "url": "https://127.0.0.1:9/hook",
        "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}],
    }
    api(url, "webhooks", hook)
    with sink(url) as store:
        [answer] = store.write([deliver(model(()))])
        assert isinstance(answer, Failed)
        assert "fire-webhooks=yes" in answer.why
    with sink(url, **{"fire-webhooks": "yes"}) as store:
        put(store, model(()))


# -- artifacts --------------------------------------------------------------------


def test_artifacts_of_a_server_that_hands_out_paths(
    start_server: Callable[..., str],
) -> None:
    url = start_server(artifacts="direct")
    extra = files({"model/data": b"12345", "top": b""})
    with sink(url) as store:
        at = put(store, experiment()).ref
        item = replace(run(at), artifacts=extra["artifacts"])
        written = put(store, item, open=extra["open"])
        back = get(store, written.ref)
        assert digest(back) == digest(item)
        with store.open(written.ref, "model/data") as stream:
            assert stream.read() == b"12345"
    assert isinstance(back.header, Run)
    assert back.header.artifact_uri is not None
    assert Path(back.header.artifact_uri.removeprefix("file://"), "top").exists()

    # Under a name that is not loopback's it may be another machine's path.
    with sink(url) as store:
        store._rest.host = "tracking.example"
        late = replace(run(at, "b" * 32), artifacts=extra["artifacts"])
        [answer] = store.write([deliver(late, open=extra["open"])])
        assert isinstance(answer, Failed)
        assert "map-artifacts" in answer.why
    # But where the user says so. What the first try left behind is completed.
    home = str(Path(back.header.artifact_uri.removeprefix("file://")).parents[2])
    with sink(url, **{"map-artifacts": [f"file://{home}={home}"]}) as store:
        store._rest.host = "tracking.example"
        written = put(store, late, open=extra["open"])
        assert digest(get(store, written.ref)) == digest(late)
    assert len(runs_at(url)) == 2


@pytest.mark.parametrize("path", ["../up", "/etc/up", "a/../../up"])
def test_no_artifact_leads_out_of_its_run(server: str, path: str) -> None:
    extra = files({path: b"evil"})
    with sink(server) as store:
        at = put(store, experiment()).ref
        item = replace(run(at), artifacts=extra["artifacts"])
        [answer] = store.write([deliver(item, open=extra["open"])])
        assert isinstance(answer, Failed)
        assert "leads out of its root" in answer.why
        [copy] = store.copies([Ref("run", item.origin)]).values() or [None]
        assert copy is None or copy.mark is None


def test_an_artifact_name_that_the_server_refuses_is_a_loss(server: str) -> None:
    extra = files({"a#b": b"1", "a": b"2", "a%41": b"3"})
    with sink(server) as store:
        at = put(store, experiment()).ref
        item = replace(run(at), artifacts=extra["artifacts"])
        written = put(store, item, open=extra["open"])
        assert [artifact.path for artifact in get(store, written.ref).artifacts] == [
            "a"
        ]
    losses = [one for one in written.findings if isinstance(one, Loss)]
    assert [loss.carried for loss in losses] == [False, False]
    assert "a#b" in losses[0].what
    assert "a%41" in losses[1].what


def test_an_artifact_that_changed_fails_its_run_alone(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        bad = replace(run(at), artifacts=(Artifact("x", 9),))
        good = run(at, "b" * 32)
        answers = store.write(
            [deliver(bad, open=lambda ref, path: io.BytesIO(b"short")), deliver(good)]
        )
    assert isinstance(answers[0], Failed)
    assert "changed" in answers[0].why
    assert isinstance(answers[1], Written)


def test_a_version_that_breaks_the_server_costs_no_other(server: str) -> None:
    """As one whose source is a logged model breaks those before MLflow 3."""
    with faults.fault_proxy(server) as proxy, sink(proxy.url) as store:
        proxy.plan = faults.on(
            "POST", "model-versions/create", faults.refuse(500), times=6
        )
        versions = (
            ModelVersion(1, "churn/1@5", source="models:/m-1"),
            ModelVersion(2, "churn/2@6", source="s3://b/m"),
        )
        written = put(store, model(versions))
        assert [one.version for one in get(store, written.ref).versions] == [2]
    [problem] = [one for one in written.findings if isinstance(one, Problem)]
    assert "version 1 was refused" in problem.what


# -- failing networks -------------------------------------------------------------

LOST = [faults.drop(), faults.lie(502), faults.truncate()]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.kind.name)
def test_a_lost_answer_makes_nothing_twice(server: str, fault: faults.Fault) -> None:
    with faults.fault_proxy(server) as proxy, sink(proxy.url) as store:
        proxy.plan = faults.any_of(
            faults.on("POST", "experiments/create", fault),
            faults.on("POST", "runs/create", fault),
            faults.on("POST", "registered-models/create", fault),
            faults.on("POST", "model-versions/create", fault),
        )
        at = put(store, experiment()).ref
        written = put(store, item := run(at))
        one = ModelVersion(1, "churn/1@5", source="s3://b/m", run=written.ref)
        named = put(store, model((one,)))
        assert sum(proxy.faults.values()) == 4
        assert digest(get(store, written.ref)) == digest(item)
        assert [one.version for one in get(store, named.ref).versions] == [1]
    assert len(runs_at(server)) == 1


def test_the_run_stays_when_two_make_it_at_once(server: str) -> None:
    with sink(server) as store:
        at = put(store, experiment()).ref
        store.copies([Ref("run", "a" * 32)])  # what it knows is old by now
        tags = [{"key": marks.ORIGIN, "value": "a" * 32}]
        item = run(at)
        assert isinstance(item.header, Run)
        made = api(
            server,
            "runs/create",
            {
                "experiment_id": at.id,
                "tags": tags,
                # The other is at the same work: it creates what we would.
                "start_time": item.header.start_time,
                "user_id": item.header.user,
                "run_name": item.header.name,
            },
        )
        written = put(store, item)
        assert digest(get(store, written.ref)) == digest(item)
        assert [one for one in written.findings if isinstance(one, Note)]
        assert list(store.refs(Selection("run"))) == [written.ref]
    active = runs_at(server, "ACTIVE_ONLY")
    assert [one["info"]["run_id"] for one in active] == [written.ref.id]
    assert len(runs_at(server)) == 2
    assert written.ref.id == min(one["info"]["run_id"] for one in runs_at(server)), made


def test_every_fault_is_survived(server: str) -> None:
    plan = faults.every(
        4,
        faults.drop(),
        faults.reset(),
        faults.lie(503),
        faults.truncate(),
        faults.refuse(429, retry_after=0.1),
        faults.refuse(500),
    )
    extra = files({"a/b": b"x" * 200_000})
    with faults.fault_proxy(server, plan) as proxy, sink(proxy.url) as store:
        at = put(store, experiment(lifecycle="deleted")).ref
        items = [
            replace(run(at, f"{n:032x}"), artifacts=extra["artifacts"])
            for n in range(4)
        ]
        refs = [put(store, item, open=extra["open"]).ref for item in items]
        list(store.finish())
        back = list(store.read(refs))
        assert [digest(one) for one in back if isinstance(one, Item)] == [
            digest(item) for item in items
        ]
        with store.open(refs[0], "a/b") as stream:
            assert stream.read() == b"x" * 200_000
    assert len(runs_at(server)) == len(items)


def test_clear_errors(server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        open_source("http://me:secret@127.0.0.1:9", {})
    assert "secret" not in str(caught.value)
    plain = faults.fault_proxy(server)
    with plain as proxy:
        proxy.plan = faults.first(99, faults.refuse(401))
        with pytest.raises(StoreError, match="MLFLOW_TRACKING_TOKEN"):
            open_source(proxy.url, {})
        proxy.plan = faults.first(99, faults.refuse(403))
        with pytest.raises(StoreError, match="permission denied"):
            open_source(proxy.url, {})
        proxy.plan = faults.first(999, faults.refuse(502))
        with pytest.raises(StoreError, match="502"):
            open_source(proxy.url, {"retries": 1})
    with pytest.raises(StoreError, match="MLflow"):
        open_source(f"{server}/no/such/place", {})


def test_credentials(
    start_server: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from support import servers

    if not servers.has_auth():
        pytest.skip("mlflow[auth] is not installed")
    url = start_server(auth=True)
    with pytest.raises(StoreError, match="login"):
        open_source(url, {})
    host = url.removeprefix("http://")
    login = f"{servers.ADMIN_USER}:{servers.ADMIN_PASSWORD}"
    with sink(f"http://{login}@{host}") as store:
        assert store.location == url
        put(store, experiment())
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", servers.ADMIN_USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", servers.ADMIN_PASSWORD)
    with sink(url) as store:
        assert len(list(store.refs(Selection("experiment")))) == 2
