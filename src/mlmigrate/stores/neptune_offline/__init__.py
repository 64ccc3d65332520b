"""Adapter ``neptune_offline``: what Neptune's clients leave on disk.

Location ``neptune-offline:DIR``, where DIR is a ``.neptune`` folder, the folder above
one, or a part of one. It may hold runs of the 1.x client (``offline``, ``async``, of
any release) and of the 3.x client (SQLite files), sent or not. They are read directly:
neither client is imported, and nothing is changed. What becomes of a run:

- **Experiment**: the project; ``neptune-offline`` for runs of the 1.x client, which
  does not write down what theirs is, or what ``-i project=WORKSPACE/NAME`` says.
- **Id**: of the 1.x client the UUID as 32 hex digits, of the 3.x client
  ``workspace/name/run id``. A run that was resumed is one run, oldest part first.
- **Params, tags, metrics**: as `mlmigrate.neptune_runs.items` has it. A step that was
  not given counts on from the last one. Times are cut off at milliseconds, as Neptune
  does.
- **Series** of texts and histograms are ``ATTRIBUTE.jsonl``, images
  ``ATTRIBUTE/STEP.png``, files ``ATTRIBUTE.ENDING``, sets of files below
  ``ATTRIBUTE/``. Files that the client copied are read from its own folder, all others
  only below DIR or where ``--map-artifacts`` leads: give the folder above ``.neptune``
  to read those that lie there.
- ``neptune/attributes.json`` tells the types of attributes with one value;
  ``neptune/operations.jsonl`` has what MLflow has no place for: which files were
  tracked as artifacts, the names of images, limits and units of series, and what is not
  known; ``neptune/previews.jsonl`` has the previews of the 3.x client.
- **Forks** (3.x) have the points of their parent up to and including the step where
  they began, and its configs unless they were not to inherit them.

The tag ``neptune.sent`` tells whether all, a part or none of the operations were sent
to Neptune. What was sent the client may have removed, which is a problem.

Nothing on disk tells that a run has ended, so its status is FINISHED, or FAILED where
``sys/failed`` is true. It began with its creation time, else with its first operation,
and ended with the last one. Projects, models and their versions are no runs: a problem
each.

As a sink it is written in Neptune's offline format: see
`mlmigrate.stores.neptune_offline.writing`, and for what becomes of a run
`mlmigrate.neptune_runs.mapping`. A run that mlmigrate wrote is read as the run that it
was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlmigrate.errors import LocationError, StoreNotFound
from mlmigrate.stores.neptune_offline.folders import runs_in
from mlmigrate.stores.neptune_offline.reading import PREFIX, OfflineRuns, root_of

if TYPE_CHECKING:
    from mlmigrate.stores.neptune_offline.writing import OfflineSink

__all__ = ["PREFIX", "OfflineRuns", "open_sink", "open_source", "runs_in"]


def open_source(location: str, options: Mapping[str, Any]) -> OfflineRuns:
    """Open the folder at *location*, ``neptune-offline:DIR``.

    Raises:
        StoreNotFound: there is no such folder.
        LocationError: no client of Neptune's left anything in it.
        StoreError: it cannot be listed.
    """
    root = root_of(location)
    if not root.is_dir():
        raise StoreNotFound(f"{root}: there is no such folder")
    found = OfflineRuns(root, options)
    told = found.manifest.experiments or found.manifest.models
    if not found.index.runs and not found.index.others and not told:
        raise LocationError(
            f"{root} holds no runs of Neptune's clients (offline/run__…, async/run__…,"
            " run_operations.sqlite3): give the .neptune folder; `mlmigrate scan"
            " FOLDER` finds those below a folder"
        )
    return found


def open_sink(location: str, options: Mapping[str, Any]) -> OfflineSink:
    """Open the folder at *location* for writing; it need not exist.

    Raises:
        StoreError: it cannot be listed or written.
    """
    from mlmigrate.stores.neptune_offline.writing import OfflineSink

    return OfflineSink(location, options)
