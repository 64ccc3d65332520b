"""A copy of traces, entities or workspaces, killed at every call of its sink, and run
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support import postgres, servers
from support.killing import killed_at_every_call

from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.locations import Opened, chosen_workspace, resolve
from mlmigrate.model import KINDS, Item, Ref
from mlmigrate.pipeline import Options
from mlmigrate.pipeline.workspaces import each_workspace
from mlmigrate.stores import memory
from mlmigrate.testing.faults import When
from mlmigrate.testing.suite import MemorySources, with_entities, with_traces
from mlmigrate.testing.workspaces import housed
from mlmigrate.verification import Different, Missing, verify


class Places:
    """Makes fresh sinks of one kind, which are gone in the end."""

    def __init__(self, kind: str, folder: Path, held: ExitStack) -> None:
        self._kind, self._folder, self._held, self._count = kind, folder, held, 0

    def __call__(self) -> Opened:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        options = []
        match self._kind:
            case "memory":
                location = f"memory:{folder}"
                self._held.callback(memory.forget, location)
            case "archive":
                location = f"archive:{folder / 'a'}"
            case "sqlite":
                location = servers.fresh_database(folder / "sink.db")
            case _:
                database = postgres.postgres_database(schema=True)
                location = self._held.enter_context(database)
                options = [f"artifact-root={folder}"]
        return resolve(location, options, shared={"artifacts": "copy"})


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    """Fresh sinks of one kind after another."""
    if request.param == "postgresql" and not postgres.available():
        pytest.skip("no PostgreSQL here")
    with ExitStack() as held:
        yield Places(request.param, tmp_path, held)


def digests(place: Opened) -> dict[tuple[str | None, Ref], str]:
    """Return what a store holds in its workspaces: a digest of each item but
    experiments.
    """
    found = {}
    with closing(each_workspace(place, [])) as each:
        for view, store in each:
            for kind in (kind for kind in KINDS if kind != "experiment"):
                for item in store.read(list(store.refs(Selection(kind)))):
                    assert isinstance(item, Item), item
                    found[chosen_workspace(view), item.ref] = digest(item)
    return found


WHENS: tuple[When, ...] = ("before", "half", "after")
#: PostgreSQL takes its time, and goes the ways that SQLite does.
CASES: list[tuple[str, str, When]] = [
    *(
        (what, kind, when)
        for what in ("traces", "entities")
        for kind in ("memory", "sqlite", "archive")
        for when in WHENS
    ),
    ("traces", "postgresql", "half"),
    ("entities", "postgresql", "half"),
    # Of many more calls, each as it is without workspaces.
    *(("workspaces", kind, when) for kind in ("memory", "archive") for when in WHENS),
    ("workspaces", "sqlite", "half"),
]


@pytest.mark.parametrize(("what", "places", "when"), CASES, indirect=["places"])
def test_at_every_call(
    what: str, when: When, places: Places, sources: MemorySources
) -> None:
    """A second copy makes what an undisturbed one would have."""
    if what == "workspaces":
        origin = housed(sources)
    else:
        items, data = with_traces() if what == "traces" else (with_entities(), {})
        origin = sources(*items, files=data)
    filled = killed_at_every_call(origin, places, when)
    expected = digests(next(filled))
    assert expected.keys() == digests(resolve(origin)).keys()
    for sink in filled:
        assert digests(sink) == expected
        found = verify([resolve(origin)], sink, Options())
        assert not [each for each in found if isinstance(each, Different | Missing)]
