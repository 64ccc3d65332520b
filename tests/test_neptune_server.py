"""A Neptune server as sink and source: what it took is proven, all it holds arrives."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import copies, servers
from support.neptune_server import (
    Atom,
    Container,
    Deny,
    File,
    NeptuneServer,
    StringSet,
    floats,
    strings,
)

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
    Run,
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


def read(location: str = SINK, id: str = RUN) -> Item:
    store = resolve(location).source()
    try:
        (found,) = store.read([Ref("run", id)])
        assert isinstance(found, Item), found
        return found
    finally:
        store.close()


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


class TestGrowth:
    def test_only_what_is_new_is_sent(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        loss = [(step, NOW + step, step / 7) for step in range(100)]
        run = suite.run(
            status="RUNNING",
            end_time=None,
            params=(Param("lr", "0.1"),),
            metrics=(metric("loss", *loss[:50]), metric("acc", *loss[:5])),
            artifacts=(Artifact("a", 1),),
        )
        files = {(run.ref, "a"): b"a", (run.ref, "b/c"): b"bc"}
        origin = sources(suite.experiment(), run, files=files)
        copy(origin)
        seen = len(neptune_loopback.requests)
        grown = replace(
            run,
            header=replace(run.header, status="FAILED", end_time=NOW + 9),  # type: ignore[arg-type]
            params=(*run.params, Param("bs", "8")),
            tags=(Tag("new", "tag"),),
            metrics=(metric("loss", *loss), run.metrics[1], metric("new", *loss[:3])),
            artifacts=(*run.artifacts, Artifact("b/c", 2)),
        )
        sources.put(origin, grown)

        assert {"updated": 1} == copy(origin).counts()
        uploads = [r for r in neptune_loopback.requests[seen:] if "/upload" in r.path]
        assert ["artifacts/b/c"] == [r.variables["attribute"] for r in uploads]
        assert [] == copies.differences(origin, SINK)
        assert list(range(100)) == [
            p.step for p in at(neptune_loopback).points("metrics/loss")
        ]
        assert at(neptune_loopback)["sys/failed"] is True
        assert {"skipped": 1} == copy(origin).counts()

    def test_points_in_the_middle(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        loss = [(step, NOW + step, step / 7) for step in range(0, 100, 2)]
        run = suite.run(metrics=(metric("loss", *loss),))
        origin = sources(suite.experiment(), run)
        copy(origin)
        more = [(7, NOW + 7, 1.5), (8, NOW + 9, np.nan), *loss]
        sources.put(origin, replace(run, metrics=(metric("loss", *more),)))

        assert {"updated": 1} == copy(origin).counts()
        assert [] == copies.differences(origin, SINK)
        assert {"skipped": 1} == copy(origin).counts()

    def test_what_people_added_and_edited_stays(
        self, sources: MemorySources, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        run = suite.run(
            status="RUNNING",
            end_time=None,
            params=(Param("lr", "0.1"),),
            tags=(Tag("t", "1"), Tag("mlflow.note.content", "note")),
            metrics=(metric("loss", (0, NOW, 1.0)),),
            artifacts=(Artifact("a", 1),),
        )
        origin = sources(suite.experiment(), run, files={(run.ref, "a"): b"a"})
        copy(origin)
        held = at(neptune_loopback)
        held.put("mlflow/tags/t", Atom("string", "edited"))
        held.put("sys/name", Atom("string", "renamed"))
        held.put("sys/description", Atom("string", "a better note"))
        held.put("sys/tags", StringSet(dict.fromkeys(["best"])))
        held.put("extra/score", Atom("float", 0.5))
        held.put("extra/curve", floats([1.0, 2.0]))
        held.put("extra/log", strings(["one", "two"]))
        held.put("extra/plot", File(b"png", "png"))
        held.put("params/seed", Atom("int", 7))
        held.put("metrics/theirs", floats([3.0]))

        def check() -> None:
            found = read()
            assert isinstance(found.header, Run)
            assert "renamed" == found.header.name
            tags = {tag.key: tag.value for tag in found.tags}
            assert {
                "t": "edited",
                "mlflow.note.content": "a better note",
                "neptune.tags": '["best"]',
                "neptune/extra/score": "0.5",
            } == tags
            keys = sorted(each.key for each in found.metrics)
            assert ["loss", "neptune/extra/curve", "theirs"] == keys
            paths = sorted(each.path for each in found.artifacts)
            assert {
                "a", "neptune/extra/log.jsonl", "neptune/extra/plot",
            } <= {*paths}  # fmt: skip
            params = {param.key: param.value for param in found.params}
            assert {"lr": "0.1"} == {
                k: v for k, v in params.items() if k != "seed" and k != "bs"
            }
            assert "7" == params["seed"]

        check()
        assert {"skipped": 1} == copy(origin).counts()
        header = replace(run.header, status="FINISHED", end_time=NOW + 9)  # type: ignore[arg-type]
        for n in (1, 2):
            points = [(step, NOW + step, 1.0) for step in range(n + 1)]
            grown = replace(
                run,
                header=replace(header, end_time=NOW + n),
                params=(*run.params, Param("bs", "8")),
                metrics=(metric("loss", *points),),
            )
            sources.put(origin, grown)
            result = copy(origin)
            assert {"updated": 1} == result.counts(), result.events
            check()
            theirs = {
                path
                for path in held.attributes
                if path.startswith(("mlflow/tags/", "metrics/", "artifacts/"))
            }
            assert {
                "mlflow/tags/t", "mlflow/tags/mlflow.note.content", "metrics/loss",
                "metrics/theirs", "artifacts/a",
            } == theirs  # fmt: skip
        database = servers.fresh_database(tmp_path / "on.db")
        assert [] == copy(SINK, database).of(Failed)
        assert [] == copies.differences(SINK, database)

    def test_a_trashed_run_stays_trashed(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        run = suite.run(status="RUNNING", end_time=None)
        origin = sources(suite.experiment(), run)
        copy(origin)
        at(neptune_loopback).trashed = True
        sources.put(origin, replace(run, params=(Param("a", "b"),)))
        before = sent(neptune_loopback)
        result = copy(origin)

        assert "updated" not in result.counts(), result.events
        assert at(neptune_loopback).trashed
        assert before == sent(neptune_loopback)


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

    def test_words_that_the_source_takes_back(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        """Neptune's tags are the source's and people's, not what the source had."""

        def run(words: list[str], end: int) -> Item:
            tags = (Tag("neptune.tags", json.dumps(words)),)
            return suite.run(tags=tags, end_time=NOW + end)

        origin = sources(suite.experiment(), run(["a", "b"], 1))
        copy(origin)
        assert {"a", "b"} == at(neptune_loopback)["sys/tags"]
        sources.put(origin, run(["b", "c"], 2))

        assert {"updated": 1} == copy(origin).counts()
        assert {"b", "c"} == at(neptune_loopback)["sys/tags"]
        assert [] == copies.differences(origin, SINK)
        at(neptune_loopback).put("sys/tags", StringSet(dict.fromkeys("bcd")))
        tags = {tag.key: tag.value for tag in read().tags}
        assert '["b", "c", "d"]' == tags["neptune.tags"]
        sources.put(origin, replace(run(["b", "c"], 3), params=(Param("more", "1"),)))

        assert {"updated": 1} == copy(origin).counts()
        assert {"b", "c", "d"} == at(neptune_loopback)["sys/tags"]
        assert '["b", "c"]' == at(neptune_loopback)["mlflow/tags/neptune.tags"]
        assert tags == {tag.key: tag.value for tag in read().tags}

    def test_more_values_than_a_request_holds(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        """A run that was begun is known, whatever of it arrived."""
        many = tuple(Param(f"p{n}", str(n)) for n in range(1500))
        origin = sources(suite.experiment(), suite.run(params=many))
        copy(sources(suite.experiment()))
        neptune_loopback.plant("/operations", Deny(403), skip=1, times=None)
        assert {"failed": 1} == copy(origin).counts()
        assert "params/p0" in at(neptune_loopback)
        assert "params/p999" not in at(neptune_loopback)
        neptune_loopback.clear()

        assert [] == copy(origin).of(Failed)
        assert [] == copies.differences(origin, SINK)
        assert 1 == len(neptune_loopback.projects["team/proj"].runs)
