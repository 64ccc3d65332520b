"""What a sink knows of the runs at W&B, kept current while it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.stores.wandb_cloud import facts
from mlmigrate.stores.wandb_cloud.index import Listed, add_run
from mlmigrate.stores.wandb_cloud.reading import CloudSource
from mlmigrate.told.values import pruned
from mlmigrate.wandb_runs.mapping import MLFLOW
from mlmigrate.wandb_runs.own import Told, own


@dataclass(frozen=True, slots=True)
class Held:
    """The runs that *reader* reads; see `mlmigrate.wandb_runs.telling.Teller`, too."""

    reader: CloudSource
    lock: Lock = field(default_factory=Lock)

    def run(self, at: Listed) -> Any:
        """Read a run anew.

        Raises:
            ItemError: it is not there, or cannot be read.
        """
        return self.reader.client.run(*at.place)

    def note(self, run: Any) -> None:
        """Note how a run of the public API's stands now."""
        with self.lock:
            id = add_run(self.reader.index, run)
        self.reader.forget(id)

    def tellers(self, first: Sequence[str] = ()) -> Iterator[Listed]:
        """Yield the runs that mlmigrate wrote, those of the ids in *first* first."""
        return self.reader.index.own(first)

    def tell(self, run: Listed, more: Told) -> None:
        """Let a run tell of its experiment as the index knows it, and of *more*.

        Raises:
            ItemError: W&B does not take it, or gives it back otherwise.
        """
        there = self.run(run)
        found = own(there.config)
        if found is None:
            raise ItemError(f"run {run.id} is no longer what it was")
        told = found.told.and_more(more).config()
        told["experiment"] = self.reader.index.experiments[run.experiment]
        there.config[MLFLOW] = {**there.config[MLFLOW], **pruned(told)}
        facts.save(there)
        there = self.run(run)
        self.note(there)
        kept = there.rawconfig.get(MLFLOW)
        wanted = json.loads(json.dumps(pruned(told)))
        if not isinstance(kept, dict) or kept != {**kept, **wanted}:
            raise ItemError(f"what run {run.id} is to tell reads back otherwise")
