"""Runs written in Neptune's offline format: Neptune's client takes them for its own."""

from __future__ import annotations

import io
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.copies import copied, differences
from support.neptune3_server import Neptune3Server
from support.neptune_server import NeptuneServer

from mlmigrate.discover import scan
from mlmigrate.errors import StoreError
from mlmigrate.model import Failed, Param, Ref, Skipped, Updated
from mlmigrate.stores.neptune_offline.container import uuid_of
from mlmigrate.stores.neptune_offline.manifest import NAME
from mlmigrate.testing.suite import (
    RUN,
    MemorySources,
    Peeked,
    SinkSuite,
    everything,
    experiment,
    points,
    run,
)

SERVER = "neptune://team/proj"
SERVER3 = "neptune3://team/proj"


def folder_of(location: str, id: str = RUN) -> Path | None:
    base = Path(location.removeprefix("neptune-offline:")) / ".neptune" / "offline"
    found = sorted(base.glob(f"run__{uuid_of(id)}__*"))
    assert len(found) < 2, found
    return found[0] if found else None


def operations(folder: Path) -> list[Any]:
    """Read a folder by Neptune's own reader, which gets a copy: it may delete."""
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import Operation

    copy = folder.parent.parent / "copy"
    shutil.copytree(folder, copy)
    queue = DiskQueue(
        copy, lambda op: op.to_dict(), Operation.from_dict, threading.RLock()
    )
    found = []
    while batch := queue.get_batch(100):
        found += [element.obj for element in batch]
        queue.ack(batch[-1].ver)
    queue.close()
    shutil.rmtree(copy)
    return found


def values_of(folder: Path) -> dict[str, Any]:
    return {
        "/".join(op.path): op.value for op in operations(folder) if hasattr(op, "value")
    }


class TestConformance(SinkSuite):
    @pytest.fixture
    def sink_location(self, tmp_path: Path) -> str:
        return f"neptune-offline:{tmp_path / 'runs'}"

    def peek(self, location: str, run: str) -> Peeked | None:
        folder = folder_of(location, run)
        if folder is None:
            return None
        values = values_of(folder)
        files = {
            "/".join(op.path): folder / "upload_path" / op.tmp_file_name
            for op in operations(folder)
            if hasattr(op, "tmp_file_name")
        }
        text = values.get("mlmigrate/record")
        if text is None:
            text = files["mlmigrate/record_file"].read_text()
        record = json.loads(text)
        renamed, whole = record.get("renamed", {}), record.get("whole", {})

        def texts(prefix: str, names: dict[str, str]) -> dict[str, str]:
            found = {
                path: whole.get(path, value)
                for path, value in values.items()
                if path.startswith(prefix)
            }
            keys = {path: path.removeprefix(prefix) for path in found}
            return {names.get(keys[p], keys[p]): value for p, value in found.items()}

        odd = []
        if "mlmigrate/points" in files:
            data = files["mlmigrate/points"].read_bytes()
            odd = pq.read_table(io.BytesIO(data)).to_pylist()
        troubled = {(each["key"], each["step"]) for each in odd}
        rows = [(p["key"], p["step"], p["timestamp"], p["value"]) for p in odd]
        for op in operations(folder):
            if type(op).__name__ == "LogFloats":
                path = "/".join(op.path[1:])
                key = renamed.get("metrics", {}).get(path, path)
                rows += [
                    (key, int(point.step), int(point.ts * 1000), point.value)
                    for point in op.values
                    if (key, point.step) not in troubled
                ]
        return Peeked(
            values["mlflow/status"],
            record["header"].get("start_time"),
            record["header"].get("end_time"),
            values["mlflow/lifecycle"],
            texts("params/", renamed.get("params", {})),
            texts("mlflow/tags/", renamed.get("tags", {})),
            sorted(rows),
            "mlmigrate/mark" in values,
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        pytest.skip("nobody edits a log")

    def delete_run(self, location: str, run: str) -> None:
        pytest.skip("nobody deletes a run within a log")

    def partial_files(self, location: str) -> list[str]:
        folder = Path(location.removeprefix("neptune-offline:"))
        return [str(path) for path in folder.rglob(".mlmigrate-*")]


@pytest.fixture
def sink(tmp_path: Path) -> str:
    return f"neptune-offline:{tmp_path / 'runs'}"


def clean(sink: str) -> Path:
    return Path(sink.removeprefix("neptune-offline:")) / ".neptune"


class TestFormat:
    def test_neptune_reads_what_was_written(
        self, sources: MemorySources, sink: str
    ) -> None:
        items, files = everything()
        copied(sources(*items, files=files), sink)
        folder = folder_of(sink)
        assert folder is not None

        found = operations(folder)

        (full,) = [item for item in items if item.ref == Ref("run", RUN)]
        values = values_of(folder)
        for param in full.params:
            assert param.value == values.get(f"params/{param.key}", param.value)
        uploads = {
            "/".join(op.path): op for op in found if type(op).__name__ == "UploadFile"
        }
        for artifact in full.artifacts:
            op = uploads[f"artifacts/{artifact.path}"]
            data = (folder / "upload_path" / op.tmp_file_name).read_bytes()
            assert files[full.ref, artifact.path] == data
        assert str(len(found)) == (folder / "last_put_version").read_text()

    def test_the_manifest_tells_which_run_is_where(
        self, sources: MemorySources, sink: str
    ) -> None:
        copied(sources(experiment(), run()), sink)

        said = json.loads((clean(sink) / NAME).read_text())

        folder = folder_of(sink)
        assert folder is not None
        assert {RUN: {"origin": RUN, "container": folder.name}} == said["runs"]

    def test_scan_finds_it(
        self, sources: MemorySources, sink: str, tmp_path: Path
    ) -> None:
        copied(sources(experiment(), run()), sink)

        (found,) = scan([tmp_path])

        assert str(found) in (sink, f"neptune-offline:{clean(sink)}")

    def test_long_logs_are_divided(
        self, sources: MemorySources, sink: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlmigrate.stores.neptune_offline import container

        monkeypatch.setattr(container, "_LARGEST_LOG", 20_000)
        metric = points("m", *((at, at / 7) for at in range(5000)))
        origin = sources(experiment(), run(metrics=(metric,)))

        copied(origin, sink)

        folder = folder_of(sink)
        assert folder is not None
        assert len(list(folder.glob("data-*.log"))) > 3
        logs = [op for op in operations(folder) if type(op).__name__ == "LogFloats"]
        assert 5000 == sum(len(op.values) for op in logs)
        assert [] == differences(origin, sink)


class TestGrowth:
    def test_a_run_that_grows_is_one_folder(
        self, sources: MemorySources, sink: str
    ) -> None:
        first = run(metrics=(points("m", (0, 1.0)),), params=(Param("a", "1"),))
        origin = sources(experiment(), first)
        copied(origin, sink)
        metric = points("m", (0, 1.0), (1, 2.0))
        more = replace(
            first, metrics=(metric,), params=(*first.params, Param("b", "2"))
        )
        sources.put(origin, more)

        result = copied(origin, sink)

        assert 1 == len(result.of(Updated))
        assert [] == differences(origin, sink)
        assert folder_of(sink) is not None
        assert 1 == len(copied(origin, sink).of(Skipped)) - 1

    def test_files_of_a_run_that_grows_stay(
        self, sources: MemorySources, sink: str
    ) -> None:
        items, files = everything()
        origin = sources(*items, files=files)
        copied(origin, sink)
        (full,) = [item for item in items if item.ref == Ref("run", RUN)]
        grown = replace(full, params=(*full.params, Param("new", "1")))
        sources.put(origin, grown)

        copied(origin, sink)

        assert [] == differences(origin, sink)

    def test_what_was_left_by_a_kill_is_cleared_up(
        self, sources: MemorySources, sink: str
    ) -> None:
        origin = sources(experiment(), run())
        (clean(sink) / ".mlmigrate-abc").mkdir(parents=True)
        (clean(sink) / ".mlmigrate-abc" / "data-1.log").write_text("{")

        copied(origin, sink)

        assert [] == list(clean(sink).glob(".mlmigrate-*"))
        assert [] == differences(origin, sink)

    def test_of_two_folders_that_a_kill_left_the_last_counts(
        self, sources: MemorySources, sink: str
    ) -> None:
        first = run(metrics=(points("m", (0, 1.0)),))
        origin = sources(experiment(), first)
        copied(origin, sink)
        folder = folder_of(sink)
        assert folder is not None
        shutil.copytree(folder, clean(sink).parent / "kept")
        sources.put(origin, replace(first, metrics=(points("m", (0, 1.0), (1, 2.0)),)))
        copied(origin, sink)
        shutil.move(clean(sink).parent / "kept", folder)

        assert [] == differences(origin, sink)
        more = points("m", (0, 1.0), (1, 2.0), (2, 3.0))
        sources.put(origin, replace(first, metrics=(more,)))
        copied(origin, sink)
        assert [] == differences(origin, sink)
        assert folder_of(sink) is not None

    def test_what_was_sent_and_removed_is_not_written_again(
        self, sources: MemorySources, sink: str
    ) -> None:
        origin = sources(experiment(), run())
        copied(origin, sink)
        folder = folder_of(sink)
        assert folder is not None
        shutil.rmtree(folder)

        (failed,) = copied(origin, sink).of(Failed)

        assert "was written before, and is no longer there" in failed.why

    def test_a_manifest_that_was_not_written_is_completed(
        self, sources: MemorySources, sink: str
    ) -> None:
        origin = sources(experiment(), run())
        copied(origin, sink)
        said = json.loads((clean(sink) / NAME).read_text())
        (clean(sink) / NAME).write_text(json.dumps({**said, "runs": {}}))
        second = replace(run(), ref=Ref("run", "2" * 32), origin="2" * 32)
        sources.put(origin, second)

        copied(origin, sink)

        assert {RUN, "2" * 32} == set(
            json.loads((clean(sink) / NAME).read_text())["runs"]
        )

    def test_a_damaged_manifest_stops_the_copy(
        self, sources: MemorySources, sink: str
    ) -> None:
        origin = sources(experiment(), run())
        copied(origin, sink)
        (clean(sink) / NAME).write_text("{")

        with pytest.raises(StoreError, match="cannot be read"):
            copied(origin, sink)


class TestSending:
    def test_sent_twice_there_is_one_run_with_its_id(
        self, sources: MemorySources, sink: str, neptune_loopback: NeptuneServer
    ) -> None:
        items, files = everything()
        origin = sources(*items, files=files)
        copied(origin, sink)

        first, second = copied(sink, SERVER), copied(sink, SERVER)

        assert [] == first.of(Failed)
        assert {"skipped": 2} == second.counts()
        project = neptune_loopback.projects["team/proj"]
        assert 2 == len(project.runs)
        assert project.run(RUN)["mlmigrate/origin"] == RUN
        assert [] == differences(origin, SERVER)
        assert {"skipped": 2} == copied(origin, SERVER).counts()

    def test_a_server_of_3x_takes_it(
        self, sources: MemorySources, sink: str, neptune3_loopback: Neptune3Server
    ) -> None:
        pytest.importorskip("neptune_scale")
        items, files = everything()
        origin = sources(*items, files=files)
        copied(origin, sink)

        first, second = copied(sink, SERVER3), copied(sink, SERVER3)

        assert [] == first.of(Failed)
        assert {"skipped": 2} == second.counts()
        assert 3 == len(neptune3_loopback.projects["team/proj"].runs)
        assert [] == differences(origin, SERVER3)
        assert {"skipped": 2} == copied(origin, SERVER3).counts()

    def test_neptunes_own_sync_takes_it(
        self, sources: MemorySources, sink: str, neptune_loopback: NeptuneServer
    ) -> None:
        items, files = everything()
        copied(sources(*items, files=files), sink)
        from neptune.cli.sync import SyncRunner
        from neptune.internal.backends.hosted_neptune_backend import (
            HostedNeptuneBackend,
        )
        from neptune.internal.credentials import Credentials

        SyncRunner.sync_all_offline(
            backend=HostedNeptuneBackend(Credentials.from_token()),
            base_path=clean(sink),
            project_name="team/proj",
        )

        project = neptune_loopback.projects["team/proj"]
        (found,) = [
            each
            for each in project.runs.values()
            if "mlmigrate/origin" in each and each["mlmigrate/origin"] == RUN
        ]
        (full,) = [item for item in items if item.ref == Ref("run", RUN)]
        for artifact in full.artifacts:
            data = found.attributes[f"artifacts/{artifact.path}"].data
            assert files[full.ref, artifact.path] == data
        # It bears its mark, and is read as the run that it was.
        assert {"skipped": 2} == copied(sources(*items, files=files), SERVER).counts()
