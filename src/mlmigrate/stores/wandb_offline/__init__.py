"""Source ``wandb_offline``: the run folders that W&B's client leaves on disk.

Location ``wandb-offline:DIR``, where DIR is a ``wandb/`` folder of any client since
2021, synced or not. The files are read directly: wandb is never imported, and nothing
is changed. What becomes of a run:

- **Experiment**: ``entity/project``, or ``project`` where the client knew no entity.
- **Params**: the config, nested keys joined by ``/``; texts plain, all else as JSON.
- **Metrics**: every number of the history, ``_runtime`` too, at its ``_step`` and its
  ``_timestamp`` in whole milliseconds; nested keys joined by ``/``. NaN and infinities
  are kept, also those that W&B spells as texts. What the client measured of the machine
  is ``system/…``, where the step counts the samples.
- ``wandb/history.jsonl``: the values that are no numbers (texts, lists, media,
  histograms, tables), or that a float does not hold whole (booleans, integers of many
  digits, which are metrics as well), in rows as W&B has them.
- **Tags**: ``wandb.run_id``, ``wandb.project``, ``wandb.entity``, ``wandb.group``,
  ``wandb.job_type``, ``wandb.sweep_id``, ``wandb.tags`` (a JSON list), ``wandb.host``,
  ``wandb.cli_version``, ``wandb.python_version``, ``wandb.exit_code``; notes and git as
  MLflow calls them. ``wandb.summary.KEY`` holds a plain value of the summary unless it
  is the last of the history, which is what W&B puts there by itself; all of the summary
  is in ``wandb/summary.json``.
- **Artifacts**: what is in ``files/``, by its path there; other files of the folder
  below ``wandb/``; the console as ``wandb/console.jsonl`` (stream, time, text), and as
  ``output.log`` where the client left none. Files of logged artifacts become
  ``artifacts/NAME/PATH``. They, and saved files, which are links, are read only below
  DIR or where ``--map-artifacts`` leads.
- ``wandb/records.jsonl``: all other records, each with all of its fields.

Status is FINISHED for exit code 0, FAILED for another, RUNNING where no record says how
the run ended. It ended at its start plus its runtime, but not before its last time.
Folders of one run, which was resumed, are one run. Only how records travelled between
the client's processes is left out.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal

from mlmigrate.artifacts import local_path, open_file, parse_maps
from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError, LocationError, StoreError, StoreNotFound
from mlmigrate.model import (
    Artifact,
    Experiment,
    Failed,
    Finding,
    Item,
    Problem,
    Ref,
    Run,
)
from mlmigrate.stores.wandb_offline import files, items, records
from mlmigrate.stores.wandb_offline.files import Found
from mlmigrate.stores.wandb_offline.folders import (
    RunFolders,
    find_runs,
    is_run_folder,
    log_of,
)
from mlmigrate.stores.wandb_offline.records import Gathered

__all__ = ["PREFIX", "OfflineFolder", "is_run_folder", "open_source"]

PREFIX = "wandb-offline:"
_MADE = (records.HISTORY, records.SUMMARY, records.CONSOLE, records.RECORDS)
_LARGEST_METADATA = 1 << 20


def open_source(location: str, options: Mapping[str, Any]) -> OfflineFolder:
    """Open the ``wandb/`` folder at *location*, ``wandb-offline:DIR``.

    Raises:
        StoreNotFound: there is no such folder.
        LocationError: it holds no run folder.
        StoreError: it cannot be listed.
    """
    return OfflineFolder(location, options)


class OfflineFolder:
    """A folder of run folders; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        self.root = Path(local_path(location.removeprefix(PREFIX)))
        self.location = f"{PREFIX}{self.root}"
        self._maps = parse_maps(options.get("map-artifacts", ()))
        if not self.root.is_dir():
            raise StoreNotFound(f"{self.root}: there is no such folder")
        try:
            self._runs, self._findings = find_runs(self.root, str(self.root))
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be listed: {error.strerror}"
            ) from error
        if not self._runs:
            raise LocationError(
                f"{self.root} holds no run folder of W&B's (run-…, offline-run-…):"
                " give the wandb/ folder; `mlmigrate scan FOLDER` finds those below"
                " a folder"
            )
        self._experiments = {run.experiment: run for run in self._runs.values()}
        self._temporary = options.get("temp-dir")
        self._opened: tuple[str, _Files] | None = None
        self._opening = Lock()

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        if selection.kind == "experiment":
            for id in self._experiments:
                yield Ref("experiment", id)
        elif selection.kind == "run":
            for origin, run in self._runs.items():
                wanted = selection.experiments
                if wanted is None or run.experiment in wanted:
                    yield Ref("run", origin)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            try:
                if ref.kind == "experiment":
                    name = self._experiments[ref.id].experiment_name
                    yield Item(ref, Experiment(name), origin=f"{ref.id}/{name}")
                else:
                    yield self._read_run(ref, self._runs[ref.id])
            except KeyError:
                yield Failed(ref, f"{self.location} holds no such {ref.kind}")
            except OSError as error:
                yield Failed(ref, f"cannot be read: {error}")

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        run = self._runs.get(ref.id)
        if run is None:
            raise ItemError(f"{self.location} holds no such {ref.kind}")
        with self._opening:  # the files of one run are wanted one after the other
            if self._opened is None or self._opened[0] != ref.id:
                self.close()
                self._opened = (ref.id, self._make_files(run))
            found = self._opened[1].found.get(path)
            if found is None:
                raise ItemError(f"{ref} has no artifact {path!r}")
            return open_file(found.folder, found.path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return list(self._findings)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        if self._opened is not None:
            self._opened[1].made.cleanup()
            self._opened = None

    def _make_files(self, run: RunFolders) -> _Files:
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
        return _Files(folder, {**places, **logged, **listed})

    def _list(
        self, run: RunFolders, gathered: Gathered, where: str
    ) -> tuple[dict[str, Found], dict[str, Found], list[Finding]]:
        """Return the files in a run's folders, and those of its logged artifacts."""
        listed, found = files.list_files(run.folders, _MADE, self._maps, str(self.root))
        logged, wrong = files.logged_files(
            gathered.artifacts, self.root, self._maps, where
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
            (gathered.media, "media files"),
        ):
            found += files.missing_files(named, last, listed, what, where)
        params, wrong = items.params(gathered, where)
        found += wrong
        fields = items.header(run, gathered, self._user(listed))
        tags = items.tags(run, gathered)
        metrics, wrong = items.metrics(gathered, where)
        found += wrong
        made = [
            Artifact(name, size)
            for name, size in sizes.items()
            if name not in listed and size
        ]
        return Item(
            ref,
            Run(experiment=Ref("experiment", run.experiment), **fields),
            origin=run.origin,
            params=tuple(params),
            tags=tuple(tags),
            metrics=tuple(metrics),
            artifacts=(*made, *files.as_artifacts({**logged, **listed})),
            findings=tuple(found),
        )

    def _user(self, listed: Mapping[str, files.Found]) -> str | None:
        """Return the user whom older clients name in a file only."""
        file = listed.get("wandb-metadata.json")
        if file is None or file.size > _LARGEST_METADATA:
            return None
        try:
            with open_file(file.folder, file.path) as opened:
                said = json.loads(opened.read(_LARGEST_METADATA))
        except (OSError, ValueError, RecursionError, ItemError):
            return None  # the file itself is copied as it is
        user = said.get("username") if isinstance(said, dict) else None
        return user if isinstance(user, str) else None


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one run, and the folder of those that are made of its records."""

    made: tempfile.TemporaryDirectory[str]
    found: Mapping[str, Found]


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
