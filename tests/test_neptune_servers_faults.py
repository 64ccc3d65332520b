"""Refusals, lies and lost answers on the way to Neptune, of 2.x and of 3.x: nothing
counts that is not there, and the next copy completes what there is.
"""

from __future__ import annotations

import pytest
from support.neptune_server import Atom, Forget
from support.neptunes import Neptune, everything, full, growing, unlike

from mlmigrate.model import Failed, Note
from mlmigrate.testing import suite
from mlmigrate.testing.suite import RUN, MemorySources


class TestForgotten:
    """A server that says that it has what it does not keep."""

    @pytest.mark.parametrize(
        ("lost", "said"),
        [
            (Forget("params/*"), "params/lr, which is not there"),
            (Forget("mlflow/tags/*"), "mlflow/tags/note, which is not there"),
            (Forget("metrics/*"), "metrics/loss, which is not there"),
            (
                Forget("metrics/*", keep=7),
                "300 points of metrics/loss, of which {}",
            ),
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
        self, sources: MemorySources, neptune: Neptune, lost: Forget, said: str
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune.lose(lost)
        (failed,) = neptune.copy(origin).of(Failed)

        assert said.format(7 * neptune.parts) in failed.why
        assert not neptune.marked()
        neptune.server.clear()
        assert [] == neptune.copy(origin).of(Failed)
        neptune.is_whole(origin)

    def test_the_experiment(self, sources: MemorySources, neptune: Neptune) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        lost = Forget("mlmigrate/experiments/*")
        neptune.server.plant(neptune.bringing, lost, times=None)
        result = neptune.copy(origin)

        assert [] == result.of(Failed)
        notes = [each.what for each in result.findings() if isinstance(each, Note)]
        said = "only its runs tell of it: what is told of churn is not there"
        assert any(said in what for what in notes)
        neptune.server.clear()
        assert [] == neptune.copy(origin).of(Failed)
        neptune.is_whole(origin)


class TestLag:
    def test_what_shows_later(self, sources: MemorySources, neptune: Neptune) -> None:
        items, files = everything()
        origin = sources(*items, files=files)
        neptune.server.lag = 0.4
        neptune.server.status_lag = 0.1  # of 3.x alone
        result = neptune.copy(origin, "settle=5")
        assert [] == result.of(Failed), result.events
        neptune.server.lag = 0
        neptune.is_whole(origin)

    def test_what_shows_too_late(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        run, files = full()
        origin = sources(suite.experiment(), run, files=files)
        neptune.server.lag = 30
        # A run that no listing shows yet is made again, and found to be there.
        for _ in range(2):
            failed = neptune.copy(origin, "settle=0.2").of(Failed)
            assert "is not there" in failed[0].why
            assert not neptune.marked()
        neptune.server.lag = 0
        neptune.server.show_all()
        assert [] == neptune.copy(origin).of(Failed)
        neptune.is_whole(origin)
        assert 300 == len(neptune.run().points("metrics/loss"))


class TestKills:
    @pytest.mark.parametrize(("status", "times"), [(403, None), (422, 1)])
    def test_each_request_in_turn(
        self, sources: MemorySources, neptune: Neptune, status: int, times: int | None
    ) -> None:
        """Whatever request is refused, alone or with all that follow: a mark means that
        all is there, and the next copy completes what there is.
        """
        items, files = everything()
        origin = sources(*items, files=files)
        assert [] == neptune.copy(origin, project="clean").of(Failed)
        assert [] == neptune.differences(origin, "clean")
        clean = neptune.state(origin, "clean")
        passing = neptune.cut_short(
            origin,
            lambda: neptune.server.projects.pop("team/proj", None),
            opening=neptune.requests_to_open("none"),
            status=status,
            times=times,
        )
        for skip, _ in passing:
            if neptune.marked():
                found = unlike(clean, neptune.state(origin))
                assert {} == {k: each for k, each in found.items() if RUN in k}, skip
            assert [] == neptune.copy(origin).of(Failed), skip
            bad = set(unlike(clean, neptune.state(origin)))
            if times is not None:
                # Models are copied once, whatever failed before; and that Neptune shows
                # not all of their versions is only noted.
                bad = {key for key in bad if not key.startswith("model")}
            assert set() == bad, skip

    def test_each_request_of_an_update(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        """A copy that grows has no mark until it is whole; what people added stays."""
        run, grown, files = growing()
        origin = sources(suite.experiment(), run, files=files)

        def begin(project: str = "proj") -> str:
            neptune.server.projects.pop(f"team/{project}", None)
            sources.put(origin, run)
            neptune.copy(origin, project=project)
            held = neptune.run(project=project)
            held.put("theirs/note", Atom("string", "mine"))
            neptune.put_file(held, "theirs/file", b"f")
            held.put("sys/name", Atom("string", "renamed"))
            sources.put(origin, grown)
            return str(held["mlmigrate/mark"])

        begin("clean")
        assert [] == neptune.copy(origin, project="clean").of(Failed)
        renamed = neptune.differences(origin, "clean")
        assert ["name"] == [each.field for each in renamed]
        clean = neptune.state(origin, "clean")
        opening = neptune.requests_to_open("clean")
        for skip, old in neptune.cut_short(origin, begin, opening=opening):
            found = neptune.state(origin)
            if neptune.marked():
                is_old = neptune.run()["mlmigrate/mark"] == old
                assert is_old != ({} == unlike(clean, found)), skip
            assert [] == neptune.copy(origin).of(Failed), skip
            assert {} == unlike(clean, neptune.state(origin)), skip
