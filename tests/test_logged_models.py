"""Logged models that MLflow itself wrote, copied and read back through its client."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    LoggedModelInput,
    LoggedModelOutput,
)
from support.copies import copied, differences
from support.corpus import CorpusStore

from mlmigrate import copy, verify
from mlmigrate.contract import Selection
from mlmigrate.filters import Filters
from mlmigrate.inspection import inspect
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Loss, Problem, Ref
from mlmigrate.pipeline import Options
from mlmigrate.report import Report
from mlmigrate.stores import memory
from mlmigrate.testing.items import OTHER, experiment, link, logged_model, run
from mlmigrate.testing.suite import MemorySources

pytestmark = pytest.mark.usefixtures("unused_store")


@dataclass
class Written:
    """A store that MLflow wrote, and the ids in it."""

    uri: str
    location: str
    run: str
    judge: str
    ready: str
    failed: str
    deleted: str


@pytest.fixture(params=["files", "sqlite"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Written:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if request.param == "files":
        uri = str(tmp_path / "mlruns")
        location = uri
    else:
        uri = location = request.getfixturevalue("sqlite_uri")
    # The registry asks the store that is set, not the one of the client.
    mlflow.set_tracking_uri(uri)
    place = (tmp_path / "artifacts of the source").as_uri()
    return written(uri, location, tmp_path, place)


def written(uri: str, location: str, tmp_path: Path, place: str | None) -> Written:
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("vision", artifact_location=place)
    run = client.create_run(experiment, run_name="train").info.run_id
    judge = client.create_run(experiment, run_name="judge").info.run_id
    ready = client.create_logged_model(
        experiment,
        name="net",
        source_run_id=run,
        tags={"team": "größer 🚀"},
        params={"layers": "3"},
        model_type="classifier",
    ).model_id
    client.log_model_params(ready, {"lr": "0.1"})
    client.set_logged_model_tags(ready, {"stage": "done"})
    for step in range(5):
        client.log_metric(
            run, "loss", 1 / (step + 1), 1_000 + step, step, model_id=ready
        )
    dataset = Dataset("cats", "d1", "local", "{}")
    client.log_inputs(judge, [DatasetInput(dataset)], [LoggedModelInput(ready)])
    client.log_metric(
        judge, "acc", 0.75, 9_000, 2,
        dataset_name="cats", dataset_digest="d1", model_id=ready,
    )  # fmt: skip
    client.log_outputs(run, [LoggedModelOutput(ready, 4)])
    file = tmp_path / "MLmodel"
    file.write_text("flavors: {}\n")
    client.log_model_artifact(ready, str(file))
    client.finalize_logged_model(ready, "READY")
    failed = client.create_logged_model(experiment, name="bad").model_id
    client.finalize_logged_model(failed, "FAILED")
    deleted = client.create_logged_model(experiment, name="gone").model_id
    client.delete_logged_model(deleted)
    client.create_registered_model("net")
    client.create_model_version("net", f"models:/{ready}", run, model_id=ready)
    client.set_registered_model_alias("net", "live", "1")
    client.set_terminated(run)
    client.set_terminated(judge)
    return Written(uri, location, run, judge, ready, failed, deleted)


@pytest.fixture
def at_server(server: str, tmp_path: Path) -> Written:
    """A server, filled through its API."""
    mlflow.set_tracking_uri(server)
    return written(server, server, tmp_path, None)


FIELDS = (
    "model_id",
    "name",
    "creation_timestamp",
    "last_updated_timestamp",
    "model_type",
    "source_run_id",
    "status",
    "status_message",
    "params",
)


class TestCopiedToSqlite:
    @pytest.fixture
    def sink(self, store: Written, tmp_path: Path) -> str:
        (tmp_path / "sink").mkdir()
        sink = f"sqlite:///{tmp_path / 'sink' / 'sink.db'}"
        result = copied(store.location, sink)
        told = [*result.of(Failed), *result.findings()]
        assert [each for each in told if not _may_be_told(each)] == []
        assert result.counts("logged_model") == {"copied": 3}
        assert differences(store.location, sink) == []
        again = copied(store.location, sink)
        assert set(again.counts(None)) == {"skipped"}
        return sink

    def test_models_field_by_field(self, store: Written, sink: str) -> None:
        ours, theirs = MlflowClient(sink), MlflowClient(store.uri)
        for id in (store.ready, store.failed):
            own, there = ours.get_logged_model(id), theirs.get_logged_model(id)
            for field in FIELDS:
                assert getattr(own, field) == getattr(there, field), field
            plain = {k: v for k, v in own.tags.items() if "mlmigrate" not in k}
            assert plain == there.tags
        with pytest.raises(mlflow.MlflowException):
            ours.get_logged_model(store.deleted)

    def test_metrics(self, store: Written, sink: str) -> None:
        model = MlflowClient(sink).get_logged_model(store.ready)
        points = {
            (m.key, m.step, m.timestamp, m.value, m.run_id, m.dataset_name)
            for m in model.metrics
        }
        assert points == {
            ("acc", 2, 9_000, 0.75, store.judge, "cats"),
            *(
                ("loss", step, 1_000 + step, 1 / (step + 1), store.run, None)
                for step in range(5)
            ),
        }

    def test_searched(self, store: Written, sink: str) -> None:
        client = MlflowClient(sink)
        experiment = client.get_experiment_by_name("vision")
        found = client.search_logged_models(
            [experiment.experiment_id],
            filter_string="metrics.acc > 0.5",
            datasets=[{"dataset_name": "cats", "dataset_digest": "d1"}],
        )
        assert [model.model_id for model in found] == [store.ready]
        every = client.search_logged_models([experiment.experiment_id])
        assert {model.model_id for model in every} == {store.ready, store.failed}

    def test_links(self, store: Written, sink: str) -> None:
        client = MlflowClient(sink)
        outputs = client.get_run(store.run).outputs.model_outputs
        inputs = client.get_run(store.judge).inputs
        assert [(each.model_id, each.step) for each in outputs] == [(store.ready, 4)]
        assert [each.model_id for each in inputs.model_inputs] == [store.ready]
        assert [each.dataset.name for each in inputs.dataset_inputs] == ["cats"]

    def test_registered(self, store: Written, sink: str, tmp_path: Path) -> None:
        mlflow.set_tracking_uri(sink)
        client = MlflowClient(sink, sink)
        version = client.get_model_version_by_alias("net", "live")
        assert (version.source, version.run_id) == (f"models:/{store.ready}", store.run)
        uri = client.get_model_version_download_uri("net", "1")
        root = (tmp_path / "sink" / "mlartifacts").as_posix()
        assert uri.startswith(root)
        assert Path(uri, "MLmodel").read_text() == "flavors: {}\n"
        assert f"/models/{store.ready}/artifacts" in uri


def _may_be_told(each: Any) -> bool:
    return not isinstance(each, Problem | Loss | Failed)


def test_from_a_server(at_server: Written, tmp_path: Path) -> None:
    """All but the deleted one, which a server shows to nobody."""
    sink = f"sqlite:///{tmp_path / 'sink.db'}"
    result = copied(at_server.uri, sink)
    told = [*result.of(Failed), *result.findings()]
    ours, theirs = MlflowClient(sink), MlflowClient(at_server.uri)

    assert [each for each in told if not _may_be_told(each)] == []
    assert result.counts("logged_model") == {"copied": 2}
    assert differences(at_server.uri, sink) == []
    for id in (at_server.ready, at_server.failed):
        own, there = ours.get_logged_model(id), theirs.get_logged_model(id)
        assert [getattr(own, field) or None for field in FIELDS] == [
            getattr(there, field) or None for field in FIELDS
        ]
    (output,) = ours.get_run(at_server.run).outputs.model_outputs
    (used,) = ours.get_run(at_server.judge).inputs.model_inputs
    assert (output.model_id, output.step, used.model_id) == (
        *(at_server.ready, 4),
        at_server.ready,
    )
    assert set(copied(at_server.uri, sink).counts(None)) == {"skipped"}


def test_into_a_server(store: Written, server: str) -> None:
    """All but the deleted one, under new ids that everything refers to."""
    result = copied(store.location, server)
    client = MlflowClient(server, server)
    run = client.search_runs(
        [client.get_experiment_by_name("vision").experiment_id],
        "attributes.run_name = 'train'",
    )[0]
    (output,) = client.get_run(run.info.run_id).outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    version = client.get_model_version_by_alias("net", "live")

    assert result.of(Failed) == []
    assert result.counts("logged_model") == {"copied": 2}
    assert model.tags["mlmigrate.origin"] == store.ready
    assert (output.step, model.source_run_id) == (4, run.info.run_id)
    assert model.params == {"layers": "3", "lr": "0.1"}
    assert len(model.metrics) == 6
    assert version.source == f"models:/{model.model_id}"
    assert differences(store.location, server) == []
    assert set(copied(store.location, server).counts(None)) == {"skipped"}


def test_counted(store: Written) -> None:
    assert inspect(resolve(store.location))["logged_models"] == 3


def test_into_an_archive_and_on(store: Written, tmp_path: Path) -> None:
    archive = f"archive:{tmp_path / 'archive'}"
    (tmp_path / "sink").mkdir()
    sink = f"sqlite:///{tmp_path / 'sink' / 'sink.db'}"
    copied(store.location, archive)
    copied(archive, sink)

    assert differences(store.location, archive) == []
    assert differences(archive, sink) == []
    assert differences(store.location, sink) == []


def test_what_has_no_place_is_foretold(store: Written, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from mlmigrate import plan

    report: Report = plan([store.location], f"wandb-offline:{tmp_path / 'wandb'}")
    lost = {str(loss.ref) for loss in report.losses}

    assert lost >= {
        f"logged_model/{id}" for id in (store.ready, store.failed, store.deleted)
    }
    assert report.exit_code == 3


FOLLOWING = [
    (Filters(), {"ready", "failed", "deleted"}),
    (Filters(runs=("name=train",)), {"ready"}),  # made it
    (Filters(runs=("name=judge",)), {"ready"}),  # measured and used it
    (Filters(runs=("name=nobody",)), set()),
    (Filters(experiments=("vision",)), {"ready", "failed", "deleted"}),
    (Filters(experiments=("Default",)), set()),
    (Filters(deleted="skip"), {"ready", "failed"}),
]


@pytest.mark.parametrize(("filters", "wanted"), FOLLOWING)
def test_logged_models_follow_their_runs(
    sources: MemorySources, filters: Filters, wanted: set[str]
) -> None:
    """What is left out is neither copied, nor lost, nor missed."""
    home, other = experiment(name="vision"), experiment("2", "Default")
    made = run(name="train", links=(link("m-ready"),))
    judge = run(OTHER, name="judge", links=(link("m-ready", role="input"),))
    models = [
        logged_model("m-ready"),
        logged_model("m-failed", source_run=None),
        logged_model("m-deleted", source_run=None, lifecycle="deleted"),
    ]
    origin = sources(home, other, made, judge, *models)
    chosen = Options(filters=filters)
    sink = sources()
    report = copy([origin], sink, chosen)
    held = {ref.id for ref in memory.contents(sink).items if _of_models(ref)}

    assert held == {f"m-{name}" for name in wanted}
    assert report.copied["logged_model"] == len(wanted)
    assert verify([origin], sink, chosen).exit_code == 0


def _of_models(ref: Ref) -> bool:
    return ref.kind == "logged_model"


# -- damage ---------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A file store whose logged models were hurt in different ways."""
    root = tmp_path / "mlruns"
    (root / "0").mkdir(parents=True)
    (root / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: Default\n")
    for name in ("m-whole", "m-bare", "m-empty", "m-files"):
        (root / "0" / "models" / name).mkdir(parents=True)
    whole = root / "0" / "models" / "m-whole"
    run = "a" * 32
    meta = {"experiment_id": "0", "model_id": "m-whole", "name": "net", "status": 2}
    (whole / "meta.yaml").write_text(json.dumps(meta))
    (whole / "metrics").mkdir()
    (whole / "metrics" / "acc").write_bytes(
        f"1 0.5 0 {run}\r\n1 0.5 0 {run}\r\n2 nan 1 {run} my cats d1\r\n"
        f"\r\nx y z {run}\r\n3 0.5 2\r\n4 1e400 3 {run}".encode()
    )
    bare = root / "0" / "models" / "m-bare"
    (bare / "params").mkdir()
    (bare / "params" / "lr").write_text("0.1")
    files = root / "0" / "models" / "m-files" / "artifacts"
    files.mkdir()
    (files / "MLmodel").write_text("flavors: {}\n")
    (root / "0" / "models" / "notes.txt").write_text("a stray file")
    home = root / "0" / run
    (home / "outputs" / "m-whole").mkdir(parents=True)
    (home / "outputs" / "m-whole" / "meta.yaml").write_text("step: 7\n")
    (home / "meta.yaml").write_text(f"run_id: {run}\nexperiment_id: '0'\n")
    return root


def test_damage_costs_only_what_is_damaged(damaged: Path) -> None:
    source = resolve(str(damaged)).source()
    refs = list(source.refs(Selection("logged_model")))
    items = {item.ref.id: item for item in source.read(refs) if isinstance(item, Item)}
    whole, bare = items["m-whole"], items["m-bare"]
    told = " | ".join(
        each.what
        for each in (*whole.findings, *bare.findings, *source.findings())
        if isinstance(each, Problem)
    )
    metrics = {
        (each.dataset, each.dataset_digest): (
            each.history.steps.tolist(),
            [str(value) for value in each.history.values.tolist()],
        )
        for each in whole.model_metrics
    }
    (run,) = source.refs(Selection("run"))
    (read,) = source.read([run])

    assert set(items) == {"m-whole", "m-bare"}
    assert metrics == {
        (None, None): ([0, 3], ["0.5", "inf"]),
        ("my cats", "d1"): ([1], ["nan"]),
    }
    assert [param.value for param in bare.params] == ["0.1"]
    for said in ("line 4 is blank", "line 5", "line 6", "recovered", "1 files"):
        assert said in told
    assert "is no file of MLflow's" in told
    assert isinstance(read, Item)
    assert [(link.model.id, link.step) for link in read.links] == [("m-whole", 7)]
    assert inspect(resolve(str(damaged)))["logged_models"] == 2


def test_odd_rows_of_a_database(store: Written, tmp_path: Path) -> None:
    if not store.uri.startswith("sqlite:"):
        pytest.skip("a database's rows")
    path = store.uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("update logged_models set status = 9 where name = 'bad'")
        base.execute(
            "insert into logged_model_metrics select model_id, 'odd', 1, 2, 'x',"
            " experiment_id, source_run_id, null, null, null from logged_models"
            " where name = 'net'"
        )
        base.execute("insert into logged_model_params values ('m-none', 1, 'a', 'b')")
        base.execute(
            "insert into inputs values ('u', 'RUN_OUTPUT', 'none', 'MODEL_OUTPUT',"
            " 'm-none', 0)"
        )
    (tmp_path / "sink").mkdir()
    result = copied(store.location, f"sqlite:///{tmp_path / 'sink' / 'sink.db'}")
    told = " | ".join(
        each.what for each in result.findings() if isinstance(each, Problem)
    )

    assert result.counts("logged_model") == {"copied": 3}
    for said in ("status 9 is none", "metric odd: 1 rows", "belong to no logged model"):
        assert said in told
    assert "links to logged models belong to no run" in told


# -- stores of others -----------------------------------------------------------------


def test_real_stores(corpus_store: CorpusStore, tmp_path: Path) -> None:
    """Those that hold logged models are copied whole, where MLflow's own tool stops."""
    if corpus_store.kind not in ("filestore", "sqlite"):
        pytest.skip("no store of MLflow's")
    source = str(corpus_store.path)
    count = inspect(resolve(source), workers=1)["logged_models"]
    if not count:
        pytest.skip("holds no logged models")
    (tmp_path / "sink").mkdir()
    sink = f"sqlite:///{tmp_path / 'sink' / 'sink.db'}"
    result = copied(source, sink)

    assert result.of(Failed) == []
    assert result.counts("logged_model") == {"copied": count}
    assert differences(source, sink) == []
    assert set(copied(source, sink).counts(None)) == {"skipped"}
