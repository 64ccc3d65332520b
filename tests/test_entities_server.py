"""Entities into an MLflow server, which gives them ids and times of its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.utils import semver_utils
from support import faults, kept, servers
from support.copies import copied, differences
from support.killing import as_new, killed_at_every_call
from support.loopback import LoopbackHandler, LoopbackServer
from support.reading import held_at

import mlmigrate
from mlmigrate import entities
from mlmigrate.entities import ENTITIES
from mlmigrate.filters import Filters, parse_kinds
from mlmigrate.model import Failed, Item, Kind, Note
from mlmigrate.pipeline import Options
from mlmigrate.stores.mlflow_server.mcp_servers import order_of
from mlmigrate.testing.entities import said
from mlmigrate.testing.entity_items import (
    dataset,
    issue,
    label_schema,
    mcp_endpoint,
    mcp_server,
    mcp_version,
    record,
    review_queue,
    scorer,
)
from mlmigrate.testing.items import experiment, run
from mlmigrate.testing.suite import MemorySources
from mlmigrate.testing.trace_items import assessment, trace

#: What a server gives entities itself.
OWN = (
    *("dataset_id", "scorer_id", "schema_id", "queue_id", "issue_id", "webhook_id"),
    *("dataset_record_id", "schema_ids", "source_run_id", "source", "digest"),
    *("created_by", "created_time", "last_update_time", "creation_time", "workspace"),
    *("created_at", "updated_at", "creation_time_ms", "last_update_time_ms"),
    *("created_timestamp", "last_updated_timestamp", "last_seen_timestamp"),
    *("creation_timestamp", "last_updated_timestamp", "id", "last_updated_by"),
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with an entity of each kind, written by MLflow."""
    path = tmp_path_factory.mktemp("kept") / "mlflow.db"
    kept.make(f"sqlite:///{path}")
    return str(path)


def rows(path: Path) -> list[str]:
    """Return all that a SQLite database holds."""
    with closing(sqlite3.connect(path)) as held:
        return list(held.iterdump())


def test_into_a_server_and_out_again(
    database: str, server: str, tmp_path: Path
) -> None:
    """MLflow shows the same, but for what a server gives itself."""
    only = Options(filters=Filters(kinds=(*parse_kinds("run,trace"), *ENTITIES)))
    planned = mlmigrate.plan([database], server, only)
    report = mlmigrate.copy([database], server, only)
    found = mlmigrate.verify([database], server, only)
    again = mlmigrate.copy([database], server, only)
    back = tmp_path / "back.db"
    mlmigrate.copy([server], str(back))

    assert report.failed == []
    assert (found.different, found.missing) == ([], [])
    assert planned.losses == report.losses == again.losses
    assert not again.copied | again.updated
    one, other = (_plain(kept.shown(f"sqlite:///{path}")) for path in (database, back))
    one["webhooks"][0] |= {"secret": None, "status": "DISABLED"}
    for kind, told in one.items():
        assert told, kind
        assert told == other[kind], kind


def _plain(told: Any) -> Any:
    """Leave out what a server gives, and the order that comes of it."""
    if isinstance(told, dict):
        told = {key: _plain(each) for key, each in told.items() if key not in OWN}
        # A server says that there are none of what nobody spoke of.
        return {**told, "tools": told["tools"] or []} if "tools" in told else told
    if isinstance(told, list):
        return sorted(map(_plain, told), key=str)
    return told


def test_a_source_gets_nothing(
    reusable_server: servers.ReusableServer,
    sources: MemorySources,
    tmp_path: Path,
) -> None:
    """To list label schemas would make a default one."""
    reusable_server.reset()
    copied(sources(experiment(), run(), dataset()), reusable_server.url)
    before = rows(reusable_server.folder / "mlflow.db")
    report = mlmigrate.copy([reusable_server.url], str(tmp_path / "sink.db"))

    assert report.copied["evaluation_dataset"] == 1
    assert rows(reusable_server.folder / "mlflow.db") == before
    assert not report.problems
    told = [each["what"] for each in report.data()["notes"]]
    assert sum("label_schemas(" in what for what in told) == 1


def asked(server: str, path: str, **body: Any) -> Any:
    """Return the answer of a server to a POST, or to a GET if there is no *body*."""
    url = f"{server}/api/3.0/mlflow/{path}"
    method = "POST" if body else "GET"
    answer = requests.request(method, url, json=body or None, timeout=60)
    answer.raise_for_status()
    return answer.json()


def make_schema(server: str, name: str) -> str:
    """Make a label schema in the experiment 1, as MLflow's client does: its id."""
    more = {"experiment_id": "1", "type": "FEEDBACK", "input": {"text": {}}}
    made = asked(server, "label-schemas/create", name=name, **more)
    return str(made["label_schema"]["schema_id"])


def test_label_schemas_that_nobody_has_listed(
    reusable_server: servers.ReusableServer, sources: MemorySources, tmp_path: Path
) -> None:
    """Those that something names are copied, and the others are a problem."""
    reusable_server.reset()
    url, sink = reusable_server.url, str(tmp_path / "sink.db")
    judged = trace("tr-1", assessments=(assessment(name="correct"),))
    copied(sources(experiment(), judged), url)
    waiting = [make_schema(url, name) for name in ("tone", "speed")]
    for name in ("correct", "unnamed"):
        make_schema(url, name)
    queue = {"queue_type": "CUSTOM", "schema_ids": waiting}
    asked(url, "review-queues/create", experiment_id="1", name="Look", **queue)

    before = rows(reusable_server.folder / "mlflow.db")
    report = mlmigrate.copy([url], sink)
    assert rows(reusable_server.folder / "mlflow.db") == before
    assert report.copied["label_schema"] == 3
    (told,) = report.data()["problems"]
    assert told["where"] == f"{url}: experiment 1"
    assert "list_label_schemas(experiment_id='1')" in told["what"]
    (held,) = held_at(sink, "review_queue").values()
    assert len(said(held)["review_queue_label_schemas"]) == 2

    asked(url, "label-schemas/list?experiment_id=1")
    report = mlmigrate.copy([url], sink)
    assert (report.copied["label_schema"], report.skipped["label_schema"]) == (2, 3)
    assert not report.problems


def test_label_schemas_of_a_copy_are_listed(
    server: str, sources: MemorySources, tmp_path: Path
) -> None:
    """They can be copied from there, though nobody has looked at them."""
    origin = sources(experiment(), label_schema())
    copied(origin, server)
    report = mlmigrate.copy([server], str(tmp_path / "sink.db"))

    assert report.copied["label_schema"] == 2  # and MLflow's own
    assert not report.problems


def at(server: str, kind: Kind) -> list[Item]:
    """Return the entities of a kind that a server holds."""
    return list(held_at(server, kind).values())


def test_what_grew(server: str, sources: MemorySources) -> None:
    """A later copy adds what is new, and writes over what was changed since."""
    later = 4_000_000_000_000  # than the server's own clock
    origin = sources(
        experiment(),
        trace("tr-1"),
        trace("tr-2"),
        dataset(records=[record(1)]),
        scorer("s-1", '{"a": 1}'),
        label_schema(),
        review_queue(),
        issue(run=None),
    )
    copied(origin, server)
    sources.put(
        origin,
        dataset(
            records=[record(1, later, outputs='{"mlflow_wrapped": 5}'), record(2)],
            tags=[("team", "nlp"), ("more", "yes")],
            homes=("1",),
        ),
        scorer("s-1", '{"a": 1}', '{"a": 2}'),
        label_schema(instruction="Well?", last_update_time=later),
        review_queue(status="complete", updated=later),
    )
    result = copied(origin, server)

    for kind in ("evaluation_dataset", "scorer", "label_schema", "review_queue"):
        assert result.counts(kind) == {"updated": 1}, result.of(Failed)
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}
    (held,) = at(server, "evaluation_dataset")
    assert len(said(held)["evaluation_dataset_records"]) == 2
    (queue,) = at(server, "review_queue")
    assert said(queue)["review_queue_items"][0]["status"] == "complete"


def test_records_with_numbers_that_are_none(
    server: str, sources: MemorySources, tmp_path: Path
) -> None:
    """NaN and the infinities come through messages that are JSON themselves."""
    odd = '{"a": [NaN, -Infinity], "b": Infinity}'
    origin = sources(experiment(), dataset(records=[record(1, expectations=odd)]))
    copied(origin, server)
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}
    back = tmp_path / "back.db"
    assert mlmigrate.copy([server], str(back)).failed == []
    (held,) = held_at(f"sqlite:///{back}", "evaluation_dataset").values()
    (told,) = said(held)["evaluation_dataset_records"]
    assert repr(json.loads(told["expectations"])) == repr(json.loads(odd))


def test_limits_of_numbers(server: str, sources: MemorySources) -> None:
    """A server writes 5 as 5.0, which is no other limit; 6 is one."""
    later = 4_000_000_000_000  # than the server's own clock
    limits = '{"min_value": 0, "max_value": 5}'
    schema = label_schema(input_type="numeric", input_config=limits)
    origin = sources(experiment(), schema)
    copied(origin, server)
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}

    more = {"input_config": limits.replace("5", "6"), "last_update_time": later}
    sources.put(origin, label_schema(input_type="numeric", **more))
    assert len(differences(origin, server)) == 1
    assert copied(origin, server).counts("label_schema") == {"updated": 1}
    assert differences(origin, server) == []


def test_numbers_of_scorers_are_the_servers(
    server: str, sources: MemorySources
) -> None:
    """Versions come in their order; another number is told."""
    one = sources(experiment(), scorer("s-1", '{"a": 1}', '{"a": 2}'))
    other = sources(experiment(), scorer("s-2", '{"b": 1}'))
    copied(one, server)
    result = copied(other, server)
    notes = [each.what for each in result.findings() if isinstance(each, Note)]

    assert "scorer_version 1 is scorer_version 3 at the sink" in notes
    assert differences(one, server) == differences(other, server) == []
    (held,) = at(server, "scorer")
    texts = [row["serialized_scorer"] for row in said(held)["scorer_versions"]]
    assert texts == ['{"a": 1}', '{"a": 2}', '{"b": 1}']


def test_a_scorer_that_goes_back(server: str, sources: MemorySources) -> None:
    """An earlier text that becomes the latest again is a version of its own."""
    origin = sources(experiment(), scorer("s-1", '{"a": 1}', '{"b": 2}'))
    copied(origin, server)
    sources.put(origin, scorer("s-1", '{"a": 1}', '{"b": 2}', '{"a": 1}'))
    result = copied(origin, server)

    assert result.counts("scorer") == {"updated": 1}
    assert differences(origin, server) == []
    (held,) = at(server, "scorer")
    texts = [row["serialized_scorer"] for row in said(held)["scorer_versions"]]
    assert texts == ['{"a": 1}', '{"b": 2}', '{"a": 1}']


def test_of_deleted_experiments(
    server: str, sources: MemorySources, tmp_path: Path
) -> None:
    """A server shows nobody what they have: that is noted once, and no problem."""
    deleted = experiment(id="2", name="gone", lifecycle="deleted")
    origin = sources(experiment(), deleted, scorer(), issue())
    copied(origin, server)
    sink = str(tmp_path / "sink.db")
    for outcome in ("copied", "skipped"):
        report = mlmigrate.copy([server], sink)
        counts = getattr(report, outcome)
        assert (counts["scorer"], counts["issue"]) == (1, 1)
        assert not report.problems
        assert str(report.data()["notes"]).count("deleted experiments") == 1
    for ends in ((server, sink), (origin, server)):
        found = mlmigrate.verify(ends[:1], ends[1])
        assert not (*found.different, *found.missing, *found.problems)


@pytest.fixture
def before_ids(server: str) -> Iterator[str]:
    """A server that tells of scorers what MLflow 3.5 does: of no id."""

    class Handler(LoopbackHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = {"Content-Type": "application/json"}
            url = server + self.path
            told = requests.request(
                self.command, url, data=body, headers=kind, timeout=60
            )
            page, status = told.content, told.status_code
            if "/scorers/" in self.path and status == 200:
                page = json.dumps(self._old(told.json())).encode()
            if "/scorers/online-configs" in self.path:
                page, status = b"<h1>Not Found</h1>", 404
            self.send_page(status, page, told.headers.get("Content-Type", ""))

        def _old(self, said: Any) -> Any:
            if "version" in said:
                return {"version": said["version"]}
            for each in said.get("scorers", ()):
                del each["scorer_id"]
            return said

    proxy = LoopbackServer(0, Handler)
    proxy.start()
    yield proxy.url
    proxy.stop()


def test_scorers_that_have_no_id(
    before_ids: str, sources: MemorySources, tmp_path: Path
) -> None:
    """Their experiment and their name tell them apart."""
    origin = sources(experiment(), scorer("s-1"), scorer("s-2", name="tone"))
    assert copied(origin, before_ids).counts("scorer") == {"copied": 2}
    assert differences(origin, before_ids) == []
    assert copied(origin, before_ids).counts("scorer") == {"skipped": 2}

    sink = str(tmp_path / "sink.db")
    for outcome in ("copied", "skipped"):
        report = mlmigrate.copy([before_ids], sink)
        assert getattr(report, outcome)["scorer"] == 2
        assert not report.problems
    found = mlmigrate.verify([before_ids], sink)
    assert not (*found.different, *found.missing, *found.problems)
    assert len(held_at(sink, "scorer")) == 2


def test_a_plan_makes_no_label_schema(
    reusable_server: servers.ReusableServer, sources: MemorySources
) -> None:
    """Nor does a comparison: to list those of a server may make one."""
    reusable_server.reset()
    url, origin = reusable_server.url, sources(experiment(), label_schema())
    copied(sources(experiment()), url)
    before = rows(reusable_server.folder / "mlflow.db")
    planned = mlmigrate.plan([origin], url)
    found = mlmigrate.verify([origin], url)

    assert planned.copied["label_schema"] == 1
    assert [ref.kind for ref in found.missing] == ["label_schema"]
    assert rows(reusable_server.folder / "mlflow.db") == before
    assert copied(origin, url).counts("label_schema") == {"copied": 1}
    assert differences(origin, url) == []
    assert mlmigrate.plan([origin], url).skipped["label_schema"] == 1


def test_a_trace_that_is_not_there(server: str, sources: MemorySources) -> None:
    """A queue is copied without it, and that is told."""
    origin = sources(experiment(), label_schema(), review_queue())
    result = copied(origin, server)
    lost = [each.what for each in result.losses() if "trace" in each.what]

    assert result.counts("review_queue") == {"copied": 1}
    assert lost == ["trace tr-1 is not at the sink"]
    assert differences(origin, server) == []


def test_two_of_one_name(server: str, sources: MemorySources) -> None:
    """A server cannot hold both apart: the second fails, and says why."""
    origin = sources(experiment(), dataset("d-1"), dataset("d-2"))
    for outcome in ("copied", "skipped"):
        result = copied(origin, server)
        assert result.counts("evaluation_dataset") == {outcome: 1, "failed": 1}
        assert "another of its name" in result.of(Failed)[0].why


def everything() -> list[Item]:
    return [
        experiment(),
        trace("tr-1"),
        dataset(records=[record(1), record(2)]),
        scorer(),
        label_schema(),
        review_queue(),
        issue(run=None),
    ]


@pytest.mark.parametrize(
    "fault",
    [faults.drop(), faults.lie(502), faults.truncate()],
    ids=lambda fault: fault.kind.name,
)
def test_a_lost_answer_makes_nothing_twice(
    fault: faults.Fault, server: str, sources: MemorySources
) -> None:
    """Every answer to a create is lost once."""
    origin = sources(*everything())
    paths = (
        *("/datasets/create", "/records", "/scorers/register", "/issues"),
        *("/label-schemas/create", "/review-queues/create", "/items/add"),
    )
    with faults.fault_proxy(server) as proxy:
        proxy.plan = faults.any_of(*(faults.on("POST", path, fault) for path in paths))
        result = copied(origin, proxy.url)
        assert sum(proxy.faults.values()) == len(paths)
    assert result.of(Failed) == []
    assert differences(origin, server) == []
    for kind in ("evaluation_dataset", "scorer", "review_queue", "issue"):
        assert len(at(server, kind)) == 1, kind
    (held,) = at(server, "scorer")
    assert len(said(held)["scorer_versions"]) == 2


def test_killed_at_every_call(
    sources: MemorySources, reusable_server: servers.ReusableServer
) -> None:
    """And run again, it is as if it had not been."""
    url, origin = reusable_server.url, sources(*everything())
    for _ in killed_at_every_call(origin, as_new(reusable_server), "after", 4):
        assert differences(origin, url) == []
        assert len(at(url, "issue")) == 1


@pytest.fixture
def refusing(server: str) -> Iterator[faults.Proxy]:
    """A server that does not list scorers."""
    with faults.fault_proxy(server) as proxy:
        proxy.plan = faults.on("GET", "/scorers/list", faults.refuse(403), times=99)
        yield proxy


def test_what_cannot_be_listed(
    refusing: faults.Proxy, server: str, sources: MemorySources, tmp_path: Path
) -> None:
    """Is a problem; the rest is copied."""
    copied(sources(*everything()), server)
    report = mlmigrate.copy([refusing.url], str(tmp_path / "sink.db"))
    problems = [each for each in report.problems if "scorers" in each.what]

    assert report.copied["evaluation_dataset"] == 1
    assert "scorer" not in report.copied
    assert problems


def test_an_mcp_server_that_grew(server: str, sources: MemorySources) -> None:
    """Versions, tags, aliases and endpoints are added; a state is reached by others."""
    later = 4_000_000_000_000  # than the server's own clock
    origin = sources(experiment(), run(), mcp_server())
    copied(origin, server)
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}
    grown = mcp_server()
    extra = [
        mcp_version("1.0.0", status="deprecated", last_updated_at=later),
        mcp_version("1.1.0-rc.1", status="deprecated"),
        mcp_version("1.2.0", status="deleted"),
        entities.row("mcp_server_version_tags", {"version": "1.2.0", "key": "k"}),
        entities.row("mcp_server_tags", {"key": "more", "value": "yes"}),
        entities.row("mcp_server_aliases", {"alias": "next", "version": "1.1.0-rc.1"}),
        mcp_endpoint("e-2", server_alias="next"),
    ]
    kept_rows = [row for row in grown.rows if row.table != "mcp_server_versions"]
    sources.put(origin, replace(grown, rows=(*kept_rows, *extra)))
    result = copied(origin, server)

    assert result.of(Failed) == []
    assert result.counts("mcp_server") == {"updated": 1}
    lost = [each.what for each in result.losses() if each.ref.kind == "mcp_server"]
    gone = "mcp_server_versions 1.2.0 is deleted: the sink has no place for it"
    assert lost.count(gone) == 1
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}
    (held,) = at(server, "mcp_server")
    tables = said(held)
    states = {row["version"]: row["status"] for row in tables["mcp_server_versions"]}
    assert states == {"1.0.0": "deprecated", "1.1.0-rc.1": "deprecated"}
    aliases = {each["alias"] for each in tables["mcp_server_aliases"]}
    assert aliases == {"live", "next"}
    assert len(tables["mcp_access_endpoints"]) == 2

    changed = mcp_version("1.0.0", title="new", last_updated_at=later + 1)
    sources.put(origin, replace(grown, rows=(*kept_rows, changed)))
    result = copied(origin, server)
    notes = [each.what for each in result.findings()]
    assert "version 1.0.0: its server_json cannot be changed at a server" in notes
    assert len(differences(origin, server)) == 1


@pytest.mark.parametrize(
    "version", ["1.0.0", "0.10.2-alpha.10+b.1", "2.0.0-0.3.7", "1.0.0-x-y.A", "1.0.0+7"]
)
def test_versions_sort_as_mlflow_sorts_them(version: str) -> None:
    parsed = semver_utils.parse_semver(version)
    assert order_of(version) == {
        "version_major": parsed.major,
        "version_minor": parsed.minor,
        "version_patch": parsed.patch,
        "version_prerelease_sort_key": semver_utils.encode_prerelease_sort_key(parsed),
    }
