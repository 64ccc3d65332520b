"""What every sink must do: subclass `SinkSuite`, and pytest collects the tests.

::

    class TestMySink(SinkSuite):
        @pytest.fixture
        def sink_location(self, tmp_path): ...        # a fresh, empty store

        def peek(self, location, run): ...            # past the adapter

The hooks `peek`, `edit_tag` and `delete_run` must not use the adapter: a bug in
``write`` cannot then hide behind its mirror in ``read``.
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlmigrate import marks, pipeline
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.fit import fit
from mlmigrate.locations import Opened, resolve
from mlmigrate.merge import OnConflict
from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    Conflict,
    Copied,
    DatasetInput,
    Experiment,
    Failed,
    Item,
    Kind,
    Loss,
    MetricHistory,
    ModelVersion,
    Note,
    Param,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Skipped,
    Tag,
    Updated,
)
from mlmigrate.pipeline import Options
from mlmigrate.stores import memory
from mlmigrate.testing.faults import BrokenFile
from mlmigrate.testing.strategies import runs as any_runs
from mlmigrate.verification import Different, Missing, verify

T = TypeVar("T")

#: 2023-11-14T22:13:20Z, in milliseconds.
NOW = 1_700_000_000_000
RUN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


# -- making items ---------------------------------------------------------------------


def points(key: str, *triples: tuple[int, float], at: int = NOW) -> MetricHistory:
    """Return the history of (step, value) pairs, a second apart."""
    steps = [step for step, _ in triples]
    return history(
        key,
        np.array(steps, dtype=np.int64),
        np.array([at + 1000 * max(step, 0) for step in steps], dtype=np.int64),
        np.array([value for _, value in triples], dtype=np.float64),
    )


def experiment(id: str = "1", name: str = "churn", **more: Any) -> Item:
    """Return an experiment."""
    tags = more.pop("tags", ())
    header = Experiment(
        name, **{"creation_time": NOW - 5000, "last_update_time": NOW - 4000, **more}
    )
    return Item(Ref("experiment", id), header, f"{id}/{name}", tags=tags)


def run(id: str = RUN, experiment: str = "1", **more: Any) -> Item:
    """Return a finished run; keywords are fields of the item or of its header."""
    own = {name: more.pop(name) for name in list(more) if name in _ITEM_FIELDS}
    header = {
        "name": "tidy-owl-1",
        "status": "FINISHED",
        "start_time": NOW,
        "end_time": NOW + 60_000,
        "user": "dana",
        **more,
    }
    return Item(Ref("run", id), Run(Ref("experiment", experiment), **header), id, **own)


_ITEM_FIELDS = {"params", "tags", "metrics", "inputs", "artifacts"}


def version(model: str, number: int, created: int, **more: Any) -> ModelVersion:
    """Return a model version."""
    return ModelVersion(
        number,
        f"{model}/{number}@{created}",
        creation_time=created,
        last_updated_time=created,
        **more,
    )


def model(name: str, *versions: ModelVersion, aliases: Sequence[Alias] = ()) -> Item:
    """Return a registered model."""
    return Item(
        Ref("registered_model", name),
        RegisteredModel(
            name, "predicts", NOW, max(v.creation_time or 0 for v in versions)
        ),
        name,
        tags=(Tag("team", "growth"),),
        versions=versions,
        aliases=tuple(aliases),
    )


def everything() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    """Return an item of each kind with something in every field, and its artifacts."""
    data = {"model/weights.bin": bytes(range(256)) * 100, "notes ä.txt": b"", "x": b"1"}
    full = run(
        params=(
            Param("lr", "0.1"),
            Param("empty", ""),
            Param("nested/key", "line\nbreak"),
        ),
        tags=(Tag("note", "größer 🚀"), Tag("mlflow.source.name", "train.py")),
        metrics=(
            points("loss", *((step, 1 / (step + 1)) for step in range(300))),
            points("val/acc", (-3, 0.5), (2**40, 0.25)),
        ),
        inputs=(
            DatasetInput(
                "cats",
                "d1",
                "local",
                '{"uri": "/cats"}',
                schema="{}",
                profile='{"rows": 3}',
                tags=(Tag("mlflow.data.context", "training"),),
            ),
        ),
        artifacts=tuple(Artifact(path, len(b)) for path, b in sorted(data.items())),
    )
    child = run(
        OTHER,
        name="child",
        parent=Ref("run", RUN),
        lifecycle="deleted",
        deleted_time=NOW + 70_000,
    )
    registered = model(
        "classifier",
        version(
            "classifier",
            1,
            NOW + 1,
            description="first",
            user="mei",
            stage="Production",
            run=Ref("run", RUN),
            source=f"runs:/{RUN}/model",
            source_run=Ref("run", RUN),
            source_path="model",
            tags=(Tag("ok", "yes"),),
        ),
        version("classifier", 3, NOW + 3, status="FAILED_REGISTRATION"),
        aliases=[Alias("champion", 3)],
    )
    items = [
        experiment(tags=(Tag("team", "growth"),)),
        full,
        child,
        registered,
    ]
    return items, {(full.ref, path): content for path, content in data.items()}


# -- running a copy -------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """The events of one copy."""

    events: list[pipeline.Event] = field(default_factory=list)

    def of(self, type_: type[T]) -> list[T]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, type_)]

    def counts(self, kind: Kind | None = "run") -> dict[str, int]:
        """Return how often each outcome befell an item of a kind."""
        outcomes = (Copied, Updated, Skipped, Conflict, Failed)
        found = [event for event in self.events if isinstance(event, outcomes)]
        return dict(
            Counter(
                type(event).__name__.lower()
                for event in found
                if kind in (None, event.ref.kind)
            )
        )

    def findings(self) -> list[Problem | Note | Loss]:
        """Return all findings, also those of outcomes."""
        found: list[Problem | Note | Loss] = []
        for event in self.events:
            if isinstance(event, Problem | Note | Loss):
                found.append(event)
            else:
                found += getattr(event, "findings", ())
        return found


@dataclass(frozen=True, slots=True)
class Peeked:
    """What a store holds of a run, seen past its adapter."""

    status: str
    start_time: int | None
    end_time: int | None
    lifecycle: str
    params: dict[str, str]
    tags: dict[str, str]  # without mlmigrate.*
    metrics: list[tuple[str, int, int, float]]  # key, step, timestamp, value; sorted
    marked: bool


class MemorySources:
    """Makes sources in memory, and forgets them afterwards."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(
        self, *items: Item, files: dict[tuple[Ref, str], bytes] | None = None
    ) -> str:
        """Return the location of a new source that holds *items*."""
        location = f"memory:source-{uuid.uuid4().hex}"
        self.made.append(location)
        self.put(location, *items, files=files)
        return location

    def put(
        self,
        location: str,
        *items: Item,
        files: dict[tuple[Ref, str], bytes] | None = None,
    ) -> None:
        """Put *items* into a source, over those of equal refs."""
        held = memory.contents(location)
        held.items.update((item.ref, item) for item in items)
        held.blobs.update(files or {})


class SinkSuite:
    """Tests that every sink passes; one that cannot keep run ids needs its own."""

    #: ``KEY=VALUE`` texts for the sink's adapter.
    options: Sequence[str] = ()

    # -- hooks ------------------------------------------------------------------

    @pytest.fixture
    def sink_location(self) -> str:
        """Return the location of a fresh, empty store."""
        raise NotImplementedError

    def peek(self, location: str, run: str) -> Peeked | None:
        """Read a run without the adapter; None where there is none."""
        raise NotImplementedError

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        """Change a tag of a run, as someone at the sink would."""
        raise NotImplementedError

    def delete_run(self, location: str, run: str) -> None:
        """Mark a run as deleted, as someone at the sink would."""
        raise NotImplementedError

    # -- helpers ----------------------------------------------------------------

    @pytest.fixture
    def source(self) -> Iterator[MemorySources]:
        """Make sources in memory."""
        sources = MemorySources()
        yield sources
        for location in sources.made:
            memory.forget(location)

    def opened(self, location: str, artifacts: str = "copy") -> Opened:
        """Resolve the sink."""
        return resolve(location, self.options, shared={"artifacts": artifacts})

    def copy(self, sources: str | list[str], sink: str, **options: Any) -> Result:
        """Copy, and return what happened."""
        locations = [sources] if isinstance(sources, str) else sources
        chosen = Options(**options)
        return Result(
            list(
                pipeline.copy(
                    [resolve(location) for location in locations],
                    self.opened(sink, chosen.artifacts),
                    chosen,
                )
            )
        )

    def differences(
        self, sources: str | list[str], sink: str, **options: Any
    ) -> list[Any]:
        """Verify, and return what differs or is missing."""
        locations = [sources] if isinstance(sources, str) else sources
        found = verify(
            [resolve(location) for location in locations],
            self.opened(sink),
            Options(**options),
        )
        return [each for each in found if isinstance(each, Different | Missing)]

    def read(self, location: str, kind: Kind) -> dict[str, Item]:
        """Read back all items of a kind, by id."""
        store = self.opened(location).sink()
        try:
            found = {}
            for item in store.read(list(store.refs(Selection(kind)))):
                assert isinstance(item, Item), item
                found[item.ref.id] = item
            return found
        finally:
            store.close()

    def held(self, location: str, run: str = RUN) -> Peeked:
        """Peek at a run that must be there."""
        found = self.peek(location, run)
        assert found is not None
        return found

    # -- tests: round trips -------------------------------------------------------

    def test_everything_arrives(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each field of each record is read back as it was, and verify agrees."""
        items, files = everything()
        origin = source(*items, files=files)
        result = self.copy(origin, sink_location)

        assert [*result.of(Failed), *result.of(Problem)] == []
        assert self.differences(origin, sink_location) == []
        store = self.opened(sink_location).sink()
        for kind in ("experiment", "run", "registered_model"):
            back = self.read(sink_location, kind)
            for item in (each for each in items if each.ref.kind == kind):
                fitted, losses = fit(item, store.capabilities)
                assert losses == ()
                own = back[item.ref.id]
                if kind == "registered_model":
                    own, fitted = _without_places(own), _without_places(fitted)
                assert digest(fitted) == digest(own), (fitted, own)
        for (ref, path), content in files.items():
            with store.open(ref, path) as file:
                assert content == file.read()
        store.close()

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
        assert _rows(full) == seen.metrics
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
        sink = self.opened(sink_location).sink()
        capabilities = sink.capabilities
        sink.close()
        seen = [value for _, _, _, value in self.held(sink_location).metrics]

        assert self.differences(origin, sink_location) == []
        assert math.isnan(seen[0])
        assert seen[4] == 5e-324
        if capabilities.infinities:
            assert [math.inf, -math.inf] == seen[1:3]
        losses = [each for each in result.findings() if isinstance(each, Loss)]
        assert bool(losses) == (
            not capabilities.infinities or not capabilities.negative_zero
        )
        assert all(loss.carried for loss in losses)

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

    # -- tests: again and later ---------------------------------------------------

    def test_again(self, source: MemorySources, sink_location: str) -> None:
        """A second copy skips everything and changes nothing."""
        items, files = everything()
        origin = source(*items, files=files)
        self.copy(origin, sink_location)
        before = self.held(sink_location)
        again = self.copy(origin, sink_location)

        assert again.counts(None) == {"skipped": 4}
        assert before == self.held(sink_location)

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
        assert _rows(grown) == seen.metrics
        assert self.differences(origin, sink_location) == []
        assert self.copy(origin, sink_location).counts() == {"skipped": 1}

    def test_older_after_newer(self, source: MemorySources, sink_location: str) -> None:
        """Tuesday's folder after Friday's changes nothing."""
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
        early, late = source(experiment(), tuesday), source(experiment(), friday)
        result = self.copy([early, late], sink_location)
        seen = self.held(sink_location)

        assert result.counts() == {"copied": 1, "updated": 1}
        assert (seen.status, seen.tags) == ("FINISHED", {"stage": "done"})
        assert _rows(friday) == seen.metrics
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

    # -- tests: merging -------------------------------------------------------------

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

    # -- tests: faults --------------------------------------------------------------

    def test_broken_artifact(
        self,
        source: MemorySources,
        sink_location: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It fails its run alone: no mark, no partial file; later it is completed."""
        data = bytes(3 << 20)
        good = run(OTHER, artifacts=(Artifact("sound.bin", 3),))
        bad = run(
            artifacts=(Artifact("a-sound.bin", 3), Artifact("big.bin", len(data)))
        )
        files = {
            (good.ref, "sound.bin"): b"123",
            (bad.ref, "a-sound.bin"): b"123",
            (bad.ref, "big.bin"): data,
        }
        origin = source(experiment(), good, bad, files=files)
        whole = memory.MemoryStore.open

        def broken(store: memory.MemoryStore, ref: Ref, path: str) -> BinaryIO:
            if path == "big.bin":
                return BrokenFile(data, readable=2 << 20)
            return whole(store, ref, path)

        with monkeypatch.context() as patched:
            patched.setattr(memory.MemoryStore, "open", broken)
            result = self.copy(origin, sink_location)
        seen = self.peek(sink_location, RUN)

        assert result.counts() == {"copied": 1, "failed": 1}
        assert seen is None or not seen.marked
        assert self.held(sink_location, OTHER).marked
        assert self.partial_files(sink_location) == []

        again = self.copy(origin, sink_location)
        assert again.counts()["skipped"] == 1
        assert self.differences(origin, sink_location) == []

    def partial_files(self, location: str) -> list[str]:
        """Return what is left of files that were not wholly written; a hook."""
        return []

    def test_marks_are_whole(self, source: MemorySources, sink_location: str) -> None:
        """Every copied run bears a mark with the digest of its source."""
        items, files = everything()
        self.copy(source(*items, files=files), sink_location)
        for id, item in self.read(sink_location, "run").items():
            mark = marks.load(item.mark)
            original = next(each for each in items if each.ref.id == id)

            assert mark is not None
            assert digest(original) == mark.digest


def _rows(item: Item) -> list[tuple[str, int, int, float]]:
    return sorted(
        (metric.key, *row)
        for metric in item.metrics
        for row in zip(
            metric.steps.tolist(),
            metric.timestamps.tolist(),
            metric.values.tolist(),
            strict=True,
        )
    )


def _numbers(item: Item) -> dict[str, int]:
    return {each.origin: each.version for each in item.versions}


def _without_places(item: Item) -> Item:
    return replace(
        item,
        versions=tuple(
            replace(each, source=None, storage_location=None) for each in item.versions
        ),
    )
