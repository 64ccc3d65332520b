"""Many sources into one store: names, versions, and what a copy lacks. Pure functions.

**Identity.** The origin of an item is what it was at its first home: a run's MLflow run
id, an experiment's ``id/name``, a model version's ``model/version@creation time``. The
same origin in two places is one thing.

**Updates only add.** Where one version of a run holds everything of the other, the
fuller wins, whichever was copied first. Single values (status, end time, tags) come
from the version with the later activity; what was edited at the sink stays.
"""

from __future__ import annotations

from mlmigrate.merge.entities import Lacking, entity_additions, with_rows
from mlmigrate.merge.experiments import (
    experiment_additions,
    merge_experiments,
    origins_of,
)
from mlmigrate.merge.items import Additions, OnConflict, added, additions, combined
from mlmigrate.merge.registry import Renumbered, merge_models, told_apart

__all__ = [
    "Additions",
    "Lacking",
    "OnConflict",
    "Renumbered",
    "added",
    "additions",
    "combined",
    "entity_additions",
    "experiment_additions",
    "merge_experiments",
    "merge_models",
    "origins_of",
    "told_apart",
    "with_rows",
]
