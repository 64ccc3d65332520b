"""The sink half: runs sent by W&B's SDK, read back, and only then marked.

A run is there in four steps: its rows and artifacts by the SDK; all of it read back
through the public API and compared; config and summary set and read back; and last the
mark, in the config. Killed in between, it bears no mark, and the next copy sends what
is lacking. W&B has no experiments: each run tells its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate import marks, merge
from mlmigrate.artifacts import combined_checksum, copy_files, short, write_file
from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Written
from mlmigrate.errors import ItemError, LocationError
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
from mlmigrate.stores.wandb_cloud import bulk, bundling, facts, linking, proof
from mlmigrate.stores.wandb_cloud.bundling import own_record
from mlmigrate.stores.wandb_cloud.growing import Before, new_rows, read_before, withdraw
from mlmigrate.stores.wandb_cloud.held import Held
from mlmigrate.stores.wandb_cloud.place import place_of
from mlmigrate.stores.wandb_cloud.reading import opened
from mlmigrate.stores.wandb_cloud.sending import send, workspace
from mlmigrate.told.values import pruned
from mlmigrate.wandb_runs import telling
from mlmigrate.wandb_runs.mapping import (
    MLMIGRATE,
    Logged,
    logged,
    naming_of,
    run_id,
)
from mlmigrate.wandb_runs.rows import Steps, count_rows, steps_of

_RECORD = "record"
_FILES = "artifacts"


class CloudSink:
    """Projects that runs are sent to; see `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "thread"
    capabilities = Capabilities(
        keeps_ids=True,
        negative_zero=False,  # the client sends -0.0 as the integer 0
        needs_a_run=True,
    )

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        place = place_of(location)
        each = options.get("projects") == "each"
        if each == (place.project is not None):
            raise LocationError(
                f"{place}: projects=each makes a project for each experiment, at"
                " wandb://ENTITY; all runs go to one project at wandb://ENTITY/PROJECT"
            )
        self.location = str(place)
        self._naming = naming_of(options, entity=place.entity, project=place.project)
        self._registry: str = options.get("registry") or linking.REGISTRY
        self._settle = float(options.get("settle", 10))
        threads = int(options.get("threads") or 6)
        self._reader, _ = opened(place, options, threads=threads)
        self._client, self._index = self._reader.client, self._reader.index
        self._pool = ThreadPoolExecutor(threads, "mlmigrate-wandb-write")
        self._held = Held(self._reader)
        self._slow: set[str] = set()  # origins of runs that must go one by one
        #: Why runs could not be made: W&B's client begins no run a second time.
        self._failed: dict[str, str] = {}

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
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    # -- the sink half ----------------------------------------------------------

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        return self._index.copies(origins)

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        self._index.expect(deliveries)
        if any(each.item.ref.kind != "run" for each in deliveries):
            # Several may change what one run tells.
            return [self._write(each) for each in deliveries]
        answers: dict[int, Written | Failed] = {}  # by the place among *deliveries*
        many = [at for at, each in enumerate(deliveries) if self._fits_bulk(each)]
        if len(many) >= bulk.FEWEST:
            for portion in bulk.portions(many, deliveries):
                some = [deliveries[at] for at in portion]
                answers.update(zip(portion, self._write_many(some), strict=True))
        rest = [at for at in range(len(deliveries)) if at not in answers]
        written = self._pool.map(self._write, (deliveries[at] for at in rest))
        answers.update(zip(rest, written, strict=True))
        return [answers[at] for at in range(len(deliveries))]

    def _write(self, delivery: Delivery) -> Written | Failed:
        ref = delivery.item.ref
        try:
            if ref.kind == "experiment":
                return telling.write_experiment(self._index, delivery, self._held)
            if ref.kind == "registered_model":
                return self._write_model(delivery)
            return self._write_run(delivery)
        except (OSError, ItemError) as error:
            why = f"cannot be written: {short(error)}"
            self._failed[delivery.item.origin] = why
            return Failed(ref, why)

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: a run learns from those that came after
        it that it has others nested in it, and below which it is itself.
        """
        for origin, run, group, job_type in self._index.misplaced(self._naming):
            try:
                there = self._held.run(run)
                there.group, there.job_type = group, job_type
                facts.save(there)
            except ItemError as error:
                what = f"its group is {group}, which W&B does not take: {error}"
                yield Note(f"run/{origin}", what)
                continue
            self._held.note(self._held.run(run))
        yield from telling.tell_of_empty_experiments(self._index, self._held)

    def _write_model(self, delivery: Delivery) -> Written | Failed:
        """Let a run tell of a model, and link the files of new versions at W&B."""
        written = telling.write_model(self._index, delivery, self._held)
        if isinstance(written, Failed):
            return written
        notes = linking.link(
            self._client,
            delivery.item,
            written.ref.id,
            self._index.runs,
            self._registry,
        )
        return replace(written, findings=tuple(notes))

    # -- many new runs at once --------------------------------------------------

    def _fits_bulk(self, delivery: Delivery) -> bool:
        # What was not proven so is sent by the SDK, which may tell the reason.
        return bulk.fits(delivery) and delivery.item.origin not in self._slow

    def _write_many(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        with workspace() as folder:

            def prepare(delivery: Delivery) -> bulk.Outgoing | Failed:
                return self._prepare(delivery, folder)

            def conclude(prepared: bulk.Outgoing | Failed) -> Written | Failed:
                if isinstance(prepared, Failed):
                    return prepared
                item = prepared.delivery.item
                try:
                    return self._conclude(prepared)
                except (OSError, ItemError) as error:
                    self._slow.add(item.origin)
                    self._look_again(prepared.written)
                    return Failed(item.ref, f"cannot be written: {short(error)}")

            prepared = list(self._pool.map(prepare, deliveries))
            ready = [each for each in prepared if isinstance(each, bulk.Outgoing)]
            there = self._appeared([each.written for each in ready])
            bulk.sync([each for each in ready if each.written.id not in there], folder)
            return list(self._pool.map(conclude, prepared))

    def _appeared(self, runs: Sequence[Logged]) -> set[str]:
        """Return the ids of those runs that others have made since the listing: rows of
        a log would go behind theirs.
        """
        found: set[str] = set()
        for project in {run.project for run in runs}:
            ids = [run.id for run in runs if run.project == project]
            found |= self._client.present(self._naming.entity, project, ids)
        return found

    def _look_again(self, written: Logged) -> None:
        """Note how a run stands that is not whole: a second try completes it."""
        with suppress(ItemError):
            self._held.note(
                self._client.run(written.entity, written.project, written.id)
            )

    def _prepare(self, delivery: Delivery, folder: Path) -> bulk.Outgoing | Failed:
        item = delivery.item
        try:
            self._check_free(delivery)
            files = item.artifacts if delivery.open is not None else ()
            item = replace(item, artifacts=files)
            written = self._logged(item, delivery, None)
            own_folder = folder / written.id
            checksums, size = copy_files(
                delivery, files, partial(write_file, own_folder / _FILES)
            )
            fresh = {file.path: own_folder / _FILES / file.path for file in files}
            made = list(bundling.lacking(item, fresh, written.id, {}))
            made.append(own_record(item, written.id, delivery, own_folder / _RECORD))
        except (OSError, ItemError) as error:
            return Failed(item.ref, f"cannot be written: {short(error)}")
        combined = combined_checksum(checksums)
        return bulk.Outgoing(delivery, written, made, combined, len(files), size)

    def _conclude(self, outgoing: bulk.Outgoing) -> Written:
        """Mark a run that the server has whole."""
        written, delivery = outgoing.written, outgoing.delivery
        count = count_rows(written.metrics, written.steps)
        run = proof.prove(
            self._client, written, outgoing.made, rows=count, settle=self._settle
        )
        checksums = outgoing.checksums if outgoing.files else None
        mark = replace(delivery.mark, checksums=checksums)
        exact = facts.differing(run, written, mark=None) is None
        self._held.note(self._mark(run, written, marks.dump(mark), exact=exact))
        ref = Ref("run", delivery.item.origin)
        return Written(
            ref,
            outgoing.checksums,
            outgoing.files,
            outgoing.bytes,
            _shown(written, ref),
        )

    # -- runs -------------------------------------------------------------------

    def _write_run(self, delivery: Delivery) -> Written | Failed:
        item = delivery.item
        before = self._before(delivery)
        merged = item if before is None else merge.added(before.item, item)
        files = item.artifacts if delivery.open is not None else ()
        if delivery.open is None:
            merged = replace(merged, artifacts=before.item.artifacts if before else ())
        with workspace() as folder:
            try:
                checksums, size = copy_files(
                    delivery, files, partial(write_file, folder / _FILES)
                )
            except (OSError, ItemError) as error:
                why = f"its artifacts could not be copied: {short(error)}"
                return Failed(item.ref, why)
            combined = combined_checksum(checksums) if delivery.into is None else None
            mark = replace(delivery.mark, checksums=combined if files else None)
            written = self._logged(merged, delivery, before)
            lacking = new_rows(written, before)
            earlier = before.artifacts if before else {}
            fresh = {file.path: folder / _FILES / file.path for file in files}
            made = list(bundling.lacking(merged, fresh, written.id, earlier))
            made.append(own_record(merged, written.id, delivery, folder / _RECORD))
            if before is not None and withdraw(before):
                self._held.note(before.run)
            count = send(
                self._client,
                written,
                lacking,
                made,
                inputs=item.inputs,
                folder=folder,
                fresh=before is None,
            )
            count += before.stored.rows if before else 0
            run = proof.prove(
                self._client, written, made, rows=count, settle=self._settle
            )
            run = self._mark(run, written, marks.dump(mark))
        self._held.note(run)
        ref = Ref("run", merged.origin)
        return Written(ref, combined, len(files), size, _shown(written, ref))

    def _mark(
        self, run: Any, written: Logged, mark: str, *, exact: bool = False
    ) -> Any:
        """Set what is exact only through the public API, and then the mark."""
        for each in (mark,) if exact else (None, mark):
            facts.put(run, written, mark=each)
            run = facts.prove(self._client, written, mark=each)
        return run

    def _before(self, delivery: Delivery) -> Before | None:
        """Read the copy that is to grow; None where there is none.

        Raises:
            ItemError: what is there is not a copy of this run.
        """
        if delivery.into is None:
            self._check_free(delivery)
            return None
        self._reader.forget(delivery.into.id)
        listed = self._index.runs[delivery.into.id]
        return read_before(
            self._client, self._reader, listed, delivery.into, settle=self._settle
        )

    def _check_free(self, delivery: Delivery) -> None:
        item = delivery.item
        if why := self._failed.get(item.origin):
            raise ItemError(why.removeprefix("cannot be written: "))
        assert isinstance(item.header, Run)
        record = self._index.experiments[item.header.experiment.id]
        id = run_id(item.origin, self._naming.salt)
        project = self._naming.project_of(record)
        if (self._naming.entity, project, id) in self._index.places:
            raise ItemError(
                f"run {id} is there already and is no copy of {item.origin}:"
                " -o id-salt=TEXT gives all runs other ids"
            )

    def _logged(self, item: Item, delivery: Delivery, before: Before | None) -> Logged:
        header = item.header
        assert isinstance(header, Run)
        finished = header.status in TERMINAL
        steps: Steps = steps_of(item.metrics, finished=finished)
        carried: Mapping[str, str] = {}
        if before is not None:
            steps, carried = before.own.steps, before.own.carried
        own_tags = (Tag(key, value) for key, value in carried.items())
        written = logged(
            replace(item, tags=(*own_tags, *item.tags)),
            self._index.experiments[header.experiment.id],
            self._naming,
            mark="",
            source=delivery.source,
            steps=steps,
            nested=self._index.nested_in(item.origin, self._naming),
            told=pruned(before.own.told.config()) if before is not None else {},
        )
        unmarked = {**written.config[MLMIGRATE], "mark": None}
        written = replace(written, config={**written.config, MLMIGRATE: unmarked})
        if before is None:
            return written
        at = before.listed
        return replace(written, id=at.id, entity=at.entity, project=at.project)


def _shown(written: Logged, ref: Ref) -> tuple[Finding, ...]:
    if written.exit_code is not None:
        return ()
    what = "it goes on where it came from; W&B shows it as finished"
    return (Note(str(ref), what),)
