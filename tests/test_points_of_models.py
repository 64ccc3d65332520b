"""Points of logged models, which a file store puts where their run is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from support.copies import copied, differences
from support.fixture_stores import FIXTURES

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


# -- datasets that points name --------------------------------------------------------


def lost(root: Path) -> list[str]:
    """Return what is told of the runs of a store."""
    source = resolve(str(root)).source()
    said: list[Finding] = []
    for item in source.read(list(source.refs(Selection("run")))):
        assert isinstance(item, Item)
        said += item.findings
    return problems(said)


def point_of(root: Path, *lines: str, key: str = "acc") -> None:
    """Write points of the first experiment's run."""
    write(root / "1" / RUN / "metrics" / key, "".join(f"{line}\n" for line in lines))


def test_datasets_in_a_store_of_mlflows(client: MlflowClient, tmp_path: Path) -> None:
    """Models hold those of their points, linked to the run or not; nobody the rest."""
    homes = [client.create_experiment(name) for name in ("one", "two")]
    run = client.create_run(homes[0]).info.run_id
    for home, key in zip(homes, ("own", "other"), strict=True):
        model = client.create_logged_model(home, name=key).model_id
        for step in range(3):
            client.log_metric(
                run, f"{key}/acc", 0.5, 1_000, step,
                dataset_name="cats", dataset_digest="d1", model_id=model,
            )  # fmt: skip
    client.log_metric(
        run, "alone", 0.5, 1_000, 0, dataset_name="cats", dataset_digest="d1"
    )
    (said,) = lost(tmp_path / "mlruns")

    assert "metrics/alone: the datasets that 1 points name are not copied" in said


def test_datasets_of_a_fixture() -> None:
    """Its model has the one point that names a dataset, too."""
    assert lost(FIXTURES / "laptop-3.1" / "mlruns") == []


@pytest.mark.parametrize(
    ("held", "count"),
    [
        ([f"7 0.5 3 {RUN} my cats d1", f"8 nan 4 {RUN} my cats d1"], 0),
        ([f"7 0.5 3 {RUN} my cats d1"], 1),
        ([f"8 nan 4 {RUN} my cats d2", f"8 nan 4 {RUN} cats d1"], 2),
        ([f"8 nan 4 {OTHER} my cats d1", f"7 0.5 3 {OTHER} {RUN} d1"], 2),
        ([f"8 nan 4 {RUN}", f"8 nan 5 {RUN} my cats d1", f"x {RUN} my cats d1"], 2),
    ],
)
@pytest.mark.parametrize("link", ["outputs", "inputs", "none"])
def test_a_dataset_is_held_with_the_very_point(
    root: Path, held: list[str], count: int, link: str
) -> None:
    point_of(root, "7 0.5 3 my cats d1", "8 nan 4 my cats d1", "9 1.0 5")
    model_in(root, "2")
    point_in(root, "1", "\r\n".join(held))
    if link == "outputs":
        write(root / "1" / RUN / "outputs" / MODEL / "meta.yaml", "step: 0\n")
    elif link == "inputs":
        meta = {"source_type": "MODEL_INPUT", "source_id": MODEL}
        write(root / "1" / RUN / "inputs" / "i" / "meta.yaml", json.dumps(meta))
    what = f"metrics/acc: the datasets that {count} points name are not copied"

    assert lost(root) == ([f"{root}/1/{RUN}: {what}"] if count else [])


def test_several_models_hold_the_datasets_of_one_metric(root: Path) -> None:
    point_of(root, "7 0.5 3 cats d1", "8 0.25 4 cats d1", "8 0.25 4 dogs d2")
    model_in(root, "1")
    point_in(root, "1", f"7 0.5 3 {RUN} cats d1")
    second = root / "1" / "models" / ("m-" + "e" * 32)
    write(second / "meta.yaml", json.dumps({"model_id": second.name}))
    write(second / "metrics" / "acc", f"8 0.25 4 {RUN} cats d1\n")

    (said,) = lost(root)
    assert "the datasets that 1 points name" in said


def test_links_to_models_that_are_not_there(root: Path) -> None:
    """Nor does what no model is hold anything."""
    point_of(root, "7 0.5 3 cats d1")
    write(root / "1" / RUN / "outputs" / MODEL / "meta.yaml", "step: 0\n")
    write(root / "1" / "models" / MODEL / "artifacts" / "acc", f"7 0.5 3 {RUN} cats d1")

    assert len(lost(root)) == 1


def test_models_are_not_read_again_for_each_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an experiment are read once to learn which runs measured them."""
    model_in(root, "1")
    point_in(root, "1", f"7 0.5 3 {OTHER} cats d1")
    for number in range(1, 10):
        run = f"{number:032x}".replace("0", "f")
        write(root / "1" / run / "meta.yaml", f"run_id: {run}\nexperiment_id: '1'\n")
        write(root / "1" / run / "metrics" / "acc", "7 0.5 3 cats d1\n")
    opened: list[str] = []
    real = os.open

    def counted(path: str, *rest: int) -> int:
        opened.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", counted)
    assert len(lost(root)) == 9
    assert sum("/models/" in path for path in opened) == 1


@pytest.mark.parametrize("name", [b"r\xff", b"a run", "größer".encode(), b"~2"])
def test_odd_names_of_runs_cost_nothing_else(root: Path, name: bytes) -> None:
    model_in(root, "1")
    point_in(root, "1", f"7 0.5 3 {RUN} cats d1")
    folder = root / "1" / os.fsdecode(name)
    write(folder / "metrics" / "acc", "7 0.5 3 cats d1\n")
    write(folder / "meta.yaml", "status: 3\n")

    assert len([said for said in lost(root) if "the datasets that 1 " in said]) == 1
