"""Adapter ``wandb_offline``: the run folders that W&B's client leaves on disk.

Location ``wandb-offline:DIR``, where DIR is a ``wandb/`` folder. As a sink it is
written for ``wandb sync``: see `mlmigrate.stores.wandb_offline.writing`. What is there
of a run that mlmigrate wrote is read as the run that it was.

As a source it may be of any client since 2021, synced or not. The files are read
directly: wandb is never imported, and nothing is changed. What becomes of a run:

- **Experiment**: ``entity/project``, or ``project`` where the client knew no entity.
- **Params**: the config, nested keys joined by ``/``; texts plain, all else as JSON.
- **Metrics**: every number of the history, ``_runtime`` too, at its ``_step`` and its
  ``_timestamp`` in whole milliseconds; nested keys joined by ``/``. NaN and infinities
  are kept, also those that W&B spells as texts. What the client measured of the machine
  is ``system/…``, where the step counts the samples.
- ``wandb/history.jsonl``: the values that are no numbers (texts, lists, media,
  histograms, tables), or that a float does not hold whole (booleans, integers of many
  digits, which are metrics as well), in rows as W&B has them.
- **Tags**: ``wandb.run_id``, ``wandb.project``, ``wandb.entity``, ``wandb.group``,
  ``wandb.job_type``, ``wandb.sweep_id``, ``wandb.tags`` (a JSON list), ``wandb.host``,
  ``wandb.cli_version``, ``wandb.python_version``, ``wandb.exit_code``; notes and git as
  MLflow calls them. ``wandb.summary.KEY`` holds a plain value of the summary unless it
  is the last of the history, which is what W&B puts there by itself; all of the summary
  is in ``wandb/summary.json``.
- **Artifacts**: what is in ``files/``, by its path there; other files of the folder
  below ``wandb/``; the console as ``wandb/console.jsonl`` (stream, time, text), and as
  ``output.log`` where the client left none. Files of logged artifacts become
  ``artifacts/NAME/PATH``. They, and saved files, which are links, are read only below
  DIR or where ``--map-artifacts`` leads.
- ``wandb/records.jsonl``: all other records, each with all of its fields.

Status is FINISHED for exit code 0, FAILED for another, RUNNING where no record says how
the run ended. It ended at its start plus its runtime, but not before its last time.
Folders of one run, which was resumed, are one run. Only how records travelled between
the client's processes is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlmigrate.errors import LocationError, StoreNotFound
from mlmigrate.stores.wandb_offline.folders import is_run_folder
from mlmigrate.stores.wandb_offline.reading import PREFIX, OfflineFolder, root_of

if TYPE_CHECKING:
    from mlmigrate.stores.wandb_offline.writing import OfflineSink

__all__ = ["PREFIX", "OfflineFolder", "is_run_folder", "open_sink", "open_source"]


def open_source(location: str, options: Mapping[str, Any]) -> OfflineFolder:
    """Open the ``wandb/`` folder at *location*, ``wandb-offline:DIR``.

    Raises:
        StoreNotFound: there is no such folder.
        LocationError: it holds no run folder.
        StoreError: it cannot be listed.
    """
    root = root_of(location)
    if not root.is_dir():
        raise StoreNotFound(f"{root}: there is no such folder")
    found = OfflineFolder(root, options)
    if not found.index.runs:
        raise LocationError(
            f"{root} holds no run folder of W&B's (run-…, offline-run-…):"
            " give the wandb/ folder; `mlmigrate scan FOLDER` finds those below"
            " a folder"
        )
    return found


def open_sink(location: str, options: Mapping[str, Any]) -> OfflineSink:
    """Open *location*, ``wandb-offline:DIR``, for writing; DIR need not exist.

    Raises:
        StoreError: it cannot be listed, or W&B's client is not installed.
    """
    from mlmigrate.stores.wandb_offline.writing import OfflineSink

    return OfflineSink(location, options)
