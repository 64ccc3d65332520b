"""Databases of Neptune's 3.x client: all that was logged arrives, forks are whole."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import neptune_clients as nc
from support import reading, tree
from support.copies import copied, differences
from support.neptune3_server import Neptune3Server
from support.reading import params, points, problems, tags

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.discover import scan
from mlmigrate.errors import LocationError
from mlmigrate.model import Failed, Item, Note, Ref, Run
from mlmigrate.stores.neptune_offline import OfflineRuns, open_source, schema
from mlmigrate.stores.neptune_offline.gathered import Gathered
from mlmigrate.stores.neptune_offline.made import Counted
from mlmigrate.stores.neptune_offline.snapshots import Scope, Snapshots

pytest.importorskip("neptune_scale")

MS = 1_704_164_640_678  # of the second that `moment` counts from


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nc.written_by(nc.CLIENT_3, tmp_path_factory.mktemp("client") / "work")


@pytest.fixture
def copy(client: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged, in which nobody writes any more."""
    place = tmp_path / "work"
    shutil.copytree(client.parent, place)
    moved = "UPDATE file_upload_requests SET source_path = replace(source_path, ?, ?)"
    for path in place.glob(".neptune/*/run_operations.sqlite3"):
        execute(path, moved, str(client.parent), str(place))
    return place / ".neptune"


def opened(root: Path, **options: Any) -> OfflineRuns:
    return open_source(f"neptune-offline:{root}", options)


def read(root: Path, id: str = "parent", **options: Any) -> Item:
    store = opened(root, **options)
    (item,) = store.read([Ref("run", f"ws/proj/{id}")])
    assert isinstance(item, Item), item
    return item


def database(root: Path, id: str = "parent") -> Path:
    (found,) = root.glob(f"ws_proj_{id}_*/run_operations.sqlite3")
    return found


def execute(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(statement, values)


def values(item: Item, key: str) -> list[tuple[int, int, str]]:
    return [(step, when, repr(value)) for step, when, value in points(item)[key]]


def contents(root: Path, id: str = "parent") -> dict[str, bytes]:
    with closing(opened(root)) as store:
        return reading.contents(store, read(root, id))


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().splitlines()]


def test_a_server_of_3x_takes_it(
    client: Path, neptune3_loopback: Neptune3Server
) -> None:
    origin, sink = f"neptune-offline:{client.parent}", "neptune3://ws/proj"
    assert [] == copied(origin, sink).of(Failed)
    assert [] == differences(origin, sink)
    again = copied(origin, sink)
    assert {"skipped"} == set(again.counts())


def test_all_that_the_client_logged_arrives(client: Path) -> None:
    item = read(client.parent)
    assert isinstance(item.header, Run)
    assert item.origin == "neptune:ws/proj/parent"
    assert item.header.experiment.id == "ws:proj"
    assert (item.header.name, item.header.status) == ("exp", "FINISHED")
    assert item.header.start_time == MS
    assert params(item) == {
        "lr": "0.1",
        "n": str(2**40),
        "flag": "False",
        "s": "x",
        "when": "2024-01-02T03:04:05.678Z",
        "l": '["a", "b"]',
    }
    told = tags(item)
    assert told["neptune.tags"] == '["t2"]'
    assert told["neptune.experiment/name"] == "exp"
    assert told["neptune.sent"] == "none"
    assert told["neptune.storage_version"] == "v5"
    assert values(item, "acc") == [
        (step, MS + 1000 * step, "nan" if step == 1 else repr(float(step)))
        for step in range(5)
    ]
    assert values(item, "large") == [(1_000_000_000, MS + 1000, "1.0")]
    assert problems(item) == []
    files = contents(client.parent)
    assert lines(files["txt.jsonl"]) == [
        {"step": 1, "timestamp": MS + 1000, "value": "hällo"},
        {"step": 4, "timestamp": MS + 4000, "value": "later"},
    ]
    assert [line["value"] for line in lines(files["h.jsonl"])] == [
        {"type": "COUNTING", "edges": [0.0, 1.0, 2.0], "values": [3, 4]},
        {"type": "DENSITY", "edges": [0.0, 1.0], "values": [0.5]},
    ]
    assert files["fa.txt"] == files["fs/3.txt"] == b"FILE"
    assert files["fb.txt"] == b"bytes"
    assert lines(files["neptune/previews.jsonl"]) == [
        {"attribute": "p", "step": 3_000_000, "timestamp": MS + 3000, "float64": 1.0,
         "is_preview": True, "completion_ratio": 0.5}
    ]  # fmt: skip


def test_values_are_those_of_neptunes_own_messages(client: Path) -> None:
    pb = pytest.importorskip("neptune_api.proto.neptune_pb.ingest.v1.common_pb2")
    expected: dict[str, list[tuple[int, int, str]]] = {}
    uri = f"file:{database(client)}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as base:
        rows = base.execute(
            "SELECT operation FROM run_operations WHERE operation_type = 0"
            " ORDER BY sequence_id"
        ).fetchall()
    for (data,) in rows:
        update = pb.UpdateRunSnapshot.FromString(data)
        seconds, nanos = update.timestamp.seconds, update.timestamp.nanos
        when = seconds * 1000 + round(nanos / 1e6)
        for key, value in update.append.items():
            if value.HasField("float64") and not update.HasField("preview"):
                point = (update.step.whole, when, repr(value.float64))
                expected.setdefault(key, []).append(point)
    item = read(client)
    assert {each.key: values(item, each.key) for each in item.metrics} == expected


def test_it_is_copied_verified_and_never_changed(client: Path, tmp_path: Path) -> None:
    before = tree.snapshot(client.parent)
    sink = f"sqlite:///{tmp_path / 'sink.db'}"
    source = f"neptune-offline:{client.parent}"
    report = mlmigrate.copy([source], sink)
    assert report.copied == {"experiment": 1, "run": 4}
    assert not report.failed
    verified = mlmigrate.verify([source], sink)
    assert verified.same == {"experiment": 1, "run": 4}
    assert not verified.different
    assert mlmigrate.copy([source], sink).skipped["run"] == 4
    assert tree.snapshot(client.parent) == before


def test_forks_are_whole(client: Path) -> None:
    child = read(client, "child")
    assert [(step, value) for step, _, value in values(child, "loss")] == [
        (0, "1.0"),
        (1, "0.5"),
        (2, repr(1 / 3)),
        (3, "7.0"),
    ]
    assert {param.key for param in child.params} == {
        "lr", "n", "flag", "s", "when", "l"
    }  # fmt: skip
    assert "large" not in {each.key for each in child.metrics}
    told = tags(child)
    assert told["neptune.forking/parent"] == "parent"
    assert told["neptune.forking/step"] == "2.0"
    assert "neptune.tags" not in told
    (line,) = lines(contents(client.parent, "child")["txt.jsonl"])
    assert line["step"] == 1
    plain = read(client, "plain")
    assert [step for step, _, _ in values(plain, "loss")] == [0, 1]
    assert plain.params == ()


def test_a_parent_that_is_not_there(client: Path) -> None:
    assert problems(read(client, "orphan")) == [
        "run nobody, which it was forked from, is not in this folder: what it has from"
        " there is not copied"
    ]


def test_runs_that_were_forked_from_each_other(copy: Path) -> None:
    pb = pytest.importorskip("neptune_api.proto.neptune_pb.ingest.v1.common_pb2")
    fork = pb.ForkPoint(parent_run_id="child", step=pb.Step(whole=1))
    data = pb.Run(fork_point=fork).SerializeToString()
    statement = "UPDATE run_operations SET operation = ? WHERE operation_type = 1"
    execute(database(copy), statement, data)
    assert values(read(copy, "child"), "loss")[-1][0] == 3


def test_what_was_sent_is_told(copy: Path) -> None:
    execute(database(copy), "DELETE FROM run_operations WHERE sequence_id <= 3")
    execute(database(copy), "DELETE FROM file_upload_requests WHERE id = 2")
    execute(
        database(copy),
        "INSERT INTO operation_errors"
        " (timestamp, error_type, error_details, error_body)"
        " VALUES (1, 'Refused', 'no such project', '80')",
    )
    item = read(copy.parent)
    told = problems(item)
    assert "3 of its operations were sent" in told[0]
    assert "1 files that it logged are not there" in told[1]
    notes = [each.what for each in item.findings if isinstance(each, Note)]
    assert notes[0] == "1 errors that its client told of: Refused: no such project"
    assert notes[1].startswith("3 of ")
    assert tags(item)["neptune.sent"] == "part"
    assert any(
        "removed: the run was forked from it" in what
        for what in problems(read(copy, "child"))
    )
    execute(database(copy), "DELETE FROM run_operations")
    sent = tags(read(copy))["neptune.sent"]
    assert sent == "all"


def test_a_run_that_was_resumed_is_one_run(copy: Path) -> None:
    second = copy / "ws_proj_parent_9999999999999999999"
    shutil.copytree(database(copy, "child").parent, second)
    execute(second / "run_operations.sqlite3", "UPDATE metadata SET run_id = 'parent'")
    statement = "DELETE FROM run_operations WHERE operation_type = 1"
    execute(second / "run_operations.sqlite3", statement)
    item = read(copy)
    assert [step for step, _, _ in values(item, "loss")] == [0, 1, 2, 3, 3, 4]
    assert isinstance(item.header, Run)
    assert item.header.start_time == MS


@pytest.fixture
def writer(copy: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who has written a point that is only in the log beside the database."""
    with closing(sqlite3.connect(database(copy))) as base:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA wal_autocheckpoint = 0")
        base.execute(
            "INSERT INTO run_operations"
            " (timestamp, operation_type, operation, operation_size_bytes)"
            " SELECT timestamp, 0, operation, 0 FROM run_operations"
            " WHERE sequence_id = 2"
        )
        base.execute("DELETE FROM run_operations WHERE sequence_id = 2")
        base.commit()
        yield base


def test_the_log_of_a_live_writer_is_read(
    copy: Path, writer: sqlite3.Connection, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before = tree.snapshot(copy)
    item = read(copy.parent, **{"temp-dir": str(temporary)})
    assert {param.key for param in item.params} >= {"lr", "n"}
    assert problems(item) == [f"{database(copy).parent.name}/run_operations.sqlite3:"
                              " 1 operations are not there"]  # fmt: skip
    assert tree.snapshot(copy) == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("place", ["x.sqlite3", ".neptune/x.sqlite3"])
def test_databases_of_older_clients(copy: Path, tmp_path: Path, place: str) -> None:
    old = tmp_path / "old" / place
    old.parent.mkdir(parents=True)
    shutil.copyfile(database(copy), old)
    for table in (
        "file_upload_requests",
        "operation_errors",
        "run_operation_submission",
    ):
        execute(old, f"DROP TABLE {table}")
    execute(old, "UPDATE metadata SET version = 'v1'")
    item = read(tmp_path / "old")
    assert values(item, "large")
    assert item.params
    assert "3 files that it logged are not there" in problems(item)[0]
    assert list(scan([tmp_path / "old"])) == [f"neptune-offline:{old.parent}"]


def test_other_databases_are_none(tmp_path: Path) -> None:
    execute(tmp_path / "other.sqlite3", "CREATE TABLE t (x)")
    with pytest.raises(LocationError):
        opened(tmp_path)
    assert list(scan([tmp_path])) == []


def test_a_damaged_operation_is_told(copy: Path) -> None:
    statement = "UPDATE run_operations SET operation = ? WHERE sequence_id = ?"
    execute(database(copy), statement, b"\x0a\xff", 6)
    execute(database(copy), statement, "text", 7)
    item = read(copy.parent)
    told = problems(item)
    assert sum("operations cannot be read" in what for what in told) == len(told) == 2
    assert len(values(item, "loss")) == 3
    execute(database(copy), "DELETE FROM metadata")
    store = opened(copy)
    assert any("does not say which run" in each.what for each in store.findings())


def test_what_is_not_known_is_kept(copy: Path) -> None:
    pb = pytest.importorskip("neptune_api.proto.neptune_pb.ingest.v1.common_pb2")
    update = pb.UpdateRunSnapshot(step=pb.Step(whole=1))
    update.append["b"].bool = True
    data = update.SerializeToString() + b"\xf8\x07\x05"  # field 127
    statement = "UPDATE run_operations SET operation = ? WHERE sequence_id = 6"
    execute(database(copy), statement, data)
    told = problems(read(copy.parent))
    assert len(told) == 2
    kept = lines(contents(copy.parent)["neptune/operations.jsonl"])
    assert kept[0]["#127"] == [5]
    assert kept[1]["b"] == {"bool": True}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_messages_raise_what_is_expected(data: st.DataObject) -> None:
    pb = pytest.importorskip("neptune_api.proto.neptune_pb.ingest.v1.common_pb2")
    update = pb.UpdateRunSnapshot(step=pb.Step(whole=1, micro=5))
    update.append["loss"].float64 = 0.5
    update.append["h"].histogram.bin_edges.extend([0, 1, 2])
    update.append["h"].histogram.counts.values.extend([300, 4])
    update.assign["f"].file_ref.path = "a/b.txt"
    update.assign["s"].string_set.values.append("x")
    update.modify_sets["t"].string.values["y"] = 1
    whole = bytearray(update.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    gathered = Gathered(Counted())
    with suppress(ValueError, TypeError, OverflowError):
        Snapshots(gathered).apply(bytes(whole), Scope({}, Path()))
    gathered.series()


def test_a_database_that_is_damaged(copy: Path) -> None:
    path = database(copy)
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 3] = b"\xff" * 8192
    path.write_bytes(data)
    store = opened(copy)
    refs = list(store.refs(Selection("run")))
    assert Ref("run", "ws/proj/child") in refs
    told = [each.what for each in store.findings()]
    told += [what for each in store.read(refs) for what in
             (problems(each) if isinstance(each, Item) else [each.why])]  # fmt: skip
    assert any("cannot be read" in what for what in told)
    path.write_bytes(path.read_bytes()[:16])
    (problem,) = opened(copy).findings()
    assert problem.what.startswith("not copied: ")


def test_files_are_read_only_where_they_may_be(copy: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    for number, (place, temporary) in enumerate(
        [(str(secret), 0), (str(secret), 1), (f"{copy}/../../secret.txt", 1)], start=1
    ):
        statement = "UPDATE file_upload_requests SET source_path = ?, is_temporary = ?"
        execute(database(copy), f"{statement} WHERE id = {number}", place, temporary)
    item = read(copy)
    assert not any(path.path.startswith("f") for path in item.artifacts)
    assert "3 files that it logged are not there" in problems(item)[0]
    maps = [f"{tmp_path}={tmp_path}"]
    assert "fa.txt" in {
        each.path for each in read(copy, **{"map-artifacts": maps}).artifacts
    }


def test_two_reads_are_equal(client: Path) -> None:
    assert digest(read(client)) == digest(read(client))


def test_messages_are_read_as_neptune_itself_reads_them() -> None:
    pb = pytest.importorskip("neptune_api.proto.neptune_pb.ingest.v1.common_pb2")
    seen: set[str] = set()

    def compare(message: str, descriptor: Any) -> None:
        if message in seen:
            return
        seen.add(message)
        known = schema.MESSAGES[message]
        assert set(known) == {field.number for field in descriptor.fields}, message
        for field in descriptor.fields:
            name, kind = known[field.number]
            assert field.name == name, message
            assert kind.endswith("*") == field.is_repeated, (message, name)
            if field.message_type is not None:
                compare(kind.rstrip("*"), field.message_type)

    compare("Run", pb.Run.DESCRIPTOR)
    compare("UpdateRunSnapshot", pb.UpdateRunSnapshot.DESCRIPTOR)
    assert seen == set(schema.MESSAGES)
