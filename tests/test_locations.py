"""What a location names, and what is said of one that names no store."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.command_line import Called
from support.fixture_stores import FIXTURES

from mlmigrate.errors import LocationError, MlmigrateError, StoreNotFound, UsageError
from mlmigrate.locations import ADAPTERS, Adapter, identity, resolve

MLRUNS = FIXTURES / "laptop-0.4" / "mlruns"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of things that are no stores, and one that is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.db").touch()
    (tmp_path / "random.db").write_bytes(os.urandom(5000))
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "photos" / "2020").mkdir(parents=True)
    (tmp_path / "photos" / "2020" / "one.jpg").write_text("x")
    shutil.copytree(MLRUNS, tmp_path / "project" / "mlruns")
    (tmp_path / "loop.db").symlink_to("loop.db")
    return tmp_path


@pytest.mark.parametrize(
    ("location", "code", "said"),
    [
        ("", 2, "empty"),
        (" ", 2, "empty"),
        ("absent", 2, "absent: there is no such folder or file; `mlmigrate scan"),
        ("absent/mlruns/", 2, "there is no such folder or file"),
        ("absent.db", 1, "there is no such file"),
        ("loop.db", 1, "loop.db"),
        ("a" * 5000, 2, "there is no such folder or file"),
        ("/dev/null", 2, "/dev/null is neither a folder nor a file"),
        ("random.db", 2, "random.db is a file, but no SQLite database"),
        ("table.csv", 2, "table.csv is a file, but no SQLite database"),
        ("empty.db", 1, "empty"),
        ("empty", 2, "empty holds no experiment, no run and no model"),
        ("photos", 2, "holds no experiment, no run and no model; `mlmigrate scan"),
        ("project", 2, "is a folder above a store: give project/mlruns"),
        ("file:", 2, "file: names no folder"),
        ("file://", 2, "names no folder"),
        ("file:///does/not/exist", 1, "there is no such folder; `mlmigrate scan"),
        ("file:random.db", 2, "random.db is no folder"),
        ("sqlite:", 2, "sqlite:///"),
        ("sqlite:x.db", 2, "sqlite:///"),
        ("sqlite://", 2, "names no file"),
        ("sqlite:///", 2, "names no file"),
        ("sqlite:///:memory:", 2, "names no file"),
        ("sqlite://u:secret@h", 2, "names no file"),
        ("sqlite:///empty", 1, "is no file"),
        ("sqlite:///table.csv", 1, "is no SQLite database"),
        ("postgresql://u:secret@h:port/db", 2, "u:***@h:port/db is no URL"),
        ("postgres://u:secret@h:port/db", 2, "is no URL of a database"),
        ("mysql://u:secret@h:port/db", 2, "is no URL of a database"),
        ("mariadb://u:secret@h:port/db", 2, "is no URL of a database"),
        ("postgresql://u:se@cret@127.0.0.1:1/db", 2, "%40"),
        ("postgresql://u:secret@[zz/db", 2, "is no URL of a database"),
        ("postgresql://[::1/db", 2, "is no URL of a database"),
        ("postgresql:u:secret@h/db", 2, "postgresql:***@h/db: there is"),
        ("u:secret@h/db", 2, "u:***@h/db"),
        ("oracle://u:secret@h/db", 2, "oracle://u:***@h/db: stores of this kind"),
        ("ftp://u:secret@h", 2, "stores of this kind"),
        ("http://", 2, "is no URL of a server"),
        ("http://:80", 2, "is no URL of a server"),
        ("http://[::1", 2, "is no URL of a server"),
        ("http://u:secret@[::1", 2, "is no URL of a server"),
        ("http://h:99999", 2, "is no URL of a server"),
        ("http://h:0", 2, "is no URL of a server"),
        ("http://u:secret@h:port", 2, "is no URL of a server"),
        ("http://u:s/ecret@h", 2, "http://u:***@h is no URL of a server"),
        ("http://u:1/secret@h", 2, "http://u:***@h is no URL of a server"),
        ("http://u:1?secret@h", 2, "http://u:***@h is no URL of a server"),
        ("HTTP://u:secret@127.0.0.1:1", 1, "127.0.0.1:1 cannot be reached"),
    ],
)  # fmt: skip
def test_what_is_no_store_is_called_by_its_name(
    called: Called, location: str, code: int, said: str
) -> None:
    ended, output, errors = called("inspect", location)
    assert said in errors
    assert ended == code
    assert not output
    assert "secret" not in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("command", ["copy", "plan", "verify"])
@pytest.mark.parametrize(
    "place",
    ["", "absent", "table.csv", "photos", "sqlite://", "sqlite:///:memory:",
     "postgresql://u:secret@h:port/db", "http://[::1", "http://h:99999"],
)  # fmt: skip
def test_sources_and_sinks_alike(called: Called, command: str, place: str) -> None:
    assert called(command, place, "new.db")[0] == 2
    assert not Path("new.db").exists()
    ended, _, errors = called(command, str(MLRUNS), place)
    assert ended == 2
    assert "secret" not in errors
    assert not Path(":memory:").exists()


@pytest.mark.parametrize(
    "store",
    ["laptop-0.4/mlruns", "damaged/mlruns", "server-1.0/mlflow.db"],
)
def test_stores_are_taken(store: str) -> None:
    resolve(str(FIXTURES / store)).source().close()


def test_lone_parts_of_stores_are_taken(tmp_path: Path) -> None:
    trash = tmp_path / "trash"
    shutil.copytree(MLRUNS / "0", trash / ".trash" / "0")
    models = tmp_path / "models"
    shutil.copytree(FIXTURES / "cluster-2.9" / "mlruns" / "models", models / "models")
    bare = tmp_path / "bare"
    shutil.copytree(MLRUNS / "1", bare / "1")
    (bare / "1" / "meta.yaml").unlink()
    around = tmp_path / "around"
    shutil.copytree(MLRUNS / "0", around / "0")
    shutil.copytree(MLRUNS, around / "mlruns")
    for place in (trash, models, bare, around):
        resolve(str(place)).source().close()
        resolve(place.as_uri()).source().close()


@given(st.text(), st.sampled_from(["", "http://", "postgresql://", "file:", "sqlite:"]))
@example("\0", "file:")
def test_any_text_is_taken_or_refused(text: str, scheme: str) -> None:
    try:
        opened = resolve(scheme + text)
        identity(opened)
        if scheme in ("file:", "sqlite:"):
            opened.source().close()
    except MlmigrateError:
        pass


def test_a_file_that_cannot_be_read_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "closed"
    path.write_bytes(b"x")
    real = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MlmigrateError, match="cannot be read"):
        resolve(str(path)).source()


def test_kinds_of_errors() -> None:
    with pytest.raises(StoreNotFound):
        resolve("file:///does/not/exist").source()
    with pytest.raises(LocationError):
        resolve("absent")


@pytest.mark.parametrize(
    "option",
    ["threads=-1", "threads=0", "threads=x", "timeout=-1", "timeout=0", "timeout=nan",
     "timeout=inf", "retries=-1", "retries=1.5", "fire-webhooks=maybe"],
)  # fmt: skip
def test_options_out_of_range_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        resolve("http://h", [option])


# -- the command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, [""]),
        (2, ["nonsense"]),
        (2, ["--nonsense"]),
        (0, ["--help"]),
        (0, ["--version"]),
        (2, ["copy"]),
        (2, ["copy", "project/mlruns"]),
        (2, ["copy", "project/mlruns", "project/mlruns"]),
        (2, ["copy", "project/mlruns", "new.txt"]),
        (2, ["plan", "project/mlruns", "new.db", "--since", "soon"]),
        (2, ["plan", "project/mlruns", "new.db", "--since", "99999999999999d"]),
        (2, ["plan", "project/mlruns", "new.db", "--since", "999999999d"]),
        (2, ["plan", "project/mlruns", "new.db", "--run-filter", "start>=999999999d"]),
        (2, ["plan", "project/mlruns", "new.db", "--run-filter", "x"]),
        (2, ["plan", "project/mlruns", "new.db", "--map-artifacts", "x"]),
        (2, ["plan", "project/mlruns", "new.db", "--workers", "0"]),
        (2, ["plan", "project/mlruns", "new.db", "--temp-dir", "absent"]),
        (2, ["plan", "project/mlruns", "new.db", "-o", "x"]),
        (2, ["plan", "project/mlruns", "new.db", "-i", "x=1"]),
        (0, ["plan", "project/mlruns", "new.db", "--experiment-name", "{"]),
        (2, ["verify", "project/mlruns", "http://127.0.0.1:1", "-o", "threads=0"]),
        (2, ["inspect"]),
        (2, ["inspect", "a", "b"]),
        (2, ["inspect", "project/mlruns", "--map-artifacts", "=x"]),
        (1, ["scan", "absent"]),
        (2, ["scan", ""]),
        (0, ["scan", "empty", "random.db"]),
        (2, ["stores", "absent"]),
        (0, ["stores", "mlflow_db"]),
        (2, ["doctor", ""]),
        (2, ["doctor", "absent"]),
        (2, ["doctor", "u:secret@h/db"]),
        (3, ["doctor", "photos"]),
        (3, ["doctor", "http://[::1"]),
        (3, ["doctor", "http://h:99999"]),
        (3, ["doctor", "http://u:secret@h:port"]),
        (3, ["doctor", "postgresql://u:secret@h:port/db"]),
    ],
)
def test_silly_arguments_end_with_a_message(
    called: Called, code: int, arguments: list[str]
) -> None:
    ended, output, errors = called(*arguments)
    assert ended == code
    assert output or errors
    assert "secret" not in output + errors
    assert not Path("new.db").exists()


def test_a_folder_above_a_store_hides_it_from_nobody(called: Called) -> None:
    assert called("scan", ".")[0] == 0


def test_a_path_that_is_not_utf_8_can_be_copied(called: Called, tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("no such names there")
    store = os.fsdecode(b"runs\xff")
    shutil.copytree(MLRUNS, tmp_path / store)
    assert called("copy", store, "new.db", "--verify")[0] == 0


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    command = f"{sys.executable} -m mlmigrate stores --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_an_adapter_travels_to_worker_processes(adapter: Adapter) -> None:
    """Workers open a store from what they are sent."""
    assert adapter == pickle.loads(pickle.dumps(adapter))
