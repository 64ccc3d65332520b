"""Archives that somebody made to harm: our errors, and nothing outside them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import servers
from support.archives import Row, change, sign, sums, table_path, write
from support.command_line import Cli
from support.tree import snapshot

import mlmigrate
from mlmigrate.codec import TABLES
from mlmigrate.contract import Selection
from mlmigrate.errors import MlmigrateError, StoreError
from mlmigrate.locations import resolve
from mlmigrate.model import KINDS, Failed, Item, Problem
from mlmigrate.stores import memory
from mlmigrate.stores.archive import checking
from mlmigrate.stores.archive import manifest as manifests
from mlmigrate.stores.archive.local import Local
from mlmigrate.testing.suite import RUN, MemorySources, everything


@pytest.fixture
def archive(sources: MemorySources, tmp_path: Path) -> Path:
    items, files = everything()
    mlmigrate.copy([sources(*items, files=files)], f"archive:{tmp_path / 'a'}")
    return tmp_path / "a"


def restored(archive: Path, tmp_path: Path, cli: Cli) -> tuple[int, Any, set[str]]:
    """Restore into SQLite: exit code, report and the files that came to be."""
    before = set(snapshot(tmp_path))
    folder = tmp_path / "restored"
    folder.mkdir()
    sink = servers.fresh_database(folder / "sink.db")
    code, said = cli("copy", archive, sink, "--json")
    after = {path for path in snapshot(tmp_path) if not path.startswith("restored")}
    return code, said, after - before


def read_all(archive: Path) -> list[Item | Failed]:
    """Read what can be read, artifacts, too."""
    store = resolve(str(archive)).source()
    try:
        refs = [ref for kind in KINDS for ref in store.refs(Selection(kind))]
        items = list(store.read(refs))
        for item in items:
            for file in item.artifacts if isinstance(item, Item) else ():
                with store.open(item.ref, file.path) as data:
                    data.read()
        list(store.findings())
        return items
    finally:
        store.close()


@pytest.mark.parametrize(
    "path", ["../../evil", "/tmp/evil", "a/../../../evil", "C:\\evil", "a\0b", ""]
)
def test_artifact_paths(archive: Path, tmp_path: Path, cli: Cli, path: str) -> None:
    """A path that leads out costs its artifact, and nothing is written there."""

    def evil(row: Row) -> Row:
        return {**row, "path": path} if row["path"] == "x" else row

    change(archive, table_path(archive, 1, "artifacts"), evil)
    code, said, outside = restored(archive, tmp_path, cli)

    assert (3, set(), []) == (code, outside, said["failed"])
    assert ["artifact" in each["what"] for each in said["problems"]] == [True]
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("id", ["../../../evil", "/tmp/evil", "a\0b", "x" * 5000])
def test_ids(archive: Path, tmp_path: Path, cli: Cli, id: str) -> None:
    """A run id that is a path writes nothing outside, either."""

    def evil(row: Row) -> Row:
        named = {
            key: id
            for key in ("id", "run_id", "origin")
            if row.get(key) == RUN and row.get("kind", "run") == "run"
        }
        return {**row, **named}

    for path in [*archive.glob("segments/*/*.parquet"), archive / "current.parquet"]:
        change(archive, path, evil)
    code, _, outside = restored(archive, tmp_path, cli)

    assert code in (0, 3)
    assert set() == outside
    assert not Path("/tmp/evil").exists()


def test_links_out(archive: Path, tmp_path: Path) -> None:
    """Nothing is read through a link that leads out of the archive."""
    secret = tmp_path / "secret"
    for blob in list(archive.glob("blobs/*/*")):
        secret.write_bytes(blob.read_bytes())
        copy = tmp_path / "b"
        shutil.copytree(archive, copy)
        link = copy / blob.relative_to(archive)
        link.unlink()
        link.symlink_to(secret)
        (run,) = (each for each in read_all(copy) if each.ref.id == RUN)
        assert isinstance(run, Item)
        assert 2 == len(run.artifacts)
        shutil.rmtree(copy)
    for table in archive.glob("segments/*/runs.parquet"):
        shutil.move(table, secret)
        table.symlink_to(secret)
    failed = [each for each in read_all(archive) if isinstance(each, Failed)]
    assert 2 == len(failed)
    shutil.move(archive / "segments", tmp_path / "segments")
    (archive / "segments").symlink_to(tmp_path / "segments")
    assert not [e for e in read_all(archive) if isinstance(e, Item) and e.params]
    (archive / "mlmigrate.json").unlink()
    (archive / "mlmigrate.json").symlink_to("/etc/passwd")
    read_all(archive)  # by its spare


def test_pipes(archive: Path) -> None:
    """A pipe in the place of a file makes nobody wait."""
    for blob in archive.glob("blobs/*/*"):
        blob.unlink()
        os.mkfifo(blob)
    (run,) = (each for each in read_all(archive) if each.ref.id == RUN)
    assert isinstance(run, Item)
    assert () == run.artifacts
    path = table_path(archive, 1, "runs")
    path.unlink()
    os.mkfifo(path)
    assert [each for each in read_all(archive) if isinstance(each, Failed)]


class TestManifest:
    def test_future_format(self, archive: Path, cli: Cli) -> None:
        """A later format is refused with the way out."""
        fields = json.loads((archive / "mlmigrate.json").read_text())
        write(archive, {**fields, "format": 2})
        for command in (["check", archive], ["inspect", archive]):
            code, said = cli(*command)

            assert code == 1
            assert "format 2, and this mlmigrate reads up to 1: upgrade" in said

    def test_more_than_is_known(self, archive: Path, cli: Cli) -> None:
        """What a later minor version adds is kept, and no harm."""
        fields = json.loads((archive / "mlmigrate.json").read_text())
        write(archive, {**fields, "comment": "from the future"})
        assert 0 == cli("check", archive, "--json")[0]
        data = manifests.dump(manifests.load((archive / "mlmigrate.json").read_bytes()))
        assert b"from the future" in data

    @pytest.mark.parametrize(
        "break_",
        [
            lambda m: [],
            lambda m: {**m, "segments": None},
            lambda m: {**m, "segments": [{}]},
            lambda m: {**m, "current": {"size": float("nan"), "sha256": "0" * 64}},
            lambda m: {**m, "current": {"size": -1, "sha256": "0" * 64}},
            lambda m: {**m, "current": {"size": 2**80, "sha256": "0" * 64}},
            lambda m: {**m, "current": {"size": 1, "sha256": "../../etc/passwd"}},
            lambda m: {**m, "segments": m["segments"] * 2},
            lambda m: {**m, "created": "1e999"},
            lambda m: {**m, "format": "1"},
            lambda m: {**m, "generation": True},
            lambda m: {
                **m,
                "segments": [{**m["segments"][0], "number": 2**31}],
            },
            lambda m: {**m, "segments": [{**m["segments"][0], "files": {"../x": 1}}]},
        ],
    )
    def test_nonsense(
        self, archive: Path, break_: Callable[[Any], Any], cli: Cli
    ) -> None:
        """Whatever a manifest says instead of what it must: an error of ours."""
        fields = json.loads((archive / "mlmigrate.json").read_text())
        broken = break_(fields)
        if isinstance(broken, dict):
            write(archive, broken)
        else:
            for name in ("mlmigrate.json", "mlmigrate.spare.json"):
                (archive / name).write_text(json.dumps(broken))
        with pytest.raises(StoreError):
            resolve(str(archive)).source()
        assert 3 == cli("check", archive, "--json")[0]

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\0", "9" * 10_000])
    def test_no_json(self, archive: Path, text: str) -> None:
        """So for what is no JSON at all."""
        for name in ("mlmigrate.json", "mlmigrate.spare.json"):
            (archive / name).write_text(text)
        with pytest.raises(StoreError):
            resolve(str(archive)).source()

    def test_paths_are_not_taken_from_it(self, archive: Path) -> None:
        """A folder that it names elsewhere is not looked at."""
        fields = json.loads((archive / "mlmigrate.json").read_text())
        fields["segments"][0]["folder"] = "../../elsewhere"
        fields["current"]["file"] = "/etc/passwd"
        write(archive, fields)
        assert all(isinstance(each, Item) for each in read_all(archive))


def replaced(archive: Path, table: str, data: pa.Table, **options: Any) -> None:
    pq.write_table(data, table_path(archive, 1, table), **options)
    sign(archive)


class TestTables:
    @pytest.mark.parametrize("table", ["runs", "params", "metrics", "artifacts"])
    def test_columns(self, archive: Path, table: str) -> None:
        """Columns that are missing, or of other types, cost what needs them."""
        path = table_path(archive, 1, table)
        data = pq.read_table(path)
        for name in data.column_names:
            at = data.column_names.index(name)
            other = pa.array([b"\xff\xfe"] * len(data), pa.binary())
            nulls = pa.nulls(len(data), data.schema.field(at).type)
            for broken in (
                data.drop_columns([name]),
                data.set_column(at, name, other),
                data.set_column(at, name, nulls),
            ):
                replaced(archive, table, broken)
                for item in read_all(archive):
                    if isinstance(item, Item) and item.ref.id == RUN:
                        nullable = name in ("segment", "sha256") or (
                            table == "runs" and name not in ("item", "run_id")
                        )
                        assert nullable or [
                            each for each in item.findings if isinstance(each, Problem)
                        ], (name, broken.schema)

    def test_text_that_is_none(self, archive: Path) -> None:
        """Bytes that are not UTF-8, called text."""
        path = table_path(archive, 1, "params")
        data = pq.read_table(path)
        raw = pa.array([b"\xff\xfe"] * len(data), pa.binary())
        text = pa.Array.from_buffers(pa.string(), len(data), raw.buffers())
        replaced(archive, "params", data.set_column(4, "value", text))
        read_all(archive)

    @pytest.mark.parametrize("table", [*TABLES, "current"])
    def test_codes_of_nothing(self, archive: Path, table: str) -> None:
        """Texts are coded; a code may lead out of the list of texts."""
        path = table_path(archive, 1, table)
        path = path if table in TABLES else archive / "current.parquet"
        whole = pq.read_table(path)
        if not len(whole):
            any_row = {
                f.name: "x" if f.type == pa.string() else 1 for f in whole.schema
            }
            any_row |= dict.fromkeys({"carried", "valid"} & any_row.keys(), True)
            whole = pa.Table.from_pylist([any_row], schema=whole.schema)
        for at, field in enumerate(whole.schema):
            if field.type != pa.string():
                continue
            indices = pa.array([9] * len(whole), pa.int32())
            codes = pa.DictionaryArray.from_arrays(indices, pa.array(["a"]), safe=False)
            pq.write_table(whole.set_column(at, field.name, codes), path)
            sign(archive)
            with suppress(MlmigrateError):
                checking.check(Local(archive))
                read_all(archive)

    def test_bomb(self, archive: Path) -> None:
        """A small file that says it has a billion rows is not believed."""
        schema = pq.read_table(table_path(archive, 1, "metrics")).schema
        rows = 3_000_000
        columns = [
            pa.array(np.zeros(rows, np.int32))
            if field.type == pa.int32()
            else pa.array(np.zeros(rows), field.type)
            if field.type != pa.string()
            else pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 1_000_000])
            )
            for field in schema
        ]
        data = pa.table(columns, names=schema.names)
        replaced(archive, "metrics", data, row_group_size=rows, compression="zstd")
        assert table_path(archive, 1, "metrics").stat().st_size < 200_000
        (run,) = (each for each in read_all(archive) if each.ref.id == RUN)
        assert isinstance(run, Item)
        assert () == run.metrics
        assert any("claims 3000000 rows" in str(each) for each in run.findings)

    def test_long_text_many_times(self, archive: Path) -> None:
        """A long text that stands in many rows is one text in memory."""
        schema = pq.read_table(table_path(archive, 1, "params")).schema
        rows = 100_000
        columns = [
            pa.array(np.full(rows, 1, np.int32))
            if field.type == pa.int32()
            else pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 1_000_000])
            )
            for field in schema
        ]
        replaced(archive, "params", pa.table(columns, names=schema.names))
        read_all(archive)  # as plain text: 200 GB

    def test_sizes(self, archive: Path, tmp_path: Path, cli: Cli) -> None:
        """Sizes that cannot be."""
        for size in (-1, 2**62):
            change(
                archive,
                table_path(archive, 1, "artifacts"),
                lambda row, size=size: {**row, "size": size},
            )
            (run,) = (each for each in read_all(archive) if each.ref.id == RUN)
            assert isinstance(run, Item)
            assert () == run.artifacts
        assert 3 == cli("check", archive, "--json")[0]

    def test_unknown_kinds(self, archive: Path) -> None:
        """Kinds of later versions are refused, not dropped."""
        change(
            archive,
            archive / "current.parquet",
            lambda row: {**row, "kind": "trace2"},
        )
        with pytest.raises(StoreError, match="upgrade mlmigrate"):
            resolve(str(archive)).source()

    def test_numbers_of_nowhere(self, archive: Path) -> None:
        """Rows that point to segments and items that are not there."""
        for row_ in ({"segment": 9}, {"item": 77}, {"segment": -1}, {"item": -5}):
            copy = archive.parent / "b"
            shutil.copytree(archive, copy)
            change(copy, copy / "current.parquet", lambda row, r=row_: {**row, **r})
            assert not [e for e in read_all(copy) if isinstance(e, Item) and e.params]
            shutil.rmtree(copy)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_change(archive: Path, data: st.DataObject) -> None:
    """Bytes changed anywhere, with a manifest that says they must be so."""
    paths = [*sorted(archive.glob("segments/*/*.parquet")), archive / "current.parquet"]
    path = data.draw(st.sampled_from(paths))
    whole = path.read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    path.write_bytes(broken)
    sign(archive)
    try:
        read_all(archive)
    except (MlmigrateError, OSError):
        pass
    finally:
        path.write_bytes(whole)
        sign(archive)


def test_signing_is_what_is_written(archive: Path) -> None:
    """These tests sign as the archive itself does."""
    before = (archive / "mlmigrate.json").read_text()
    sign(archive)
    after = (archive / "mlmigrate.json").read_text()
    plain = re.compile(r'"checksum": "\w+"|\s')

    assert plain.sub("", before) == plain.sub("", after)
    assert sums(archive / "current.parquet") == {
        key: value
        for key, value in json.loads(before)["current"].items()
        if key != "file"
    }
    assert all(isinstance(each, Item) for each in read_all(archive))


def test_lock_out_of_the_archive(
    archive: Path, tmp_path: Path, cli: Cli, sources: MemorySources
) -> None:
    """A lock that is a link is not written through."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (archive / "mlmigrate.lock").symlink_to(secret)
    items, _ = everything()
    cli("export", sources(items[0], items[2]), archive)
    assert "mine" == secret.read_text()
    assert memory.contents("memory:none").items == {}
