"""Copies at Neptune that grow: only what is new is sent, and what people did stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from support import copies, servers
from support.neptune_server import (
    Atom,
    Deny,
    File,
    StringSet,
    floats,
    strings,
)
from support.neptunes import Neptune2
from support.reading import header, metric, params, run_at, tags

from mlmigrate.model import Artifact, Failed, Param, Tag
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW
from mlmigrate.testing.suite import MemorySources


class TestGrowth:
    def test_points_in_the_middle(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        loss = [(step, NOW + step, step / 7) for step in range(0, 100, 2)]
        run = suite.run(metrics=(metric("loss", *loss),))
        origin = sources(suite.experiment(), run)
        neptune2.copy(origin)
        more = [(7, NOW + 7, 1.5), (8, NOW + 9, np.nan), *loss]
        sources.put(origin, replace(run, metrics=(metric("loss", *more),)))

        assert {"updated": 1} == neptune2.copy(origin).counts()
        assert [] == neptune2.differences(origin)
        assert {"skipped": 1} == neptune2.copy(origin).counts()

    def test_what_people_added_and_edited_stays(
        self, sources: MemorySources, neptune2: Neptune2, tmp_path: Path
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
        neptune2.copy(origin)
        held = neptune2.run()
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
            found = run_at(neptune2.sink)
            assert "renamed" == header(found).name
            assert {
                "t": "edited",
                "mlflow.note.content": "a better note",
                "neptune.tags": '["best"]',
                "neptune/extra/score": "0.5",
            } == tags(found)
            keys = sorted(each.key for each in found.metrics)
            assert ["loss", "neptune/extra/curve", "theirs"] == keys
            paths = sorted(each.path for each in found.artifacts)
            assert {
                "a", "neptune/extra/log.jsonl", "neptune/extra/plot",
            } <= {*paths}  # fmt: skip
            told = params(found)
            assert {"lr": "0.1"} == {
                k: v for k, v in told.items() if k != "seed" and k != "bs"
            }
            assert "7" == told["seed"]

        check()
        assert {"skipped": 1} == neptune2.copy(origin).counts()
        for n in (1, 2):
            points = [(step, NOW + step, 1.0) for step in range(n + 1)]
            grown = replace(
                run,
                header=replace(header(run), status="FINISHED", end_time=NOW + n),
                params=(*run.params, Param("bs", "8")),
                metrics=(metric("loss", *points),),
            )
            sources.put(origin, grown)
            result = neptune2.copy(origin)
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
        assert [] == copies.copied(neptune2.sink, database).of(Failed)
        assert [] == copies.differences(neptune2.sink, database)

    def test_more_values_than_a_request_holds(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        """A run that was begun is known, whatever of it arrived."""
        many = tuple(Param(f"p{n}", str(n)) for n in range(1500))
        origin = sources(suite.experiment(), suite.run(params=many))
        neptune2.copy(sources(suite.experiment()))
        neptune2.server.plant("/operations", Deny(403), skip=2, times=None)
        assert {"failed": 1} == neptune2.copy(origin).counts()
        assert "params/p0" in neptune2.run()
        assert "params/p999" not in neptune2.run()
        neptune2.server.clear()

        assert [] == neptune2.copy(origin).of(Failed)
        assert [] == neptune2.differences(origin)
        assert 1 == len(neptune2.project().runs)
