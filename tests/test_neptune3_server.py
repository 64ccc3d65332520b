"""A Neptune server of 3.x as sink and source: what it took is proven, all arrives."""

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
from support.neptune3_server import Atom, Neptune3Server, StringSet
from support.neptune3_server import Run as Held

from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    Failed,
    Item,
    MetricHistory,
    Note,
    Param,
    Ref,
    Run,
    Tag,
)
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW, RUN
from mlmigrate.testing.suite import MemorySources, Peeked, Result, SinkSuite

pytest.importorskip("neptune_scale")

SINK = "neptune3://team/proj"
QUICK = ["settle=0.5"]


def at(server: Neptune3Server, id: str = RUN) -> Held:
    return server.projects["team/proj"].runs[id]


def kept(run: Held) -> dict[str, Any]:
    text = run.values("mlmigrate/").get("record")
    found = json.loads(text or run.data("mlmigrate/record_file"))
    assert isinstance(found, dict)
    return found


def aside(run: Held) -> list[dict[str, Any]]:
    if not kept(run)["aside"]:
        return []
    return pq.read_table(io.BytesIO(run.data("mlmigrate/points"))).to_pylist()


class TestConformance(SinkSuite):
    options = QUICK

    @pytest.fixture
    def sink_location(self, neptune3_loopback: Neptune3Server) -> str:
        self.server = neptune3_loopback
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
            bool(held.values("mlmigrate/").get("mark")),
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        at(self.server, run).put(f"mlflow/tags/{key}", Atom("string", value))

    def delete_run(self, location: str, run: str) -> None:
        at(self.server, run).trashed = True


def copy(origin: str, sink: str = SINK, *options: str) -> Result:
    more = [*QUICK, *options] if sink.startswith("neptune3:") else options
    return copies.copied(origin, sink, more)


def sent(server: Neptune3Server) -> int:
    """Count the requests that change something."""
    return server.count("submit") + server.count("upload")


def read(location: str = SINK, id: str = RUN) -> Item:
    store = resolve(location).source()
    try:
        (found,) = store.read([Ref("run", id)])
        assert isinstance(found, Item), found
        return found
    finally:
        store.close()


def arrives(
    server: Neptune3Server,
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
            [(-s, NOW + s, float(s)) for s in (10**12 - 1, 900_000_000_001, 7, -7)],
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
        neptune3_loopback: Neptune3Server,
        tmp_path: Path,
        points: list[tuple[int, int, float]],
    ) -> None:
        run = suite.run(metrics=(metric("m", *points), metric("m/n", (0, NOW, 1.0))))
        arrives(neptune3_loopback, sources, tmp_path, suite.experiment(), run)

    def test_texts(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """Of no text the client's own splitting would never come to an end."""
        long = "ä" * 3_000_000
        keys = ["", "a", "a/b", "a//b", "\\", "\n", "a/../b", "größe 🚀", "x" * 2000]
        run = suite.run(
            name="n" * 20_000,
            params=(*(Param(k, k) for k in keys), Param("long", long)),
            tags=(*(Tag(k, k) for k in keys), Tag("long", long)),
            metrics=tuple(metric(k, (0, NOW, 1.0)) for k in keys),
        )
        bare = suite.run("f" * 32, name=None, user=None, start_time=None, end_time=None)
        theirs = suite.run("mlmigrate")
        origin = sources(suite.experiment(name="e" * 500), run, bare, theirs)

        assert [] == copy(origin).of(Failed)
        assert [] == copies.differences(origin, SINK)
        before = sent(neptune3_loopback)
        assert {"skipped": 3} == copy(origin).counts()
        assert before == sent(neptune3_loopback)

    @pytest.mark.parametrize("provider", ["gcp", "aws", "azure"])
    def test_files(
        self,
        sources: MemorySources,
        neptune3_loopback: Neptune3Server,
        tmp_path: Path,
        provider: str,
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
        neptune3_loopback.provider = provider
        neptune3_loopback.part_size = 10_000
        arrives(
            neptune3_loopback, sources, tmp_path, suite.experiment(), run, files=files
        )
        with_open = resolve(SINK).source()
        for path, content in data.items():
            with with_open.open(run.ref, path) as file:
                assert content == file.read(), path
        with_open.close()

    def test_registered_models(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server, tmp_path: Path
    ) -> None:
        """A run that no listing shows tells of them."""
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
        items = [suite.experiment(), suite.run(), model, slashed]
        arrives(neptune3_loopback, sources, tmp_path, *items)
        assert {RUN, "mlmigrate"} == {*neptune3_loopback.projects["team/proj"].runs}
        store = resolve(SINK).source()
        assert [Ref("run", RUN)] == list(store.refs(Selection("run")))
        store.close()

    def test_when_a_run_began(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        copy(sources(suite.experiment(), suite.run(start_time=NOW)))
        assert NOW == at(neptune3_loopback).created


class TestGrowth:
    def test_only_what_is_new_is_sent(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
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
        seen = len(neptune3_loopback.requests)
        header = replace(run.header, status="FAILED", end_time=NOW + 9)  # type: ignore[arg-type]
        grown = replace(
            run,
            header=header,
            params=(*run.params, Param("bs", "8")),
            tags=(Tag("new", "tag"),),
            metrics=(metric("loss", *loss), run.metrics[1], metric("new", *loss[:3])),
            artifacts=(*run.artifacts, Artifact("b/c", 2)),
        )
        sources.put(origin, grown)

        assert {"updated": 1} == copy(origin).counts()
        news = neptune3_loopback.requests[seen:]
        uploads = {r.path for r in news if r.operation == "upload"}
        assert all("artifacts_b_c" in path for path in uploads)
        assert uploads
        paths = {p for r in news for p in r.variables.get("paths", ())}
        assert "metrics/acc" not in paths
        assert [] == copies.differences(origin, SINK)
        assert list(range(100)) == [
            p.step for p in at(neptune3_loopback).points("metrics/loss")
        ]
        assert not aside(at(neptune3_loopback))
        assert at(neptune3_loopback)["sys/failed"] is True
        assert {"skipped": 1} == copy(origin).counts()

    def test_points_in_the_middle(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server, tmp_path: Path
    ) -> None:
        """A series only grows at its end: what comes late is kept aside, again and
        again.
        """
        loss = [(step, NOW + step, step / 7) for step in range(0, 100, 2)]
        run = suite.run(metrics=(metric("loss", *loss),))
        origin = sources(suite.experiment(), run)
        copy(origin)
        for late in (
            [(7, NOW + 7, 1.5), (8, NOW + 9, np.nan)],
            [(9, NOW + 7, 1.5), (8, NOW + 11, 5.0), (200, NOW, 0.5)],
            [(201, NOW + 900, 0.5)],
        ):
            loss += late
            sources.put(origin, replace(run, metrics=(metric("loss", *loss),)))

            assert {"updated": 1} == copy(origin).counts()
            assert [] == copies.differences(origin, SINK)
            assert {"skipped": 1} == copy(origin).counts()
        held = at(neptune3_loopback)
        steps = [point.step for point in held.points("metrics/loss")]
        assert [*range(0, 100, 2), 200, 201] == steps
        assert [7, 8, 8, 8, 9, 200] == [each["step"] for each in aside(held)]
        database = servers.fresh_database(tmp_path / "on.db")
        assert [] == copy(SINK, database).of(Failed)
        assert [] == copies.differences(origin, database)

    def test_a_record_that_is_no_file_any_more(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """Nothing can be deleted there: a text that is empty is none."""
        origin = sources(suite.experiment(), suite.run())
        for number, length in enumerate((5, 20_000, 6, 20_001)):
            run = suite.run(tags=(Tag("t", "x" * length),), end_time=NOW + number)
            sources.put(origin, run)
            assert [] == copy(origin).of(Failed)
            assert [] == copies.differences(origin, SINK)
            held = at(neptune3_loopback).values("mlmigrate/")
            assert bool(held["record"]) == (length < 16_000)
        assert {"skipped": 1} == copy(origin).counts()

    def test_what_people_added_and_edited_stays(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        run = suite.run(
            status="RUNNING",
            end_time=None,
            tags=(Tag("t", "1"), Tag("mlflow.note.content", "note")),
            metrics=(metric("loss", (0, NOW, 1.0)),),
        )
        origin = sources(suite.experiment(), run)
        copy(origin)
        held = at(neptune3_loopback)
        held.put("mlflow/tags/t", Atom("string", "edited"))
        held.put("sys/name", Atom("string", "renamed"))
        held.put("sys/tags", StringSet(dict.fromkeys(["best"])))
        held.put("extra/score", Atom("float", 0.5))
        held.put("params/seed", Atom("int", 7))
        header = replace(run.header, status="FINISHED", end_time=NOW + 9)  # type: ignore[arg-type]
        more = (Param("bs", "8"),)
        sources.put(origin, replace(run, header=header, params=more))

        assert {"updated": 1} == copy(origin).counts()
        found = read()
        assert isinstance(found.header, Run)
        assert "renamed" == found.header.name
        assert {
            "t": "edited",
            "mlflow.note.content": "note",
            "neptune.tags": '["best"]',
            "neptune/extra/score": "0.5",
        } == {tag.key: tag.value for tag in found.tags}
        assert {"seed": "7", "bs": "8"} == {p.key: p.value for p in found.params}

    def test_a_series_that_others_went_on_with(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """What they added stays; what is to be before it is kept aside."""
        run = suite.run(metrics=(metric("loss", (0, NOW, 1.0)),))
        origin = sources(suite.experiment(), run)
        copy(origin)
        series: Any = at(neptune3_loopback).attributes["metrics/loss"]
        series.append(5.0, 9.0, NOW + 50)
        sources.put(origin, replace(run, params=(Param("a", "b"),)))
        assert {"updated": 1} == copy(origin).counts()
        assert [0, 5] == read().metrics[0].steps.tolist()
        grown = metric("loss", (0, NOW, 1.0), (1, NOW + 1, 2.0), (5, NOW + 50, 9.0))
        sources.put(origin, replace(run, params=(Param("a", "b"),), metrics=(grown,)))
        assert {"updated": 1} == copy(origin).counts()
        assert [0, 1, 5] == read().metrics[0].steps.tolist()
        assert [1] == [each["step"] for each in aside(at(neptune3_loopback))]

    def test_a_trashed_run_stays_trashed(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        run = suite.run(status="RUNNING", end_time=None)
        origin = sources(suite.experiment(), run)
        copy(origin)
        at(neptune3_loopback).archived = True
        sources.put(origin, replace(run, params=(Param("a", "b"),)))
        before = sent(neptune3_loopback)
        result = copy(origin)

        assert "updated" not in result.counts(), result.events
        assert any(isinstance(each, Note) for each in result.findings())
        assert before == sent(neptune3_loopback)

    def test_words_that_the_source_takes_back(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        def run(words: list[str], end: int) -> Item:
            tags = (Tag("neptune.tags", json.dumps(words)),)
            return suite.run(tags=tags, end_time=NOW + end)

        origin = sources(suite.experiment(), run(["a", "b"], 1))
        copy(origin)
        assert {"a", "b"} == at(neptune3_loopback)["sys/tags"]
        sources.put(origin, run(["b", "c"], 2))

        assert {"updated": 1} == copy(origin).counts()
        assert {"b", "c"} == at(neptune3_loopback)["sys/tags"]
        assert [] == copies.differences(origin, SINK)
