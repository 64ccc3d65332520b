"""Refusals, lies, lost answers and kills on the way to Neptune: nothing counts that is
not there, and the next copy makes of it what an undisturbed one makes.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from support.neptune_server import (
    Atom,
    Container,
    Forget,
    api,
    drop,
    lie,
)
from support.neptunes import Neptune2, everything, full

from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Ref
from mlmigrate.testing import suite
from mlmigrate.testing.suite import OTHER, RUN, MemorySources


class TestForgotten:
    """A server that says that it has what it does not keep."""

    def test_a_name_that_it_gives_itself(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        """What Neptune shows is nobody's edit, if it shows that at once."""
        neptune2.server.names_runs = True
        run, files = full()
        origin = sources(
            suite.experiment(), run, suite.run(OTHER, name=None), files=files
        )
        for path in ("sys/name", "sys/description"):
            neptune2.server.plant("executeOperations", Forget(path), times=None)
        assert [] == neptune2.copy(origin).of(Failed)
        held = neptune2.run()
        assert held["sys/name"] != "tidy-owl-1"
        assert [] == neptune2.differences(origin)
        held.put("sys/name", Atom("string", "mine"))
        (different,) = neptune2.differences(origin)
        assert ("name", "mine") == (different.field, different.sink)

    def test_a_value_that_reads_back_otherwise(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        done = api.execute

        def changing(container: Container, *args: Any) -> Any:
            told = done(container, *args)
            if "params/lr" in container:
                container.put("params/lr", Atom("string", "0.10"))
            return told

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(api, "execute", changing)
            (failed,) = neptune2.copy(origin).of(Failed)
        assert "params/lr" in failed.why
        assert not neptune2.marked()


class TestLostAnswers:
    @pytest.mark.parametrize("fault", [drop(), lie(502), lie(500)])
    @pytest.mark.parametrize(
        "asked",
        ["createExperiment", "executeOperations", "fileAtomUpload", "Multipart"],
    )
    def test_what_was_done_and_not_said(
        self,
        sources: MemorySources,
        neptune2: Neptune2,
        asked: str,
        fault: Any,
    ) -> None:
        neptune2.server.part_size = 10_000
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        on = "/upload/" if asked == "Multipart" else asked
        before = neptune2.server.count(on)
        neptune2.server.plant(on, fault, times=1)
        result = neptune2.copy(origin)
        assert neptune2.server.count(on) > before
        assert [] == result.of(Failed), result.events
        neptune2.is_whole(origin)

    @pytest.mark.parametrize("made", [2, 3, 4])
    def test_models_that_were_made_and_not_said(
        self, sources: MemorySources, neptune2: Neptune2, made: int
    ) -> None:
        """Each of two runs, a model and two versions is there once."""
        items, files = everything()
        origin = sources(*items, files=files)
        neptune2.server.plant("createExperiment", drop(), skip=made, times=1)
        neptune2.copy(origin)
        assert [] == neptune2.copy(origin).of(Failed)
        with closing(resolve(neptune2.sink).source()) as store:
            models = list(store.refs(Selection("registered_model")))
            runs = set(store.refs(Selection("run")))
        assert [Ref("registered_model", "classifier")] == models
        assert {Ref("run", RUN), Ref("run", OTHER)} == runs
