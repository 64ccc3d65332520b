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
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate import marks, merge
from mlmigrate.artifacts import (
    combined_checksum,
    short,
    write_file,
)
from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Written
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import (
    Artifact,
    Failed,
    Finding,
    Item,
    Loss,
    Note,
    Ref,
    Run,
    Tag,
)
from mlmigrate.partial_files import appearing
from mlmigrate.stores.wandb_offline.folders import (
    COPIED,
    RunFolders,
    log_of,
    own_of,
)
from mlmigrate.stores.wandb_offline.logged_artifacts import RECORD, logged_artifacts
from mlmigrate.stores.wandb_offline.reading import PREFIX, OfflineFolder, root_of
from mlmigrate.stores.wandb_offline.records import first_run
from mlmigrate.wandb_runs import experiments, models
from mlmigrate.wandb_runs.log import write_log
from mlmigrate.wandb_runs.mapping import Naming, experiment_record, logged, run_id
from mlmigrate.wandb_runs.nesting import Nesting
from mlmigrate.wandb_runs.own import Own, Told, experiment_id
from mlmigrate.wandb_runs.record import record_tables
from mlmigrate.wandb_runs.rows import Steps, steps_of

_TERMINAL = ("FINISHED", "FAILED", "KILLED")


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
        self._naming = Naming(
            options.get("entity") or "",
            options.get("project"),
            options.get("id-salt") or "",
            options.get("typed-params") == "yes",
            options.get("grouping") or "nesting",
        )
        synced_at = options.get("synced-at")
        self._synced_at = str(synced_at or self._root.absolute()).rstrip("/")
        self._reader = OfflineFolder(self._root, options)
        self._index = self._reader.index
        self._nesting = Nesting()
        for id, run in self._index.runs.items():
            if run.known is not None:
                self._nesting.add(id, run.known.parent)

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
        found: dict[Ref, Copy] = {}
        wanted = list(origins)
        if any(ref.kind == "experiment" for ref in wanted):
            found.update(experiments.copies(self._index.experiments, wanted))
        found.update(models.copies(self._index.models, wanted))
        for ref in wanted:
            run = self._index.runs.get(ref.id) if ref.kind == "run" else None
            if run is not None:
                known = run.known
                copy = Copy(Ref("run", ref.id), None)
                if known is not None:
                    mark = marks.load(known.mark)
                    copy = replace(copy, mark=mark, lifecycle=known.lifecycle)
                found[ref] = copy
        return found

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        for delivery in deliveries:
            header = delivery.item.header
            if isinstance(header, Run) and header.parent is not None:
                self._nesting.add(delivery.item.origin, header.parent.id)
        return [self._write(delivery) for delivery in deliveries]

    def _write(self, delivery: Delivery) -> Written | Failed:
        ref = delivery.item.ref
        try:
            if ref.kind == "experiment":
                return self._write_experiment(delivery)
            if ref.kind == "registered_model":
                return self._write_model(delivery)
            return self._write_run(delivery)
        except (OSError, ItemError) as error:
            return Failed(ref, f"cannot be written: {short(error)}")

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: a run learns from those that came after
        it that it has others nested in it, and below which it is itself.
        """
        for id, run in list(self._index.runs.items()):
            place = self._place(id)
            known = run.known
            if known is None or place in (("", ""), (known.group, known.job_type)):
                continue
            if _synced(run):
                what = f"was synced before its group, {place[0]}, was known"
                yield Note(f"run/{id}", f"{what}: set it at W&B")
            else:
                self._rewrite(run)
        yield from self._tell_of_empty_experiments()

    # -- experiments ------------------------------------------------------------

    def _write_experiment(self, delivery: Delivery) -> Written | Failed:
        """Keep what runs are to say of an experiment, and let one that is there say
        what is new.
        """
        item = delivery.item
        record = experiment_record(
            item, mark=marks.dump(delivery.mark), source=delivery.source
        )
        id = experiment_id(str(record["name"]))
        if delivery.into is not None:
            id = delivery.into.id
            record = experiments.grown(self._index.experiments[id], record)
        self._index.experiments[id] = record
        self._index.guests.discard(id)  # whoever tells of it is to tell this
        bearers = (run for run in self._index.runs.values() if run.experiment == id)
        for run in bearers:
            if not _synced(run):
                self._rewrite(run)
                break
        return Written(Ref("experiment", id))

    def _tell_of_empty_experiments(self) -> Iterator[Loss]:
        """Let the first run that can tell of the experiments that have no runs."""
        homes = (run.experiment for run in self._index.runs.values())
        left = experiments.homeless(self._index.experiments, homes, self._index.guests)
        if not left:
            return
        teller = next(self._tellers(self._index.runs), None)
        if teller is not None:
            self._rewrite(teller, Told(experiments=left))
            return
        for name in left:
            what = "no run is there that could still tell of it"
            yield Loss(Ref("experiment", experiment_id(name)), what, carried=False)

    def _tellers(self, ids: Iterable[str]) -> Iterator[RunFolders]:
        """Yield of some runs those that can be made to tell of more."""
        for run in (self._index.runs.get(id) for id in ids):
            if run is not None and run.known is not None and not _synced(run):
                yield run

    # -- registered models ------------------------------------------------------

    def _write_model(self, delivery: Delivery) -> Written | Failed:
        """Let the run that tells of a model, or one of its versions' first, tell of it
        as it is now.
        """
        item = delivery.item
        name = item.ref.id if delivery.into is None else delivery.into.id
        record = models.next_record(self._index.models.get(name), delivery)
        first = [self._index.bearers.get(name, "")]
        first += [version.run.id for version in item.versions if version.run]
        teller = next(self._tellers([*first, *self._index.runs]), None)
        if teller is None:
            what = "no run is there that was not synced already, and could tell of it"
            return Failed(item.ref, what)
        self._rewrite(teller, Told(models={name: record}))
        return Written(Ref("registered_model", name))

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
            checksums, size = self._copy_files(delivery, files, folder)
        except (OSError, ItemError) as error:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            why = f"its artifacts could not be copied: {short(error)}"
            return Failed(delivery.item.ref, why)
        combined = combined_checksum(checksums) if delivery.into is None else None
        mark = replace(delivery.mark, checksums=combined if files else None)
        if delivery.open is None:
            item = replace(item, artifacts=held.artifacts if held else ())
        self._put(item, run, replace(beside, mark=marks.dump(mark)))
        return Written(Ref("run", run.origin), combined, len(files), size)

    def _new_run(self, item: Item) -> RunFolders:
        header = item.header
        assert isinstance(header, Run)
        id = run_id(item.origin, self._naming.salt)
        try:
            start = datetime.fromtimestamp((header.start_time or 0) / 1000, UTC)
        except (OverflowError, ValueError, OSError):
            start = datetime.fromtimestamp(0, UTC)
        folder = self._root / f"offline-run-{start:%Y%m%d_%H%M%S}-{id}"
        return RunFolders("", "", id, [folder])

    def _copy_files(
        self, delivery: Delivery, files: Sequence[Artifact], folder: Path
    ) -> tuple[dict[str, str], int]:
        """Copy artifacts into a run's folder; return their SHA-256, and all bytes."""
        checksums: dict[str, str] = {}
        total = 0
        for file in files:
            assert delivery.open is not None
            ref = delivery.read_ref or delivery.item.ref
            with delivery.open(ref, file.path) as data:
                checksums[file.path], size = write_file(
                    folder / COPIED, file.path, data
                )
            total += size
        return checksums, total

    def _put(self, item: Item, run: RunFolders, beside: _Beside) -> None:
        """Write the log of a run, whose files are there, and note it in the index."""
        # It takes a second to import, in which runs are read.
        from mlmigrate.wandb_runs.messages import messages

        header = item.header
        assert isinstance(header, Run)
        folder = run.folders[-1]
        folder.mkdir(parents=True, exist_ok=True)
        group, job_type = self._place(item.origin)
        finished = header.status in _TERMINAL
        own = (Tag(key, value) for key, value in beside.carried.items())
        written = logged(
            replace(item, tags=(*item.tags, *own)),
            self._index.experiments[header.experiment.id],
            self._naming,
            mark=beside.mark,
            source=beside.source,
            steps=beside.steps or steps_of(item.metrics, finished=finished),
            root=group if job_type == "child" else None,
            is_parent=job_type == "parent",
            told=beside.told.config(),
        )
        digest = getattr(marks.load(beside.mark), "digest", "")
        for name, data in record_tables(item, digest=digest, source=beside.source):
            write_file(folder / RECORD, name, BytesIO(data))
        at = f"{self._synced_at}/{folder.name}"
        artifacts = list(logged_artifacts(run.id, item.artifacts, folder, at))
        with appearing(folder / f"run-{run.id}.wandb", folder) as file:
            write_log(file, messages(written, artifacts))
        self._index.runs.pop(run.origin, None)
        self._index.add(folder, str(folder))
        self.close()  # what was opened of the run is no longer what it is

    def _rewrite(self, run: RunFolders, more: Told | None = None) -> None:
        """Write a run again as it is, in its place among others as they are now, and
        let it tell of *more*.
        """
        own = self._own(run)
        told = own.told.and_more(more or Told())
        beside = _Beside(own.mark or "", own.source, own.steps, own.carried, told)
        self._put(self._read_back(run.origin), run, beside)

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

    def _place(self, origin: str) -> tuple[str, str]:
        """Return the group and the job type that nesting gives a run: '' for none."""
        if self._naming.grouping != "nesting":
            return "", ""
        root = self._nesting.root(origin)
        if root is None and not self._nesting.is_parent(origin):
            return "", ""
        id = run_id(root or origin, self._naming.salt)
        return id, "parent" if root is None else "child"


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
