"""What a sink knows of the runs at W&B, kept current while it writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from mlmigrate.stores.wandb_cloud.client import Client
from mlmigrate.stores.wandb_cloud.index import Index, Listed
from mlmigrate.stores.wandb_cloud.reading import Reader


@dataclass(frozen=True, slots=True)
class Held:
    """The runs of a place: asked for through *client*, known by *index*."""

    client: Client
    index: Index
    reader: Reader
    lock: Lock = field(default_factory=Lock)

    def run(self, at: Listed) -> Any:
        """Read a run anew.

        Raises:
            ItemError: it is not there, or cannot be read.
        """
        return self.client.run(at.entity, at.project, at.id)

    def note(self, run: Any) -> None:
        """Note how a run of the public API's stands now."""
        with self.lock:
            id = self.index.add(run)
            self.index.projects.add(run.project)
        self.reader.forget(id)

    def own(self, ids: Iterable[str] | None = None) -> Iterator[Listed]:
        """Yield the runs that mlmigrate wrote: of *ids*, in that order, or all."""
        known = self.index.runs
        for run in (known.get(id) for id in list(known if ids is None else ids)):
            if run is not None and run.known is not None:
                yield run
