"""What a file store holds beside or instead of MLflow's files is named, or kept."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.model import (
    Experiment,
    Failed,
    Finding,
    Item,
    Kind,
    Note,
    Problem,
    RegisteredModel,
    Run,
)
from mlmigrate.stores.mlflow_files import FileStore

RUN = "0" * 31 + "a"
DATASET = "d" * 32
_KINDS: tuple[Kind, ...] = ("experiment", "run", "registered_model")
_RUN_META = f"""\
artifact_uri: /gone/1/{RUN}/artifacts
end_time: 1700000001000
experiment_id: '1'
lifecycle_stage: active
run_id: {RUN}
run_name: r
start_time: 1700000000000
status: 3
user_id: x
"""
_VERSION_META = """\
creation_timestamp: 1600000000000
current_stage: None
name: m
source: s3://bucket/m
status: READY
version: 1
"""


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of one experiment with one run, and one model with one version."""
    root = tmp_path / "mlruns"
    write(
        root / "1" / "meta.yaml",
        "artifact_location: /gone/1\nexperiment_id: '1'\nlifecycle_stage: active\n"
        "name: e\n",
    )
    write(root / "1" / RUN / "meta.yaml", _RUN_META)
    write(root / "1" / RUN / "params" / "lr", "0.1")
    write(root / "models" / "m" / "meta.yaml", "name: m\n")
    write(root / "models" / "m" / "version-1" / "meta.yaml", _VERSION_META)
    return root


def read(root: Path) -> tuple[list[Item], list[Finding]]:
    """Return the items of a store, and all that is told about it."""
    store = FileStore(str(root), {})
    refs = [ref for kind in _KINDS for ref in store.refs(Selection(kind))]
    items = list(store.read(refs))
    assert not any(isinstance(item, Failed) for item in items)
    sound = [item for item in items if isinstance(item, Item)]
    return sound, [*store.findings(), *(each for i in sound for each in i.findings)]


def told(findings: list[Finding], kind: type[Problem] | type[Note]) -> list[str]:
    return [f"{each.where}: {each.what}" for each in findings if isinstance(each, kind)]


def test_a_sound_store_has_no_problems(root: Path) -> None:
    items, findings = read(root)

    assert 3 == len(items)
    assert [] == told(findings, Problem)


@pytest.mark.parametrize(
    "place",
    [
        f"1/{RUN}/notes.txt",
        f"1/{RUN}/params 2/lr",
        f"1/{RUN}/checkpoints/epoch-3.pt",
        f"1/{RUN}/artifacts 2/model.pkl",
        f"1/{RUN}/metrics",  # a file where a folder belongs
        f"1/{RUN}/tags",
        f"1/{RUN}/inputs",
        f"1/{RUN}/artifacts",
        "1/artifacts/model.pkl",
        "1/assessments/a.yaml",
        "models/m/README.md",
        "models/m/drafts/notes",
        "models/m/version-9",
        "models/m/version-01/meta.yaml",
        "models/m/version-1/notes",
    ],
)
def test_what_is_not_mlflows_is_a_problem(root: Path, place: str) -> None:
    write(root / place)
    _, findings = read(root)
    parts = place.split("/")
    named = {str(root.joinpath(*parts[:n])) for n in range(1, len(parts) + 1)}
    found = [each for each in findings if isinstance(each, Problem)]

    assert [True] == [each.where in named for each in found]
    assert "not copied" in found[0].what


@pytest.mark.parametrize(
    "place",
    [
        "notes.txt",
        ".trash/notes.txt",
        "1/.ipynb_checkpoints/meta-checkpoint.yaml",
        f"1/{RUN}/.hidden/x",
        f"1/{RUN}/meta 2.yaml",
    ],
)
def test_what_people_leave_about_is_noted(root: Path, place: str) -> None:
    write(root / place)
    _, findings = read(root)
    (note,) = (each for each in told(findings, Note) if "artifact" not in each)

    assert place.rsplit("/", maxsplit=1)[-1] in note or place.rpartition("/")[0] in note
    assert [] == told(findings, Problem)


def test_a_store_within_is_not_taken_for_runs(root: Path) -> None:
    os.rename(root / "1", root / "1-moved")
    write(root / "nested" / "1" / "meta.yaml", "experiment_id: '1'\nname: inner\n")
    os.rename(root / "1-moved", root / "nested" / "2")
    items, findings = read(root)

    assert [RegisteredModel] == [type(item.header) for item in items]
    (problem,) = told(findings, Problem)
    assert "nested" in problem
    assert "mlmigrate scan" in problem


def test_an_experiments_own_folder_is_a_store(root: Path) -> None:
    write(root / "1" / "tags" / "team", "blue")
    items, findings = read(root / "1")
    experiment, run = (item.header for item in items)

    assert isinstance(experiment, Experiment)
    assert "e" == experiment.name
    assert ["blue"] == [tag.value for tag in items[0].tags]
    assert isinstance(run, Run)
    assert [] == told(findings, Problem)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("start_time: 2021-01-01", "start_time"),
        ("start_time: 99999999999999999999", "start_time"),
        ("start_time: 1700000000000.5", "start_time"),
        ("end_time: soon", "end_time"),
        ("status: DONE", "status"),
        ("status: 9", "status"),
        ("lifecycle_stage: Deleted", "lifecycle_stage"),
        ("source_type: LAMBDA", "source_type"),
        ("run_name: [a]", "run_name"),
        ("run_name: 1.50", "run_name"),
        ("user_id: yes", "user_id"),
        ("mood: good", "mood"),
        ("tags: {a: b}", "tags"),
        ("tags: [{key: a}]", "tags"),
    ],
)
def test_a_field_that_cannot_be_taken_over_is_told(
    root: Path, line: str, said: str
) -> None:
    write(root / "1" / RUN / "meta.yaml", _RUN_META + line + "\n")
    items, findings = read(root)

    assert 3 == len(items)
    (problem,) = told(findings, Problem)
    assert f"meta.yaml: {said}" in problem


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("1", "creation_time: 99999999999999999999"),
        ("1", "lifecycle_stage: gone"),
        ("models/m", "creation_timestamp: yesterday"),
        ("models/m/version-1", "creation_timestamp: yesterday"),
        ("models/m/version-1", "version: 7"),
    ],
)
def test_fields_of_others_are_told(root: Path, place: str, line: str) -> None:
    with (root / place / "meta.yaml").open("a") as file:
        file.write(line + "\n")
    _, findings = read(root)
    (problem,) = told(findings, Problem)

    assert str(root / place) in problem
    assert line.split(": ", maxsplit=1)[0] in problem


def test_a_pipe_neither_blocks_nor_passes_for_empty(root: Path) -> None:
    os.unlink(root / "1" / RUN / "meta.yaml")
    os.mkfifo(root / "1" / RUN / "meta.yaml")
    os.mkfifo(root / "1" / RUN / "params" / "pipe")
    items, findings = read(root)

    assert ["lr"] == [param.key for param in items[1].params]
    assert 2 == sum("is no regular file" in each for each in told(findings, Problem))


def test_a_dataset_that_a_run_names_twice(root: Path, tmp_path: Path) -> None:
    """It is one input with the tags of both, which a database can hold."""
    write(
        root / "1" / "datasets" / DATASET / "meta.yaml",
        "digest: abc\nname: d\nsource: s\nsource_type: local\n",
    )
    for folder, tag in (("1", "a"), ("2", "b")):
        write(
            root / "1" / RUN / "inputs" / folder / "meta.yaml",
            f"source_id: {DATASET}\nsource_type: DATASET\ntags:\n  {tag}: t\n",
        )
    report = mlmigrate.copy([str(root)], f"sqlite:///{tmp_path}/all.db")

    assert [] == report.failed
    assert any("stands twice" in each.what for each in report.problems)
    with closing(sqlite3.connect(tmp_path / "all.db")) as database:
        rows = database.execute("select name from input_tags order by 1").fetchall()
    assert [("a",), ("b",)] == rows


@pytest.mark.parametrize(
    "meta", ["source_type: DATASET\n", f"source_id: {DATASET}\ntags:\n- a\n"]
)
def test_inputs_that_cannot_be_read_are_told(root: Path, meta: str) -> None:
    write(
        root / "1" / "datasets" / DATASET / "meta.yaml",
        "digest: abc\nname: d\nsource: s\nsource_type: local\n",
    )
    write(root / "1" / RUN / "inputs" / "1" / "meta.yaml", meta)
    _, findings = read(root)

    (problem,) = (each for each in told(findings, Problem) if "datasets/" not in each)
    assert "inputs/1" in problem


def test_old_tags_that_stand_twice(root: Path, tmp_path: Path) -> None:
    """Files win over what meta.yaml said before 0.5; a difference is told."""
    tags = "tags:\n- {key: a, value: new}\n- {key: b, value: c}\n"
    write(root / "1" / RUN / "meta.yaml", _RUN_META + tags)
    write(root / "1" / RUN / "tags" / "a", "file")
    report = mlmigrate.copy([str(root)], f"sqlite:///{tmp_path}/all.db")

    assert [] == report.failed
    assert any("tag a = 'new'" in each.what for each in report.problems)
    with closing(sqlite3.connect(tmp_path / "all.db")) as database:
        rows = database.execute("select key, value from tags").fetchall()
    assert {("a", "file"), ("b", "c")} <= set(rows)


def test_artifacts_of_a_copied_store(root: Path, tmp_path: Path) -> None:
    """The first place is still named, and there: what the copy has more is told."""
    first = tmp_path / "first" / "1" / RUN / "artifacts"
    write(first / "model", "old")
    write(root / "1" / RUN / "artifacts" / "model", "old")
    write(
        root / "1" / RUN / "meta.yaml", _RUN_META.replace("/gone", f"{tmp_path}/first")
    )
    assert [] == told(read(root)[1], Problem)

    write(root / "1" / RUN / "artifacts" / "report", "new")
    items, findings = read(root)
    (problem,) = told(findings, Problem)

    assert ["model"] == [artifact.path for artifact in items[1].artifacts]
    assert "'report'" in problem


def test_datasets_of_points_are_told(root: Path) -> None:
    write(root / "1" / RUN / "metrics" / "acc", "1700000000000 0.5 3 train abc\n")
    items, findings = read(root)
    (problem,) = told(findings, Problem)

    assert [3] == items[1].metrics[0].steps.tolist()
    assert "metrics/acc: the datasets that 1 points name" in problem


def test_an_artifact_that_looks_like_a_drive(root: Path, tmp_path: Path) -> None:
    """Its name is refused by every sink; the run and its other artifacts go on."""
    for name in ("C:/x", "model"):
        write(root / "1" / RUN / "artifacts" / name)
    report = mlmigrate.copy([str(root)], f"sqlite:///{tmp_path}/all.db")

    assert [] == report.failed
    assert 1 == report.files
    assert any("C:/x" in each.what for each in report.problems)


@pytest.mark.parametrize(
    "place", ["link", "1/link", f"1/{RUN}/link", "models/link", "models/m/link"]
)
def test_a_link_to_itself_costs_nothing_else(root: Path, place: str) -> None:
    (root / place).symlink_to("link")
    items, findings = read(root)

    assert [("lr", "0.1")] == [(param.key, param.value) for param in items[1].params]
    assert 1 == len(items[2].versions)
    assert any("link" in each.where or "link" in each.what for each in findings)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (f"status: '{'9' * 5000}'", "status"),
        ("status: '\u00b3'", "status"),
        ("status: true", "status"),
        (f"user_id: 0x{'f' * 5000}", "meta.yaml"),
    ],
)
def test_a_number_beyond_all_bounds_costs_its_field(
    root: Path, line: str, field: str
) -> None:
    meta = root / "1" / RUN / "meta.yaml"
    kept = [
        each
        for each in _RUN_META.splitlines()
        if each.split()[0] != line.split(maxsplit=1)[0]
    ]
    meta.write_text("\n".join([*kept, line, ""]))
    items, findings = read(root)

    assert isinstance(items[1].header, Run)
    assert 1700000001000 == items[1].header.end_time
    assert any(field in each for each in told(findings, Problem))


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 20, "\u00b2", "1.0", ""])
def test_an_alias_of_no_version_is_told(root: Path, number: str) -> None:
    write(root / "models" / "m" / "aliases" / "champion", number)
    items, findings = read(root)

    assert () == items[2].aliases
    (problem,) = told(findings, Problem)
    assert "champion" in problem


def test_a_file_among_the_inputs_is_told(root: Path) -> None:
    write(root / "1" / RUN / "inputs" / "odd")
    _, findings = read(root)

    (problem,) = told(findings, Problem)
    assert "inputs/odd" in problem


@pytest.mark.parametrize("folder", ["params", "tags", "metrics"])
def test_a_name_that_is_no_text_is_told(root: Path, folder: str) -> None:
    write(root / "1" / RUN / folder / os.fsdecode(b"\xff"), "1700000000000 1 0")
    items, findings = read(root)

    records = [*items[1].params, *items[1].tags, *items[1].metrics]
    assert "\\xff" in {each.key for each in records}
    (problem,) = told(findings, Problem)
    assert f"{folder}/\\xff" in problem


def test_metric_lines_of_other_systems(root: Path) -> None:
    for name, end in (("mac", "\r"), ("windows", "\r\n"), ("twice", "\r\r\n")):
        lines = f"1700000000000 1 0{end}1700000000001 2 1{end}"
        (root / "1" / RUN / "metrics").mkdir(exist_ok=True)
        (root / "1" / RUN / "metrics" / name).write_bytes(lines.encode())
    items, findings = read(root)

    assert {"mac", "windows", "twice"} == {each.key for each in items[1].metrics}
    assert [[1.0, 2.0]] * 3 == [each.values.tolist() for each in items[1].metrics]
    assert [] == told(findings, Problem)


def test_an_artifact_uri_that_is_no_path_costs_nothing_else(root: Path) -> None:
    meta = root / "1" / RUN / "meta.yaml"
    uri = f"/gone/1/{RUN}/artifacts"
    meta.write_text(_RUN_META.replace(uri, f'"/go\\0ne/1/{RUN}/artifacts"'))
    write(root / "1" / RUN / "artifacts" / "a.txt")
    items, _ = read(root)

    assert ["a.txt"] == [each.path for each in items[1].artifacts]


def test_keys_that_are_named_as_a_system_names_its_files(root: Path) -> None:
    params = root / "1" / RUN / "params"
    write(params / "._momentum", "0.9")
    write(params / ".keep", "yes")
    write(params / ".gitkeep", "")
    (params / "._lr").write_bytes(b"\0\5\x16\7" + bytes(60))
    items, findings = read(root)

    assert {"lr", "._momentum", ".keep"} == {each.key for each in items[1].params}
    assert [] == told(findings, Problem)


def test_a_dataset_that_no_run_used_is_told(root: Path) -> None:
    for name in (DATASET, "e" * 32):
        write(root / "1" / "datasets" / name / "meta.yaml", "name: d\ndigest: x\n")
    write(
        root / "1" / RUN / "inputs" / "i" / "meta.yaml",
        f"source_id: {DATASET}\nsource_type: DATASET\ntags: {{}}\n",
    )
    items, findings = read(root)

    assert ["d"] == [each.name for each in items[1].inputs]
    (problem,) = told(findings, Problem)
    assert f"1/datasets/{'e' * 32}" in problem
