"""Refusals, lies, lost answers and kills on the way to Neptune 3.x: nothing counts that
is not there, and the next copy makes of it what the source is.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from support.neptune3_server import (
    Atom,
    Forget,
    Reject,
    drop,
    lie,
    refuse,
)
from support.neptunes import Neptune3, everything, full

from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Ref, Tag
from mlmigrate.testing import suite
from mlmigrate.testing.suite import OTHER, RUN, MemorySources

pytest.importorskip("neptune_scale")


class TestForgotten:
    """A server that says that it has what it does not keep."""

    @pytest.mark.parametrize("keep", [0, 1])
    @pytest.mark.parametrize("paths", ["*artifacts_*", "*mlmigrate_*"])
    def test_what_is_in_a_file(
        self,
        sources: MemorySources,
        neptune3: Neptune3,
        paths: str,
        keep: int,
    ) -> None:
        """An attribute may tell of a file that is not there, or not whole."""
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3.server.plant("upload", Forget(paths, keep=keep), times=None)
        (failed,) = neptune3.copy(origin).of(Failed)

        assert "Neptune took" in failed.why
        assert not neptune3.marked()
        neptune3.server.clear()
        assert [] == neptune3.copy(origin).of(Failed)
        neptune3.is_whole(origin)

    def test_a_value_that_reads_back_otherwise(
        self, sources: MemorySources, neptune3: Neptune3
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        seen = neptune3.server.seen

        def changed(run: Any) -> Any:
            found = seen(run)
            if "params/lr" in found:
                found["params/lr"] = Atom("string", "0.10")
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(neptune3.server, "seen", changed)
            (failed,) = neptune3.copy(origin).of(Failed)
        assert "params/lr" in failed.why
        assert not neptune3.marked()


class TestRefused:
    """A server that says later that it has not taken what it answered."""

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("FIELD_PATH_INVALID", "the server said: FIELD_PATH_INVALID"),
            ("STRING_VALUE_EXCEEDS_SIZE_LIMIT", "STRING_VALUE_EXCEEDS_SIZE_LIMIT"),
            ("INGEST_SUSPENDED", "INGEST_SUSPENDED"),
            ("INTERNAL", "INTERNAL"),
        ],
    )
    def test_values(
        self,
        sources: MemorySources,
        neptune3: Neptune3,
        code: str,
        said: str,
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3.server.plant(
            "submit",
            Reject(code),
            times=None,
            when=lambda asked: "params/lr" in asked["paths"],
        )
        (failed,) = neptune3.copy(origin).of(Failed)
        assert said in failed.why
        assert not neptune3.marked()
        neptune3.server.clear()
        assert [] == neptune3.copy(origin).of(Failed)
        neptune3.is_whole(origin)

    def test_which_path(self, sources: MemorySources, neptune3: Neptune3) -> None:
        """What people made a number of cannot become a text."""
        origin = sources(suite.experiment(), suite.run())
        neptune3.copy(origin)
        held = neptune3.run()
        held.put("mlflow/status", Atom("int", 7))
        sources.put(origin, suite.run(tags=(Tag("t", "1"),)))
        (failed,) = neptune3.copy(origin).of(Failed)
        assert "mlflow/status: FIELD_TYPE_CONFLICTING" in failed.why
        assert not neptune3.marked()

    @pytest.mark.parametrize(
        "code", ["RUN_INVALID_CREATION_PARAMETERS", "RUN_CONFLICTING"]
    )
    def test_a_run(self, sources: MemorySources, neptune3: Neptune3, code: str) -> None:
        origin = sources(suite.experiment(), suite.run(), suite.run(OTHER))
        neptune3.server.plant(
            "submit",
            Reject(code),
            times=None,
            when=lambda said: said["kind"] == "create" and said["run_id"] == RUN,
        )
        (failed,) = neptune3.copy(origin).of(Failed)
        assert code in failed.why
        assert neptune3.marked(OTHER)

    def test_an_experiment_without_runs_is_lost_there(
        self, sources: MemorySources, neptune3: Neptune3
    ) -> None:
        origin = sources(suite.experiment())
        neptune3.server.plant("submit", refuse(403), times=None)

        result = neptune3.copy(origin)

        (loss,) = result.losses()
        assert not loss.carried

    def test_a_file(self, sources: MemorySources, neptune3: Neptune3) -> None:
        """It is said why, and no signed address is shown."""
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3.server.plant("upload", refuse(403), times=None)
        (failed,) = neptune3.copy(origin).of(Failed)
        assert "HTTP 403" in failed.why
        assert "sig=" not in failed.why
        assert not neptune3.marked()


class TestLostAnswers:
    @pytest.mark.parametrize("fault", [drop(), lie(502), lie(500)])
    @pytest.mark.parametrize(
        "asked",
        [
            "submit",
            "upload",
            "bulk_check_status",
            "signed_url_generic",
            "complete_multipart_upload",
            "download",
            "query_attributes_within_project_proto",
            "get_multiple_float_series_values_proto",
            "search_leaderboard_entries_proto",
        ],
    )
    def test_what_was_done_and_not_said(
        self,
        sources: MemorySources,
        neptune3: Neptune3,
        asked: str,
        fault: Any,
    ) -> None:
        if asked == "complete_multipart_upload":
            neptune3.server.provider, neptune3.server.part_size = "aws", 1000
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        before = neptune3.server.count(asked)
        neptune3.server.plant(asked, fault, times=1)
        result = neptune3.copy(origin)
        assert neptune3.server.count(asked) > before
        assert [] == result.of(Failed), result.events
        neptune3.is_whole(origin)
        assert 300 == len(neptune3.run().points("metrics/loss"))

    @pytest.mark.parametrize("skip", [0, 1, 2, 3])
    def test_each_request_that_brings_something(
        self, sources: MemorySources, neptune3: Neptune3, skip: int
    ) -> None:
        """A run and a model are there once, whatever was answered."""
        items, files = everything()
        origin = sources(*items, files=files)
        neptune3.server.plant("submit", drop(), skip=2 * skip, times=2)
        assert [] == neptune3.copy(origin).of(Failed)
        neptune3.is_whole(origin)
        with closing(resolve(neptune3.sink).source()) as store:
            models = list(store.refs(Selection("registered_model")))
            runs = set(store.refs(Selection("run")))
        assert [Ref("registered_model", "classifier")] == models
        assert {Ref("run", RUN), Ref("run", OTHER)} == runs
