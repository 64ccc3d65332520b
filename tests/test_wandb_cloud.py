"""The sink wandb://: what W&B's real client sends to a server, read back and proven."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.wandb_server import WandbServer

from mlmigrate import pipeline
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.fit import fit
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Note, Param, Ref, Run, Tag
from mlmigrate.pipeline import Options
from mlmigrate.testing import suite
from mlmigrate.testing.suite import OTHER, RUN, MemorySources, Result, everything

SINK = "wandb://team/proj"


@pytest.fixture
def source() -> Iterator[MemorySources]:
    from mlmigrate.stores import memory

    sources = MemorySources()
    yield sources
    for location in sources.made:
        memory.forget(location)


def copy(
    origin: str, to: str = SINK, *options: str, inward: tuple[str, ...] = ()
) -> Result:
    opened = resolve(to, ["settle=0.5", *options] if "wandb:" in to else options)
    return Result(list(pipeline.copy([resolve(origin, inward)], opened, Options())))


def read(location: str, kind: str = "run") -> dict[str, Item]:
    store = resolve(location).source()
    try:
        found = list(store.read(list(store.refs(Selection(kind)))))  # type: ignore[arg-type]
        assert [] == [each for each in found if isinstance(each, Failed)]
        return {item.ref.id: item for item in found if isinstance(item, Item)}
    finally:
        store.close()


class TestRoundTrips:
    def test_everything_arrives(
        self, source: MemorySources, wandb_loopback: WandbServer
    ) -> None:
        """Each field of each record is read back as it was, and files byte for byte."""
        items, files = everything()
        items = [item for item in items if item.ref.kind != "registered_model"]
        result = copy(source(*items, files=files))

        assert {"copied": 2} == result.counts(), result.events
        store = resolve(SINK).source()
        back = {
            item.ref: item
            for kind in ("experiment", "run")
            for item in store.read(list(store.refs(Selection(kind))))
        }
        for item in items:
            if item.ref.kind == "run":
                assert digest(item) == digest(back[item.ref]), (item, back[item.ref])
        for (ref, path), content in files.items():
            with store.open(ref, path) as file:
                assert content == file.read()
        store.close()
