"""Back up and restore: what the commands promise, on real stores."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import servers
from support.command_line import Cli
from support.fixture_stores import COUNTS, FIXTURES, location
from support.reading import digests_at
from support.tree import snapshot

import mlmigrate
from mlmigrate import api
from mlmigrate.locations import resolve
from mlmigrate.model import Artifact, Item, Param, Problem, Ref
from mlmigrate.stores import memory
from mlmigrate.testing.suite import (
    NOW,
    OTHER,
    RUN,
    MemorySources,
    everything,
    experiment,
    points,
    run,
)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_fixture_there_and_back(name: str, tmp_path: Path, cli: Cli) -> None:
    """store -> archive -> SQLite -> archive: verified at each step, equal digests."""
    source = location(name)
    archive, sink = tmp_path / "archive", servers.fresh_database(tmp_path / "sink.db")
    code, said = cli("export", source, archive, "--json", "--verify")
    assert not said["failed"]
    assert ([], []) == (said["verify"]["different"], said["verify"]["missing"])
    assert code == (3 if said["problems"] else 0)
    before = snapshot(archive)
    code, again = cli("export", source, archive, "--json")
    assert ({}, {}) == (again["copied"], again["updated"])
    assert before == snapshot(archive)

    _, restored = cli("copy", archive, sink, "--json")
    assert not restored["failed"]
    assert before == snapshot(archive)
    _, checked = cli("verify", archive, sink, "--json")
    assert ([], []) == (checked["different"], checked["missing"])
    # What could not be read once is said with each restore.
    wanted = {each["what"] for each in said["problems"]}
    assert wanted <= {each["what"] for each in restored["problems"]}

    cli("export", sink, tmp_path / "second", "--json")
    # SQLite has an experiment of its own, and cannot hold a run without a start.
    changed = ", ".join(each["ref"] for each in restored["losses"])
    first, second = digests_at(str(archive)), digests_at(str(tmp_path / "second"))
    assert second.keys() - first.keys() <= {"experiment/0"}
    for ref, value in first.items():
        assert value == second[ref] or ref in changed
    code, said = cli("check", archive, "--json")
    assert (0, []) == (code, said["damaged"])


def test_everything_there_and_back(sources: MemorySources, tmp_path: Path) -> None:
    """memory -> archive -> memory keeps each digest and each byte."""
    items, files = everything()
    source, target = sources(*items, files=files), sources()
    archive = f"archive:{tmp_path / 'a'}"
    mlmigrate.copy([source], archive)
    mlmigrate.copy([archive], target)
    held = memory.contents(target)

    assert digests_at(source) == digests_at(archive)
    assert digests_at(archive) == digests_at(target)
    assert files == held.blobs
    assert api.verify([archive], target).exit_code == 0


def test_text_that_utf_8_cannot_hold(sources: MemorySources, tmp_path: Path) -> None:
    """An archive keeps it as it was: a restore loses no more than a copy would."""
    source = sources(experiment(), run(params=(Param("odd", "lone \ud800"),)))
    archive = f"archive:{tmp_path / 'a'}"
    mlmigrate.copy([source], archive)
    assert digests_at(source) == digests_at(archive)
    sink = servers.fresh_database(tmp_path / "sink.db")
    mlmigrate.copy([archive], sink)
    with closing(sqlite3.connect(sink.removeprefix("sqlite:///"))) as base:
        asked = "select value from tags where key = 'mlmigrate.whole.1'"
        (carried,) = base.execute(asked).fetchone()

    assert [{"field": "param odd", "text": "lone \ud800"}] == json.loads(carried)


class TestRestore:
    @pytest.fixture
    def archive(self, sources: MemorySources, tmp_path: Path) -> str:
        items, files = everything()
        place = tmp_path / "archive"
        mlmigrate.copy([sources(*items, files=files)], f"archive:{place}")
        return str(place)

    def test_postgres(
        self, archive: str, postgres_mlflow_uri: str, tmp_path: Path, cli: Cli
    ) -> None:
        """Into PostgreSQL."""
        options = ("-o", f"artifact-root={tmp_path / 'artifacts'}", "--json")
        code, said = cli("copy", archive, postgres_mlflow_uri, *options)
        assert (0, []) == (code, said["failed"])
        assert 0 == cli("verify", archive, postgres_mlflow_uri, *options)[0]

    def test_server(self, archive: str, server: str, tmp_path: Path, cli: Cli) -> None:
        """Into a server, and out of it into an archive."""
        _, said = cli("copy", archive, server, "--json")
        assert [] == said["failed"]
        _, said = cli("verify", archive, server, "--json")
        # A server takes no model version without a source.
        refused = {"version 3", "alias champion"}
        assert [] == said["missing"]
        assert refused == {each["field"] for each in said["different"]}
        code, said = cli("export", server, tmp_path / "b", "--json", "--verify")
        assert (0, []) == (code, said["failed"]), said


class TestIncremental:
    def grown(self, sources: MemorySources, tmp_path: Path) -> tuple[str, Path, int]:
        """Archive a run, let it grow, archive it again; return the time between."""
        young = run(
            status="RUNNING",
            end_time=None,
            metrics=(points("loss", (0, 1.0)),),
            artifacts=(Artifact("a", 1),),
        )
        source = sources(experiment(), young, files={(young.ref, "a"): b"1"})
        archive = tmp_path / "archive"
        mlmigrate.copy([source], f"archive:{archive}")
        time.sleep(0.01)
        between = time.time_ns() // 1_000_000
        time.sleep(0.01)
        grown = run(
            metrics=(points("loss", (0, 1.0), (1, 0.5)),),
            artifacts=(Artifact("a", 1), Artifact("b", 1)),
        )
        sources.put(source, grown, run(OTHER), files={(grown.ref, "b"): b"1"})
        mlmigrate.copy([source], str(archive))
        return source, archive, between

    def test_a_run_that_grew(self, sources: MemorySources, tmp_path: Path) -> None:
        """Its live version is whole in the newest segment; equal bytes lie once."""
        source, archive, _ = self.grown(sources, tmp_path)
        manifest = json.loads((archive / "mlmigrate.json").read_text())

        assert [1, 2] == [segment["number"] for segment in manifest["segments"]]
        assert [{"experiment": 1, "run": 1}, {"run": 2}] == [
            segment["items"] for segment in manifest["segments"]
        ]
        assert api.verify([source], str(archive)).exit_code == 0
        assert digests_at(source) == digests_at(str(archive))
        assert 1 == sum(path.is_file() for path in archive.glob("blobs/*/*"))

    def test_as_of(self, sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
        """An earlier state is restored as it was."""
        _, archive, between = self.grown(sources, tmp_path)
        then = f"{mlmigrate_time(between)}"
        early = servers.fresh_database(tmp_path / "early.db")
        code, said = cli("copy", archive, early, "-i", f"as-of={then}", "--json")
        with closing(sqlite3.connect(early.removeprefix("sqlite:///"))) as base:
            rows = base.execute("select run_uuid, status from runs").fetchall()
            count = base.execute("select count(*) from metrics").fetchone()

        assert (0, {"experiment": 1, "run": 1}) == (code, said["copied"])
        assert ([(RUN, "RUNNING")], (1,)) == (rows, count)
        code, said = cli("copy", archive, early, "-i", "as-of=1999-01-01")
        assert code == 1
        assert "holds nothing of 1999-01-01" in said

    def test_restore_of_the_grown(
        self, sources: MemorySources, tmp_path: Path, cli: Cli
    ) -> None:
        """A restore that is repeated after a later export brings what is new."""
        source, archive, between = self.grown(sources, tmp_path)
        sink = servers.fresh_database(tmp_path / "sink.db")
        then = f"as-of={mlmigrate_time(between)}"
        cli("copy", archive, sink, "-i", then, "--json")
        _, said = cli("copy", archive, sink, "--json")

        assert ({"run": 1}, {"run": 1}) == (said["copied"], said["updated"])
        assert api.verify([source], sink).exit_code == 0

    def test_filters(self, sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
        """A part is restored like a part of any store."""
        _, archive, _ = self.grown(sources, tmp_path)
        sink = servers.fresh_database(tmp_path / "sink.db")
        code, said = cli(
            "copy", archive, sink, "--since", mlmigrate_time(NOW + 1), "--json"
        )

        assert (0, {"experiment": 1, "run": 2}) == (code, said["copied"])
        code, said = cli(
            "plan", archive, sink, "--run-filter", "status=KILLED", "--json"
        )
        assert "run" not in said["copied"]


def mlmigrate_time(millis: int) -> str:
    from mlmigrate.stores.archive.manifest import iso

    return iso(millis)


class TestFindings:
    @pytest.mark.parametrize("command", ["export", "copy"])
    def test_beside_items(
        self,
        sources: MemorySources,
        tmp_path: Path,
        cli: Cli,
        monkeypatch: pytest.MonkeyPatch,
        command: str,
    ) -> None:
        """What is wrong with a source is in its archive until an export finds it
        mended.
        """
        place = f"archive:{tmp_path / 'archive'}"
        source = sources(experiment(), run())
        archive = tmp_path / "archive"
        stray = Problem(source, "a stray folder")
        with monkeypatch.context() as patched:
            found = [stray]
            patched.setattr(memory.MemoryStore, "findings", lambda _: found)
            assert 3 == cli(command, source, place, "--json")[0]
            assert 3 == cli(command, source, place, "--json")[0]
        opened = resolve(str(archive)).source()
        assert [stray] == list(opened.findings())
        opened.close()
        assert 1 == len(list((archive / "segments").iterdir()))

        assert 0 == cli(command, source, place, "--json")[0]
        opened = resolve(str(archive)).source()
        assert [] == list(opened.findings())
        opened.close()

    def test_of_items(self, sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
        """What was wrong with an item is said with each restore of it."""
        odd = Problem("run x", "params/lr cannot be read")
        source = sources(experiment(), replace(run(), findings=(odd,)))
        assert 3 == cli("export", source, tmp_path / "a", "--json")[0]
        code, said = cli("copy", tmp_path / "a", sources(), "--json")

        assert (3, [{"where": odd.where, "what": odd.what}]) == (code, said["problems"])


def test_no_artifacts(sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
    """Left out once, artifacts come with a later export that wants them."""
    items, files = everything()
    source = sources(*items, files=files)
    archive = tmp_path / "archive"
    _, said = cli("export", source, archive, "--no-artifacts", "--json")
    assert {"files": 0, "bytes": 0} == said["artifacts"]
    assert not list(archive.glob("blobs/*/*"))
    assert 0 == cli("verify", source, archive, "--artifacts", "skip", "--json")[0]
    _, said = cli("export", source, archive, "--json")

    assert 3 == said["artifacts"]["files"]
    assert 0 == cli("verify", source, archive, "--json")[0]


def test_redacted(sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
    """No secret is in the archive that is not to be copied."""
    secret = "hunter2hunter2"
    tag = {"tags": (mlmigrate_tag("db", f"postgresql://ann:{secret}@host/x"),)}
    source = sources(experiment(), run(**tag))
    cli("export", source, tmp_path / "a", "--redact-credentials", "--json")
    sink = sources()
    cli("copy", tmp_path / "a", sink, "--json")

    (copied,) = memory.contents(sink).items[Ref("run", RUN)].tags
    assert secret not in copied.value


def mlmigrate_tag(key: str, value: str) -> Any:
    from mlmigrate.model import Tag

    return Tag(key, value)


def test_other_folders_are_left_alone(tmp_path: Path, cli: Cli) -> None:
    """A folder with files of something else does not become an archive."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    source = location("server-3.17/mlflow.db")
    code, said = cli("export", source, tmp_path / "photos")

    assert code == 1
    assert "photos holds other files ('one.jpg'): give a new or an empty" in said
    assert ["one.jpg"] == [path.name for path in (tmp_path / "photos").iterdir()]


def test_into_itself(tmp_path: Path, cli: Cli) -> None:
    """An archive is not exported into itself."""
    source = location("server-3.17/mlflow.db")
    cli("export", source, tmp_path / "a")
    code, said = cli("export", tmp_path / "a", f"{tmp_path}/./a")

    assert code == 2
    assert "both a source and the sink" in said


def test_plan_makes_nothing(tmp_path: Path, cli: Cli) -> None:
    """A plan tells what an export would do, and makes no folder."""
    source = location("server-3.17/mlflow.db")
    _, said = cli("plan", source, f"archive:{tmp_path / 'a'}", "--json")

    assert said["copied"]["run"] > 0
    assert not (tmp_path / "a").exists()


def test_empty(sources: MemorySources, tmp_path: Path, cli: Cli) -> None:
    """An export of nothing is an archive of nothing."""
    assert 0 == cli("export", sources(), tmp_path / "a", "--json")[0]
    assert 0 == cli("check", tmp_path / "a", "--json")[0]
    assert 0 == cli("copy", tmp_path / "a", sources(), "--json")[0]


def test_sqlite_that_is_written(tmp_path: Path, cli: Cli) -> None:
    """An export of a database in use is one moment of it."""
    path = tmp_path / "live.db"
    shutil.copy(FIXTURES / "server-3.17" / "mlflow.db", path)
    with closing(sqlite3.connect(path)) as base:
        base.execute("pragma journal_mode=wal")
        (id,) = base.execute("select run_uuid from runs limit 1").fetchone()
    ended = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=30)) as base:
            number = 0
            while not ended.is_set():
                number += 1
                # Both or none: a copy that has one alone is of no moment.
                with base:
                    for key in ("even/a", "even/b"):
                        base.execute(
                            "insert into metrics (key, value, timestamp, run_uuid,"
                            " step, is_nan) values (?, 0, ?, ?, ?, 0)",
                            (key, number, id, number),
                        )
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            _, said = cli("export", path, tmp_path / "a", "--json")
            assert not said["failed"]
    finally:
        ended.set()
        writer.join()
    store = resolve(str(tmp_path / "a")).source()
    (item,) = store.read([Ref("run", id)])
    store.close()
    assert isinstance(item, Item)
    lengths = {m.key: len(m.steps) for m in item.metrics if m.key.startswith("even/")}
    assert lengths["even/a"] == lengths["even/b"] > 0


def test_pyarrow_is_not_imported_without_need(tmp_path: Path) -> None:
    """Files -> SQLite and ``--help`` need neither pyarrow nor fsspec."""
    sink = servers.fresh_database(tmp_path / "sink.db")
    program = (
        "import sys; sys.argv = ['mlmigrate', *sys.argv[1:]]\n"
        "from mlmigrate.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pyarrow', 'fsspec') if m in sys.modules])"
    )
    source = str(FIXTURES / "laptop-0.4" / "mlruns")
    for arguments in (["--help"], ["export", "--help"], ["copy", source, sink]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]", (arguments, done.stdout)
