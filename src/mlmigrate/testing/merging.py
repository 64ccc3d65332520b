"""Several sources into one sink: experiments and registered models."""

from __future__ import annotations

from dataclasses import replace

from mlmigrate.model import (
    DatasetInput,
    Experiment,
    Run,
)
from mlmigrate.testing.items import OTHER, RUN, experiment, run
from mlmigrate.testing.sink_under_test import MemorySources, SinkUnderTest


class Merging(SinkUnderTest):
    """Experiments of one name become one; versions keep their numbers."""

    def test_experiments_of_one_name_merge(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Two sources' experiments of one name become one that holds both's runs."""
        one = source(experiment("1"), run())
        other = source(experiment("7"), run(OTHER, "7"))
        for _ in range(2):
            self.copy([one, other], sink_location)
        experiments = self.read(sink_location, "experiment")
        named = [
            id
            for id, item in experiments.items()
            if isinstance(item.header, Experiment) and item.header.name == "churn"
        ]
        runs = self.read(sink_location, "run")

        assert len(named) == 1
        assert {named[0]} == {
            item.header.experiment.id
            for item in runs.values()
            if isinstance(item.header, Run)
        }
        assert self.differences([one, other], sink_location) == []

    def test_equal_ids_are_renumbered(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Experiments of one id stay two, and so does one whose id does not fit."""
        large = "123456789012345678"
        one = source(experiment("1", "a"), run())
        other = source(
            experiment("1", "b"),
            run(OTHER),
            experiment(large, "large"),
            run("a" * 32, large),
        )
        for _ in range(2):
            self.copy([one, other], sink_location)
        names = {
            id: item.header.name
            for id, item in self.read(sink_location, "experiment").items()
            if isinstance(item.header, Experiment) and item.header.name != "Default"
        }
        homes = {
            id: names[item.header.experiment.id]
            for id, item in self.read(sink_location, "run").items()
            if isinstance(item.header, Run)
        }

        assert sorted(names.values()) == ["a", "b", "large"]
        assert homes == {RUN: "a", OTHER: "b", "a" * 32: "large"}
        assert self.differences([one, other], sink_location) == []

    def test_datasets_of_one_digest(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Datasets of one name and digest stay two, or one is told as lost."""
        one = DatasetInput("cats", "1a2b", "local", '{"uri": "/home/a/cats.csv"}')
        other = replace(one, source='{"uri": "/home/b/cats.csv"}')
        origin = source(experiment(), run(inputs=(one,)), run(OTHER, inputs=(other,)))
        for _ in range(2):
            result = self.copy(origin, sink_location)
            losses = result.losses()
            differing = self.differences(origin, sink_location)
            assert len(losses) == len(differing) <= 1
