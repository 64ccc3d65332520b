"""Source and sink ``wandb_cloud``: a W&B server, by its own client.

Location ``wandb://ENTITY/PROJECT``, or ``wandb://ENTITY`` for all its projects. The
server is the one that ``WANDB_BASE_URL`` or ``wandb login`` name; secrets come from
``WANDB_API_KEY`` or netrc.

**Source**: through the public API. A run becomes what it becomes from its folder
(`mlmigrate.stores.wandb_offline`), but for what only one of the two knows: the server
has no records and no stream of a line of the console; the folder has no account
(``wandb.user``) and no state such as crashed (``wandb.state``).

- **Params** are the config, **metrics** the whole history and, as ``system/…``, what
  the client measured of the machine.
- **Artifacts** are the files saved with the run, by their paths; files of logged
  artifacts as ``artifacts/NAME/PATH``, of earlier versions ``artifacts/NAME@v0/PATH``;
  ``wandb/history.jsonl`` and ``wandb/summary.json`` as from a folder; and
  ``wandb/artifacts.json``, what artifacts the run logged and used: their names,
  versions, aliases, metadata and references.
- **Sweeps**, and groups of runs that are in none, become parents: runs of their own,
  with the tag ``wandb.nesting``, in which the others are nested
  (`mlmigrate.stores.wandb_cloud.above`).
- **Status** is FINISHED, FAILED (also of a crashed run), KILLED or RUNNING. It started
  when its client says so, else when the server saw it first.

Runs that mlmigrate wrote are read as the runs that they were.

**Sink**: by the SDK, and read back before a copy counts: see `writing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlmigrate.errors import StoreNotFound
from mlmigrate.stores.wandb_cloud.place import PREFIX, place_of
from mlmigrate.stores.wandb_cloud.reading import CloudSource, opened

if TYPE_CHECKING:
    from mlmigrate.stores.wandb_cloud.writing import CloudSink

__all__ = ["PREFIX", "CloudSource", "open_sink", "open_source"]


def open_source(location: str, options: Mapping[str, Any]) -> CloudSource:
    """Open *location*, ``wandb://ENTITY/PROJECT``, for reading.

    Raises:
        LocationError: it is malformed.
        StoreNotFound: there is no such project.
        StoreError: W&B's client is not installed, nobody is logged in, or the server
            refuses us.
    """
    place = place_of(location)
    nesting = options.get("nesting", "yes") == "yes"
    source, there = opened(place, options, threads=8, nesting=nesting)
    if not there:
        source.close()
        raise StoreNotFound(
            f"{place}: W&B shows no such project to the owner of the API key"
        )
    return source


def open_sink(location: str, options: Mapping[str, Any]) -> CloudSink:
    """Open *location* for writing, and for reading back; the project need not exist.

    Raises:
        LocationError: it is malformed, or does not go with the option ``projects``.
        StoreError: as `open_source`.
    """
    from mlmigrate.stores.wandb_cloud.writing import CloudSink

    return CloudSink(location, options)
