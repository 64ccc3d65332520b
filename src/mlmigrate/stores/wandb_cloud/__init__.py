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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import StoreNotFound
from mlmigrate.model import Failed, Finding, Item, Ref
from mlmigrate.stores.wandb_cloud.client import Client
from mlmigrate.stores.wandb_cloud.index import index_of
from mlmigrate.stores.wandb_cloud.place import PREFIX, place_of
from mlmigrate.stores.wandb_cloud.reading import Reader

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
    return CloudSource(location, options)


def open_sink(location: str, options: Mapping[str, Any]) -> CloudSink:
    """Open *location* for writing, and for reading back; the project need not exist.

    Raises:
        LocationError: it is malformed, or does not go with the option ``projects``.
        StoreError: as `open_source`.
    """
    from mlmigrate.stores.wandb_cloud.writing import CloudSink

    return CloudSink(location, options)


class CloudSource:
    """Runs at W&B; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "thread"

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        place = place_of(location)
        self.location = str(place)
        self._client = Client(
            retries=int(options.get("retries", 6)),
            timeout=float(options.get("timeout", 120)),
        )
        try:
            index = index_of(self._client, place)
            if not index.projects:
                raise StoreNotFound(
                    f"{self.location}: W&B shows no such project to the owner of the"
                    " API key"
                )
        except BaseException:
            self._client.close()
            raise
        threads = int(options.get("threads") or 8)
        self._reader = Reader(
            self._client,
            index,
            threads=threads,
            nesting=options.get("nesting", "yes") == "yes",
            temporary=options.get("temp-dir"),
        )

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self._reader.refs(selection)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        return self._reader.read(refs)

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        return self._reader.glance(refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        return self._reader.open(ref, path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return list(self._reader.index.findings)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._reader.close()
        self._client.close()
