"""Finding stores, and counting what they hold."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.corpus import CorpusStore
from support.fixture_stores import COUNTS, FIXTURES

import mlmigrate
from mlmigrate.cli import group
from mlmigrate.contract import Source
from mlmigrate.discover import overlaps, scan
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import StoreNotFound
from mlmigrate.inspection import inspect
from mlmigrate.locations import resolve
from mlmigrate.model import Problem

SHAPE = {
    "location", "adapter", "experiments", "runs", "params", "tags", "metrics",
    "datasets", "artifacts", "logged_models", "registered_models", "model_versions",
    "traces", *(f"{kind}s" for kind in ENTITIES), "notes", "problems",
}  # fmt: skip


def stores_below(*paths: Path) -> list[str]:
    found = [place for place in scan(paths) if isinstance(place, str)]
    return sorted(os.path.relpath(place, paths[0]) for place in found)


def snapshot(root: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
    )


def run_cli(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(group, list(arguments))
    return result.exit_code, result.stdout


# -- counting ---------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_counts_are_those_of_a_plain_reader(name: str, tmp_path: Path) -> None:
    # Away from the other stores, whose artifacts a recorded URI might still reach.
    folder = tmp_path / name.split("/", maxsplit=1)[0]
    shutil.copytree(FIXTURES / folder.name, folder)
    opened = resolve(str(tmp_path / name))
    found = inspect(opened)
    expected = COUNTS[name]
    assert set(found) == SHAPE
    for key in ("experiments", "runs", "params", "tags", "metrics"):
        assert found[key] == expected[key], key
    if not Path("/tmp/mlmigrate-fixtures").exists():  # where the fixtures were made
        assert found["artifacts"] == expected["artifacts"]
    assert found["registered_models"] == expected["registered_models"]
    hidden = expected["model_versions_deleted"]
    assert found["model_versions"] == expected["model_versions"] - hidden
    assert found["logged_models"] == expected["logged_models"]
    assert found["traces"] == expected["traces"]


def test_datasets_are_counted(tmp_path: Path) -> None:
    name = "cluster-2.9/mlruns"
    assert inspect(resolve(str(FIXTURES / name)))["datasets"] == 4


def test_workers_change_nothing(big_file_store: Path) -> None:
    opened = resolve(str(big_file_store))
    assert inspect(opened, workers=1) == inspect(opened, workers=3)


@pytest.fixture
def big_file_store(tmp_path: Path) -> Path:
    """More runs than are read in one process."""
    root = tmp_path / "mlruns"
    for number in range(200):
        run = root / "1" / f"{number:032x}"
        (run / "metrics").mkdir(parents=True)
        (run / "metrics" / "loss").write_text("1 0.5 0\n2 0.25 1\n")
        (run / "meta.yaml").write_text(f"run_id: {run.name}\nexperiment_id: '1'\n")
    (root / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: big\n")
    return root


def test_what_a_source_counts_itself_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = resolve("memory:counting")
    source = opened.source()
    monkeypatch.setattr(
        type(source),
        "count_uncarried",
        lambda _: {"logged_models": 2, "traces": 40},
        raising=False,
    )
    found = inspect(opened)
    assert isinstance(source, Source)
    assert (found["logged_models"], found["traces"]) == (2, 40)


def test_equal_notes_are_told_once() -> None:
    notes = inspect(resolve(str(FIXTURES / "laptop-0.9" / "mlruns")))["notes"]
    texts = [note["what"] for note in notes]
    assert len(texts) == len(set(texts))
    assert all(note["count"] >= 1 and note["where"] for note in notes)


# -- finding ----------------------------------------------------------------------


def test_every_fixture_store_is_found() -> None:
    assert stores_below(FIXTURES) == sorted(COUNTS)


def test_every_real_store_is_found(corpus_store: CorpusStore) -> None:
    if corpus_store.kind == "artifacts":
        pytest.skip("artifacts alone, which come with the store beside them")
    if corpus_store.name == "gans17/mlruns":
        pytest.skip("the artifacts of the database beside it: no run has a record")
    assert corpus_store.location in list(scan([corpus_store.path.parent]))


def test_nothing_is_changed(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "server-1.0", tmp_path / "s", symlinks=True)
    shutil.copytree(FIXTURES / "laptop-0.9", tmp_path / "l", symlinks=True)
    before = snapshot(tmp_path)
    assert stores_below(tmp_path) == ["l/mlruns", "s/mlflow.db"]
    run_cli("scan", str(tmp_path))
    assert snapshot(tmp_path) == before


def test_a_store_within_a_store_is_found(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "laptop-0.9" / "mlruns", tmp_path / "mlruns")
    shutil.copytree(FIXTURES / "laptop-0.4", tmp_path / "mlruns" / "backup")
    assert stores_below(tmp_path) == ["mlruns", "mlruns/backup/mlruns"]


def test_other_peoples_files_are_no_stores(tmp_path: Path) -> None:
    recipe = tmp_path / "recipes" / "numpy"
    recipe.mkdir(parents=True)
    (recipe / "meta.yaml").write_text("package: {name: numpy}\n")
    (tmp_path / "models" / "bert").mkdir(parents=True)
    (tmp_path / "mlartifacts" / "1" / ("a" * 32) / "artifacts").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE runs (id)")
    assert stores_below(tmp_path) == []


@pytest.mark.parametrize("name", [".git", "node_modules", ".venv", "site-packages"])
def test_folders_of_tools_are_passed_over(tmp_path: Path, name: str) -> None:
    shutil.copytree(FIXTURES / "laptop-0.4", tmp_path / name / "x")
    assert stores_below(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "loop").symlink_to(tmp_path)
    (tmp_path / "here" / "far").symlink_to(FIXTURES)
    assert stores_below(tmp_path / "here") == []


def test_paths_that_overlap_find_a_store_once() -> None:
    assert len(list(scan([FIXTURES, FIXTURES / "laptop-0.4"]))) == len(COUNTS)


def test_a_database_whose_tables_are_in_its_log_is_found(tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE runs (run_uuid)")
    database.execute("CREATE TABLE experiments (experiment_id)")
    database.commit()
    assert stores_below(tmp_path) == ["live.db"]
    database.close()


def test_a_registry_alone_is_a_store(tmp_path: Path) -> None:
    source = FIXTURES / "cluster-2.9" / "mlruns" / "models"
    shutil.copytree(source, tmp_path / "mlruns" / "models")
    assert stores_below(tmp_path) == ["mlruns"]


def test_an_archive_is_found(tmp_path: Path) -> None:
    # Also by its spare manifest alone; what is archived in it is not.
    archive = tmp_path / "backup" / "mlflow"
    mlmigrate.copy([str(FIXTURES / "cluster-2.9" / "mlruns")], f"archive:{archive}")
    shutil.copytree(FIXTURES / "laptop-0.4" / "mlruns", archive / "blobs" / "mlruns")
    shutil.copytree(FIXTURES / "laptop-0.4" / "mlruns", archive / "beside")

    assert ["backup/mlflow", "backup/mlflow/beside"] == stores_below(tmp_path)
    _, said = run_cli("scan", "--json", str(tmp_path))
    assert ["archive", "mlflow_files"] == [
        store["adapter"] for store in json.loads(said)["stores"]
    ]
    (archive / "mlmigrate.json").unlink()
    assert "backup/mlflow" in stores_below(tmp_path)
    assert "archive" == resolve(str(archive)).adapter.name


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no such"):
        list(scan([tmp_path / "nowhere"]))


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything"
)
def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    found = list(scan([tmp_path]))
    (tmp_path / "closed").chmod(0o700)
    assert found == [
        Problem(str(tmp_path / "closed"), "cannot be listed: Permission denied")
    ]


def test_a_folder_that_fails_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    shutil.copytree(FIXTURES / "laptop-0.4", tmp_path / "open")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(scan([tmp_path]))
    assert (
        Problem(str(tmp_path / "closed"), "cannot be listed: Permission denied")
        in found
    )
    assert str(tmp_path / "open" / "mlruns") in found


# -- overlaps ---------------------------------------------------------------------


def test_runs_in_two_stores_are_told() -> None:
    names = ["cluster-2.9/mlruns", "laptop-0.4/mlruns", "laptop-copy/mlruns"]
    places = [str(FIXTURES / name) for name in names]
    assert overlaps([resolve(place) for place in places]) == [
        {"stores": [places[0], places[2]], "runs": 4}
    ]


# -- the command line -------------------------------------------------------------


def test_scan_prints_one_object(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "laptop-0.4", tmp_path / "a")
    shutil.copytree(FIXTURES / "laptop-0.4", tmp_path / "b")
    code, output = run_cli("scan", str(tmp_path), "--json")
    data = json.loads(output)
    assert code == 0
    assert [set(store) for store in data["stores"]] == [SHAPE, SHAPE]
    assert [overlap["runs"] for overlap in data["overlaps"]] == [4]


def test_scan_tells_people(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "damaged", tmp_path / "d")
    code, output = run_cli("scan", str(tmp_path))
    assert code == 3
    assert output.splitlines()[1].split()[1:4] == ["mlflow_files", "7", "13"]
    assert "mlmigrate inspect" in output


def test_scan_of_nothing(tmp_path: Path) -> None:
    assert run_cli("scan", str(tmp_path)) == (0, "no store found\n")


def test_inspect_exits_by_problems() -> None:
    code, output = run_cli("inspect", str(FIXTURES / "cluster-1.30" / "mlruns"))
    assert code == 0
    assert "137 points" in output
    code, output = run_cli("inspect", str(FIXTURES / "damaged" / "mlruns"), "--json")
    assert code == 3
    assert json.loads(output)["problems"]


@pytest.mark.parametrize("name", ["scan", "inspect", "doctor"])
def test_help_ends_with_exit_codes_and_an_example(name: str) -> None:
    code, output = run_cli(name, "--help")
    assert code == 0
    assert "Exit codes: 0" in output
    assert (
        output.strip().splitlines()[-1].strip().startswith(f"Example: mlmigrate {name}")
    )
