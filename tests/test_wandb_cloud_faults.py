"""Refusals, lies and kills on the way to W&B: nothing counts that is not there."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import copies
from support.reading import run_at
from support.wandb_server import (
    Forget,
    WandbServer,
    drop,
    lie,
    refuse,
    truncate,
)

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.errors import ItemError, LocationError, StoreError, StoreNotFound
from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import Artifact, Failed, Item, Ref
from mlmigrate.stores import memory
from mlmigrate.stores.wandb_cloud import sending, writing
from mlmigrate.testing import suite
from mlmigrate.testing.suite import OTHER, RUN, MemorySources, Result

SINK = "wandb://team/proj"
#: The client gives up soon.
HASTY = ("settle=0.5", "retries=2")


def copy(origin: str, *options: str) -> Result:
    return copies.copied(origin, SINK, [*HASTY, *options])


def run_of(steps: int = 50, id: str = RUN, **more: Any) -> Item:
    return suite.run(
        id, metrics=(suite.points("loss", *((s, s / 7) for s in range(steps))),), **more
    )


def growing(steps: int = 50) -> Item:
    """Return a run that goes on: its rows are counted."""
    return run_of(steps, status="RUNNING", end_time=None)


def mark(server: WandbServer, id: str = RUN) -> Any:
    return server.runs["team", "proj", id].config["mlmigrate"]["mark"]


def steps(server: WandbServer, id: str = RUN) -> list[int]:
    return [row["_step"] for row in server.runs["team", "proj", id].history]


class TestRefusals:
    @pytest.mark.parametrize("make", [run_of, growing])
    def test_a_refused_stream(
        self,
        sources: MemorySources,
        wandb_loopback: WandbServer,
        make: Callable[[], Item],
    ) -> None:
        """The client says that all went well: the run fails, bears no mark, and is
        completed once the server takes its rows; others go on.
        """
        origin = sources(suite.experiment(), make(), run_of(id=OTHER))
        wandb_loopback.plant(f"{RUN}/file_stream", refuse(400), times=None)
        result = copy(origin)
        (failed,) = result.of(Failed)

        assert {"failed": 1, "copied": 1} == result.counts()
        assert "has 0 rows of 50" in failed.why
        assert mark(wandb_loopback) is None
        assert mark(wandb_loopback, OTHER) is not None
        wandb_loopback.clear()
        assert {"updated": 1, "skipped": 1} == copy(origin).counts()
        assert list(range(50)) == steps(wandb_loopback)
        assert digest(make()) == digest(run_at(SINK))

    @pytest.mark.parametrize(
        ("on", "fault"),
        [
            ("file_stream", refuse(500)),
            ("UpsertBucket", refuse(502)),
            ("HistoryPage", refuse(429)),
            ("FetchArtifactManifest", truncate()),
        ],
    )
    def test_what_does_not_pass(
        self, sources: MemorySources, wandb_loopback: WandbServer, on: str, fault: Any
    ) -> None:
        """After some tries the run fails; later, in the same process, it is whole."""
        origin = sources(suite.experiment(), run_of())
        wandb_loopback.plant(on, fault, times=None)
        assert {"failed": 1} == copy(origin, "retries=1").counts()
        wandb_loopback.clear()

        assert [] == copy(origin).of(Failed)
        assert list(range(50)) == steps(wandb_loopback)
        assert digest(run_of()) == digest(run_at(SINK))

    def test_a_server_that_forgets_rows(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Rows that a server took and did not keep are found."""
        origin = sources(suite.experiment(), growing())
        wandb_loopback.plant("file_stream", Forget(30), times=None)
        result = copy(origin)
        assert {"failed": 1} == result.counts(), result.events
        assert mark(wandb_loopback) is None
        wandb_loopback.clear()

        assert {"updated": 1} == copy(origin).counts()
        assert digest(growing()) == digest(run_at(SINK))
        values = [
            row["loss"] for row in wandb_loopback.runs["team", "proj", RUN].history
        ]
        assert sorted(values) == sorted(s / 7 for s in range(50))

    @pytest.mark.parametrize("value", [0.5, "NaN"])
    def test_a_server_that_changes_a_value(
        self, sources: MemorySources, wandb_loopback: WandbServer, value: Any
    ) -> None:
        """One other bit among all points is found, and told where."""
        origin = sources(suite.experiment(), run_of())
        sent = sending.send

        def sending_to_a_liar(*args: Any, **more: Any) -> int:
            count = sent(*args, **more)
            lines = wandb_loopback.runs["team", "proj", RUN].history_lines
            line = lines.all[20].replace('"loss":2.857142857142857', f'"loss":{value}')
            assert line != lines.all[20]
            lines.write(20, [line])
            return count

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "send", sending_to_a_liar)
            (failed,) = copy(origin).of(Failed)

        assert "metric 'loss'" in failed.why
        assert mark(wandb_loopback) is None

    @pytest.mark.parametrize(
        "operation", ["CommitArtifact", "CreateArtifact", "/storage/blob"]
    )
    def test_a_refused_artifact(
        self, sources: MemorySources, wandb_loopback: WandbServer, operation: str
    ) -> None:
        """A run of which a file is refused has no mark; later it is completed."""
        run = run_of(artifacts=(Artifact("a.bin", 3),))
        origin = sources(suite.experiment(), run, files={(run.ref, "a.bin"): b"abc"})
        wandb_loopback.plant(operation, refuse(400), times=None)
        result = copy(origin)
        assert {"failed": 1} == result.counts()
        assert mark(wandb_loopback) is None
        wandb_loopback.clear()

        assert {"updated": 1} == copy(origin).counts()
        assert list(range(50)) == steps(wandb_loopback)
        assert digest(run) == digest(run_at(SINK))

    def test_a_config_that_is_not_kept(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """A mark that a server only says it took does not count."""
        origin = sources(suite.experiment(), run_of())
        copy(origin)
        grown = run_of(60, end_time=suite.NOW + 99_000)
        sources.put(origin, grown)
        assert mark(wandb_loopback) is not None
        wandb_loopback.plant("UpsertBucket", refuse(400), times=None)
        assert {"failed": 1} == copy(origin).counts()
        wandb_loopback.clear()

        assert {"updated": 1} == copy(origin).counts()
        assert digest(grown) == digest(run_at(SINK))

    def test_a_deleted_id(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """W&B blocks the id of a deleted run: that is said, and a salt helps."""
        wandb_loopback.deleted_runs.add(("team", "proj", RUN))
        origin = sources(suite.experiment(), run_of(), run_of(id=OTHER))
        result = copy(origin)
        (failed,) = result.of(Failed)

        assert {"failed": 1, "copied": 1} == result.counts()
        assert "-o id-salt" in failed.why
        assert "blocks the id" in failed.why
        again = copy(origin, "id-salt=2")
        assert {"copied": 1, "skipped": 1} == again.counts()
        assert digest(run_of()) == digest(run_at(SINK))

    def test_an_id_that_is_taken(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Another's run is never written to."""
        import wandb

        origin = sources(suite.experiment(), run_of())
        wandb.init(
            entity="team", project="proj", id=RUN, settings={"silent": True}
        ).finish()
        before = wandb_loopback.runs["team", "proj", RUN].raw_config
        (failed,) = copy(origin).of(Failed)

        assert "no copy of" in failed.why
        assert before == wandb_loopback.runs["team", "proj", RUN].raw_config

    @pytest.mark.parametrize(
        ("on", "fault"),
        [
            ("file_stream", refuse(429, retry_after=0)),
            ("file_stream", refuse(500)),
            ("UpsertBucket", refuse(502)),
            ("UpsertBucket", drop()),
            ("CreateArtifact", lie(500)),
            ("Runs", drop()),
        ],
    )
    def test_what_passes(
        self, sources: MemorySources, wandb_loopback: WandbServer, on: str, fault: Any
    ) -> None:
        """A request that fails once is made again, and nothing is there twice."""
        wandb_loopback.plant(on, fault, times=1)
        result = copy(sources(suite.experiment(), run_of()))

        assert {"copied": 1} == result.counts(), result.events
        assert list(range(50)) == steps(wandb_loopback)
        assert digest(run_of()) == digest(run_at(SINK))


class TestLateServers:
    def test_rows_that_show_later(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Rows that a server counts and does not show yet are not sent again."""
        origin = sources(suite.experiment(), growing())
        sent = sending.send

        def send_and_fail(*args: Any, **more: Any) -> None:
            sent(*args, **more)
            raise ItemError("the network is gone")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "send", send_and_fail)
            assert {"failed": 1} == copy(origin).counts()
        lines = wandb_loopback.runs["team", "proj", RUN].history_lines
        shown = threading.Timer(1, lines.show, [lines.hide(range(20, 49))])
        shown.start()
        result = copy(origin, "settle=10")
        shown.join()

        assert {"updated": 1} == result.counts(), result.events
        assert list(range(50)) == steps(wandb_loopback)


class Killed(BaseException):
    """The process ended here."""


class TestKills:
    @pytest.mark.parametrize("make", [run_of, growing])
    def test_between_rows(
        self,
        sources: MemorySources,
        wandb_loopback: WandbServer,
        make: Callable[[], Item],
    ) -> None:
        """Rows that arrived are not sent again."""
        sent = sending.send

        def send_some(*args: Any, **more: Any) -> None:
            client, written, rows, _ = args
            sent(client, written, itertools.islice(rows, 20), [], **more)
            raise Killed

        origin = sources(suite.experiment(), make())
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(writing, "send", send_some)
            copy(origin)
        assert list(range(20)) == steps(wandb_loopback)
        assert mark(wandb_loopback) is None

        assert {"updated": 1} == copy(origin).counts()
        assert list(range(50)) == steps(wandb_loopback)
        assert digest(make()) == digest(run_at(SINK))

    def test_at_each_request(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Whatever step was the last: the next copy makes of it what an undisturbed
        one makes.
        """
        run = run_of(artifacts=(Artifact("a.bin", 3),))
        files = {(run.ref, "a.bin"): b"abc"}
        origin = sources(suite.experiment(), run, files=files)
        for part, name in [
            (writing.proof, "prove"),
            (writing.facts, "put"),
            (writing.facts, "prove"),
        ]:
            wandb_loopback.runs.clear()

            def killed(*args: Any, **more: Any) -> None:
                raise Killed

            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                patch.setattr(part, name, killed)
                copy(origin)
            assert mark(wandb_loopback) is None

            assert {"updated": 1} == copy(origin).counts()
            assert list(range(50)) == steps(wandb_loopback)
            assert digest(run) == digest(run_at(SINK))
            assert {"skipped": 1} == copy(origin).counts()

    def test_the_process(self, wandb_loopback: WandbServer, tmp_path: Path) -> None:
        """A process that is gone leaves what the next one completes."""
        store = tmp_path / "archive"
        runs = [
            suite.run(f"{n:032x}", metrics=(_long("loss"), _long("acc")))
            for n in range(2)
        ]
        sources = MemorySources()
        origin = sources(suite.experiment(), *runs)
        mlmigrate.copy([origin], f"archive:{store}")
        arguments = ["copy", f"archive:{store}", SINK, "-o", "threads=1"]
        command = [sys.executable, "-m", "mlmigrate", *arguments]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not any(run.history_lines.count for run in _runs(wandb_loopback)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_until_quiet(wandb_loopback)
        marked = [run for run in _runs(wandb_loopback) if mark(wandb_loopback, run.id)]
        assert len(marked) < len(runs)

        result = copy(f"archive:{store}")
        assert [] == result.of(Failed)
        for run in runs:
            assert 1000 == len(steps(wandb_loopback, run.ref.id))
            assert digest(run) == digest(run_at(SINK, run.ref.id))
        assert {"skipped": 2} == copy(f"archive:{store}").counts()
        memory.forget(origin)


def _long(key: str) -> Any:
    count = np.arange(1000, dtype=np.int64)
    return history(key, count, suite.NOW + count, count / 3)


def _runs(server: WandbServer) -> list[Any]:
    with server.lock:
        return list(server.runs.values())


def _wait_until_quiet(server: WandbServer) -> None:
    """Wait until what the killed process had begun has ended, too."""
    seen = -1
    while seen != len(server.requests):
        seen = len(server.requests)
        time.sleep(0.5)


class TestOpening:
    def test_nobody_is_logged_in(
        self, wandb_loopback: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is said how to log in."""
        monkeypatch.delenv("WANDB_API_KEY")
        with pytest.raises(StoreError, match=r"wandb login"):
            resolve(SINK).source()

    def test_a_wrong_key(
        self, wandb_loopback: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key that the server does not know is no login."""
        monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
        with pytest.raises(StoreError, match=r"WANDB_API_KEY"):
            resolve(SINK).source()

    def test_no_such_project(self, wandb_loopback: WandbServer) -> None:
        """A source must be there."""
        with pytest.raises(StoreNotFound, match=r"no such project"):
            resolve("wandb://team/nope").source()

    @pytest.mark.parametrize("location", ["wandb://", "wandb://a/b/c", "wandb:///b"])
    def test_malformed(self, location: str) -> None:
        """A location names an entity, and at most one project."""
        with pytest.raises(LocationError, match=r"wandb://ENTITY/PROJECT"):
            resolve(location).source()

    def test_projects_and_location_disagree(self) -> None:
        """All runs go to one project that is named, or to one for each experiment."""
        for location, options in ((SINK, ["projects=each"]), ("wandb://team", [])):
            with pytest.raises(LocationError, match=r"projects=each"):
                resolve(location, options).sink()

    def test_wandb_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The extra is named."""
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(StoreError, match=r"mlmigrate\[wandb\]"):
            resolve(SINK).source()

    def test_it_leaves_nothing_behind(
        self, sources: MemorySources, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """A copy leaves no file in the home or the working folder, and the environment
        as it was.
        """
        store = tmp_path / "archive"
        run = run_of(artifacts=(Artifact("a.bin", 3),))
        origin = sources(suite.experiment(), run, files={(run.ref, "a.bin"): b"abc"})
        mlmigrate.copy([origin], f"archive:{store}")
        home, here, temp = (tmp_path / name for name in ("home", "here", "temp"))
        for folder in (home, here, temp):
            folder.mkdir()
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("WANDB_")
        }
        environment = {
            **kept,
            "HOME": str(home),
            "TMPDIR": str(temp),
            "WANDB_BASE_URL": wandb_loopback.url,
            "WANDB_API_KEY": wandb_loopback.api_key,
            "WANDB_RUN_GROUP": "mine",
            "WANDB_MODE": "offline",
        }
        arguments = ["copy", f"archive:{store}", SINK]
        done = subprocess.run(
            [sys.executable, "-m", "mlmigrate", *arguments],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
        )

        assert 0 == done.returncode, done.stderr
        assert "wandb:" not in done.stdout + done.stderr
        assert "churn" == wandb_loopback.runs["team", "proj", RUN].group
        left = [path for folder in (home, here, temp) for path in folder.rglob("*")]
        assert ["mlmigrate-ids-"] == [path.name[:14] for path in left]  # the report's

    def test_the_environment_is_as_it_was(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Whoever uses W&B in the same process finds its variables again."""
        before = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
        copy(sources(suite.experiment(), run_of()))
        with suppress(StoreError):
            resolve("wandb://team/nope").source()
        after = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}

        assert before == after


def test_refs_are_repeatable(
    sources: MemorySources, wandb_loopback: WandbServer
) -> None:
    """The same runs in the same order, of all experiments or of some."""
    second = suite.experiment("2", "second")
    runs = [run_of(2), run_of(2, OTHER, experiment="2")]
    copy(sources(suite.experiment(), second, *runs))
    store = resolve(SINK).source()
    for chosen in (None, frozenset({"mlflow:second"})):
        refs = [list(store.refs(Selection("run", chosen))) for _ in range(2)]
        assert refs[0] == refs[1]
    assert [Ref("run", OTHER)] == refs[0]
    store.close()
