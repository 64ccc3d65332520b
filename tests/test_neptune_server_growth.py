"""Copies at Neptune that grow: only what is new is sent, and what people did stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
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
from mlmigrate.model import Artifact, Failed, Item, MetricHistory, Param, Ref, Run, Tag
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW, RUN
from mlmigrate.testing.suite import MemorySources, Result

SINK = "neptune://team/proj"
QUICK = ["settle=0.5"]


def at(server: NeptuneServer, id: str = RUN) -> Container:
    return server.projects["team/proj"].run(id)


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


def metric(key: str, *points: tuple[int, int, float]) -> MetricHistory:
    steps, times, values = zip(*points, strict=True)
    return history(
        key,
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(values, dtype=np.float64),
    )


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
        neptune_loopback.plant("/operations", Deny(403), skip=2, times=None)
        assert {"failed": 1} == copy(origin).counts()
        assert "params/p0" in at(neptune_loopback)
        assert "params/p999" not in at(neptune_loopback)
        neptune_loopback.clear()

        assert [] == copy(origin).of(Failed)
        assert [] == copies.differences(origin, SINK)
        assert 1 == len(neptune_loopback.projects["team/proj"].runs)
