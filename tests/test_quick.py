"""`--quick`: what has not changed state since it was copied is not read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import servers
from support.fixture_stores import COUNTS, FIXTURES

import mlmigrate
from mlmigrate.contract import Glancing, Selection
from mlmigrate.locations import resolve
from mlmigrate.model import Item, Run
from mlmigrate.pipeline import Options

STORES = sorted(COUNTS)


def location(name: str, folder: Path) -> str:
    """Return a copy of a fixture."""
    shutil.copytree((FIXTURES / name).parent, folder / "store", symlinks=True)
    path = folder / "store" / Path(name).name
    return f"sqlite:///{path}" if path.suffix == ".db" else str(path)


@pytest.mark.parametrize("name", STORES)
def test_a_glance_shows_what_reading_shows(name: str, tmp_path: Path) -> None:
    source = resolve(location(name, tmp_path)).source()
    try:
        refs = list(source.refs(Selection("run")))
        items = [item for item in source.read(refs) if isinstance(item, Item)]
        assert isinstance(source, Glancing)
        seen = {glance.ref: glance for glance in source.glance(refs)}
        for item in items:
            if item.ref not in seen:
                assert item.findings  # what is damaged is always read
                continue
            glance, header = seen[item.ref], item.header
            assert isinstance(header, Run)
            assert (glance.origin, glance.status) == (item.origin, header.status)
            assert glance.end_time == header.end_time
            assert glance.lifecycle == header.lifecycle
    finally:
        source.close()


@pytest.mark.parametrize("name", STORES)
def test_a_second_copy_in_a_hurry_skips_what_had_ended(
    name: str, tmp_path: Path
) -> None:
    source = location(name, tmp_path)
    sink = servers.fresh_database(tmp_path / "sink.db")
    first = mlmigrate.copy([source], sink)
    again = mlmigrate.copy([source], sink, Options(quick=True))
    assert again.copied == again.updated == {}
    assert again.skipped.get("run", 0) == first.copied.get("run", 0)
    assert mlmigrate.verify([source], sink).different == []


def test_a_server_in_a_hurry(tmp_path: Path) -> None:
    with servers.mlflow_server(tmp_path / "server") as url:
        mlmigrate.copy([location("laptop-3.1/mlruns", tmp_path)], url)
        sink = servers.fresh_database(tmp_path / "sink.db")
        first = mlmigrate.copy([url], sink)
        again = mlmigrate.copy([url], sink, Options(quick=True))
        assert again.skipped["run"] == first.copied["run"] > 0
        assert mlmigrate.verify([url], sink).different == []
