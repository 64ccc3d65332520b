"""What a sink was given is there, and is read back as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlmigrate import marks
from mlmigrate.digest import digest
from mlmigrate.fit import fit
from mlmigrate.model import Conflict, Failed, Item, Kind, Problem, Run
from mlmigrate.testing.items import OTHER, everything, experiment, points, rows_of, run
from mlmigrate.testing.sink_under_test import MemorySources, SinkSeenThrough
from mlmigrate.testing.strategies import runs as any_runs


class RoundTrips(SinkSeenThrough):
    """Each record of each kind arrives, whatever it holds."""

    def test_everything_arrives(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each field of each record is read back as it was, and verify agrees."""
        items, files = everything()
        origin = source(*items, files=files)
        result = self.copy(origin, sink_location)

        assert [*result.of(Failed), *result.of(Problem)] == []
        assert self.differences(origin, sink_location) == []
        capabilities = self.capabilities(sink_location)
        kinds: list[Kind] = ["experiment", "run", "registered_model"]
        for kind in kinds:
            held = self.read(sink_location, kind).values()
            back = {item.origin: item for item in held}
            for item in (each for each in items if each.ref.kind == kind):
                fitted, losses = fit(item, capabilities)
                assert losses == ()
                own = _without_places(back[_origin_there(item)])
                assert digest(_without_places(fitted)) == digest(own), (fitted, own)
        self.holds(sink_location, files)

    def test_seen_past_the_adapter(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """The store itself holds the values where its own reader finds them."""
        items, files = everything()
        self.copy(source(*items, files=files), sink_location)
        full = items[1]
        seen = self.held(sink_location)

        assert isinstance(full.header, Run)
        assert {param.key: param.value for param in full.params} == seen.params
        assert {tag.key: tag.value for tag in full.tags} == seen.tags
        assert rows_of(full) == seen.metrics
        assert (full.header.status, full.header.start_time, full.header.end_time) == (
            seen.status,
            seen.start_time,
            seen.end_time,
        )
        assert seen.marked
        assert self.held(sink_location, OTHER).lifecycle == "deleted"

    def test_nan_and_infinities(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """No value changes unless the sink says so in a loss that is carried."""
        values = points(
            "odd", (0, math.nan), (1, math.inf), (2, -math.inf), (3, -0.0), (4, 5e-324)
        )
        origin = source(experiment(), run(metrics=(values,)))
        result = self.copy(origin, sink_location)
        capabilities = self.capabilities(sink_location)
        seen = [value for _, _, _, value in self.held(sink_location).metrics]

        assert self.differences(origin, sink_location) == []
        assert math.isnan(seen[0])
        assert seen[4] == 5e-324
        if capabilities.infinities:
            assert [math.inf, -math.inf] == seen[1:3]
        losses = result.losses()
        assert all(each.carried for each in losses)
        if not capabilities.infinities or not capabilities.negative_zero:
            assert losses

    @settings(
        max_examples=4,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking would take minutes on a server
        suppress_health_check=list(HealthCheck),
    )
    @given(
        items=st.lists(
            any_runs(), min_size=3, max_size=8, unique_by=lambda each: each.ref.id
        )
    )
    def test_any_run_arrives(
        self, source: MemorySources, sink_location: str, items: list[Item]
    ) -> None:
        """Whatever a run holds: it arrives, a second copy changes nothing."""
        origin = source(experiment(), *items)
        result = self.copy(origin, sink_location)

        assert [*result.of(Failed), *result.of(Conflict)] == []
        assert self.differences(origin, sink_location) == []
        assert {"skipped"} == set(self.copy(origin, sink_location).counts())

    def test_marks_are_whole(self, source: MemorySources, sink_location: str) -> None:
        """Every copied run bears a mark with the digest of its source."""
        items, files = everything()
        self.copy(source(*items, files=files), sink_location)
        for id, item in self.read(sink_location, "run").items():
            mark = marks.load(item.mark)
            original = next(each for each in items if each.ref.id == id)

            assert mark is not None
            assert digest(original) == mark.digest


def _origin_there(item: Item) -> str:
    """Return the origin by which a sink knows an item: for an experiment a list."""
    return json.dumps([item.origin]) if item.ref.kind == "experiment" else item.origin


def _without_places(item: Item) -> Item:
    return replace(
        item,
        versions=tuple(
            replace(each, source=None, storage_location=None) for each in item.versions
        ),
    )
