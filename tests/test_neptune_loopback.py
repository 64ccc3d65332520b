"""The loopback Neptune server holds up to Neptune's own client."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.neptune_server import (
    Artifact,
    Container,
    Deny,
    File,
    FileSet,
    Forget,
    Image,
    NeptuneServer,
    Point,
    Project,
    StringSet,
    add_artifact,
    add_model,
    add_model_version,
    add_run,
    client_environment,
    delay,
    drop,
    floats,
    images,
    lie,
    neptune_client,
    neptune_server,
    refuse,
    strings,
    truncate,
)
from support.neptune_server import reset as reset_connection
from support.neptune_server.nql import SyntaxFault, parse
from support.neptune_server.operations import execute

#: The client, which takes seconds to import: it comes with the first test.
neptune: Any = None

PROJECT = "team/proj"
ID = "a" * 32
NOW = 1_700_000_000

#: What the client says by itself of every run is left out.
QUIET: dict[str, Any] = {
    "capture_stdout": False,
    "capture_stderr": False,
    "capture_traceback": False,
    "capture_hardware_metrics": False,
    "git_ref": False,
    "source_files": [],
    "dependencies": None,
}

PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89"
    b"\0\0\0\nIDATx\x9cc\0\1\0\0\5\0\1\r\n-\xb4\0\0\0\0IEND\xaeB`\x82"
)


@pytest.fixture(autouse=True, scope="module")
def _client() -> None:
    global neptune
    neptune = pytest.importorskip("neptune")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # The client warns of each of its own ways, and of its own end.
        warnings.simplefilter("ignore")
        yield


def start(custom_id: str | None = ID, **facts: Any) -> Any:
    given = {"project": PROJECT, "mode": "sync", **QUIET, **facts}
    return neptune.init_run(custom_run_id=custom_id, **given)


def read(id: str = "PROJ-1") -> Any:
    return neptune.init_run(project=PROJECT, with_id=id, mode="read-only")


def log_floats(run: Any, path: str, values: list[float], **facts: Any) -> None:
    times = [NOW + number for number in range(len(values))]
    run[path].extend(
        values, **{"steps": [*range(len(values))], "timestamps": times, **facts}
    )


class TestRuns:
    def test_values_of_all_types(self, neptune_loopback: NeptuneServer) -> None:
        """Atoms and sets arrive as they were said, and are read back so."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
        atoms = {"f": 0.1, "i": -(2**31), "b": True, "s": "ü\n☃", "d": when}
        with start(name="a name", description="words", tags=["x", "y"]) as run:
            for name, value in atoms.items():
                run[f"params/deep/{name}"] = value
            run["params/set"].add(["b", "a"])
            run["params/set"].remove("b")
            run["gone"] = 1
            del run["gone"]
            run["other"].add("x")
            run["other"].clear()
        got = neptune_loopback.projects[PROJECT].run(ID)

        said = {**atoms, "d": round(when.timestamp() * 1000)}
        assert said == got.values("params/deep/")
        assert ({"a"}, {"x", "y"}, set()) == (
            got["params/set"],
            got["sys/tags"],
            got["other"],
        )
        assert ("a name", "words") == (got["sys/name"], got["sys/description"])
        assert "gone" not in got
        with read() as run:
            assert atoms == run["params/deep"].fetch()
            assert {"a"} == run["params/set"].fetch()
            assert atoms["f"] == run["params/deep/f"].fetch()
            assert when == run["params/deep/d"].fetch()
            structure = run.get_structure()
            assert {"deep", "set"} == structure["params"].keys()
            assert run.exists("params/set")
            assert not run.exists("gone")

    def test_what_the_system_says(self, neptune_loopback: NeptuneServer) -> None:
        """Every run has a number, an owner, times and a state."""
        before = time.time()
        with start(None, tags=[]) as run:
            assert "PROJ-1" == run["sys/id"].fetch()
            assert "running" == run.fetch()["sys"]["state"]
        with start(ID), read("PROJ-2") as run:
            said = run.fetch()["sys"]
            assert ("PROJ-2", "owner", ID) == (
                said["id"],
                said["owner"],
                said["custom_run_id"],
            )
            made = said["creation_time"].timestamp()
            assert before - 1 < made <= said["modification_time"].timestamp()
            assert not said["failed"]
            assert not said["trashed"]
            # It is listed, and yet not there.
            assert "group_tags" in run.get_structure()["sys"]
            with pytest.raises(neptune.exceptions.FetchAttributeNotFoundException):
                run["sys/group_tags"].fetch()

    def test_custom_ids_name_one_run(self, neptune_loopback: NeptuneServer) -> None:
        """A run that was begun is gone on with, by its custom id or its number."""
        with start() as run:
            run["a"] = 1
        with start() as run:
            assert "PROJ-1" == run["sys/id"].fetch()
            run["b"] = 2
        with start(None, with_id="PROJ-1") as run:
            run["c"] = 3
        project = neptune_loopback.projects[PROJECT]

        assert ["PROJ-1"] == [*project.runs]
        assert (1, 2, 3) == tuple(project.run(ID)[name] for name in "abc")

    def test_asynchronously(self, neptune_loopback: NeptuneServer) -> None:
        """What is sent in the background arrives in its order."""
        with start(mode="async") as run:
            log_floats(run, "loss", [float(n) for n in range(3000)])
            run["name"] = "first"
            run["name"] = "last"
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert "last" == got["name"]
        expected = [Point(n, n, 1000 * (NOW + n)) for n in range(3000)]
        assert expected == got.points("loss")
        assert not [t for t in threading.enumerate() if t.name.startswith("Neptune")]

    def test_offline_runs_can_be_synced(self, neptune_loopback: NeptuneServer) -> None:
        """What was written offline is sent to a run that is made with a custom id."""
        from neptune.core.components.operation_storage import OperationStorage
        from neptune.core.components.queue.disk_queue import DiskQueue
        from neptune.internal.backends.hosted_neptune_backend import (
            HostedNeptuneBackend,
        )
        from neptune.internal.container_type import ContainerType
        from neptune.internal.credentials import Credentials
        from neptune.internal.operation import Operation

        with start(mode="offline") as run:
            run["a"] = 1
            log_floats(run, "loss", [0.5, 0.25])
        assert 0 == len(neptune_loopback.requests)
        (folder,) = (folder for folder in Path(".neptune/offline").iterdir())
        backend = HostedNeptuneBackend(Credentials.from_token())
        project = backend.get_project(PROJECT)
        made = backend.create_run(project.id, custom_run_id=ID)
        queue: Any = DiskQueue(
            folder, Operation.to_dict, Operation.from_dict, threading.RLock()
        )
        operations = [one.obj for one in queue.get_batch(1000)]
        queue.close()
        done, errors = backend.execute_operations(
            made.id, ContainerType.RUN, operations, OperationStorage(folder)
        )
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert (len(operations), []) == (done, errors)
        assert (1, [0.5, 0.25]) == (got["a"], [p.value for p in got.points("loss")])

    def test_the_clients_own_sync(self, neptune_loopback: NeptuneServer) -> None:
        """It sends what was written offline to a new run each time."""
        from neptune.cli.sync import SyncRunner

        with start(mode="offline") as run:
            run["a"] = 1
        for number in range(2):
            copied = Path(shutil.copytree(".neptune", f"copy{number}"))
            SyncRunner.sync_all(
                backend=_backend(), base_path=copied, project_name=PROJECT
            )
        runs = neptune_loopback.projects[PROJECT].runs

        assert [(None, 1)] * 2 == [(run.custom_id, run["a"]) for run in runs.values()]

    def test_copies_of_attributes(self, neptune_loopback: NeptuneServer) -> None:
        """The client copies by reading and writing."""
        with start() as run:
            run["a"] = "x"
            run["b"] = run["a"]

        assert "x" == neptune_loopback.projects[PROJECT].run(ID)["b"]

    def test_what_the_client_captures(self, neptune_loopback: NeptuneServer) -> None:
        """Printed lines and the machine are told as ever."""
        facts = {"capture_stdout": True, "monitoring_namespace": "mon"}
        with start(mode="async", **facts):
            print("hello there")  # noqa: T201
        got = neptune_loopback.projects[PROJECT].run(ID)

        lines = "".join(point.value for point in got.points("mon/stdout"))
        assert "hello there" in lines
        assert got["sys/hostname"]

    def test_the_commit(self, neptune_loopback: NeptuneServer) -> None:
        """A commit is an attribute of a type of its own."""
        from neptune.internal.utils.git import GitInfo

        when = datetime(2024, 5, 6, tzinfo=UTC)
        commit = GitInfo("c0ffee", "message", "name", "mail", when, False, "main", [])
        backend = _backend()
        made = backend.create_run(backend.get_project(PROJECT).id, git_info=commit)
        with neptune.init_project(PROJECT, mode="read-only") as project:
            (row,) = project.fetch_runs_table(progress_bar=False).to_rows()
            assert "c0ffee" == row.get_attribute_value("source_code/git")
        with read() as run:
            assert "git" in run.get_structure()["source_code"]
        got = neptune_loopback.container(made.id)

        assert "main" == got["source_code/git"].info["currentBranch"]

    def test_in_a_process_of_its_own(
        self, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        """The environment is all that a process needs."""
        script = """
            import neptune
            run = neptune.init_run(project="team/proj", custom_run_id="b" * 32)
            run["a"] = 1
            run.stop()
        """
        environment = {**os.environ, **client_environment(neptune_loopback)}
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=environment,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=120,
        )

        assert 1 == neptune_loopback.projects[PROJECT].run("b" * 32)["a"]

    def test_several_at_once(self, neptune_loopback: NeptuneServer) -> None:
        """Runs that are written side by side stay apart."""
        runs = [start(f"r{number}", mode="async") for number in range(3)]
        for number, run in enumerate(runs):
            log_floats(run, "loss", [float(number)] * 5)
        for run in runs:
            run.stop()
        project = neptune_loopback.projects[PROJECT]

        for number in range(3):
            points = project.run(f"r{number}").points("loss")
            assert [number] * 5 == [point.value for point in points]


class TestSeries:
    def test_numbers_keep_steps_and_times(
        self, neptune_loopback: NeptuneServer
    ) -> None:
        """Fractional steps and milliseconds come back as they were sent."""
        steps, times = [-1.5, 0.25, 1e9 + 0.5], [NOW + 0.123, NOW + 0.123, NOW + 2]
        with start() as run:
            run["loss"].extend([1e300, -0.0, 3], steps=steps, timestamps=times)
            assert 3 == run["loss"].fetch_last()
            table = run["loss"].fetch_values(progress_bar=False)
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [1e300, 0, 3] == [*table["value"]]
        assert steps == [*table["step"]]
        told = [1000 * time.timestamp() for time in table["timestamp"]]
        assert [round(1000 * time) for time in times] == pytest.approx(told)
        assert [round(1000 * time) for time in times] == [
            point.timestamp for point in got.points("loss")
        ]

    def test_long_ones_are_read_in_pages(self, neptune_loopback: NeptuneServer) -> None:
        """The client reads a thousand points at once."""
        values = [float(number) for number in range(2500)]
        add_run(neptune_loopback, PROJECT, {"loss": floats(values)})
        with read() as run:
            table = run["loss"].fetch_values(progress_bar=False)

        assert values == [*table["value"]]
        assert 3 == neptune_loopback.count("getFloatSeriesValues")

    def test_strings(self, neptune_loopback: NeptuneServer) -> None:
        """Lines have steps and times as numbers have."""
        lines = ["one", "", "ü\n"]
        with start() as run:
            run["log"].extend(lines, steps=[0, 1.5, 2], timestamps=[NOW] * 3)
            assert lines[-1] == run["log"].fetch_last()
            table = run["log"].fetch_values(progress_bar=False)
            run["cleared"].append("x")
            run["cleared"].clear()

        assert lines == [*table["value"]]
        got = neptune_loopback.projects[PROJECT].run(ID)
        assert [] == got.points("cleared")

    def test_steps_that_are_not_said(self, neptune_loopback: NeptuneServer) -> None:
        """Without steps, points are counted."""
        with start() as run:
            for value in (5, 6):
                run["loss"].append(value)
            run["loss"].append(7, step=10)
            run["loss"].append(8)
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [0, 1, 10, 11] == [point.step for point in got.points("loss")]

    @pytest.mark.parametrize(
        ("steps", "times", "message"),
        [
            ([0, 1, 1, 2], [0, 0, 0, 0], "strictly increasing"),
            ([0, 3, 2, 4], [0, 0, 0, 0], "strictly increasing"),
            ([0, 1, 2, 3], [0, 5, 4, 6], "non-decreasing"),
        ],
    )
    def test_points_out_of_order_are_refused(
        self,
        neptune_loopback: NeptuneServer,
        steps: list[float],
        times: list[float],
        message: str,
    ) -> None:
        """A point that does not follow the last is refused; others are kept."""
        values = [1.0, 2.0, 3.0, 4.0]
        with start() as run, pytest.raises(Exception, match=message):
            log_floats(
                run, "loss", values, steps=steps, timestamps=[NOW + t for t in times]
            )
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [1, 2, 4] == [point.value for point in got.points("loss")]

    def test_refusals_are_logged_only(
        self, neptune_loopback: NeptuneServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In the background, a refused point raises nothing."""
        logger = logging.getLogger("neptune")
        logger.addHandler(caplog.handler)
        try:
            with start(mode="async") as run:
                log_floats(run, "loss", [1.0, 2.0], steps=[1, 1])
        finally:
            logger.removeHandler(caplog.handler)
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [1] == [point.value for point in got.points("loss")]
        assert "strictly increasing" in caplog.text

    def test_configuration(self, neptune_loopback: NeptuneServer) -> None:
        """A series can be told its bounds and unit."""
        from neptune.types import FloatSeries

        with start() as run:
            run["loss"] = FloatSeries([1.0, 2.0], min=0, max=3, unit="m")
        series = neptune_loopback.projects[PROJECT].run(ID).attributes["loss"]

        assert {"min": 0, "max": 3, "unit": "m"} == series.config

    def test_files(self, neptune_loopback: NeptuneServer, tmp_path: Path) -> None:
        """Images have steps, names and descriptions; they are read by their places."""
        pytest.importorskip("PIL")
        from neptune.types import File as NeptuneFile

        with start() as run:
            for step in (10, 20):
                picture = NeptuneFile.from_content(PIXEL, extension="png")
                run["pictures"].append(
                    picture, step=step, name=f"p{step}", timestamp=NOW
                )
            run["pictures"].download(str(tmp_path / "out"), progress_bar=False)
            run["pictures"].download_last(str(tmp_path / "last"))
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [10, 20] == [point.step for point in got.points("pictures")]
        assert Image(PIXEL, "p10") == got.points("pictures")[0].value
        names = [file.name for file in (tmp_path / "out").iterdir()]
        assert {"0.png", "1.png"} == {*names}
        assert PIXEL == (tmp_path / "last" / "1.png").read_bytes()


class TestFiles:
    def test_whole_ones(self, neptune_loopback: NeptuneServer, tmp_path: Path) -> None:
        """A file comes back with its bytes and its extension."""
        Path("model.bin").write_bytes(bytes(range(256)))
        with start() as run:
            run["model"].upload("model.bin", wait=True)
            run["empty"].upload(neptune.types.File.from_content(b"", extension="x"))
            run["model"].download(str(tmp_path / "copy"), progress_bar=False)
            assert "bin" == run["model"].fetch_extension()
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert File(bytes(range(256)), "bin") == got["model"]
        assert b"" == got["empty"].data
        assert bytes(range(256)) == (tmp_path / "copy").read_bytes()

    def test_in_parts(self, neptune_loopback: NeptuneServer) -> None:
        """Large files come in parts of the size that the server says."""
        neptune_loopback.part_size = 100
        Path("large").write_bytes(os.urandom(250))
        with start() as run:
            run["large"].upload("large", wait=True)
            run["set"].upload_files("large", wait=True)
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert Path("large").read_bytes() == got["large"].data
        assert {"large": Path("large").read_bytes()} == got["set"].files
        assert 3 == neptune_loopback.count("fileAtomMultipartUploadPart")
        assert {} == neptune_loopback.uploads

    def test_sets(self, neptune_loopback: NeptuneServer, tmp_path: Path) -> None:
        """Files of a set are added, replaced, listed, removed and packed."""
        for name in ("a.txt", "sub/b.txt", "sub/c.txt"):
            Path("in", name).parent.mkdir(parents=True, exist_ok=True)
            Path("in", name).write_text(name)
        with start() as run:
            run["set"].upload_files("in/**/*.txt", wait=True)
            Path("in/a.txt").write_text("new")
            run["set"].upload_files("in/a.txt", wait=True)
            run["set"].delete_files("in/sub/c.txt")
            listed = [
                (one.name, one.file_type) for one in run["set"].list_fileset_files("in")
            ]
            run["set"].download(str(tmp_path), progress_bar=False)
        got = neptune_loopback.projects[PROJECT].run(ID)

        expected = {"in/a.txt": b"new", "in/sub/b.txt": b"sub/b.txt"}
        assert expected == got["set"].files
        assert [("a.txt", "file"), ("sub", "directory")] == listed
        with zipfile.ZipFile(tmp_path / "set.zip") as archive:
            assert expected == {name: archive.read(name) for name in archive.namelist()}

    def test_sets_that_are_assigned(self, neptune_loopback: NeptuneServer) -> None:
        """What was in a set before goes when it is assigned anew."""
        Path("a").write_text("a")
        Path("b").write_text("b")
        with start() as run:
            for name in ("a", "b"):
                run["set"] = neptune.types.FileSet([name])
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert {"b": b"b"} == got["set"].files

    def test_artifacts(self, neptune_loopback: NeptuneServer) -> None:
        """Files that are tracked are listed, not kept; versions have hashes."""
        Path("data").mkdir()
        Path("data/a.csv").write_text("1,2")
        with start() as run:
            run["data"].track_files("data", wait=True)
            first = run["data"].fetch_hash()
            (listed,) = run["data"].fetch_files_list()
            assert ("a.csv", 3) == (listed.file_path, listed.size)
            Path("more.csv").write_text("3")
            run["data"].track_files("more.csv", wait=True)
            assert first != run["data"].fetch_hash()
            names = [one.file_path for one in run["data"].fetch_files_list()]
            run["copy"].assign(run["data"].fetch())
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert ["a.csv", "more.csv"] == names
        assert got["copy"] == got["data"] != first
        (file, _) = neptune_loopback.projects[PROJECT].artifacts[got["data"]].files
        assert "a.csv" == file["filePath"]

    def test_types_that_clash(self, neptune_loopback: NeptuneServer) -> None:
        """A file is refused where something else is."""
        backend = _backend()
        add_run(neptune_loopback, PROJECT, {"a": 1, "b/c": 2}, custom_id=ID)
        Path("x").write_text("x")
        upload = neptune.internal.operation.UploadFile
        errors = _execute(backend, upload(["a"], "", "x"), upload(["b"], "", "x"))

        assert 2 == len(errors)
        assert "is of type int" in str(errors[0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("operation", "message"),
        [
            (("AssignFloat", ["a"], 1.0), "is of type int"),
            (("AssignInt", ["a", "b"], 1), "Cannot create 'a/b': 'a' exists"),
            (("AssignInt", ["b"], 1), "Cannot create 'b': 'b/…' exists"),
            (("AssignInt", ["c"], 2**31), "cannot hold"),
            (("AssignString", ["c"], "x" * 16_385), "too long"),
            (("AssignString", ["sys", "id"], "x"), "read-only"),
            (("AssignInt", ["sys", "creation_time"], 1), "read-only"),
            (("AssignInt", ["sys", "name"], 1), "is of type string"),
            (("DeleteAttribute", ["sys", "owner"]), "read-only"),
        ],
    )
    def test_they_are_told(
        self,
        neptune_loopback: NeptuneServer,
        operation: tuple[Any, ...],
        message: str,
    ) -> None:
        """An operation that breaks a rule changes nothing; others are done."""
        made = add_run(neptune_loopback, PROJECT, {"a": 1, "b/c": 2}, custom_id=ID)
        before = {**made.attributes}
        name, *facts = operation
        refused = getattr(neptune.internal.operation, name)(*facts)
        fine = neptune.internal.operation.AssignInt(["fine"], 1)
        (error,) = _execute(_backend(), refused, fine)

        assert message in str(error)
        assert 1 == made.attributes.pop("fine").value
        assert before == made.attributes

    def test_removed_attributes_make_room(
        self, neptune_loopback: NeptuneServer
    ) -> None:
        """Where the last attribute of a namespace is gone, one can take its place."""
        made = add_run(neptune_loopback, PROJECT, {"b/c": 2}, custom_id=ID)
        with start() as run:
            del run["b/c"]
            run["b"] = 1

        assert 1 == made["b"]

    def test_what_is_not_a_number(self) -> None:
        """The client sends no such value; the server would not take it."""
        made = Container(Project("team", "proj", "P"), "run", "P-1")
        points = [{"value": v, "timestampMilliseconds": 0} for v in (1.0, math.inf)]
        errors = execute(
            made,
            [
                {"path": "a", "assignFloat": {"value": math.nan}},
                {"path": "loss", "logFloats": {"entries": points}},
            ],
        )

        assert ["a", "loss"] == [error["attribute"] for error in errors]
        assert ["loss"] == [*made.attributes]
        assert [1.0] == [point.value for point in made.points("loss")]

    def test_long_strings_are_cut_by_the_client(
        self, neptune_loopback: NeptuneServer
    ) -> None:
        """The server never sees more than it takes."""
        with start() as run:
            run["long"] = "x" * 20_000
            run["lines"].append("x" * 2_000)
            run["big"] = 2**40
            run["nan"].extend([1.0, float("nan")])
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert (16_384, 1_000) == (len(got["long"]), len(got["lines"]))
        assert "big" not in got
        assert [1.0] == [point.value for point in got.points("nan")]

    def test_wrong_keys(self, neptune_loopback: NeptuneServer) -> None:
        """Whoever has no key gets nothing."""
        other = NeptuneServer(url=neptune_loopback.url)
        with pytest.raises(neptune.exceptions.NeptuneInvalidApiTokenException):
            start(api_token=other.api_token)

    def test_projects_that_do_not_exist(self, neptune_loopback: NeptuneServer) -> None:
        """A project can be missing, and so can a run."""
        neptune_loopback.missing.add("team/gone")
        with pytest.raises(neptune.exceptions.ProjectNotFound):
            start(project="team/gone")
        with pytest.raises(neptune.exceptions.MetadataContainerNotFound):
            read("PROJ-7")


class TestTables:
    @pytest.fixture
    def runs(self, neptune_loopback: NeptuneServer) -> Iterator[Any]:
        for number in range(4):
            facts = {
                "params/n": number,
                "params/name": f"run {number}",
                "loss": floats([1.0, 4.0 - number]),
                "sys/tags": StringSet(dict.fromkeys(["all", f"t{number}"])),
                "sys/failed": number == 1,
            }
            if number == 3:
                facts["only"] = 0.5
            add_run(
                neptune_loopback,
                PROJECT,
                facts,
                created=NOW + number,
                trashed=number == 2,
            )
        with neptune.init_project(PROJECT, mode="read-only") as project:
            yield project

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({}, "421"),
            ({"trashed": None}, "4321"),
            ({"trashed": True}, "3"),
            ({"state": "inactive"}, "421"),
            ({"state": "active"}, ""),
            ({"tag": ["all", "t1"]}, "2"),
            ({"owner": "owner"}, "421"),
            ({"owner": "nobody"}, ""),
            ({"id": ["PROJ-1", "PROJ-4"]}, "41"),
            ({"sort_by": "params/n", "ascending": True}, "124"),
            ({"sort_by": "loss", "ascending": True}, "421"),
            ({"sort_by": "only", "ascending": True}, "412"),
            ({"limit": 2}, "42"),
            ({"query": ""}, "421"),
            ({"query": "(`params/n`:int > 0)"}, "42"),
            ({"query": "`params/n`:int >= 1 AND `params/n`:int != 3"}, "2"),
            ({"query": '(`params/name`:string = "run 0")'}, "1"),
            ({"query": '`params/name`:string MATCHES "[03]$"'}, "41"),
            ({"query": '`params/name`:string NOT MATCHES "[03]$"'}, "2"),
            ({"query": '(params/name CONTAINS "3") OR (`params/n`:int = 0)'}, "41"),
            ({"query": "NOT (`params/n`:int = 0)"}, "42"),
            ({"query": '`sys/tags`:stringSet CONTAINS "t3"'}, "4"),
            ({"query": "`sys/failed`:bool = true"}, "2"),
            ({"query": "`loss`:floatSeries < 2"}, "4"),
            ({"query": "`params/n`:string = 0"}, ""),
            ({"query": '`sys/creation_time`:datetime < "2023-01-01T00:00:00Z"'}, "421"),
        ],
    )
    def test_rows(self, runs: Any, asked: dict[str, Any], expected: str) -> None:
        """Queries, the client's own conditions and sorting choose the rows."""
        asked.setdefault("sort_by", "sys/id")
        table = runs.fetch_runs_table(progress_bar=False, **asked)
        ids = [row.get_attribute_value("sys/id")[-1] for row in table]

        assert [*expected] == ids

    def test_columns(self, runs: Any) -> None:
        """Only what is asked for comes, with each run's number."""
        columns = ["params/n", "loss", "sys/tags", "sys/failed"]
        table = runs.fetch_runs_table(
            columns=columns, ascending=True, progress_bar=False
        ).to_pandas()

        assert {*columns, "sys/id", "sys/creation_time"} == {*table.columns}
        assert [0, 1, 3] == [*table["params/n"]]
        assert [4, 3, 1] == [*table["loss"]]
        assert "all,t0" == table["sys/tags"][0]

    def test_pages(
        self, runs: Any, neptune_loopback: NeptuneServer, monkeypatch: Any
    ) -> None:
        """A table is read in pages."""
        monkeypatch.setenv("NEPTUNE_FETCH_TABLE_STEP_SIZE", "2")
        table = runs.fetch_runs_table(trashed=None, progress_bar=False)

        assert 4 == len(table.to_rows())
        # The count, two full pages, and an empty one.
        assert 4 == neptune_loopback.count("searchLeaderboardEntries")

    def test_queries_without_sense(self, runs: Any) -> None:
        """The client is told that a query cannot be read."""
        with pytest.raises(neptune.exceptions.NeptuneInvalidQueryException):
            runs.fetch_runs_table(query="`a`:int >", progress_bar=False).to_rows()

    @pytest.mark.parametrize("query", ["(", "a", 'a = "', "a = 1 b", "= 1", "a ~ 1"])
    def test_syntax(self, query: str) -> None:
        """What cannot be read is not guessed at."""
        with pytest.raises(SyntaxFault):
            parse(query)

    def test_trash(self, runs: Any, neptune_loopback: NeptuneServer) -> None:
        """Runs can be put into the trash, and removed from it."""
        from neptune import management

        management.trash_objects(PROJECT, ["PROJ-1", "PROJ-99"])
        table = runs.fetch_runs_table(trashed=True, progress_bar=False)
        assert 2 == len(table.to_rows())
        management.delete_objects_from_trash(PROJECT, "PROJ-1")
        assert {"PROJ-2", "PROJ-3", "PROJ-4"} == {
            *neptune_loopback.projects[PROJECT].runs
        }
        management.clear_trash(PROJECT)
        assert {"PROJ-2", "PROJ-4"} == {*neptune_loopback.projects[PROJECT].runs}

    def test_empty_ones(self, neptune_loopback: NeptuneServer) -> None:
        """A project without runs has a table without rows."""
        with neptune.init_project("team/empty", mode="read-only") as project:
            assert [] == project.fetch_runs_table(progress_bar=False).to_rows()


class TestProjectsAndModels:
    def test_projects(self, neptune_loopback: NeptuneServer) -> None:
        """Projects are made when they are named, each with a key of its own."""
        from neptune import management

        for name in ("team/My Proj-1", "other/my proj 1"):
            with neptune.init_project(name, mode="read-only"):
                pass
        made = management.create_project("team/new", key="NEW")

        assert "team/new" == made
        assert {"team/My Proj-1", "other/my proj 1", "team/new"} == {
            *management.get_project_list()
        }
        keys = [one.key for one in neptune_loopback.projects.values()]
        assert ["MYPROJ1", "MYPROJ12", "NEW"] == keys

    def test_projects_hold_attributes(self, neptune_loopback: NeptuneServer) -> None:
        """A project can be written to as a run can."""
        with neptune.init_project(PROJECT, mode="sync") as project:
            project["general/brief"] = "x"
            assert "PROJ" == project["sys/id"].fetch()

        assert "x" == neptune_loopback.projects[PROJECT].own["general/brief"]

    def test_models(self, neptune_loopback: NeptuneServer) -> None:
        """Models and their versions are made, changed and read."""
        with neptune.init_model(project=PROJECT, key="NET", mode="sync") as model:
            model["size"] = 5
        facts = {"project": PROJECT, "model": "PROJ-NET", "mode": "sync"}
        for number in (1, 2):
            with neptune.init_model_version(**facts, name="v") as version:
                version["acc"] = number / 2
                version.change_stage("staging")
        with pytest.raises(neptune.exceptions.NeptuneModelKeyAlreadyExistsError):
            neptune.init_model(project=PROJECT, key="NET")

        project = neptune_loopback.projects[PROJECT]
        assert 5 == project.models["PROJ-NET"]["size"]
        assert ["PROJ-NET-1", "PROJ-NET-2"] == [*project.model_versions]
        assert "staging" == project.model_versions["PROJ-NET-2"]["sys/stage"]
        read = {"project": PROJECT, "mode": "read-only"}
        with neptune.init_model_version(with_id="PROJ-NET-2", **read) as version:
            assert 1.0 == version["acc"].fetch()
        with neptune.init_model(with_id="PROJ-NET", **read) as model:
            table = model.fetch_model_versions_table(progress_bar=False).to_pandas()
            assert {"PROJ-NET-1", "PROJ-NET-2"} == {*table["sys/id"]}
        with neptune.init_project(**read) as found:
            assert 1 == len(found.fetch_models_table(progress_bar=False).to_rows())
            assert [] == found.fetch_runs_table(progress_bar=False).to_rows()

    def test_trash_takes_versions_along(self, neptune_loopback: NeptuneServer) -> None:
        """With a model go its versions."""
        from neptune import management

        model = add_model(neptune_loopback, PROJECT, "NET", {"a": 1})
        version = add_model_version(neptune_loopback, model, {"a": 2})
        management.trash_objects(PROJECT, "PROJ-NET")

        assert model.trashed
        assert version.trashed


class TestPlanting:
    def test_everything(self, neptune_loopback: NeptuneServer, tmp_path: Path) -> None:
        """What is put in past the doors is read as what was sent."""
        when = datetime(2020, 1, 2, tzinfo=UTC)
        artifact = add_artifact(
            neptune_loopback,
            PROJECT,
            [{"filePath": "a", "fileHash": "h", "size": 3}],
        )
        add_run(
            neptune_loopback,
            PROJECT,
            {
                "f": 1.5,
                "i": 1,
                "b": False,
                "s": "x",
                "d": when,
                "set": {"y", "x"},
                "loss": floats([1, 2], [0.5, 1], [5, 6]),
                "nan": floats([float("nan")]),
                "log": strings(["l"]),
                "pictures": images([Image(PIXEL)]),
                "file": File(b"abc", "txt"),
                "files": FileSet({"a/b": b"c"}),
                "artifact": artifact,
                "sys/name": "planted",
            },
            custom_id=ID,
            created=NOW * 1000,
        )
        with read() as run:
            atoms = run.fetch()
            assert (1.5, 1, False, "x", when) == tuple(atoms[k] for k in "fibsd")
            assert NOW == atoms["sys"]["creation_time"].timestamp()
            assert "planted" == atoms["sys"]["name"]
            assert {"x", "y"} == run["set"].fetch()
            (first, _) = run["loss"].fetch_values(progress_bar=False).itertuples()
            assert (0.5, 1, 0.005) == (
                first.step,
                first.value,
                first.timestamp.timestamp(),
            )
            assert "l" == run["log"].fetch_last()
            assert run["nan"].fetch_values().value.isna().all()
            for name in ("pictures", "file", "files"):
                (tmp_path / name).mkdir()
                run[name].download(str(tmp_path / name))
            (listed,) = run["artifact"].fetch_files_list()
            assert "a" == listed.file_path
        assert PIXEL == (tmp_path / "pictures" / "0.png").read_bytes()
        assert b"abc" == (tmp_path / "file" / "file.txt").read_bytes()
        with zipfile.ZipFile(tmp_path / "files" / "files.zip") as archive:
            assert b"c" == archive.read("a/b")

    def test_artifacts_are_equal_by_their_files(
        self, neptune_loopback: NeptuneServer
    ) -> None:
        """The same files are the same version."""
        files = [{"filePath": "a", "fileHash": "h", "size": 3}]
        first, second = (
            add_artifact(neptune_loopback, PROJECT, files) for _ in range(2)
        )

        assert isinstance(first, Artifact)
        assert first == second


class TestFaults:
    """Failures that the client overcomes cost it a second each."""

    @pytest.mark.parametrize(
        "fault", [refuse(503), reset_connection(), drop(), lie(500), truncate()]
    )
    def test_values_get_through(
        self, neptune_loopback: NeptuneServer, fault: Any
    ) -> None:
        """Whatever happens to one request, a value arrives in the end."""
        run = start()
        neptune_loopback.plant("executeOperations", fault)
        run["a"] = 1
        run.stop()

        assert 1 == neptune_loopback.projects[PROJECT].run(ID)["a"]
        (faulty,) = [one for one in neptune_loopback.requests if one.fault]
        assert ("POST", "executeOperations") == (faulty.method, faulty.operation)

    def test_lost_answers_make_duplicates(
        self, neptune_loopback: NeptuneServer
    ) -> None:
        """Points that were stored are sent again, and refused."""
        run = start()
        neptune_loopback.plant("executeOperations", drop())
        with pytest.raises(Exception, match="strictly increasing"):
            log_floats(run, "loss", [1.0, 2.0])
        run.stop()
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [1, 2] == [point.value for point in got.points("loss")]

    def test_downloads_that_break_off(
        self, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        """The client tries a lost answer again, but no half of one."""
        file = tmp_path / "file"
        add_run(neptune_loopback, PROJECT, {"file": File(b"x" * 100)})
        with read() as run:
            neptune_loopback.plant("downloadAttribute", truncate())
            with pytest.raises(Exception, match="IncompleteRead"):
                run["file"].download(str(file), progress_bar=False)
            assert file.stat().st_size < 100
            neptune_loopback.plant("downloadAttribute", drop())
            run["file"].download(str(file), progress_bar=False)

        assert b"x" * 100 == file.read_bytes()

    def test_making_a_run_twice(self, neptune_loopback: NeptuneServer) -> None:
        """With a custom id a lost answer makes no second run; without one it does."""
        for id in (ID, None):
            neptune_loopback.plant("createExperiment", drop())
            start(id).stop()

        assert 3 == len(neptune_loopback.projects[PROJECT].runs)

    def test_refused_for_good(self, neptune_loopback: NeptuneServer) -> None:
        """What the client takes for an answer is one."""
        neptune_loopback.plant("createExperiment", refuse(403), times=None)
        with pytest.raises(neptune.exceptions.Forbidden):
            start()

        assert 1 == neptune_loopback.count("createExperiment")

    @pytest.mark.parametrize(
        ("denial", "error"),
        [
            (Deny(422, title="no room"), "NeptuneLimitExceedException"),
            (
                Deny(422, "ATTRIBUTES_PER_EXPERIMENT_LIMIT_EXCEEDED"),
                "NeptuneFieldCountLimitExceedException",
            ),
            (Deny(404, "EXPERIMENT_NOT_FOUND"), "ObjectNotFound"),
        ],
    )
    def test_denials(
        self, neptune_loopback: NeptuneServer, denial: Deny, error: str
    ) -> None:
        """The server can give a reason why not."""
        neptune_loopback.plant("executeOperations", denial, skip=1)
        with pytest.raises(Exception) as caught:
            start()["a"] = 1

        assert error == type(caught.value).__name__

    def test_tokens_are_renewed(self, neptune_loopback: NeptuneServer) -> None:
        """A token that is about to end is replaced."""
        neptune_loopback.token_seconds = 20
        with start() as run:
            run["a"] = 1

        assert 5 < neptune_loopback.count("openid-connect/token")
        assert 1 == neptune_loopback.projects[PROJECT].run(ID)["a"]

    def test_delays(self, neptune_loopback: NeptuneServer) -> None:
        """An answer can be late."""
        neptune_loopback.plant("/experiments", delay(0.3))
        before = time.monotonic()
        start().stop()

        assert time.monotonic() - before >= 0.3

    def test_forgetting(self, neptune_loopback: NeptuneServer) -> None:
        """The server can say that it has stored what it has not."""
        neptune_loopback.plant(
            "executeOperations", Forget("metrics/*", keep=1), times=None
        )
        with start() as run:
            log_floats(run, "metrics/loss", [1.0, 2.0])
            log_floats(run, "other", [1.0, 2.0])
            run["metrics/x"] = 1
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert [1] == [point.value for point in got.points("metrics/loss")]
        assert 2 == len(got.points("other"))
        assert "metrics/x" not in got

    def test_forgetting_files(self, neptune_loopback: NeptuneServer) -> None:
        """Files can be forgotten, too."""
        neptune_loopback.plant("/upload", Forget("lost*"), times=None)
        Path("a").write_text("a")
        Path("b").write_text("b")
        with start() as run:
            for name in ("lost", "kept"):
                run[name].upload("a", wait=True)
            run["lost set"].upload_files(["a", "b"], wait=True)
        got = neptune_loopback.projects[PROJECT].run(ID)

        assert "kept" in got
        assert {"lost", "lost set"}.isdisjoint(got.attributes)

    def test_lag(self, neptune_loopback: NeptuneServer) -> None:
        """New data shows only after a while, and then all of it."""
        with start() as run:
            run["a"] = 1
            neptune_loopback.lag = 60
            run["a"] = 2
            log_floats(run, "loss", [1.0])
            Path("x").write_text("x")
            run["file"].upload("x", wait=True)
            assert 1 == run["a"].fetch()
            late = read()
            assert not late.exists("loss")
            late.stop()
            run.wait()
            neptune_loopback.show_all()
            assert 2 == run["a"].fetch()
            assert read().exists("file")
            assert 1 == len(run["loss"].fetch_values(progress_bar=False))

    def test_lag_of_tables(self, neptune_loopback: NeptuneServer) -> None:
        """A run can be there and not in the table yet."""
        neptune_loopback.lag = 60
        start().stop()
        with neptune.init_project(PROJECT, mode="read-only") as project:

            def rows() -> int:
                return len(project.fetch_runs_table(progress_bar=False).to_rows())

            assert 0 == rows()
            neptune_loopback.show_all()
            start().stop()
            assert 1 == rows()


class TestTheServerItself:
    def test_starts_and_ends_at_once(self) -> None:
        """A server costs next to nothing."""
        before = time.monotonic()
        with neptune_server() as server, neptune_client(server):
            assert server.api_token == os.environ["NEPTUNE_API_TOKEN"]
        assert time.monotonic() - before < 5
        assert "NEPTUNE_API_TOKEN" not in os.environ

    def test_many_points_in_one_request(self, neptune_loopback: NeptuneServer) -> None:
        """Thousands of points at once are nothing special."""
        made = add_run(neptune_loopback, PROJECT)
        operations = neptune.internal.operation
        points = [
            operations.LogFloats.ValueType(float(n), float(n), float(NOW + n))
            for n in range(20_000)
        ]
        backend = _backend()
        before = time.monotonic()
        assert [] == _execute(
            backend, operations.LogFloats(["loss"], points), id=made.id
        )
        assert time.monotonic() - before < 5

        assert 20_000 == len(made.points("loss"))

    def test_requests_are_counted(self, neptune_loopback: NeptuneServer) -> None:
        """By the name of an operation, or a part of its path."""
        start().stop()

        assert 1 == neptune_loopback.count("createExperiment")
        assert 0 < neptune_loopback.count("/attributes/operations")
        (made,) = neptune_loopback.asked("createExperiment")
        assert "POST" == made.method

    def test_runs_left_open_are_stopped(self) -> None:
        """A test that fails keeps no process from ending."""
        with neptune_server() as server, neptune_client(server):
            start(mode="async")["a"] = 1
        assert 1 == server.projects[PROJECT].run(ID)["a"]
        assert not [t for t in threading.enumerate() if t.name.startswith("Neptune")]


def _backend() -> Any:
    from neptune.internal.backends.hosted_neptune_backend import HostedNeptuneBackend
    from neptune.internal.credentials import Credentials

    return HostedNeptuneBackend(Credentials.from_token())


def _execute(backend: Any, *operations: Any, id: str | None = None) -> list[Any]:
    from neptune.core.components.operation_storage import OperationStorage
    from neptune.internal.container_type import ContainerType

    id = id or backend.get_metadata_container(f"{PROJECT}/PROJ-1", None).id
    _, errors = backend.execute_operations(
        id, ContainerType.RUN, [*operations], OperationStorage(Path())
    )
    return [*errors]
