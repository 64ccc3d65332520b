"""What Neptune's clients left on disk, read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate.artifacts import local_path, parse_maps
from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import Artifact, Failed, Finding, Item, Problem, Ref
from mlmigrate.named_files import Found, as_artifacts, bytes_of
from mlmigrate.neptune_runs import items
from mlmigrate.neptune_runs.attributes import Container
from mlmigrate.neptune_runs.names import Names
from mlmigrate.neptune_runs.own import Restored, own, record_of, restored
from mlmigrate.run_files import FilesOfOneRun, MadeFiles
from mlmigrate.stores.neptune_offline.database_runs import told_by_databases
from mlmigrate.stores.neptune_offline.folder_runs import told_by_folder
from mlmigrate.stores.neptune_offline.folders import DATA
from mlmigrate.stores.neptune_offline.index import NO_PROJECT, Entry, Index, index_of
from mlmigrate.stores.neptune_offline.made import Counted, Key, Made, Written
from mlmigrate.stores.neptune_offline.manifest import Manifest, manifest_of
from mlmigrate.stores.neptune_offline.told import Told
from mlmigrate.stores.neptune_offline.uploads import Reach
from mlmigrate.told.experiments import experiment_id, experiment_of
from mlmigrate.told.models import model_of

PREFIX = "neptune-offline:"


def root_of(location: str) -> Path:
    """Return the folder that a location names."""
    return Path(local_path(location.removeprefix(PREFIX)))


class OfflineRuns:
    """A folder that Neptune's clients left; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        """Read what is in *root*.

        Raises:
            StoreError: it cannot be listed.
        """
        self.root = root
        self.location = f"{PREFIX}{root}"
        self._reach = Reach(root, parse_maps(options.get("map-artifacts", ())))
        self._temporary: str | None = options.get("temp-dir")
        self._factor: int | None = options.get("step-multiplier")
        try:
            there = root.is_dir()
            project = options.get("project")
            self.index = index_of(root, project, self._temporary) if there else Index()
        except OSError as error:
            raise StoreError(f"{root} cannot be listed: {error.strerror}") from error
        self.manifest: Manifest = manifest_of(root)
        self._files = FilesOfOneRun()

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        if selection.kind == "experiment":
            known = {**self.index.projects(), **self.told()}
            yield from (Ref("experiment", id) for id in known)
        elif selection.kind == "registered_model":
            names = list(self.manifest.models)
            yield from (Ref("registered_model", name) for name in names)
        elif selection.kind == "run":
            wanted = selection.experiments
            for id, run in self.index.runs.items():
                if wanted is None or run.experiment in wanted:
                    yield Ref("run", id)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            try:
                if ref.kind == "run":
                    yield self._read_run(ref, self.index.runs[ref.id])
                elif ref.kind == "experiment":
                    yield self._read_experiment(ref)
                else:
                    yield model_of(self.manifest.models[ref.id], ref)
            except KeyError:
                yield Failed(ref, f"{self.location} holds no such {ref.kind}")
            except (OSError, ItemError, StoreError) as error:
                yield Failed(ref, f"cannot be read: {error}")

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        run = self.index.runs.get(ref.id) if ref.kind == "run" else None
        if run is None:
            raise ItemError(f"{self.location} holds no such {ref.kind}")
        return self._files.open(ref, path, partial(self._make_files, run))

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return list(self.index.findings)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._files.close()

    # -- experiments --------------------------------------------------------------

    def told(self) -> dict[str, Mapping[str, Any]]:
        """Return what the manifest tells of experiments, by their ids."""
        records = self.manifest.experiments
        return {experiment_id(name): record for name, record in records.items()}

    def _read_experiment(self, ref: Ref) -> Item:
        told = self.told()
        if ref.id in told:
            return experiment_of(told[ref.id], ref)
        name = self.index.projects()[ref.id]
        for run in self.index.runs.values():
            if run.own is not None and run.own.experiment == name:
                found = self.gathered(run)
                record = record_of(found.container, found.read).get("experiment")
                if isinstance(record, dict) and record.get("name") == name:
                    return experiment_of(record, ref)
        return items.experiment_item(name)

    # -- one run ------------------------------------------------------------------

    def _told(self, run: Entry, made: Made, *, points: bool = True) -> Told:
        if run.folder is not None:
            return told_by_folder(run.folder, made, points=points)
        family = self.index.family(run)
        return told_by_databases(run.heads, family, made, self._temporary)

    def gathered(self, run: Entry, *, points: bool = True) -> Whole:
        """Return all that is known of a run.

        Raises:
            OSError: it cannot be read.
            StoreError: likewise.
        """
        counted = Counted()
        told = self._told(run, counted, points=points)
        names = Names()
        attributes = names.give(items.ATTRIBUTES)
        made = _named(counted, names)
        logged, found = self._logged(told, names)
        container = Container(
            "run",
            run.project,
            run.id,
            told.gathered.scalars,
            told.floats,
            findings=(*told.found, *found),
            began=told.began,
            heard=told.heard,
            about=told.about,
        )
        text = items.attributes_text(container).encode()
        artifacts = [Artifact(attributes, len(text))] if text else []
        artifacts += [Artifact(path, counted.sizes[key]) for path, key in made.items()]
        artifacts += as_artifacts(logged)
        container = replace(container, artifacts=tuple(artifacts))
        return Whole(container, logged)

    def _read_run(self, ref: Ref, run: Entry) -> Item:
        found = self.gathered(run)
        container = found.container
        back = restored_of(run, found)
        if back is not None:
            return back.item
        item = items.run_item(container, ref, self._factor)
        if run.project == NO_PROJECT:
            known = (tag for tag in item.tags if tag.key != "neptune.project")
            item = replace(item, tags=tuple(known))
        # A run of the 1.x client's is what its id says, whatever its project is called.
        return item if run.folder is None else replace(item, origin=run.id)

    def _make_files(self, run: Entry) -> MadeFiles:
        """Make the files of operations, all at once: each would need to read all."""
        if run.own is not None:  # all of its files are uploads
            whole = self.gathered(run, points=False)
            back = restored_of(run, whole)
            files = {} if back is None else back.files
            return MadeFiles({name: whole.files[at] for name, at in files.items()})
        counted, written = Counted(), Written(self._temporary)
        told = self._told(run, _Both(counted, written), points=False)
        names = Names()
        attributes = names.give(items.ATTRIBUTES)
        made = _named(counted, names)
        logged, _ = self._logged(told, names)
        container = Container("run", run.project, run.id, told.gathered.scalars)
        made[attributes] = ("attributes", attributes)
        written.add(made[attributes], items.attributes_text(container).encode())
        found = {path: written.found(key) for path, key in made.items()}
        return MadeFiles({**logged, **found}, written.folder)

    def _logged(
        self, told: Told, names: Names
    ) -> tuple[dict[str, Found], list[Finding]]:
        """Return the files that a run names, by the paths that they get."""
        files: dict[str, Found] = {}
        gone: list[str] = []
        found: list[Finding] = []
        for upload in told.gathered.uploads.values():
            file = self._reach.find(upload)
            if file is None:
                gone.append(upload.said or upload.wanted)
                continue
            files[names.give(upload.wanted)] = file
            if upload.size not in (None, file.size):
                what = f"{upload.wanted} was written over since it was logged"
                found.append(Problem(told.where, what))
        workplace = self.root if self.root.name != DATA else self.root.parent
        for path, fileset in told.gathered.filesets.items():
            inner, without = fileset.find(self._reach, str(workplace.absolute()))
            gone += without
            for name, file in inner.items():
                files[names.give(f"{path}/{name}")] = file
        if gone:
            what = (
                f"{len(gone)} files that it logged are not there, or lie outside of the"
                f" folder, such as {gone[0]!r}: not copied; give the folder"
                " above .neptune where they lie in it, else --map-artifacts OLD=NEW"
            )
            found.append(Problem(told.where, what))
        return files, found


@dataclass(frozen=True, slots=True)
class Whole:
    """All that is known of a run, and its files by the names of artifacts."""

    container: Container
    files: Mapping[str, Found]

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ItemError: there is none.
            OSError: it cannot be read.
        """
        return bytes_of(self.files, path)


def restored_of(run: Entry, whole: Whole) -> Restored | None:
    """Return a run that mlmigrate wrote as the run that it was; None for another."""
    kept = own(whole.container, whole.read) if run.own else None
    if kept is None:
        return None
    return restored(whole.container, kept, Ref("run", kept.origin), whole.read)


def _named(counted: Counted, names: Names) -> dict[str, Key]:
    return {names.give(wanted): (kind, wanted) for kind, wanted in counted.sizes}


class _Both:
    """Makes files, and counts them: their order gives them their names."""

    def __init__(self, counted: Counted, written: Written) -> None:
        self._counted, self._written = counted, written

    def add(self, key: Key, data: bytes) -> None:
        self._counted.add(key, data)
        self._written.add(key, data)

    def drop(self, key: Key) -> None:
        self._counted.drop(key)
        self._written.drop(key)
