"""Real stores kept outside of the repository, as they may not be passed on."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

CORPUS = "MLMIGRATE_CORPUS"


class CorpusStore(NamedTuple):
    """One store: `filestore`, `sqlite`, `wandb`, `neptune` or `artifacts`."""

    name: str
    kind: str
    path: Path

    @property
    def location(self) -> str:
        """What `mlmigrate copy` is told; of W&B the folder of the run's folder."""
        match self.kind:
            case "wandb":
                return f"wandb-offline:{self.path.parent}"
            case "neptune":
                return f"neptune-offline:{self.path}"
        return str(self.path)


def corpus_stores(kind: str | None = None) -> list[CorpusStore]:
    """
    Return the stores (of one *kind*) below the folder that `MLMIGRATE_CORPUS` names.

    The folder has an `INDEX.tsv` with at least the columns `store` (a relative path)
    and `kind`. Without the variable there are none.
    """
    if not os.environ.get(CORPUS):
        return []
    root = Path(os.environ[CORPUS])
    with (root / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    stores = [CorpusStore(r["store"], r["kind"], root / r["store"]) for r in rows]
    return [store for store in stores if kind in (None, store.kind)]
