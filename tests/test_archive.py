"""The archive as a sink and a source: the shipped suite, seen past the adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import Row, change, live, rows_of, table_path

from mlmigrate.codec import TABLES, Block, Entry, Rows, decode, escape, unescape
from mlmigrate.digest import digest
from mlmigrate.errors import ItemError
from mlmigrate.model import Item, Run
from mlmigrate.testing.strategies import runs
from mlmigrate.testing.suite import FullSinkSuite, Peeked, everything


class TestArchive(FullSinkSuite):
    @pytest.fixture
    def sink_location(self, tmp_path: Path) -> str:
        return f"archive:{tmp_path / 'backup'}"

    def peek(self, location: str, run: str) -> Peeked | None:
        archive = Path(location.removeprefix("archive:"))
        if not archive.exists() or not live(archive, "run", run):
            return None
        (row,) = rows_of(archive, "runs", "run", run)
        (index,) = rows_of(archive, "items", "run", run)
        pairs = {
            table: {
                unescape(each["key"]): unescape(each["value"])
                for each in rows_of(archive, table, "run", run)
            }
            for table in ("params", "tags")
        }
        return Peeked(
            row["status"],
            row["start_time"],
            row["end_time"],
            row["lifecycle"],
            pairs["params"],
            {k: v for k, v in pairs["tags"].items() if not k.startswith("mlmigrate.")},
            sorted(
                (each["key"], each["step"], each["timestamp"], each["value"])
                for each in rows_of(archive, "metrics", "run", run)
            ),
            bool(json.loads(index["mark"])["digest"]),
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        archive = Path(location.removeprefix("archive:"))
        at = live(archive, "run", run)
        assert at is not None

        def edited(row: Row) -> Row:
            mine = (row["item"], row["key"]) == (at["item"], key)
            return {**row, "value": value} if mine else row

        change(archive, table_path(archive, at["segment"], "tags"), edited)

    def delete_run(self, location: str, run: str) -> None:
        archive = Path(location.removeprefix("archive:"))
        at = live(archive, "run", run)
        assert at is not None

        def deleted(row: Row) -> Row:
            mine = (row["segment"], row["item"]) == (at["segment"], at["item"])
            return {**row, "lifecycle": "deleted"} if mine else row

        for table in ("runs", "items"):
            change(archive, table_path(archive, at["segment"], table), deleted)
        change(archive, archive / "current.parquet", deleted)

    def partial_files(self, location: str) -> list[str]:
        archive = Path(location.removeprefix("archive:"))
        return [str(path) for path in archive.glob("partial/**/*") if path.is_file()]


# -- the codec ------------------------------------------------------------------------


def round_trip(items: list[Item]) -> list[Item]:
    rows = Rows(1)
    for number, item in enumerate(items):
        sums = {file.path: "0" * 64 for file in item.artifacts}
        rows.add(Entry(item, number, digest(item), "here", sums))
    blocks = {table: Block(table, rows.take(table)) for table in TABLES}
    return [
        decode(item.ref, item.origin, item.mark, number, blocks.__getitem__)[0]
        for number, item in enumerate(items)
    ]


class TestCodec:
    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.lists(runs(), max_size=4))
    def test_any_run(self, items: list[Item]) -> None:
        """Rows hold whatever a run holds, to the last bit."""
        back = round_trip(items)

        assert list(map(digest, items)) == list(map(digest, back))
        for one, other in zip(items, back, strict=True):
            assert (one.header, one.params, one.tags) == (
                other.header,
                other.params,
                other.tags,
            )

    def test_everything(self) -> None:
        """Each field of each record is as it was."""
        items, _ = everything()
        for one, other in zip(items, round_trip(items), strict=True):
            assert digest(one) == digest(other)
            assert (one.header, one.versions, one.aliases, one.inputs) == (
                other.header,
                other.versions,
                other.aliases,
                other.inputs,
            )

    @given(st.text(st.sampled_from("a\0\ud800\udfff\U0010ffffd8f0é🚀"), max_size=12))
    def test_text(self, text: str) -> None:
        """Text that UTF-8 cannot hold is escaped, and nothing else is changed."""
        escape(text).encode()

        assert text == unescape(escape(text))

    def test_numbers_that_fit_nowhere(self) -> None:
        """An integer beyond 64 bits fails its item before a row of it is there."""
        items, _ = everything()
        run = items[1]
        assert isinstance(run.header, Run)
        rows = Rows(1)
        odd = replace(run, header=replace(run.header, end_time=2**63))
        with pytest.raises(ItemError, match="64 bits"):
            rows.add(Entry(odd, 0, "", "here"))

        assert all(not len(rows.take(table)) for table in TABLES)

    def test_nan_is_one(self) -> None:
        """Every NaN is written as the same bits; -0.0 keeps its sign."""
        odd = np.array([0x7FF8000000000001, 0xFFF0000000000001], np.uint64)
        values = np.concatenate([odd.view(np.float64), [-0.0]])
        items, _ = everything()
        metric = replace(
            items[1].metrics[0],
            steps=np.arange(3),
            timestamps=np.arange(3),
            values=values,
        )
        rows = Rows(1)
        rows.add(Entry(replace(items[1], metrics=(metric,)), 0, "", "here"))
        column = rows.take("metrics").column("value")
        bits = column.to_numpy().view(np.uint64).tolist()

        assert [0x7FF8000000000000] * 2 + [1 << 63] == bits
        assert pa.float64() == column.type
