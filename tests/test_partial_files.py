"""What is there whole or not at all, and what killed processes left of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.fixture_stores import FIXTURES

from mlmigrate import api
from mlmigrate.partial_files import appearing, appearing_folder, growing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks")


@pytest.fixture(params=[0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    place, folder = tmp_path / "file", tmp_path / "folder"
    with suppress(KeyError), appearing(place, tmp_path) as file:
        file.write(b"half")
        raise KeyError
    with suppress(KeyError), appearing_folder(folder, tmp_path) as made:
        (made / "half").touch()
        raise KeyError
    assert [] == list(tmp_path.iterdir())
    with appearing(place, tmp_path) as file, appearing_folder(folder, tmp_path) as made:
        file.write(b"whole")
        (made / "whole").touch()
        assert not place.exists()
        assert not folder.exists()
    assert b"whole" == place.read_bytes()
    assert [folder / "whole"] == list(folder.iterdir())
    assert {place, folder} == set(tmp_path.iterdir())


def test_who_may_read_them(tmp_path: Path, umask: int) -> None:
    with appearing(tmp_path / "file", tmp_path) as file:
        file.write(b"whole")
    with appearing_folder(tmp_path / "folder", tmp_path):
        pass
    assert 0o666 & ~umask == _mode(tmp_path / "file")
    assert 0o777 & ~umask == _mode(tmp_path / "folder")


def test_what_was_left(tmp_path: Path) -> None:
    (tmp_path / ".mlmigrate-file").write_bytes(b"half")
    (tmp_path / ".mlmigrate-folder" / "inner").mkdir(parents=True)
    with growing(tmp_path) as (_, first), growing(tmp_path) as (_, second):
        assert {first, second} == set(tmp_path.iterdir())
    assert [] == list(tmp_path.iterdir())


def test_new_database(tmp_path: Path, umask: int) -> None:
    """A SQLite file has its name when it is whole; what killed copies left goes."""
    source, sink = str(FIXTURES / "cluster-2.9" / "mlruns"), tmp_path / "mlflow.db"
    for _ in range(2):
        (tmp_path / ".mlmigrate-left").write_bytes(b"half")
        assert 0 == api.copy([source], f"sqlite:///{sink}").exit_code
        assert [] == list(tmp_path.glob(".mlmigrate-*"))
    assert 0o666 & ~umask == _mode(sink)
