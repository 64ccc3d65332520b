"""The records that travel between stores: frozen, slotted, without behaviour.

The words are MLflow's. Times are integer milliseconds since the epoch, and a
missing value is ``None``, never 0. Metric points travel as columns: a history of a
million points is three arrays, not a million objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Int64s: TypeAlias = NDArray[np.int64]
Float64s: TypeAlias = NDArray[np.float64]

#: In the order in which they are copied: what is referred to comes first.
Kind: TypeAlias = Literal[
    "workspace",
    "experiment",
    "run",
    "logged_model",
    "registered_model",
    "trace",
    "evaluation_dataset",
    "scorer",
    "label_schema",
    "review_queue",
    "issue",
    "webhook",
    "mcp_server",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Lifecycle: TypeAlias = Literal["active", "deleted"]

#: The statuses of a run that has ended.
TERMINAL = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True, slots=True)
class Ref:
    """The address of an item, unique within its store."""

    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


@dataclass(frozen=True, slots=True)
class Param:
    """An input of a run or a logged model; MLflow never lets one change."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A mutable label of an experiment, a run, a model, a version or a trace."""

    key: str
    value: str


@dataclass(frozen=True, slots=True, eq=False)
class MetricHistory:
    """All points of one metric of one run, as three columns of equal length.

    Points are sorted by (step, timestamp, value) and no two are identical: what
    MLflow's ``metrics`` table can hold. Compare by digest, never by ``==``: NaN is a
    value like any other here.
    """

    key: str
    steps: Int64s
    timestamps: Int64s  # milliseconds
    values: Float64s


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A dataset that a run consumed (MLflow >= 2.4)."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelLink:
    """A logged model that a run used or made (MLflow >= 3.0)."""

    model: Ref
    role: Literal["input", "output"]
    step: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ModelMetric:
    """Points of one metric of a logged model: those of one run, on one dataset."""

    run: Ref
    history: MetricHistory
    dataset: str | None = None  # its name
    dataset_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file below the artifacts of a run, a logged model or a trace; its bytes are
    opened through the source.
    """

    path: str  # relative, '/'-separated
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Experiment:
    """The header of an experiment item."""

    name: str
    artifact_location: str | None = None
    lifecycle: Lifecycle = "active"
    creation_time: int | None = None
    last_update_time: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The header of a run item.

    The four ``source_*`` and entry point columns are the ones MLflow < 1.0 filled;
    later versions write tags instead and leave them empty.
    """

    experiment: Ref
    name: str | None = None
    status: str = "RUNNING"
    start_time: int | None = None
    end_time: int | None = None
    user: str | None = None
    lifecycle: Lifecycle = "active"
    deleted_time: int | None = None
    artifact_uri: str | None = None
    parent: Ref | None = None
    source_type: str | None = None
    source_name: str | None = None
    source_version: str | None = None
    entry_point: str | None = None


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """The header of a logged model item (MLflow >= 3.0)."""

    experiment: Ref
    name: str
    status: str = "READY"
    status_message: str | None = None
    model_type: str | None = None
    source_run: Ref | None = None
    creation_time: int | None = None
    last_updated_time: int | None = None
    lifecycle: Lifecycle = "active"
    artifact_location: str | None = None


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """The header of a registered model item."""

    name: str
    description: str | None = None
    creation_time: int | None = None
    last_updated_time: int | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """The header of a trace item: of one call of an application (MLflow >= 2.13).

    Its session, and the tokens and costs that MLflow sums up, stand in its metadata.
    Its name is a tag.
    """

    experiment: Ref
    state: str = "STATE_UNSPECIFIED"
    request_time: int | None = None
    execution_duration: int | None = None  # milliseconds
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    source_run: Ref | None = None  # the run during which it was made
    artifact_location: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A step of a trace. What it says beside *content* is said there as well."""

    id: str  # 16 hex digits
    content: str  # JSON, as its store has it
    parent: str | None = None
    name: str | None = None
    type: str | None = None
    status: str = "UNSET"
    start_time: int = 0  # nanoseconds
    end_time: int | None = None  # nanoseconds


@dataclass(frozen=True, slots=True)
class Assessment:
    """What somebody, or something, said of a trace or of one of its spans."""

    id: str
    name: str
    kind: str  # feedback, expectation or issue
    value: str  # JSON
    source_type: str
    source_id: str | None = None
    error: str | None = None  # JSON
    rationale: str | None = None
    metadata: str | None = None  # JSON
    run: Ref | None = None
    span: str | None = None
    created: int | None = None
    updated: int | None = None
    overrides: str | None = None  # the id of another
    valid: bool = True


@dataclass(frozen=True, slots=True)
class TraceLink:
    """A run or a version of a prompt that a trace was linked to afterwards."""

    kind: str  # as MLflow says it: run, prompt_version
    id: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model.

    ``source`` is the text as recorded. Where it leads into the artifacts of a run or of
    a logged model, ``source_run`` or ``source_model``, and ``source_path``, say where,
    so that a sink can rewrite it.
    """

    version: int
    origin: str  # model/version@creation time, at its first home
    creation_time: int | None = None
    last_updated_time: int | None = None
    description: str | None = None
    user: str | None = None
    stage: str = "None"
    source: str | None = None
    source_run: Ref | None = None
    source_path: str | None = None
    storage_location: str | None = None
    run: Ref | None = None
    run_link: str | None = None
    status: str = "READY"
    status_message: str | None = None
    tags: tuple[Tag, ...] = ()
    mark: str | None = None  # the text of mlmigrate.mark, where it bears one
    source_model: Ref | None = None
    logged_model: Ref | None = None  # that it is of, where its source does not say so


_NAMED = re.compile(r"models:/(?!m-[0-9a-f]{32}/)([^/?]+)/([0-9]+)")


def named_version(source: str | None) -> tuple[str, int] | None:
    """Return the model and the number that a version's source names, where it is that
    of another version, ``models:/NAME/NUMBER``, from which the version was copied.
    """
    match = _NAMED.fullmatch(source) if source else None
    return (match.group(1), int(match.group(2))) if match else None


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points at one version of a registered model."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Entity:
    """The header of an item of one of the kinds that `mlmigrate.entities` describes:
    all that MLflow's tables say of it stands in the item's rows. Its name tells it from
    others in its place.
    """

    name: str
    experiment: Ref | None = None  # that it belongs to, where its kind has one


@dataclass(frozen=True, slots=True)
class Row:
    """A row of one of MLflow's tables.

    *values* is a JSON object of its columns, sorted; those that hold NULL, and those
    that say whose row it is, are left out. Booleans are 0 and 1, JSON is text.
    """

    table: str
    values: str


Header: TypeAlias = Experiment | Run | LoggedModel | RegisteredModel | Trace | Entity


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a source that could not be read or carried over."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was repaired or chosen on the way; nothing is lost by it."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that the sink cannot hold in its own place.

    *carried*: it is kept in a tag of the copy; otherwise it is gone.
    """

    ref: Ref
    what: str
    carried: bool


Finding: TypeAlias = Problem | Note | Loss


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One unit of transfer: a header and the records that belong to it.

    ``tags`` never holds ``mlmigrate.*`` nor ``mlflow.parentRunId``: a source lifts
    those into ``origin``, ``mark`` and the header's ``parent``.
    """

    ref: Ref
    header: Header
    origin: str  # what it was at its first home; see `mlmigrate.merge`
    params: tuple[Param, ...] = ()
    tags: tuple[Tag, ...] = ()
    metrics: tuple[MetricHistory, ...] = ()
    inputs: tuple[DatasetInput, ...] = ()
    links: tuple[ModelLink, ...] = ()
    model_metrics: tuple[ModelMetric, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    versions: tuple[ModelVersion, ...] = ()
    aliases: tuple[Alias, ...] = ()
    metadata: tuple[Tag, ...] = ()  # of a trace; MLflow never changes it
    spans: tuple[Span, ...] = ()
    assessments: tuple[Assessment, ...] = ()
    trace_links: tuple[TraceLink, ...] = ()
    rows: tuple[Row, ...] = ()  # of an entity
    mark: str | None = None  # the text of mlmigrate.mark, where it bears one
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that could not be read or written; the others go on."""

    ref: Ref
    why: str


@dataclass(frozen=True, slots=True)
class Copied:
    """A new copy was made."""

    ref: Ref
    to: Ref
    findings: tuple[Finding, ...] = ()
    files: int = 0
    bytes: int = 0
    points: int = 0


@dataclass(frozen=True, slots=True)
class Updated:
    """An earlier copy was completed, or got what is new."""

    ref: Ref
    to: Ref
    findings: tuple[Finding, ...] = ()
    files: int = 0
    bytes: int = 0
    points: int = 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """The sink already holds everything."""

    ref: Ref
    to: Ref
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two versions of one item, none of which contains the other."""

    ref: Ref
    what: str
    findings: tuple[Finding, ...] = field(default=())


Outcome: TypeAlias = Copied | Updated | Skipped | Conflict | Failed
