"""The sink half: runs sent, read back, and only then marked.

What a run lacks is sent in turn: its single values, its record among them, then its
points, then its files. Then all of it is read back and compared; and last comes the
mark, which is read back too. Killed in between, it bears no mark, and the next copy
sends what is lacking: a run is found by its custom id, which it is made with, and by
its origin, which is sent first.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal

from mlmigrate import marks, merge
from mlmigrate.artifacts import combined_checksum, copy_files, short, write_file
from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Written
from mlmigrate.errors import ItemError
from mlmigrate.model import Failed, Finding, Item, Loss, Note, Ref, Run
from mlmigrate.neptune_runs.attributes import Scalar
from mlmigrate.neptune_runs.mapping import (
    LONGEST_STRING,
    MARK,
    ORIGIN,
    POINTS,
    RECORD,
    RECORD_FILE,
    RUN_ID,
    SHOWN,
    Logged,
    Paths,
    custom_id,
    logged,
)
from mlmigrate.neptune_runs.own import Added, own, restored, without
from mlmigrate.stores.neptune_server import operations, registry
from mlmigrate.stores.neptune_server.index import Listed, experiment_path, model_path
from mlmigrate.stores.neptune_server.proof import differs, prove
from mlmigrate.stores.neptune_server.reading import NeptuneProject
from mlmigrate.stores.neptune_server.server import Fetched
from mlmigrate.stores.neptune_server.texts import put, text_of
from mlmigrate.told.experiments import experiment_id, experiment_record, grown
from mlmigrate.told.models import next_record
from mlmigrate.told.values import pruned


class NeptuneSink:
    """A project that runs are sent to; see `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "thread"
    capabilities = Capabilities(keeps_ids=True, nul=False)

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        self._reader = NeptuneProject(location, options, as_copies=True)
        self.location = self._reader.location
        self._server, self._index = self._reader.server, self._reader.index
        self._salt: str = options.get("id-salt") or ""
        self._typed = options.get("typed-params") == "yes"
        self._settle = float(options.get("settle", 10))
        threads = int(options.get("threads") or 6)
        self._pool = ThreadPoolExecutor(threads, "mlmigrate-neptune-write")
        self._lock = Lock()

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
        return list(self._pool.map(self._write, deliveries))

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: runs name their parents by origin, so
        only the project may have to be told of experiments yet.
        """
        told = {run.experiment for run in self._index.runs.values()}
        for id in list(self._index.untold):
            try:
                record = self._index.experiments[id]
                self._tell(experiment_path(str(record["name"])), record)
                del self._index.untold[id]
            except ItemError as error:
                if id not in told:
                    what = f"it has no run, and the project does not take it: {error}"
                    yield Loss(Ref("experiment", id), what, carried=False)

    def _write(self, delivery: Delivery) -> Written | Failed:
        ref = delivery.item.ref
        try:
            if ref.kind == "experiment":
                return self._write_experiment(delivery)
            if ref.kind == "registered_model":
                with self._lock:  # two of one name would be two models
                    return self._write_model(delivery)
            return self._write_run(delivery)
        except (OSError, ItemError) as error:
            return Failed(ref, f"cannot be written: {short(error)}")

    def _write_model(self, delivery: Delivery) -> Written:
        index = self._index
        if self._server.has_models:
            name, notes = registry.write_model(
                self._server, delivery, index.models, settle=self._settle
            )
            index.drop(index.models[name])
            return Written(Ref("registered_model", name), findings=tuple(notes))
        name = delivery.item.ref.id if delivery.into is None else delivery.into.id
        record = {**next_record(index.told_models.get(name), delivery), "name": name}
        self._tell(model_path(name), record)
        index.told_models[name] = record
        return Written(Ref("registered_model", name))

    def _write_experiment(self, delivery: Delivery) -> Written:
        """Let the project tell of an experiment; its runs do so, too."""
        record: dict[str, Any] = experiment_record(
            delivery.item, mark=marks.dump(delivery.mark), source=delivery.source
        )
        id = experiment_id(str(record["name"]))
        notes: tuple[Finding, ...] = ()
        with self._lock:
            if delivery.into is not None:
                id = delivery.into.id
                record = grown(self._index.experiments[id], record)
            try:
                self._tell(experiment_path(str(record["name"])), record)
                self._index.untold.pop(id, None)
            except ItemError as error:
                self._index.untold[id] = str(error)
                what = f"only its runs tell of it: {error}"
                notes = (Note(str(delivery.item.ref), what),)
            self._index.experiments[id] = record
        return Written(Ref("experiment", id), findings=notes)

    def _tell(self, path: str, record: Mapping[str, Any]) -> None:
        """Let the project tell of an experiment or a model.

        Raises:
            ItemError: it does not take it, or gives it back otherwise.
        """
        text = json.dumps(pruned(record), sort_keys=True)  # as runs tell it
        read = partial(self._server.fetch, self._server.teller, "run", series_too=False)
        held = read()
        with tempfile.TemporaryDirectory(prefix="mlmigrate-") as folder:
            telling = put(held, path, text, Path(folder))
            refused = self._server.send(self._server.teller, telling)

        def wrong(found: Fetched) -> str:
            there = text_of(found, path) == text
            return "" if there else f"what is told of {record['name']} is not there"

        prove(read, wrong, settle=self._settle, refused=refused)

    # -- runs -------------------------------------------------------------------

    def _write_run(self, delivery: Delivery) -> Written | Failed:
        item = delivery.item
        header = item.header
        assert isinstance(header, Run)
        custom = custom_id(item.origin, self._salt)
        if custom == self._server.teller:
            custom = custom_id(item.origin, f"{custom}{self._salt}")
        known = self._index.runs.get(delivery.into.id) if delivery.into else None
        id = known.id if known else self._server.create_run(custom, header.start_time)
        read = partial(self._server.fetch, id, "run", temporary=self._reader.temporary)
        held = read()
        before = _before(held, item.origin, custom)
        if before.item is not None and delivery.into is not None:
            merged = without(merge.added(before.item, item), before.added, item)
        else:
            merged = item
        files = item.artifacts if delivery.open is not None else ()
        if delivery.open is None:
            kept = before.item.artifacts if before.item else ()
            kept = tuple(each for each in kept if each.path not in before.added.files)
            merged = replace(merged, artifacts=kept)
        header = merged.header
        assert isinstance(header, Run)
        written = logged(
            merged,
            self._index.experiments[header.experiment.id],
            source=delivery.source,
            salt=self._salt,
            typed=self._typed,
            before=before.paths,
            lowest_step=self._server.lowest_step,
            standing=held.container.floats if self._server.only_grows else None,
        )
        if before.is_renamed and header.name == before.name:
            # By people at Neptune, and the source has still the name that it had.
            shown = {p: s for p, s in written.scalars.items() if p != "sys/name"}
            written = replace(written, scalars=shown)
        with _workspace(self._reader.temporary) as folder:
            # By numbers: a name may be too long here, or that of a folder, too.
            places = {file.path: str(number) for number, file in enumerate(files)}

            def keep(path: str, data: BinaryIO) -> tuple[str, int]:
                return write_file(folder / "artifacts", places[path], data)

            try:
                checksums, size = copy_files(delivery, files, keep)
            except (OSError, ItemError) as error:
                why = f"its artifacts could not be copied: {short(error)}"
                return Failed(item.ref, why)
            refused = self._send(id, written, held, places, folder, words=before.words)
        combined = combined_checksum(checksums) if delivery.into is None else None
        sizes = {artifact.path: artifact.size for artifact in merged.artifacts}
        wanted = {path: sizes[inner] for path, inner in written.files.items()}
        found = prove(
            read,
            differs(written, wanted),
            settle=self._settle,
            refused=refused,
        )
        mark = replace(delivery.mark, checksums=combined if files else None)
        said = {MARK: Scalar("string", marks.dump(mark)), **_shown(written, found)}
        self._mark(id, found, said)
        self._note(id, found, merged, marks.dump(mark))
        ref = Ref("run", merged.origin)
        losses = tuple(Loss(ref, what, carried=True) for what in written.aside)
        return Written(ref, combined, len(files), size, losses)

    def _send(
        self,
        id: str,
        written: Logged,
        held: Fetched,
        places: Mapping[str, str],
        folder: Path,
        *,
        words: Mapping[str, Set[str]],
    ) -> list[str]:
        """Send what a run lacks; return what the server refused."""
        there = held.container
        if not there.text(ORIGIN):
            # By it what was begun is found again: a server may refuse all that comes
            # with one value that it does not like.
            whose = {path: written.scalars[path] for path in (ORIGIN, RUN_ID)}
            naming = [*operations.changes(whose, there.scalars)]
            if refused := self._server.send(id, naming):
                raise ItemError(refused[0])
        # It is no whole copy from now on.
        first = [operations.Delete(MARK, "string")] if there.text(MARK) else []
        refused = self._server.send(
            id, [*first, *operations.changes(written.scalars, there.scalars)]
        )
        blobs = folder / "own"
        blobs.mkdir()
        uploads: list[operations.Operation] = []
        for number, (path, data) in enumerate(written.blobs.items()):
            if path in held.files and held.read(path) == data:
                continue
            place = blobs / f"{number}{Path(path).suffix}"
            place.write_bytes(data)
            uploads.append(operations.Upload(path, place))
        gone: list[operations.Operation] = [
            operations.Delete(path, "file")
            for path in (RECORD_FILE, POINTS)
            if path in held.files and path not in written.blobs
        ]
        if there.text(RECORD) and RECORD not in written.scalars:
            gone.append(operations.Delete(RECORD, "string"))
        gone += operations.removals(written.scalars, there.scalars, words)
        # What is read in the place of what goes is there before that goes.
        refused += self._server.send(id, [*uploads, *gone])
        refused += self._server.send(
            id, [*operations.points(written.series, there.floats)]
        )
        refused += self._server.send(
            id,
            [
                operations.Upload(path, folder / "artifacts" / places[inner])
                for path, inner in written.files.items()
                if inner in places
            ],
        )
        return refused

    def _mark(self, id: str, found: Fetched, said: Mapping[str, Scalar]) -> None:
        marking = [*operations.changes(said, found.container.scalars)]
        refused = self._server.send(id, marking)

        def wrong(back: Fetched) -> str:
            there = all(back.container.scalars.get(p) == s for p, s in said.items())
            return "" if there else "its mark is not there"

        prove(
            partial(self._server.fetch, id, "run", series_too=False),
            wrong,
            settle=self._settle,
            refused=refused,
        )

    def _note(self, id: str, found: Fetched, item: Item, mark: str) -> None:
        """Note how a run stands now."""
        header = item.header
        assert isinstance(header, Run)
        self._reader.forget(item.origin)
        with self._lock:
            self._index.put(
                Listed(
                    "run",
                    id,
                    found.container.id,
                    item.origin,
                    header.experiment.id,
                    True,
                    mark,
                    header.status,
                    header.end_time,
                    header.lifecycle,
                )
            )


@dataclass(frozen=True, slots=True)
class _Before:
    """What is there of a run that is to be written."""

    item: Item | None = None
    paths: Paths | None = None
    added: Added = field(default_factory=Added)
    words: Mapping[str, Set[str]] = field(default_factory=dict)
    """Those that mlmigrate put into Neptune's sets."""
    name: str | None = None
    """The name that it got."""
    is_renamed: bool = False
    """Neptune shows another."""


def _shown(written: Logged, found: Fetched) -> Mapping[str, Scalar]:
    """Return what Neptune shows of the texts that it may keep as it likes."""
    shown = {}
    for path, place in SHOWN.items():
        text = found.container.text(path)
        if path in written.scalars and text and text != written.scalars[path].value:
            shown[place] = Scalar("string", text[:LONGEST_STRING])
    return shown


def _before(held: Fetched, origin: str, custom: str) -> _Before:
    """Return what is there of a run.

    Raises:
        ItemError: it is another's.
    """
    there = held.container
    # The server may have lost the origin: two attributes tell it.
    if (there.text(ORIGIN) or there.text(RUN_ID)) == origin:
        found = own(there, held.read)
        if found is None:  # its maker was killed
            return _Before()
        back = restored(there, found, Ref("run", origin), held.read)
        header = back.item.header
        assert isinstance(header, Run)
        name = found.header["name"]
        return _Before(
            back.item, back.paths, back.added, back.words, name, header.name != name
        )
    others = [path for path in there.scalars if not path.startswith("sys/")]
    if others or there.floats or there.artifacts:
        raise ItemError(
            f"run {there.id} has the custom id {custom} and is no copy of {origin}:"
            " -o id-salt=TEXT gives all runs other ids"
        )
    return _Before()


@contextmanager
def _workspace(temporary: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlmigrate-", dir=temporary) as folder:
        yield Path(folder)
