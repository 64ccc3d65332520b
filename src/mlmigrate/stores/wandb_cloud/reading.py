"""W&B's runs, read through its public API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, BinaryIO, Literal

from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Artifact,
    Failed,
    Finding,
    Item,
    Note,
    Problem,
    Ref,
    Run,
    Tag,
)
from mlmigrate.run_files import FilesOfLastRuns
from mlmigrate.stores.wandb_cloud import files, items
from mlmigrate.stores.wandb_cloud.above import (
    SWEEP_FILE,
    Above,
    Parents,
    item_of,
    parents,
    sweep_text,
)
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.stores.wandb_cloud.files import Found
from mlmigrate.stores.wandb_cloud.histories import add_samples, gather
from mlmigrate.stores.wandb_cloud.index import Listed, index_of
from mlmigrate.stores.wandb_cloud.place import Place
from mlmigrate.wandb_runs import items as shared
from mlmigrate.wandb_runs.history import HISTORY, History
from mlmigrate.wandb_runs.index import Index
from mlmigrate.wandb_runs.items import SUMMARY
from mlmigrate.wandb_runs.mapping import MLFLOW, MLMIGRATE, WANDB
from mlmigrate.wandb_runs.own import Shown, own, restored

_OUTPUT = "output.log"
_METADATA = "wandb-metadata.json"
#: Old clients kept their number in the config.
_OLD_VERSION = "wandb_version"
#: How often a run is read that changes under the reader.
_READS = 2
#: Runs whose lists of files are kept: they are opened soon after the run is read.
_KEPT = 100


def opened(
    place: Place, options: Mapping[str, Any], *, threads: int, nesting: bool = False
) -> tuple[CloudSource, bool]:
    """List what is at a place, and return what reads it; tell, too, whether the place
    is there.

    Args:
        place: a project, or all of an entity's.
        options: the adapter's.
        threads: how many runs are read at once, unless the options say.
        nesting: whether sweeps and groups are runs.

    Raises:
        StoreError: W&B's client is not installed, nobody is logged in, or the server
            refuses us.
    """
    client = Client(
        retries=int(options.get("retries", 6)),
        timeout=float(options.get("timeout", 120)),
    )
    try:
        index, there = index_of(client, place)
    except BaseException:
        client.close()
        raise
    source = CloudSource(
        place,
        client,
        index,
        threads=int(options.get("threads") or threads),
        nesting=nesting,
        temporary=options.get("temp-dir"),
    )
    return source, there


class CloudSource:
    """Runs at W&B; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "thread"

    def __init__(
        self,
        place: Place,
        client: Client,
        index: Index[Listed],
        *,
        threads: int,
        nesting: bool = False,
        temporary: str | None = None,
    ) -> None:
        """Read with so many *threads*, and fetch files into folders in *temporary*;
        *nesting* makes runs of sweeps and groups.
        """
        self.location = str(place)
        self.client = client
        self.index = index
        found = parents(index.runs.values()) if nesting else Parents({}, {})
        self._above, self._parents = found.above, found.of
        self._pool = ThreadPoolExecutor(threads, "mlmigrate-wandb-read")
        self._files: FilesOfLastRuns[dict[str, Found]] = FilesOfLastRuns(_KEPT)
        self._temporary = temporary

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        if selection.kind == "run":
            wanted = selection.experiments
            for id, above in self._above.items():
                if wanted is None or above.experiment in wanted:
                    yield Ref("run", id)
        yield from self.index.refs(selection)

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`: of runs that mlmigrate wrote, the
        listing says how they stand.
        """
        for ref in refs:
            run = self.index.runs.get(ref.id)
            if run is not None and (known := run.known) is not None:
                yield Glance(
                    ref, known.origin, known.status, known.end_time, known.lifecycle
                )

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        if len(refs) == 1:
            yield self._read(refs[0])
        else:
            yield from self._pool.map(self._read, refs)

    def _read(self, ref: Ref) -> Item | Failed:
        try:
            if ref.kind == "run":
                return self._read_any(ref)[0]
            return self.index.told(ref)
        except KeyError:
            return Failed(ref, f"there is no such {ref.kind}")
        except (OSError, ItemError) as error:
            return Failed(ref, f"cannot be read: {error}")

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        found = self._files.get(ref.id)
        if found is None:
            if ref.id not in self._above and ref.id not in self.index.runs:
                raise ItemError(f"{ref} is not there")
            found = self._read_any(ref)[1]
        return files.opened(found, path, str(ref), temporary=self._temporary)

    def forget(self, id: str) -> None:
        """Drop what is kept of a run that changes."""
        self._files.forget(id)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return list(self.index.findings)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._pool.shutdown(cancel_futures=True)
        self.client.close()

    # -- runs -------------------------------------------------------------------

    def _read_any(self, ref: Ref) -> tuple[Item, dict[str, Found]]:
        """Read a run, or what others are nested in, and list its files."""
        if ref.id in self._above:
            return self._read_above(ref, self._above[ref.id])
        return self._read_run(ref, self.index.runs[ref.id])

    def _read_above(self, ref: Ref, above: Above) -> tuple[Item, dict[str, Found]]:
        """Make a run of a sweep or a group."""
        text, notes = "", tuple[Finding, ...]()
        if above.kind == "sweep":
            text, notes = sweep_text(self.client, above)
        found = {SWEEP_FILE: files.made(text)} if text else {}
        self._files.keep(ref.id, found)
        listed = tuple(Artifact(path, file.size) for path, file in found.items())
        return replace(item_of(above, ref, notes), artifacts=listed), found

    def _read_run(self, ref: Ref, at: Listed) -> tuple[Item, dict[str, Found]]:
        """Read a run, and list its files; again where it changes meanwhile."""
        for _ in range(_READS):
            run = self.client.run(*at.place)
            with asking("/".join((at.entity, at.project, at.id))):
                item, found = self._item(ref, at, run)
            self._files.keep(ref.id, found)
            if run.state != "running":
                return item, found
            after = self.client.run(*at.place)
            if _stand(after) == _stand(run):
                return item, found
        what = "it was written while it was read: a later copy brings the rest"
        note = Note(_where(at), what)
        return replace(item, findings=(*item.findings, note)), found

    def _item(self, ref: Ref, at: Listed, run: Any) -> tuple[Item, dict[str, Found]]:
        where = _where(at)
        read = _Read(run, where)
        found = read.list_files()
        params, notes = shared.params(dict(sorted(read.config.items())), where)
        read.findings += notes
        metrics, notes = shared.metrics(read.history, where)
        read.findings += notes
        listed = tuple(Artifact(path, file.size) for path, file in found.items())
        if read.history.own is not None:
            seen = Shown(run.id, run.name or "", run.notes or "", run.tags or ())
            item = restored(read.history.own, ref, seen, params, metrics)
        else:
            metadata = self._metadata(found.get(_METADATA))
            summary = run.summary_metrics
            about = items.about(run, read.kept, metadata)
            tags = shared.tags(about, summary, read.history)
            tags += [Tag(key, value) for key, value in items.more_tags(run).items()]
            fields = items.header(run, read.history, summary, metadata)
            above = self._parents.get((at.project, at.id))
            if above is not None:
                fields["parent"] = Ref("run", above)
            item = Item(
                ref,
                Run(experiment=Ref("experiment", at.experiment), **fields),
                origin=at.origin,
                params=tuple(params),
                tags=tuple(tags),
                metrics=tuple(metrics),
            )
        return replace(item, artifacts=listed, findings=tuple(read.findings)), found

    def _metadata(self, file: Found | None) -> Mapping[str, Any]:
        if file is None:
            return {}
        with files.opened(
            {_METADATA: file}, _METADATA, "the run", temporary=self._temporary
        ) as opened:
            data = opened.read()
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            return {}  # the file itself is copied as it is
        return said if isinstance(said, dict) else {}


class _Read:
    """What was read of one run, and what was found on the way."""

    def __init__(self, run: Any, where: str) -> None:
        self.findings: list[Finding] = []
        self.config = dict(run.rawconfig)
        kept = self.config.pop(WANDB, None)
        self.kept: dict[str, Any] = kept if isinstance(kept, dict) else {}
        self._run, self._where = run, where
        self._lines: list[str] = []
        self.history = History(self._lines.append)
        self.history.own = own(self.config)
        for name in (
            (_OLD_VERSION,) if self.history.own is None else (MLFLOW, MLMIGRATE)
        ):
            self.config.pop(name, None)
        if wrong := gather(run, self.history):
            self.findings.append(Problem(where, wrong))
        if self.history.own is None and not add_samples(run, self.history):
            what = "it has more system metrics than W&B gives: not all are copied"
            self.findings.append(Problem(where, what))
        for what, count in self.history.repairs.items():
            self.findings.append(Note(where, f"{count} {what}"))

    def list_files(self) -> dict[str, Found]:
        """Return the run's files by path: those saved, logged, and made of the rest."""
        saved = files.saved_files(self._run)
        artifacts = files.logged_artifacts(self._run)
        logged, wrong = files.artifact_files(artifacts, self._where)
        self.findings += wrong
        made = {HISTORY: "".join(self._lines)}
        if self.history.own is not None:
            for path in files.CLIENT_FILES:
                saved.pop(path, None)
        else:
            made[SUMMARY] = shared.summary_text(self._run.summary_metrics)
            used = list(self._run.used_artifacts())
            made[files.ARTIFACTS] = files.about_artifacts(artifacts, used)
            if _OUTPUT not in saved and self._run.state != "finished":
                made[_OUTPUT] = self._console()
        for path in sorted(logged.keys() & saved.keys()):
            what = f"{path} is there twice: one is not copied"
            self.findings.append(Problem(self._where, what))
        found = {path: files.made(said) for path, said in made.items() if said}
        found.update(logged)
        found.update(saved)
        gone = [path for path in self.history.media if path not in found]
        if gone:
            what = f"{len(gone)} media files are not there, such as {gone[0]!r}"
            self.findings.append(Problem(self._where, what))
        return found

    def _console(self) -> str:
        """Return the console of a run that came to no file of it."""
        try:
            with asking("its console"):
                return "".join(f"{line.content}\n" for line in self._run.console_logs())
        except ItemError as error:
            self.findings.append(Problem(self._where, str(error)))
            return ""


def _where(at: Listed) -> str:
    return f"wandb://{at.entity}/{at.project}/{at.id}"


def _stand(run: Any) -> tuple[Any, ...]:
    return (run.state, run.heartbeat_at, run.history_line_count)
