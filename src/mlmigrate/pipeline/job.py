"""A copy under way: what it was asked for, and what all its parts share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias

from mlmigrate import merge, workspaces
from mlmigrate.ahead import Digested
from mlmigrate.artifacts import redact
from mlmigrate.contract import (
    ArtifactsMode,
    Capabilities,
    Copy,
    Delivery,
    Foretelling,
    Sink,
    Source,
    Written,
)
from mlmigrate.errors import ItemError, StoreError, StoreNotFound, UsageError
from mlmigrate.filters import Filters
from mlmigrate.fit import fit
from mlmigrate.locations import Opened, identity, shown
from mlmigrate.model import (
    Failed,
    Finding,
    Item,
    ModelVersion,
    Outcome,
    Problem,
    Ref,
)
from mlmigrate.redaction import redacted

Event: TypeAlias = "Outcome | Finding | Total"


@dataclass(frozen=True, slots=True)
class Total:
    """How many items of a kind are to come: for progress bars."""

    kind: str
    items: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a copy is asked for beside its stores."""

    filters: Filters = field(default_factory=Filters)
    artifacts: ArtifactsMode = "copy"
    on_conflict: merge.OnConflict = "fail"
    experiment_name: str | None = None  # a template: `target_name`
    redact_credentials: bool = False
    deep: bool = False
    quick: bool = False
    workers: int | None = None

    @property
    def key(self) -> str:
        """The options that change what is written, as a mark holds them."""
        changing = [self.artifacts, self.redact_credentials]
        return blake2b(json.dumps(changing).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An item, read and fitted, with the digest that it had before."""

    item: Item
    digest: str
    findings: tuple[Finding, ...]


def fitted(
    item: Item, options: Options, sink: Capabilities
) -> tuple[Item, tuple[Finding, ...]]:
    """Make of *item* what the sink can hold and may see, and tell all that was found
    or lost on the way.
    """
    if options.redact_credentials:
        item = redacted(item)
    fitting, losses = fit(item, sink)
    return fitting, (*item.findings, *losses)


def prepare(read: Digested, options: Options, sink: Capabilities) -> Prepared:
    """Make ready what was read."""
    item, findings = fitted(read.item, options, sink)
    return Prepared(item, read.digest, findings)


@dataclass(slots=True)
class Job:
    """One copy under way."""

    sources: list[tuple[Opened, Source]]
    sink: Sink
    options: Options
    dry: bool
    #: That of the sink which everything comes into.
    workspace: str = workspaces.DEFAULT
    experiments: dict[tuple[int, str], Ref | None] = field(default_factory=dict)
    origins: dict[tuple[int, Ref], str] = field(default_factory=dict)
    #: (source, ref) of an entity -> its ref at the sink.
    entities: dict[tuple[int, Ref], Ref] = field(default_factory=dict)
    #: (source, id) of the experiments that a plan would have made.
    to_come: set[tuple[int, str]] = field(default_factory=set)
    #: (source, ref) of all entities of the kind under way.
    own: set[tuple[int, Ref]] = field(default_factory=set)
    #: (source, ref at the sink) -> which of the source's entities has that place.
    places: dict[tuple[int, Ref], Ref] = field(default_factory=dict)
    #: (experiment, name, digest) -> a hash of the rest, as it was met first.
    datasets: dict[tuple[Ref, str, str], bytes] = field(default_factory=dict)
    #: (source, ref) of the logged models that runs which were copied made or used.
    linked: set[tuple[int, Ref]] = field(default_factory=set)
    #: Origin -> what the sink has of it: of what traces refer to, once looked up.
    there: dict[Ref, Copy | None] = field(default_factory=dict)
    #: Kind and origin -> what a plan would have written.
    planned: dict[Ref, Ref] = field(default_factory=dict)
    #: (source, model, version) -> the number at the sink, where that is another.
    versions: dict[tuple[int, str, int], int] = field(default_factory=dict)
    #: The same -> a version of a registered model as its source has it.
    registered: dict[tuple[int, str, int], ModelVersion] = field(default_factory=dict)
    #: The same -> its model and number at the sink; None where it is not there.
    named: dict[tuple[int, str, int], tuple[str, int] | None] = field(
        default_factory=dict
    )


@contextmanager
def open_sources(
    sources: Sequence[Opened], bad: list[Problem]
) -> Iterator[list[tuple[Opened, Source]]]:
    """Open the sources, and close them all in the end.

    A damaged source, or a server that is down, does not cost the others, and is noted
    in *bad*; a location where nothing is stops everything, as it is most likely
    misspelt.

    Raises:
        StoreError: no source can be opened; or nothing is where one should be.
    """
    with ExitStack() as stack:
        found: list[tuple[Opened, Source]] = []
        for source in sources:
            try:
                found.append((source, stack.enter_context(closing(source.source()))))
            except StoreNotFound:
                raise
            except StoreError as error:
                if len(bad) == len(sources) - 1:
                    raise
                bad.append(unusable(source, error))
        yield found


def keep_apart(sources: Sequence[Opened], sink: Opened) -> None:
    """Refuse to copy a store into itself.

    Raises:
        UsageError: the sink is also a source.
    """
    if any(identity(source) == identity(sink) for source in sources):
        what = "is both a source and the sink: nothing to do"
        raise UsageError(f"{redact(sink.location)} {what}")


def unusable(source: Opened, error: StoreError) -> Problem:
    """Tell of a source that cannot be opened."""
    what = f"cannot be opened, nothing of it was read: {error}"
    return Problem(shown(source), what)


def label(job: Job, at: int) -> str:
    """Name a source for people."""
    return shown(job.sources[at][0])


def read_one(store: Source, ref: Ref) -> Item:
    """Read back one item that is known to be there.

    Raises:
        ItemError: it cannot be read.
    """
    item = next(iter(store.read([ref])))
    if isinstance(item, Failed):
        raise ItemError(f"{ref} at {store.location} cannot be read back: {item.why}")
    return item


def deliver(job: Job, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
    """Hand *deliveries* to the sink, or only say what would be written."""
    if not job.dry:
        return job.sink.write(deliveries)
    refused: list[Failed | None] = [None] * len(deliveries)
    if isinstance(job.sink, Foretelling):
        refused = job.sink.refusals(deliveries)
    return [
        failed
        or Written(
            delivery.into or delivery.item.ref,
            files=len(delivery.item.artifacts),
            bytes=sum(entry.size for entry in delivery.item.artifacts),
        )
        for delivery, failed in zip(deliveries, refused, strict=True)
    ]


def origin_of(job: Job, at: int, ref: Ref) -> str:
    """Return the origin of an item of a source: its id, unless it is itself a copy."""
    known = job.origins.get((at, ref))
    if known is not None:
        return known
    item = next(iter(job.sources[at][1].read([ref])), None)
    origin = item.origin if isinstance(item, Item) else ref.id
    job.origins[at, ref] = origin
    return origin
