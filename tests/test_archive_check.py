"""Damage: all of it is found, and what is whole can still be restored."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.archives import rows_of, table_path
from support.command_line import Cli

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.errors import MlmigrateError
from mlmigrate.locations import resolve
from mlmigrate.model import KINDS, Artifact, Failed, Item, Problem, Ref
from mlmigrate.stores import memory
from mlmigrate.testing.suite import MemorySources, everything, experiment, points, run

HELD = [(Ref("run", f"{number:032x}"), "m/weights") for number in range(40)]


def seed(sources: MemorySources) -> str:
    """Return a store of forty runs with points and artifacts, and of all else."""
    items, files = everything()
    items.append(experiment("2", "second"))
    for ref, path in HELD:
        points_ = points("loss", *((step, 1 / (step + 1)) for step in range(50)))
        artifact = Artifact(path, 1000)
        items.append(run(ref.id, "2", metrics=(points_,), artifacts=(artifact,)))
        files[ref, path] = random.Random(ref.id).randbytes(1000)
    return sources(*items, files=files)


@pytest.fixture
def archive(sources: MemorySources, tmp_path: Path, cli: Cli) -> Path:
    """An archive of two segments."""
    source = seed(sources)
    place = tmp_path / "archive"
    cli("export", source, place, "--json")
    held = memory.contents(source)
    for ref, _ in HELD[:3]:
        young = held.items[ref]
        more = (*young.metrics, points("acc", (0, 1.0), (99, 0.5)))
        held.items[ref] = replace(young, metrics=more)
    assert 0 == cli("export", source, place, "--json")[0]
    assert 2 == len(list((place / "segments").iterdir()))
    return place


def checked(cli: Cli, archive: Path, *more: str) -> Any:
    """Check, and return the damage."""
    code, said = cli("check", archive, "--json", *more)
    assert code == (3 if said["damaged"] else 0)
    return said


def files_of(archive: Path) -> list[Path]:
    return sorted(path for path in archive.rglob("*") if path.is_file())


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_whole(archive: Path, cli: Cli) -> None:
    """Nothing is wrong with an archive that nobody touched; every file is counted."""
    said = checked(cli, archive)
    files = files_of(archive)

    assert [] == said["damaged"] == said["notes"]
    assert len(files) == said["whole"]["files"]
    assert sum(path.stat().st_size for path in files) == said["whole"]["bytes"]


def test_every_file_missing_cut_or_changed(archive: Path, cli: Cli) -> None:
    """Whichever file is lost, cut or changed: it is named."""
    for path in files_of(archive):
        name = str(path.relative_to(archive))
        data = path.read_bytes()
        wrong: list[tuple[str, Callable[[], object]]] = [("missing", path.unlink)]
        if data:
            wrong.append(
                ("cut", lambda path=path, data=data: path.write_bytes(data[:-1]))
            )
            wrong.append(
                ("flip", lambda path=path, data=data: flip(path, len(data) // 2, 3))
            )
        wrong.append(
            ("longer", lambda path=path, data=data: path.write_bytes(data + b"x"))
        )
        for what, act in wrong:
            act()
            found = [each["where"] for each in checked(cli, archive)["damaged"]]
            path.write_bytes(data)

            assert [name] == found, (what, name, found)


def test_random_bits(archive: Path, cli: Cli) -> None:
    """Bits flipped anywhere are found, all of them at once, too."""
    rng = random.Random(7)
    paths = [path for path in files_of(archive) if path.stat().st_size]
    for _ in range(60):
        path = rng.choice(paths)
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        flip(path, at, bit)
        found = [each["where"] for each in checked(cli, archive)["damaged"]]
        flip(path, at, bit)

        assert [str(path.relative_to(archive))] == found, (path, at, bit)
    chosen = rng.sample([p for p in paths if "mlmigrate" not in p.name], 12)
    for path in chosen:
        flip(path, rng.randrange(path.stat().st_size), rng.randrange(8))
    found = [each["where"] for each in checked(cli, archive)["damaged"]]

    assert {str(path.relative_to(archive)) for path in chosen} == set(found)


def test_what_is_whole_is_restored(
    archive: Path, cli: Cli, sources: MemorySources, tmp_path: Path
) -> None:
    """Bits flipped anywhere cost what `check` says they hurt, and nothing is wrong."""
    clean = contents(archive, sources)
    rng = random.Random(11)
    tables = sorted(archive.glob("segments/*/*.parquet"))
    for _ in range(40):
        path = rng.choice(tables)
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        flip(path, at, bit)
        (damage,) = checked(cli, archive)["damaged"]
        left = contents(archive, sources)
        flip(path, at, bit)
        hurts = set(damage["hurts"])

        whole = {ref: clean[ref] for ref in clean if ref not in hurts}
        assert whole == {ref: left.get(ref) for ref in whole}, (path, at, bit)


def contents(archive: Path, sources: MemorySources) -> dict[str, tuple[Any, ...]]:
    """Return all that can be restored."""
    target = sources()
    mlmigrate.copy([str(archive)], target)
    held = memory.contents(target)
    return {
        str(ref): (
            item.header,
            item.params,
            item.tags,
            # What a version refers to may be lost.
            [(each.origin, each.description, each.tags) for each in item.versions],
            [m.values.tolist() for m in item.metrics],
            {file.path: held.blobs[ref, file.path] for file in item.artifacts},
        )
        for ref, item in held.items.items()
    }


@pytest.mark.parametrize("what", ["flip", "cut", "missing"])
def test_a_damaged_blob_costs_one_artifact(
    archive: Path, cli: Cli, sources: MemorySources, what: str
) -> None:
    """Its run is restored without it, and that is told."""
    ref, path = HELD[7]
    (row,) = rows_of(archive, "artifacts", "run", ref.id)
    blob = archive / "blobs" / row["sha256"][:2] / row["sha256"]
    if what == "flip":
        flip(blob, 500, 0)
    elif what == "cut":
        blob.write_bytes(blob.read_bytes()[:-1])
    else:
        blob.unlink()
    (damage,) = checked(cli, archive)["damaged"]
    target = sources()
    code, said = cli("copy", archive, target, "--json")

    assert (f"blobs/{blob.parent.name}/{blob.name}", [str(ref)]) == (
        damage["where"],
        damage["hurts"],
    )
    assert 3 == code
    assert [] == said["failed"]
    (problem,) = said["problems"]
    assert path in problem["what"]
    assert () == memory.contents(target).items[ref].artifacts
    assert 44 == len(memory.contents(target).items) - 1
    # Whoever opens it all the same gets no wrong byte unnoticed.
    store = resolve(str(archive)).source()
    with pytest.raises(OSError, match=blob.name), store.open(ref, path) as file:
        file.read()
    store.close()


def test_the_next_export_mends_what_it_can(
    archive: Path, cli: Cli, tmp_path: Path, sources: MemorySources
) -> None:
    """A lost manifest or index is made again."""
    for name in ("mlmigrate.json", "mlmigrate.spare.json", "current.parquet"):
        (archive / name).unlink()
        source = sources(experiment("9", f"new {name}"))
        _, said = cli("export", source, archive, "--json")
        assert {"experiment": 1} == said["copied"]
        assert [] == checked(cli, archive)["damaged"]


def test_an_export_of_nothing_new_mends_too(
    archive: Path, cli: Cli, sources: MemorySources
) -> None:
    """What can be made again is, and the archive holds what it held."""
    before = contents(archive, sources)
    for name in ("mlmigrate.json", "mlmigrate.spare.json", "current.parquet"):
        path = archive / name
        flip(path, path.stat().st_size // 2, 1)
        assert 0 == cli("export", sources(), f"archive:{archive}", "--json")[0]
        assert [] == checked(cli, archive)["damaged"]
        assert before == contents(archive, sources)


@pytest.mark.parametrize("what", ["flip", "missing"])
def test_export_deep_mends_blobs(
    sources: MemorySources, tmp_path: Path, cli: Cli, what: str
) -> None:
    """While the source is there, what its artifacts lost comes back."""
    source, archive = seed(sources), tmp_path / "archive"
    cli("export", source, archive, "--json")
    ref, _ = HELD[7]
    (row,) = rows_of(archive, "artifacts", "run", ref.id)
    blob = archive / "blobs" / row["sha256"][:2] / row["sha256"]
    if what == "flip":
        flip(blob, 500, 0)
    else:
        blob.unlink()
    code, said = cli("export", source, archive, "--deep", "--json")

    assert (0, {"run": 1}) == (code, said["updated"])
    assert [] == checked(cli, archive)["damaged"]
    assert 0 == cli("verify", source, archive, "--json")[0]


def test_sample(archive: Path, cli: Cli) -> None:
    """A sample reads a part, and still finds what is missing or cut."""
    (row,) = rows_of(archive, "artifacts", "run", HELD[3][0].id)
    (archive / "blobs" / row["sha256"][:2] / row["sha256"]).unlink()
    said = checked(cli, archive, "--sample", "5%")

    assert {"read": 2, "of": 43} == said["blobs"]
    assert [[str(HELD[3][0])]] == [each["hurts"] for each in said["damaged"]]
    assert 2 == cli("check", archive, "--sample", "5 apples")[0]
    assert 2 == cli("check", archive, "--sample", "0%")[0]


def test_others_are_only_noted(archive: Path, cli: Cli) -> None:
    """What does not belong to an archive is no damage."""
    (archive / "README.txt").write_text("my backup")
    (archive / "partial").mkdir()
    (archive / "partial" / "x").write_text("x")
    (archive / "blobs" / "00").mkdir(exist_ok=True)
    (archive / "blobs" / "00" / ("0" * 64)).write_text("x")
    said = checked(cli, archive)

    assert [] == said["damaged"]
    assert 3 == len(said["notes"])


def test_no_archive(tmp_path: Path, cli: Cli) -> None:
    """Where there is none, that is an error."""
    code, said = cli("check", tmp_path / "absent")
    assert code == 1
    assert "there is no archive" in said


def test_both_manifests_damaged(archive: Path, cli: Cli) -> None:
    """What the archive held is still named."""
    for name in ("mlmigrate.json", "mlmigrate.spare.json"):
        flip(archive / name, 300, 1)
    said = checked(cli, archive)

    assert ["mlmigrate.json", "mlmigrate.spare.json"] == [
        each["where"] for each in said["damaged"]
    ]
    assert str(HELD[0][0]) in said["damaged"][0]["hurts"]
    with pytest.raises(MlmigrateError, match="checksum"):
        resolve(str(archive)).source()


def test_as_a_source_it_reads_or_fails(archive: Path, tmp_path: Path) -> None:
    """With any table lost, each item is read as it was, or fails by itself."""
    store = resolve(str(archive)).source()
    refs = [ref for kind in KINDS for ref in store.refs(Selection(kind))]
    store.close()
    for table in ("runs", "params", "metrics", "items", "tags", "model_versions"):
        copy = tmp_path / table
        shutil.copytree(archive, copy)
        table_path(copy, 1, table).unlink()
        store = resolve(str(copy)).source()
        found = list(store.read(refs))
        store.close()

        assert refs == [each.ref for each in found]
        failed = [each.why for each in found if isinstance(each, Failed)]
        failed += [
            problem.what
            for each in found
            if isinstance(each, Item)
            for problem in each.findings
            if isinstance(problem, Problem)
        ]
        assert bool(failed) == (table != "items")
        assert any(isinstance(each, Item) for each in found)
        assert all(table in why for why in failed)


def test_manifest_names_its_format(archive: Path) -> None:
    """A person sees at once what it is."""
    manifest = json.loads((archive / "mlmigrate.json").read_text())

    assert 1 == manifest["format"]
    assert manifest["tool"].startswith("mlmigrate ")
