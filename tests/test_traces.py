"""Traces that MLflow wrote: read as they are, and shown by MLflow after a copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support import servers, traced
from support.corpus import corpus_stores
from support.fixture_stores import FIXTURES
from support.reading import held_at
from support.traced import shown

import mlmigrate
from mlmigrate.archived_spans import spans_of
from mlmigrate.digest import digest
from mlmigrate.errors import UsageError
from mlmigrate.filters import Filters, parse_kinds
from mlmigrate.locations import resolve
from mlmigrate.mlflow_traces import spans_in
from mlmigrate.model import Item, Problem, Ref, Trace
from mlmigrate.pipeline import Options
from mlmigrate.protobuf import bytes_field, text_field, whole_field
from mlmigrate.report import Report
from mlmigrate.span_content import span_id
from mlmigrate.stores.mlflow_server.otlp import request
from mlmigrate.testing.suite import MemorySources, with_traces


@pytest.fixture(autouse=True)
def _allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file store with traces, written by MLflow."""
    folder = tmp_path_factory.mktemp("files") / "mlruns"
    traced.write(str(folder))
    return folder


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite database with traces, written by MLflow."""
    location = f"sqlite:///{tmp_path_factory.mktemp('db') / 'mlflow.db'}"
    traced.write(location)
    return location


def copied(source: str, sink: str) -> Report:
    report = mlmigrate.copy([source], sink)
    assert not report.failed
    compared = mlmigrate.verify([source], sink)
    assert (compared.different, compared.missing) == ([], [])
    return report


def fresh(tmp_path: Path, name: str = "sink.db") -> str:
    return servers.fresh_database(tmp_path / name)


def traces(location: str) -> dict[str, Item]:
    return held_at(location, "trace")


class TestByMlflow:
    """What MLflow wrote, and what it shows of the copy."""

    def test_from_files(self, files: Path, tmp_path: Path) -> None:
        """A file store's traces are shown the same from SQLite."""
        sink = fresh(tmp_path)
        report = copied(str(files), sink)

        assert (report.copied["trace"], list(report.problems)) == (2, [])
        assert shown(str(files)) == shown(sink)
        assert mlmigrate.copy([str(files)], sink).skipped["trace"] == 2

    def test_from_a_database(self, database: str, tmp_path: Path) -> None:
        """So are a database's, and each row is as MLflow wrote it."""
        sink = fresh(tmp_path)
        copied(database, sink)

        assert shown(database) == shown(sink)
        for table, key in _TABLES.items():
            assert rows(database, table, key) == rows(sink, table, key), table

    def test_tokens_and_costs_of_files(
        self, files: Path, database: str, tmp_path: Path
    ) -> None:
        """The columns are those that MLflow fills when the same spans arrive."""
        sink = fresh(tmp_path)
        copied(str(files), sink)
        names = "name, type, status, model_name, model_provider"
        sums = "input_tokens, output_tokens, total_tokens, session_id, trace_name"

        def values(location: str, columns: str, table: str) -> list[Any]:
            return sorted(query(location, f"select {columns} from {table}"), key=repr)

        for columns, table in ((names, "spans"), (sums, "trace_info")):
            found = values(sink, columns, table)
            assert found == values(database, columns, table)
        assert ("llm", "LLM", "OK", "gpt-4o", "openai") in values(sink, names, "spans")

    def test_through_an_archive(self, database: str, tmp_path: Path) -> None:
        """Database, archive, database: nothing changes on the way."""
        archive, sink = f"archive:{tmp_path / 'a'}", fresh(tmp_path)
        copied(database, archive)
        copied(archive, sink)

        assert shown(database) == shown(sink)
        ours = {id: digest(item) for id, item in traces(database).items()}
        assert ours == {id: digest(item) for id, item in traces(sink).items()}

    def test_what_is_new_comes_later(self, database: str, tmp_path: Path) -> None:
        """Assessments and tags that are new come over; edits at the sink stay."""
        source = f"sqlite:///{tmp_path / 'own.db'}"
        shutil.copy(database.removeprefix("sqlite:///"), tmp_path / "own.db")
        sink = fresh(tmp_path)
        copied(source, sink)
        (id,) = [id for id, each in shown(source).items() if each["assessments"]]
        there = MlflowClient(tracking_uri=sink)
        there.set_trace_tag(id, "team", "edited there")
        here = MlflowClient(tracking_uri=source)
        here.set_trace_tag(id, "new", "yes")
        here.set_trace_tag(id, "team", "edited here")
        feedback = next(iter(here.get_trace(id).info.assessments))
        feedback.assessment_id, feedback.name = None, "late"
        here._tracking_client.store.create_assessment(feedback)
        report = mlmigrate.copy([source], sink)
        found = shown(sink)[id]

        assert report.updated["trace"] == 1
        assert found["tags"]["new"] == "yes"
        assert found["tags"]["team"] == "edited there"
        names = {each["assessment_name"] for each in found["assessments"].values()}
        assert "late" in names
        assert found["assessments"] == shown(source)[id]["assessments"]
        assert not mlmigrate.copy([source], sink).updated

    def test_kinds_of_fixtures(self, tmp_path: Path) -> None:
        """Traces of MLflow 3.1's files and of 3.17's database."""
        sources = {
            "laptop-3.1": str(FIXTURES / "laptop-3.1" / "mlruns"),
            "server-3.17": str(FIXTURES / "server-3.17" / "mlflow.db"),
        }
        for name, source in sources.items():
            sink = fresh(tmp_path, f"{name}.db")
            assert copied(source, sink).copied["trace"] == 2
            found = shown(sink)
            assert {each["state"] for each in found.values()} == {
                "OK",
                "ERROR",
            }
            assert all(len(each["spans"]) == 2 for each in found.values())
            inspected = mlmigrate.inspect(source)
            assert inspected["traces"] == 2


#: Tables, and what orders their rows.
_TABLES = {
    "trace_info": "request_id",
    "trace_request_metadata": "request_id, key",
    "assessments": "assessment_id",
    "spans": "span_id",
    "entity_associations": "destination_id",
}
#: What each store counts, or gives ids to, for itself.
_OF_STORES = {"db_payload_generation", "association_id", "experiment_id"}


def query(location: str, sql: str) -> list[Any]:
    path = location.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def rows(location: str, table: str, order: str) -> list[dict[str, Any]]:
    path = location.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(f"select * from {table} order by {order}")
        return [
            {key: row[key] for key in row.keys() if key not in _OF_STORES}  # noqa: SIM118
            for row in found
        ]


def set_(text: str) -> Callable[[Path], Any]:
    """Return what replaces a file's text."""
    return lambda path: path.write_text(text)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


class TestDamage:
    """What is damaged costs itself alone, and is told."""

    @pytest.fixture
    def store(self, files: Path, tmp_path: Path) -> Path:
        shutil.copytree(files, tmp_path / "mlruns")
        for path in (tmp_path / "mlruns").glob("*/traces/*/tags/mlflow.artifactLoc*"):
            path.write_text(f"file:///gone/{path.parent.parent.name}/artifacts")
        return tmp_path / "mlruns"

    @pytest.mark.parametrize(
        ("pattern", "damage", "said"),
        [
            ("artifacts/traces.json", lambda p: p.write_text("{"), "no spans"),
            ("artifacts/traces.json", Path.unlink, "its spans are gone"),
            ("trace_info.yaml", Path.unlink, "trace_info.yaml is missing"),
            ("trace_info.yaml", lambda p: p.write_text("a: ["), "is not valid YAML"),
            ("assessments/*.yaml", lambda p: p.write_text("x: 1"), "is no assessment"),
            ("tags/team", lambda p: p.write_bytes(b"\xff"), "is not UTF-8"),
            ("trace_info.yaml", set_("execution_duration: 1.2.3s"), "is no time"),
            (
                "trace_info.yaml",
                set_(f"execution_duration: {'9' * 400}s"),
                "is no time",
            ),
            (
                "assessments/*.yaml",
                set_(
                    "assessment_name: a\nexpectation:\n  serialized_value:\n"
                    f"    value: '{'[' * 100_000}'"
                ),
                "is no assessment",
            ),
            (
                "artifacts/traces.json",
                lambda p: p.write_text(
                    re.sub(r'(end_time[^:]*": ?)"?\d+"?', r"\g<1>1e999", p.read_text())
                ),
                "no spans",
            ),
            ("trace_info.yaml", pipe, "is no regular file"),
            ("assessments/*.yaml", pipe, "is no regular file"),
            ("tags/mlflow.artifactLocation", pipe, "is no regular file"),
            ("../stray", lambda p: None, ""),
        ],
    )
    def test_damaged(
        self, store: Path, pattern: str, damage: Callable[[Path], Any], said: str
    ) -> None:
        """Both traces are read, and each file that cannot be is a problem."""
        hit = [
            path
            for folder in store.glob("*/traces/tr-*")
            for path in folder.glob(pattern)
        ]
        for path in hit:
            damage(path)
        found = traces(str(store))
        told = [
            finding.what
            for item in found.values()
            for finding in item.findings
            if isinstance(finding, Problem)
        ]

        assert len(found) == 2
        assert len([what for what in told if said in what]) == len(hit)

    def test_a_damaged_file_of_spans_is_copied(
        self, store: Path, tmp_path: Path
    ) -> None:
        """What cannot be read as spans arrives as the file that it was."""
        for path in store.glob("*/traces/*/artifacts/traces.json"):
            path.write_text('{"spans": [{"odd": 1}]}')
        sink = fresh(tmp_path)
        mlmigrate.copy([str(store)], sink)
        for id, item in traces(sink).items():
            opened = resolve(sink).source()
            with opened.open(Ref("trace", id), "traces.json") as file:
                assert json.load(file) == {"spans": [{"odd": 1}]}
            opened.close()
            assert item.spans == ()

    @pytest.mark.parametrize(
        ("table", "column"),
        [
            ("spans", "start_time_unix_nano"),
            ("spans", "end_time_unix_nano"),
            ("trace_info", "input_tokens"),
            ("trace_info", "timestamp_ms"),
            ("entity_associations", "created_time"),
            ("assessments", "created_timestamp"),
        ],
    )
    @pytest.mark.parametrize("value", ["no time", b"\xff", "9" * 400])
    def test_odd_values_in_a_database(
        self, database: str, tmp_path: Path, table: str, column: str, value: str | bytes
    ) -> None:
        """SQLite holds anything in any column: each trace is read and copied."""
        path = tmp_path / "odd.db"
        shutil.copy(database.removeprefix("sqlite:///"), path)
        with closing(sqlite3.connect(path)) as base:
            base.execute(f"update {table} set {column} = ?", (value,))
            base.commit()
        sink = fresh(tmp_path)
        report = mlmigrate.copy([f"sqlite:///{path}"], sink)

        assert (report.failed, report.copied["trace"]) == ([], 2)
        assert traces(sink).keys() == traces(database).keys()

    def test_a_trace_that_stands_twice(self, store: Path) -> None:
        """The second gets another id, and is told."""
        first = next(iter(store.glob("*/traces/tr-*")))
        other = store / "0" / "traces" / first.name
        shutil.copytree(first, other)
        found = traces(str(store))

        assert len(found) == 3
        assert any(
            "stands twice" in getattr(finding, "what", "")
            for finding in found[f"{first.name}~2"].findings
        )


def test_spans_of_every_form() -> None:
    """Ids in hex or base 64, times as text, and MLflow 2's own form."""
    new = {
        "span_id": "AAAAAAAAAKE=",
        "parent_span_id": "",
        "name": "a",
        "start_time_unix_nano": "5",
        "end_time_unix_nano": None,
        "status": {"code": "STATUS_CODE_UNSET"},
        "attributes": {"mlflow.spanType": '"TOOL"'},
    }
    old = {
        "context": {"span_id": "0xb2", "trace_id": "0x1"},
        "parent_id": "0xa1",
        "name": "b",
        "start_time": 6,
        "end_time": 7,
        "status_code": "OK",
        "status_message": "",
        "attributes": {},
        "events": [],
    }
    spans, more = spans_in(json.dumps({"spans": [new, old], "request": "x"}).encode())
    one, other = spans

    assert more is None
    assert (one.id, one.parent, one.type) == ("00000000000000a1", None, "TOOL")
    assert (one.status, one.start_time, one.end_time) == ("UNSET", 5, None)
    assert (other.id, other.parent) == ("00000000000000b2", one.id)
    assert json.loads(other.content) == old
    assert spans_in(b'{"spans": [], "x": 1}') == ([], "says x beside its spans")
    with pytest.raises(ValueError, match="no span's id"):
        span_id("AAAA")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (0, None),  # as before 3.18
        (1, "SPAN_KIND_INTERNAL"),
        (3, "SPAN_KIND_CLIENT"),
        (9, "SPAN_KIND_INTERNAL"),  # MLflow, too, knows no other kinds
        (-1, "SPAN_KIND_INTERNAL"),
    ],
)
def test_kinds_of_spans_that_mlflow_has_put_away(kind: int, told: str | None) -> None:
    said = bytes_field(1, bytes(16)) + bytes_field(2, bytes(8)) + text_field(5, "a")
    (found,) = spans_of(request([said + whole_field(6, kind)]))
    assert json.loads(found.content).get("kind") == told


@pytest.mark.parametrize("damage", ["none", "gone", "cut", "other", "swapped"])
def test_spans_that_mlflow_has_put_away(
    damage: str, database: str, tmp_path: Path
) -> None:
    """They are in the copy's own place again, as they were; or the copy says where."""
    source = tmp_path / "source.db"
    shutil.copy(database.removeprefix("sqlite:///"), source)
    before = rows(database, "spans", "span_id")
    traced.put_away(f"sqlite:///{source}", tmp_path / "away")
    files = sorted((tmp_path / "away").rglob("traces.pb"))
    assert files
    assert "" in {row["content"] for row in rows(str(source), "spans", "span_id")}
    if damage == "swapped":
        one, other, *_ = files
        whole = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(whole)
        files = [one, other]
    for path in files:
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage in ("cut", "other"):
            path.write_bytes(data[:-9] if damage == "cut" else b"no spans \xff")
    sink = fresh(tmp_path)
    report = copied(str(source), sink)

    assert report.failed == []
    if damage == "none":
        assert list(report.problems) == []
        assert rows(sink, "spans", "span_id") == before
        assert shown(sink) == shown(database)
    else:
        assert len(report.problems) == len(files)
        assert all("MLflow has put away" in each.what for each in report.problems)


def test_kinds(sources: MemorySources, tmp_path: Path) -> None:
    """Only the kinds that are asked for come over, with their experiments."""
    items, data = with_traces()
    source, sink = sources(*items, files=data), fresh(tmp_path)
    only = Options(filters=Filters(kinds=parse_kinds("traces")))
    planned = mlmigrate.plan([source], sink, only)
    report = mlmigrate.copy([source], sink, only)

    assert report.copied == planned.copied == {"experiment": 1, "trace": 3}
    verified = mlmigrate.verify([source], sink, only)
    assert verified.same == {"experiment": 1, "trace": 3}
    assert not verified.extra
    rest = Options(filters=Filters(kinds=parse_kinds("run, logged-model")))
    assert mlmigrate.copy([source], sink, rest).copied == {"run": 2}
    counts = mlmigrate.inspect(sink, kinds=("run",))
    assert (counts["runs"]["active"], counts["traces"]) == (2, 0)
    assert mlmigrate.inspect(sink)["traces"] == 3
    with pytest.raises(UsageError, match="'tracks' is no kind"):
        parse_kinds("run,tracks")


def test_databases_without_a_table_of_spans(database: str, tmp_path: Path) -> None:
    """Before MLflow 3.5 spans were in files, and before 3.2 nothing was assessed."""
    path = tmp_path / "mlflow.db"
    shutil.copy(database.removeprefix("sqlite:///"), path)
    new = traces(f"sqlite:///{path}")
    old = ("request_id", "experiment_id", "timestamp_ms", "execution_time_ms", "status")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"""
            pragma foreign_keys=off;
            create table old as select {", ".join(old)} from trace_info;
            delete from trace_tags where key = 'mlflow.trace.spansLocation';
            update trace_tags set value = '/gone/' || request_id || '/artifacts'
                where key = 'mlflow.artifactLocation';
            drop table spans; drop table assessments; drop table trace_info;
            drop table entity_associations; drop table span_metrics;
            drop table trace_metrics;
            alter table old rename to trace_info;
        """)
    for id, item in new.items():
        assert isinstance(item.header, Trace)
        home = item.header.experiment.id
        folder = tmp_path / "mlruns" / home / "traces" / id / "artifacts"
        folder.mkdir(parents=True)
        text = ", ".join(span.content for span in item.spans)
        (folder / "traces.json").write_text(f'{{"spans": [{text}]}}')
    sink = fresh(tmp_path)
    copied(str(path), sink)
    back = traces(sink)

    for id, item in new.items():
        assert set(back[id].spans) == set(item.spans)
        assert back[id].artifacts == ()
        assert len(shown(sink)[id]["spans"]) == len(item.spans)
    for id in new:
        (tmp_path / "mlruns").rename(tmp_path / "away")
        found = traces(str(path))[id].findings
        assert any("its spans are gone" in getattr(each, "what", "") for each in found)
        (tmp_path / "away").rename(tmp_path / "mlruns")


def test_traces_in_the_wild(tmp_path: Path) -> None:
    """Stores of others: each trace arrives, and MLflow shows it with its spans."""
    stores = corpus_stores("filestore") + corpus_stores("sqlite")
    some = [store for store in stores if any(store.path.glob("*/traces/*"))]
    if not some:
        pytest.skip("no store with traces is there")
    for number, store in enumerate(some):
        sink = fresh(tmp_path, f"{number}.db")
        report = copied(str(store.path), sink)
        found = shown(sink)
        assert len(found) == report.copied["trace"] > 0
        assert all(each["spans"] for each in found.values())


def test_runs_of_other_ids(sources: MemorySources, tmp_path: Path) -> None:
    """Where a run has another id at the sink, its traces lead there."""
    items, data = with_traces()
    sink = fresh(tmp_path)
    mlmigrate.copy([sources(*items[:3])], sink)
    path = sink.removeprefix("sqlite:///")
    run, minted = items[1].ref.id, "f" * 32
    with closing(sqlite3.connect(path)) as connection:
        for table in ("runs", "tags"):
            sql = f"update {table} set run_uuid = ? where run_uuid = ?"
            connection.execute(sql, (minted, run))
        connection.commit()
    mlmigrate.copy([sources(*items, files=data)], sink)
    header = traces(sink)[items[3].ref.id].header

    assert isinstance(header, Trace)
    assert header.source_run == Ref("run", minted)
