"""Logged models into an MLflow server, which gives them ids and times of its own."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from support import faults, servers
from support.copies import copied, differences
from support.killing import as_new, killed_at_every_call
from support.reading import held_at

import mlmigrate
from mlmigrate import marks
from mlmigrate.digest import digest
from mlmigrate.model import (
    Artifact,
    Failed,
    Item,
    LoggedModel,
    Param,
    Problem,
    Ref,
    Tag,
)
from mlmigrate.testing.items import (
    MODEL,
    NOW,
    OTHER,
    RUN,
    experiment,
    link,
    logged_model,
    model_points,
    run,
    with_logged_models,
)
from mlmigrate.testing.suite import MemorySources, Result


def models_at(url: str) -> dict[str, Any]:
    """Return the logged models by their origins, as MLflow's client sees them."""
    client = MlflowClient(url)
    homes = [each.experiment_id for each in client.search_experiments()]
    found = client.search_logged_models(homes)
    return {model.tags[marks.ORIGIN]: model for model in found}


def runs_at(url: str) -> dict[str, Any]:
    """Return the active runs by their origins."""
    client = MlflowClient(url)
    homes = [each.experiment_id for each in client.search_experiments()]
    return {
        found.data.tags[marks.ORIGIN]: client.get_run(found.info.run_id)
        for found in client.search_runs(homes)
    }


def losses(result: Result) -> list[str]:
    """Return what is gone."""
    found = result.losses()
    return [str(each.ref) for each in found if not each.carried]


def linked(held: Any) -> Sequence[tuple[str, int]]:
    return sorted((each.model_id, each.step) for each in held.outputs.model_outputs)


def at_a_server() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    """Return items of each kind; a server does not take the status of a version."""
    items, files = with_logged_models()
    registered = items.pop()
    versions = (replace(each, status="READY") for each in registered.versions)
    return [*items, replace(registered, versions=tuple(versions))], files


@pytest.fixture
def everything_at(sources: MemorySources) -> str:
    items, files = at_a_server()
    return sources(*items, files=files)


def test_everything_but_what_is_deleted(everything_at: str, server: str) -> None:
    result = copied(everything_at, server)
    models, runs = models_at(server), runs_at(server)
    model = models[MODEL]
    own = {key: value for key, value in model.tags.items() if "ml" not in key[:2]}
    points = {(m.key, m.step, m.value, m.run_id, m.dataset_name) for m in model.metrics}
    made = runs[RUN].info.run_id

    assert result.of(Failed) == []
    assert losses(result) == [f"logged_model/m-{OTHER}"]
    assert list(models) == [MODEL]
    assert (model.name, str(model.status)) == ("net", "READY")
    assert (model.model_type, model.source_run_id) == ("classifier", made)
    assert model.params == {"layers": "3", "empty": ""}
    assert own == {"stage": "größer 🚀"}
    assert {("acc", 0, 0.5, made, None), ("acc", 7, 0.75, made, None)} < points
    assert len(points) == 203
    assert linked(runs[RUN]) == [(model.model_id, 7)]
    assert json.loads(runs[RUN].data.tags["mlmigrate.links"]) == [
        ["output", f"m-{OTHER}", 0]
    ]
    assert differences(everything_at, server) == []
    again = copied(everything_at, server)
    assert set(again.counts(None)) == {"skipped"}
    assert losses(again) == [f"logged_model/m-{OTHER}"]


def test_a_version_leads_to_the_copy(everything_at: str, server: str) -> None:
    copied(everything_at, server)
    client = MlflowClient(server, server)
    sources = {v.source for v in client.search_model_versions("name = 'classifier'")}

    assert f"models:/{models_at(server)[MODEL].model_id}" in sources


def test_artifacts(everything_at: str, server: str, tmp_path: Any) -> None:
    copied(everything_at, server)
    found = models_at(server)[MODEL]
    mlflow.set_tracking_uri(server)
    try:
        uri = f"models:/{found.model_id}"
        folder = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    finally:
        mlflow.set_tracking_uri(None)

    assert (tmp_path / "MLmodel").read_bytes() == b"flavors: {}\n", folder


def test_back_again(
    everything_at: str, server: str, sources: MemorySources, sqlite_uri: str
) -> None:
    """Copied on, they have their old ids again, and their links."""
    copied(everything_at, server)
    copied(server, sqlite_uri)
    run = MlflowClient(sqlite_uri).get_run(RUN)

    assert models_at(sqlite_uri).keys() == {MODEL}
    assert linked(run) == [(MODEL, 7)]
    assert run.info.run_id == models_at(sqlite_uri)[MODEL].source_run_id
    assert differences(server, sqlite_uri) == []


def test_it_grows(sources: MemorySources, server: str) -> None:
    young = logged_model(
        status="PENDING",
        params=(Param("a", "1"),),
        model_metrics=(model_points("acc", (0, 0.5)),),
        artifacts=(Artifact("a", 1),),
    )
    files = {(young.ref, "a"): b"1"}
    origin = sources(experiment(), run(), young, files=files)
    copied(origin, server)
    grown = logged_model(
        last_updated_time=NOW + 90_000,
        params=(Param("a", "1"), Param("b", "2")),
        tags=(Tag("good", "yes"),),
        model_metrics=(
            model_points("acc", (0, 0.5), (1, 0.75)),
            model_points("acc", (0, 0.9), run=OTHER, dataset=("cats", "d1")),
        ),
        artifacts=(Artifact("a", 1), Artifact("b", 2)),
    )
    judge = run(OTHER, links=(link(role="input"),), lifecycle="deleted")
    made = run(links=(link(step=3),), end_time=NOW + 70_000)
    sources.put(origin, grown, judge, made, files={(grown.ref, "b"): b"22"})
    result = copied(origin, server)
    model = models_at(server)[MODEL]

    assert result.counts("logged_model") == {"updated": 1}
    assert str(model.status) == "READY"
    assert model.params == {"a": "1", "b": "2"}
    assert model.tags["good"] == "yes"
    assert {(m.key, m.step, m.value, m.dataset_name) for m in model.metrics} == {
        ("acc", 0, 0.5, None),
        ("acc", 1, 0.75, None),
        ("acc", 0, 0.9, "cats"),
    }
    assert linked(runs_at(server)[RUN]) == [(model.model_id, 3)]
    assert differences(origin, server) == []
    assert set(copied(origin, server).counts(None)) == {"skipped"}


def test_a_model_that_comes_later_is_linked(
    sources: MemorySources, server: str
) -> None:
    """Also to a run that is deleted, and that has nothing else that is new."""
    links = (link(step=2), link(f"m-{OTHER}", role="input"))
    early = sources(experiment(), run(links=links, lifecycle="deleted"))
    copied(early, server)
    late = sources(experiment(), logged_model(source_run=None))
    copied(late, server)
    (held,) = held_at(server).values()
    (model,) = models_at(server).values()

    assert [(each.model.id, each.step) for each in held.links] == [(model.model_id, 2)]
    assert getattr(held.header, "lifecycle", "") == "deleted"
    last = sources(experiment(), logged_model(f"m-{OTHER}", source_run=None))
    copied(last, server)
    (held,) = held_at(server).values()
    assert {each.role for each in held.links} == {"output", "input"}


def test_odd_values(sources: MemorySources, server: str) -> None:
    """NaN would become a 0 of the run's own: it is left out, and carried."""
    odd = model_points("odd", (0, float("nan")), (1, float("inf")), (2, 0.5))
    item = logged_model(
        model_metrics=(odd,), status="UNSPECIFIED", status_message="why"
    )
    origin = sources(experiment(), run(), item)
    result = copied(origin, server)
    (held,) = held_at(server).values()

    assert losses(result) == []
    assert [m.step for m in models_at(server)[MODEL].metrics] == [1, 2]
    assert [len(metric.steps) for metric in held.metrics] == [2]
    assert differences(origin, server) == []


@pytest.fixture
def with_nan(sqlite_uri: str, tmp_path: Path) -> str:
    """A database in which MLflow wrote NaN for a model and its run."""
    client = MlflowClient(sqlite_uri, sqlite_uri)
    home = client.create_experiment("nan", artifact_location=tmp_path.as_uri())
    run = client.create_run(home).info.run_id
    model = client.create_logged_model(home, name="net", source_run_id=run).model_id
    for step, value in enumerate((0.5, math.nan, 0.0)):
        client.log_metric(run, "odd", value, NOW + step, step, model_id=model)
    client.log_metric(run, "zero", 0.0, NOW, 0, model_id=model)
    client.log_metric(run, "nan", math.nan, NOW, 0, model_id=model)
    client.log_metric(
        run, "nan", math.nan, NOW, 5,
        dataset_name="cats", dataset_digest="d1", model_id=model,
    )  # fmt: skip
    client.finalize_logged_model(model, "READY")
    client.set_terminated(run)
    return sqlite_uri


def histories(url: str, run: Any) -> dict[str, list[tuple[int, str]]]:
    """Return the points of a run's metrics: steps, and values as text."""
    client = MlflowClient(url)
    return {
        key: [
            (point.step, str(point.value))
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        for key in run.data.metrics
    }


def test_nan_of_a_database_is_left_out(with_nan: str, server: str) -> None:
    """MLflow's tables hold 0 for it beside a model, which the run never measured."""
    planned = mlmigrate.plan([with_nan], server).data()["losses"]
    result = copied(with_nan, server)
    (own,) = runs_at(server).values()
    (model,) = models_at(server).values()

    assert histories(server, own) == {
        "odd": [(0, "0.5"), (1, "nan"), (2, "0.0")],
        "zero": [(0, "0.0")],
        "nan": [(0, "nan"), (5, "nan")],
    }
    assert math.isnan(own.data.metrics["nan"])
    assert sorted((m.key, m.step, m.value) for m in model.metrics) == [
        ("odd", 0, 0.5),
        ("odd", 2, 0.0),
        ("zero", 0, 0.0),
    ]
    told = [loss for loss in result.losses() if "NaN left out" in loss.what]
    assert len(told) == 3
    assert all(loss.carried for loss in told)
    assert {loss.what for loss in told} <= {loss["what"] for loss in planned}
    verified = mlmigrate.verify([with_nan], server)
    assert verified.exit_code == 0
    assert "metric point" not in verified.extra
    assert set(copied(with_nan, server).counts(None)) == {"skipped"}


def test_nan_of_a_server_is_one(with_nan: str, server: str, tmp_path: Path) -> None:
    """A server shows the 0 of its tables, and its runs the NaN."""
    backend = {"backend_uri": with_nan}
    with servers.mlflow_server(tmp_path / "source", **backend) as origin:
        (at_server,) = held_at(origin, "logged_model").values()
        (in_tables,) = held_at(with_nan, "logged_model").values()
        copied(origin, server)
        (own,) = runs_at(server).values()

        assert histories(server, own)["nan"] == [(0, "nan"), (5, "nan")]
        assert differences(origin, server) == []
        assert differences(with_nan, server) == []
    ones, others = (
        {
            (each.history.key, each.dataset): str(each.history.values.tolist())
            for each in held.model_metrics
        }
        for held in (at_server, in_tables)
    )
    assert ones == others
    assert ones["nan", None] == "[nan]"


def test_nan_of_a_database_is_a_zero_in_another(with_nan: str, tmp_path: Path) -> None:
    """It is so in MLflow's tables, and each copy is read as what it was."""
    first, second = (f"sqlite:///{tmp_path / name}.db" for name in ("a", "b"))
    result = copied(with_nan, first)
    copied(first, second)

    for sink in (first, second):
        with closing(sqlite3.connect(sink.removeprefix("sqlite:///"))) as base:
            query = (
                "select metric_name, metric_step, metric_value"
                " from logged_model_metrics order by 1, 2"
            )
            assert base.execute(query).fetchall() == [
                *(("nan", 0, 0.0), ("nan", 5, 0.0)),
                *(("odd", 0, 0.5), ("odd", 1, 0.0), ("odd", 2, 0.0)),
                ("zero", 0, 0.0),
            ]
        assert differences(with_nan, sink) == []
        assert set(copied(with_nan, sink).counts(None)) == {"skipped"}
    assert all(loss.carried for loss in result.losses())


LOST = [faults.drop(), faults.lie(502), faults.truncate()]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.kind.name)
def test_a_lost_answer_makes_nothing_twice(
    everything_at: str, server: str, fault: faults.Fault
) -> None:
    with faults.fault_proxy(server) as proxy:
        proxy.plan = faults.any_of(
            faults.on("POST", "/logged-models", fault),
            faults.on("POST", "/params", fault),
            faults.on("POST", "/outputs", fault),
            faults.on("PATCH", "/tags", fault),
        )
        result = copied(everything_at, proxy.url)
        assert sum(proxy.faults.values()) == 4
    assert result.of(Failed) == []
    assert len(held_at(server, "logged_model")) == 1
    assert differences(everything_at, server) == []


def test_one_that_was_not_finished_becomes_ready(
    everything_at: str, server: str
) -> None:
    """Its own times at the server are later than all that the source knows."""

    def plan(method: str, path: str, n: int) -> faults.Fault | None:
        last = method == "PATCH" and path.rpartition("/")[0].endswith("/logged-models")
        return faults.refuse(403) if last else None

    with faults.fault_proxy(server, plan) as proxy:
        result = copied(everything_at, proxy.url)
        assert len([each for each in result.of(Failed) if "m-" in each.ref.id]) == 1
    assert {m.status for m in models_at(server).values()} == {"PENDING"}
    assert copied(everything_at, server).of(Failed) == []
    assert {m.status for m in models_at(server).values()} == {"READY"}
    assert len(held_at(server, "logged_model")) == 1
    assert differences(everything_at, server) == []


def test_killed_at_every_call(
    sources: MemorySources, reusable_server: servers.ReusableServer
) -> None:
    """And run again, it is as if it had not been."""
    items, files = at_a_server()
    items = [item for item in items if item.ref.id != f"m-{OTHER}"]
    url, origin = reusable_server.url, sources(*items, files=files)
    filled = killed_at_every_call(origin, as_new(reusable_server), "half", 4)
    next(filled)
    expected = _told(url)
    for _ in filled:
        assert expected == _told(url)
        assert differences(origin, url) == []


def test_an_older_server_has_no_place_for_them(
    everything_at: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlmigrate.stores.mlflow_server import reading
    from mlmigrate.stores.mlflow_server.release import Release

    old = Release((2, 22), "MLflow 2.22.0")
    monkeypatch.setattr(reading, "release_of", lambda _: old)
    result = copied(everything_at, server)

    assert [*result.of(Failed), *result.of(Problem)] == []
    assert losses(result) == [f"logged_model/{MODEL}", f"logged_model/m-{OTHER}"]


def _told(url: str) -> list[str]:
    """Return what stands there, without what a server gives itself."""
    found = []
    for kind in ("run", "logged_model"):
        for item in held_at(url, kind).values():
            header: Any = item.header
            if isinstance(header, LoggedModel):
                header = replace(
                    header, creation_time=None, last_updated_time=None, source_run=None
                )
            else:
                header = replace(header, parent=None)
            roles = [
                replace(each, model=Ref("logged_model", "")) for each in item.links
            ]
            points = [
                replace(each, run=Ref("run", str(len(each.history.steps))))
                for each in item.model_metrics
            ]
            tags = (tag for tag in item.tags if not tag.key.startswith("mlflow."))
            bare = replace(
                item,
                header=header,
                tags=tuple(tags),
                links=tuple(roles),
                model_metrics=tuple(points),
            )
            found.append(digest(bare))
    return sorted(found)
