"""Copying again, later, in another order, or after somebody edited the sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from mlmigrate.merge import OnConflict
from mlmigrate.model import Artifact, Failed, Item, Param, Ref, Tag, Updated
from mlmigrate.stores import memory
from mlmigrate.testing.items import (
    NOW,
    OTHER,
    RUN,
    everything,
    experiment,
    points,
    rows_of,
    run,
)
from mlmigrate.testing.sink_under_test import MemorySources, SinkSeenThrough


class Repeats(SinkSeenThrough):
    """A second copy adds what is new, and nothing else."""

    def test_again(self, source: MemorySources, sink_location: str) -> None:
        """A second copy skips everything and changes nothing."""
        items, files = everything()
        origin = source(*items, files=files)
        self.copy(origin, sink_location)
        before = self.held(sink_location)
        again = self.copy(origin, sink_location)

        assert set(again.counts(None)) == {"skipped"}
        assert before == self.held(sink_location)

    def test_quickly(
        self,
        source: MemorySources,
        sink_location: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In a hurry, a run that had ended is read only if its state changed."""
        ended, going = run(), run(OTHER, status="RUNNING", end_time=None)
        origin = source(experiment(), ended, going)
        self.copy(origin, sink_location)
        read: list[Ref] = []
        plain = memory.MemoryStore.read

        def watched(
            store: memory.MemoryStore, refs: Sequence[Ref]
        ) -> Iterator[Item | Failed]:
            if store.location == origin:
                read.extend(ref for ref in refs if ref.kind == "run")
            return plain(store, refs)

        monkeypatch.setattr(memory.MemoryStore, "read", watched)
        again = self.copy(origin, sink_location, quick=True)
        assert again.counts() == {"skipped": 2}
        assert read == [going.ref]

        for changed in (
            run(end_time=NOW + 90_000),
            run(end_time=NOW + 90_000, lifecycle="deleted"),
        ):
            read.clear()
            source.put(origin, changed)
            later = self.copy(origin, sink_location, quick=True)
            assert later.counts() == {"skipped": 1, "updated": 1}
            assert read == [changed.ref, going.ref]
            assert self.differences(origin, sink_location) == []

        # Marks of other options do not count: all is read again.
        read.clear()
        self.copy(origin, sink_location, quick=True, redact_credentials=True)
        assert len(read) == 2

    def test_update_adds_what_is_missing(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """A run that grew gets what is new; what it had stays."""
        young = run(
            status="RUNNING",
            end_time=None,
            params=(Param("lr", "0.1"),),
            metrics=(points("loss", (0, 1.0), (1, 0.5)),),
            artifacts=(Artifact("a", 1),),
        )
        files = {(young.ref, "a"): b"1"}
        origin = source(experiment(), young, files=files)
        self.copy(origin, sink_location)
        grown = run(
            params=(Param("lr", "0.1"), Param("seed", "7")),
            tags=(Tag("done", "yes"),),
            metrics=(
                points("loss", (0, 1.0), (1, 0.5), (2, 0.25)),
                points("acc", (0, 0.9)),
            ),
            artifacts=(Artifact("a", 1), Artifact("b", 2)),
        )
        files = {(grown.ref, "b"): b"22"}
        source.put(origin, grown, files=files)
        result = self.copy(origin, sink_location)
        seen = self.held(sink_location)

        assert result.counts() == {"updated": 1}
        assert sum(event.points for event in result.of(Updated)) == 2
        assert (seen.status, seen.end_time) == ("FINISHED", NOW + 60_000)
        assert seen.params == {"lr": "0.1", "seed": "7"}
        assert rows_of(grown) == seen.metrics
        assert self.differences(origin, sink_location) == []
        assert self.copy(origin, sink_location).counts() == {"skipped": 1}

    def test_older_after_newer(self, source: MemorySources, sink_location: str) -> None:
        """Tuesday's folder after Friday's changes nothing."""
        tuesday, friday = _of_two_days()
        late = source(experiment(), friday)
        self.copy(late, sink_location)
        before = self.held(sink_location)
        early = source(experiment(), tuesday)
        result = self.copy(early, sink_location)

        assert result.counts() == {"skipped": 1}
        assert before == self.held(sink_location)
        assert self.differences([late, early], sink_location) == []

    def test_newer_after_older(self, source: MemorySources, sink_location: str) -> None:
        """The same two folders in the other order make the same copy."""
        tuesday, friday = _of_two_days()
        early, late = source(experiment(), tuesday), source(experiment(), friday)
        result = self.copy([early, late], sink_location)
        seen = self.held(sink_location)

        assert result.counts() == {"copied": 1, "updated": 1}
        assert (seen.status, seen.tags) == ("FINISHED", {"stage": "done"})
        assert rows_of(friday) == seen.metrics
        assert self.differences([early, late], sink_location) == []

    # -- tests: conflicts -----------------------------------------------------------

    def _conflicting(self, source: MemorySources) -> tuple[str, str]:
        one = run(
            params=(Param("lr", "0.1"),), metrics=(points("loss", (0, 1.0), (1, 2.0)),)
        )
        other = run(
            params=(Param("lr", "0.2"),),
            metrics=(points("loss", (0, 1.0), (1, 3.0)),),
            end_time=NOW + 90_000,
        )
        return source(experiment(), one), source(experiment(), other)

    def test_conflict_fails_alone(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """By default a run with two truths stays as it is; the others go on."""
        one, other = self._conflicting(source)
        source.put(other, run(OTHER))
        self.copy(one, sink_location)
        before = self.held(sink_location)
        result = self.copy(other, sink_location)

        assert result.counts() == {"conflict": 1, "copied": 1}
        assert before == self.held(sink_location)
        assert self.peek(sink_location, OTHER) is not None

    def test_conflict_newest(self, source: MemorySources, sink_location: str) -> None:
        """The values of the later activity win, whichever is copied first."""
        one, other = self._conflicting(source)
        chosen: OnConflict = "newest"
        self.copy(one, sink_location)
        self.copy(other, sink_location, on_conflict=chosen)
        after = self.held(sink_location)
        self.copy(one, sink_location, on_conflict=chosen)

        assert {"lr": "0.2"} == after.params == self.held(sink_location).params
        assert self.held(sink_location).end_time == NOW + 90_000

    def test_conflict_keep_both(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each truth is a run of its own, also after repeats."""
        one, other = self._conflicting(source)
        for _ in range(3):
            for origin in (one, other):
                self.copy(origin, sink_location, on_conflict="keep-both")
        back = self.read(sink_location, "run")

        assert {"0.1", "0.2"} == {item.params[0].value for item in back.values()}
        assert len(back) == 2

    # -- tests: what was done at the sink -------------------------------------------

    def test_deleted_at_the_sink(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """A copy that someone deleted stays deleted, and that is told."""
        origin = source(experiment(), run())
        self.copy(origin, sink_location)
        self.delete_run(sink_location, RUN)
        source.put(origin, run(metrics=(points("loss", (0, 1.0)),)))
        result = self.copy(origin, sink_location)

        assert result.counts() == {"skipped": 1}
        assert any("deleted at the sink" in each.what for each in result.findings())
        assert self.held(sink_location).lifecycle == "deleted"

    def test_edited_at_the_sink(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """A tag that someone changed stays, while the run gets what is new."""
        origin = source(experiment(), run(tags=(Tag("verdict", "?"), Tag("a", "1"))))
        self.copy(origin, sink_location)
        self.edit_tag(sink_location, RUN, "verdict", "good")
        grown = run(tags=(Tag("verdict", "?"), Tag("a", "2")), end_time=NOW + 70_000)
        source.put(origin, grown)
        result = self.copy(origin, sink_location)

        assert result.counts() == {"updated": 1}
        assert self.held(sink_location).tags == {"verdict": "good", "a": "2"}


def _of_two_days() -> tuple[Item, Item]:
    """Return a run as it was on Tuesday, and as it had ended on Friday."""
    tuesday = run(
        status="RUNNING",
        end_time=None,
        tags=(Tag("stage", "warm-up"),),
        metrics=(points("loss", (0, 1.0)),),
    )
    friday = run(
        tags=(Tag("stage", "done"),),
        metrics=(points("loss", (0, 1.0), (1, 0.5)),),
    )
    return tuesday, friday
