"""Workspaces of a server: which there are, and one that is still to be made.

Each request bears the header ``X-MLFLOW-WORKSPACE``, by which a server answers as if it
had no other (``server/workspace_helpers.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, Literal

from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Sink, Written
from mlmigrate.errors import ItemError, StoreError, StoreNotFound
from mlmigrate.model import Failed, Finding, Item, Ref
from mlmigrate.stores.mlflow_server.entities import API, told_workspaces
from mlmigrate.stores.mlflow_server.release import has_workspaces
from mlmigrate.stores.mlflow_server.rest import Refused, Rest
from mlmigrate.workspaces import DEFAULT


def names(rest: Rest) -> list[str]:
    """Return the workspaces that this user may see; none of a server without any.

    Raises:
        StoreError: the server does not tell, or has not that which it is asked in.
    """
    try:
        told = told_workspaces(rest)
    except Refused as refusal:
        if refusal.absent:
            what = f"{rest.base} has no workspace {rest.workspace!r}"
            raise StoreNotFound(what) from refusal
        raise StoreError(f"{rest.base}: workspaces: {refusal}") from refusal
    return sorted(str(each.get("name")) for each in told)


def check(rest: Rest, workspace: str) -> None:
    """Look whether a server has a workspace.

    Raises:
        StoreError: it has none.
    """
    if workspace == DEFAULT:  # every server has that
        return
    known = names(rest)
    if workspace in known:
        return
    if not known and not has_workspaces(rest):
        raise StoreError(
            f"{rest.base} has no workspaces: leave out the option workspace (or the"
            " variable MLFLOW_WORKSPACE), or start it with --enable-workspaces"
        )
    raise StoreNotFound(
        f"{rest.base} has no workspace {workspace!r}; it has: {', '.join(known)}"
    )


def make(rest: Rest, workspace: str) -> None:
    """Make a workspace.

    Raises:
        ItemError: the server refuses.
    """
    try:
        rest.post(f"{API}/workspaces", {"name": workspace})
    except Refused as refusal:
        if not refusal.exists:
            what = f"{rest.base}: workspace {workspace!r} cannot be made: {refusal}"
            raise ItemError(what) from refusal


class ToCome:
    """A workspace that is made when there is something to write: until then it is
    empty. See `mlmigrate.contract.Sink`.
    """

    parallel: Literal["process", "thread"] = "thread"

    def __init__(
        self, location: str, capabilities: Capabilities, make: Callable[[], Sink]
    ) -> None:
        self.location = location
        self.capabilities = capabilities
        self._make = make
        self._made: Sink | None = None
        self._refusal: str | None = None

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self._made.refs(selection) if self._made else iter(())

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        if self._made:
            return self._made.read(refs)
        return (Failed(ref, f"{self.location} holds none yet") for ref in refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        if self._made:
            return self._made.open(ref, path)
        raise ItemError(f"{self.location} holds no such {ref.kind}")

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return self._made.findings() if self._made else ()

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        return self._made.copies(origins) if self._made else {}

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        if not deliveries:
            return []
        if self._made is None and self._refusal is None:
            try:
                self._made = self._make()
            except ItemError as error:
                self._refusal = str(error)
        if self._made is None:
            return [Failed(each.item.ref, f"{self._refusal}") for each in deliveries]
        return self._made.write(deliveries)

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`."""
        return self._made.finish() if self._made else ()

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        if self._made is not None:
            self._made.close()
