"""The loopback Neptune server (3.x) holds up to Neptune's own clients."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from neptune_api.errors import ApiKeyRejectedError
from neptune_scale.exceptions import NeptuneScaleError
from support.neptune3_server import (
    Deny,
    File,
    FileRef,
    Forget,
    Histogram,
    Neptune3Server,
    Point,
    Preview,
    Reject,
    Run,
    StringSet,
    add_run,
    delay,
    drop,
    files,
    floats,
    histograms,
    lie,
    neptune3_client,
    neptune3_server,
    refuse,
    strings,
    sync_here,
    truncate,
)

#: The clients, which come with the first test.
scale: Any = None
query: Any = None

PROJECT = "team/proj"
NOW = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
MS = 1_700_000_000_000

#: What a client says by itself of a run is left out.
QUIET: dict[str, Any] = {
    "enable_console_log_capture": False,
    "source_tracking_config": None,
}


@pytest.fixture(autouse=True, scope="module")
def _client() -> None:
    global scale
    scale = pytest.importorskip("neptune_scale")


@pytest.fixture
def reader() -> Any:
    """The client that reads."""
    global query
    query = pytest.importorskip("neptune_query")
    pytest.importorskip("neptune_query.runs")
    return query


def at(seconds: float) -> datetime:
    # The client cuts times to whole milliseconds, after errors of a float.
    return NOW + timedelta(seconds=seconds, microseconds=500)


class Log:
    """A run that is written offline; `sync` sends all, and returns the errors."""

    def __init__(self, run_id: str = "a", project: str = PROJECT, **facts: Any) -> None:
        self.folder = Path(f"logs-{time.monotonic_ns()}")
        given = {**QUIET, "mode": "offline", "log_directory": self.folder, **facts}
        self.run = scale.Run(run_id=run_id, project=project, **given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    @property
    def database(self) -> Path:
        (found,) = self.folder.glob("*/run_operations.sqlite3")
        return found

    def sync(self) -> list[str]:
        self.run.close()
        return [type(error).__name__ for error in sync_here(self.database)]


def metrics(log: Any, path: str, values: list[float], first: int = 0) -> None:
    for step, value in enumerate(values, first):
        log.log_metrics({path: value}, step=step, timestamp=at(step))


def run_of(server: Neptune3Server, run_id: str = "a", project: str = PROJECT) -> Run:
    return server.projects[project].runs[run_id]


def left() -> list[Any]:
    """Which processes and threads of the client there are."""
    names = ("ErrorsMonitor", "LagTracker", "ProcessSupervisor", "ConsoleLog")
    threads = [t for t in threading.enumerate() if t.name.startswith(names)]
    return [*multiprocessing.active_children(), *threads]


def refused(server: Neptune3Server) -> list[str]:
    """Which codes there were besides "all is well"."""
    codes = [code for one in server.ingested.values() for _, code in one.codes]
    return [code for code in codes if code != "OK"]


@contextmanager
def posting(server: Neptune3Server) -> Iterator[Any]:
    """What a client sends, without a client's own checks."""
    from neptune_api.proto.neptune_pb.ingest.v1 import common_pb2
    from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
    from neptune_scale.net.api_client import ApiClient

    api = ApiClient(api_token=server.api_token)

    def post(run_id: str = "a", create: bool = False, **facts: Any) -> int:
        operation = RunOperation(project=PROJECT, run_id=run_id)
        if create:
            operation.create.CopyFrom(common_pb2.Run(**facts))
        else:
            snapshots = [common_pb2.UpdateRunSnapshot(**facts)]
            operation.update_batch.snapshots.extend(snapshots)
        return int(api.submit(operation, run_id).status_code)

    try:
        yield post
    finally:
        api.close()


class TestWriting:
    def test_values_of_all_types(self, neptune3_loopback: Neptune3Server) -> None:
        """Single values arrive as they were said."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123500, tzinfo=UTC)
        said = {
            "f": 0.1,
            "i": 2**63 - 1,
            "j": -(2**63),
            "b": True,
            "s": "ü\n☃",
            "e": "",
        }
        log = Log(creation_time=NOW)
        log.log_configs({f"params/{name}": value for name, value in said.items()})
        log.log_configs({"params/d": when, "nan": math.nan, "inf": -math.inf})
        log.log_configs({"set": {"b", "a"}, "params": "also", "params//x": 1})
        assert [] == log.sync()
        got = run_of(neptune3_loopback)

        time = round(when.timestamp() * 1000 - 0.5)
        assert {**said, "d": time, "/x": 1} == got.values("params/")
        assert math.isnan(got["nan"])
        assert -math.inf == got["inf"]
        assert {"a", "b"} == got["set"]
        assert "also" == got["params"]
        assert MS == got.created

    def test_series_of_all_kinds(self, neptune3_loopback: Neptune3Server) -> None:
        """Points come with their steps and times; what is no number, too."""
        from neptune_scale.types import Histogram as Given

        log = Log()
        for step, value in ((0, 1.0), (0.5, math.nan), (1e9 + 0.25, math.inf)):
            log.log_metrics({"loss": value}, step=step, timestamp=at(step))
        log.log_string_series({"log": "ü"}, step=3, timestamp=at(3))
        log.log_histograms({"h": Given([0, 1, 2], counts=[3, 2**40])}, step=0)
        log.log_histograms({"h": Given([0, 1, 2], densities=[0.25, 0.5])}, step=1)
        log.log_metrics({"soon": 1.0}, step=1, timestamp=at(1))
        log.log_metrics(
            {"soon": 2.0}, step=2, timestamp=at(2), preview=True, preview_completion=0.5
        )
        assert [] == log.sync()
        got = run_of(neptune3_loopback)

        points = got.points("loss")
        assert [0.0, 0.5, 1e9 + 0.25] == [point.step for point in points]
        assert [MS, MS + 500] == [point.timestamp for point in points[:2]]
        assert (1.0, math.inf) == (points[0].value, points[2].value)
        assert math.isnan(points[1].value)
        assert [Point(3, "ü", MS + 3000)] == got.points("log")
        assert [
            Histogram((0, 1, 2), (3, 2**40), "COUNTING"),
            Histogram((0, 1, 2), (0.25, 0.5), "DENSITY"),
        ] == [point.value for point in got.points("h")]
        assert [Point(1, 1.0, MS + 1000)] == got.points("soon")
        assert [Preview(2, 2.0, MS + 2000, 0.5)] == got.previews["soon"]

    def test_tags(self, neptune3_loopback: Neptune3Server) -> None:
        """Tags are added and removed."""
        log = Log()
        log.add_tags(["x", "y"])
        log.add_tags({"g"}, group_tags=True)
        log.remove_tags(["y", "z"])
        log.log_configs({"sys/failed": True, "sys/description": "words"})
        assert [] == log.sync()
        got = run_of(neptune3_loopback)

        assert ({"x"}, {"g"}) == (got["sys/tags"], got["sys/group_tags"])
        assert (True, "words") == (got["sys/failed"], got["sys/description"])

    @pytest.mark.parametrize("provider", ["gcp", "azure", "aws"])
    def test_files(
        self,
        neptune3_loopback: Neptune3Server,
        provider: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Files and series of them arrive, large ones in parts."""
        monkeypatch.setenv("NEPTUNE_FILE_UPLOAD_CHUNK_SIZE", str(256 * 1024))
        server = neptune3_loopback
        server.provider, server.part_size = provider, 256 * 1024
        large = bytes(range(256)) * 2500
        Path("model ü.bin").write_bytes(large)
        log = Log()
        log.assign_files({"a/large": "model ü.bin", "small": b"1", "empty": b""})
        given = scale.types.File(b"<p>", mime_type="text/html", destination="own/p ü")
        log.assign_files({"page": given})
        log.log_files({"series": b"one"}, step=1, timestamp=at(1))
        log.log_files({"series": b"two"}, step=2.5, timestamp=at(2))
        assert [] == log.sync()
        got = run_of(server)

        assert (large, b"1", b"") == tuple(map(got.data, ("a/large", "small", "empty")))
        assert FileRef("own/p ü", 3, "text/html") == got["page"]
        assert b"<p>" == server.projects[PROJECT].files["own/p ü"].data
        assert [1, 2.5] == [point.step for point in got.points("series")]
        assert (b"one", b"two") == (got.data("series", 0), got.data("series"))
        parts = server.projects[PROJECT].files[got["a/large"].path].requests
        assert {"gcp": 3, "aws": 3, "azure": 1}[provider] == parts

    def test_asynchronously(self, neptune3_loopback: Neptune3Server) -> None:
        """A run is sent by a process of its own, which ends with it."""
        with scale.Run(run_id="a", project=PROJECT, **QUIET) as run:
            metrics(run, "loss", [float(n) for n in range(100)])
            run.assign_files({"file": b"data"})
            assert neptune3_loopback.url in run.get_run_url()
            assert run.wait_for_processing(timeout=30, verbose=False)
            got = run_of(neptune3_loopback)
            expected = [Point(n, n, MS + n * 1000) for n in range(100)]
            assert expected == got.points("loss")
            assert b"data" == got.data("file")

        assert [] == left()
        assert [] == [*Path(".neptune").iterdir()]

    def test_all_can_be_synced(self, neptune3_loopback: Neptune3Server) -> None:
        """What was written offline is sent by the client's own command."""
        from neptune_scale.cli.sync import sync_all

        log = Log()
        metrics(log, "loss", [1.0, 2.0])
        log.assign_files({"file": b"data"})
        log.close()
        assert [] == neptune3_loopback.requests
        sync_all(log.database, neptune3_loopback.api_token, timeout=30)
        got = run_of(neptune3_loopback)

        assert (2, b"data") == (len(got.points("loss")), got.data("file"))
        assert not [path for path in log.folder.rglob("*") if path.is_file()]
        assert [] == left()

    def test_nothing_is_sent_when_disabled(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        with scale.Run(run_id="a", project=PROJECT, mode="disabled", **QUIET) as run:
            metrics(run, "loss", [1.0])

        assert [] == neptune3_loopback.requests
        assert [] == [*Path().iterdir()]

    def test_runs_are_gone_on_with(self, neptune3_loopback: Neptune3Server) -> None:
        """A run that there is goes on where it was; the client is told that it is."""
        first, second = Log(creation_time=NOW), Log(experiment_name="later")
        metrics(first, "loss", [1.0, 2.0])
        metrics(second, "loss", [3.0], first=2)
        assert [] == first.sync()
        assert ["NeptuneRunDuplicate"] == second.sync()
        got = run_of(neptune3_loopback)

        assert [1.0, 2.0, 3.0] == [point.value for point in got.points("loss")]
        assert ("PROJ-1", MS, None) == (got.sys_id, got.created, got.experiment)

    def test_sending_again_changes_nothing(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        """What was sent before is told to be there already."""
        log = Log()
        metrics(log, "loss", [1.0, math.nan])
        log.log_configs({"a": 1})
        log.add_tags(["x"])
        log.close()
        shutil.copytree(log.folder, "copy")
        assert [] == log.sync()
        (copy,) = Path("copy").glob("*/run_operations.sqlite3")
        told = sorted({type(error).__name__ for error in sync_here(copy)})

        assert ["NeptuneRunDuplicate", "NeptuneSeriesPointDuplicate"] == told
        assert 2 == len(run_of(neptune3_loopback).points("loss"))

    def test_projects(self, neptune3_loopback: Neptune3Server) -> None:
        """Projects are made and listed; where one is missing, all is refused."""
        from neptune_scale.projects import create_project

        server = neptune3_loopback
        server.missing.add(PROJECT)
        log = Log()
        metrics(log, "loss", [1.0])
        assert ["NeptuneProjectNotFound"] == log.sync()
        assert {} == server.projects
        create_project(PROJECT, description="words")
        assert "words" == server.projects[PROJECT].description
        assert [] == log.sync()
        assert [PROJECT] == [*server.projects]

    def test_tokens(
        self, neptune3_loopback: Neptune3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Access tokens are fetched anew when they end; a wrong key gets none."""
        neptune3_loopback.token_seconds = 5
        log = Log()
        metrics(log, "loss", [1.0])
        assert [] == log.sync()
        assert neptune3_loopback.count("refresh_token")
        monkeypatch.setenv("NEPTUNE_API_TOKEN", _token(neptune3_loopback, "wrong"))
        log = Log()
        assert ["NeptuneInvalidCredentialsError"] == _failure(log)


def _token(server: Neptune3Server, key: str) -> str:
    from support.neptune_server.tokens import api_token

    return api_token(server.url, key)


def _failure(log: Log) -> list[str]:
    try:
        return log.sync()
    except (NeptuneScaleError, ApiKeyRejectedError) as error:
        return [type(error).__name__.replace("ApiKeyRejectedError", INVALID)]


INVALID = "NeptuneInvalidCredentialsError"


class TestRules:
    def test_steps_increase(self, neptune3_loopback: Neptune3Server) -> None:
        """A point that is not after the last is refused; the rest is taken."""
        log = Log()
        for step, value in ((2, 1.0), (1, 2.0), (2, 2.0), (2, 1.0), (3, 3.0)):
            log.log_metrics({"loss": value}, step=step, timestamp=at(9))
        log.log_metrics({"loss": 4.0}, step=4, timestamp=at(8))
        told = log.sync()
        got = run_of(neptune3_loopback)

        assert [1.0, 3.0] == [point.value for point in got.points("loss")]
        assert {
            "NeptuneSeriesStepNonIncreasing",
            "NeptuneSeriesPointDuplicate",
            "NeptuneSeriesTimestampDecreasing",
        } == set(told)

    def test_types_stay(self, neptune3_loopback: Neptune3Server) -> None:
        """An attribute keeps its type; the system's belong to the system."""
        log = Log()
        log.log_configs({"a": 1})
        log.log_configs({"a": 1.0, "b": 2})
        log.log_metrics({"b": 1.0}, step=0)
        assert ["NeptuneAttributeTypeMismatch"] == log.sync()[:1]
        log = Log()
        log.log_configs({"sys/id": "x", "sys/failed": 1})
        assert "NeptuneAttributePathNonWritable" in log.sync()
        got = run_of(neptune3_loopback)

        assert (1, 2) == (got["a"], got["b"])
        assert "sys/failed" not in got

    def test_what_the_client_would_not_send(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        """Limits that the client knows, the server knows too."""
        from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import (
            Histogram as Given,
        )
        from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Step, Value

        server = neptune3_loopback
        bad = [
            ("FIELD_PATH_EXCEEDS_SIZE_LIMIT", {"assign": {"x" * 1025: Value(int64=1)}}),
            ("FIELD_PATH_EMPTY", {"assign": {"": Value(int64=1)}}),
            ("SERIES_STEP_INVALID", {"append": {"x": Value(float64=1)}}),
            (
                "SERIES_STEP_TOO_LARGE",
                {"append": {"x": Value(float64=1)}, "step": Step(whole=10**12)},
            ),
            (
                "HISTOGRAM_BIN_EDGES_NOT_INCREASING",
                {
                    "append": {"x": Value(histogram=Given(bin_edges=[1, 0]))},
                    "step": Step(whole=1),
                },
            ),
        ]
        with posting(server) as post:
            assert 200 == post(assign={"a": Value(int64=1)})
            assert ["RUN_NOT_FOUND"] == refused(server)
            post("a/b", create=True)
            post(create=True)
            server.ingested.clear()
            for code, facts in bad:
                post(**facts)
                assert code == refused(server)[-1]
            post(assign={"x" * 1024: Value(int64=1)})
            assert len(bad) == len(refused(server))
            large = Value(string="x" * 2 * 1024 * 1024)
            assert 413 == post(assign={"large": large})

        assert ["x" * 1024] == [*run_of(server).attributes]

    def test_forks(self, neptune3_loopback: Neptune3Server) -> None:
        """A run goes on from a step of another, whose points it has then."""
        server = neptune3_loopback
        root = Log("root", experiment_name="x", creation_time=NOW)
        root.log_configs({"lr": 1.0, "kept": "yes"})
        root.add_tags(["t"])
        metrics(root, "loss", [float(n) for n in range(10)])
        child = Log("child", experiment_name="x", fork_run_id="root", fork_step=5)
        child.log_configs({"lr": 0.5})
        child.log_metrics({"loss": 0.0}, step=4)
        metrics(child, "loss", [100.0, 101.0, 102.0], first=5)
        bare = Log("bare", fork_run_id="child", fork_step=6.5, inherit_configs=False)
        metrics(bare, "loss", [200.0], first=7)
        assert [] == root.sync()
        assert ["NeptuneSeriesStepNotAfterForkPoint"] == child.sync()
        assert [] == bare.sync()

        got = run_of(server, "bare")
        history = [(point.step, point.value) for point in got.history("loss")]
        inherited = [(float(n), float(n)) for n in range(5)]
        assert [*inherited, (5, 100), (6, 101), (7, 200)] == history
        assert 1 == len(got.points("loss"))
        assert (2, "root", 6.5) == (got.depth, got.root.run_id, got.fork_step)
        assert "lr" not in got
        got = run_of(server, "child")
        assert (0.5, "yes") == (got["lr"], got["kept"])
        assert "sys/tags" not in got

    def test_forks_that_make_no_sense(self, neptune3_loopback: Neptune3Server) -> None:
        """A parent that is missing is told of; another one than before is, too."""
        log = Log("orphan", fork_run_id="gone", fork_step=1)
        metrics(log, "loss", [1.0])
        assert ["NeptuneRunForkParentNotFound"] == log.sync()
        assert "gone" == run_of(neptune3_loopback, "orphan").requested_parent
        add_run(neptune3_loopback, PROJECT, "root")
        other = Log("orphan", fork_run_id="root", fork_step=1)
        assert ["NeptuneRunConflicting"] == other.sync()


class TestReading:
    def test_values(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """All types of single values are read as they were planted."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
        said = {"f": 0.1, "i": 2**63 - 1, "b": True, "s": "ü\n☃", "d": when}
        more = {"set": {"b", "a"}, "none": StringSet(), "nan": math.nan}
        add_run(neptune3_loopback, PROJECT, "a", {**said, **more}, created=NOW)
        table = reader.runs.fetch_runs_table(
            project=PROJECT, attributes=".*", type_suffix_in_column_names=True
        )
        row = {name.rpartition(":")[0]: value for name, value in table.loc["a"].items()}

        assert said == {name: row[name] for name in said}
        assert ({"a", "b"}, set()) == (row["set"], row["none"])
        assert math.isnan(row["nan"])
        assert ("PROJ-1", "a", "owner") == tuple(
            row[f"sys/{name}"] for name in ("id", "custom_run_id", "owner")
        )
        assert NOW == row["sys/creation_time"]
        assert (False, False) == (row["sys/archived"], row["sys/failed"])
        assert "sys/name" not in row

    def test_experiments(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """The youngest run of an experiment stands for it."""
        for run_id, name in (("a", "x"), ("b", "x"), ("c", "y"), ("d", None)):
            add_run(neptune3_loopback, PROJECT, run_id, {"at": run_id}, experiment=name)
        found = reader.fetch_experiments_table(
            project=PROJECT, attributes=["at", "sys/experiment/is_head"]
        )

        assert {"x": "b", "y": "c"} == dict(found["at"])
        assert ["x", "y"] == sorted(reader.list_experiments(project=PROJECT))
        assert [*"abcd"] == sorted(reader.runs.list_runs(project=PROJECT))

    def test_filters(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """Runs are found by what they hold; by no more than that."""
        from neptune_query.filters import Attribute, Filter

        server = neptune3_loopback
        facts: dict[str, dict[str, Any]] = {
            "one": {"n": 1, "s": 'quo"te', "m": floats([1.0, 5.0]), "t": {"x"}},
            "two": {"n": 2, "s": "back\\slash", "m": floats([3.0, 2.0]), "t": {"y"}},
            "three": {"n": 3.0, "b": True, "d": NOW},
        }
        for run_id, attributes in facts.items():
            add_run(server, PROJECT, run_id, attributes)
        add_run(server, PROJECT, "archived", {"n": 1}, archived=True)
        id = Attribute("sys/custom_run_id", type="string")
        shown = Filter.ne(Attribute("sys/archived", type="bool"), True)
        last = Attribute("m", type="float_series")
        cases = [
            (Filter.matches(id, ".+") & shown, {"one", "two", "three"}),
            (Filter.matches(id, "^t") & shown, {"two", "three"}),
            (Filter.eq(Attribute("n", type="int"), 1), {"one", "archived"}),
            (Filter.ge(Attribute("n", type="int"), 2), {"two"}),
            (Filter.eq(Attribute("s", type="string"), 'quo"te'), {"one"}),
            (Filter.eq(Attribute("s", type="string"), "back\\slash"), {"two"}),
            (Filter.lt(last, 3), {"two"}),
            (Filter.contains_all(Attribute("t", type="string_set"), "x"), {"one"}),
            (Filter.exists(Attribute("d", type="datetime")), {"three"}),
            (Filter.eq(Attribute("d", type="datetime"), NOW), {"three"}),
            (~Filter.exists(Attribute("s", type="string")), {"three", "archived"}),
            (
                Filter.eq("b", True) | Filter.eq(Attribute("n", type="int"), 2),
                {"two", "three"},
            ),
        ]
        for condition, expected in cases:
            found = reader.runs.list_runs(project=PROJECT, runs=condition)
            assert expected == set(found), str(condition)
        assert ["two"] == reader.runs.list_runs(project=PROJECT, runs=["two", "gone"])

    def test_attributes_by_name_and_type(
        self, neptune3_loopback: Neptune3Server, reader: Any
    ) -> None:
        from neptune_query.filters import AttributeFilter

        server = neptune3_loopback
        add_run(server, PROJECT, "a", {"p/x": 1, "p/y": 1.0, "m/x": floats([1.0])})
        add_run(server, PROJECT, "b", {"p/x": "one", "p.x": 2})

        def names(attributes: Any, runs: Any = None) -> list[str]:
            return list(
                reader.runs.list_attributes(
                    project=PROJECT, runs=runs, attributes=attributes
                )
            )

        assert ["m/x"] == names(AttributeFilter(type=["float_series"]))
        assert ["p.x", "p/x", "p/y"] == names("^p")
        assert ["p/x", "p/y"] == names(AttributeFilter(name=["p/x", "p/y"]))
        assert ["p/y"] == names("^p & !x$")
        assert ["p/x"] == names(AttributeFilter(name=["p/x"]), runs=["b"])

    def test_metrics(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """Points are read with their times, of a run and of what it was forked from."""
        server = neptune3_loopback
        values = [1.0, math.nan, math.inf, 4.0]
        add_run(server, PROJECT, "a", {"m": floats(values, [0, 0.5, 1, 2])})
        add_run(server, PROJECT, "b", {"m": floats([9.0], [1.5])}, fork=("a", 1))

        def fetch(**facts: Any) -> list[tuple[float, float]]:
            found = reader.runs.fetch_metrics(
                project=PROJECT, runs=["b"], attributes=["m"], **facts
            )
            return [(step, value) for (_, step), value in found["m"].items()]

        own, whole = fetch(lineage_to_the_root=False), fetch()
        assert [(1.5, 9.0)] == own
        assert [0, 0.5, 1, 1.5] == [step for step, _ in whole]
        assert math.isnan(whole[1][1])
        assert [(1, math.inf), (1.5, 9.0)] == fetch(tail_limit=2)
        assert [(0, 1.0)] == fetch(step_range=(0, 0.25))
        found = reader.runs.fetch_metrics(
            project=PROJECT, runs=["a"], attributes=["m"], include_time="absolute"
        )
        times = [round(one.timestamp()) for one in found[("m", "absolute_time")]]
        assert [0, 1, 2, 3] == times

    def test_previews(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """Points that are not final are read where they are asked for."""
        run = add_run(neptune3_loopback, PROJECT, "a", {"m": floats([1.0])})
        run.previews["m"] = [Preview(1.0, 2.0, 1000, 0.5)]

        def fetch(**facts: Any) -> Any:
            return reader.runs.fetch_metrics(
                project=PROJECT, runs=["a"], attributes=["m"], **facts
            )

        assert 1 == len(fetch())
        found = fetch(include_point_previews=True)
        assert [False, True] == list(found[("m", "is_preview")])
        assert [1.0, 0.5] == list(found[("m", "preview_completion")])

    def test_many_pages(
        self,
        neptune3_loopback: Neptune3Server,
        reader: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is more than a page holds comes in several."""
        server = neptune3_loopback
        server.page_size = 3
        numbers = [float(number) for number in range(10)]
        lines = [f"line {number}" for number in range(10)]
        for number in range(7):
            facts = {"m": floats(numbers), "l": strings(lines), "n": number}
            add_run(server, PROJECT, f"r{number}", facts)
        from neptune_query.internal import env
        from neptune_query.internal.retrieval import metrics as reading

        monkeypatch.setattr(reading, "TOTAL_POINT_LIMIT", 30)
        monkeypatch.setenv(env.NEPTUNE_QUERY_SYS_ATTRS_BATCH_SIZE.name, "2")
        metrics = reader.runs.fetch_metrics(
            project=PROJECT, runs="r", attributes=["m"], lineage_to_the_root=False
        )
        series = reader.runs.fetch_series(project=PROJECT, runs="r", attributes=["l"])

        assert 70 == len(metrics)
        assert numbers == list(metrics.loc["r6"]["m"])
        assert 70 == len(series)
        assert lines == list(series.loc["r3"]["l"])
        assert server.count("get_multiple_float_series_values_proto") > 1
        assert server.count("get_series_values_proto") > 1

    def test_buckets(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """A long series is told of in few buckets."""
        values = [float(number) for number in range(1000)]
        facts = {"m $x{y}": floats(values)}
        add_run(neptune3_loopback, PROJECT, "a", facts, experiment="x")
        found = reader.fetch_metric_buckets(
            project=PROJECT, experiments=["x"], y="^m ", limit=10
        )

        assert 10 == len(found)

    def test_other_series(self, neptune3_loopback: Neptune3Server, reader: Any) -> None:
        """Histograms and strings are read with their steps."""
        kept = [Histogram((0, 1), (2,)), Histogram((0, 1, 2), (0.5, 0.5), "DENSITY")]
        facts = {"h": histograms(kept, [1, 2.5]), "l": strings(["a", "ü"], [1, 2])}
        add_run(neptune3_loopback, PROJECT, "a", facts)
        found = reader.runs.fetch_series(
            project=PROJECT, runs=["a"], attributes=["h", "l"]
        )

        one, other = found["h"].loc["a"].dropna()
        assert ("COUNTING", [0, 1], [2]) == (one.type, one.edges, one.values)
        assert ("DENSITY", [0.5, 0.5]) == (other.type, other.values)
        assert ["a", "ü"] == list(found["l"].dropna())

    @pytest.mark.parametrize("provider", ["gcp", "azure", "aws"])
    def test_files(
        self, neptune3_loopback: Neptune3Server, reader: Any, provider: str
    ) -> None:
        """Files and series of them are downloaded, empty ones too."""
        from neptune_query.filters import AttributeFilter

        server = neptune3_loopback
        server.provider = provider
        facts = {
            "a/ü.pt": File(b"\0" * 100_000),
            "empty": File(b"", "text/plain"),
            "s": files([File(b"1", "text/plain"), File(b"2", "text/plain")], [0, 1.5]),
        }
        run = add_run(server, PROJECT, "a", facts)
        table = reader.runs.fetch_runs_table(
            project=PROJECT, attributes=AttributeFilter(type=["file"])
        )
        got = reader.runs.download_files(files=table, destination="out")
        assert b"\0" * 100_000 == Path(got["a/ü.pt"].iloc[0]).read_bytes()
        assert b"" == Path(got["empty"].iloc[0]).read_bytes()
        series = reader.runs.fetch_series(project=PROJECT, runs=["a"], attributes=["s"])
        got = reader.runs.download_files(files=series, destination="out")
        assert [b"1", b"2"] == [Path(one).read_bytes() for one in got["s"]]
        del server.projects[PROJECT].files[run["empty"].path]
        got = reader.runs.download_files(files=table[["empty"]], destination="out")
        assert got["empty"].isna().all()


class TestFaults:
    def test_refused_requests_are_sent_again(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        server = neptune3_loopback
        server.plant("submit", refuse(503), when=lambda said: said["kind"] == "update")
        server.plant("bulk_check_status", refuse(429))
        log = Log()
        metrics(log, "loss", [1.0])
        assert [] == log.sync()

        assert 3 == server.count("submit")
        assert [1.0] == [point.value for point in run_of(server).points("loss")]

    @pytest.mark.parametrize("fault", [drop(), lie(500), truncate()])
    def test_lost_answers(self, neptune3_loopback: Neptune3Server, fault: Any) -> None:
        """What was done though no answer came is there once only."""
        server = neptune3_loopback
        server.plant("submit", fault, when=lambda said: said["paths"] == ["loss"])
        log = Log()
        metrics(log, "loss", [1.0, 2.0])
        told = log.sync()

        assert {"NeptuneSeriesPointDuplicate"} >= set(told)
        assert [1.0, 2.0] == [point.value for point in run_of(server).points("loss")]

    def test_lies(self, neptune3_loopback: Neptune3Server) -> None:
        """Data can be lost though all seems well, or be refused for any reason."""
        server = neptune3_loopback
        server.plant("submit", Forget("loss", keep=2), times=None)
        log = Log()
        metrics(log, "loss", [1.0, 2.0, 3.0])
        log.log_configs({"a": 1})
        assert [] == log.sync()
        assert (2, 1) == (len(run_of(server).points("loss")), run_of(server)["a"])
        server.clear()
        server.plant("submit", Reject("FIELD_TYPE_UNSUPPORTED"), skip=1)
        log = Log("b")
        log.log_configs({"a": 1})
        assert ["NeptuneAttributeTypeUnsupported"] == log.sync()
        assert "a" not in run_of(server, "b")

    def test_files_are_lost(self, neptune3_loopback: Neptune3Server) -> None:
        """A file can be missing or cut short, and the client is none the wiser."""
        server = neptune3_loopback
        server.plant("upload", Forget("*/gone-*"), times=None)
        log = Log()
        log.assign_files({"gone": b"1234"})
        assert [] == log.sync()
        assert run_of(server)["gone"].path not in server.projects[PROJECT].files
        server.clear()
        server.plant("upload", Forget("*/short-*", keep=2), times=None)
        log = Log("b")
        log.assign_files({"short": b"1234", "whole": b"1234"})
        assert [] == log.sync()
        got = run_of(server, "b")
        assert (b"12", b"1234") == (got.data("short"), got.data("whole"))

    def test_what_was_refused_is_told_in_detail(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        """The paths of what was refused can be asked for by the requests' ids."""
        from neptune_api.api.ingestion import check_details
        from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
        from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2
        from neptune_api.types import File as Body
        from neptune_scale.net.api_client import ApiClient

        server = neptune3_loopback
        log = Log()
        log.log_configs({"a": 1, "sys/id": "x"})
        assert ["NeptuneAttributePathNonWritable"] == log.sync()
        ids = [client_pb2.RequestId(value=id) for id in server.ingested]
        asked = client_pb2.BulkCheckDetail(project=PROJECT, ids=ids)
        api = ApiClient(api_token=server.api_token)
        told = check_details.sync_detailed(
            client=api.backend,
            body=Body(payload=asked.SerializeToString()),
            project_identifier=PROJECT,
        )
        api.close()
        (one,) = client_pb2.BulkIngestResultDetail.FromString(told.content).details

        assert "sys/id" == one.path
        assert IngestCode.FIELD_PATH_NON_WRITABLE == one.ingest_code

    def test_what_became_of_it_is_told_late(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        neptune3_loopback.status_lag = 0.2
        log = Log()
        log.log_configs({"a": 1})
        before = time.monotonic()
        assert [] == log.sync()
        assert time.monotonic() - before > 0.2
        assert neptune3_loopback.count("bulk_check_status") > 1

    def test_readers_see_it_late(
        self, neptune3_loopback: Neptune3Server, reader: Any
    ) -> None:
        server = neptune3_loopback
        add_run(server, PROJECT, "a", {"a": 1})
        server.lag = 60
        log, other = Log(), Log("late")
        log.log_configs({"b": 1})
        for one in (log, other):
            one.close()
        sync_here(log.database, other.database)

        def names() -> list[str]:
            return list(reader.runs.list_attributes(project=PROJECT, attributes="^.$"))

        assert (["a"], ["a"]) == (names(), reader.runs.list_runs(project=PROJECT))
        server.show_all()
        assert ["a", "b"] == names()
        assert {"a", "late"} == set(reader.runs.list_runs(project=PROJECT))

    @pytest.mark.parametrize("fault", [refuse(503), drop(), truncate()])
    def test_readers_try_again(
        self, neptune3_loopback: Neptune3Server, reader: Any, fault: Any
    ) -> None:
        add_run(neptune3_loopback, PROJECT, "a", {"a": 1})
        neptune3_loopback.plant("search_leaderboard_entries_proto", fault)
        assert ["a"] == reader.runs.list_runs(project=PROJECT)
        assert 2 == neptune3_loopback.count("search_leaderboard_entries_proto")

    def test_readers_are_denied(
        self, neptune3_loopback: Neptune3Server, reader: Any
    ) -> None:
        from neptune_query.exceptions import NeptuneProjectInaccessible

        neptune3_loopback.plant(
            "search_leaderboard_entries_proto", Deny(403, "ACCESS_DENIED")
        )
        with pytest.raises(NeptuneProjectInaccessible):
            reader.runs.list_runs(project=PROJECT)

    # The client for `azure` would wait for 15 seconds before it tried again.
    @pytest.mark.parametrize("provider", ["gcp", "aws"])
    def test_uploads_are_tried_again(
        self, neptune3_loopback: Neptune3Server, provider: str
    ) -> None:
        """A file that did not arrive stays with the client, and is sent later."""
        server = neptune3_loopback
        server.provider = provider
        server.plant("upload", drop())
        log = Log()
        log.assign_files({"file": b"data"})
        told = log.sync()
        if told:
            assert ["NeptuneFileUploadTemporaryError"] == told
        assert b"data" == run_of(server).data("file")

    def test_addresses_expire(
        self, neptune3_loopback: Neptune3Server, reader: Any
    ) -> None:
        """A reader asks for another address when one holds no longer."""
        from neptune_query.filters import AttributeFilter

        server = neptune3_loopback
        add_run(server, PROJECT, "a", {"file": File(b"data")})
        table = reader.runs.fetch_runs_table(
            project=PROJECT, attributes=AttributeFilter(type=["file"])
        )
        server.plant("download", refuse(400))
        got = reader.runs.download_files(files=table, destination="out")
        assert b"data" == Path(got["file"].iloc[0]).read_bytes()
        assert 2 == server.count("signed_url_generic")

    def test_delays_end_with_the_server(self) -> None:
        """A server that ends does not wait for what it would withhold."""
        with neptune3_server() as server, neptune3_client(server):
            server.plant("get_client_config", delay(60))
            asking = threading.Thread(target=_ask, args=(server.api_token,))
            asking.start()
            while not server.requests:
                time.sleep(0.01)
            before = time.monotonic()
        asking.join()
        assert time.monotonic() - before < 5


def _ask(token: str) -> None:
    from neptune_scale.net.api_client import ApiClient

    with pytest.raises(Exception):  # noqa: B017
        ApiClient(api_token=token)


def test_open_runs_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a test has left open ends with its server, whatever it waits for."""
    monkeypatch.chdir(tmp_path)
    with neptune3_server() as server, neptune3_client(server):
        server.plant("submit", refuse(503), times=None)
        run = scale.Run(run_id="a", project=PROJECT, **QUIET)
        run.log_configs({"a": 1})
        while not server.count("submit"):
            time.sleep(0.05)
        before = time.monotonic()

    assert time.monotonic() - before < 10
    assert [] == left()


def test_surroundings_are_as_before() -> None:
    """Nothing is left of a server: no variable, thread, process or file."""
    before, threads = dict(os.environ), threading.active_count()
    with neptune3_server() as server, neptune3_client(server):
        assert server.api_token == os.environ["NEPTUNE_API_TOKEN"]

    assert before == dict(os.environ)
    assert threads == threading.active_count()
    assert [] == left()
