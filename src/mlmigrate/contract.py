"""What an adapter must do: the whole contract between the core and a store.

An adapter is a function ``open(location, options) -> Source | Sink`` and a table of
its options (see `mlmigrate.adapters`). A store is opened from its location and its
options alone, so any process can open it. What happens between a source and a sink
(merge, fit, digest, resume, verify, report) is the core's: no adapter knows of
another, and none decides what is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol, TypeAlias, runtime_checkable

from mlmigrate.model import (
    Failed,
    Finding,
    Item,
    Kind,
    Lifecycle,
    ModelLink,
    Ref,
)

ArtifactsMode: TypeAlias = Literal["copy", "link", "skip"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which refs a source is asked for.

    Filters that need an item's contents (status, tags, times) are the core's; a
    source narrows by what costs it nothing to know.
    """

    kind: Kind
    experiments: frozenset[str] | None = None  # ids at the source; None means all


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about the place that a sink has for logged models."""

    nan: Literal["kept", "zero", "left out"] = "kept"
    """What becomes of a point whose value is NaN."""
    one_value: bool = False
    """A metric has one value a run, step and time, whatever the dataset."""
    needs_runs: bool = False
    """A metric names a run that is there."""
    deleted: bool = True
    """There are deleted ones, which are found again."""
    of_versions: bool = True
    """A version may name its logged model beside its source."""


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """Facts about the place that a sink has for traces, under their own ids."""

    in_messages: bool = False
    """They are what MLflow's REST messages say of them, which is less than its tables
    hold: `mlmigrate.fit.message_traces`."""
    needs_runs: bool = False
    """A link names a run that is there."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts about a sink, from which `mlmigrate.fit` makes records that it can hold.

    ``text`` maps a field, such as ``param.value``, to the characters that it holds; a
    field that is absent has no limit.
    """

    keeps_ids: bool
    """Run ids survive. Otherwise the sink mints its own and the origin is a tag."""
    keeps_times: bool = True
    """Creation times of experiments, models and versions can be set."""
    keeps_legacy: bool = True
    """The source columns that MLflow < 1.0 filled can be set."""
    text: Mapping[str, int] = field(default_factory=dict)
    needs_start: bool = False
    """MLflow cannot list an experiment of which one run has no start time."""
    infinities: bool = True
    negative_zero: bool = True
    negative_times: bool = True
    dataset_inputs: bool = True
    """Runs may have dataset inputs."""
    logged_models: ModelFacts | None = None
    """What is held of logged models; None where there is no place for them."""
    traces: TraceFacts | None = None
    """What is held of traces; None where there is no place for them."""
    entities: frozenset[Kind] = frozenset()
    """The kinds of `mlmigrate.entities` that there is a place for."""
    columns: Mapping[str, frozenset[str]] | None = None
    """Of each table of entities that there is a place for, the columns that can be
    set; None where all can."""
    strict_json: frozenset[str] = frozenset()
    """The columns of entities, such as ``table.column``, of which the sink takes only
    what is JSON: NaN and the infinities, which Python writes there, are not."""
    acts: bool = False
    """What stands there acts: an enabled webhook is called."""
    follows_sources: bool = False
    """A version whose source names another one, ``models:/NAME/NUMBER``, is made with
    the files of that, which must be there."""
    aliases: bool = True
    """Versions of registered models may have aliases."""
    one_dataset_a_digest: bool = False
    """Dataset inputs of one experiment that have equal names and digests are one."""
    folds_keys: bool = False
    """Keys that differ only by case, accents or blanks at the end are equal."""
    nul: bool = True
    """Text may hold NUL characters."""
    surrogates: bool = False
    """Text may hold lone surrogates, for which UTF-8 has no bytes."""
    needs_a_run: bool = False
    """Runs tell of experiments and registered models: one at least must be there."""
    max_experiment_id: int | None = None
    """The largest experiment id that fits; None where ids are not kept at all."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the tag ``mlmigrate.mark`` of a complete copy says: `mlmigrate.marks`."""

    digest: str
    options: str
    status: str | None = None
    end_time: int | None = None
    lifecycle: Lifecycle | None = None
    source: str | None = None
    tags: str | None = None
    checksums: str | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """What a sink holds of an origin. Without a mark it is incomplete or not ours."""

    ref: Ref
    mark: Mark | None
    lifecycle: Lifecycle = "active"


Open: TypeAlias = Callable[[Ref, str], BinaryIO]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One item on its way into a sink.

    Its references are refs of the sink already. With ``into`` the item holds only
    what that copy lacks, and header values that replace the copy's.
    """

    item: Item
    mark: Mark
    source: str  # redacted location, for people
    into: Ref | None = None
    open: Open | None = None  # None: artifacts are linked or skipped
    artifacts: ArtifactsMode = "copy"
    read_ref: Ref | None = None  # the ref by which `open` knows the item
    missing_parent: str | None = None  # origin of a parent that the sink lacks
    #: Links to logged models that the sink lacks yet: their refs bear the origins.
    missing_links: tuple[ModelLink, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to a delivery that arrived whole."""

    ref: Ref
    checksums: str | None = None
    files: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Glance:
    """What shows whether a run has changed, without reading all of it."""

    ref: Ref
    origin: str
    status: str
    end_time: int | None
    lifecycle: Lifecycle


@runtime_checkable
class Glancing(Protocol):
    """A source that can tell much cheaper how runs stand than read them."""

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """Yield how each run stands; none for a run of which that is not known."""


@runtime_checkable
class Housing(Protocol):
    """A source of several workspaces, opened in one of them: in that which the option
    ``workspace`` names, else in the default one. All that it yields is of that one.
    """

    def workspaces(self) -> Sequence[str]:
        """Return the names of all workspaces that hold something, or are known of; the
        default one may be left out.
        """

    def view(self, workspace: str) -> Mapping[str, object]:
        """Return the options that open this same state in another workspace, while this
        one is open.
        """


@runtime_checkable
class Source(Protocol):
    """A store that can be read. It is never changed, not a byte, not an mtime."""

    location: str
    """Where it is, with secrets redacted."""
    parallel: Literal["process", "thread"]
    """What reads several batches at once best: processes for files and databases,
    which parse; threads for servers, which wait."""

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """Yield the refs of one kind, each once.

        Repeatable: a second call yields the same refs in the same order while the
        store does not change, in this and in any other process.
        """

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """Yield an item or a `Failed` for each ref, in order.

        Two reads of an unchanged item have equal digests. What of an item cannot be
        read is a `Problem` among its findings; only an item of which nothing can be
        read fails.
        """

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """Open the bytes of one of an item's artifacts.

        Raises:
            OSError: it cannot be read.
            ItemError: it does not belong to the item.
        """

    def findings(self) -> Iterable[Finding]:
        """Tell what is wrong with the store beside its items: stray folders, tables
        that are not carried over. Complete once `refs` was exhausted for every kind.
        """

    def close(self) -> None:
        """Release everything. May be called twice."""


@runtime_checkable
class Sink(Source, Protocol):
    """A store that can be written, and read back."""

    @property
    def capabilities(self) -> Capabilities:
        """What the sink can hold."""

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """Find what the sink holds of each origin, in few requests.

        The key is ``Ref(kind, origin)``. A run that bears no origin is its own. For an
        experiment or a registered model, see `mlmigrate.merge`; for an entity,
        an id or an `mlmigrate.entities.address`.
        """

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """Write each delivery whole or not at all, and answer in order.

        The mark is written last or in the same transaction, and withdrawn before a
        copy is touched. A create that is retried first looks for what a lost answer
        may have made. One delivery that fails leaves the others alone.
        """

    def finish(self) -> Iterable[Finding]:
        """Close a copy: repair the links that arrived before their target, in this
        or an earlier copy that was killed, and restore what was put aside for speed.
        """


@runtime_checkable
class Foretelling(Protocol):
    """A sink that can tell, before it is written, what it will refuse because of what
    it holds.
    """

    def refusals(self, deliveries: Sequence[Delivery]) -> list[Failed | None]:
        """Answer for each delivery, in order, why `Sink.write` will refuse it; None
        where nothing speaks against it. Its origins were asked for by `Sink.copies`.
        """


@runtime_checkable
class Recording(Protocol):
    """A sink that also keeps what was found in sources beside their items."""

    def record(self, source: str, findings: Iterable[Finding]) -> None:
        """Keep *findings* with the next `finish`, in the place of what an earlier copy
        found in that source.
        """
