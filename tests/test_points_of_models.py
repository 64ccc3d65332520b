"""Points of logged models, which a file store puts where their run is."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from support.copies import copied, differences

from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Finding, Item, LoggedModel, Loss, Problem

pytestmark = pytest.mark.usefixtures("unused_store")

RUN, OTHER = "a" * 32, "b" * 32
MODEL = "m-" + "c" * 32


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a file store in ``mlruns``."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = str(tmp_path / "mlruns")
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri, uri)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file store of three experiments, the last of them deleted."""
    root = tmp_path / "mlruns"
    for id, place in (("1", "1"), ("2", "2"), ("3", ".trash/3")):
        write(root / place / "meta.yaml", f"experiment_id: '{id}'\nname: e{id}\n")
    for id, run in (("1", RUN), ("2", OTHER)):
        write(root / id / run / "meta.yaml", f"run_id: {run}\nexperiment_id: '{id}'\n")
    return root


def model_in(root: Path, place: str, name: str = "net") -> Path:
    """Write a logged model without points into the experiment at *place*."""
    folder = root / place / "models" / MODEL
    id = Path(place).name
    meta = {"experiment_id": id, "model_id": MODEL, "name": name, "status": 2}
    write(folder / "meta.yaml", json.dumps(meta))
    return folder


def point_in(root: Path, place: str, line: str, key: str = "acc") -> None:
    write(root / place / "models" / MODEL / "metrics" / key, line + "\n")


def models(root: Path) -> tuple[dict[str, Item], list[Finding]]:
    """Return a store's logged models by their ids, and what is told of it and them."""
    source = resolve(str(root)).source()
    items = {
        item.ref.id: item
        for item in source.read(list(source.refs(Selection("logged_model"))))
        if isinstance(item, Item)
    }
    said = [each for item in items.values() for each in item.findings]
    return items, [*source.findings(), *said]


def points(item: Item) -> set[tuple[str, str, int, int, float, str | None]]:
    return {
        (each.history.key, each.run.id, *point, each.dataset)
        for each in item.model_metrics
        for point in zip(
            each.history.steps.tolist(),
            each.history.timestamps.tolist(),
            each.history.values.tolist(),
            strict=True,
        )
    }


def problems(findings: list[Finding]) -> list[str]:
    return [
        f"{each.where}: {each.what}" for each in findings if isinstance(each, Problem)
    ]


# -- measured in another experiment ---------------------------------------------------


def test_measured_in_other_experiments(client: MlflowClient, tmp_path: Path) -> None:
    """Whichever of the experiments is read first, as each has a model of its own."""
    ids = {}
    homes = [client.create_experiment(name) for name in ("one", "two", "three")]
    runs = [client.create_run(home).info.run_id for home in homes]
    for home, name in zip(homes, ("net", "tree", "line"), strict=True):
        ids[name] = client.create_logged_model(home, name=name).model_id
        client.finalize_logged_model(ids[name], "READY")
    for at, run in enumerate(runs):
        for id in ids.values():
            client.log_metric(run, "acc", at / 4, 1_000 + at, at, model_id=id)
    sink = f"sqlite:///{tmp_path / 'sink.db'}"
    result = copied(str(tmp_path / "mlruns"), sink)
    ours = MlflowClient(sink, sink)

    assert result.of(Failed) == []
    assert [f for f in result.findings() if isinstance(f, Problem | Loss)] == []
    assert result.counts("logged_model") == {"copied": 3}
    for name, id in ids.items():
        model = ours.get_logged_model(id)
        assert (model.name, model.status) == (name, "READY")
        there = {(m.key, m.step, m.timestamp, m.value) for m in model.metrics}
        assert there == {("acc", at, 1_000 + at, at / 4) for at in range(3)}
        assert {m.run_id for m in model.metrics} == set(runs)
    assert differences(str(tmp_path / "mlruns"), sink) == []
    again = copied(str(tmp_path / "mlruns"), sink)
    assert set(again.counts(None)) == {"skipped"}


@pytest.mark.parametrize("home", ["1", "2", ".trash/3"])
def test_points_belong_to_the_model_with_a_meta(root: Path, home: str) -> None:
    model_in(root, home)
    point_in(root, "1", f"7 0.5 3 {RUN}")
    point_in(root, "2", f"8 0.25 4 {OTHER} my cats d1")
    items, findings = models(root)
    (item,) = items.values()

    assert isinstance(item.header, LoggedModel)
    assert (item.ref.id, item.header.name) == (MODEL, "net")
    assert item.header.experiment.id == Path(home).name
    assert points(item) == {
        ("acc", RUN, 3, 7, 0.5, None),
        ("acc", OTHER, 4, 8, 0.25, "my cats"),
    }
    assert problems(findings) == []


def test_lines_that_are_no_points_are_told_where_they_are(root: Path) -> None:
    model_in(root, "2")
    point_in(root, "1", "x")
    _, findings = models(root)
    (said,) = problems(findings)

    assert f"1/models/{MODEL}: metrics/acc: line 1 is not a metric point" in said


def test_what_else_lies_beside_such_points_is_told(root: Path) -> None:
    model_in(root, "2")
    point_in(root, "1", f"7 0.5 3 {RUN}")
    folder = root / "1" / "models" / MODEL
    for name in ("params/lr", "tags/team", "artifacts/MLmodel", "notes.txt"):
        write(folder / name, "x")
    items, findings = models(root)
    said = problems(findings)

    assert points(items[MODEL]) == {("acc", RUN, 3, 7, 0.5, None)}
    assert (items[MODEL].params, items[MODEL].tags) == ((), ())
    for name in ("params", "tags", "artifacts", "notes.txt"):
        (one,) = [each for each in said if f"1/models/{MODEL}/{name}: " in each]
        assert "not copied" in one
    assert len(said) == 4


def test_points_of_a_model_without_a_meta(root: Path) -> None:
    """Nobody tells whose they are: each folder is a model, recovered."""
    point_in(root, "1", f"7 0.5 3 {RUN}")
    point_in(root, "2", f"8 0.25 4 {OTHER}")
    items, findings = models(root)

    assert {id: points(item) for id, item in items.items()} == {
        MODEL: {("acc", RUN, 3, 7, 0.5, None)},
        f"{MODEL}~2": {("acc", OTHER, 4, 8, 0.25, None)},
    }
    said = " | ".join(problems(findings))
    assert "meta.yaml is missing" in said
    assert f"stands twice, also in {root}/1/models/{MODEL}" in said


def test_a_damaged_meta_is_one(root: Path) -> None:
    write(model_in(root, "2") / "meta.yaml", "{")
    point_in(root, "1", f"7 0.5 3 {RUN}")
    items, _ = models(root)
    header = items[MODEL].header

    assert isinstance(header, LoggedModel)
    assert list(items) == [MODEL]
    assert header.experiment.id == "2"
    assert points(items[MODEL]) == {("acc", RUN, 3, 7, 0.5, None)}


def test_two_copies_of_a_model_stay_two(root: Path) -> None:
    """Points elsewhere go to the one that keeps the id."""
    model_in(root, "2", "first")
    model_in(root, ".trash/3", "second")
    point_in(root, "1", f"7 0.5 3 {RUN}")
    items, findings = models(root)
    names = {
        id: item.header.name
        for id, item in items.items()
        if isinstance(item.header, LoggedModel)
    }

    assert names == {MODEL: "first", f"{MODEL}~2": "second"}
    assert points(items[MODEL]) == {("acc", RUN, 3, 7, 0.5, None)}
    (said,) = problems(findings)
    assert "stands twice" in said
