"""Run folders for ``wandb sync``: written by us, read by W&B's own code."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import copies
from support._processes import clean_environment
from support.copies import differences
from support.fixture_stores import FIXTURES
from support.wandb_server import client_environment
from wandb.proto import wandb_internal_pb2

from mlmigrate.api import plan
from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    Copied,
    Failed,
    Item,
    Loss,
    MetricHistory,
    Param,
    Ref,
    Run,
    Tag,
    Updated,
)
from mlmigrate.testing.suite import (
    NOW,
    OTHER,
    RUN,
    MemorySources,
    Peeked,
    RunSinkSuite,
    experiment,
    model,
    points,
    run,
    version,
)
from mlmigrate.wandb_runs.log import BLOCK, read_log, write_log
from mlmigrate.wandb_runs.mapping import project_of, run_id
from mlmigrate.wandb_runs.rows import rows, steps_of

pb: Any = wandb_internal_pb2


# -- W&B's own reading ---------------------------------------------------------------


def records(log: Path) -> Iterator[Any]:
    """Yield the records of a log by W&B's protobuf; the framing is undone here."""
    data = log.read_bytes()
    at, whole = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def log_of(location: str, run: str) -> Path | None:
    folder = Path(location.removeprefix("wandb-offline:"))
    return next(folder.glob(f"offline-run-*/run-{run}.wandb"), None)


def config_of(log: Path) -> dict[str, Any]:
    found = next(each.run for each in records(log) if each.HasField("run"))
    return {item.key: json.loads(item.value_json) for item in found.config.update}


def run_record(log: Path) -> Any:
    return next(each.run for each in records(log) if each.HasField("run"))


def history_of(log: Path) -> list[dict[str, Any]]:
    return [
        {item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(log)
        if record.HasField("history")
    ]


def summary_of(log: Path) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for record in records(log)
        for item in record.summary.update
    }


class TestConformance(RunSinkSuite):
    @pytest.fixture
    def sink_location(self, tmp_path: Path) -> str:
        return f"wandb-offline:{tmp_path / 'wandb'}"

    def peek(self, location: str, run: str) -> Peeked | None:
        log = log_of(location, run)
        if log is None:
            return None
        config = config_of(log)
        mlflow, own = config.pop("mlflow"), config.pop("mlmigrate")
        found = []
        for row in history_of(log):
            step = row.pop("mlflow_step", row.pop("_step"))
            moment = row.pop("mlflow_timestamp", round(row.pop("_timestamp") * 1000))
            found += [
                (own.get("metrics", {}).get(key, key), step, moment, float(value))
                for key, value in row.items()
                if not key.startswith("_")
            ]
        return Peeked(
            mlflow["status"],
            mlflow.get("start_time"),
            mlflow.get("end_time"),
            mlflow["lifecycle"],
            {
                own.get("params", {}).get(key, key): value
                for key, value in config.items()
            },
            mlflow.get("tags", {}),
            sorted(found),
            bool(own["mark"]),
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        pytest.skip("nobody edits a log")

    def delete_run(self, location: str, run: str) -> None:
        pytest.skip("nobody deletes a run within a log")

    def partial_files(self, location: str) -> list[str]:
        folder = Path(location.removeprefix("wandb-offline:"))
        return [str(path) for path in folder.rglob(".mlmigrate-*")]


# -- what W&B sees -------------------------------------------------------------------


def copied(source: str, sink: str, *options: str) -> list[Any]:
    return copies.copied(source, sink, options).events


@pytest.fixture
def sink(tmp_path: Path) -> str:
    return f"wandb-offline:{tmp_path / 'wandb'}"


def the_log(sink: str, id: str = RUN) -> Path:
    log = log_of(sink, id)
    assert log is not None
    return log


class TestHistory:
    def test_a_row_a_step(self, sources: MemorySources, sink: str) -> None:
        """Where each step has one time, ``_step`` is MLflow's and rows are shared."""
        losses = points("loss", (0, 1.0), (5, 0.5), (7, 0.25))
        accuracy = points("acc", (5, 0.1), (7, 0.2))
        copied(sources(experiment(), run(metrics=(losses, accuracy))), sink)
        found = history_of(the_log(sink))

        assert [0, 5, 7] == [row["_step"] for row in found]
        assert [NOW / 1000 + step for step in (0, 5, 7)] == [
            row["_timestamp"] for row in found
        ]
        assert [0.0, 5.0, 7.0] == [row["_runtime"] for row in found]
        assert {"loss": 0.5, "acc": 0.1}.items() <= found[1].items()
        assert not any("mlflow_step" in row for row in found)

    @pytest.mark.parametrize(
        "metrics",
        [
            (points("a", (-1, 1.0), (0, 2.0)),),
            (points("a", (2**53 + 1, 1.0)),),
            (points("a", (0, 1.0)), points("b", (0, 1.0), at=NOW + 1)),
            (
                history(
                    "a",
                    np.array([1, 1]),
                    np.array([NOW, NOW + 5]),
                    np.array([1.0, 2.0]),
                ),
            ),
            (points("a", (0, 1.0), at=2**60),),
        ],
        ids=["negative", "huge", "two times", "repeated", "far future"],
    )
    def test_counted_rows(
        self, sources: MemorySources, sink: str, metrics: tuple[MetricHistory, ...]
    ) -> None:
        """Elsewhere rows are counted, and charts are told to go by MLflow's steps."""
        origin = sources(experiment(), run(metrics=metrics))
        copied(origin, sink)
        log = the_log(sink)
        found = history_of(log)
        defined = [each.metric for each in records(log) if each.HasField("metric")]

        assert list(range(len(found))) == [row["_step"] for row in found]
        assert all("mlflow_step" in row for row in found)
        assert [("*", "mlflow_step")] == [
            (each.glob_name, each.step_metric) for each in defined
        ]
        assert [] == differences(origin, sink)

    def test_a_run_that_goes_on(self, sources: MemorySources, sink: str) -> None:
        """Rows of a run that is not over are counted: anything may come yet."""
        going = run(metrics=(points("a", (0, 1.0)),), status="RUNNING", end_time=None)
        copied(sources(experiment(), going), sink)
        log = the_log(sink)

        assert "mlflow_step" in history_of(log)[0]
        assert not any(each.HasField("exit") for each in records(log))

    def test_odd_values(self, sources: MemorySources, sink: str) -> None:
        """NaN and infinities stand in rows and in the summary."""
        values = points("a", (0, float("nan")), (1, float("inf")), (2, float("-inf")))
        origin = sources(experiment(), run(metrics=(values,)))
        copied(origin, sink)
        texts = [
            item.value_json
            for record in records(the_log(sink))
            for item in record.history.item
            if item.key == "a"
        ]

        assert ["NaN", "Infinity", "-Infinity"] == texts
        assert float("-inf") == summary_of(the_log(sink))["a"]
        assert [] == differences(origin, sink)

    def test_summary(self, sources: MemorySources, sink: str) -> None:
        """The summary is what MLflow shows: the highest step, not the last row."""
        values = history(
            "a", np.array([9, 3]), np.array([NOW, NOW + 5]), np.array([0.9, 0.3])
        )
        copied(sources(experiment(), run(metrics=(values,))), sink)
        found = summary_of(the_log(sink))

        assert 0.9 == found["a"]
        assert 60 == found["_wandb.runtime"]

    def test_names_that_wandb_keeps(self, sources: MemorySources, sink: str) -> None:
        """Metrics and params named as W&B's own are kept under other names."""
        origin = sources(
            experiment(),
            run(
                metrics=(points("_step", (0, 1.0)), points("_runtime", (0, 2.0))),
                params=(Param("mlflow", "1"), Param("_wandb", "2")),
            ),
        )
        copied(origin, sink)

        assert {"mlflow._step", "mlflow._runtime"} <= history_of(the_log(sink))[
            0
        ].keys()
        assert [] == differences(origin, sink)

    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_rows_hold_every_point(self, data: st.DataObject) -> None:
        """Whatever the points: each is in one row, and rows rise."""
        small = st.integers(-2, 3)
        metrics = [
            history(
                key,
                np.array([step for step, _, _ in triples], dtype=np.int64),
                np.array([moment for _, moment, _ in triples], dtype=np.int64),
                np.array([value for _, _, value in triples], dtype=np.float64),
            )
            for key in "abc"
            for triples in [data.draw(st.lists(st.tuples(small, small, small)))]
        ]
        counted = steps_of(metrics, finished=data.draw(st.booleans()))
        found = list(rows(metrics, counted, first=4))
        seen = sorted(
            (
                key,
                row.step if counted == "native" else row.mlflow_step,
                round(row.timestamp * 1000),
                value,
            )
            for row in found
            for key, value in row.values
        )
        wanted = sorted(
            (metric.key, *point)
            for metric in metrics
            for point in zip(
                metric.steps.tolist(),
                metric.timestamps.tolist(),
                metric.values.tolist(),
                strict=True,
            )
        )

        assert wanted == seen
        steps = [row.step for row in found]
        assert sorted(set(steps)) == steps
        assert counted == "native" or list(range(4, 4 + len(found))) == steps
        for row in found:
            keys = [key for key, _ in row.values]
            assert len(set(keys)) == len(keys)


class TestRun:
    def test_where_it_is_said_to_be(self, sources: MemorySources, sink: str) -> None:
        """The report gives a run the id under which it is read back."""
        events = copied(sources(experiment(), run()), sink)
        (made,) = [
            each
            for each in events
            if isinstance(each, Copied) and each.ref.kind == "run"
        ]
        (ref,) = resolve(sink).source().refs(Selection("run"))

        assert ref == made.to

    def test_in_wandb_s_words(self, sources: MemorySources, sink: str) -> None:
        """Name, notes, tags, host, git, user and exit code are where W&B looks."""
        tags = {
            "mlflow.note.content": "what it is",
            "mlflow.source.name": "train.py",
            "mlflow.source.git.commit": "abc",
            "mlflow.source.git.repoURL": "https://example.org/x.git",
            "wandb.tags": '["one", "two"]',
            "wandb.group": "sweepers",
            "wandb.job_type": "train",
        }
        failed = run(
            tags=tuple(Tag(key, value) for key, value in tags.items()), status="FAILED"
        )
        copied(sources(experiment(name="churn"), failed), sink, "entity=team")
        log = the_log(sink)
        said = run_record(log)
        environment = next(
            each.environment for each in records(log) if each.HasField("environment")
        )
        exit = next(each.exit for each in records(log) if each.HasField("exit"))

        assert (RUN, "team", "churn") == (said.run_id, said.entity, said.project)
        assert ("tidy-owl-1", "what it is") == (said.display_name, said.notes)
        assert ["one", "two"] == list(said.tags)
        assert ("sweepers", "train") == (said.run_group, said.job_type)
        assert ("abc", "https://example.org/x.git") == (
            said.git.commit,
            said.git.remote_url,
        )
        assert NOW == said.start_time.seconds * 1000 + said.start_time.nanos // 10**6
        assert ("dana", "train.py") == (environment.username, environment.program)
        assert (1, 60) == (exit.exit_code, exit.runtime)

    def test_nesting(self, sources: MemorySources, sink: str) -> None:
        """The group of nested runs is the run above all, whichever came first."""
        a, b, c = "a" * 32, "b" * 32, "c" * 32
        items = [
            run(c, parent=Ref("run", b)),
            run(b, parent=Ref("run", a)),
            run("d" * 32),
        ]
        origin = sources(experiment(), *items)
        copied(origin, sink)
        sources.put(origin, run(a))
        copied(origin, sink)
        found = {
            id: (run_record(the_log(sink, id)).run_group, run_record(the_log(sink, id)))
            for id in (a, b, c, "d" * 32)
        }

        assert {a: a, b: a, c: a, "d" * 32: ""} == {
            id: group for id, (group, _) in found.items()
        }
        assert ["parent", "child", "child", ""] == [
            said.job_type for _, said in found.values()
        ]
        assert [] == differences(origin, sink)

    def test_one_project(self, sources: MemorySources, sink: str) -> None:
        """All experiments in one project: each is a group."""
        origin = sources(
            experiment(), experiment("2", "other"), run(), run(OTHER, experiment="2")
        )
        copied(origin, sink, "project=all")
        said = [run_record(the_log(sink, id)) for id in (RUN, OTHER)]

        assert [("all", "churn"), ("all", "other")] == [
            (each.project, each.run_group) for each in said
        ]
        assert [] == differences(origin, sink)

    @pytest.mark.parametrize(
        ("grouping", "groups"),
        [("nesting", [RUN, RUN]), ("experiment", ["churn"] * 2), ("none", ["", ""])],
    )
    def test_grouping(
        self, sources: MemorySources, sink: str, grouping: str, groups: list[str]
    ) -> None:
        """What runs are grouped by is the user's choice; nesting is kept anyway."""
        origin = sources(experiment(), run(), run(OTHER, parent=Ref("run", RUN)))
        copied(origin, sink, f"grouping={grouping}")
        said = [run_record(the_log(sink, id)) for id in (RUN, OTHER)]

        assert groups == [each.run_group for each in said]
        assert [] == differences(origin, sink)
        assert not any(
            isinstance(each, Updated)
            for each in copied(origin, sink, f"grouping={grouping}")
        )

    def test_typed_params(self, sources: MemorySources, sink: str) -> None:
        """On request params are numbers at W&B, and the texts that they were here."""
        texts = ["0.1", "1.0", "1e-05", "True", "3", "nan", "x", "", "1e400", "[1]"]
        params = tuple(Param(f"p{at}", text) for at, text in enumerate(texts))
        origin = sources(experiment(), run(params=params))
        copied(origin, sink, "typed-params=yes")
        config = config_of(the_log(sink))

        assert [0.1, 1.0, 1e-05, True, 3, "nan", "x", "", "1e400", "[1]"] == [
            config[f"p{at}"] for at in range(len(texts))
        ]
        assert [] == differences(origin, sink)

    def test_id_salt(self, sources: MemorySources, sink: str) -> None:
        """A salt gives each run another id; it is still the same run."""
        origin = sources(experiment(), run())
        copied(origin, sink, "id-salt=again")
        id = run_id(RUN, "again")

        assert RUN != id == run_record(the_log(sink, id)).run_id
        assert [] == differences(origin, sink)

    def test_ids_and_projects_that_wandb_takes(self) -> None:
        """Names that W&B refuses become others, always the same, no two equal."""
        names = ["a/b", "a-b", "a#b", "ä ö", "x" * 129, "x" * 130, "", " a"]
        made = [project_of(name) for name in names]

        assert len(set(made)) == len(names)
        assert all(0 < len(name) <= 128 for name in made)
        assert not any(set(name) & set("/\\#?%:") for name in made)
        assert "a-b" == made[1]
        ids = [run_id(each) for each in ("wandb:e/p/1", "a b", "", "x" * 200)]
        assert all(32 == len(id) for id in ids)
        assert len(set(ids)) == len(ids)

    def test_changed_at_wandb(self, sources: MemorySources, sink: str) -> None:
        """A name, notes and tags that people gave a run at W&B are read."""
        copied(sources(experiment(), run()), sink)
        log = the_log(sink)
        changed = list(records(log))
        for record in changed:
            if record.HasField("run"):
                record.run.display_name, record.run.notes = "better", "by hand"
                record.run.tags.append("seen")
        with log.open("wb") as file:
            write_log(file, (record.SerializeToString() for record in changed))
        (item,) = resolve(sink).source().read([Ref("run", RUN)])

        assert isinstance(item, Item)
        assert isinstance(item.header, Run)
        assert "better" == item.header.name
        assert {"mlflow.note.content": "by hand", "wandb.tags": '["seen"]'} == {
            tag.key: tag.value for tag in item.tags
        }


class TestArtifacts:
    FILES: ClassVar = {
        "model/MLmodel": b"flavors: {}",
        "model/data/weights": b"w" * 5000,
        "plots/a.png": b"png",
        "notes ä.txt": b"",
    }

    def item(self) -> tuple[Item, dict[tuple[Ref, str], bytes]]:
        files = tuple(Artifact(path, len(data)) for path, data in self.FILES.items())
        item = run(artifacts=files)
        return item, {(item.ref, path): data for path, data in self.FILES.items()}

    def test_bundles(self, sources: MemorySources, sink: str, tmp_path: Path) -> None:
        """A model is a W&B artifact of its own; digests are those of W&B's client."""
        import wandb

        item, files = self.item()
        copied(sources(experiment(), item, files=files), sink)
        found = {
            record.artifact.type: record.artifact
            for record in records(the_log(sink))
            if record.HasField("artifact")
        }

        assert {"model", "mlflow-artifacts", "mlmigrate-record"} == set(found)
        assert ["MLmodel", "data/weights"] == sorted(
            entry.path for entry in found["model"].manifest.contents
        )
        for said in found.values():
            made = wandb.Artifact(said.name, said.type)
            for entry in said.manifest.contents:
                assert tmp_path in Path(entry.local_path).parents
                made.add_file(entry.local_path, name=entry.path, policy="immutable")
            assert made.digest == said.digest
            assert {each.path: each.digest for each in said.manifest.contents} == {
                path: entry.digest for path, entry in made.manifest.entries.items()
            }

    def test_moved(self, sources: MemorySources, tmp_path: Path) -> None:
        """A folder that was carried elsewhere is read there, also where it was said
        that it would be.
        """
        item, files = self.item()
        origin = sources(experiment(), item, files=files)
        copied(origin, f"wandb-offline:{tmp_path / 'a'}", "synced-at=/data/wandb")
        shutil.move(tmp_path / "a", tmp_path / "b")
        moved = f"wandb-offline:{tmp_path / 'b'}"
        places = {
            entry.local_path
            for record in records(the_log(moved))
            for entry in record.artifact.manifest.contents
        }

        assert all(place.startswith("/data/wandb/offline-run-") for place in places)
        assert [] == differences(origin, moved)

    def test_a_record_for_any_tool(self, sources: MemorySources, sink: str) -> None:
        """The run's own record holds its points in Parquet."""
        import duckdb

        copied(sources(experiment(), run(metrics=(points("a", (3, 0.5)),))), sink)
        folder = the_log(sink).parent / "record"
        query = f"select key, step, value from '{folder}/metrics.parquet'"

        assert [("a", 3, 0.5)] == duckdb.sql(query).fetchall()


class TestNoPlaceOfTheirOwn:
    def test_told_by_a_run(self, sources: MemorySources, sink: str) -> None:
        """W&B has no place for models of no run, nor for experiments without runs: a
        run tells of them, and of what becomes of them.
        """
        origin = sources(
            experiment(),
            run(),
            experiment("2", "empty", tags=(Tag("a", "b"),)),
            model("m", version("m", 1, NOW)),
        )
        events = copied(origin, sink)
        assert [] == [each for each in events if isinstance(each, Loss)]
        assert [] == differences(origin, sink)
        told = config_of(the_log(sink))["mlflow"]
        assert ["empty"] == list(told["experiments"])
        assert ["m"] == list(told["registered_models"])
        again = copied(origin, sink)
        assert not any(isinstance(each, Copied | Updated) for each in again)

        tags = (Tag("a", "b"), Tag("c", "d"))
        sources.put(origin, experiment("2", "empty", tags=tags))
        copied(origin, sink)
        assert [] == differences(origin, sink)
        sources.put(origin, run(OTHER, experiment="2"))
        copied(origin, sink)
        assert [] == differences(origin, sink)
        config = config_of(the_log(sink, OTHER))
        assert {"a": "b", "c": "d"} == config["mlflow"]["experiment"]["tags"]

    def test_no_run(self, sources: MemorySources, sink: str) -> None:
        """Where there is no run at all they are lost, which a plan foretells."""
        origin = sources(experiment(), model("m", version("m", 1, NOW)))
        foretold = plan([origin], sink)
        assert not Path(sink.removeprefix("wandb-offline:")).exists()
        lost = {each.ref for each in copied(origin, sink) if isinstance(each, Loss)}

        assert {Ref("experiment", "1"), Ref("registered_model", "m")} == lost
        assert lost == {each.ref for each in foretold.losses}
        assert [] == differences(origin, sink)


class TestModels:
    def test_told_by_a_run(
        self, sources: MemorySources, sink: str, tmp_path: Path
    ) -> None:
        """A model is in the config of a run of its versions, and goes on from there."""
        versions = [
            version(
                "m",
                1,
                NOW,
                run=Ref("run", RUN),
                source=f"runs:/{RUN}/model",
                source_run=Ref("run", RUN),
                source_path="model",
            ),
            version("m", 2, NOW + 1, stage="Production", tags=(Tag("a", "b"),)),
        ]
        origin = sources(
            experiment(), run(), model("m", *versions, aliases=[Alias("live", 2)])
        )
        copied(origin, sink)
        told = config_of(the_log(sink))["mlflow"]["registered_models"]
        assert [1, 2] == [each["version"] for each in told["m"]["versions"]]
        assert [] == differences(origin, sink)
        assert not any(isinstance(each, Updated) for each in copied(origin, sink))

        versions.append(version("m", 3, NOW + 2, run=Ref("run", OTHER)))
        grown = model("m", *versions, aliases=[Alias("live", 2), Alias("next", 3)])
        values = (points("a", (0, 1.0)),)
        sources.put(origin, grown, run(OTHER), run(metrics=values))
        copied(origin, sink)
        assert [] == differences(origin, sink)
        told = config_of(the_log(sink))["mlflow"]["registered_models"]
        assert {"live": 2, "next": 3} == told["m"]["aliases"]

        back = f"sqlite:///{tmp_path / 'back.db'}"
        copied(sink, back)
        assert [] == differences(origin, back)


class TestSync:
    def test_the_vendor_s_reader(self, sources: MemorySources, sink: str) -> None:
        """W&B's own tool reads what we write."""
        long = tuple(Param(f"p{at}", "x" * 1000) for at in range(200))  # many blocks
        values = points("loss", *((step, step / 7) for step in range(1000)))
        copied(sources(experiment(), run(params=long, metrics=(values,))), sink)
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "wandb"),
                "leet",
                "inspect",
                "--json",
                str(the_log(sink)),
            ],
            capture_output=True,
            text=True,
            check=True,
            env=clean_environment({"WANDB_ERROR_REPORTING": "false"}),
        )
        said = [json.loads(line) for line in done.stdout.splitlines()]

        assert 1000 == sum(each["type"] == "history" for each in said)
        assert list(range(1, len(said) + 1)) == [each["num"] for each in said]

    def test_synced(
        self, sources: MemorySources, sink: str, tmp_path: Path, wandb_loopback: Any
    ) -> None:
        """What ``wandb sync`` sends arrives: rows, files, and the place of a run."""
        item, files = TestArtifacts().item()
        losses = points("loss", (-1, 1.0), (5, 0.5), (2**53 + 1, float("nan")))
        child = run(OTHER, parent=item.ref, status="FAILED", metrics=(losses,))
        accuracy = points("val/acc", (0, 0.5), (7, 1.0))
        parent = replace(item, metrics=(accuracy,), params=(Param("a/b.c", "1"),))
        origin = sources(experiment(), parent, child, files=files)
        copied(origin, sink, "entity=team")
        logs = [the_log(sink), the_log(sink, OTHER)]
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "wandb"),
                "sync",
                *(str(log.parent) for log in logs),
            ],
            capture_output=True,
            text=True,
            env={
                **clean_environment({}),
                **client_environment(wandb_loopback, tmp_path),
            },
        )
        assert 0 == done.returncode, done.stderr
        runs = [wandb_loopback.runs["team", "churn", id] for id in (RUN, OTHER)]

        for log, held in zip(logs, runs, strict=True):
            assert _told(history_of(log)) == _told(held.history)
            assert config_of(log) == {**held.config, **config_of(log)}
        assert [("finished", "parent"), ("failed", "child")] == [
            (held.state, held.job_type) for held in runs
        ]
        assert [RUN, RUN] == [held.group for held in runs]
        assert {"val/acc": 1.0}.items() <= runs[0].summary.items()
        name = f"{RUN}-model"
        (model,) = wandb_loopback.versions("team", "churn", name)
        assert {
            "MLmodel": TestArtifacts.FILES["model/MLmodel"],
            "data/weights": TestArtifacts.FILES["model/data/weights"],
        } == wandb_loopback.contents(model)
        assert model.id in runs[0].logged
        assert [] == differences(origin, sink)  # and nothing here has changed

    def test_synced_already(self, sources: MemorySources, sink: str) -> None:
        """A run that was sent is not written again, and that is said."""
        origin = sources(experiment(), run())
        copied(origin, sink)
        log = the_log(sink)
        log.with_name(log.name + ".synced").touch()
        before = log.read_bytes()
        sources.put(origin, run(metrics=(points("a", (0, 1.0)),)))
        (failed,) = [each for each in copied(origin, sink) if isinstance(each, Failed)]

        assert "was synced already" in failed.why
        assert before == log.read_bytes()

    def test_an_experiment_of_synced_runs(
        self, sources: MemorySources, sink: str
    ) -> None:
        """What is new of an experiment is told by a run that can still tell."""
        origin = sources(
            experiment(), run(), experiment("2", "other"), run(OTHER, experiment="2")
        )
        copied(origin, sink)
        log = the_log(sink)
        log.with_name(log.name + ".synced").touch()
        sources.put(origin, experiment(tags=(Tag("new", "1"),)))
        copied(origin, sink)
        assert [] == differences(origin, sink)
        assert not any(isinstance(each, Updated) for each in copied(origin, sink))

    def test_a_run_of_someone_else(self, sources: MemorySources, sink: str) -> None:
        """A run of W&B's client in the folder is left alone."""
        from support import wandb_logs

        folder = Path(sink.removeprefix("wandb-offline:"))
        log = wandb_logs.write_run(folder, [wandb_logs.run(), wandb_logs.exit()])
        before = log.read_bytes()
        origin = sources(experiment(), run())
        copied(origin, sink)

        assert before == log.read_bytes()
        assert [] == differences(origin, sink)


def _told(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows in a form in which NaN equals NaN, and 3 is 3.0."""
    return [repr(sorted((key, float(row[key])) for key in row)) for row in rows]


class TestFraming:
    @settings(max_examples=30, deadline=None)
    @given(sizes=st.lists(st.integers(0, 3) | st.integers(BLOCK - 20, BLOCK + 20)))
    def test_any_sizes(self, tmp_path_factory: Any, sizes: list[int]) -> None:
        """Records of any size are read back, also at the edges of blocks."""
        log = tmp_path_factory.mktemp("log") / "x.wandb"
        wanted = [bytes([at % 251]) * size for at, size in enumerate(sizes)]
        with log.open("wb") as file:
            write_log(file, wanted)
        wrong: list[str] = []

        assert wanted == list(read_log(log, wrong))
        assert [] == wrong


class TestKilled:
    def test_again(self, tmp_path: Path) -> None:
        """Killed at any moment, and run again: every run is whole, once."""
        arguments = [
            sys.executable,
            "-m",
            "mlmigrate",
            "copy",
            str(FIXTURES / "laptop-3.1" / "mlruns"),
            str(FIXTURES / "cluster-2.9" / "mlruns"),
            f"wandb-offline:{tmp_path / 'wandb'}",
            "--json",
        ]
        environment = clean_environment({"TMPDIR": str(tmp_path)})
        for delay in (0.9, 1.2, 1.5):
            process = subprocess.Popen(
                arguments,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            time.sleep(delay)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(
            arguments, stdout=subprocess.DEVNULL, env=environment, check=False
        )
        verified = subprocess.run(
            [*arguments[:3], "verify", *arguments[4:]],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        said = json.loads(verified.stdout)

        assert ([], [], {}) == (said["different"], said["missing"], said["extra"])
        assert said["same"]["run"] > 10
        assert [] == list((tmp_path / "wandb").rglob(".mlmigrate-*"))

    def test_what_it_left(self, tmp_path: Path) -> None:
        """It goes also if nothing is left to do in its folder; what grows stays."""
        from mlmigrate.api import copy

        source, root = str(FIXTURES / "cluster-2.9" / "mlruns"), tmp_path / "wandb"
        copy([source], f"wandb-offline:{root}")
        left, growing, *_ = sorted(root.glob("offline-run-*"))
        (left / ".mlmigrate-left").write_bytes(b"half of a log")
        with open(growing / ".mlmigrate-grows", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            again = copy([source], f"wandb-offline:{root}")

            assert {} == again.copied
            assert [growing / ".mlmigrate-grows"] == [*root.rglob(".mlmigrate-*")]


class TestRoundTrip:
    def test_fixtures_and_back(self, tmp_path: Path) -> None:
        """MLflow to W&B to MLflow: everything is as it was."""
        from mlmigrate.api import copy, verify

        stores = [str(path) for path in sorted(FIXTURES.glob("*/mlruns"))]
        folder = f"wandb-offline:{tmp_path / 'wandb'}"
        lost = [loss.ref.kind for loss in copy(stores, folder).losses]
        assert ["logged_model", "experiment"] == lost  # a model, and two traces
        back = f"sqlite:///{tmp_path / 'back.db'}"
        copy([folder], back)
        found = verify(stores, back)

        assert ["logged_model", "trace", "trace"] == [ref.kind for ref in found.missing]
        (link,) = found.different
        assert link.field.startswith("output logged_model/")
        assert 60 < found.same["run"]
        assert {"experiment", "run", "registered_model"} == set(found.same)
