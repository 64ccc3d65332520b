"""docs/archive-format.md: its queries give the right answer, its tables are all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.reading import digests_at
from test_archive_export import TestIncremental as Incremental

from mlmigrate.codec import TABLES
from mlmigrate.testing.suite import OTHER, RUN, MemorySources

PAGE = (Path(__file__).parents[1] / "docs" / "archive-format.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def archive(
    sources: MemorySources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """One run stands in two segments: it grew from one point to two."""
    _, place, _ = Incremental().grown(sources, tmp_path)
    assert 3 == len(digests_at(str(place)))
    monkeypatch.chdir(place)
    return place


def test_sql(archive: Path) -> None:
    """No item counts twice."""
    last, finished, files, as_of = (
        duckdb.execute(query).fetchall() for query in blocks("sql")
    )

    assert [(RUN, "loss", 0.5)] == last
    assert [(RUN, "churn"), (OTHER, "churn")] == [(row[0], row[2]) for row in finished]
    assert [(RUN, "a", 1), (RUN, "b", 1)] == [row[:3] for row in files]
    assert all((archive / row[3]).read_bytes() == b"1" for row in files)
    assert [(RUN, "tidy-owl-1", 1)] == as_of


def test_pandas(archive: Path) -> None:
    """Nor so in pandas."""
    names: dict[str, Any] = {}
    for program in blocks("python"):
        exec(program, names)
    last = names["last"]

    assert {(RUN, "loss"): 0.5} == last.to_dict()
    assert 2 == len(names["live"])


def test_every_column_is_described() -> None:
    """Whoever reads the page knows of each table and column."""
    for table, schema in TABLES.items():
        assert table in PAGE, table
        for column in schema:
            assert f"`{column.name}`" in PAGE, (table, column.name)
