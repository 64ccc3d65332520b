"""Sink ``neptune_offline``: runs in Neptune's own offline format, and their manifest.

Each run is a folder in ``DIR/.neptune/offline``, where it appears whole or not at all;
a run that grows is written anew beside the earlier one, which then goes. It can be sent
by ``mlmigrate copy neptune-offline:DIR neptune://WORKSPACE/PROJECT``, as often as one
likes: the server knows each run by its custom id. ``neptune sync --path DIR`` takes it
as well, but makes new runs each time, without their ids.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from mlmigrate import marks, merge
from mlmigrate.artifacts import combined_checksum, copy_files, short, write_file
from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Written
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import Failed, Finding, Item, Loss, Ref, Run
from mlmigrate.named_files import Found
from mlmigrate.neptune_runs.mapping import custom_id, logged
from mlmigrate.neptune_runs.own import Restored
from mlmigrate.partial_files import appearing_folder
from mlmigrate.stores.neptune_offline import container, manifest
from mlmigrate.stores.neptune_offline.container import UPLOADS, Facts, uuid_of
from mlmigrate.stores.neptune_offline.folders import DATA, Folder
from mlmigrate.stores.neptune_offline.index import NO_PROJECT, Entry
from mlmigrate.stores.neptune_offline.reading import (
    PREFIX,
    OfflineRuns,
    Whole,
    restored_of,
    root_of,
)
from mlmigrate.told.experiments import (
    copies,
    experiment_id,
    experiment_record,
    grown,
)
from mlmigrate.told.models import next_record

_OFFLINE = "offline"


class OfflineSink:
    """A folder that offline runs are written into; see `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "process"
    capabilities = Capabilities(keeps_ids=True, nul=False)

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        root = root_of(location)
        self._base = root if root.name == DATA else root / DATA
        self.location = f"{PREFIX}{root}"
        self._reader = OfflineRuns(self._base, options)
        self._index, self._manifest = self._reader.index, self._reader.manifest
        self._salt: str = options.get("id-salt") or ""
        self._typed = options.get("typed-params") == "yes"
        try:
            (self._base / _OFFLINE).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{root} cannot be written: {error.strerror}") from error
        for run in self._index.runs.values():
            if run.own is not None and run.folder is not None:
                # Killed before it was written down: it is there all the same.
                place = manifest.Sent(run.own.origin, run.folder.executions[-1].name)
                self._manifest.runs[run.own.custom_id] = place

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
        wanted = list(origins)
        found: dict[Ref, Copy] = dict(copies(self._reader.told(), wanted))
        for ref in wanted:
            if ref.kind == "registered_model" and ref.id in self._manifest.models:
                found[ref] = Copy(ref, None)
            run = self._index.runs.get(ref.id) if ref.kind == "run" else None
            if run is not None and run.own is not None:
                mark, stage = marks.load(run.own.mark), run.own.lifecycle
                found[ref] = Copy(Ref("run", ref.id), mark, stage)
        return found

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        found = [self._write(delivery) for delivery in deliveries]
        try:
            manifest.save(self._base, self._manifest)
        except OSError as error:
            why = f"the manifest cannot be written: {error.strerror or error}"
            return [Failed(delivery.item.ref, why) for delivery in deliveries]
        return found

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: runs name their parents by origin, so
        nothing needs to be repaired.
        """
        return ()

    def _write(self, delivery: Delivery) -> Written | Failed:
        ref = delivery.item.ref
        try:
            if ref.kind == "experiment":
                return self._write_experiment(delivery)
            if ref.kind == "registered_model":
                name = ref.id if delivery.into is None else delivery.into.id
                held = self._manifest.models.get(name)
                self._manifest.models[name] = next_record(held, delivery)
                return Written(Ref("registered_model", name))
            return self._write_run(delivery)
        except (OSError, ItemError) as error:
            return Failed(ref, f"cannot be written: {short(error)}")

    def _write_experiment(self, delivery: Delivery) -> Written:
        record: dict[str, Any] = experiment_record(
            delivery.item, mark=marks.dump(delivery.mark), source=delivery.source
        )
        id = experiment_id(str(record["name"]))
        if delivery.into is not None:
            id = delivery.into.id
            record = grown(self._reader.told()[id], record)
        self._manifest.experiments[str(record["name"])] = record
        return Written(Ref("experiment", id))

    # -- runs -------------------------------------------------------------------

    def _write_run(self, delivery: Delivery) -> Written | Failed:
        item = delivery.item
        known = self._index.runs.get(delivery.into.id) if delivery.into else None
        id = known.own.custom_id if known and known.own else ""
        id = id or custom_id(item.origin, self._salt)
        if known is None:
            self._check_free(id)
        whole = self._reader.gathered(known) if known else None
        before = _before(known, whole) if known and whole else None
        merged = merge.added(before.item, item) if before else item
        files = item.artifacts if delivery.open is not None else ()
        if delivery.open is None:
            kept = before.item.artifacts if before else ()
            merged = replace(merged, artifacts=kept)
        header = merged.header
        assert isinstance(header, Run)
        record = self._reader.told()[header.experiment.id]
        said = logged(
            merged,
            record,
            source=delivery.source,
            salt=self._salt,
            typed=self._typed,
            before=before.paths if before else None,
        )
        said = replace(said, custom_id=id)
        place = self._next_place(id)
        with appearing_folder(place, self._base) as folder:
            uploads = folder / UPLOADS
            uploads.mkdir()
            names = {path: _upload_name(at, path) for at, path in enumerate(said.files)}
            of_artifact = {inner: names[path] for path, inner in said.files.items()}
            fresh = {file.path for file in files}
            if whole is not None and before is not None:
                for inner, at in before.files.items():
                    if inner in of_artifact and inner not in fresh:
                        _link(whole.files[at], uploads / of_artifact[inner])

            def write(path: str, data: BinaryIO) -> tuple[str, int]:
                return write_file(uploads, of_artifact[path], data)

            checksums, size = copy_files(delivery, files, write)
            combined = combined_checksum(checksums) if delivery.into is None else None
            mark = replace(delivery.mark, checksums=combined if files else None)
            facts = Facts(
                item.origin,
                id,
                str(record["name"]),
                marks.dump(mark),
                header.status,
                header.end_time,
                header.lifecycle,
            )
            placed = {path: uploads / name for path, name in names.items()}
            container.write(folder, said, placed, facts, now=time.time())
        self._note(id, place, facts)
        ref = Ref("run", item.origin)
        losses = tuple(Loss(ref, what, carried=True) for what in said.aside)
        return Written(ref, combined, len(files), size, losses)

    def _check_free(self, id: str) -> None:
        """Refuse what was written before, and is no longer there."""
        sent = self._manifest.runs.get(id)
        if sent is not None:
            raise ItemError(
                f"{sent.container} was written before, and is no longer there: it was"
                " sent, or removed. Copy it to neptune://WORKSPACE/PROJECT, which knows"
                f" it by its id; to write all anew, remove {self._base / manifest.NAME}"
            )

    def _next_place(self, id: str) -> Path:
        """Return a folder for a run that comes behind all that it has."""
        offline, stem = self._base / _OFFLINE, f"run__{uuid_of(id)}__"
        numbers = [
            int(name.removeprefix(stem)[:6])
            for name in os.listdir(offline)
            if name.startswith(stem) and name.removeprefix(stem)[:6].isdecimal()
        ]
        return offline / f"{stem}{max(numbers, default=0) + 1:06}__mlmigrate"

    def _note(self, id: str, place: Path, facts: Facts) -> None:
        """Note where a run is now, and remove what it was before."""
        stem = place.name[: -len("000000__mlmigrate")]
        for name in os.listdir(place.parent):
            if name.startswith(stem) and name < place.name:
                shutil.rmtree(place.parent / name)
        folder = Folder("run", uuid_of(id), [place])
        entry = Entry(NO_PROJECT, folder.id.replace("-", ""), folder, own=facts)
        self._index.runs[facts.origin] = entry
        self._manifest.runs[id] = manifest.Sent(facts.origin, place.name)
        self._reader.close()  # what was opened of the run is no longer what it is


def _before(known: Entry, whole: Whole) -> Restored:
    """Return the run that is to grow.

    Raises:
        ItemError: it cannot be read.
    """
    back = restored_of(known, whole)
    if back is None:
        raise ItemError(f"run {known.id} cannot be read back")
    return back


def _upload_name(number: int, path: str) -> str:
    """Return the name of a file in a run's folder: Neptune's client knows no others."""
    return f"{number}{PurePosixPath(path).suffix[:40]}"


def _link(found: Found, place: Path) -> None:
    """Put a file that an earlier folder of the run has into a new one."""
    source = found.folder / found.path
    try:
        os.link(source, place)
    except OSError:  # not every file system knows links
        shutil.copyfile(source, place)
