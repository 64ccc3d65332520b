"""Folders of Neptune's 1.x client: all that was logged arrives, and damage is named."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import neptune_clients as nc
from support import reading, tree
from support.neptune_clients import HEX, MS, UUID, T, logged, op, queue
from support.reading import header, notes, params, points, problems, tags

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.discover import scan
from mlmigrate.errors import (
    ItemError,
    LocationError,
    StoreNotFound,
    UnsafePath,
    UsageError,
)
from mlmigrate.inspection import inspect
from mlmigrate.locations import identity, resolve
from mlmigrate.model import Failed, Item, Ref
from mlmigrate.neptune_runs.names import Names
from mlmigrate.stores.neptune_offline import OfflineRuns, open_source
from mlmigrate.stores.neptune_offline.queue import Queue, logs_of

FOLDER = f"offline/run__{UUID}__12__abcdefgh"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "work" / ".neptune"


def opened(root: Path, **options: Any) -> OfflineRuns:
    return open_source(f"neptune-offline:{root}", options)


def read(root: Path, **options: Any) -> Item:
    """Return the one run of a folder."""
    return reading.only(opened(root, **options))


def contents(root: Path, **options: Any) -> dict[str, bytes]:
    """Return all artifacts of the one run."""
    with closing(opened(root, **options)) as store:
        return reading.contents(store, reading.only(store))


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().splitlines()]


# -- written by the client ------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("neptune")
    return nc.written_by(nc.CLIENT_1, tmp_path_factory.mktemp("client") / "work")


def test_all_that_the_client_logged_arrives(client: Path) -> None:
    item = read(client.parent)
    folder = next((client / "offline").iterdir())
    metadata = json.loads((folder / "metadata.json").read_text())
    id = metadata["containerId"]
    assert item.ref == Ref("run", id.replace("-", ""))
    assert item.origin == item.ref.id
    run = header(item)
    assert (run.name, run.status) == ("first", "FAILED")
    assert run.experiment == Ref("experiment", "neptune-offline")
    assert params(item) == {
        "source_code/entrypoint": "script.py",
        "params/lr": "0.1",
        "params/n": "3",
        "params/flag": "True",
        "params/name": "x",
        "params/when": "2024-01-02T03:04:05.678Z",
    }
    found = tags(item)
    assert found["mlflow.note.content"] == "what it is"
    assert found["neptune.tags"] == '["t2", "t3"]'
    assert found["neptune.container_id"] == id
    assert found["neptune.client_version"] == metadata["neptuneClientVersion"]
    assert found["neptune.sent"] == "none"
    steps = {key: [(step, value) for step, _, value in rows] for key, rows in
             points(item).items()}  # fmt: skip
    assert steps == {
        "loss": [(0, 1.0), (2, 0.5), (4, 0.25), (20, 0.125), (22, 0.1)],
        "acc": [(2, 0.1), (5, 0.2)],
    }
    assert [time for _, time, _ in points(item)["acc"]] == [
        1700000000123,
        1700000001500,
    ]
    assert problems(item) == []
    assert any("times 2" in note for note in notes(item))
    files = contents(client.parent)
    assert [line["value"] for line in lines(files["text.jsonl"])] == ["hello", "wörld"]
    assert files["file.txt"] == b"AAA"
    assert files["content.md"] == b"inline"
    assert files["set/data/a.txt"] == b"AAA"
    assert files["set/data/sub/b.txt"] == b"BBB"
    assert files["pic.png"].startswith(PNG)
    assert files["img/0.png"].startswith(PNG)
    kept = lines(files["neptune/operations.jsonl"])
    assert [each["obj"]["type"] for each in kept] == [
        "LogImages",
        "TrackFilesToArtifact",
    ]
    (image,) = kept[0]["obj"]["values"]
    expected = {"data": None, "name": "red", "description": "all of it"}
    assert image["value"] == expected
    told = json.loads(files["neptune/attributes.json"])
    assert told["params/n"] == {"type": "int", "value": 3}


def test_values_are_those_of_neptunes_own_reader(client: Path, tmp_path: Path) -> None:
    disk_queue = pytest.importorskip("neptune.core.components.queue.disk_queue")
    from neptune.internal.operation import LogFloats, Operation

    copy = tmp_path / "copy"
    shutil.copytree(next((client / "offline").iterdir()), copy)
    reader = disk_queue.DiskQueue(
        copy, lambda said: said.to_dict(), Operation.from_dict, threading.RLock()
    )
    values: dict[str, list[tuple[float, int]]] = {}
    while element := reader.get():
        if isinstance(element.obj, LogFloats):
            values.setdefault("/".join(element.obj.path), []).extend(
                (each.value, int(each.ts * 1000)) for each in element.obj.values
            )
    reader.close()
    found = {
        key: [(value, time) for _, time, value in rows]
        for key, rows in points(read(client)).items()
    }
    assert found.keys() == values.keys()
    for key, rows in found.items():
        assert [value for value, _ in rows] == [value for value, _ in values[key]]
        times = zip(rows, values[key], strict=True)
        assert all(abs(ours[1] - theirs[1]) <= 1 for ours, theirs in times)


def test_it_is_copied_verified_and_never_changed(client: Path, tmp_path: Path) -> None:
    before = tree.snapshot(client)
    sink = f"sqlite:///{tmp_path / 'sink.db'}"
    source = f"neptune-offline:{client.parent}"
    report = mlmigrate.copy([source], sink)
    assert report.copied == {"experiment": 1, "run": 1}
    assert not report.failed
    assert not report.problems
    verified = mlmigrate.verify([source], sink)
    assert verified.same == {"experiment": 1, "run": 1}
    assert not verified.different
    again = mlmigrate.copy([source], sink)
    assert again.skipped["run"] == 1
    assert tree.snapshot(client) == before


def test_files_are_read_below_the_folder_that_was_given(client: Path) -> None:
    item = read(client)
    (problem,) = problems(item)
    assert problem.startswith("3 files that it logged are not there, or lie outside")
    assert "file.txt" not in contents(client)
    work = client.parent
    mapped = contents(client, **{"map-artifacts": [f"{work}={work}"]})
    assert mapped == contents(work)


def test_a_folder_that_was_moved(client: Path, tmp_path: Path) -> None:
    shutil.copytree(client, tmp_path / "moved" / ".neptune")
    shutil.copytree(client.parent / "data", tmp_path / "elsewhere")
    maps = [f"{client.parent / 'data'}={tmp_path / 'elsewhere'}"]
    files = contents(tmp_path / "moved", **{"map-artifacts": maps})
    assert files["file.txt"] == b"AAA"
    assert files["set/sub/b.txt"] == b"BBB"
    assert files["content.md"] == b"inline"


def test_a_client_that_was_killed_while_it_sent(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    root = nc.written_by(nc.SENDING_1, tmp_path / "work")
    item = read(root)
    assert item.ref.id == HEX
    assert params(item) == {"sent/0": "0", "sent/1": "1", "sent/2": "2"}
    assert points(item) == {"m": [(0, 1_700_000_000_000, 0.5)]}
    assert notes(item) == ["3 of 5 operations were already sent"]
    (problem,) = problems(item)
    assert "the last 1 operations are not there" in problem
    assert tags(item)["neptune.mode"] == "async"


# -- operations -----------------------------------------------------------------------


def test_steps_count_on(root: Path) -> None:
    queue(root / FOLDER, [logged("m", 1, 2, 3, 4, steps=[None, None, 7, None])])
    assert [row[0] for row in points(read(root))["m"]] == [0, 1, 7, 8]
    assert points(read(root))["m"][0] == (0, MS, 1.0)


def test_all_sorts_of_changes(root: Path) -> None:
    data = base64.b64encode(b"content").decode()
    image = {"data": base64.b64encode(PNG).decode(), "name": None, "description": None}
    jpeg = base64.b64encode(b"\xff\xd8\xff").decode()
    queue(root / FOLDER, [
        op("AssignFloat", "f", value=1),
        op("AssignFloat", "f", value=float("nan")),
        op("AssignInt", "i", value=2**70),
        op("AddStrings", "set", values=["b", "a", "c"]),
        op("RemoveStrings", "set", values=["c"]),
        op("AddStrings", "empty", values=["a"]),
        op("ClearStringSet", "empty"),
        logged("cleared", 1, 2),
        op("ClearFloatLog", "cleared"),
        logged("cleared", 3),
        logged("text", "a", "b", kind="LogStrings"),
        op("ClearStringLog", "text"),
        logged("text", "c", kind="LogStrings"),
        logged("image", image, kind="LogImages"),
        op("ClearImageLog", "image"),
        logged("image", image, jpeg, None, steps=[1.5, 1.5, 3], kind="LogImages"),
        op("UploadFileContent", "inline", ext="txt", file_content=data),
        op("UploadFileContent", "a/model.bin", ext="bin", file_content=data),
        op("ConfigFloatSeries", "cleared", min=0, max=None, unit="m"),
        op("AssignArtifact", "art", hash="abc"),
        op("AssignString", "was", value="x"),
        op("CopyAttribute", "is", container_id=UUID, container_type="run",
           source_path=["was"], source_attr_name="String"),
        op("CopyAttribute", "other", container_id="x", container_type="run",
           source_path=["was"], source_attr_name="String"),
        op("AssignUnheardOf", "q", value=1),
        op("AssignUnheardOf", "q", value=2),
    ])  # fmt: skip
    item = read(root)
    assert params(item) == {
        "f": "nan", "i": str(2**70), "set": '["a", "b"]', "empty": "[]", "was": "x",
        "is": "x",
    }  # fmt: skip
    assert points(item) == {"cleared": [(0, MS, 3.0)]}
    files = contents(root)
    kept = lines(files.pop("neptune/operations.jsonl"))
    del files["neptune/attributes.json"]
    assert files == {
        "text.jsonl": f'{{"step": 0, "timestamp": {MS}, "value": "c"}}\n'.encode(),
        "image/1.5.png": PNG,
        "image/1.5.jpg": b"\xff\xd8\xff",
        "inline.txt": b"content",
        "a/model.bin": b"content",
    }
    assert [each["obj"]["type"] for each in kept] == [
        "ConfigFloatSeries", "AssignArtifact", "CopyAttribute", "AssignUnheardOf",
        "AssignUnheardOf",
    ]  # fmt: skip
    told = " ".join(problems(item))
    assert "2 operations of a kind that is not known, 'AssignUnheardOf'" in told
    assert "1 attributes are copies of others" in told


def test_what_is_deleted_is_gone(root: Path) -> None:
    content = base64.b64encode(b"x").decode()
    made = [
        op("AssignInt", "i", value=1),
        logged("m", 1),
        logged("t", "x", kind="LogStrings"),
        op("UploadFileContent", "f", ext="", file_content=content),
    ]
    gone = [op("DeleteAttribute", path) for path in ("i", "m", "t", "f")]
    queue(root / FOLDER, [*made, *gone])
    item = read(root)
    assert (item.params, item.metrics, item.artifacts) == ((), (), ())


@pytest.mark.parametrize(
    "said",
    [
        op("AssignFloat", "x", value="1"),
        op("AssignBool", "x", value=1),
        op("AssignInt", "x", value=True),
        op("AssignInt", "x"),
        {"type": "AssignInt", "path": None, "value": 1},
        {"type": ["AssignInt"], "path": ["x"]},
        {"path": ["x"]},
        op("AddStrings", "x", values=[1]),
        logged("x", "no number"),
        logged("x", None),
        logged("x", 10**400),
        logged("x", "t", steps=["one"], kind="LogStrings"),
        logged("x", "t", steps=[1e300], kind="LogStrings"),
        logged("x", {"data": "?"}, kind="LogImages"),
        op("UploadFileContent", "x", ext="txt", file_content="?"),
        op("UploadFile", "x", ext="txt"),
        op("LogFloats", "x", values=[{"value": 1, "step": 1}]),
    ],
)
def test_a_malformed_operation_is_kept_and_told(root: Path, said: Any) -> None:
    queue(root / FOLDER, [said, op("AssignInt", "good", value=1)])
    item = read(root)
    assert params(item) == {"good": "1"}
    assert item.metrics == ()
    (problem,) = problems(item)
    assert "not as Neptune writes them" in problem
    (kept,) = lines(contents(root)["neptune/operations.jsonl"])
    assert kept["obj"] == said


def test_steps_out_of_range_and_too_fine(root: Path) -> None:
    steps = [1.0000001, 2, 1e300]
    queue(root / FOLDER, [logged("m", 1, 2, 3, steps=steps)])
    item = read(root)
    assert points(item)["m"] == [(1, MS, 1.0), (2, MS + 1000, 2.0)]
    assert problems(item) == [
        "1 points of m have a step or a time that is out of range"
    ]
    assert notes(item) == [
        "1 steps of m have more than six digits behind the point: rounded"
    ]
    queue(root / FOLDER, [logged("m", 1, 2, steps=[0.5, 999_999_999_999])])
    assert points(read(root))["m"][1][0] == 2 * 999_999_999_999
    store = opened(root, **{"step-multiplier": 3})
    (failed,) = store.read(list(store.refs(Selection("run"))))
    assert isinstance(failed, Failed)
    assert "step-multiplier=2" in failed.why


def test_sets_of_files(root: Path) -> None:
    work = root.parent
    for name in ("a/x.txt", "a/y.txt", "b/x.txt", "c/deep/z.bin"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(name)

    def uploaded(*patterns: str, reset: bool = False) -> dict[str, Any]:
        globs = [f"{work}/{pattern}" for pattern in patterns]
        return op("UploadFileSet", "s", file_globs=globs, reset=str(reset))

    def names(*operations: dict[str, Any]) -> set[str]:
        queue(root / FOLDER, operations)
        return {name for name in contents(work) if name.startswith("s/")}

    assert names(uploaded("a/*.txt")) == {"s/a/x.txt", "s/a/y.txt"}
    assert names(uploaded("c")) == {"s/c/deep/z.bin"}
    assert names(uploaded("**/*.bin", "b/x.txt")) == {"s/c/deep/z.bin", "s/b/x.txt"}
    assert names(uploaded("a/x.txt"), uploaded("b/x.txt")) == {
        "s/a/x.txt",
        "s/b/x.txt",
    }
    assert names(uploaded("a"), uploaded("b", reset=True)) == {"s/b/x.txt"}
    deleted = op("DeleteFiles", "s", file_paths=["a/x.txt", "c"])
    assert names(uploaded("a", "c"), deleted) == {"s/a/y.txt"}
    assert names(uploaded("gone/*")) == set()
    assert "1 files that it logged are not there" in problems(read(work))[0]


NUMBERS = st.one_of(
    st.floats(), st.integers(-(2**70), 2**70), st.none(), st.just("x"),
    st.just(10**400), st.just(10**250),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), NUMBERS, NUMBERS), max_size=6))
def test_files_are_made_as_they_were_counted(
    series: list[tuple[str, Any, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        said = [logged(f"m{path}", 1, value, steps=[None, step])
                for path, value, step in series]  # fmt: skip
        queue(root / FOLDER, [logged("t", "x", kind="LogStrings"), *said])
        assert "t.jsonl" in contents(root)  # which compares the sizes of all


# -- layouts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    [
        f"offline/{UUID}",
        f"offline/run__{UUID}",
        f"offline/run__{UUID}__12__abcdefgh",
        f"async/{UUID}/exec-0-offline",
        f"async/{UUID}/exec-1-2021-02-03 04:05:06.789",
        f"async/run__{UUID}/exec-1675678000.123-2023-02-06_10.06.40.123-77",
        f"async/run__{UUID}/exec-1675678000.123-2023-02-06_10.06.40.123-77/partition-3",
        f"async/run__{UUID}__12__abcdefgh",
    ],
)
def test_every_layout_is_known(root: Path, folder: str) -> None:
    queue(root / folder, [op("AssignInt", "i", value=1)])
    item = read(root)
    assert item.ref.id == HEX
    assert params(item) == {"i": "1"}
    inside = root / Path(folder).parts[0]
    for place in (root.parent, inside, inside / Path(folder).parts[1]):
        assert digest(read(place)) == digest(item)
    assert identity(resolve(f"neptune-offline:{root.parent}")) == identity(
        resolve(f"neptune-offline:{root}")
    )
    found = list(scan([root.parent.parent]))
    assert found == [f"neptune-offline:{root}"]


def test_a_run_that_was_resumed_is_one_run(root: Path) -> None:
    base = root / f"async/run__{UUID}"
    queue(
        base / "exec-1675678900.5-x",
        [op("AssignInt", "i", value=2), logged("m", 3)],
    )
    queue(base / "exec-1675678000.5-x", [op("AssignInt", "i", value=1)], sent=1)
    queue(base / "exec-1675678000.5-x", [logged("m", 1, 2)], first=2, sent=1)
    queue(root / f"async/run__{UUID}__9__b", [op("AssignInt", "j", value=3)])
    item = read(root)
    assert params(item) == {"i": "2", "j": "3"}
    assert [(step, value) for step, _, value in points(item)["m"]] == [
        (0, 1.0),
        (1, 2.0),
        (2, 3.0),
    ]
    assert notes(item) == ["1 of 5 operations were already sent"]
    assert tags(item)["neptune.sent"] == "part"
    assert header(item).start_time == 1675678000500


def test_what_was_sent_and_removed_is_a_problem(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1)], first=11, sent=12, put=12)
    item = read(root)
    assert tags(item)["neptune.sent"] == "all"
    assert problems(item) == [
        f"offline/{Path(FOLDER).name}: the last 1 operations are not there: the client"
        " was stopped before it wrote them to its log",
        "10 of its operations were sent to Neptune, whose client then removed them:"
        " what they logged is not in this folder",
    ]


def test_times_of_a_run(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1), op("AssignInt", "j", value=1)])
    assert header(read(root)).start_time == MS + 1000
    assert header(read(root)).end_time == MS + 2000
    assert header(read(root)).status == "FINISHED"
    said = {"createdAt": "2023-11-14T22:13:20+00:00", "mode": "offline"}
    (root / FOLDER / "metadata.json").write_text(json.dumps(said))
    assert header(read(root)).start_time == 1_700_000_000_000
    created = op("AssignDatetime", "sys/creation_time", value=5)
    queue(root / FOLDER, [created])
    assert header(read(root)).start_time == 5
    log = root / FOLDER / "data-1.log"
    log.write_text('{"obj": {"type": "DeleteAttribute", "path": ["x"]}, "version": 1}')
    (root / FOLDER / "metadata.json").write_text("{")
    assert header(read(root)).start_time is None
    said = {"obj": logged("t", "a", "b", kind="LogStrings"), "version": 1}
    log.write_text(json.dumps(said))
    assert header(read(root)).start_time == MS
    assert header(read(root)).end_time == MS + 1000
    log.write_text(json.dumps({**said, "obj": logged("m", 1, 2)}))
    assert header(read(root)).start_time == MS


def test_the_project_may_be_given(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1)])
    store = opened(root, project="ws/name")
    (ref,) = store.refs(Selection("experiment"))
    assert ref.id == "ws:name"
    assert header(read(root, project="ws/name")).experiment == ref
    assert read(root, project="ws/name").origin == read(root).origin
    assert tags(read(root, project="ws/name"))["neptune.project"] == "ws/name"
    assert "neptune.project" not in tags(read(root))
    with pytest.raises(UsageError):
        resolve(f"neptune-offline:{root}", ["project= "])
    assert not list(store.refs(Selection("run", frozenset({"other"}))))
    assert not list(store.refs(Selection("registered_model")))
    missing = [Ref("run", "x"), Ref("experiment", "x"), Ref("trace", "x")]
    assert all(isinstance(each, Failed) for each in store.read(missing))
    for wrong in (Ref("run", "x"), ref):
        with pytest.raises(ItemError):
            store.open(wrong, "x")


def test_projects_and_models_are_told(root: Path) -> None:
    for kind in ("project", "model", "model_version"):
        queue(root / f"async/{kind}__{UUID}/exec-1-x", [op("AssignInt", "i", value=1)])
    store = opened(root)
    assert not list(store.refs(Selection("run")))
    assert [finding.what for finding in store.findings()] == [
        "it is a model, and no run: not copied",
        "it is a model version, and no run: not copied",
        "it is a project, and no run: not copied",
    ]


def test_what_is_no_run_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1)])
    queue(root / f"offline/run__{UUID[::-1]}", [op("AssignInt", "i", value=1)])
    (root / "offline" / "run__x").mkdir()
    (root / "offline" / f"run__{UUID}__empty").mkdir()
    (root / "debug.txt").write_text("")
    (root.parent / "train.py").write_text("")
    assert [finding.what for finding in opened(root.parent).findings()] == [
        f"beside the runs, not copied: debug.txt, run__{UUID}__empty,"
        f" run__{UUID[::-1]}, run__x"
    ]
    other = UUID.replace("2", "3")
    queue(root / f"async/run__{other}", [op("AssignInt", "i", value=1)])

    def refused(folder: Path) -> list[Path]:
        if other in str(folder):
            raise PermissionError(13, "Permission denied")
        return logs_of(folder)

    monkeypatch.setattr(f"{logs_of.__module__.rpartition('.')[0]}.folders.logs_of",
                        refused)  # fmt: skip
    store = opened(root)
    assert len(list(store.refs(Selection("run")))) == 1
    (first, *_) = store.findings()
    assert first.what == "it cannot be listed: Permission denied"


def test_paths_of_other_systems(root: Path, tmp_path: Path) -> None:
    folder = root / FOLDER
    (folder / "upload_path").mkdir(parents=True)
    (folder / "upload_path" / "c.txt").write_text("own")
    (tmp_path / "moved" / "src").mkdir(parents=True)
    (tmp_path / "moved" / "src" / "a.py").write_text("code")
    drive = r"C:\Users\me\proj"
    queue(folder, [
        op("UploadFile", "c", ext="txt",
           file_path=rf"{drive}\.neptune\offline\x\upload_path\c.txt"),
        op("UploadFile", "a", ext="py", file_path=rf"{drive}\src\a.py"),
        op("UploadFileSet", "s", file_globs=[rf"{drive}\src\*.py"], reset="False"),
    ])  # fmt: skip
    files = contents(root, **{"map-artifacts": [rf"{drive}={tmp_path / 'moved'}"]})
    assert files == {"c.txt": b"own", "a.py": b"code", "s/a.py": b"code"}
    assert set(contents(root)) == {"c.txt"}


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        opened(tmp_path / "nothing")
    (tmp_path / ".neptune" / "offline" / "run__x").mkdir(parents=True)
    with pytest.raises(LocationError, match=r"give the \.neptune folder"):
        opened(tmp_path)
    assert list(scan([tmp_path])) == []


def test_it_is_inspected_and_opened_by_other_processes(root: Path) -> None:
    queue(root / FOLDER, [logged("m", 1, 2)])
    where = resolve(f"neptune-offline:{root}")
    found = inspect(pickle.loads(pickle.dumps(where)))
    assert found["adapter"] == "neptune_offline"
    assert found["runs"] == {"active": 1, "deleted": 0}
    assert found["metrics"] == {"keys": 1, "points": 2}
    assert found["problems"] == []


# -- damage ---------------------------------------------------------------------------


def log_of(root: Path) -> Path:
    return root / FOLDER / "data-1.log"


def test_a_last_line_that_is_cut_off(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", f"i{at}", value=1) for at in range(3)])
    log_of(root).write_bytes(log_of(root).read_bytes()[:-20])
    item = read(root)
    assert set(params(item)) == {"i0", "i1"}
    (problem,) = problems(item)
    assert "data-1.log, line 3" in problem
    assert problem.endswith("an operation is cut off, and is not copied")


def test_operations_that_never_reached_the_log(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1)], put=4)
    (problem,) = problems(read(root))
    assert "the last 3 operations are not there" in problem


def test_damage_in_the_middle(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", f"i{at}", value=1) for at in range(6)])
    text = log_of(root).read_text().splitlines()
    text[1] = text[1][:30] + text[2]  # a line that ends within the next one
    text[2] = "\0" * 100
    text[3] = "[" * 100_000
    log_of(root).write_text("\n".join(text) + "\n")
    item = read(root)
    assert set(params(item)) == {"i0", "i2", "i4", "i5"}
    found = problems(item)
    assert len(found) == 3
    assert all("data-1.log, line" in each for each in found)


def test_a_log_that_is_missing(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1)])
    queue(root / FOLDER, [op("AssignInt", "j", value=1)], first=9)
    item = read(root)
    assert set(params(item)) == {"i", "j"}
    (problem,) = problems(item)
    assert problem.endswith("operations 2 to 8 are not there")
    for log in (root / FOLDER).glob("data-*"):
        log.unlink()
    (problem,) = problems(read(root))
    assert "the last 9 operations are not there" in problem


def test_a_number_that_is_none(root: Path) -> None:
    queue(root / FOLDER, [op("AssignInt", "i", value=1)])
    (root / FOLDER / "last_ack_version").write_text("x")
    item = read(root)
    assert params(item) == {"i": "1"}
    assert "last_ack_version cannot be read" in problems(item)[0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_told_and_hurt_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        said = [op("AssignInt", f"i{at}", value=at) for at in range(8)]
        queue(root / FOLDER, [*said, logged("m", 1.5, 2.5)])
        whole = log_of(root).read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        end = data.draw(st.integers(at, min(len(whole), at + 200)))
        junk = data.draw(st.binary(max_size=40))
        damaged = whole[:at] + junk + whole[end:]
        log_of(root).write_bytes(damaged)
        item = read(root)
        hurt = whole[:at].count(b"\n")
        kept = [f"i{each}" for each in range(min(hurt, 8))]
        assert set(kept) <= set(params(item))
        if len(params(item)) < 8 and b"\n" not in junk:
            assert problems(item) or junk


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda s: round(s, 6)))))
def test_steps_are_those_of_one_by_one(steps: list[float | None]) -> None:
    from mlmigrate.stores.neptune_offline.gathered import Gathered
    from mlmigrate.stores.neptune_offline.made import Counted

    gathered = Gathered(Counted())
    series = gathered.points("m")
    last, expected = -1.0, []
    for step in steps:
        series.values.append(0.0)
        series.times.append(T)
        series.steps.append(float("nan") if step is None else step)
        last = last + 1 if step is None else step
        expected.append(round(last * 1_000_000))
    found = gathered.series()
    assert not gathered.wrong
    if steps:
        assert np.abs(found["m"].steps - np.array(expected)).max() <= 1


# -- untrusted paths ------------------------------------------------------------------


def test_no_path_leads_out_of_the_folder(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "outside" / "secret.txt"
    secret.parent.mkdir()
    secret.write_text("SECRET")
    folder = root / FOLDER
    (folder / "upload_path").mkdir(parents=True)
    (folder / "upload_path" / "link.txt").symlink_to(secret)
    (root / "link").symlink_to(secret.parent)
    places = [
        str(secret),
        "/etc/passwd",
        f"{root}/../../outside/secret.txt",
        f"{root}/link/secret.txt",
        f"{folder}/upload_path/../../../../../outside/secret.txt",
        f"{folder}/upload_path/link.txt",
    ]
    said = [op("UploadFile", f"f{at}", ext="txt", file_path=place)
            for at, place in enumerate(places)]  # fmt: skip
    names = ["../../../../../outside/secret.txt", "link.txt", str(secret)]
    said += [op("UploadFile", f"t{at}", ext="txt", tmp_file_name=name)
             for at, name in enumerate(names)]  # fmt: skip
    globs = [
        f"{secret.parent}/*",
        f"{root}/../../outside/*",
        f"{root}/link/*",
        "/etc/pass*",
    ]
    said.append(op("UploadFileSet", "set", file_globs=globs, reset="True"))
    queue(folder, said)
    item = read(root)
    assert item.artifacts == ()
    (problem,) = problems(item)
    assert problem.startswith(f"{len(said) - 1 + len(globs)} files that it logged")
    with pytest.raises(ItemError):
        opened(root).open(item.ref, "../../secret.txt")


def test_links_and_pipes_are_not_followed(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    queue(secret, [op("AssignInt", "secret", value=1)], sent=1)
    (secret / "c.txt").write_text("SECRET")
    folder = root / FOLDER
    queue(folder, [
        op("UploadFile", "c", ext="txt", tmp_file_name="c.txt"),
        op("UploadFile", "p", ext="txt", file_path=str(root / "pipe")),
    ])  # fmt: skip
    (folder / "upload_path").symlink_to(secret)
    (folder / "data-9.log").symlink_to(secret / "data-1.log")
    (folder / "last_ack_version").symlink_to(secret / "c.txt")
    (folder / "metadata.json").symlink_to(secret / "metadata.json")
    (root / f"offline/run__{UUID}").symlink_to(secret)
    os.mkfifo(root / "pipe")
    os.mkfifo(folder / "data-7.log")
    item = read(root)
    assert item.params == item.artifacts == ()
    assert "SECRET" not in str(item.findings)
    (problem,) = problems(item)
    assert problem.startswith("2 files that it logged are not there")
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path / "link").ref == item.ref


def test_names_of_attributes_lead_nowhere(root: Path) -> None:
    text = "x" * 300
    names = ["../../up", "/abs", "a//b", "C:/drive", ".", "n\0l", text, f"{text}y", "é"]
    queue(
        root / FOLDER,
        [logged(name, "v", kind="LogStrings") for name in names],
    )
    store = opened(root)
    (ref,) = store.refs(Selection("run"))
    (item,) = store.read([ref])
    assert isinstance(item, Item)
    paths = [artifact.path for artifact in item.artifacts]
    assert len(set(paths)) == len(names)
    assert paths[:4] == ["__/__/up.jsonl", "abs.jsonl", "a/b.jsonl", "C_/drive.jsonl"]
    for path in paths:
        assert all(len(part.encode()) < 255 for part in path.split("/"))
        with store.open(ref, path) as file:
            assert json.loads(file.read())["value"] == "v"
    store.close()


@settings(max_examples=150)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["a", "a/b", "a/b/c", "a~2", "../x", "", "/", "C:x", "a" * 400])))  # fmt: skip
def test_no_name_hides_another(wanted: list[str]) -> None:
    from mlmigrate.artifacts import safe_join

    names = Names()
    taken = [names.give(each) for each in wanted]
    assert len(set(taken)) == len(taken)
    folders = {part for name in taken for part in _above(name)}
    assert not folders & set(taken)
    for name in taken:
        try:
            safe_join(Path("/root"), name)
        except UnsafePath as error:
            raise AssertionError(name) from error


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:at]) for at in range(1, len(parts))]


# -- numbers of the queue -------------------------------------------------------------


def test_a_queue_counts_what_it_reads(tmp_path: Path) -> None:
    queue(tmp_path, [op("AssignInt", "i", value=1)] * 3, sent=2)
    found = Queue(tmp_path)
    assert len(list(found.records())) == 3
    assert (found.sent, found.count, found.first, found.last) == (2, 3, 1, 3)
    assert (found.began, found.heard) == (T + 1, T + 3)
    assert found.wrong == []
