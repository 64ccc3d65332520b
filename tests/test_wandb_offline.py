"""Run folders of W&B's client: all that a log says arrives, and damage is named."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from support import reading, tree
from support import wandb_logs as wb
from support.reading import notes, params, points, problems, tags

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.discover import scan
from mlmigrate.errors import LocationError, StoreNotFound
from mlmigrate.inspection import inspect
from mlmigrate.locations import resolve
from mlmigrate.model import Artifact, Item, Ref, Run
from mlmigrate.stores.wandb_offline import OfflineFolder, open_source, schema
from mlmigrate.wandb_runs.log import read_log

T = 1_700_000_000.0
MS = 1_700_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "wandb"


def opened(root: Path, **options: Any) -> OfflineFolder:
    return open_source(f"wandb-offline:{root}", options)


def read(root: Path, **options: Any) -> Item:
    """Return the one run of a folder."""
    return reading.only(opened(root, **options))


def content(root: Path, path: str, **options: Any) -> str:
    store = opened(root, **options)
    (ref,) = store.refs(Selection("run"))
    with store.open(ref, path) as file:
        text = file.read().decode()
    store.close()
    return text


def lines(root: Path, path: str) -> list[Any]:
    return [json.loads(line) for line in content(root, path).splitlines()]


# -- what a run holds -----------------------------------------------------------------


def test_header_params_and_tags(root: Path) -> None:
    config = {
        "lr": 0.1, "opt": {"name": "adam", "betas": [0.9, 1]}, "none": None, "on": True,
        "empty": {}, "_wandb": {"t": 1},
    }  # fmt: skip
    more = [
        (6, "g"), (7, "train"), (8, "my run"), (9, "a\nnote"), (10, "x"), (10, "y"),
        (12, "sweep1"), (13, "host"), (19, wb.message((4, "3.11"), (5, "0.31"))),
        (21, wb.message((1, "git@host:r"), (2, "abcdef"))),
    ]  # fmt: skip
    wb.write_run(
        root,
        [wb.run(config=config, more=more), wb.exit(0, 60)],
        files={"wandb-metadata.json": '{"username": "ann"}'},
    )
    item = read(root)
    assert item.origin == "wandb:team/proj/abc"
    assert item.header == Run(
        Ref("experiment", "team:proj"),
        name="my run",
        status="FINISHED",
        start_time=MS,
        end_time=MS + 60_000,
        user="ann",
    )
    assert params(item) == {
        "lr": "0.1",
        "opt/name": "adam",
        "opt/betas": "[0.9, 1]",
        "none": "null",
        "on": "true",
        "empty": "{}",
    }
    assert tags(item) == {
        "wandb.run_id": "abc",
        "wandb.project": "proj",
        "wandb.entity": "team",
        "wandb.group": "g",
        "wandb.job_type": "train",
        "wandb.sweep_id": "sweep1",
        "wandb.host": "host",
        "wandb.tags": '["x", "y"]',
        "wandb.cli_version": "0.31",
        "wandb.python_version": "3.11",
        "wandb.exit_code": "0",
        "mlflow.note.content": "a\nnote",
        "mlflow.source.git.commit": "abcdef",
        "mlflow.source.git.repoURL": "git@host:r",
    }
    store = opened(root)
    (experiment,) = store.read(list(store.refs(Selection("experiment"))))
    assert isinstance(experiment, Item)
    assert experiment.origin == "team:proj/team/proj"


@pytest.mark.parametrize(
    ("records", "status", "end"),
    [
        ([wb.exit(0, 60)], "FINISHED", MS + 60_000),
        ([wb.exit(255, 60)], "FAILED", MS + 60_000),
        ([wb.row(0, T + 90.0004, a=1), wb.exit(1, 60)], "FAILED", MS + 90_000),
        ([wb.row(0, T + 90, a=1)], "RUNNING", None),
    ],
)
def test_status_and_end(
    root: Path, records: list[bytes], status: str, end: int | None
) -> None:
    wb.write_run(root, [wb.run(), *records])
    item = read(root)
    assert isinstance(item.header, Run)
    assert (item.header.status, item.header.end_time) == (status, end)
    assert (status == "RUNNING") == any("how it ended" in what for what in notes(item))


def test_numbers_are_points_and_nothing_else_is_lost(root: Path) -> None:
    big = 2**53 + 1
    rows = [
        wb.row(-3, T + 0.0015, loss=math.nan, a={"b": 1, "c": {"d": 2}}, _runtime=1.5),
        wb.row(5, T + 1, loss=math.inf, s="text", on=True, big=big, none=None),
        wb.row(5, T + 1, loss="-Infinity", t={"_type": "table-file", "path": "x"}),
    ]
    wb.write_run(root, [wb.run(), *rows, wb.exit()], files={"x": "1"})
    item = read(root)
    found = points(item)
    assert math.isnan(found["loss"][0][2])
    assert found["loss"][0][:2] == (-3, MS + 2)
    assert found["loss"][1:] == [(5, MS + 1000, -math.inf), (5, MS + 1000, math.inf)]
    assert found["a/b"] == [(-3, MS + 2, 1.0)]
    assert found["a/c/d"] == [(-3, MS + 2, 2.0)]
    assert found["_runtime"] == [(-3, MS + 2, 1.5)]
    assert found["on"] == [(5, MS + 1000, 1.0)]
    assert found["big"] == [(5, MS + 1000, float(big))]
    assert lines(root, "wandb/history.jsonl") == [
        {"_step": 5, "_timestamp": T + 1, "s": "text", "on": True, "big": big,
         "none": None},
        {"_step": 5, "_timestamp": T + 1, "t": {"_type": "table-file", "path": "x"}},
    ]  # fmt: skip
    assert not problems(item)


def test_typed_values_of_newer_clients(root: Path) -> None:
    items = [
        ("i", (5, 7 << 1)),
        ("f", (6, 0.5)),
        ("t", (7, "text")),
        ("b", (4, 1)),
        ("n", (3, 0)),
        ("j", (8, "[1]")),
    ]
    record = wb.message(
        *((1, wb.message((1, key), value)) for key, value in items),
        (2, wb.message((1, 4))),
    )
    wb.write_run(root, [wb.run(), wb.message((2, record)), wb.exit()])
    item = read(root)
    assert points(item)["i"] == [(4, MS, 7.0)]
    assert points(item)["f"] == [(4, MS, 0.5)]
    assert lines(root, "wandb/history.jsonl") == [
        {"_step": 4, "_timestamp": T, "t": "text", "b": True, "n": None, "j": [1]}
    ]
    assert any("without a time" in what for what in notes(item))


def test_nested_values_of_newer_clients(root: Path) -> None:
    def item(path: list[str], value: Any) -> tuple[int, bytes]:
        keys = [(2, key) for key in path]
        return 1, wb.message(*keys, (16, json.dumps(value)))

    media = {"_type": "html-file", "size": 3, "path": "media/x.html"}
    record = wb.message(
        *(item(["img", key], value) for key, value in media.items()),
        item(["a", "b"], 1),
        item(["a", "c"], 2.5),
        (2, wb.message((1, 4))),
    )
    wb.write_run(root, [wb.run(), wb.message((2, record))], files={"media/x.html": ""})
    item_ = read(root)
    assert points(item_) == {"a/b": [(4, MS, 1.0)], "a/c": [(4, MS, 2.5)]}
    assert lines(root, "wandb/history.jsonl") == [
        {"_step": 4, "_timestamp": T, "img": media}
    ]
    assert not problems(item_)


def test_keys_that_become_equal_stay_apart(root: Path) -> None:
    config = {"a": {"b": 1}, "a/b": 2}
    log = [wb.run(config=config), wb.row(0, T, **{"a/b": 1, "a": {"b": 2}})]
    wb.write_run(
        root, [*log, wb.stats(T, {"cpu": 1}), wb.row(1, T, **{"system/cpu": 3})]
    )
    item = read(root)
    assert {(p.key, p.value) for p in item.params} == {("a/b", "1"), ("a/b~2", "2")}
    found = points(item)
    assert (found["a/b"][0][2], found["a/b~2"][0][2]) == (1, 2)
    assert (found["system/cpu"][0][2], found["system/cpu~2"][0][2]) == (1, 3)
    assert sum("joined by" in what for what in notes(item)) == 3


def test_system_metrics_and_console(root: Path) -> None:
    wb.write_run(
        root,
        [
            wb.run(),
            wb.stats(T + 1, {"cpu": 1.5, "network": {"sent": 3}}),
            wb.stats(T + 2, {"cpu": 2.5}),
            wb.output("hello\n", T + 1),
            wb.output("é"),
        ],
    )
    item = read(root)
    assert points(item) == {
        "system/cpu": [(0, MS + 1000, 1.5), (1, MS + 2000, 2.5)],
        "system/network/sent": [(0, MS + 1000, 3.0)],
    }
    assert lines(root, "wandb/console.jsonl")[0] == {
        "stream": "stdout", "timestamp": MS + 1000, "line": "hello\n"
    }  # fmt: skip
    assert content(root, "output.log") == "hello\né"
    sizes = {each.path: each.size for each in item.artifacts}
    assert sizes["output.log"] == len("hello\né".encode())
    for path, size in sizes.items():
        assert len(content(root, path).encode()) == size


def test_summary_that_the_history_does_not_give(root: Path) -> None:
    said = {"loss": 0.5, "best": 0.9, "note": "done", "deep": {"x": 1}, "_step": 3,
            "media": {"_type": "image-file"}}  # fmt: skip
    wb.write_run(root, [wb.run(), wb.row(0, T, loss=0.5), wb.summary(said)])
    found = {k: v for k, v in tags(read(root)).items() if k.startswith("wandb.summary")}
    assert found == {
        "wandb.summary.best": "0.9",
        "wandb.summary.note": "done",
        "wandb.summary.deep/x": "1",
    }
    assert json.loads(content(root, "wandb/summary.json")) == said


def test_files_are_artifacts_by_their_path(root: Path) -> None:
    log = wb.write_run(
        root,
        [wb.run(), wb.output("x"), wb.exit()],
        files={"output.log": "theirs", "media/a.png": "1", "wandb/console.jsonl": "2"},
    )
    (log.parent / "logs").mkdir()
    (log.parent / "logs" / "debug.log").write_text("d")
    (log.parent / "files" / "link").symlink_to("/etc/passwd")
    item = read(root)
    assert {each.path for each in item.artifacts} == {
        "output.log", "media/a.png", "wandb/console.jsonl", "wandb/console.jsonl~2",
        "wandb/logs/debug.log", "wandb/records.jsonl",
    }  # fmt: skip
    assert content(root, "output.log") == "theirs"
    assert content(root, "wandb/console.jsonl~2") == "2"
    (what,) = problems(item)
    assert what.startswith("files/link: a link to /etc/passwd, not followed")


def test_saved_files_are_links(root: Path, tmp_path: Path) -> None:
    saved = wb.message((6, wb.message((1, wb.message((1, "sub/model.pt"))))))
    log = wb.write_run(root, [wb.run(), saved, wb.exit()])
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "model.pt").write_text("weights")
    link = log.parent / "files" / "sub" / "model.pt"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "work" / "model.pt")
    (log.parent / "logs").mkdir()
    (log.parent / "logs" / "debug-core.log").symlink_to(tmp_path / "core.log")
    item = read(root)
    (what,) = problems(item)
    assert "a link to" in what
    assert any("debug-core.log" in what for what in notes(item))
    given = {"map-artifacts": [f"{tmp_path}/work={tmp_path}/work"]}
    item = read(root, **given)
    assert not problems(item)
    assert content(root, "sub/model.pt", **given) == "weights"
    assert Artifact("sub/model.pt", 7) in item.artifacts
    file = tmp_path / "work" / "model.pt"
    assert not problems(read(root, **{"map-artifacts": [f"{file}={file}"]}))


def test_files_that_a_run_names_but_are_gone(root: Path) -> None:
    saved = wb.message((6, wb.message((1, wb.message((1, "model.pt"))))))
    image = {"_type": "image-file", "path": "media/x.png"}
    wb.write_run(root, [wb.run(), saved, wb.row(0, T, i=image), wb.exit()])
    assert problems(read(root)) == [
        "1 saved files are not there, such as 'model.pt'",
        "1 media files are not there, such as 'media/x.png'",
    ]


def test_a_manifest_of_many_files(root: Path, tmp_path: Path) -> None:
    """Of an artifact of many files the manifest is a file of its own, read where a map
    leads; of a damaged one, what is whole.
    """
    staging = tmp_path / "staging"
    staging.mkdir()
    entries = []
    for name in ("one", "two"):
        (staging / name).write_text(name)
        entries.append({"path": name, "size": 3, "local_path": str(staging / name)})
    said = gzip.compress("".join(f"{json.dumps(each)}\n" for each in entries).encode())
    manifest = staging / "manifest.jl.gz"
    manifest.write_bytes(said)
    artifact = wb.message((5, "data"), (12, wb.message((1, 1), (5, str(manifest)))))
    wb.write_run(root, [wb.run(), wb.message((8, artifact)), wb.exit()])
    given = {"map-artifacts": [f"{staging}={staging}"]}

    assert "its manifest" in problems(read(root))[0]
    assert not problems(read(root, **given))
    assert content(root, "artifacts/data/two", **given) == "two"

    manifest.write_bytes(said[:-12])
    (what,) = problems(read(root, **given))
    assert "cannot be read whole" in what
    manifest.write_bytes(gzip.compress(json.dumps(entries[0]).encode() + b"\n[]"))
    assert "a line is no entry" in problems(read(root, **given))[0]
    assert content(root, "artifacts/data/one", **given) == "one"


def test_files_of_logged_artifacts(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "one").write_text("bytes")
    (tmp_path / "secret").write_text("secret")

    def entry(path: str, local: str, size: int) -> tuple[int, bytes]:
        return (4, wb.message((1, path), (4, size), (6, local)))

    manifest = wb.message(
        entry("a/one", str(cache / "one"), 5),
        entry("two", str(cache / ".." / "secret"), 6),
        entry("../three", str(cache / "one"), 5),
        (4, wb.message((1, "far"), (3, "s3://bucket/far"))),
    )
    record = wb.message((8, wb.message((4, "dataset"), (5, "data"), (12, manifest))))
    wb.write_run(root, [wb.run(), record, wb.exit()])
    (what,) = problems(read(root))
    assert "artifact 'data': 3 files are not there" in what
    given = {"map-artifacts": [f"{cache}={cache}"]}
    item = read(root, **given)
    (what,) = problems(item)
    assert "2 files" in what
    assert content(root, "artifacts/data/a/one", **given) == "bytes"
    (kept,) = [
        each for each in lines(root, "wandb/records.jsonl") if "artifact" in each
    ]
    assert len(kept["artifact"]["manifest"]["contents"]) == 4


def test_other_records_and_unknown_fields_are_kept(root: Path) -> None:
    alert = wb.message((10, wb.message((1, "title"), (2, "text"))))
    new = wb.message((99, b"\xff"), (200, wb.message((1, "stream"))))
    odd = wb.message((2, wb.message((1, wb.message((1, "a"), (16, "1"), (30, 5))))))
    wb.write_run(root, [wb.run(), alert, new, odd, wb.exit()])
    kept = lines(root, "wandb/records.jsonl")
    assert {"alert": {"title": "title", "text": "text"}} in kept
    assert {"#99": ["/w=="]} in kept
    assert {"history": {"item": [{"key": "a", "value_json": "1", "#30": [5]}]}} in kept
    assert "1 records of unknown kinds: kept in wandb/records.jsonl" in notes(
        read(root)
    )


def test_folders_of_a_resumed_run_are_one_run(root: Path) -> None:
    first = [wb.run(config={"a": 1}), wb.row(0, T, x=1), wb.exit(1, 5)]
    wb.write_run(root, first, files={"output.log": "one"})
    again = wb.run(config={"a": 2}, start=T + 100)
    wb.write_run(
        root, [again, wb.row(1, T + 101, x=2), wb.exit(0, 7)],
        time="20231114_221500", files={"output.log": "two"},
    )  # fmt: skip
    item = read(root)
    assert isinstance(item.header, Run)
    assert (item.header.status, item.header.start_time) == ("FINISHED", MS)
    assert item.header.end_time == MS + 107_000
    assert points(item)["x"] == [(0, MS, 1.0), (1, MS + 101_000, 2.0)]
    assert [param.value for param in item.params] == ["2"]
    assert content(root, "output.log") == "two"
    earlier = "wandb/offline-run-20231114_221320-abc/files/output.log"
    assert content(root, earlier) == "one"


# -- damage ---------------------------------------------------------------------------


def whole_log() -> tuple[list[bytes], bytes]:
    records = [wb.run(), *(wb.row(n, T + n, x=n, s="y" * 9000) for n in range(30))]
    return records, wb.framed(records)


def read_bytes(path: Path, data: bytes) -> tuple[list[bytes], list[str]]:
    path.write_bytes(data)
    wrong: list[str] = []
    return list(read_log(path, wrong)), wrong


def test_records_that_cross_blocks(tmp_path: Path) -> None:
    records, data = whole_log()
    assert read_bytes(tmp_path / "log", data) == (records, [])
    for size in range(32768 - 30, 32768 + 10):  # every way to meet a block's end
        crossing = [b"x" * size, b"y" * 100]
        assert read_bytes(tmp_path / "log", wb.framed(crossing)) == (crossing, [])


def test_a_log_cut_anywhere_gives_what_is_whole(tmp_path: Path) -> None:
    records, data = whole_log()
    ends = [len(wb.framed(records[:n])) for n in range(len(records) + 1)]
    for cut in range(0, len(data), 997):
        found, wrong = read_bytes(tmp_path / "log", data[:cut])
        assert found == records[: len(found)]
        assert len(found) == max(sum(end <= cut for end in ends) - 1, 0)
        assert wrong or cut in ends or cut % 32768 == 0


def test_a_flipped_bit_costs_a_record_only(tmp_path: Path) -> None:
    records, data = whole_log()
    for at in range(7, len(data), 4999):
        flipped = bytearray(data)
        flipped[at] ^= 16
        found, wrong = read_bytes(tmp_path / "log", bytes(flipped))
        assert wrong
        lost = [record for record in records if record not in found]
        assert 1 <= len(lost) <= 5
        assert all(record in records for record in found)


@pytest.mark.parametrize("data", [b"", b":W&B", b"\0" * 70_000, b"\xff" * 70_000])
def test_what_is_no_log_at_all(root: Path, data: bytes) -> None:
    log = wb.write_run(root, [], files={"config.yaml": "x"})
    log.write_bytes(data)
    store = opened(root)
    (item,) = store.read(list(store.refs(Selection("run"))))
    assert isinstance(item, Item)
    assert item.origin == "wandb:/uncategorized/abc"
    assert problems(item)
    assert any("which run" in str(each) for each in store.findings())
    assert [each.path for each in item.artifacts] == ["config.yaml"]


def test_a_run_without_a_log_keeps_its_files(root: Path) -> None:
    log = wb.write_run(root, [], files={"config.yaml": "x"})
    log.unlink()
    item = read(root)
    assert any("no transaction log" in what for what in problems(item))
    assert [each.path for each in item.artifacts] == ["config.yaml"]


def test_hostile_records(root: Path) -> None:
    deep = "[" * 100_000
    nested = '{"a":' * 900 + "1" + "}" * 900
    items = [("deep", deep), ("nested", nested), ("digits", "1" * 5000), ("bad", "{"),
             ("huge", "1e999"), ("_step", "1e300"),
             ("_timestamp", "1e300")]  # fmt: skip
    hostile = wb.message(*((1, wb.message((1, k), (16, v))) for k, v in items))
    wb.write_run(
        root,
        [
            wb.run(),
            wb.message((2, hostile)),
            b"\xff" * 40,
            wb.message((7, b"\x0a\xff")),
        ],
    )
    item = read(root)
    assert points(item) == {"huge": [(0, MS, math.inf)]}
    (row,) = lines(root, "wandb/history.jsonl")
    assert (row["deep"], row["bad"], row["digits"]) == (deep, "{", "1" * 5000)
    assert sum("cannot be read" in what for what in problems(item)) >= 1


def test_a_hostile_id_leads_nowhere(root: Path, tmp_path: Path) -> None:
    wb.write_run(root, [wb.run("../../x", project="a/../b"), wb.exit()])
    report = mlmigrate.copy([f"wandb-offline:{root}"], f"sqlite:///{tmp_path}/x.db")
    assert report.copied == {"experiment": 1, "run": 1}
    store = opened(root)
    (ref,) = store.refs(Selection("run"))
    for path in ("../run-abc.wandb", "/etc/passwd", "nothing"):
        with pytest.raises(mlmigrate.MlmigrateError):
            store.open(ref, path)


# -- as a store -----------------------------------------------------------------------


def test_what_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        opened(tmp_path / "none")
    with pytest.raises(LocationError, match="holds no run folder"):
        opened(tmp_path)


def full(root: Path, rows: int = 3, *, ended: bool = True) -> Path:
    records = [wb.run(config={"lr": 0.1}), wb.output("hello\n")]
    records += [wb.row(n, T + n, loss=1 / (n + 1), s=f"t{n}") for n in range(rows)]
    return wb.write_run(
        root, [*records, *([wb.exit()] if ended else [])], files={"a.txt": "1"}
    )


@pytest.mark.parametrize("sink", ["sqlite:///{}/x.db", "archive:{}/archive"])
def test_copy_verify_repeat_and_grow(root: Path, tmp_path: Path, sink: str) -> None:
    full(root, ended=False)
    source, target = f"wandb-offline:{root}", sink.format(tmp_path)
    before = tree.snapshot(root)
    assert mlmigrate.copy([source], target).copied == {"experiment": 1, "run": 1}
    assert tree.snapshot(root) == before
    assert digest(read(root)) == digest(read(root))
    again = mlmigrate.copy([source], target)
    assert again.skipped == {"experiment": 1, "run": 1}
    full(root, rows=5)
    grown = mlmigrate.copy([source], target)
    assert (grown.updated, grown.skipped) == ({"run": 1}, {"experiment": 1})
    assert mlmigrate.copy([source], target).skipped == {"experiment": 1, "run": 1}
    result = mlmigrate.verify([source], target)
    assert result.same == {"experiment": 1, "run": 1}
    assert not result.different


def test_it_is_found_and_inspected(root: Path, tmp_path: Path) -> None:
    full(root)
    (root / "latest-run").symlink_to("offline-run-20231114_221320-abc")
    (root / "debug.log").write_text("")
    assert list(scan([tmp_path])) == [f"wandb-offline:{root}"]
    found = inspect(resolve(f"wandb-offline:{root}"))
    assert found["adapter"] == "wandb_offline"
    assert found["runs"] == {"active": 1, "deleted": 0}
    assert found["metrics"] == {"keys": 1, "points": 3}
    assert [note["what"] for note in found["notes"]] == [
        "beside the runs, not copied: debug.log"
    ]


# -- the schema -----------------------------------------------------------------------


def test_records_are_read_as_wandb_itself_reads_them() -> None:
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")

    def compare(message: str, descriptor: Any, seen: set[str]) -> None:
        if message in seen:
            return
        seen.add(message)
        numbers = {field.number: field for field in descriptor.fields}
        for number, (name, kind) in schema.MESSAGES[message].items():
            field = numbers[number]
            assert field.name == name
            assert kind.endswith("*") == field.is_repeated, (message, name)
            if field.message_type is not None and kind.rstrip("*") in schema.MESSAGES:
                compare(kind.rstrip("*"), field.message_type, seen)

    seen: set[str] = set()
    compare("Record", pb.Record.DESCRIPTOR, seen)
    assert seen == set(schema.MESSAGES)
