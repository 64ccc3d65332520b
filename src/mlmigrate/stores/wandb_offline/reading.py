"""W&B's run folders, read."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate.artifacts import local_path, parse_maps
from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import (
    Artifact,
    Failed,
    Finding,
    Item,
    Problem,
    Ref,
    Run,
)
from mlmigrate.named_files import Found, as_artifacts
from mlmigrate.run_files import FilesOfOneRun, MadeFiles
from mlmigrate.stores.wandb_offline import files, items, records
from mlmigrate.stores.wandb_offline.folders import (
    COPIED,
    RunFolders,
    index_of,
    log_of,
)
from mlmigrate.stores.wandb_offline.records import Gathered
from mlmigrate.wandb_runs import items as shared
from mlmigrate.wandb_runs.history import HISTORY
from mlmigrate.wandb_runs.index import Index
from mlmigrate.wandb_runs.items import SUMMARY
from mlmigrate.wandb_runs.mapping import MLFLOW, MLMIGRATE
from mlmigrate.wandb_runs.own import Shown, restored

PREFIX = "wandb-offline:"
_MADE = (HISTORY, SUMMARY, records.CONSOLE, records.RECORDS)
_LARGEST_METADATA = 1 << 20


def root_of(location: str) -> Path:
    """Return the folder that a location names."""
    return Path(local_path(location.removeprefix(PREFIX)))


class OfflineFolder:
    """A folder of run folders; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        """Read what is in *root*, which may be nothing.

        Raises:
            StoreError: it cannot be listed.
        """
        self.root = root
        self.location = f"{PREFIX}{root}"
        self._maps = parse_maps(options.get("map-artifacts", ()))
        try:
            there = root.is_dir()
            self.index = index_of(root, str(root)) if there else Index[RunFolders]()
        except OSError as error:
            raise StoreError(f"{root} cannot be listed: {error.strerror}") from error
        self._temporary = options.get("temp-dir")
        self._files = FilesOfOneRun()

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self.index.refs(selection)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            try:
                if ref.kind == "run":
                    yield self._read_run(ref, self.index.runs[ref.id])
                else:
                    yield self.index.told(ref)
            except KeyError:
                yield Failed(ref, f"{self.location} holds no such {ref.kind}")
            except OSError as error:
                yield Failed(ref, f"cannot be read: {error}")

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        run = self.index.runs.get(ref.id)
        if run is None:
            raise ItemError(f"{self.location} holds no such {ref.kind}")
        return self._files.open(ref, path, partial(self._make_files, run))

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return list(self.index.findings)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._files.close()

    def _make_files(self, run: RunFolders) -> MadeFiles:
        """Make the files of records, all at once: each would need to read all logs."""
        folder = tempfile.TemporaryDirectory(prefix="mlmigrate-", dir=self._temporary)
        names = (*_MADE, records.OUTPUT)
        with ExitStack() as stack:
            places = {
                name: Found(Path(folder.name), str(number), 0)
                for number, name in enumerate(names)
            }
            handles = {
                name: stack.enter_context((place.folder / place.path).open("wb"))
                for name, place in places.items()
            }

            def write(name: str, text: str) -> None:
                handles[name].write(_encoded(text))

            gathered = _gathered(run, write)
        listed, logged, _ = self._list(run, gathered, str(self.root))
        return MadeFiles({**places, **logged, **listed}, folder)

    def _list(
        self, run: RunFolders, gathered: Gathered, where: str
    ) -> tuple[dict[str, Found], dict[str, Found], list[Finding]]:
        """Return the files in a run's folders, and those of its logged artifacts."""
        # What mlmigrate wrote is all in artifacts; beside it lies what W&B's client
        # left when it sent them.
        folders = run.folders if gathered.own is None else run.folders[1:]
        listed, found = files.list_files(folders, _MADE, self._maps, str(self.root))
        logged, wrong = files.logged_files(
            gathered.artifacts, self.root, run.folders[0] / COPIED, self._maps, where
        )
        for path in sorted(logged.keys() & listed.keys()):
            wrong.append(Problem(where, f"{path} is there twice: one is not copied"))
        return listed, logged, [*found, *wrong]

    def _read_run(self, ref: Ref, run: RunFolders) -> Item:
        where = f"{self.root}/{run.folders[-1].name}"
        sizes: Counter[str] = Counter()

        def count(name: str, text: str) -> None:
            sizes[name] += len(_encoded(text))

        gathered = _gathered(run, count)
        found = items.findings(gathered, where)
        for folder in run.folders:
            if log_of(folder) is None:
                what = "it has no transaction log: only its files are copied"
                found.append(Problem(f"{self.root}/{folder.name}", what))
        listed, logged, wrong = self._list(run, gathered, where)
        found += wrong
        last = run.folders[-1]
        for named, what in (
            (gathered.saved, "saved files"),
            (gathered.history.media, "media files"),
        ):
            found += files.missing_files(named, last, listed, what, where)
        shown = {
            key: value
            for key, value in gathered.config.items()
            if gathered.own is None or key not in (MLFLOW, MLMIGRATE)
        }
        params, wrong = shared.params(shown, where)
        found += wrong
        metrics, wrong = shared.metrics(gathered.history, where)
        found += wrong
        made = [
            Artifact(name, size)
            for name, size in sizes.items()
            if name not in listed and size and name in _made_of(gathered)
        ]
        artifacts = (*made, *as_artifacts({**logged, **listed}))
        if gathered.own is not None:
            said = gathered.run
            name, notes = said.get("display_name", ""), said.get("notes", "")
            seen = Shown(run.id, name, notes, said.get("tags", ()))
            item = restored(gathered.own, ref, seen, params, metrics)
            return replace(item, artifacts=artifacts, findings=tuple(found))
        fields = items.header(run, gathered, self._user(listed))
        about = items.about(run, gathered)
        return Item(
            ref,
            Run(experiment=Ref("experiment", run.experiment), **fields),
            origin=run.origin,
            params=tuple(params),
            tags=tuple(shared.tags(about, gathered.summary, gathered.history)),
            metrics=tuple(metrics),
            artifacts=artifacts,
            findings=tuple(found),
        )

    def _user(self, listed: Mapping[str, Found]) -> str | None:
        """Return the user whom older clients name in a file only."""
        file = listed.get("wandb-metadata.json")
        if file is None or file.size > _LARGEST_METADATA:
            return None
        try:
            with file.open() as opened:
                said = json.loads(opened.read(_LARGEST_METADATA))
        except (OSError, ValueError, RecursionError, ItemError):
            return None  # the file itself is copied as it is
        user = said.get("username") if isinstance(said, dict) else None
        return user if isinstance(user, str) else None


def _made_of(gathered: Gathered) -> Sequence[str]:
    """Return the files that are made of a run's records: of one that mlmigrate wrote,
    only what W&B's client added.
    """
    if gathered.own is None:
        return (*_MADE, records.OUTPUT)
    return (HISTORY, records.CONSOLE, records.OUTPUT)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _gathered(run: RunFolders, write: Callable[[str, str], None]) -> Gathered:
    gathered = Gathered(write)
    for folder in run.folders:
        log = log_of(folder)
        if log is None:
            continue
        try:
            gathered.read(log)
        except OSError as error:
            what = f"{log.name} cannot be read: {error.strerror or error}"
            gathered.wrong.append(what)
    gathered.finish()
    return gathered
