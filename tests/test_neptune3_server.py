"""What only a Neptune server of 3.x does: it deletes nothing, and takes long texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import copies, servers
from support.neptune3_server import Atom, StringSet
from support.neptunes import Neptune3
from support.reading import header, metric, params, run_at, tags

from mlmigrate.model import (
    Failed,
    Param,
    Tag,
)
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW
from mlmigrate.testing.suite import MemorySources

pytest.importorskip("neptune_scale")


class TestLimits:
    def test_texts(self, sources: MemorySources, neptune3: Neptune3) -> None:
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

        assert [] == neptune3.copy(origin).of(Failed)
        assert [] == neptune3.differences(origin)
        before = neptune3.sent()
        assert {"skipped": 3} == neptune3.copy(origin).counts()
        assert before == neptune3.sent()

    def test_when_a_run_began(self, sources: MemorySources, neptune3: Neptune3) -> None:
        neptune3.copy(sources(suite.experiment(), suite.run(start_time=NOW)))
        assert NOW == neptune3.run().created


class TestGrowth:
    def test_points_in_the_middle(
        self, sources: MemorySources, neptune3: Neptune3, tmp_path: Path
    ) -> None:
        """A series only grows at its end: what comes late is kept aside, again and
        again.
        """
        loss = [(step, NOW + step, step / 7) for step in range(0, 100, 2)]
        run = suite.run(metrics=(metric("loss", *loss),))
        origin = sources(suite.experiment(), run)
        neptune3.copy(origin)
        for late in (
            [(7, NOW + 7, 1.5), (8, NOW + 9, np.nan)],
            [(9, NOW + 7, 1.5), (8, NOW + 11, 5.0), (200, NOW, 0.5)],
            [(201, NOW + 900, 0.5)],
        ):
            loss += late
            sources.put(origin, replace(run, metrics=(metric("loss", *loss),)))

            assert {"updated": 1} == neptune3.copy(origin).counts()
            assert [] == neptune3.differences(origin)
            assert {"skipped": 1} == neptune3.copy(origin).counts()
        held = neptune3.run()
        steps = [point.step for point in held.points("metrics/loss")]
        assert [*range(0, 100, 2), 200, 201] == steps
        assert [7, 8, 8, 8, 9, 200] == [each["step"] for each in neptune3.aside(held)]
        database = servers.fresh_database(tmp_path / "on.db")
        assert [] == copies.copied(neptune3.sink, database).of(Failed)
        assert [] == copies.differences(origin, database)

    def test_a_record_that_is_no_file_any_more(
        self, sources: MemorySources, neptune3: Neptune3
    ) -> None:
        """Nothing can be deleted there: a text that is empty is none."""
        origin = sources(suite.experiment(), suite.run())
        for number, length in enumerate((5, 20_000, 6, 20_001)):
            run = suite.run(tags=(Tag("t", "x" * length),), end_time=NOW + number)
            sources.put(origin, run)
            assert [] == neptune3.copy(origin).of(Failed)
            assert [] == neptune3.differences(origin)
            held = neptune3.run().values("mlmigrate/")
            assert bool(held["record"]) == (length < 16_000)
        assert {"skipped": 1} == neptune3.copy(origin).counts()

    def test_what_people_added_and_edited_stays(
        self, sources: MemorySources, neptune3: Neptune3
    ) -> None:
        run = suite.run(
            status="RUNNING",
            end_time=None,
            tags=(Tag("t", "1"), Tag("mlflow.note.content", "note")),
            metrics=(metric("loss", (0, NOW, 1.0)),),
        )
        origin = sources(suite.experiment(), run)
        neptune3.copy(origin)
        held = neptune3.run()
        held.put("mlflow/tags/t", Atom("string", "edited"))
        held.put("sys/name", Atom("string", "renamed"))
        held.put("sys/tags", StringSet(dict.fromkeys(["best"])))
        held.put("extra/score", Atom("float", 0.5))
        held.put("params/seed", Atom("int", 7))
        ended = replace(header(run), status="FINISHED", end_time=NOW + 9)
        more = (Param("bs", "8"),)
        sources.put(origin, replace(run, header=ended, params=more))

        assert {"updated": 1} == neptune3.copy(origin).counts()
        found = run_at(neptune3.sink)
        assert "renamed" == header(found).name
        assert {
            "t": "edited",
            "mlflow.note.content": "note",
            "neptune.tags": '["best"]',
            "neptune/extra/score": "0.5",
        } == tags(found)
        assert {"seed": "7", "bs": "8"} == params(found)

    def test_a_series_that_others_went_on_with(
        self, sources: MemorySources, neptune3: Neptune3
    ) -> None:
        """What they added stays; what is to be before it is kept aside."""
        run = suite.run(metrics=(metric("loss", (0, NOW, 1.0)),))
        origin = sources(suite.experiment(), run)
        neptune3.copy(origin)
        series: Any = neptune3.run().attributes["metrics/loss"]
        series.append(5.0, 9.0, NOW + 50)
        sources.put(origin, replace(run, params=(Param("a", "b"),)))
        assert {"updated": 1} == neptune3.copy(origin).counts()
        assert [0, 5] == run_at(neptune3.sink).metrics[0].steps.tolist()
        grown = metric("loss", (0, NOW, 1.0), (1, NOW + 1, 2.0), (5, NOW + 50, 9.0))
        sources.put(origin, replace(run, params=(Param("a", "b"),), metrics=(grown,)))
        assert {"updated": 1} == neptune3.copy(origin).counts()
        assert [0, 1, 5] == run_at(neptune3.sink).metrics[0].steps.tolist()
        assert [1] == [each["step"] for each in neptune3.aside(neptune3.run())]
