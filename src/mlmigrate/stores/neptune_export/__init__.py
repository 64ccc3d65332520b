"""Adapter ``neptune_export``: the Parquet archives that neptune-exporter makes.

Location ``neptune-export:DIR``, where DIR holds the exporter's ``data`` and ``files``
(and ``model_data`` and ``model_files``), or is its ``data``; options name them where
they lie elsewhere. What becomes of a run, of 2.x or 3.x:

- **Experiment**: the project, ``workspace/name``.
- **Params**: each attribute with one value but those below ``sys/``, as Python writes
  it: an int ``12``, a float ``12.0``, a bool ``True``; a time by ISO 8601, a set as
  JSON. A row without a value is of an attribute that another run has.
- **Metrics**: the float series, at the times that they have; a point without a value
  is NaN. Steps that are fractions are multiplied by the least number that makes all of
  a run's whole, which is the tag ``neptune.step_multiplier``, or by
  ``-i step-multiplier=N``; where that does not make them whole, the run fails.
- **Header**: ``sys/name``, ``sys/creation_time``, ``sys/owner``; FAILED where
  ``sys/failed``. It ended when its client was last heard of (``sys/ping_time``), or
  after its ``sys/running_time``, but not before its last point.
- **Tags**: ``neptune.project``, ``neptune.run_id``, ``neptune.tags`` and
  ``neptune.group_tags`` (JSON lists), the description as MLflow's note, and
  ``neptune.NAME`` for all else below ``sys/``.
- **Artifacts**: each file by the path of its attribute, one of a series by its step
  below that, a file set by the paths in it, an artifact as the list of its files;
  series of texts and histograms as ``PATH.jsonl``; ``neptune/attributes.json`` with the
  type of each value.

A run of 3.x that goes on from another (a fork) has that run's points up to the step at
which it does. Models and their versions become registered models; what they hold beside
single values is a run, in the experiment ``PROJECT (model registry)``.

The exporter writes a run's part 0 last: a run without it is not whole. It is a problem,
and is copied only with ``-i incomplete=yes``. So is what the exporter's own list of
errors names that is really not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import local_path
from mlmigrate.errors import LocationError, StoreNotFound
from mlmigrate.model import Problem
from mlmigrate.stores.neptune_export.layout import archive_in, folders_of
from mlmigrate.stores.neptune_export.reading import ExportArchive

__all__ = ["PREFIX", "ExportArchive", "archive_in", "open_source"]

PREFIX = "neptune-export:"


def open_source(location: str, options: Mapping[str, Any]) -> ExportArchive:
    """Open the archive at *location*, ``neptune-export:DIR``.

    Raises:
        StoreNotFound: there is no such folder.
        LocationError: it holds no part file of the exporter's.
        StoreError: it cannot be listed.
    """
    root = Path(local_path(location.removeprefix(PREFIX)))
    if not root.is_dir():
        raise StoreNotFound(f"{root}: there is no such folder")
    found = ExportArchive(f"{PREFIX}{root}", folders_of(root, options), options)
    damaged = any(isinstance(each, Problem) for each in found.index.findings)
    if not found.index.entries and not found.index.own_models and not damaged:
        raise LocationError(
            f"{root} holds no part file of neptune-exporter's (RUN_part_0.parquet):"
            " give the folder that holds its data and files folders"
        )
    return found
