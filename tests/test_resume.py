"""Killed anywhere and run again, a copy is what it would have been undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import reading, servers
from support._processes import clean_environment

from mlmigrate import pipeline
from mlmigrate.locations import resolve
from mlmigrate.model import Artifact, Item
from mlmigrate.pipeline import Options
from mlmigrate.stores import memory
from mlmigrate.stores.mlflow_db import schema
from mlmigrate.testing.faults import Killed, When, failing
from mlmigrate.testing.suite import (
    MemorySources,
    experiment,
    model,
    points,
    run,
    version,
    with_logged_models,
)
from mlmigrate.verification import Different, Missing, verify

REPOSITORY = Path(__file__).parents[1]
#: Columns whose values are random by nature.
_RANDOM = ("dataset_uuid", "input_uuid", "source_id")


@pytest.fixture(autouse=True)
def _temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


# -- what a store holds ---------------------------------------------------------------


def digests(location: str, *options: str) -> dict[str, str]:
    """Return the digest of every item at a sink."""
    sink = resolve(location, options, shared={"artifacts": "copy"}).sink()
    with closing(sink) as store:
        return reading.digests(store)


def rows(location: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of a database, sorted, without what is random by nature."""
    engine = sa.create_engine(location)
    metadata = sa.MetaData()
    found = {}
    try:
        metadata.reflect(engine)
        with engine.connect() as connection:
            for name, table in metadata.tables.items():
                columns = [column for column in table.c if column.name not in _RANDOM]
                found[name] = sorted(
                    map(tuple, connection.execute(sa.select(*columns))), key=repr
                )
    finally:
        engine.dispose()
    return found


def differences(source: str, sink: str, *options: str) -> list[Any]:
    """Verify in this process."""
    target = resolve(sink, options, shared={"artifacts": "copy"})
    return [
        each
        for each in verify([resolve(source)], target, Options())
        if isinstance(each, Different | Missing)
    ]


# -- every call of the sink ------------------------------------------------------------


def one_of_each() -> tuple[list[Item], dict[Any, bytes]]:
    """Two experiments, thirty runs (two batches), a parent, models, artifacts."""
    items, files = with_logged_models()
    items.append(experiment("2", "second"))
    for number in range(28):
        entry = run(
            f"{number:032x}",
            "2",
            metrics=(points("loss", (0, 1.0), (number, 0.5)),),
            artifacts=(Artifact("a", 1),) if number < 3 else (),
        )
        files.update({(entry.ref, each.path): b"x" for each in entry.artifacts})
        items.append(entry)
    items.append(model("second", version("second", 1, 1)))
    return items, files


class Kills:
    """For each sink: die at every call, then copy undisturbed."""

    def check(
        self, sources: MemorySources, fresh: Callable[[str], str], when: When
    ) -> None:
        items, files = one_of_each()
        source = sources(*items, files=files)
        opened = [resolve(source)]
        clean = failing(resolve(fresh("clean"), shared={"artifacts": "copy"}))
        list(pipeline.copy(opened, clean, Options()))
        expected = digests(clean.location)
        assert 36 == len(expected)
        assert [] == differences(source, clean.location)
        assert 6 <= clean.calls.count

        for call in range(1, clean.calls.count + 1):
            location = fresh(f"{when}-{call}")
            plain = resolve(location, shared={"artifacts": "copy"})
            with pytest.raises(Killed):
                list(pipeline.copy(opened, failing(plain, call, when), Options()))
            list(pipeline.copy(opened, plain, Options()))

            assert expected == digests(location), (when, call)


class TestKilledAtEveryCall(Kills):
    @pytest.mark.parametrize("when", ["before", "half", "after"])
    def test_memory(self, sources: MemorySources, when: When) -> None:
        """Into memory."""
        made = []

        def fresh(name: str) -> str:
            made.append(f"memory:kill-{name}")
            return made[-1]

        try:
            self.check(sources, fresh, when)
        finally:
            for location in made:
                memory.forget(location)

    def test_sqlite(self, sources: MemorySources, tmp_path: Path) -> None:
        """Into SQLite."""

        def fresh(name: str) -> str:
            (tmp_path / name).mkdir()
            return servers.fresh_database(tmp_path / name / "sink.db")

        self.check(sources, fresh, "half")


# -- real processes --------------------------------------------------------------------


def generate(folder: Path, runs: int = 60, seed: int = 0) -> None:
    """Write a file store with artifacts."""
    subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "bench" / "generate.py"),
            str(folder),
            f"--runs={runs}",
            f"--seed={seed}",
            "--experiments=3",
            "--metrics=6",
            "--steps=60",
            "--artifacts=3",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlmigrate", name, *arguments, "--json"]


def mlmigrate(name: str, *arguments: str, expect: tuple[int, ...] = (0,)) -> Any:
    """Run a command to its end, and return its JSON."""
    done = subprocess.run(
        command(name, *arguments),
        capture_output=True,
        text=True,
        env=_environment(),
        timeout=240,
    )
    assert done.returncode in expect, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def _environment() -> dict[str, str]:
    return clean_environment({"TMPDIR": os.environ["TMPDIR"]})


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        command(name, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """End a command and its workers, as an empty battery would."""
    with suppress(ProcessLookupError):  # it was over before
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_again_and_again(
    source: Path, sink: str, options: list[str], times: int, seed: int
) -> None:
    """Kill copies at random moments, finish one, and verify it."""
    rng = random.Random(seed)
    arguments = [str(source), sink, *options]
    interrupted = 0
    for number in range(times):
        process = start("copy", *arguments)
        # Imports take some tenths of a second, and the whole copy one or two.
        time.sleep(0.3 if number == 0 else rng.uniform(0.3, 1.5))
        interrupted += process.poll() is None
        kill(process)
    assert interrupted, "every copy was over before it was killed"
    mlmigrate("copy", *arguments)
    checked = mlmigrate("verify", *arguments)

    assert ([], []) == (checked["different"], checked["missing"])
    assert {} == checked["extra"]
    assert 60 == checked["same"]["run"]
    again = mlmigrate("copy", *arguments)
    assert ({}, {}) == (again["copied"], again["updated"])


KILLS = int(os.environ.get("MLMIGRATE_KILLS", "5"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file store of 60 runs, which tests only read."""
    folder = tmp_path_factory.mktemp("generated") / "mlruns"
    generate(folder)
    return folder


class TestSigkill:
    def test_sqlite(self, generated: Path, tmp_path: Path) -> None:
        """Into a SQLite file with tables."""
        sink = servers.fresh_database(tmp_path / "sink.db")
        kill_again_and_again(generated, sink, [], min(KILLS, 5), seed=1)

    def test_postgres(
        self, generated: Path, postgres_mlflow_uri: str, tmp_path: Path
    ) -> None:
        """Into a PostgreSQL database with tables."""
        options = ["-o", f"artifact-root={tmp_path / 'artifacts'}"]
        kill_again_and_again(
            generated, postgres_mlflow_uri, options, min(KILLS, 5), seed=2
        )

    def test_while_tables_are_made(self, generated: Path, tmp_path: Path) -> None:
        """Killed before its first row, a new SQLite file is simply made again."""
        sink = f"sqlite:///{tmp_path / 'new.db'}"
        process = start("copy", str(generated), sink)
        time.sleep(2)
        kill(process)
        mlmigrate("copy", str(generated), sink)

        assert [] == mlmigrate("verify", str(generated), sink)["different"]

    @pytest.mark.torture
    @pytest.mark.skipif(
        "MLMIGRATE_KILLS" not in os.environ, reason="MLMIGRATE_KILLS is not set"
    )
    @pytest.mark.parametrize("seed", range(10, 10 + max(KILLS // 5, 1)))
    def test_torture(
        self, generated: Path, postgres_mlflow_uri: str, tmp_path: Path, seed: int
    ) -> None:
        """Many kills: five a fresh database."""
        sink = servers.fresh_database(tmp_path / "sink.db")
        kill_again_and_again(generated, sink, [], 5, seed)
        options = ["-o", f"artifact-root={tmp_path / 'artifacts'}"]
        kill_again_and_again(generated, postgres_mlflow_uri, options, 5, -seed)


# -- again, later, at once -------------------------------------------------------------


class TestAgain:
    def test_sqlite(self, generated: Path, tmp_path: Path) -> None:
        """A second copy changes no row and no file."""
        sink = servers.fresh_database(tmp_path / "sink.db")
        mlmigrate("copy", str(generated), sink)
        before = rows(sink)
        files = _files(tmp_path / "mlartifacts")
        again = mlmigrate("copy", str(generated), sink)

        assert ({}, {}) == (again["copied"], again["updated"])
        assert before == rows(sink)
        assert files == _files(tmp_path / "mlartifacts")
        assert 180 == len(files)

    def test_postgres(
        self, generated: Path, postgres_mlflow_uri: str, tmp_path: Path
    ) -> None:
        """A second copy changes no row."""
        options = ["-o", f"artifact-root={tmp_path / 'artifacts'}"]
        mlmigrate("copy", str(generated), postgres_mlflow_uri, *options)
        before = rows(postgres_mlflow_uri)
        mlmigrate("copy", str(generated), postgres_mlflow_uri, *options)

        assert before == rows(postgres_mlflow_uri)

    def test_a_source_that_grew(self, tmp_path: Path) -> None:
        """New runs and new points come over; the result is that of one copy."""
        source = tmp_path / "mlruns"
        generate(source, runs=10)
        sink = servers.fresh_database(tmp_path / "sink.db")
        mlmigrate("copy", str(source), sink)

        grown = sorted(path.parent for path in source.glob("*/*/meta.yaml"))[0]
        with (grown / "metrics" / "metric_00").open("a") as file:
            file.write("1700000099000 0.125 60\n")
        (grown / "params" / "added").write_text("later")
        (grown / "artifacts" / "added").write_bytes(b"later")
        more = tmp_path / "more"
        generate(more, runs=12)
        for path in more.glob("*/*/meta.yaml"):
            place = source / path.relative_to(more).parent
            if not place.exists():
                path.parent.rename(place)
        result = mlmigrate("copy", str(source), sink)

        assert ({"run": 2}, {"run": 1}) == (result["copied"], result["updated"])
        checked = mlmigrate("verify", str(source), sink)
        assert ([], [], {}) == (
            checked["different"],
            checked["missing"],
            checked["extra"],
        )
        assert 12 == checked["same"]["run"]


def two_at_once(source: Path, sink: str, *options: str) -> None:
    """Start two equal copies, and verify what they made together."""
    both = [start("copy", str(source), sink, *options) for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    for process, output in zip(both, said, strict=True):
        assert process.returncode in (0, 3), output
    checked = mlmigrate("verify", str(source), sink, *options)

    assert ([], [], {}) == (checked["different"], checked["missing"], checked["extra"])
    assert 60 == checked["same"]["run"]
    again = mlmigrate("copy", str(source), sink, *options)
    assert ({}, {}) == (again["copied"], again["updated"])


class TestTwoAtOnce:
    def test_sqlite(self, generated: Path, tmp_path: Path) -> None:
        """Two processes fill one SQLite file without a duplicate."""
        two_at_once(generated, servers.fresh_database(tmp_path / "sink.db"))

    def test_new_sqlite(self, generated: Path, tmp_path: Path) -> None:
        """Also where neither finds a file."""
        two_at_once(generated, f"sqlite:///{tmp_path / 'new.db'}")
        with closing(sqlite3.connect(tmp_path / "new.db")) as base:
            names = base.execute("select name from experiments").fetchall()

        assert len(names) == len(set(names))

    def test_both_finish(self, tmp_path: Path) -> None:
        """Both find that indexes are missing: one makes them, the other is content."""
        sink = servers.fresh_database(tmp_path / "sink.db")
        with closing(sqlite3.connect(tmp_path / "sink.db")) as base:
            for name in schema.METRIC_INDEXES:
                base.execute(f"drop index if exists {name}")
            base.execute(
                "with recursive n(i) as (select 1 union all select i + 1 from n"
                " where i < 300000) insert into metrics (run_uuid, key, value,"
                " timestamp, step, is_nan) select 'r', 'loss', 0.5, i, i, 0 from n"
            )
            base.commit()
        stores = [resolve(sink).sink() for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda store: tuple(store.finish()), stores))
        for store in stores:
            store.close()
        assert [(), ()] == found
        with closing(sqlite3.connect(tmp_path / "sink.db")) as base:
            names = base.execute("select name from sqlite_master where type = 'index'")
            assert schema.METRIC_INDEXES.keys() <= {name for (name,) in names}

    def test_postgres(
        self, generated: Path, postgres_mlflow_uri: str, tmp_path: Path
    ) -> None:
        """Two processes fill one PostgreSQL database without a duplicate."""
        root = f"artifact-root={tmp_path / 'artifacts'}"
        two_at_once(generated, postgres_mlflow_uri, "-o", root)


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }
