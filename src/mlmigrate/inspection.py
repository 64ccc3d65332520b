"""What one store holds, and what is wrong with it: read once, counted as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mlmigrate.ahead import reading
from mlmigrate.artifacts import redact
from mlmigrate.contract import Selection, Source
from mlmigrate.entities import ENTITIES
from mlmigrate.filters import Filters
from mlmigrate.locations import Opened
from mlmigrate.model import (
    KINDS,
    Entity,
    Experiment,
    Failed,
    Finding,
    Item,
    Kind,
    LoggedModel,
    Note,
    Problem,
    RegisteredModel,
    Run,
    Trace,
)
from mlmigrate.pipeline.workspaces import each_workspace

#: Equal notes are told once, with the first places that they concern.
_EXAMPLES = 5


def _by_lifecycle() -> dict[str, int]:
    return {"active": 0, "deleted": 0}


@runtime_checkable
class Counts(Protocol):
    """What a source may offer, beside `mlmigrate.contract.Source`."""

    def count_uncarried(self) -> Mapping[str, int]:
        """Count what it holds but does not yield as items.

        For instance ``{"logged_models": 2, "traces": 40}``.
        """


@dataclass(slots=True)
class Inspection:
    """Counts of what a store holds; deleted runs count like any others."""

    location: str
    adapter: str
    experiments: dict[str, int] = field(default_factory=_by_lifecycle)
    runs: dict[str, int] = field(default_factory=_by_lifecycle)
    params: int = 0
    tags: int = 0
    keys: int = 0
    points: int = 0
    datasets: int = 0
    files: int = 0
    bytes: int = 0
    logged_models: int = 0
    registered_models: int = 0
    model_versions: int = 0
    traces: int = 0
    entities: dict[Kind, int] = field(
        default_factory=lambda: dict.fromkeys(ENTITIES, 0)
    )
    _notes: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    _problems: dict[Problem, None] = field(default_factory=dict)

    def add(self, item: Item | Failed) -> None:
        """Count one item; it may be forgotten then."""
        if isinstance(item, Failed):
            self._problems[Problem(f"{self.location}: {item.ref}", item.why)] = None
            return
        self.add_findings(item.findings)
        match item.header:
            case Experiment(lifecycle=lifecycle):
                self.experiments[lifecycle] += 1
            case Run(lifecycle=lifecycle, parent=parent):
                self.runs[lifecycle] += 1
                self.params += len(item.params)
                self.tags += len(item.tags) + (parent is not None)
                self.keys += len(item.metrics)
                self.points += sum(len(metric.steps) for metric in item.metrics)
                self.datasets += len(item.inputs)
                self.files += len(item.artifacts)
                self.bytes += sum(artifact.size for artifact in item.artifacts)
            case Trace():
                self.traces += 1
            case Entity():
                self.entities[item.ref.kind] += 1
            case LoggedModel():
                self.logged_models += 1
            case RegisteredModel():
                self.registered_models += 1
                self.model_versions += len(item.versions)

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """Keep what is wrong; equal notes are only counted."""
        for finding in findings:
            match finding:
                case Problem():
                    self._problems[finding] = None
                case Note(where, what):
                    places, count = self._notes.get(what, ([], 0))
                    if len(places) < _EXAMPLES:
                        places.append(where)
                    self._notes[what] = (places, count + 1)
                case _:
                    pass  # nothing is lost by looking

    def data(self) -> dict[str, Any]:
        """Return the object that ``inspect --json`` prints."""
        return {
            "location": self.location,
            "adapter": self.adapter,
            "experiments": dict(self.experiments),
            "runs": dict(self.runs),
            "params": self.params,
            "tags": self.tags,
            "metrics": {"keys": self.keys, "points": self.points},
            "datasets": self.datasets,
            "artifacts": {"files": self.files, "bytes": self.bytes},
            "logged_models": self.logged_models,
            "registered_models": self.registered_models,
            "model_versions": self.model_versions,
            "traces": self.traces,
            **{f"{kind}s": count for kind, count in self.entities.items()},
            "notes": [
                {"where": _places(places, count), "what": what, "count": count}
                for what, (places, count) in self._notes.items()
            ],
            "problems": [
                {"where": problem.where, "what": problem.what}
                for problem in self._problems
            ],
        }


def inspect(
    opened: Opened, workers: int | None = None, kinds: Sequence[Kind] = ()
) -> dict[str, Any]:
    """Read a whole store, but no artifact's bytes, and count what it holds.

    Args:
        opened: the store.
        workers: readers at once; as many as there are cores if None.
        kinds: what to read and count beside experiments; everything if none is named.

    Returns:
        The object that ``inspect --json`` prints.

    Raises:
        StoreError: the store cannot be opened at all.
    """
    found = Inspection(redact(opened.location), opened.adapter.name)
    problems: list[Problem] = []
    with closing(each_workspace(opened, problems)) as each:
        for place, source in each:
            _inspect(found, place, source, workers, kinds)
    found.add_findings(problems)
    return found.data()


def _inspect(
    found: Inspection,
    opened: Opened,
    source: Source,
    workers: int | None,
    kinds: Sequence[Kind],
) -> None:
    wanted = Filters(kinds=tuple(kinds))
    for kind in KINDS:
        if not wanted.takes(kind):
            continue
        refs = list(source.refs(Selection(kind)))
        with reading([(opened, source)], [refs], workers=workers) as read:
            for _, batch in read:
                for entry in batch:
                    found.add(entry if isinstance(entry, Failed) else entry.item)
    uncarried = _uncarried(source)
    found.logged_models += uncarried.get("logged_models", 0)
    found.traces += uncarried.get("traces", 0)
    found.add_findings(source.findings())


def _uncarried(source: Source) -> Mapping[str, int]:
    return source.count_uncarried() if isinstance(source, Counts) else {}


def _places(places: list[str], count: int) -> str:
    more = count - len(places)
    return ", ".join(places) + (f" and {more} more" if more else "")
