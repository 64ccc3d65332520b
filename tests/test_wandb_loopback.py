"""The loopback W&B server holds up to W&B's own client."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support import tree
from support.wandb_server import (
    Forget,
    WandbServer,
    add_artifact,
    add_link,
    add_run,
    client_environment,
    delay,
    drop,
    graphql,
    lie,
    refuse,
    truncate,
    wandb_client,
    wandb_server,
)

wandb = pytest.importorskip("wandb")

#: What the client says by itself of every run is left out, as it costs time.
QUICK = {"x_disable_stats": True, "x_disable_machine_info": True, "init_timeout": 20}

#: Failures are tried again soon, as far as the client lets itself be told.
IMPATIENT = {
    f"x_{what}_retry_wait_min_seconds": 1  # fractions count as not given
    for what in ("file_stream", "file_transfer", "graphql")
}


def start(id: str, project: str = "proj", **facts: Any) -> Any:
    settings = wandb.Settings(**{**QUICK, **facts.pop("settings", {})})
    given = {"resume": "allow", "reinit": "create_new", **facts}
    return wandb.init(entity="team", project=project, id=id, settings=settings, **given)


def log_run(id: str, rows: int = 3, **facts: Any) -> None:
    with start(id, **facts) as run:
        for step in range(rows):
            run.log({"loss": step / 2}, step=step)


def wait_for(met: Callable[[], Any], patience: float = 20) -> None:
    deadline = time.monotonic() + patience
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def values(rows: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(row.get(key) for key in keys) for row in rows]


class TestRuns:
    def test_everything_said_of_a_run_arrives(
        self, wandb_loopback: WandbServer
    ) -> None:
        """What `init`, `log` and the updates say is what the server has."""
        run = start(
            "a1",
            name="a name",
            notes="a note",
            tags=["x", "y"],
            group="g",
            job_type="j",
            config={"lr": 0.1, "nested": {"deep": [1, None]}},
        )
        run.define_metric("acc", step_metric="epoch", summary="max")
        run.log({"loss": 1.0, "acc": 5, "epoch": 0}, step=3)
        run.log({"loss": math.nan, "acc": 4, "epoch": 1, "word": "ü"}, step=7)
        run.log({"loss": math.inf}, step=2**40)
        run.summary.update({"best": 1})
        run.config.update({"late": True})
        run.finish()
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert ("a name", "a note", ["x", "y"]) == (
            got.display_name,
            got.notes,
            got.tags,
        )
        assert ("g", "j", "finished", 0) == (
            got.group,
            got.job_type,
            got.state,
            got.exit_code,
        )
        assert {"lr": 0.1, "nested": {"deep": [1, None]}, "late": True} == got.config
        assert [3, 7, 2**40] == [row["_step"] for row in got.history]
        losses = [row["loss"] for row in got.history]
        assert losses[0] == 1.0
        assert math.isnan(losses[1])
        assert losses[2] == math.inf
        assert "ü" == got.history[1]["word"]
        assert (1, {"max": 5}) == (got.summary["best"], got.summary["acc"])
        assert got.raw_config["_wandb"]["value"]["m"]

    def test_exit_codes_tell_of_failures(self, wandb_loopback: WandbServer) -> None:
        """A run that ends with a code has failed."""
        start("a1").finish(exit_code=3)
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert ("failed", 3) == (got.state, got.exit_code)

    def test_several_runs_at_once(self, wandb_loopback: WandbServer) -> None:
        """Runs that are written side by side stay apart."""
        compressed = {"x_file_stream_no_gzip": False}
        runs = [start(f"r{i}", settings=compressed) for i in range(3)]
        for step in range(4):
            for number, run in enumerate(runs):
                run.log({"v": number * 10 + step}, step=step)
        for run in runs:
            run.finish()

        for number in range(3):
            got = wandb_loopback.runs["team", "proj", f"r{number}"].history
            assert [number * 10 + step for step in range(4)] == [r["v"] for r in got]

    def test_threads(self, wandb_loopback: WandbServer) -> None:
        """Runs may be written by several threads."""
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(log_run, [f"r{i}" for i in range(8)]))

        assert 8 == len(wandb_loopback.runs)
        for run in wandb_loopback.runs.values():
            assert [0, 0.5, 1] == [row["loss"] for row in run.history]

    def test_console_and_system_metrics(self, wandb_loopback: WandbServer) -> None:
        """Printed lines and the machine's numbers arrive in streams of their own."""
        settings = {
            "x_disable_stats": False,
            "x_disable_machine_info": False,
            "x_stats_sampling_interval": 0.1,
            "x_file_stream_transmit_interval": 0.1,
            "console": "wrap",
        }
        run = start("a1", settings=settings)
        got = wandb_loopback.runs["team", "proj", "a1"]
        print("hello there")  # noqa: T201
        wait_for(lambda: got.events)
        run.finish()

        assert any("hello there" in line for line in got.log)
        assert any(k.startswith("system.") for k in got.events[0])
        read = wandb.Api().run("team/proj/a1")
        assert got.events == read.history(stream="system", pandas=False)
        lines = read.console_logs()
        assert any("hello there" in line.content for line in lines)


class TestResuming:
    def test_allowed_continues(self, wandb_loopback: WandbServer) -> None:
        """Rows come after those that are there; what was said before stays."""
        log_run("a1", config={"kept": 1})
        with start("a1", config={"new": 2}) as run:
            assert run.resumed
            assert 3 == run.starting_step
            run.log({"loss": 9.0}, step=1)
            run.log({"loss": 5.0}, step=5)
            run.summary.update({"extra": 1})
        got = wandb_loopback.runs["team", "proj", "a1"]

        expected = [(0, 0), (1, 0.5), (2, 1), (5, 5)]
        assert expected == values(got.history, "_step", "loss")
        assert {"kept": 1, "new": 2} == got.config
        assert (5, 1) == (got.summary["loss"], got.summary["extra"])

    def test_never_raises(self, wandb_loopback: WandbServer) -> None:
        """A run that must not exist does."""
        log_run("a1")
        with pytest.raises(wandb.errors.UsageError, match="a1"):
            start("a1", resume="never")

    def test_must_raises_without_a_run(self, wandb_loopback: WandbServer) -> None:
        """A run that must exist does not."""
        with pytest.raises(wandb.errors.UsageError, match="a1"):
            start("a1", resume="must")

    def test_unset_appends(self, wandb_loopback: WandbServer) -> None:
        """Without resuming, rows are added although their steps are there."""
        log_run("a1", rows=2)
        log_run("a1", rows=2, resume=None)
        got = wandb_loopback.runs["team", "proj", "a1"].history

        assert [0, 1, 0, 1] == [row["_step"] for row in got]

    def test_deleted_ids_stay_blocked(self, wandb_loopback: WandbServer) -> None:
        """A deleted run's id cannot be used again."""
        log_run("a1")
        wandb.Api().run("team/proj/a1").delete()
        with pytest.raises(wandb.errors.CommError, match="previously created"):
            start("a1", settings={"init_timeout": 1})

        assert {("team", "proj", "a1")} == wandb_loopback.deleted_runs
        assert {} == wandb_loopback.runs


class TestFiles:
    def test_saved_files_come_back(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """Files of a run are uploaded whole and can be downloaded again."""
        source = tmp_path / "source"
        (source / "sub dir").mkdir(parents=True)
        (source / "sub dir" / "ä%#?.bin").write_bytes(bytes(range(256)) * 500)
        (source / "empty").write_bytes(b"")
        with start("a1") as run:
            run.save(str(source / "sub dir" / "*"), base_path=str(source))
            run.save(str(source / "empty"), base_path=str(source))
        run = wandb.Api().run("team/proj/a1")
        files = {file.name: file for file in run.files()}
        files["sub dir/ä%#?.bin"].download(root=str(tmp_path / "out")).close()
        got = (tmp_path / "out" / "sub dir" / "ä%#?.bin").read_bytes()

        assert bytes(range(256)) * 500 == got
        assert 0 == files["empty"].size
        assert {"wandb-summary.json", "config.yaml"} <= set(files)
        stored = wandb_loopback.runs["team", "proj", "a1"].files
        assert b"" == stored["empty"].data
        assert len(files) == len(run.files(per_page=2))

    def test_metadata(self, wandb_loopback: WandbServer) -> None:
        """The file about the machine is there for the asking."""
        start("a1", settings={"x_disable_machine_info": False}).finish()

        assert sys.executable == wandb.Api().run("team/proj/a1").metadata["executable"]

    def test_media(self, wandb_loopback: WandbServer, tmp_path: Path) -> None:
        """Images and tables are files which rows refer to."""
        numpy = pytest.importorskip("numpy")
        pytest.importorskip("PIL")
        with start("a1") as run:
            run.log({"image": wandb.Image(numpy.zeros((2, 2, 3), "uint8"))}, step=0)
            run.log({"table": wandb.Table(["a", "b"], [[1, "x"]])}, step=1)
        got = wandb_loopback.runs["team", "proj", "a1"]
        image, table = got.history[0]["image"], got.history[1]["table"]

        assert got.files[image["path"]].data.startswith(b"\x89PNG")
        assert [[1, "x"]] == json.loads(got.files[table["path"]].data)["data"]

    def test_upload_and_delete_through_the_api(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """The public API adds files to finished runs, and takes them away."""
        log_run("a1")
        (tmp_path / "late.txt").write_text("late")
        run = wandb.Api().run("team/proj/a1")
        late = run.upload_file(str(tmp_path / "late.txt"), root=str(tmp_path))
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert b"late" == got.files["late.txt"].data
        late.delete()
        assert "late.txt" not in got.files


class TestArtifacts:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        (folder / "in ä").mkdir(parents=True)
        (folder / "weights.bin").write_bytes(b"w" * 1000)
        (folder / "in ä" / "notes.txt").write_text("hello")
        return folder

    def log(self, id: str, folder: Path, name: str = "model", **facts: Any) -> Any:
        artifact = wandb.Artifact(name, type="model", **facts)
        artifact.add_dir(str(folder))
        with start(id) as run:
            return run.log_artifact(artifact, aliases=["best"]).wait()

    def test_logged_and_read_back(
        self, wandb_loopback: WandbServer, folder: Path, tmp_path: Path
    ) -> None:
        """An artifact's files, facts and author come back as they went."""
        self.log("a1", folder, description="d", metadata={"k": [1]})
        api = wandb.Api()
        artifact = api.artifact("team/proj/model:v0")
        (version,) = wandb_loopback.versions("team", "proj", "model")
        out = Path(artifact.download(root=str(tmp_path / "out")))

        expected = {"weights.bin": b"w" * 1000, "in ä/notes.txt": b"hello"}
        assert expected == wandb_loopback.contents(version)
        assert b"w" * 1000 == (out / "weights.bin").read_bytes()
        assert b"hello" == (out / "in ä" / "notes.txt").read_bytes()
        assert ("d", {"k": [1]}) == (artifact.description, artifact.metadata)
        assert ["best", "latest"] == sorted(artifact.aliases)
        assert set(expected) == set(artifact.manifest.entries)
        assert set(expected) == {file.name for file in artifact.files()}
        assert (1005, version.digest) == (artifact.size, artifact.digest)
        assert "a1" == artifact.logged_by().id
        logged = api.run("team/proj/a1").logged_artifacts()
        assert ["model:v0"] == [one.name for one in logged]

    def test_equal_contents_are_one_version(
        self, wandb_loopback: WandbServer, folder: Path
    ) -> None:
        """What is there already is not uploaded again."""
        self.log("a1", folder)
        uploads = wandb_loopback.count("/storage/blob/")
        same = self.log("a2", folder)

        assert "v0" == same.version
        assert 1 == len(wandb_loopback.versions("team", "proj", "model"))
        assert uploads == wandb_loopback.count("/storage/blob/")
        for id in ("a1", "a2"):
            logged = wandb.Api().run(f"team/proj/{id}").logged_artifacts()
            assert ["model:v0"] == [one.name for one in logged]

    def test_versions_and_aliases(
        self, wandb_loopback: WandbServer, folder: Path
    ) -> None:
        """An alias goes to the version which got it last."""
        first = self.log("a1", folder)
        draft = first.new_draft()
        with draft.new_file("more.txt") as file:
            file.write("more")
        with start("a2") as run:
            run.log_artifact(draft, aliases=["best"]).wait()
        api = wandb.Api()
        old = api.artifact("team/proj/model:v0")
        old.aliases.append("old")
        old.save()

        aliases = wandb_loopback.aliases("team", "proj", "model")
        assert {"best": 1, "latest": 1, "old": 0} == aliases
        versions = api.artifacts("model", "team/proj/model", per_page=1)
        assert ["v1", "v0"] == [one.version for one in versions]
        assert {"weights.bin", "in ä/notes.txt", "more.txt"} == set(
            api.artifact("team/proj/model:best").manifest.entries
        )

    def test_use(self, wandb_loopback: WandbServer, folder: Path) -> None:
        """A run's inputs can be read from both ends."""
        self.log("a1", folder)
        with start("a2") as run:
            run.use_artifact("model:latest")
        api = wandb.Api()

        used = api.run("team/proj/a2").used_artifacts()
        assert ["model:v0"] == [one.name for one in used]
        used_by = api.artifact("team/proj/model:v0").used_by()
        assert ["a2"] == [run.id for run in used_by]

    @pytest.mark.parametrize(
        ("target", "project"),
        [("model-registry/Best", "model-registry"), ("wandb-registry-model/Best", "")],
    )
    def test_links(
        self, wandb_loopback: WandbServer, folder: Path, target: str, project: str
    ) -> None:
        """Registered versions count from zero, whatever they are at home."""
        self.log("a1", folder)
        (folder / "weights.bin").write_bytes(b"other")
        self.log("a2", folder)
        with start("a3") as run:
            run.link_artifact(
                run.use_artifact("model:v1"), target, aliases=["production"]
            )
        place = ("team", project) if project else ("acme-org", "wandb-registry-model")
        ((linked, member),) = wandb_loopback.links(*place, "Best")

        assert (1, 0) == (linked.version, member.version)
        assert {"production", "latest"} == set(member.aliases)
        path = "/".join((*place, "Best:production"))
        got = wandb.Api().artifact(path)
        assert ("v0", "model:v1") == (got.version, got.source_name)

    def test_draft_can_be_linked_while_logged(
        self, wandb_loopback: WandbServer, folder: Path
    ) -> None:
        """Linking waits for the upload by itself."""
        artifact = wandb.Artifact("model", type="model")
        artifact.add_dir(str(folder))
        with start("a1") as run:
            run.log_artifact(artifact)
            run.link_artifact(artifact, "model-registry/Best")

        assert 1 == len(wandb_loopback.links("team", "model-registry", "Best"))

    def test_references(self, wandb_loopback: WandbServer) -> None:
        """References are kept as such."""
        artifact = wandb.Artifact("data", type="dataset")
        artifact.add_reference("https://example.com/key", checksum=False)
        with start("a1") as run:
            run.log_artifact(artifact).wait()
        got = wandb.Api().artifact("team/proj/data:v0")

        assert ["https://example.com/key"] == [
            e.ref for e in got.manifest.entries.values()
        ]

    def test_collections_and_registries(
        self, wandb_loopback: WandbServer, folder: Path
    ) -> None:
        """What there is can be listed."""
        self.log("a1", folder, "one").link("wandb-registry-model/Best")
        self.log("a2", folder, "two")
        api = wandb.Api()

        listed = api.artifact_collections("team/proj", "model")
        assert ["one", "two"] == sorted(found.name for found in listed)
        types = api.artifact_types("team/proj")
        assert ["model"] == [found.name for found in types]
        registries = {registry.name: registry for registry in api.registries("acme")}
        assert {"model", "dataset"} == set(registries)
        best = registries["model"].collections()
        assert ["Best"] == [found.name for found in best]
        versions = registries["model"].versions()
        assert ["Best:v0"] == [found.name for found in versions]
        api.create_registry("mine", "organization", organization="acme")
        assert "mine" == api.registry("mine", organization="acme").name
        assert ("acme-org", "wandb-registry-mine") in wandb_loopback.projects

    def test_artifacts_can_be_deleted(
        self, wandb_loopback: WandbServer, folder: Path
    ) -> None:
        """A deleted version is gone from its collection."""
        self.log("a1", folder)
        wandb.Api().artifact("team/proj/model:v0").delete(delete_aliases=True)

        assert [] == wandb_loopback.versions("team", "proj", "model")
        with pytest.raises(wandb.errors.CommError):
            wandb.Api().artifact("team/proj/model:v0")


class TestSync:
    @pytest.mark.parametrize("whole", [False, True], ids=["one", "all"])
    def test_offline_runs_arrive(
        self, wandb_loopback: WandbServer, tmp_path: Path, whole: bool
    ) -> None:
        """What was written offline is the same on the server as if online."""
        root = tmp_path / "offline"
        root.mkdir()
        settings = {**QUICK, "mode": "offline", "root_dir": str(root)}
        artifact = wandb.Artifact("data", type="dataset")
        with artifact.new_file("a.txt") as file:
            file.write("a")
        with start("a1", config={"lr": 1}, tags=["t"], settings=settings) as run:
            run.log({"loss": math.nan}, step=0)
            run.log({"loss": 2}, step=5)
            run.log_artifact(artifact)
        (folder,) = (root / "wandb").glob("offline-run-*")
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        if whole:
            command[-1] = str(folder.parent)
        done = subprocess.run(command, capture_output=True, text=True, cwd=root)
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert 0 == done.returncode, done.stderr
        assert ({"lr": 1}, ["t"], "finished") == (got.config, got.tags, got.state)
        assert [0, 5] == [row["_step"] for row in got.history]
        (version,) = wandb_loopback.versions("team", "proj", "data")
        assert {"a.txt": b"a"} == wandb_loopback.contents(version)


class TestReading:
    @pytest.fixture
    def api(self, wandb_loopback: WandbServer) -> Any:
        for number in range(5):
            add_run(
                wandb_loopback,
                "team",
                "proj",
                f"r{number}",
                history=[{"loss": step / 2} for step in range(1 if number else 4)],
                display_name=f"n{number % 2}",
                group=f"g{number // 3}",
                tags=[f"t{number % 2}"],
                config={"number": number, "a.b": "x"},
            )
        return wandb.Api()

    def test_runs(self, api: Any, wandb_loopback: WandbServer) -> None:
        """Runs come in pages, whole, ordered and filtered."""

        def ids(filters: Any = None, **how: Any) -> list[str]:
            return [run.id for run in api.runs("team/proj", filters, **how)]

        assert [f"r{i}" for i in range(5)] == ids({}, per_page=2)
        assert 3 <= wandb_loopback.count("Runs")
        assert ["r4", "r3"] == ids(per_page=2, order="-created_at")[:2]
        assert ["r1", "r4"] == ids({"name": {"$in": ["r4", "r1", "no"]}})
        assert ["r1", "r3"] == ids({"display_name": "n1"})
        assert ["r3", "r4"] == ids({"group": "g1"})
        assert ["r2"] == ids({"config.number.value": 2})
        assert ["r2"] == ids({"config.number": 2})
        assert ["r0", "r2"] == ids({"tags": "t0", "group": "g0"})
        assert ["r3", "r4"] == ids({"$and": [{"config.number": {"$gte": 3}}]})
        assert ["r4", "r0"] == ids(
            {"name": {"$in": ["r0", "r4"]}}, order="-config.number.value"
        )
        assert 5 == len(api.runs("team/proj"))
        runs = api.runs("team/proj", {"name": "r0"}, lazy=False)
        assert {"number": 0, "a.b": "x"} == runs[0].config

    def test_unknown(self, api: Any) -> None:
        """What is not there is told so."""
        with pytest.raises(wandb.errors.CommError, match="no/proj/r0"):
            api.run("no/proj/r0")
        with pytest.raises(wandb.errors.CommError, match="team/proj/r9"):
            api.run("team/proj/r9")
        with pytest.raises(ValueError, match="Could not find project nowhere"):
            next(api.runs("team/nowhere"))
        with pytest.raises(wandb.errors.CommError, match="nothing"):
            api.artifact("team/proj/nothing:v0")

    def test_history(self, api: Any, wandb_loopback: WandbServer) -> None:
        """All ways to the rows lead to the same rows."""
        run = api.run("team/proj/r0")
        expected = [(0, 0), (1, 0.5), (2, 1), (3, 1.5)]

        def got(rows: Any) -> list[tuple[Any, ...]]:
            return values(list(rows), "_step", "loss")

        assert expected == got(run.history(pandas=False))
        assert expected == got(run.history(keys=["loss"], pandas=False))
        assert 2 == len(run.history(samples=2, pandas=False))
        assert expected == got(run.scan_history(page_size=3))
        assert 2 == wandb_loopback.count("HistoryPage")
        assert expected == got(run.scan_history(keys=["loss"]))
        assert expected[1:3] == got(run.scan_history(min_step=1, max_step=3))
        assert expected[1:3] == got(
            run.scan_history(keys=["loss"], min_step=1, max_step=3)
        )
        assert [] == list(run.scan_history(keys=["absent"]))
        assert 3 == run.lastHistoryStep

    def test_large_histories_are_scanned_whole(
        self, wandb_loopback: WandbServer
    ) -> None:
        """Pages are of steps: gaps between them lose nothing."""
        with start("big") as run:
            for step in range(2500):
                run.log({"v": step, "not": math.nan}, step=step * 3)
        got = list(wandb.Api().run("team/proj/big").scan_history())

        assert [(s, s * 3) for s in range(2500)] == values(got, "v", "_step")
        assert all(math.isnan(row["not"]) for row in got)

    def test_exported_histories(self, wandb_loopback: WandbServer) -> None:
        """Rows may come from Parquet files, with those that are newer behind."""
        rows = [{"v": number, "_step": number * 2} for number in range(10)]
        run = add_run(wandb_loopback, "team", "proj", "a1", history=rows)
        run.exports = [_parquet(rows[:4]), _parquet(rows[4:7])]
        run.exported = 7
        read = wandb.Api().run("team/proj/a1")
        expected = values(rows, "v", "_step")

        assert expected == values(list(read.scan_history(page_size=6)), "v", "_step")
        scanned = read.scan_history(keys=["v"])
        assert expected == values(list(scanned), "v", "_step")
        assert 2 == wandb_loopback.count("/storage/export/")

    def test_what_was_put_in(self, wandb_loopback: WandbServer, tmp_path: Path) -> None:
        """What a test puts in is read like what a client has sent."""
        run = add_run(
            wandb_loopback,
            "team",
            "proj",
            "a1",
            config={"lr": 0.1},
            history=[{"loss": 2.0}, {"loss": math.nan}],
            events=[{"system.cpu": 1}],
            files={"a/b.txt": b"text"},
            display_name="shown",
            tags=["t"],
        )
        files = {"x.bin": b"x", "y.bin": b"yy"}
        artifact = add_artifact(
            wandb_loopback, "team", "proj", "model", type="model", files=files, run=run
        )
        add_link(
            wandb_loopback, artifact, "team", "model-registry", "M", aliases=["best"]
        )
        api = wandb.Api()
        got = api.run("team/proj/a1")
        (logged,) = got.logged_artifacts()
        linked = api.artifact("team/model-registry/M:best")
        out = Path(linked.download(root=str(tmp_path / "out")))

        assert ("shown", ["t"], "finished") == (got.name, got.tags, got.state)
        assert {"lr": 0.1} == got.config
        assert [0, 1] == [row["_step"] for row in got.scan_history()]
        assert math.isnan(got.summary["loss"])
        assert ["a/b.txt"] == [file.name for file in got.files()]
        assert ("model:v0", linked.digest) == (logged.name, logged.digest)
        assert files == {path.name: path.read_bytes() for path in out.iterdir()}
        logged.verify(root=str(out))

    def test_update(self, api: Any, wandb_loopback: WandbServer) -> None:
        """A finished run can be corrected."""
        run = api.run("team/proj/r0")
        run.name, run.notes, run.group = "new", "noted", "other"
        run.tags.append("more")
        run.config["number"] = 99
        run.summary["best"] = 7
        run.update()
        got = wandb_loopback.runs["team", "proj", "r0"]

        assert ("new", "noted", "other") == (got.display_name, got.notes, got.group)
        assert ["t0", "more"] == got.tags
        assert {"number": 99, "a.b": "x"} == got.config
        assert (7, 1.5) == (got.summary["best"], got.summary["loss"])
        assert "finished" == got.state
        assert 99 == wandb.Api().run("team/proj/r0").config["number"]

    def test_projects(self, api: Any, wandb_loopback: WandbServer) -> None:
        """Projects are made and listed."""
        api.create_project("second", "team")

        listed = [project.name for project in api.projects("team")]
        assert ["proj", "second"] == sorted(listed)
        assert ("team", "second") in wandb_loopback.projects
        assert [] == list(api.runs("team/second"))
        assert "tester" == api.default_entity
        assert "tester" == api.viewer.username

    def test_sweeps(self, api: Any, wandb_loopback: WandbServer) -> None:
        """A sweep and its runs find each other."""
        config = {"method": "grid", "parameters": {"lr": {"values": [1, 2]}}}
        id = wandb.sweep(config, entity="team", project="proj")
        wandb_loopback.runs["team", "proj", "r1"].sweep = id
        sweep = api.sweep(f"team/proj/{id}")

        assert "grid" == sweep.config["method"]
        assert ["r1"] == [run.id for run in sweep.runs]
        assert [id] == [one.id for one in api.project("proj", "team").sweeps()]
        assert id == api.run("team/proj/r1").sweep.id


class TestFaults:
    def test_passing_failures_are_tried_again(
        self, wandb_loopback: WandbServer
    ) -> None:
        """Errors that may pass, and answers that get lost, do not stop the client."""
        wandb_loopback.plant("UpsertBucket", refuse(502))
        wandb_loopback.plant("/file_stream", refuse(429, retry_after=0.1))
        wandb_loopback.plant("/file_stream", drop())
        wandb_loopback.plant("CreateRunFiles", truncate())
        log_run("a1", settings=IMPATIENT)
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert [0, 1, 2] == [row["_step"] for row in got.history]
        assert "finished" == got.state
        faults = [r.fault for r in wandb_loopback.requests if r.fault]
        assert 4 == len(faults)

    def test_a_lost_answer_stores_no_row_twice(
        self, wandb_loopback: WandbServer
    ) -> None:
        """Rows are sent again for the same place."""
        wandb_loopback.plant("/file_stream", lie(500))
        log_run("a1", settings=IMPATIENT)
        got = wandb_loopback.runs["team", "proj", "a1"].history

        assert [0, 1, 2] == [row["_step"] for row in got]

    def test_refused_rows_are_not_told_of(self, wandb_loopback: WandbServer) -> None:
        """A run ends without an error although nothing of it was taken."""
        wandb_loopback.plant("/file_stream", refuse(400), times=None)
        log_run("a1")
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert ([], "running") == (got.history, got.state)

    @pytest.mark.parametrize("on", ["CreateRunFiles", "/storage/run/"])
    def test_refused_files_are_not_told_of(
        self, wandb_loopback: WandbServer, on: str
    ) -> None:
        """A run ends without an error although its files were not taken."""
        wandb_loopback.plant(on, refuse(403), times=None)
        log_run("a1")
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert ({}, "finished") == (got.files, got.state)

    def test_refused_changes_are_not_told_of(self, wandb_loopback: WandbServer) -> None:
        """Configuration that was added late may get lost."""
        wandb_loopback.plant("UpsertBucket", refuse(400), skip=1, times=None)
        with start("a1", config={"early": 1}) as run:
            run.config.update({"late": 2})
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert ({"early": 1}, "finished") == (got.config, got.state)

    def test_delays(self, wandb_loopback: WandbServer) -> None:
        """An answer can be made to come late."""
        wandb_loopback.plant("RunResumeStatus", delay(0.3))
        start("a1").finish()
        resume, upsert = (
            wandb_loopback.asked(name)[0]
            for name in ("RunResumeStatus", "UpsertBucket")
        )

        assert upsert.at - resume.at >= 0.3

    @pytest.mark.parametrize("keep", [0, 2])
    def test_a_server_can_lie(self, wandb_loopback: WandbServer, keep: int) -> None:
        """Rows that were accepted need not be there."""
        wandb_loopback.plant("/file_stream", Forget(keep), times=None)
        log_run("a1", rows=5)
        got = wandb_loopback.runs["team", "proj", "a1"]

        assert list(range(keep)) == [row["_step"] for row in got.history]
        assert ("finished", 4) == (got.state, got.summary["_step"])

    def test_a_refused_commit_raises(
        self, wandb_loopback: WandbServer, tmp_path: Path
    ) -> None:
        """Waiting for an artifact tells of its failure."""
        (tmp_path / "a.txt").write_text("a")
        artifact = wandb.Artifact("data", type="dataset")
        artifact.add_file(str(tmp_path / "a.txt"))
        wandb_loopback.plant("CommitArtifact", refuse(400), times=None)
        with start("a1") as run, pytest.raises(ValueError, match="400"):
            run.log_artifact(artifact).wait()

        assert [] == wandb_loopback.versions("team", "proj", "data")

    def test_init_raises(self, wandb_loopback: WandbServer) -> None:
        """A run that the server does not want is told of at once."""
        wandb_loopback.plant("UpsertBucket", refuse(400))
        with pytest.raises(wandb.errors.CommError):
            start("a1")

    def test_rules_count(self, wandb_loopback: WandbServer) -> None:
        """A fault happens to the requests that it was planted for."""
        wandb_loopback.plant("UpsertBucket", refuse(429, retry_after=0.1), skip=1)
        start("a1").finish()
        asked = wandb_loopback.asked("UpsertBucket")

        assert [False, True, False] == [bool(one.fault) for one in asked][:3]
        wandb_loopback.plant("UpsertBucket", refuse(500), times=None)
        wandb_loopback.clear()
        wandb_loopback.plant(
            "UpsertBucket", refuse(400), when=lambda said: said["name"] == "a3"
        )
        start("a2").finish()
        assert ("team", "proj", "a2") in wandb_loopback.runs
        with pytest.raises(wandb.errors.CommError):
            start("a3")

    def test_wrong_key(self, tmp_path: Path) -> None:
        """Only the server's own key opens it."""
        with wandb_server(api_key="f" * 40) as server, wandb_client(server, tmp_path):
            os.environ["WANDB_API_KEY"] = "e" * 40
            with pytest.raises(wandb.errors.CommError):
                start("a1")
            assert {} == server.runs


class TestIsolation:
    def test_nothing_is_left_behind(self, tmp_path: Path) -> None:
        """A client changes nothing outside of its folder."""
        home, temp, here = (tmp_path / name for name in ("home", "tmp", "here"))
        for folder in (home, temp, here):
            folder.mkdir()
        (home / ".netrc").write_text("machine example.com login a password b\n")
        before = [tree.snapshot(folder) for folder in (home, here)]
        script = """
            import wandb
            with wandb.init(entity="team", project="proj", id="a1") as run:
                run.log({"v": 1})
                artifact = wandb.Artifact("data", type="dataset")
                with artifact.new_file("a.txt") as file:
                    file.write("a")
                run.log_artifact(artifact).wait()
            api = wandb.Api()
            list(api.run("team/proj/a1").scan_history())
            api.artifact("team/proj/data:v0").download()
        """
        with wandb_server() as server:
            places = {"HOME": str(home), "TMPDIR": str(temp)}
            given = client_environment(server, tmp_path / "client")
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(script)],
                env={**os.environ, **given, **places},
                cwd=here,
                capture_output=True,
                text=True,
            )

        assert 0 == done.returncode, done.stderr
        assert ["a1"] == [key[2] for key in server.runs]
        assert before == [tree.snapshot(folder) for folder in (home, here)]
        assert [] == list(temp.iterdir())

    def test_the_service_ends(self, tmp_path: Path) -> None:
        """Afterwards no process runs on, and the environment is as before."""
        before, others = dict(os.environ), _children()
        with wandb_server() as server, wandb_client(server, tmp_path):
            log_run("a1")
            service = _children() - others

        assert before == dict(os.environ)
        assert service
        assert set() == service & _children()

    def test_a_killed_service(self, tmp_path: Path) -> None:
        """A service that was killed does not keep the next one from starting."""
        from wandb.sdk import mailbox

        with wandb_server() as server:
            with wandb_client(server, tmp_path):
                before = _children()
                run = start("a1")
                for service in _children() - before:
                    os.kill(service, signal.SIGKILL)
                gone = (mailbox.MailboxClosedError, mailbox.HandleAbandonedError)
                with pytest.raises((*gone, OSError)):
                    run.finish()
            with wandb_client(server, tmp_path):
                start("a2").finish()

        assert "finished" == server.runs["team", "proj", "a2"].state

    def test_one_server_after_another(self, tmp_path: Path) -> None:
        """The client forgets the server before."""
        for name in ("one", "two"):
            folder = tmp_path / name
            with wandb_server() as server, wandb_client(server, folder):
                log_run("same")
                run = wandb.Api().run("team/proj/same")

            assert ["same"] == [key[2] for key in server.runs]
            assert server.runs["team", "proj", "same"].created == run.created_at
            assert list((folder / "runs" / "wandb").glob("run-*-same"))

    def test_stand_alone(self, tmp_path: Path) -> None:
        """The server also runs in a process of its own."""
        command = [sys.executable, "-m", "tests.support.wandb_server", "--port", "0"]
        root = Path(__file__).parents[1]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
        try:
            line = process.stdout.readline() if process.stdout else ""
        finally:
            process.terminate()
            process.wait()
            if process.stdout:
                process.stdout.close()

        assert line.startswith("WANDB_BASE_URL=http://127.0.0.1:")

    def test_environment_names_only_the_folder(self, tmp_path: Path) -> None:
        """Each path in a client's environment is below the folder."""
        with wandb_server() as server:
            environment = client_environment(server, tmp_path)
        paths = [value for value in environment.values() if value.startswith("/")]

        assert paths
        assert all(Path(path).is_relative_to(tmp_path) for path in paths)


class TestGraphql:
    ROOT: ClassVar = {
        "user": lambda args: {"__typename": "User", "name": args.get("name", "?")},
        "many": [{"__typename": "A", "x": 1}, {"__typename": "B", "x": 2, "y": 3}],
        "raw": {"any": "thing"},
    }

    def ask(self, text: str, **variables: Any) -> Any:
        return graphql.execute(graphql.parse(text), self.ROOT, variables)

    def test_aliases_arguments_and_defaults(self) -> None:
        """Answers bear the names and use the values that the query has."""
        text = 'query Q($n: String = "d") { a: user(name: $n) { name } raw }'

        assert {"a": {"name": "d"}, "raw": {"any": "thing"}} == self.ask(text)
        assert {"name": "e"} == self.ask(text, n="e")["a"]
        assert "Q" == graphql.parse(text).name

    def test_fragments(self) -> None:
        """Type conditions choose, and what is selected twice is merged."""
        text = """
            query ($more: Boolean!) {
                many { ...F ... on B { y } }
                user { name @include(if: $more) }
                user { __typename }
            }
            fragment F on A { x }
        """
        expected = {"many": [{"x": 1}, {"y": 3}], "user": {"__typename": "User"}}

        assert expected == self.ask(text, more=False)
        assert {"__typename": "User", "name": "?"} == self.ask(text, more=True)["user"]

    def test_unknown_fields(self) -> None:
        """What the server does not have is an error, never an empty answer."""
        with pytest.raises(graphql.QueryError, match='"age" on type "User"'):
            self.ask("{ user { age } }")


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def _children() -> set[int]:
    """Return this process's living children."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == os.getpid() and words[0] != "Z":
            found.add(int(stat.parent.name))
    return found
