"""The sink wandb://: what W&B's real client sends to a server, read back and proven."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import copies
from support.fixture_stores import FIXTURES
from support.reading import held_at
from support.wandb_server import WandbServer

from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import (
    Artifact,
    DatasetInput,
    Failed,
    MetricHistory,
    Param,
    Ref,
    Run,
    Tag,
)
from mlmigrate.pipeline import Options
from mlmigrate.testing import suite
from mlmigrate.testing.suite import (
    NOW,
    OTHER,
    RUN,
    MemorySources,
    Result,
    everything,
)
from mlmigrate.verification import Different, Missing, verify

SINK = "wandb://team/proj"


def copy(
    origin: str, to: str = SINK, *options: str, inward: tuple[str, ...] = ()
) -> Result:
    given = ["settle=0.5", *options] if "wandb:" in to else options
    return copies.copied(origin, to, given, inward)


def writes_to(server: WandbServer) -> int:
    return sum(
        request.method == "PUT"
        or "file_stream" in request.path
        or request.operation in ("UpsertBucket", "CreateArtifact")
        for request in server.requests
    )


def rows(*values: float, key: str = "loss", first: int = 0) -> MetricHistory:
    return suite.points(key, *enumerate(values, first))


class TestRoundTrips:
    def test_everything_arrives(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Each field of each record is read back as it was, and files byte for byte."""
        items, files = everything()
        items = [item for item in items if item.ref.kind != "registered_model"]
        result = copy(sources(*items, files=files))

        assert {"copied": 2} == result.counts(), result.events
        store = resolve(SINK).source()
        back = {
            item.ref: item
            for kind in ("experiment", "run")
            for item in store.read(list(store.refs(Selection(kind))))
        }
        for item in items:
            if item.ref.kind == "run":
                assert digest(item) == digest(back[item.ref]), (item, back[item.ref])
        for (ref, path), content in files.items():
            with store.open(ref, path) as file:
                assert content == file.read()
        store.close()

    @pytest.mark.parametrize("name", ["laptop-3.1/mlruns"])
    def test_a_real_store(
        self, name: str, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """What MLflow itself wrote is the same when it was read back."""
        shutil.copytree(FIXTURES / name, tmp_path / "mlruns", symlinks=True)
        origin = str(tmp_path / "mlruns")
        result = copy(origin)

        assert [] == result.of(Failed)
        assert result.counts()["copied"] > 0
        found = verify([resolve(origin)], resolve(SINK, ["settle=1"]), Options())
        runs = [each for each in found if isinstance(each, Different | Missing)]
        assert [] == [each for each in runs if each.ref.kind == "run"]

    def test_odd_values(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Points that W&B's own steps do not hold, and keys that are W&B's own."""
        odd = history(
            "a/b.c ü ",
            np.array([-5, 2**60 + 1, 2**60 + 1, 7, 7], dtype=np.int64),
            np.array([0, 1, 1, 2**60, -3], dtype=np.int64),
            np.array([math.nan, math.inf, -math.inf, 5e-324, 0.1]),
        )
        params = tuple(
            Param(key, "x")
            for key in (
                "_wandb",
                "wandb_version",
                "mlflow",
                "-dash-",
                "a.b",
                " ",
                "x y",
            )
        )
        keys = ("_step", "_timestamp", "mlflow_step", "system/cpu", "loss")
        metrics = (odd, *(suite.points(key, (0, 1.0), (1, 2.0)) for key in keys))
        whole = suite.run(params=params, metrics=metrics)
        native = suite.run(OTHER, metrics=metrics[1:], params=params)
        result = copy(sources(suite.experiment(), whole, native))

        assert {"copied": 2} == result.counts(), result.events
        back = held_at(SINK)
        assert digest(whole) == digest(back[RUN])
        assert digest(native) == digest(back[OTHER])
        steps = [own_part(wandb_loopback, id)["steps"] for id in (RUN, OTHER)]
        assert ["rows", "native"] == steps
        (glob,) = [
            each["2"]
            for each in wandb_loopback.runs["team", "proj", RUN].raw_config["_wandb"][
                "value"
            ]["m"]
            if "2" in each
        ]
        assert "*" == glob

    def test_far_apart_steps(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Steps far apart cost few requests."""
        run = suite.run(metrics=(suite.points("x", (0, 1.0), (2**40, 2.0)),))
        copy(sources(suite.experiment(), run))

        assert digest(run) == digest(held_at(SINK)[RUN])
        assert wandb_loopback.count("HistoryPage") < 3000

    def test_what_people_see(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Name, notes, state, summary and files stand where W&B shows them."""
        data = {"model/MLmodel": b"m", "model/w.bin": b"1", "plot.png": b"2"}
        run = suite.run(
            status="FAILED",
            params=(Param("lr", "0.1"), Param("layers", "3"), Param("flag", "True")),
            tags=(Tag("mlflow.note.content", "a note"), Tag("wandb.tags", '["t"]')),
            metrics=(suite.points("loss", (0, 1.0), (1, math.nan)),),
            inputs=(DatasetInput("cats & dogs", "d", "local", "{}"),),
            artifacts=tuple(Artifact(path, len(b)) for path, b in data.items()),
        )
        files = {(run.ref, path): content for path, content in data.items()}
        copy(sources(suite.experiment(), run, files=files), SINK, "typed-params=yes")
        got = wandb_loopback.runs["team", "proj", RUN]

        assert ("tidy-owl-1", "a note", ["t"], "churn") == (
            got.display_name,
            got.notes,
            got.tags,
            got.group,
        )
        assert ("failed", 1) == (got.state, got.exit_code)
        assert (0.1, 3, True) == tuple(got.config[k] for k in ("lr", "layers", "flag"))
        assert math.isnan(got.summary["loss"])
        assert 60 == got.summary["_wandb"]["runtime"]
        logged = {
            wandb_loopback.artifacts[id].collection: wandb_loopback.artifacts[id].type
            for id in got.logged
        }
        assert {
            f"{RUN}-model": "model",
            f"{RUN}-artifacts": "mlflow-artifacts",
            f"{RUN}-record": "mlmigrate-record",
        } == {name: type for name, type in logged.items() if RUN in name}
        assert ["dataset"] == [wandb_loopback.artifacts[id].type for id in got.used]
        assert digest(run) == digest(held_at(SINK)[RUN])

    def test_nested_runs(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Runs in runs are a group, also where the parent comes last."""
        root = suite.run("r" * 32)
        middle = suite.run("m" * 32, parent=Ref("run", "r" * 32))
        leaf = suite.run("l" * 32, parent=Ref("run", "m" * 32))
        for items in ([leaf], [middle], [root]):
            copy(sources(suite.experiment(), *items))
        seen = {
            run.id[0]: (run.group, run.job_type) for run in wandb_loopback.runs.values()
        }

        top = "r" * 32
        assert {"l": (top, "child"), "m": (top, "child"), "r": (top, "parent")} == seen
        back = held_at(SINK)
        assert [digest(each) for each in (root, middle, leaf)] == [
            digest(back[each.ref.id]) for each in (root, middle, leaf)
        ]

    def test_a_project_for_each_experiment(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Experiments become projects, and a second copy finds them all."""
        other = suite.experiment("2", "a/b: c?")
        runs = (suite.run(), suite.run(OTHER, experiment="2"))
        origin = sources(suite.experiment(), other, *runs)
        first = copy(origin, "wandb://team", "projects=each")
        again = copy(origin, "wandb://team", "projects=each")

        assert ({"copied": 2}, {"skipped": 2}) == (first.counts(), again.counts())
        places = {(run.project, run.id) for run in wandb_loopback.runs.values()}
        assert {"churn", "a-b- c--f3bbaf"} & {project for project, _ in places}
        assert 2 == len({project for project, _ in places})
        assert {RUN, OTHER} == set(held_at("wandb://team"))


def own_part(server: WandbServer, id: str = RUN) -> dict[str, Any]:
    found: dict[str, Any] = server.runs["team", "proj", id].config["mlmigrate"]
    return found


class TestGrowing:
    def test_a_run_that_goes_on(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """It gets exactly its missing points, params and files, wherever they lie."""
        young = suite.run(status="RUNNING", end_time=None, metrics=(rows(1, 2, 3),))
        origin = sources(suite.experiment(), young)
        first = copy(origin)
        old = suite.run(
            params=(Param("late", "1"),),
            metrics=(rows(1, 2, 3, 4, 5), rows(7, key="late"), rows(0, 0, key="acc")),
            artifacts=(Artifact("a.txt", 1),),
        )
        sources.put(origin, old, files={(old.ref, "a.txt"): b"a"})
        second = copy(origin)
        older = replace(old, artifacts=(Artifact("a.txt", 1), Artifact("b.txt", 1)))
        sources.put(origin, older, files={(old.ref, "b.txt"): b"b"})
        third = copy(origin)

        assert ["copied", "updated", "updated", "skipped"] == [
            *first.counts(), *second.counts(), *third.counts(), *copy(origin).counts(),
        ]  # fmt: skip
        assert any("goes on" in each.what for each in first.findings())
        got = wandb_loopback.runs["team", "proj", RUN]
        assert "rows" == own_part(wandb_loopback)["steps"]
        assert list(range(len(got.history))) == [row["_step"] for row in got.history]
        assert 5 == sum("loss" in row for row in got.history)
        assert digest(older) == digest(held_at(SINK)[RUN])
        store = resolve(SINK).source()
        for path in ("a.txt", "b.txt"):
            with store.open(older.ref, path) as file:
                assert path[0].encode() == file.read()
        store.close()

    def test_a_finished_run_that_grew(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Its later steps are added; a step that W&B has passed cannot be."""
        origin = sources(suite.experiment(), suite.run(metrics=(rows(1, 2),)))
        copy(origin)
        grown = suite.run(metrics=(rows(1, 2, 3, 4),), end_time=NOW + 99_000)
        sources.put(origin, grown)
        second = copy(origin)
        late = suite.run(
            metrics=(rows(1, 2, 3, 4), rows(9, key="acc")), end_time=NOW + 99_999
        )
        sources.put(origin, late)
        (failed,) = copy(origin).of(Failed)

        assert {"updated": 1} == second.counts()
        assert "lacks 1 points at steps up to 3" in failed.why
        assert "id-salt" in failed.why
        steps = [
            row["_step"] for row in wandb_loopback.runs["team", "proj", RUN].history
        ]
        assert [0, 1, 2, 3] == steps
        assert digest(grown) == digest(held_at(SINK)[RUN])

    def test_an_edit_there_stays(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Name and notes that people changed in W&B's pages are read, and stay."""
        origin = sources(suite.experiment(), suite.run())
        copy(origin)
        run = wandb_loopback.runs["team", "proj", RUN]
        run.display_name, run.notes = "better name", "mine"
        back = held_at(SINK)[RUN]

        assert {"skipped": 1} == copy(origin).counts()
        assert isinstance(back.header, Run)
        assert "better name" == back.header.name
        assert Tag("mlflow.note.content", "mine") in back.tags


class TestCloud(suite.SinkSuite):
    """The suite of all sinks, but for what W&B has no place for."""

    options = ("settle=0.5",)

    # Registered models: `capabilities.registered_models`.
    test_versions_keep_their_numbers = None
    test_aliases_stay = None
    test_what_a_model_has_at_the_sink_stays_and_that_is_told = None
    test_everything_arrives = None  # see `TestRoundTrips`

    @pytest.fixture
    def sink_location(self, wandb_loopback: WandbServer) -> str:
        self.server = wandb_loopback
        return SINK

    def _run(self, run: str) -> Any:
        return self.server.runs.get(("team", "proj", run))

    def peek(self, location: str, run: str) -> suite.Peeked | None:
        found = self._run(run)
        if found is None:
            return None
        config = found.config
        mlflow, own = config.pop("mlflow"), config.pop("mlmigrate")
        points = []
        for row in map(dict, found.history):
            step = row["_step"] if own["steps"] == "native" else row.pop("mlflow_step")
            time = row.pop("mlflow_timestamp", round(row["_timestamp"] * 1000))
            points += [
                (own.get("metrics", {}).get(key, key), step, time, float(value))
                for key, value in row.items()
                if key[0] != "_"
            ]
        params = {
            own.get("params", {}).get(key, key): value for key, value in config.items()
        }
        return suite.Peeked(
            mlflow["status"],
            mlflow["start_time"],
            mlflow["end_time"],
            mlflow["lifecycle"],
            params,
            mlflow.get("tags", {}),
            sorted(points),
            own["mark"] is not None,
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        self._run(run).raw_config["mlflow"]["value"]["tags"][key] = value

    def delete_run(self, location: str, run: str) -> None:
        self._run(run).raw_config["mlflow"]["value"]["lifecycle"] = "deleted"

    def test_again(self, source: MemorySources, sink_location: str) -> None:
        """A second copy skips everything, sends nothing and changes nothing."""
        items, files = everything()
        origin = source(*items, files=files)
        self.copy(origin, sink_location)
        before = self.held(sink_location)
        writes = writes_to(self.server)
        again = self.copy(origin, sink_location)

        assert again.counts("run") == {"skipped": 2}
        assert again.counts("experiment") == {"skipped": 1}
        assert before == self.held(sink_location)
        assert writes == writes_to(self.server)

    def test_conflict_newest(self, source: MemorySources, sink_location: str) -> None:
        """W&B has one value a step: a second one is refused, and what is there stays
        a whole copy.
        """
        one, other = self._conflicting(source)
        self.copy(one, sink_location)
        before = self.held(sink_location)
        result = self.copy(other, sink_location, on_conflict="newest")

        (failed,) = result.of(Failed)
        assert "lacks 1 points at steps up to 1" in failed.why
        assert before == self.held(sink_location)
