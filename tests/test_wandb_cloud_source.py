"""The source wandb://: runs of W&B's own client, read through its public API."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import servers
from support.reading import held, params, tags
from support.wandb_server import WandbServer, add_run, refuse

import mlmigrate
from mlmigrate.contract import Glancing, Selection
from mlmigrate.digest import digest
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Note, Problem, Ref, Run
from mlmigrate.testing import suite
from mlmigrate.testing.suite import OTHER, RUN, MemorySources, everything

wandb = pytest.importorskip("wandb")

HERE = "wandb://team/proj"
QUIET = {"silent": True, "x_disable_stats": True, "x_disable_machine_info": True}


def start(id: str, project: str = "proj", **more: Any) -> Any:
    settings = wandb.Settings(**{**QUIET, **more.pop("settings", {})})
    given = {"reinit": "create_new", "resume": "allow", **more}
    return wandb.init(entity="team", project=project, id=id, settings=settings, **given)


class Read:
    """All that a location holds, and the store to open files from."""

    def __init__(self, location: str, *options: str) -> None:
        self.store = resolve(location, options).source()
        self.items: dict[str, Item] = {}
        for kind in ("experiment", "run"):
            for item in held(self.store, kind):
                self.items[item.ref.id] = item

    def __enter__(self) -> Read:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def run(self, id: str) -> Item:
        return self.items[f"wandb:team/proj/{id}"]

    def bytes(self, id: str, path: str) -> bytes:
        with self.store.open(self.run(id).ref, path) as file:
            return file.read()


def points(item: Item, key: str) -> list[tuple[int, float]]:
    (found,) = [metric for metric in item.metrics if metric.key == key]
    return list(zip(found.steps.tolist(), found.values.tolist(), strict=True))


def sizes(item: Item) -> dict[str, int]:
    return {file.path: file.size for file in item.artifacts}


def make_a_rich_run(folder: Path, **settings: Any) -> None:
    run = start(
        "rich",
        config={
            "lr": 0.1,
            "net": {"layers": [1, 2], "act": None},
            "on": True,
            "s": "x",
        },
        name="nice",
        notes="hello",
        tags=["t1", "t2"],
        group="g",
        job_type="train",
        settings=settings,
    )
    for i in range(5):
        run.log(
            {"loss": 1 / (i + 1), "nest": {"deep": i}, "ok": True, "big": 2**60 + i}
        )
    run.log({"nan": math.nan, "inf": -math.inf, "word": "hi"})
    run.log({"image": wandb.Image(np.zeros((4, 4, 3), dtype=np.uint8))})
    run.log({"table": wandb.Table(columns=["a"], data=[[1]])}, step=2000)
    run.summary["best"] = 7
    (folder / "saved.txt").write_text("kept")
    run.save(str(folder / "saved.txt"), base_path=str(folder), policy="now")
    (folder / "data.bin").write_bytes(b"123")
    artifact = wandb.Artifact("data", type="dataset", metadata={"z": 1})
    artifact.add_file(str(folder / "data.bin"), name="sub/data.bin")
    artifact.add_reference("https://example.com/x", name="far", checksum=False)
    run.log_artifact(artifact)
    run.finish()


class TestForeignRuns:
    def test_everything_is_read(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """Config, history, summary, files, artifacts and what W&B knows beside them."""
        make_a_rich_run(tmp_path)
        with Read(HERE) as read:
            item = read.run("rich")
            header = item.header
            assert isinstance(header, Run)
            assert ("nice", "FINISHED", "tester") == (
                header.name, header.status, header.user,
            )  # fmt: skip
            assert header.start_time is not None
            assert header.end_time is not None
            assert header.start_time <= header.end_time
            assert {
                "lr": "0.1", "net/layers": "[1, 2]", "net/act": "null", "on": "true",
                "s": "x",
            } == params(item)  # fmt: skip
            seen = tags(item)
            assert {
                "wandb.run_id": "rich", "wandb.project": "proj", "wandb.entity": "team",
                "wandb.group": "g", "wandb.job_type": "train", "wandb.user": "tester",
                "mlflow.note.content": "hello", "wandb.tags": '["t1", "t2"]',
                "wandb.summary.best": "7", "wandb.exit_code": "0",
            }.items() <= seen.items()  # fmt: skip
            assert [(i, 1 / (i + 1)) for i in range(5)] == points(item, "loss")
            assert [(i, float(i)) for i in range(5)] == points(item, "nest/deep")
            assert math.isnan(points(item, "nan")[0][1])
            assert [(5, -math.inf)] == points(item, "inf")
            assert b"kept" == read.bytes("rich", "saved.txt")
            assert b"123" == read.bytes("rich", "artifacts/data/sub/data.bin")
            lines = read.bytes("rich", "wandb/history.jsonl").decode().splitlines()
            assert 2**60 + 1 == json.loads(lines[1])["big"]
            about = json.loads(read.bytes("rich", "wandb/artifacts.json"))
            (data,) = [each for each in about["logged"] if each["type"] == "dataset"]
            assert {"far": "https://example.com/x"} == data["references"]
            for path, size in sizes(item).items():
                assert size == len(read.bytes("rich", path))
            assert any(path.startswith("media/images/") for path in sizes(item))
            assert () == item.findings

    def test_as_from_the_folder_that_was_synced(
        self,
        wandb_loopback: WandbServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Params, metrics, the machine's too, tags and files are the same from both."""
        monkeypatch.setenv("WANDB_MODE", "offline")
        stats = {
            "x_disable_stats": False,
            "x_stats_sampling_interval": 0.1,
            "x_disable_machine_info": False,
        }
        make_a_rich_run(tmp_path, **stats)
        monkeypatch.delenv("WANDB_MODE")
        root = Path(os.environ["WANDB_DIR"], "wandb")
        sync(root)
        with Read(HERE) as online, Read(f"wandb-offline:{root}") as offline:
            one, other = online.run("rich"), offline.run("rich")
            assert params(one) == params(other)
            assert tags(other).items() <= tags(one).items()
            assert {"wandb.user"} == tags(one).keys() - tags(other).keys()
            assert any(metric.key.startswith("system/") for metric in one.metrics)
            assert same_metrics(one, other)
            both = sizes(one).keys() & sizes(other).keys()
            assert {"wandb/history.jsonl", "wandb/summary.json", "config.yaml"} <= both
            assert all(sizes(one)[path] == sizes(other)[path] for path in both)
            assert isinstance(one.header, Run)
            assert isinstance(other.header, Run)
            assert one.header.end_time == other.header.end_time

    def test_states(self, wandb_loopback: WandbServer) -> None:
        """Each state of W&B's is a status, and is kept where that does not tell it."""
        for state in (
            "finished",
            "failed",
            "crashed",
            "killed",
            "running",
            "preempted",
        ):
            start(state).finish()
            wandb_loopback.runs["team", "proj", state].state = state
        with Read(HERE) as read:
            seen = {
                id.rpartition("/")[2]: (
                    item.header.status,
                    tags(item).get("wandb.state"),
                )
                for id, item in read.items.items()
                if isinstance(item.header, Run)
            }
        assert {
            "finished": ("FINISHED", None),
            "failed": ("FAILED", None),
            "crashed": ("FAILED", "crashed"),
            "killed": ("KILLED", None),
            "running": ("RUNNING", None),
            "preempted": ("RUNNING", "preempted"),
        } == seen

    def test_versions_of_an_artifact(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """Earlier versions that a run logged are beside the last."""
        run = start("a")
        for content in ("old", "new"):
            (tmp_path / "f").write_text(content)
            artifact = wandb.Artifact("data", type="dataset")
            artifact.add_file(str(tmp_path / "f"), name="f")
            run.log_artifact(artifact).wait()
        run.finish()
        user = start("b")
        user.use_artifact("team/proj/data:v0").wait()
        user.finish()
        with Read(HERE) as read:
            assert b"new" == read.bytes("a", "artifacts/data/f")
            assert b"old" == read.bytes("a", "artifacts/data@v0/f")
            used = json.loads(read.bytes("b", "wandb/artifacts.json"))["used"]
            assert ["team/proj/data:v0"] == [each["name"] for each in used]

    def test_a_whole_history(self, wandb_loopback: WandbServer) -> None:
        """Every row is read, not a sample, whatever its step."""
        run = start("a")
        for step in range(2500):
            run.log({"x": step / 3}, step=step)
        run.log({"x": 1.5}, step=10**9)
        run.finish()
        with Read(HERE) as read:
            found = points(read.run("a"), "x")
        assert [*((s, s / 3) for s in range(2500)), (10**9, 1.5)] == found

    def test_rows_that_the_server_keeps_back(self, wandb_loopback: WandbServer) -> None:
        """Fewer rows than W&B counts are a problem."""
        run = start("a")
        run.log({"x": 1})
        run.finish()
        wandb_loopback.runs["team", "proj", "a"].history_lines.write(
            7, ['{"_step": 7}']
        )
        with Read(HERE) as read:
            found = read.run("a").findings
        (problem,) = [each for each in found if isinstance(each, Problem)]
        assert "counts 8 rows of its history and gives 2" in problem.what

    def test_a_run_that_is_written_meanwhile(
        self, wandb_loopback: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is read again, and noted where it still changes."""
        start("a").finish()
        run = wandb_loopback.runs["team", "proj", "a"]
        run.state = "running"
        asked = WandbServer.decide

        def busy(server: WandbServer, *args: Any) -> Any:
            run.history_lines.write(run.history_lines.count, ['{"x": 1, "_step": 0}'])
            return asked(server, *args)

        monkeypatch.setattr(WandbServer, "decide", busy)
        with Read(HERE) as read:
            notes = [each for each in read.run("a").findings if isinstance(each, Note)]
        assert any("written while it was read" in each.what for each in notes)

    def test_into_an_mlflow_database_and_back(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """A run goes from W&B to MLflow and on to W&B, and is still the same."""
        make_a_rich_run(tmp_path)
        sink = servers.fresh_database(tmp_path / "sink.db")
        report = mlmigrate.copy([HERE], sink)
        assert {"experiment": 1, "run": 1} == report.copied
        assert [] == mlmigrate.verify([HERE], sink).different
        back = mlmigrate.copy([sink], "wandb://team/second")
        assert [] == back.failed
        with Read(HERE) as one, Read("wandb://team/second") as other:
            first = one.run("rich")
            (second,) = [
                item for item in other.items.values() if item.ref.kind == "run"
            ]
            assert digest(first) == digest(second)

    def test_all_projects_of_an_entity(self, wandb_loopback: WandbServer) -> None:
        """`wandb://ENTITY` is all its projects; each is an experiment."""
        start("a", "one").finish()
        start("b", "two").finish()
        with Read("wandb://team") as read:
            assert {
                "team:one", "team:two", "wandb:team/one/a", "wandb:team/two/b",
            } == set(read.items)  # fmt: skip

    def test_sweeps_and_groups(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """A sweep, or a group of several, is a run that its runs are nested in; a group
        that is named for one of its runs has that for a parent.
        """
        import wandb

        add_run(wandb_loopback, "team", "proj", "alone", group="label")
        for id in ("a1", "a2"):
            add_run(wandb_loopback, "team", "proj", id, group="a")
        for id in ("top", "below"):
            add_run(wandb_loopback, "team", "proj", id, group="top")
        space = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}}
        sweep = wandb.sweep(space, entity="team", project="proj")
        add_run(wandb_loopback, "team", "proj", "s1", group="a", sweep=sweep)
        with Read(HERE) as read:
            items = {item.origin: item for item in read.items.values()}
        above = {
            origin.removeprefix("wandb:team/proj/"): item.header.parent
            for origin, item in items.items()
            if isinstance(item.header, Run)
        }
        here = "wandb:team/proj"

        assert {
            f"sweep:{sweep}": None,
            "group:a": None,
            "alone": None,
            "a1": Ref("run", f"{here}/group:a"),
            "a2": Ref("run", f"{here}/group:a"),
            "top": None,
            "below": Ref("run", f"{here}/top"),
            "s1": Ref("run", f"{here}/sweep:{sweep}"),
        } == above
        store = resolve(HERE).source()
        with store.open(
            Ref("run", f"{here}/sweep:{sweep}"), "wandb/sweep.json"
        ) as file:
            assert "grid" == json.load(file)["config"]["method"]
        store.close()

        sink = servers.fresh_database(tmp_path / "sink.db")
        mlmigrate.copy([HERE], sink)
        assert [] == mlmigrate.verify([HERE], sink).different
        again = mlmigrate.copy([HERE], sink)
        assert ({}, {}) == (again.copied, again.updated)
        plain = resolve(HERE, ["nesting=no"]).source()
        assert 6 == len(list(plain.refs(Selection("run"))))
        plain.close()

    def test_many_pages(self, wandb_loopback: WandbServer) -> None:
        """More runs than a page has are all read, each once and in order."""
        start("r0").finish()
        first = wandb_loopback.runs["team", "proj", "r0"]
        for number in range(1, 230):
            run = deepcopy(first)
            run.id = f"r{number}"
            wandb_loopback.runs["team", "proj", run.id] = run
        store = resolve(HERE).source()
        refs = list(store.refs(Selection("run")))
        store.close()

        assert [f"wandb:team/proj/r{n}" for n in range(230)] == [ref.id for ref in refs]

    def test_one_bad_run_fails_alone(self, wandb_loopback: WandbServer) -> None:
        """A run that W&B does not give fails, and the others are read."""
        for id in ("a", "b", "c"):
            start(id).finish()
        store = resolve(HERE, ["threads=1"]).source()
        wandb_loopback.plant("Run", refuse(403), skip=1, times=1)
        found = list(store.read(list(store.refs(Selection("run")))))
        store.close()

        assert [Item, Failed, Item] == [type(each) for each in found]


def sync(root: Path) -> None:
    for folder in sorted(root.glob("offline-run-*")):
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(folder)],
            capture_output=True,
            text=True,
        )
        assert 0 == done.returncode, done.stderr


def same_metrics(one: Item, other: Item) -> bool:
    plain = Item(one.ref, one.header, one.origin)
    both = [replace(plain, metrics=each.metrics) for each in (one, other)]
    return digest(both[0]) == digest(both[1])


class TestOwnRuns:
    def test_as_from_the_folder_that_was_synced(
        self, sources: MemorySources, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """A run that mlmigrate wrote into a folder is the same once it was synced."""
        items = [replace(item, artifacts=()) for item in everything()[0]]
        origin = sources(*items)
        root = tmp_path / "wandb"
        offline = f"wandb-offline:{root}"
        named = ["entity=team", "project=proj"]
        mlmigrate.copy([origin], offline, sink_options=named)
        sync(root)
        with Read(HERE) as one, Read(offline) as other:
            for id in (RUN, OTHER):
                assert digest(one.items[id]) == digest(other.items[id])
            experiments = [each.items["mlflow:churn"] for each in (one, other)]
            assert digest(experiments[0]) == digest(experiments[1])
        again = mlmigrate.copy([origin], HERE)
        assert 2 == again.skipped["run"]

    def test_a_glance_shows_what_reading_shows(
        self, sources: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """The listing alone tells how runs stand that mlmigrate wrote."""
        going = suite.run(OTHER, status="RUNNING", end_time=None)
        mlmigrate.copy([sources(suite.experiment(), suite.run(), going)], HERE)
        store = resolve(HERE).source()
        assert isinstance(store, Glancing)
        refs = [Ref("run", RUN), Ref("run", OTHER)]
        for glance, item in zip(store.glance(refs), store.read(refs), strict=True):
            assert isinstance(item, Item)
            assert isinstance(item.header, Run)
            assert (glance.origin, glance.status, glance.end_time) == (
                item.origin, item.header.status, item.header.end_time,
            )  # fmt: skip
        store.close()
