"""Registered models of several places become one at a sink that has them."""

from __future__ import annotations

from dataclasses import replace

from mlmigrate.model import Alias, Item, RegisteredModel, Tag
from mlmigrate.testing.items import NOW, model, version
from mlmigrate.testing.sink_under_test import MemorySources, SinkUnderTest


class Registry(SinkUnderTest):
    """Versions keep their numbers, and what stands at the sink stays."""

    def test_versions_keep_their_numbers(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Later arrivals follow the highest; repeats change no number."""
        one = source(model("m", version("m", 1, NOW + 1), version("m", 2, NOW + 2)))
        other = source(model("m", version("m", 1, NOW), version("m", 5, NOW + 5)))
        self.copy(one, sink_location)
        first = _numbers(self.read(sink_location, "registered_model")["m"])
        self.copy(other, sink_location)
        second = _numbers(self.read(sink_location, "registered_model")["m"])
        for sources in ([one, other], [other, one], [other]):
            self.copy(sources, sink_location)
        last = _numbers(self.read(sink_location, "registered_model")["m"])

        assert {f"m/1@{NOW + 1}": 1, f"m/2@{NOW + 2}": 2} == first
        assert {**first, f"m/1@{NOW}": 6, f"m/5@{NOW + 5}": 5} == second == last
        assert self.differences([one, other], sink_location) == []

    def test_aliases_stay(self, source: MemorySources, sink_location: str) -> None:
        """An alias that stands at the sink is never moved, and that is told."""
        versions = (version("m", 1, NOW + 1), version("m", 2, NOW + 2))
        origin = source(model("m", *versions, aliases=[Alias("champion", 1)]))
        self.copy(origin, sink_location)
        source.put(
            origin,
            model(
                "m", *versions, aliases=[Alias("champion", 2), Alias("challenger", 2)]
            ),
        )
        result = self.copy(origin, sink_location)
        back = self.read(sink_location, "registered_model")["m"]

        assert {("champion", 1), ("challenger", 2)} == {
            (alias.name, alias.version) for alias in back.aliases
        }
        assert any("champion stays" in each.what for each in result.findings())

    def test_what_a_model_has_at_the_sink_stays_and_that_is_told(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Two models of one name differ in a tag, the description and an alias."""
        there = model("m", version("m", 1, NOW), aliases=[Alias("live", 1)])
        came = model("m", version("m", 1, NOW + 1), aliases=[Alias("live", 1)])
        assert isinstance(came.header, RegisteredModel)
        came = replace(
            came,
            header=replace(came.header, description="predicts better"),
            tags=(Tag("team", "sales"),),
        )
        one, other = source(there), source(came)
        self.copy(one, sink_location)
        told = " ".join(
            each.what for each in self.copy(other, sink_location).findings()
        )
        (held,) = self.read(sink_location, "registered_model").values()

        assert isinstance(held.header, RegisteredModel)
        assert held.header.description == "predicts"
        assert [tag.value for tag in held.tags] == ["growth"]
        assert "tag team" in told
        assert "descriptions differ" in told
        assert "alias live stays" in told
        assert self.differences([one, other], sink_location) == []
        fields = {each.field for each in self.differences(other, sink_location)}
        assert fields == {"tag team", "description", "alias live"}


def _numbers(item: Item) -> dict[str, int]:
    return {each.origin: each.version for each in item.versions}
