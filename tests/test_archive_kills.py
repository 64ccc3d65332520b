"""Stopped anywhere, an archive is in a complete state, and the next export goes on."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support._processes import clean_environment
from support.command_line import Cli
from support.reading import digests_at
from test_resume import Kills, generate

import mlmigrate
from mlmigrate import pipeline
from mlmigrate.errors import StoreError
from mlmigrate.locations import resolve
from mlmigrate.pipeline import Options
from mlmigrate.stores.archive import lock
from mlmigrate.stores.archive.checking import check
from mlmigrate.stores.archive.local import Local
from mlmigrate.testing.faults import Killed, When
from mlmigrate.testing.suite import MemorySources, experiment, run, with_logged_models


class TestKilledAtEveryCall(Kills):
    @pytest.mark.parametrize("when", ["before", "half", "after"])
    def test_archive(self, sources: MemorySources, tmp_path: Path, when: When) -> None:
        """At each call of the sink."""
        self.check(sources, lambda name: f"archive:{tmp_path / name}", when)


class Steps:
    """Dies before the n-th thing that is done to an archive's folder."""

    def __init__(self, patched: pytest.MonkeyPatch, fatal: int) -> None:
        self.count = 0
        for name in ("replace", "bring", "sync", "create", "delete"):
            patched.setattr(Local, name, self._counted(getattr(Local, name), fatal))

    def _counted(self, act: Callable[..., Any], fatal: int) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.count += 1
            if self.count >= fatal:
                raise Killed(f"at step {self.count}")  # and nothing after it
            return act(*arguments)

        return counted


def state(archive: Path) -> tuple[int, ...]:
    """Return what SQL over the plain files finds: items and live points."""
    if not list(archive.glob("segments/*/metrics.parquet")):
        return (0, 0)
    sql = f"""
        select count(*), (select count(*) from '{archive}/segments/*/metrics.parquet'
            join '{archive}/current.parquet' using (segment, item))
        from '{archive}/current.parquet'"""
    (found,) = duckdb.execute(sql).fetchall()
    return tuple(found)


def test_killed_at_every_step(
    sources: MemorySources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each file that is moved, put or removed, in the second export, too."""
    items, files = with_logged_models()
    source = sources(*items, files=files)
    more = sources(*items, experiment("5", "more"), run("b" * 32, "5"), files=files)
    steps = 10**9
    for archive, first, then in (
        (tmp_path / "new", None, source),
        (tmp_path / "old", source, more),
    ):
        fatal = 0
        while True:
            fatal += 1
            place = Path(f"{archive}-{fatal}")
            if first is not None:
                mlmigrate.copy([first], f"archive:{place}")
            before = digests_at(str(place)) if first else {}
            with monkeypatch.context() as patched:
                counted = Steps(patched, fatal)
                with suppress(Killed):
                    mlmigrate.copy([then], f"archive:{place}")
                steps = counted.count
            if steps < fatal:
                break
            found = Local(place)
            if (place / "current.parquet").exists():
                assert [] == check(found).damaged, fatal
                after = digests_at(f"archive:{place}")
                # One complete state or the next, and nothing in between.
                assert after in (before, digests_at(then), {}), fatal
                assert state(place)[0] == len(after), fatal
            _forget_owner(place)
            mlmigrate.copy([then], f"archive:{place}")
            assert digests_at(then) == digests_at(str(place)), fatal
            said = check(found)
            assert ([], []) == (said.damaged, said.notes), (fatal, said)
        assert fatal > 8


def _forget_owner(archive: Path) -> None:
    """Make a lock look like that of a process that is gone: ours still runs."""
    path = archive / lock.NAME
    if path.exists():
        path.write_text(re.sub(r'"started \d+"', '"started 1"', path.read_text()))


def test_a_long_export_goes_on(
    sources: MemorySources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was completed before a kill is not written again."""
    from mlmigrate.stores.archive import writing

    items = [experiment(), *(run(f"{n:032x}") for n in range(250))]
    source = sources(*items)
    monkeypatch.setattr(writing, "_SECONDS", 0.0)
    archive = tmp_path / "a"
    events = pipeline.copy([resolve(source)], resolve(f"archive:{archive}"), Options())
    for event in events:
        if getattr(event, "ref", None) == items[150].ref:
            break
    segments = json.loads((archive / "mlmigrate.json").read_text())["segments"]
    assert 2 <= len(segments)
    events.close()
    report = mlmigrate.copy([source], f"archive:{archive}")

    assert report.skipped["run"] >= 100
    assert report.skipped["run"] + report.copied["run"] == 250


# -- the lock -------------------------------------------------------------------------


class TestLock:
    def held(self, archive: Path, **owner: Any) -> None:
        archive.mkdir(exist_ok=True)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        fields = {"id": "x", "host": "elsewhere", "pid": 7, "user": "mei"}
        data = {**fields, "since": now, "time": now, **owner}
        (archive / "mlmigrate.lock").write_text(json.dumps(data))

    def test_refused(self, sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
        """While another export writes, the error names it and says what to do."""
        self.held(tmp_path / "a")
        before = (tmp_path / "a" / "mlmigrate.lock").read_bytes()
        code, said = cli("export", sources(experiment()), tmp_path / "a")

        assert code == 1
        assert "another export writes to this archive (mei@elsewhere, process 7" in said
        assert "run the same command again" in said
        assert before == (tmp_path / "a" / "mlmigrate.lock").read_bytes()
        assert ["mlmigrate.lock"] == os.listdir(tmp_path / "a")

    @pytest.mark.parametrize(
        "owner",
        [
            {"time": "2020-01-01T00:00:00.000Z"},
            {"host": socket.gethostname(), "pid": 2**22 + 1},
            {"host": socket.gethostname(), "pid": os.getpid(), "process": "started 1"},
        ],
    )
    def test_stale(
        self, sources: MemorySources, tmp_path: Path, cli: Cli, owner: dict[str, Any]
    ) -> None:
        """A lock whose owner is gone is taken over, and that is told."""
        self.held(tmp_path / "a", **owner)
        code, said = cli("export", sources(experiment()), tmp_path / "a", "--json")

        assert code == 0
        assert "was taken over: mei@" in said["notes"][0]["what"]
        assert not (tmp_path / "a" / "mlmigrate.lock").exists()

    def test_of_a_machine_of_the_same_name(
        self, sources: MemorySources, tmp_path: Path, cli: Cli
    ) -> None:
        """Whose processes cannot be seen from here: another container's."""
        host = socket.gethostname()
        self.held(tmp_path / "a", host=host, pid=2**22 + 1, machine="another")

        assert 1 == cli("export", sources(experiment()), tmp_path / "a")[0]

    def test_long_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lock that did not fit its bytes would be nobody's."""
        monkeypatch.setenv("LOGNAME", "ü" * 200)
        monkeypatch.setattr(socket, "gethostname", lambda: "ж" * 200)
        (tmp_path / "a").mkdir()
        held, _ = lock.acquire(Local(tmp_path / "a"))
        with pytest.raises(StoreError, match="üü"):
            lock.acquire(Local(tmp_path / "a"))
        held.check()
        held.release()

        assert [] == os.listdir(tmp_path / "a")

    def test_taken_over_by_another(
        self, sources: MemorySources, tmp_path: Path
    ) -> None:
        """Who lost its lock completes nothing."""
        opened = resolve(f"archive:{tmp_path / 'a'}")
        source = sources(experiment(), run())
        events = pipeline.copy([resolve(source)], opened, Options())
        with pytest.raises(StoreError, match="has taken over the lock"):
            for event in events:
                if getattr(event, "ref", None) is not None:
                    self.held(tmp_path / "a")
        manifest = json.loads((tmp_path / "a" / "mlmigrate.json").read_text())

        assert [] == manifest["segments"]

    def test_reading_needs_none(
        self, sources: MemorySources, tmp_path: Path, cli: Cli
    ) -> None:
        """An archive is read, checked and verified while an export runs."""
        source = sources(experiment(), run())
        cli("export", source, tmp_path / "a")
        self.held(tmp_path / "a")

        assert 0 == cli("check", tmp_path / "a", "--json")[0]
        assert 0 == cli("verify", source, tmp_path / "a", "--json")[0]
        assert 0 == cli("copy", tmp_path / "a", sources(), "--json")[0]


# -- real processes -------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlmigrate", *map(str, arguments), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment({}),
        start_new_session=True,
    )


def finished(*arguments: object) -> Any:
    process = start(*arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err)
    return json.loads(out)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file store of 60 runs with artifacts."""
    folder = tmp_path_factory.mktemp("generated") / "mlruns"
    generate(folder)
    return folder


KILLS = int(os.environ.get("MLMIGRATE_KILLS", "5"))


def test_sigkill(generated: Path, tmp_path: Path, cli: Cli) -> None:
    """Killed at random moments, it is readable each time, and whole in the end."""
    archive = tmp_path / "a"
    rng = random.Random(5)
    alive = 0
    for number in range(KILLS):
        process = start("export", generated, archive)
        if number == 0:  # whatever the machine, once in the midst of it
            while not archive.exists() and process.poll() is None:
                time.sleep(0.01)
        else:
            time.sleep(rng.uniform(0.5, 2.5))
        alive += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (archive / "mlmigrate.json").exists():
            code, said = cli("check", archive, "--json")
            assert (0, []) == (code, said["damaged"])
            assert state(archive)[0] >= 0
    assert alive
    finished("export", generated, archive)
    said = finished("verify", generated, archive)

    assert ([], [], {}) == (said["different"], said["missing"], said["extra"])
    assert 60 == said["same"]["run"]
    assert (64, 60 * 6 * 60) == state(archive)
    code, said = cli("check", archive, "--json")
    assert (0, []) == (code, said["damaged"])
    again = finished("export", generated, archive)
    assert ({}, {}) == (again["copied"], again["updated"])


def test_two_at_once(generated: Path, tmp_path: Path) -> None:
    """One goes on, the other is refused and says so; the archive is whole."""
    archive = tmp_path / "a"
    both = [start("export", generated, archive) for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    codes = sorted(process.returncode for process in both)

    assert codes in ([0, 1], [0, 0]), said
    for process, (_, err) in zip(both, said, strict=True):
        if process.returncode:
            assert "another export" in err
            assert "Traceback" not in err
    checked = finished("verify", generated, archive)
    assert ([], [], {}) == (
        checked["different"],
        checked["missing"],
        checked["extra"],
    )
