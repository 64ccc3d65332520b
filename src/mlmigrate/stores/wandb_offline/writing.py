"""Sink ``wandb_offline``: run folders that ``wandb sync`` sends to a W&B server.

A run is there once its log is, which replaces an earlier one at once; its files were
copied into its folder before, so that nothing that sends or clears up what it sent
ever sees an original. W&B has no experiments: each run tells its own
(`mlmigrate.wandb_runs`), and one run of those that have none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO, Literal

from mlmigrate import marks, merge
from mlmigrate.artifacts import (
    combined_checksum,
    copy_files,
    short,
    write_file,
)
from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Written
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import (
    TERMINAL,
    Failed,
    Finding,
    Item,
    Note,
    Ref,
    Run,
    Tag,
)
from mlmigrate.partial_files import appearing, remove_abandoned
from mlmigrate.stores.wandb_offline.folders import (
    COPIED,
    RunFolders,
    add_folder,
    log_of,
    own_of,
)
from mlmigrate.stores.wandb_offline.logged_artifacts import RECORD, logged_artifacts
from mlmigrate.stores.wandb_offline.reading import PREFIX, OfflineFolder, root_of
from mlmigrate.stores.wandb_offline.records import first_run
from mlmigrate.wandb_runs import telling
from mlmigrate.wandb_runs.log import write_log
from mlmigrate.wandb_runs.mapping import logged, naming_of, run_id
from mlmigrate.wandb_runs.own import Own, Told
from mlmigrate.wandb_runs.record import record_tables
from mlmigrate.wandb_runs.rows import Steps, steps_of


class OfflineSink:
    """A folder that run folders are written into; see `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "process"
    capabilities = Capabilities(
        keeps_ids=True,
        negative_zero=False,  # the client writes -0.0 as the integer 0
        needs_a_run=True,
    )

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        if find_spec("wandb") is None:
            raise StoreError(
                "W&B's run folders are written by its client's own code, which is not"
                " installed: pip install 'mlmigrate[wandb]'"
            )
        self._root = root_of(location)
        self.location = f"{PREFIX}{self._root}"
        self._naming = naming_of(
            options, entity=options.get("entity") or "", project=options.get("project")
        )
        synced_at = options.get("synced-at")
        self._synced_at = str(synced_at or self._root.absolute()).rstrip("/")
        self._reader = OfflineFolder(self._root, options)
        self._index = self._reader.index

    # -- the source half --------------------------------------------------------

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self._reader.refs(selection)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        return self._reader.read(refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        return self._reader.open(ref, path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return self._reader.findings()

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._reader.close()

    # -- the sink half ----------------------------------------------------------

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        return self._index.copies(origins)

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        self._index.expect(deliveries)
        return [self._write(delivery) for delivery in deliveries]

    def _write(self, delivery: Delivery) -> Written | Failed:
        ref = delivery.item.ref
        try:
            if ref.kind == "experiment":
                return telling.write_experiment(self._index, delivery, self)
            if ref.kind == "registered_model":
                return telling.write_model(self._index, delivery, self)
            return self._write_run(delivery)
        except (OSError, ItemError) as error:
            return Failed(ref, f"cannot be written: {short(error)}")

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: a run learns from those that came after
        it that it has others nested in it, and below which it is itself.

        A process that was killed while a run was to tell of something may have left a
        file in its folder, which nobody comes back to if another run tells of it now.
        """
        for id, run, group, _ in self._index.misplaced(self._naming):
            if _synced(run):
                what = f"was synced before its group, {group}, was known"
                yield Note(f"run/{id}", f"{what}: set it at W&B")
            else:
                self.tell(run, Told())
        yield from telling.tell_of_empty_experiments(self._index, self)
        for folder in self._root.glob("offline-run-*"):
            remove_abandoned(folder)

    # -- telling: `mlmigrate.wandb_runs.telling.Teller` ---------------------------

    def tellers(self, first: Sequence[str] = ()) -> Iterator[RunFolders]:
        """Yield the runs that were not synced, those of the ids in *first* first."""
        return (run for run in self._index.own(first) if not _synced(run))

    def tell(self, run: RunFolders, more: Told) -> None:
        """Write a run again as it is, in its place among others as they are now, and
        let it tell of *more*.
        """
        own = self._own(run)
        beside = _Beside(
            own.mark or "", own.source, own.steps, own.carried, own.told.and_more(more)
        )
        self._put(self._read_back(run.origin), run, beside)

    # -- runs -------------------------------------------------------------------

    def _write_run(self, delivery: Delivery) -> Written | Failed:
        item, source = delivery.item, delivery.source
        run = self._index.runs.get(delivery.into.id) if delivery.into else None
        beside = _Beside("", source)
        held = None
        if run is not None:
            if _synced(run):
                what = (
                    f"{run.folders[-1].name} was synced already, and a second sync"
                    " would send its rows twice: copy what is new to"
                    " wandb://ENTITY/PROJECT, or remove the folder and the run at W&B"
                )
                return Failed(item.ref, what)
            own = self._own(run)
            steps: Steps | None = "rows" if own.steps == "rows" else None
            beside = replace(beside, steps=steps, carried=own.carried, told=own.told)
            held = self._read_back(run.origin)
            item = merge.added(held, item)
        else:
            run = self._new_run(item)
        files = delivery.item.artifacts if delivery.open is not None else ()
        folder = run.folders[-1]
        fresh = not folder.exists()
        try:
            write = partial(write_file, folder / COPIED)
            checksums, size = copy_files(delivery, files, write)
        except (OSError, ItemError) as error:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            why = f"its artifacts could not be copied: {short(error)}"
            return Failed(delivery.item.ref, why)
        combined = combined_checksum(checksums) if delivery.into is None else None
        mark = replace(delivery.mark, checksums=combined if files else None)
        if delivery.open is None:
            item = replace(item, artifacts=held.artifacts if held else ())
        for name, data in record_tables(item, digest=mark.digest, source=source):
            write_file(folder / RECORD, name, BytesIO(data))
        self._put(item, run, replace(beside, mark=marks.dump(mark)))
        return Written(Ref("run", item.origin), combined, len(files), size)

    def _new_run(self, item: Item) -> RunFolders:
        header = item.header
        assert isinstance(header, Run)
        id = run_id(item.origin, self._naming.salt)
        try:
            start = datetime.fromtimestamp((header.start_time or 0) / 1000, UTC)
        except (OverflowError, ValueError, OSError):
            start = datetime.fromtimestamp(0, UTC)
        folder = self._root / f"offline-run-{start:%Y%m%d_%H%M%S}-{id}"
        return RunFolders("", "", id, "", "", None, (folder,))

    def _put(self, item: Item, run: RunFolders, beside: _Beside) -> None:
        """Write the log of a run, whose files are there, and note it in the index."""
        # It takes a second to import, in which runs are read.
        from mlmigrate.wandb_runs.messages import messages

        header = item.header
        assert isinstance(header, Run)
        folder = run.folders[-1]
        folder.mkdir(parents=True, exist_ok=True)
        finished = header.status in TERMINAL
        own = (Tag(key, value) for key, value in beside.carried.items())
        written = logged(
            replace(item, tags=(*item.tags, *own)),
            self._index.experiments[header.experiment.id],
            self._naming,
            mark=beside.mark,
            source=beside.source,
            steps=beside.steps or steps_of(item.metrics, finished=finished),
            nested=self._index.nested_in(item.origin, self._naming),
            told=beside.told.config(),
        )
        at = f"{self._synced_at}/{folder.name}"
        artifacts = list(logged_artifacts(run.id, item.artifacts, folder, at))
        with appearing(folder / f"run-{run.id}.wandb", folder) as file:
            write_log(file, messages(written, artifacts))
        self._index.forget(run)
        add_folder(self._index, folder, str(folder))
        self.close()  # what was opened of the run is no longer what it is

    def _read_back(self, id: str) -> Item:
        """Read a run that is there.

        Raises:
            ItemError: it cannot be read whole.
        """
        found = next(self.read([Ref("run", id)]))
        if isinstance(found, Failed):
            raise ItemError(f"run {id} cannot be read back: {found.why}")
        return found

    def _own(self, run: RunFolders) -> Own:
        """Return what mlmigrate wrote into a run's config.

        Raises:
            ItemError: nothing; the run is another's.
        """
        log = log_of(run.folders[-1])
        found = own_of(first_run(log)) if log is not None else None
        if found is None:
            raise ItemError(
                f"{run.folders[-1].name} was not written by mlmigrate: its run cannot"
                " be added to"
            )
        return found


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a run's config holds beside what is read back of it."""

    mark: str
    source: str
    steps: Steps | None = None  # None: as the points have it
    carried: Mapping[str, str] = field(default_factory=dict)
    told: Told = field(default_factory=Told)


def _synced(run: RunFolders) -> bool:
    """Tell whether `wandb sync` has sent a run."""
    return any(any(folder.glob("*.synced")) for folder in run.folders)
