"""What a server's traces were linked to: runs, and versions of prompts.

A server tells of which traces a run has, not which runs a trace has, nor when they were
linked. So each run and each version is asked for its traces, once. A trace that was
made during a run is one of the run's, whether or not it was also linked to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeAlias

from mlmigrate.mlflow_traces import SOURCE_RUN
from mlmigrate.model import TraceLink
from mlmigrate.stores.mlflow_server import trace_infos
from mlmigrate.stores.mlflow_server.rest import Refused, Rest, filter_text

#: Yields what may be linked to: ids of runs, or ``name/version`` of prompts.
Ids: TypeAlias = Callable[[], Iterable[str]]
#: The kind and the id of what was linked to.
End: TypeAlias = tuple[str, str]


class Links:
    """The links of all traces. Safe to use from many threads."""

    def __init__(
        self,
        rest: Rest,
        pool: Executor,
        *,
        experiments: Callable[[], list[str]],
        runs: Ids,
        prompts: Ids,
    ) -> None:
        self._rest = rest
        self._pool = pool
        self._experiments = experiments
        self._ends: dict[str, Ids] = {"run": runs, "prompt_version": prompts}
        self._lock = threading.Lock()
        self._found: dict[str, set[End]] = {}
        self._asked: set[End] = set()
        self._complete = False

    def of(self, id: str, named: Iterable[End], *, every: bool) -> list[TraceLink]:
        """Return the links of a trace.

        Args:
            id: the trace.
            named: what it may be linked to, and which need not be there any more.
            every: ask all that is there for its traces, and not only *named*.

        Raises:
            ItemError: the server refuses to tell.
        """
        with self._lock:
            wanted = set(named)
            if every and not self._complete:
                wanted.update(
                    (kind, other) for kind, ids in self._ends.items() for other in ids()
                )
            self._ask(sorted(wanted - self._asked))
            self._complete = self._complete or every
            return [TraceLink(*end) for end in sorted(self._found.get(id, ()))]

    def note(self, id: str, links: Iterable[TraceLink]) -> None:
        """Remember links that were made just now."""
        with self._lock:
            ends = {(link.kind, link.id) for link in links}
            self._found.setdefault(id, set()).update(ends)

    def forget(self) -> None:
        """Drop what is remembered."""
        with self._lock:
            self._found.clear()
            self._asked.clear()
            self._complete = False

    def _ask(self, ends: Sequence[End]) -> None:
        if not ends:
            return
        homes = self._experiments()
        found = self._pool.map(lambda end: list(self._linked(homes, *end)), ends)
        for end, ids in zip(ends, found, strict=True):
            for id in ids:
                self._found.setdefault(id, set()).add(end)
        self._asked.update(ends)

    def _linked(self, experiments: list[str], kind: str, other: str) -> Iterator[str]:
        """Yield the traces that were linked to something."""
        literal = filter_text(other)
        if literal is None:
            return
        query = f"{'run_id' if kind == 'run' else 'prompt'} = {literal}"
        try:
            for info in trace_infos.search(self._rest, experiments, query):
                if kind != "run" or info["trace_metadata"].get(SOURCE_RUN) != other:
                    yield info["trace_id"]
        except Refused as refusal:
            # A server that has no such links does not know how to search for them.
            if refusal.status != 400:
                raise
