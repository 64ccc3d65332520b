"""A Neptune server as sink and source: what it took is proven, all it holds arrives."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import copies, servers
from support.neptune_server import Atom, Container, Deny, NeptuneServer

from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    Failed,
    Item,
    Loss,
    MetricHistory,
    Param,
    Ref,
    Tag,
)
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW, RUN
from mlmigrate.testing.suite import MemorySources, Peeked, Result, SinkSuite

SINK = "neptune://team/proj"
QUICK = ["settle=0.5"]
T = 1_700_000_000_000


def at(server: NeptuneServer, id: str = RUN) -> Container:
    return server.projects["team/proj"].run(id)


def kept(container: Container) -> dict[str, Any]:
    if "mlmigrate/record_file" in container:
        found = json.loads(container["mlmigrate/record_file"].data)
    else:
        found = json.loads(container["mlmigrate/record"])
    assert isinstance(found, dict)
    return found


def aside(container: Container) -> list[dict[str, Any]]:
    if "mlmigrate/points" not in container:
        return []
    return pq.read_table(io.BytesIO(container["mlmigrate/points"].data)).to_pylist()


class TestConformance(SinkSuite):
    options = QUICK

    @pytest.fixture
    def sink_location(self, neptune_loopback: NeptuneServer) -> str:
        self.server = neptune_loopback
        return SINK

    def peek(self, location: str, run: str) -> Peeked | None:
        held = next(
            (
                each
                for each in self.server.projects["team/proj"].runs.values()
                if "mlmigrate/origin" in each and each["mlmigrate/origin"] == run
            ),
            None,
        )
        if held is None:
            return None
        record = kept(held)
        renamed, header = record.get("renamed", {}), record["header"]
        whole = record.get("whole", {})

        def texts(prefix: str, names: dict[str, str]) -> dict[str, str]:
            return {
                names.get(key, key): whole.get(prefix + key, value)
                for key, value in held.values(prefix).items()
            }

        odd = aside(held)
        troubled = {(each["key"], each["step"]) for each in odd}
        rows = [(p["key"], p["step"], p["timestamp"], p["value"]) for p in odd]
        names = renamed.get("metrics", {})
        for path in held.attributes:
            if path.startswith("metrics/"):
                key = names.get(path[8:], path[8:])
                rows += [
                    (key, int(point.step), point.timestamp, point.value)
                    for point in held.points(path)
                    if (key, point.step) not in troubled
                ]
        return Peeked(
            held["mlflow/status"],
            header.get("start_time"),
            header.get("end_time"),
            "deleted" if held.trashed else held["mlflow/lifecycle"],
            texts("params/", renamed.get("params", {})),
            texts("mlflow/tags/", renamed.get("tags", {})),
            sorted(rows),
            "mlmigrate/mark" in held,
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        at(self.server, run).put(f"mlflow/tags/{key}", Atom("string", value))

    def delete_run(self, location: str, run: str) -> None:
        at(self.server, run).trashed = True


def copy(origin: str, sink: str = SINK, *options: str) -> Result:
    return copies.copied(origin, sink, [*QUICK, *options] if sink == SINK else options)


def sent(server: NeptuneServer) -> int:
    """Count the requests that change something."""
    names = ("createExperiment", "executeOperations", "/upload")
    return sum(map(server.count, names))


def arrives(
    server: NeptuneServer,
    sources: MemorySources,
    folder: Path,
    *items: Item,
    **more: Any,
) -> str:
    """Check that items arrive, are there once, and go on to a database unchanged."""
    origin = sources(*items, **more)
    assert [] == copy(origin).of(Failed)
    assert [] == copies.differences(origin, SINK)
    before = sent(server)
    again = copy(origin)
    assert {"skipped"} == set(again.counts()), again.events
    assert before == sent(server)
    database = servers.fresh_database(folder / "on.db")
    assert [] == copy(SINK, database).of(Failed)
    assert [] == copies.differences(origin, database)
    return origin


def metric(key: str, *points: tuple[int, int, float]) -> MetricHistory:
    steps, times, values = zip(*points, strict=True)
    return history(
        key,
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(values, dtype=np.float64),
    )


class TestLimits:
    @pytest.mark.parametrize(
        "points",
        [
            [(s, NOW + s, float(s)) for s in (2**33 + 1, 600_000_000_001, 10**12 - 1)],
            [(-s, NOW + s, float(s)) for s in (10**12 - 1, 900_000_000_001, 7)],
            [(s, NOW, 1.0) for s in (10**12, 2**53 + 1, 2**63 - 1, -(2**63))],
            [(0, NOW, 1.0), (0, NOW + 1, 2.0), (1, NOW - 5, 3.0), (2, NOW, 4.0)],
            [(0, -5, 1.0), (1, 2**52, 2.0), (2, 253_402_300_799_999, 3.0)],
            [(0, NOW, np.nan), (1, NOW, np.inf), (2, NOW, -np.inf), (3, NOW, -0.0)],
            [(s, NOW + s, 0.1 * s) for s in range(2500)],
            [(0, 0, 5e-324), (1, 0, 1.7976931348623157e308), (2, 0, 1 / 3)],
        ],
    )
    def test_points(
        self,
        sources: MemorySources,
        neptune_loopback: NeptuneServer,
        tmp_path: Path,
        points: list[tuple[int, int, float]],
    ) -> None:
        run = suite.run(metrics=(metric("m", *points), metric("m/n", (0, NOW, 1.0))))
        arrives(neptune_loopback, sources, tmp_path, suite.experiment(), run)

    def test_texts(
        self, sources: MemorySources, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        long = "ä" * 20_000
        keys = [
            "a",
            "a/b",
            "a//b",
            "a b",
            " a",
            "a ",
            "größe 🚀",
            "x" * 250,
            "a.b",
            "_",
        ]
        run = suite.run(
            name="n" * 500,
            params=(*(Param(k, k) for k in keys), Param("long", "p" * 8000)),
            tags=(
                *(Tag(k, k) for k in keys),
                *(Tag(f"t{n:03}", str(n)) for n in range(300)),
                Tag("long", long[:5000]),
                Tag("mlflow.note.content", "# note\n" * 500),
            ),
            metrics=tuple(metric(k, (0, NOW, 1.0)) for k in keys),
        )
        experiment = suite.experiment(name="e" * 200, tags=(Tag("big", long[:5000]),))
        arrives(neptune_loopback, sources, tmp_path, experiment, run)

    def test_texts_that_only_neptune_is_asked_for(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        long = "ä" * 40_000
        keys = ["", "\\", "a\\b", "a/b", "\n", ".", "a/../b", "trailing\n", "C:x"]
        run = suite.run(
            name="n" * 20_000,
            params=(*(Param(k, k) for k in keys), Param("long", long)),
            tags=(*(Tag(k, k) for k in keys), Tag("long", long)),
            metrics=tuple(metric(k, (0, NOW, 1.0)) for k in keys),
        )
        bare = suite.run("f" * 32, name=None, user=None, start_time=None, end_time=None)
        empty = suite.run("e" * 32, name="")
        experiment = suite.experiment(name="e" * 500, tags=(Tag("big", long),))
        origin = sources(experiment, run, bare, empty)

        assert [] == copy(origin).of(Failed)
        assert [] == copies.differences(origin, SINK)
        before = sent(neptune_loopback)
        assert {"skipped": 3} == copy(origin).counts()
        assert before == sent(neptune_loopback)

    def test_files(
        self, sources: MemorySources, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        data = {
            "empty": b"",
            "a.bin": bytes(range(256)) * 400,
            "folder.txt/a.bin": b"x",
            "folder.txt/ b ": b"y",
            "deep/" * 20 + "f": b"z",
            "größe 🚀.bin": b"0",
            "n" * 200: b"1",
            ".hidden": b"2",
        }
        run = suite.run(artifacts=tuple(Artifact(p, len(b)) for p, b in data.items()))
        files = {(run.ref, path): content for path, content in data.items()}
        neptune_loopback.part_size = 10_000
        arrives(
            neptune_loopback, sources, tmp_path, suite.experiment(), run, files=files
        )
        with_open = resolve(SINK).source()
        for path, content in data.items():
            with with_open.open(run.ref, path) as file:
                assert content == file.read(), path
        with_open.close()

    def test_a_file_that_is_named_like_a_folder(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        """Stores of objects hold such, and names longer than a disk takes."""
        data = {"a": b"1", "a/b": b"22", "n" * 400: b"333"}
        run = suite.run(artifacts=tuple(Artifact(p, len(b)) for p, b in data.items()))
        files = {(run.ref, path): content for path, content in data.items()}
        origin = sources(suite.experiment(), run, files=files)

        assert [] == copy(origin).of(Failed)
        assert [] == copies.differences(origin, SINK)

    def test_registered_models(
        self, sources: MemorySources, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        versions = [
            suite.version(
                "m",
                number,
                NOW + number,
                description="d" * 5000,
                run=Ref("run", RUN),
                source=f"runs:/{RUN}/m",
                source_run=Ref("run", RUN),
                source_path="m",
                tags=(Tag("a", "1"), Tag("a/b", "2")),
            )
            for number in (*range(1, 28), 30, 40)
        ]
        aliases = [Alias("champion", 40), Alias("a.b", 1), Alias("c-d", 1)]
        model = suite.model("m", *versions, aliases=aliases)
        slashed = suite.model("a b:c", suite.version("a b:c", 7, NOW))
        arrives(
            neptune_loopback,
            sources,
            tmp_path,
            suite.experiment(),
            suite.run(),
            model,
            slashed,
        )
        found = neptune_loopback.projects["team/proj"]
        assert (2, 30) == (len(found.models), len(found.model_versions))


class TestOtherServers:
    """Servers that have less than Neptune's: runs are copied all the same."""

    def test_the_project_holds_no_attributes(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        origin = sources(suite.experiment(), suite.run())
        project = neptune_loopback.project("team/proj")
        assert project is not None
        id = project.own.id

        def told(said: Any) -> bool:
            return bool(said.get("experimentId") == id)

        for name in ("executeOperations", "getExperimentAttributes"):
            neptune_loopback.plant(name, Deny(404), times=None, when=told)

        result = copies.copied(origin, SINK, QUICK)

        assert [] == result.of(Failed)
        assert [] == copies.differences(origin, SINK)
        again = copies.copied(origin, SINK, QUICK)
        assert {"skipped": 1} == again.counts()
        assert {"skipped": 1} == again.counts("experiment")

    def test_an_experiment_without_runs_is_lost_there(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        origin = sources(suite.experiment())
        neptune_loopback.plant("executeOperations", Deny(404), times=None)

        result = copies.copied(origin, SINK, QUICK)

        (loss,) = [each for each in result.findings() if isinstance(each, Loss)]
        assert not loss.carried

    def test_there_are_no_models(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        origin = sources(suite.experiment(), suite.run())
        neptune_loopback.plant(
            "searchLeaderboardEntries",
            Deny(422),
            times=None,
            when=lambda said: "run" not in str(said.get("type")),
        )

        assert [] == copies.copied(origin, SINK, QUICK).of(Failed)
