"""Source and sink ``memory:NAME``: the reference that other adapters are held to.

It holds everything, in dictionaries, while the process lives.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Literal

from mlmigrate import marks, merge
from mlmigrate.artifacts import checksum_of, combined_checksum
from mlmigrate.contract import (
    Capabilities,
    Copy,
    Delivery,
    Glance,
    ModelFacts,
    Selection,
    TraceFacts,
    Written,
)
from mlmigrate.entities import ENTITIES, address
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Entity,
    Experiment,
    Failed,
    Finding,
    Item,
    Lifecycle,
    Ref,
    Run,
)
from mlmigrate.workspaces import DEFAULT


@dataclass(slots=True)
class Contents:
    """What a memory store holds; tests seed and peek here."""

    items: dict[Ref, Item] = field(default_factory=dict)
    blobs: dict[tuple[Ref, str], bytes] = field(default_factory=dict)


_stores: dict[str, Contents] = {}


def contents(location: str, workspace: str | None = None) -> Contents:
    """Return what the store at *location* holds in a workspace, the default one if
    None.
    """
    return _stores.setdefault(_in_workspace(location, workspace), Contents())


def forget(location: str) -> None:
    """Drop the store at *location*, with all its workspaces."""
    for name in [*_workspaces(location), DEFAULT]:
        _stores.pop(_in_workspace(location, name), None)


def _in_workspace(location: str, workspace: str | None) -> str:
    """Return what the contents of a workspace are held by."""
    return location if workspace in (None, DEFAULT) else f"{location}/{workspace}"


def _workspaces(location: str) -> list[str]:
    return [
        name.removeprefix(f"{location}/")
        for name in _stores
        if name.startswith(f"{location}/")
    ]


def open_source(location: str, options: Mapping[str, Any]) -> MemoryStore:
    """Open the store called *location*, which exists once it was named."""
    return MemoryStore(location, options.get("workspace"))


open_sink = open_source


class MemoryStore:
    """See `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "thread"
    capabilities = Capabilities(
        keeps_ids=True,
        logged_models=ModelFacts(),
        traces=TraceFacts(),
        entities=frozenset(ENTITIES),
    )

    def __init__(self, location: str, workspace: str | None = None) -> None:
        self.location = location
        self._held = contents(location, workspace)

    def workspaces(self) -> Sequence[str]:
        """See `mlmigrate.contract.Housing.workspaces`."""
        return _workspaces(self.location)

    def view(self, workspace: str) -> Mapping[str, object]:
        """See `mlmigrate.contract.Housing.view`."""
        return {"workspace": workspace}

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        for ref, item in list(self._held.items.items()):
            if ref.kind != selection.kind:
                continue
            header = item.header
            home = getattr(header, "experiment", None)
            if (
                isinstance(home, Ref)
                and selection.experiments is not None
                and home.id not in selection.experiments
            ):
                continue
            yield ref

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            item = self._held.items.get(ref)
            yield item or Failed(ref, f"{self.location} holds no such {ref.kind}")

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        for ref in refs:
            item = self._held.items.get(ref)
            if item is not None and isinstance(item.header, Run):
                run = item.header
                yield Glance(ref, item.origin, run.status, run.end_time, run.lifecycle)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        try:
            return io.BytesIO(self._held.blobs[ref, path])
        except KeyError:
            raise ItemError(f"{ref} has no artifact {path!r}") from None

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return ()

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        found: dict[Ref, Copy] = {}
        for wanted in origins:
            for ref, item in self._held.items.items():
                if ref.kind == wanted.kind and _is(item, wanted.id):
                    lifecycle: Lifecycle = getattr(item.header, "lifecycle", "active")
                    found[wanted] = Copy(ref, marks.load(item.mark), lifecycle)
                    break
        return found

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        return [self._write(delivery) for delivery in deliveries]

    def _write(self, delivery: Delivery) -> Written | Failed:
        item = delivery.item
        ref = delivery.into or self._new_ref(item)
        blobs: dict[str, bytes] = {}
        sums: dict[str, str] = {}
        try:
            for artifact in item.artifacts if delivery.open else ():
                assert delivery.open is not None
                with delivery.open(
                    delivery.read_ref or item.ref, artifact.path
                ) as data:
                    blobs[artifact.path] = data.read()
                sums[artifact.path] = checksum_of(io.BytesIO(blobs[artifact.path]))
        except (OSError, ItemError) as error:
            return Failed(item.ref, f"its artifacts could not be copied: {error}")
        checksums = combined_checksum(sums) if sums else None
        mark = marks.dump(replace(delivery.mark, checksums=checksums))
        held = self._held.items.get(ref) if delivery.into else None
        merged = item if held is None else merge.added(held, item)
        if not delivery.open:
            merged = replace(merged, artifacts=held.artifacts if held else ())
        self._held.items[ref] = replace(
            merged,
            ref=ref,
            mark=mark,
            findings=(),
            tags=tuple(
                tag for tag in merged.tags if not tag.key.startswith(marks.PREFIX)
            ),
            versions=tuple(replace(each, mark=mark) for each in merged.versions),
        )
        for path, data_bytes in blobs.items():
            self._held.blobs[ref, path] = data_bytes
        size = sum(map(len, blobs.values()))
        return Written(ref, checksums, len(blobs), size)

    def _new_ref(self, item: Item) -> Ref:
        kind = item.ref.kind
        id = item.origin if kind in ("run", "logged_model", "trace") else item.ref.id
        number = 1000
        while Ref(kind, id) in self._held.items:
            id, number = str(number), number + 1
        return Ref(kind, id)

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`."""
        return ()


def _is(item: Item, origin: str) -> bool:
    match item.header:
        case Experiment(name=name):
            if item.mark and origin in merge.origins_of(item.origin):
                return True
            return name == origin.partition("/")[2]
        case Entity():
            return origin in (item.ref.id, address(item.ref.kind, item.header).id)
        case _:
            return item.origin == origin
