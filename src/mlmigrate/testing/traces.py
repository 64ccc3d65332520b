"""Traces, with their spans and what was said of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from mlmigrate import marks
from mlmigrate.digest import digest
from mlmigrate.filters import Filters
from mlmigrate.fit import fit
from mlmigrate.model import (
    Failed,
    Item,
    Loss,
    Problem,
    Ref,
    Tag,
    Trace,
    TraceLink,
)
from mlmigrate.testing.items import (
    NOW,
    OTHER,
    RUN,
    experiment,
    model,
    run,
    version,
)
from mlmigrate.testing.sink_under_test import MemorySources, SinkUnderTest
from mlmigrate.testing.trace_items import (
    CHILD,
    ROOT,
    TRACE,
    assessment,
    span,
    trace,
    with_traces,
)


class NoTraces(SinkUnderTest):
    """What a sink without a place for traces says of them."""

    def test_traces_have_a_place_or_are_told_as_lost(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each is copied, or its experiment says how many are lost, each time."""
        items, files = with_traces()
        origin = source(*items, files=files)
        place = self.capabilities(sink_location).traces is not None
        for _ in range(2):
            result = self.copy(origin, sink_location)
            lost = [each for each in result.of(Loss) if not each.carried]

            assert result.of(Failed) == []
            if place:
                assert lost == []
                assert set(result.counts("trace")) <= {"copied", "skipped"}
            else:
                assert [each.ref for each in lost] == [Ref("experiment", "1")]
                assert lost[0].what.startswith("3 traces")
                assert result.counts("trace") == {}


class Traces(NoTraces):
    """They arrive with their spans and assessments, and grow."""

    def traces(self, location: str) -> dict[str, Item]:
        """Read the traces at the sink, with the ids that runs had at their origin."""
        runs = self.read(location, "run")
        origins = {id: item.origin for id, item in runs.items()}
        found = self.read(location, "trace")
        return {
            id: _without_kinds(_with_runs(item, origins)) for id, item in found.items()
        }

    def fitted(self, item: Item, location: str) -> Item:
        """Return a trace as the sink can hold it."""
        fitted, _ = fit(item, self.capabilities(location))
        return _alike(fitted)

    def test_traces_arrive(self, source: MemorySources, sink_location: str) -> None:
        """Each field of each is read back as it was, and verify agrees."""
        items, files = with_traces()
        origin = source(*items, files=files)
        result = self.copy(origin, sink_location)

        assert [*result.of(Failed), *result.of(Problem)] == []
        assert self.differences(origin, sink_location) == []
        capabilities = self.capabilities(sink_location)
        back = self.traces(sink_location)
        for item in (each for each in items if each.ref.kind == "trace"):
            fitted, losses = fit(item, capabilities)
            assert all(loss.carried for loss in losses)
            assert digest(_alike(fitted)) == digest(back[item.ref.id])
            mark = marks.load(back[item.ref.id].mark)
            assert mark is not None
            assert mark.digest == digest(item)
        self.holds(sink_location, files)
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}

    def test_a_trace_grows(self, source: MemorySources, sink_location: str) -> None:
        """A trace that went on gets what is new, and nothing twice."""
        young = trace(
            state="IN_PROGRESS",
            execution_duration=None,
            spans=(span(length=0),),
            assessments=(assessment("a-1"),),
            tags=(Tag("old", "1"),),
        )
        origin = source(experiment(), run(), young)
        self.copy(origin, sink_location)
        grown = trace(
            source_run=Ref("run", RUN),
            response_preview="done",
            spans=(span(), span(CHILD, parent=ROOT, name="lookup")),
            metadata=(Tag("mlflow.trace.session", "s-1"), Tag("k", "v")),
            assessments=(
                assessment("a-1", False, updated=NOW + 9000, valid=False),
                assessment("a-2", "x", name="new", overrides="a-1"),
            ),
            tags=(Tag("old", "2"), Tag("new", "1")),
        )
        source.put(origin, grown)
        result = self.copy(origin, sink_location)
        back = self.traces(sink_location)[TRACE]

        assert result.counts("trace") == {"updated": 1}
        assert digest(self.fitted(grown, sink_location)) == digest(back)
        assert self.differences(origin, sink_location) == []
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}

    def test_traces_of_two_places(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """One trace in two stores is one, with what both know; in any order."""
        early = trace(assessments=(assessment("a-1"),))
        late = trace(
            assessments=(assessment("a-1"), assessment("a-2", updated=NOW + 90_000)),
            tags=(Tag("seen", "yes"),),
        )
        one, other = source(experiment(), early), source(experiment(), late)
        for sources in ([other, one], [one, other]):
            self.copy(sources, sink_location)
            assert self.differences(sources, sink_location) == []

        back = self.read(sink_location, "trace")[TRACE]
        assert digest(self.fitted(late, sink_location)) == digest(back)

    def test_prompts_that_are_renumbered(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """A trace names the version of a prompt by the number that it got."""

        def used(version: int, odd: str) -> Item:
            prompts = json.dumps([{"name": "ask", "version": str(version)}])
            link = TraceLink("prompt_version", f"ask/{version}", NOW)
            tags = (Tag("mlflow.linkedPrompts", prompts), Tag("odd", odd))
            return trace(f"tr-{odd}", tags=tags, trace_links=(link,))

        def prompt(*numbers: tuple[int, int]) -> Item:
            tags = (Tag("mlflow.prompt.is_prompt", "true"),)
            text = (*tags, Tag("mlflow.prompt.text", "{{question}}"))
            own = (
                version("ask", number, created, source="dummy-source", tags=text)
                for number, created in numbers
            )
            return replace(model("ask", *own), tags=tags)

        one = source(experiment(), prompt((1, NOW)))
        other = source(
            experiment(),
            prompt((1, NOW + 1), (2, NOW + 2)),
            used(1, "a"),
            used(2, "b"),
        )
        for _ in range(2):
            self.copy([one, other], sink_location)
            assert self.differences([one, other], sink_location) == []
        back = self.read(sink_location, "trace")

        assert [back[f"tr-{odd}"].trace_links[0].id for odd in "ab"] == [
            "ask/3",
            "ask/2",
        ]
        tags = {tag.key: tag.value for tag in back["tr-a"].tags}
        assert tags["mlflow.linkedPrompts"] == '[{"name": "ask", "version": "3"}]'

    def test_odd_values_of_traces(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """No value changes unless a carried loss says so."""
        item = trace(
            client_request_id="x" * 300,
            request_preview="ä\0" * 3000,
            metadata=(
                Tag("mlflow.trace.tokenUsage", '{"total_tokens":1,"odd": "x"}'),
                Tag("mlflow.trace.cost", "none"),
                Tag("long", "v" * 10_000),
            ),
            tags=(Tag("k" * 300, "v" * 10_000), Tag("mlflow.traceName", "n" * 5000)),
            spans=(span(name="n" * 600),),
            assessments=(assessment(name="n" * 300, rationale="\0"),),
        )
        origin = source(experiment(), item)
        result = self.copy(origin, sink_location)
        losses = [loss for loss in result.losses() if loss.ref == item.ref]
        fitted, expected = fit(item, self.capabilities(sink_location))
        back = self.read(sink_location, "trace")[TRACE]

        assert result.of(Failed) == []
        assert all(loss.carried for loss in losses)
        assert len(losses) == len(expected)
        assert digest(_alike(fitted)) == digest(back)
        assert self.differences(origin, sink_location) == []
        assert self.copy(origin, sink_location).counts("trace") == {"skipped": 1}

    def test_filters_select_traces_by_their_runs(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Only those come over whose run does."""
        items, files = with_traces()
        chosen = replace(items[1], tags=(Tag("chosen", "yes"),))
        origin = source(*items, files=files)
        source.put(origin, chosen)
        filters = Filters(runs=("tag.chosen=yes",))
        result = self.copy(origin, sink_location, filters=filters)

        assert result.counts("trace") == {"copied": 1}
        assert self.differences(origin, sink_location, filters=filters) == []
        header = self.traces(sink_location)[TRACE].header
        assert isinstance(header, Trace)
        assert header.source_run == Ref("run", RUN)

    def test_many_traces(self, source: MemorySources, sink_location: str) -> None:
        """They are written together, and one that fails leaves the others alone."""
        many = [
            trace(f"tr-{n:032x}", spans=(span(trace=f"tr-{n:032x}"),))
            for n in range(700)
        ]
        origin = source(experiment(), run(OTHER), *many)
        result = self.copy(origin, sink_location)

        assert result.counts("trace") == {"copied": 700}
        assert self.differences(origin, sink_location) == []


def _alike(item: Item) -> Item:
    """Return *item* without the tags that a copy has from the sink's fitting."""
    plain = (tag for tag in item.tags if not tag.key.startswith(marks.PREFIX))
    return replace(item, tags=tuple(plain))


def _without_kinds(item: Item) -> Item:
    """Return a trace whose spans do not say that they are internal, as a server since
    3.18 does of those that say nothing.
    """
    said = '"kind": "SPAN_KIND_INTERNAL", '
    spans = (
        replace(each, content=each.content.replace(said, "")) for each in item.spans
    )
    return replace(item, spans=tuple(spans))


def _with_runs(item: Item, ids: Mapping[str, str]) -> Item:
    """Return a trace with other ids of the runs that it refers to."""
    header = item.header
    assert isinstance(header, Trace)

    def other(run: Ref | None) -> Ref | None:
        return Ref("run", ids.get(run.id, run.id)) if run else None

    assessments = []
    for each in item.assessments:
        run, metadata = other(each.run), each.metadata
        if each.run and run and metadata:
            metadata = metadata.replace(each.run.id, run.id)
        assessments.append(replace(each, run=run, metadata=metadata))
    return replace(
        item,
        header=replace(header, source_run=other(header.source_run)),
        assessments=tuple(assessments),
        trace_links=tuple(
            replace(link, id=ids.get(link.id, link.id)) for link in item.trace_links
        ),
    )
