"""Refusals, lies, lost answers and kills on the way to Neptune 3.x: nothing counts that
is not there, and the next copy makes of it what the source is.
"""

from __future__ import annotations

import ssl
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from support import copies
from support.neptune3_server import (
    Atom,
    Deny,
    Forget,
    Neptune3Server,
    Reject,
    drop,
    lie,
    refuse,
)

from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import Artifact, Failed, Item, Loss, Note, Param, Ref, Tag
from mlmigrate.testing import suite
from mlmigrate.testing.suite import NOW, OTHER, RUN, MemorySources, Result

pytest.importorskip("neptune_scale")

SINK = "neptune3://team/proj"
#: What a server says at once.
HASTY = ("settle=0.01",)


@pytest.fixture(autouse=True)
def _certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load them once, rather than for each file that is sent."""
    monkeypatch.setattr(ssl, "create_default_context", cache(_context))


_context = ssl.create_default_context


def copy(origin: str, sink: str = SINK, *options: str) -> Result:
    return copies.copied(origin, sink, [*HASTY, *options])


def odd() -> Any:
    """Return points of which a series takes some."""
    return history(
        "odd",
        np.array([0, 0, 1, 2], dtype=np.int64),
        np.array([NOW, NOW + 1, NOW, NOW + 2], dtype=np.int64),
        np.array([1.0, 2.0, np.nan, 4.0]),
    )


def full(**more: Any) -> tuple[Item, dict[tuple[Ref, str], bytes]]:
    """Return a run with something in every place that a run has at Neptune."""
    items, files = suite.everything()
    item = next(item for item in items if item.ref.id == RUN)
    params = (*item.params, Param("long", "x" * 20_000))
    metrics = (*item.metrics, odd())
    return replace(item, params=params, metrics=metrics, **more), files


def everything() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    items, _ = suite.everything()
    run, files = full()
    return [run if item.ref.id == RUN else item for item in items], files


def marked(server: Neptune3Server, id: str = RUN) -> bool:
    run = server.projects["team/proj"].runs.get(id)
    return run is not None and bool(run.values("mlmigrate/").get("mark"))


def is_whole(origin: str) -> None:
    """Check that all is there, once, and that a further copy sends nothing."""
    again = copy(origin)
    assert {"skipped"} == set(again.counts()), again.events
    assert [] == copies.differences(origin, SINK)


def requests_to_open(server: Neptune3Server, project: str) -> int:
    """Count what a project is asked when it is opened, once the server is known."""
    first = len(server.requests)
    resolve(f"neptune3://team/{project}").source().close()
    return len(server.requests) - first


class TestForgotten:
    """A server that says that it has what it does not keep."""

    @pytest.mark.parametrize(
        ("lost", "said"),
        [
            (Forget("params/*"), "params/lr, which is not there"),
            (Forget("mlflow/tags/*"), "mlflow/tags/note, which is not there"),
            (Forget("metrics/*"), "metrics/loss, which is not there"),
            (Forget("metrics/*", keep=7), "300 points of metrics/loss, of which 7"),
            (Forget("artifacts/*"), "bytes of artifacts/"),
            (Forget("mlmigrate/points"), "mlmigrate/points, which reads back"),
            (Forget("mlmigrate/record_file"), "mlmigrate/record_file, which reads"),
            (Forget("mlmigrate/format"), "mlmigrate/format, which is not there"),
            (Forget("mlmigrate/origin"), "mlmigrate/origin, which is not there"),
            (Forget("mlmigrate/mark"), "its mark is not there"),
            (Forget("mlflow/status"), "mlflow/status, which is not there"),
        ],
        ids=lambda value: getattr(value, "paths", ""),
    )
    def test_what_a_run_has(
        self,
        sources: MemorySources,
        neptune3_loopback: Neptune3Server,
        lost: Forget,
        said: str,
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        of_run = {"run_id": RUN}.items()
        neptune3_loopback.plant(
            "submit", lost, times=None, when=lambda asked: of_run <= asked.items()
        )
        (failed,) = copy(origin).of(Failed)

        assert said in failed.why
        assert not marked(neptune3_loopback)
        neptune3_loopback.clear()
        assert [] == copy(origin).of(Failed)
        is_whole(origin)

    @pytest.mark.parametrize("keep", [0, 1])
    @pytest.mark.parametrize("paths", ["*artifacts_*", "*mlmigrate_*"])
    def test_what_is_in_a_file(
        self,
        sources: MemorySources,
        neptune3_loopback: Neptune3Server,
        paths: str,
        keep: int,
    ) -> None:
        """An attribute may tell of a file that is not there, or not whole."""
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3_loopback.plant("upload", Forget(paths, keep=keep), times=None)
        (failed,) = copy(origin).of(Failed)

        assert "Neptune took" in failed.why
        assert not marked(neptune3_loopback)
        neptune3_loopback.clear()
        assert [] == copy(origin).of(Failed)
        is_whole(origin)

    def test_the_experiment(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        lost = Forget("mlmigrate/experiments/*")
        neptune3_loopback.plant("submit", lost, times=None)
        result = copy(origin)

        assert [] == result.of(Failed)
        notes = [each.what for each in result.findings() if isinstance(each, Note)]
        said = "only its runs tell of it: what is told of churn is not there"
        assert any(said in what for what in notes)
        neptune3_loopback.clear()
        assert [] == copy(origin).of(Failed)
        is_whole(origin)

    def test_a_value_that_reads_back_otherwise(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        seen = neptune3_loopback.seen

        def changed(run: Any) -> Any:
            found = seen(run)
            if "params/lr" in found:
                found["params/lr"] = Atom("string", "0.10")
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(neptune3_loopback, "seen", changed)
            (failed,) = copy(origin).of(Failed)
        assert "params/lr" in failed.why
        assert not marked(neptune3_loopback)


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
        neptune3_loopback: Neptune3Server,
        code: str,
        said: str,
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3_loopback.plant(
            "submit",
            Reject(code),
            times=None,
            when=lambda asked: "params/lr" in asked["paths"],
        )
        (failed,) = copy(origin).of(Failed)
        assert said in failed.why
        assert not marked(neptune3_loopback)
        neptune3_loopback.clear()
        assert [] == copy(origin).of(Failed)
        is_whole(origin)

    def test_which_path(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """What people made a number of cannot become a text."""
        origin = sources(suite.experiment(), suite.run())
        copy(origin)
        held = neptune3_loopback.projects["team/proj"].runs[RUN]
        held.put("mlflow/status", Atom("int", 7))
        sources.put(origin, suite.run(tags=(Tag("t", "1"),)))
        (failed,) = copy(origin).of(Failed)
        assert "mlflow/status: FIELD_TYPE_CONFLICTING" in failed.why
        assert not marked(neptune3_loopback)

    @pytest.mark.parametrize(
        "code", ["RUN_INVALID_CREATION_PARAMETERS", "RUN_CONFLICTING"]
    )
    def test_a_run(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server, code: str
    ) -> None:
        origin = sources(suite.experiment(), suite.run(), suite.run(OTHER))
        neptune3_loopback.plant(
            "submit",
            Reject(code),
            times=None,
            when=lambda said: said["kind"] == "create" and said["run_id"] == RUN,
        )
        (failed,) = copy(origin).of(Failed)
        assert code in failed.why
        assert marked(neptune3_loopback, OTHER)

    def test_an_experiment_without_runs_is_lost_there(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        origin = sources(suite.experiment())
        neptune3_loopback.plant("submit", refuse(403), times=None)

        result = copy(origin)

        (loss,) = [each for each in result.findings() if isinstance(each, Loss)]
        assert not loss.carried

    def test_a_file(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """It is said why, and no signed address is shown."""
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3_loopback.plant("upload", refuse(403), times=None)
        (failed,) = copy(origin).of(Failed)
        assert "HTTP 403" in failed.why
        assert "sig=" not in failed.why
        assert not marked(neptune3_loopback)


class TestLag:
    def test_what_shows_later(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        items, files = everything()
        origin = sources(*items, files=files)
        neptune3_loopback.lag = 0.4
        neptune3_loopback.status_lag = 0.1
        result = copies.copied(origin, SINK, ["settle=5"])
        assert [] == result.of(Failed), result.events
        neptune3_loopback.lag = 0
        is_whole(origin)

    def test_what_shows_too_late(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune3_loopback.lag = 30
        failed = copy(origin, SINK, "settle=0.2").of(Failed)
        assert "is not there" in failed[0].why
        assert not marked(neptune3_loopback)
        # A run that no listing shows yet is made again, and found to be there.
        failed = copy(origin, SINK, "settle=0.2").of(Failed)
        assert "is not there" in failed[0].why
        neptune3_loopback.lag = 0
        for each in neptune3_loopback.projects["team/proj"].runs.values():
            each._coming.clear()
            each.list_after(0)
        assert [] == copy(origin).of(Failed)
        is_whole(origin)
        (held,) = (
            each
            for id, each in neptune3_loopback.projects["team/proj"].runs.items()
            if id == RUN
        )
        assert 300 == len(held.points("metrics/loss"))


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
        neptune3_loopback: Neptune3Server,
        asked: str,
        fault: Any,
    ) -> None:
        if asked == "complete_multipart_upload":
            neptune3_loopback.provider, neptune3_loopback.part_size = "aws", 1000
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        before = neptune3_loopback.count(asked)
        neptune3_loopback.plant(asked, fault, times=1)
        result = copy(origin)
        assert neptune3_loopback.count(asked) > before
        assert [] == result.of(Failed), result.events
        is_whole(origin)
        (held,) = (
            each
            for id, each in neptune3_loopback.projects["team/proj"].runs.items()
            if id == RUN
        )
        assert 300 == len(held.points("metrics/loss"))

    @pytest.mark.parametrize("skip", [0, 1, 2, 3])
    def test_each_request_that_brings_something(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server, skip: int
    ) -> None:
        """A run and a model are there once, whatever was answered."""
        items, files = everything()
        origin = sources(*items, files=files)
        neptune3_loopback.plant("submit", drop(), skip=2 * skip, times=2)
        assert [] == copy(origin).of(Failed)
        is_whole(origin)
        with closing(resolve(SINK).source()) as store:
            models = list(store.refs(Selection("registered_model")))
            runs = set(store.refs(Selection("run")))
        assert [Ref("registered_model", "classifier")] == models
        assert {Ref("run", RUN), Ref("run", OTHER)} == runs


class TestKills:
    @pytest.mark.parametrize(("status", "times"), [(403, None), (422, 1)])
    def test_each_request_in_turn(
        self,
        sources: MemorySources,
        neptune3_loopback: Neptune3Server,
        status: int,
        times: int | None,
    ) -> None:
        """Whatever request is refused, alone or with all that follow: a mark means that
        all is there, and the next copy completes what there is.
        """
        items, files = everything()
        origin = sources(*items, files=files)
        opening = requests_to_open(neptune3_loopback, "none")
        for skip in range(opening, 500):
            neptune3_loopback.projects.pop("team/proj", None)
            neptune3_loopback.plant("/", Deny(status), skip=skip, times=times)
            before = len(neptune3_loopback.requests)
            copy(origin)
            asked = len(neptune3_loopback.requests) - before
            neptune3_loopback.clear()
            if asked <= skip:
                break
            if marked(neptune3_loopback):
                differ = [
                    each
                    for each in copies.differences(origin, SINK)
                    if each.ref == Ref("run", RUN)
                ]
                assert [] == differ, skip
            assert [] == copy(origin).of(Failed), skip
            assert [] == copies.differences(origin, SINK), skip
        else:
            raise AssertionError("it never ended")

    def test_each_request_of_an_update(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """A copy that grows has no mark until it is whole; what people added stays."""
        run, files = full()
        header: Any = run.header
        run = replace(run, header=replace(header, status="RUNNING", end_time=None))
        files[run.ref, "new/file"] = b"new"
        loss = suite.points("loss", *((step, 1 / (step + 1)) for step in range(400)))
        more = suite.points("val/acc", (-3, 0.5), (-1, 0.75), (2**40, 0.25))
        grown = replace(
            run,
            header=replace(header, status="FINISHED", end_time=NOW + 70_000),
            params=(*run.params, Param("p", "1")),
            tags=(*run.tags, Tag("neptune.tags", '["a"]')),
            metrics=(loss, more, suite.points("new", (0, 1.0)), odd()),
            artifacts=(*run.artifacts, Artifact("new/file", 3)),
        )

        def begin(project: str) -> str:
            neptune3_loopback.projects.pop(f"team/{project}", None)
            sources.put(origin, run)
            copy(origin, f"neptune3://team/{project}")
            held = neptune3_loopback.projects[f"team/{project}"].runs[RUN]
            held.put("theirs/note", Atom("string", "mine"))
            held.put("sys/name", Atom("string", "renamed"))
            sources.put(origin, grown)
            return str(held["mlmigrate/mark"])

        def unlike() -> list[str]:
            found = copies.differences(origin, SINK)
            return sorted(each.field for each in found)

        origin = sources(suite.experiment(), run, files=files)
        begin("clean")
        opening = requests_to_open(neptune3_loopback, "clean")
        for skip in range(opening, 500):
            old = begin("proj")
            before = len(neptune3_loopback.requests)
            neptune3_loopback.plant("/", Deny(403), skip=skip, times=None)
            copy(origin)
            asked = len(neptune3_loopback.requests) - before
            neptune3_loopback.clear()
            if asked <= skip:
                break
            if marked(neptune3_loopback):
                held = neptune3_loopback.projects["team/proj"].runs[RUN]
                is_old = held["mlmigrate/mark"] == old
                assert is_old != (["name"] == unlike()), skip
            assert [] == copy(origin).of(Failed), skip
            assert ["name"] == unlike(), skip
        else:
            raise AssertionError("it never ended")
