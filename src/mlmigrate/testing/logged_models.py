"""Logged models, and what runs and registered models have to do with them."""

from __future__ import annotations

import math
from dataclasses import replace

from mlmigrate import marks
from mlmigrate.digest import digest
from mlmigrate.fit import fit
from mlmigrate.model import (
    Artifact,
    Failed,
    Item,
    LoggedModel,
    Loss,
    ModelVersion,
    Param,
    Problem,
    Ref,
    Tag,
    Updated,
)
from mlmigrate.testing.items import (
    MODEL,
    NOW,
    OTHER,
    RUN,
    experiment,
    link,
    logged_model,
    model,
    model_points,
    points,
    run,
    version,
    with_logged_models,
)
from mlmigrate.testing.sink_under_test import MemorySources, Result, SinkUnderTest


class NoLoggedModels(SinkUnderTest):
    """What a sink without a place for logged models says of them."""

    def test_logged_models_have_a_place_or_are_told_as_lost(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each is copied, or one loss, also when the copy is repeated."""
        items, files = with_logged_models()
        origin = source(*items, files=files)
        facts = self.capabilities(sink_location).logged_models
        for _ in range(2):
            result = self.copy(origin, sink_location)
            lost = [each.ref for each in result.of(Loss) if not each.carried]

            assert result.of(Failed) == []
            if facts is None:
                assert lost == [item.ref for item in items if _is_model(item)]
                assert self.copied(result) == {}
            else:
                assert lost == []
                assert set(self.copied(result)) <= {"copied", "skipped"}

    def copied(self, result: Result) -> dict[str, int]:
        """Return what became of the logged models."""
        return result.counts("logged_model")


class LoggedModels(NoLoggedModels):
    """They arrive with their metrics, artifacts and links, and grow like runs."""

    def test_logged_models_arrive(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each field of each is read back as it was, and verify agrees."""
        items, files = with_logged_models()
        origin = source(*items, files=files)
        result = self.copy(origin, sink_location)

        assert [*result.of(Failed), *result.of(Problem)] == []
        assert self.differences(origin, sink_location) == []
        capabilities = self.capabilities(sink_location)
        for kind in ("run", "logged_model"):
            back = self.read(sink_location, kind)
            for item in (each for each in items if each.ref.kind == kind):
                fitted, losses = fit(item, capabilities)
                assert losses == ()
                assert digest(fitted) == digest(back[item.origin])
                mark = marks.load(back[item.origin].mark)
                assert mark is not None
                assert mark.digest == digest(item)
        self.holds(sink_location, files)
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}

    def test_versions_of_logged_models(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """A version still leads to the model that it was registered from."""
        items, files = with_logged_models()
        self.copy(source(*items, files=files), sink_location)
        (back,) = self.read(sink_location, "registered_model").values()
        (own,) = (each for each in back.versions if each.source_model)

        assert own.source == f"models:/{MODEL}"
        assert own.source_model == Ref("logged_model", MODEL)

    def test_a_version_that_leads_into_artifacts_of_a_logged_model(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Its source and its logged model are told apart, or the latter is carried."""
        lone: ModelVersion = version(
            "m", 1, NOW, source="s3://b/x", logged_model=Ref("logged_model", MODEL)
        )
        origin = source(experiment(), run(), logged_model(), model("m", lone))
        losses = self.copy(origin, sink_location).losses()
        (back,) = self.read(sink_location, "registered_model").values()

        assert all(loss.carried for loss in losses)
        if not losses:
            assert back.versions[0].logged_model == lone.logged_model
        assert back.versions[0].source == "s3://b/x"

    def test_a_logged_model_grows(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Later it is ready, measured by another run, and has more of everything."""
        young = logged_model(
            status="PENDING",
            last_updated_time=NOW,
            params=(Param("a", "1"),),
            model_metrics=(model_points("acc", (0, 0.5)),),
            artifacts=(Artifact("a", 1),),
        )
        files = {(young.ref, "a"): b"1"}
        origin = source(experiment(), run(), young, files=files)
        self.copy(origin, sink_location)
        grown = logged_model(
            params=(Param("a", "1"), Param("b", "2")),
            tags=(Tag("good", "yes"),),
            model_metrics=(
                model_points("acc", (0, 0.5), (1, 0.75)),
                model_points("acc", (0, 0.9), run=OTHER, dataset=("cats", "d1")),
            ),
            artifacts=(Artifact("a", 1), Artifact("b", 2)),
        )
        judge = run(OTHER, links=(link(role="input"),))
        made = run(links=(link(step=3),), end_time=NOW + 70_000)
        files = {(grown.ref, "b"): b"22"}
        source.put(origin, grown, judge, made, files=files)
        result = self.copy(origin, sink_location)
        (back,) = self.read(sink_location, "logged_model").values()
        runs = self.read(sink_location, "run")

        assert result.counts() == {"updated": 1, "copied": 1}
        assert self.copied(result) == {"updated": 1}
        assert sum(event.points for event in result.of(Updated)) == 2
        assert isinstance(back.header, LoggedModel)
        assert back.header.status == "READY"
        assert digest(_alike(grown, back)) == digest(back)
        assert runs[RUN].links == made.links
        assert runs[OTHER].links == judge.links
        assert self.differences(origin, sink_location) == []
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}

    def test_logged_models_of_two_places(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """One model in two folders is one, with what both know; in any order."""
        early = logged_model(model_metrics=(model_points("acc", (0, 0.5)),))
        late = logged_model(
            last_updated_time=NOW + 90_000,
            model_metrics=(model_points("acc", (0, 0.5), (1, 0.6)),),
        )
        one, other = (
            source(experiment(), run(), early),
            source(experiment(), run(), late),
        )
        for sources in ([other, one], [one, other]):
            self.copy(sources, sink_location)
            assert self.differences(sources, sink_location) == []
        (back,) = self.read(sink_location, "logged_model").values()

        assert digest(_alike(late, back)) == digest(back)

    def test_odd_values_of_logged_models(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """No value changes, and no point goes, unless a carried loss says so."""
        odd = ((0, math.nan), (1, math.inf), (2, -math.inf), (3, -0.0), (4, 5e-324))
        item = logged_model(
            model_metrics=(
                model_points("odd", *odd),
                model_points("twice", (0, 1.0), (0, 2.0)),
                model_points("twice", (0, 3.0), dataset=("cats", "d1")),
            )
        )
        origin = source(experiment(), run(), item)
        result = self.copy(origin, sink_location)
        losses = result.losses()
        fitted, expected = fit(item, self.capabilities(sink_location))
        (back,) = self.read(sink_location, "logged_model").values()

        assert all(loss.carried for loss in losses)
        assert len(losses) == len(expected)
        assert digest(_alike(fitted, back)) == digest(back)
        assert self.differences(origin, sink_location) == []
        assert self.copied(self.copy(origin, sink_location)) == {"skipped": 1}

    def test_a_run_that_is_not_there_yet(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """What a missing run measured is copied, or lost until that run is there."""
        item = logged_model(
            model_metrics=(
                model_points("acc", (0, 0.5)),
                model_points("acc", (1, 0.25), run=OTHER),
            )
        )
        origin = source(experiment(), run(), item)
        for _ in range(2):
            first = self.copy(origin, sink_location)
            losses = first.losses()
            assert all(not loss.carried for loss in losses)
        source.put(origin, run(OTHER, metrics=(points("x", (0, 1.0)),)))
        second = self.copy(origin, sink_location)
        (back,) = self.read(sink_location, "logged_model").values()

        assert second.losses() == []
        assert self.copied(second) == {"updated" if losses else "skipped": 1}
        assert digest(_alike(item, back)) == digest(back)
        assert self.differences(origin, sink_location) == []


def _is_model(item: Item) -> bool:
    return isinstance(item.header, LoggedModel)


def _alike(item: Item, back: Item) -> Item:
    """Return *item* with what a copy has from the sink's own tags and places."""
    plain = (tag for tag in item.tags if not tag.key.startswith(marks.PREFIX))
    return replace(item, tags=tuple(plain), findings=back.findings)
