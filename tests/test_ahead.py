"""Reading ahead: in order, within bounds, and past the death of a worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlmigrate import ahead, spool
from mlmigrate.ahead import Digested, reading
from mlmigrate.contract import Selection, Source
from mlmigrate.errors import StoreError
from mlmigrate.locations import Opened, resolve
from mlmigrate.model import Failed, Item, Ref
from mlmigrate.stores import memory
from mlmigrate.testing.items import experiment, points, run

RUNS = 200
_plain = ahead._read_in_process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file store of many small runs."""
    store = tmp_path / "mlruns"
    (store / "1").mkdir(parents=True)
    (store / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: many\n")
    for number in range(RUNS):
        path = store / "1" / f"{number:032x}"
        (path / "metrics").mkdir(parents=True)
        (path / "meta.yaml").write_text(f"run_id: {path.name}\nexperiment_id: '1'\n")
        (path / "metrics" / "loss").write_text(f"1700000000000 {number}.5 0\n")
    return store


def opened(location: str) -> tuple[Opened, Source]:
    found = resolve(location)
    return found, found.source()


def dies_once(
    store: Opened, token: int, refs: Sequence[Ref], place: Path | None
) -> list[Digested | Failed]:
    """Read, but die in the middle the first time."""
    mark = Path(store.location).parent / "died"
    if refs[0].id.endswith(f"{75:02x}") and not mark.exists():
        mark.touch()
        os._exit(9)
    return _plain(store, token, refs, place)


def dies(
    store: Opened, token: int, refs: Sequence[Ref], place: Path | None
) -> list[Digested | Failed]:
    """Die."""
    os._exit(9)


def read_all(source: tuple[Opened, Source], workers: int) -> list[str]:
    refs = list(source[1].refs(Selection("run")))
    with reading([source], [refs], workers=workers) as batches:
        found = [entry for _, batch in batches for entry in batch]
    items = [entry.item for entry in found if isinstance(entry, Digested)]
    assert [item.ref for item in items] == refs
    return [entry.digest for entry in found if isinstance(entry, Digested)]


def test_a_worker_that_dies_costs_only_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(str(folder))
    with closing(source[1]):
        alone = read_all(source, 1)
        monkeypatch.setattr(ahead, "_read_in_process", dies_once)
        assert read_all(source, 2) == alone
    assert len(alone) == RUNS
    assert (folder.parent / "died").exists()


def test_workers_that_always_die_are_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(str(folder))
    monkeypatch.setattr(ahead, "_read_in_process", dies)
    with closing(source[1]), pytest.raises(StoreError, match="--workers 1"):
        read_all(source, 2)


@pytest.mark.parametrize("space", [True, False])
def test_big_items_come_through_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: bool
) -> None:
    """The same arrives, and nothing stays; without space, it comes all the same."""
    loss = folder / "1" / f"{3:032x}" / "metrics" / "loss"
    loss.write_text("".join(f"{at} 0.5 {at}\n" for at in range(10_000)))
    monkeypatch.setattr(spool, "BIG", 100_000)
    there = tmp_path / "spool"
    found = resolve(str(folder), shared={"temp-dir": str(there)})
    files: list[int] = []

    def counted(sent: Any) -> Any:
        files.append(len(list(there.glob("*/*"))))
        return spool.taken(sent)

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ahead, "taken", counted)
    if not space:
        monkeypatch.setattr(spool, "_written", full)
    source = found, found.source()
    with closing(source[1]):
        alone = read_all(source, 1)
        assert not any(files)
        assert read_all(source, 2) == alone
    assert any(files) == space
    assert list(there.iterdir()) == []


@pytest.fixture
def held() -> Iterator[tuple[Opened, Source]]:
    """A store in memory, whose runs have a thousand points each."""
    location = "memory:ahead"
    loss = points("loss", *((step, 0.5) for step in range(1000)))
    items: list[Item] = [
        experiment(),
        *(run(f"{number:032x}", metrics=(loss,)) for number in range(500)),
    ]
    memory.contents(location).items.update((item.ref, item) for item in items)
    yield opened(location)
    memory.forget(location)


def test_it_begins_at_once_and_stops_where_it_is_told(
    held: tuple[Opened, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_HELD", 4 * 25 * 24_000)
    asked: list[int] = []
    plain = memory.MemoryStore.read

    def watched(
        store: memory.MemoryStore, refs: Sequence[Ref]
    ) -> Iterator[Item | Failed]:
        asked.append(len(refs))
        return plain(store, refs)

    monkeypatch.setattr(memory.MemoryStore, "read", watched)
    refs = list(held[1].refs(Selection("run")))
    with reading([held], [refs], workers=2) as batches:
        deadline = time.monotonic() + 20
        while len(asked) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(asked) < 10  # of twenty: what is held is bounded
        assert sum(len(batch) for _, batch in batches) == len(refs)
    assert sum(asked) == len(refs)
