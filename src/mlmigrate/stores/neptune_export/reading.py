"""Archives of neptune-exporter, read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError
from mlmigrate.model import Failed, Finding, Item, Problem, Ref
from mlmigrate.named_files import Found
from mlmigrate.neptune_runs.attributes import Container
from mlmigrate.neptune_runs.items import ATTRIBUTES, experiment_item, run_item
from mlmigrate.neptune_runs.models import model_item, model_of_version
from mlmigrate.neptune_runs.own import Restored, own, record_of, restored
from mlmigrate.run_files import FilesOfOneRun, MadeFiles
from mlmigrate.stores.neptune_export import strays
from mlmigrate.stores.neptune_export.gathering import Gathered, gather
from mlmigrate.stores.neptune_export.index import Index, home_of
from mlmigrate.stores.neptune_export.layout import Entry, Folders
from mlmigrate.stores.neptune_export.lines import Lines
from mlmigrate.stores.neptune_export.tables import read_scalars
from mlmigrate.told.experiments import experiment_of
from mlmigrate.told.models import model_of
from mlmigrate.told.values import as_dict


class ExportArchive:
    """An archive of neptune-exporter; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(
        self, location: str, folders: Folders, options: Mapping[str, Any]
    ) -> None:
        """Find what is in an archive.

        Raises:
            StoreError: a folder cannot be listed.
        """
        self.location = location
        self.index = Index(folders, options)
        self._multiplier: int | None = options.get("step-multiplier")
        self._temporary = options.get("temp-dir")
        self._files = FilesOfOneRun()

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        wanted = selection.experiments
        if selection.kind == "experiment":
            homes = sorted(self.index.experiments().items(), key=lambda each: each[1])
            yield from (Ref("experiment", id) for id, _ in homes)
        elif selection.kind == "registered_model":
            names = [*self.index.own_models, *self.index.models()]
            yield from (Ref("registered_model", name) for name in names)
        elif selection.kind == "run":
            for id, entry in self.index.entries.items():
                if wanted is None or home_of(entry) in wanted:
                    yield Ref("run", id)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            try:
                yield self._read(ref)
            except KeyError:
                yield Failed(ref, f"{self.location} holds no such {ref.kind}")
            except (OSError, ItemError) as error:
                yield Failed(ref, str(error))

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        entry = self.index.entries.get(ref.id)
        if entry is None:
            raise ItemError(f"{self.location} holds no such {ref.kind}")
        return self._files.open(ref, path, partial(self._make_files, entry))

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return [*self.index.findings, *strays.findings(self.index)]

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._files.close()

    def _read(self, ref: Ref) -> Item:
        if ref.kind == "run":
            entry = self.index.entries[ref.id]
            found = gather(entry, self.index)
            back = _restored(entry, found, ref)
            if back is not None:
                return back.item
            return run_item(found.container, ref, self._multiplier)
        if ref.kind == "experiment":
            return self._read_experiment(ref)
        if ref.id in self.index.own_models:
            return model_of(self._record(self.index.own_models[ref.id]), ref)
        return self._read_model(ref, *self.index.models()[ref.id])

    def _read_experiment(self, ref: Ref) -> Item:
        name = self.index.experiments()[ref.id]
        for entry in self.index.entries.values():
            if entry.experiment == name:
                told = as_dict(self._record(entry).get("experiment"))
                if isinstance(told.get("name"), str):
                    return experiment_of(told, ref)
        return experiment_item(name)

    def _record(self, entry: Entry) -> dict[str, Any]:
        """Return what mlmigrate keeps in a run or a model."""
        found = gather(entry, self.index)
        return record_of(found.container, found.read)

    def _read_model(self, ref: Ref, project: str, id: str) -> Item:
        findings: list[Finding] = []
        model: Container | None = None
        versions: list[tuple[int, Ref, Container]] = []
        for key, entry in self.index.entries.items():
            if entry.project != project or entry.kind == "run":
                continue
            version = model_of_version(entry.id)
            if entry.kind == "model" and entry.id == id:
                model = _facts(entry, findings)
            elif entry.kind == "model_version" and version and version[0] == id:
                found = _facts(entry, findings)
                versions.append((version[1], Ref("run", key), found))
        return model_item(ref, model, versions, findings)

    def _make_files(self, entry: Entry) -> MadeFiles:
        """Make the files of a run's rows, all at once: each would read all rows."""
        folder = tempfile.TemporaryDirectory(prefix="mlmigrate-", dir=self._temporary)
        root = Path(folder.name)
        lines = Lines(root)
        gathered = gather(entry, self.index, lines)
        made = lines.finish()
        found = {
            name: Found(root, made[path].name, made[path].stat().st_size)
            for name, path in gathered.lines.items()
        }
        told = root / "attributes"
        told.write_text(gathered.told, encoding="ascii")
        found[ATTRIBUTES] = Found(root, told.name, len(gathered.told))
        found.update(gathered.files)
        back = _restored(entry, gathered, Ref("run", entry.origin))
        if back is not None:
            found = {path: found[at] for path, at in back.files.items()}
        return MadeFiles(found, folder)


def _restored(entry: Entry, found: Gathered, ref: Ref) -> Restored | None:
    """Return a run that mlmigrate wrote as the run that it was; None for another."""
    kept = own(found.container, found.read) if entry.origin else None
    if kept is None:
        return None
    return restored(found.container, kept, ref, found.read)


def _facts(entry: Entry, findings: list[Finding]) -> Container:
    """Return what is said of a model or a version in single values."""
    try:
        scalars = read_scalars(entry)
    except (OSError, ItemError) as error:
        findings.append(Problem(entry.where, f"cannot be read: {error}"))
        scalars = {}
    return Container(entry.kind, entry.project, entry.id, scalars)
