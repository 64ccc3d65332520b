"""What only a Neptune server of 2.x takes, and servers that take less."""

from __future__ import annotations

from typing import Any

from support.neptune_server import Deny
from support.neptunes import Neptune2
from support.reading import metric

from mlmigrate.model import (
    Failed,
    Param,
    Tag,
)
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW
from mlmigrate.testing.suite import MemorySources


class TestLimits:
    def test_texts_that_only_neptune_is_asked_for(
        self, sources: MemorySources, neptune2: Neptune2
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

        assert [] == neptune2.copy(origin).of(Failed)
        assert [] == neptune2.differences(origin)
        before = neptune2.sent()
        assert {"skipped": 3} == neptune2.copy(origin).counts()
        assert before == neptune2.sent()


class TestOtherServers:
    """Servers that have less than Neptune's: runs are copied all the same."""

    def test_the_project_holds_no_attributes(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        origin = sources(suite.experiment(), suite.run())
        project = neptune2.server.project("team/proj")
        assert project is not None
        id = project.own.id

        def told(said: Any) -> bool:
            return bool(said.get("experimentId") == id)

        for name in ("executeOperations", "getExperimentAttributes"):
            neptune2.server.plant(name, Deny(404), times=None, when=told)

        result = neptune2.copy(origin)

        assert [] == result.of(Failed)
        assert [] == neptune2.differences(origin)
        again = neptune2.copy(origin)
        assert {"skipped": 1} == again.counts()
        assert {"skipped": 1} == again.counts("experiment")

    def test_an_experiment_without_runs_is_lost_there(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        origin = sources(suite.experiment())
        neptune2.server.plant("executeOperations", Deny(404), times=None)

        result = neptune2.copy(origin)

        (loss,) = result.losses()
        assert not loss.carried

    def test_there_are_no_models(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        origin = sources(suite.experiment(), suite.run())
        neptune2.server.plant(
            "searchLeaderboardEntries",
            Deny(422),
            times=None,
            when=lambda said: "run" not in str(said.get("type")),
        )

        assert [] == neptune2.copy(origin).of(Failed)
