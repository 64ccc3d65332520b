"""Source ``mlflow_files``: every file store that MLflow 0.1 to 3.x wrote.

The files are read directly: MLflow is never imported, and nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

from mlmigrate import marks
from mlmigrate.artifacts import (
    Place,
    Remote,
    is_local,
    lift_source,
    list_folder,
    local_path,
    locate,
    open_file,
    parse_maps,
)
from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError, StoreError, StoreNotFound
from mlmigrate.model import (
    Alias,
    Artifact,
    DatasetInput,
    Experiment,
    Failed,
    Finding,
    Item,
    MetricHistory,
    ModelVersion,
    Note,
    Param,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Tag,
)
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.layout import (
    SYNC_COPY,
    ExperimentFolder,
    Layout,
    RunFolder,
    is_litter,
    looks_like_store,
    read_meta_file,
    scan,
)

__all__ = ["FileStore", "looks_like_store", "open_source"]


def open_source(location: str, options: Mapping[str, Any]) -> FileStore:
    """Open the file store at *location*, a path or a ``file:`` URI.

    Raises:
        StoreNotFound: there is no such folder.
        StoreError: it cannot be listed.
    """
    return FileStore(location, options)


class FileStore:
    """A folder of experiments; see `mlmigrate.contract.Source`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        self.root = Path(local_path(location)) if is_local(location) else Path(location)
        self.location = str(self.root)
        self._maps = parse_maps(options.get("map-artifacts", ()))
        if not self.root.is_dir():
            raise StoreNotFound(f"{self.root}: there is no such folder")
        try:
            self._layout: Layout = scan(self.root)
        except OSError as error:
            raise StoreError(
                f"{self.root} cannot be listed: {error.strerror}"
            ) from error
        self._where = f"{self.location}/"
        self._place_of = lru_cache(maxsize=64)(self._find_place)

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        if selection.kind == "experiment":
            for id in self._layout.experiments:
                yield Ref("experiment", id)
        elif selection.kind == "run":
            for run in self._layout.runs.values():
                if (
                    selection.experiments is None
                    or run.experiment in selection.experiments
                ):
                    yield Ref("run", run.id)
        elif selection.kind == "registered_model":
            for name in self._layout.models:
                yield Ref("registered_model", name)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            try:
                match ref.kind:
                    case "experiment":
                        yield self._read_experiment(ref)
                    case "run":
                        yield self._read_run(ref)
                    case "registered_model":
                        yield self._read_model(ref)
                    case _:
                        yield Failed(ref, f"{self.location} holds no {ref.kind}")
            except KeyError:
                yield Failed(ref, f"{self.location} holds no such {ref.kind}")
            except OSError as error:
                yield Failed(ref, f"cannot be read: {error}")

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        place = self._place_of(ref.id)
        if place.folder is not None:
            return open_file(place.folder, path)
        if place.uri is not None:
            return Remote(place.uri).open(path)
        raise ItemError(f"{ref}: its artifacts are nowhere to be read")

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return [self._placed(finding) for finding in self._layout.findings]

    def count_uncarried(self) -> Mapping[str, int]:
        """Count what the store holds of the kinds that are not carried over."""
        return self._layout.uncarried

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""

    # -- experiments ------------------------------------------------------------

    def _read_experiment(self, ref: Ref) -> Item:
        folder: ExperimentFolder = self._layout.experiments[ref.id]
        meta = folder.meta
        where = self._where + ref.id
        findings = [self._placed(finding) for finding in folder.findings]
        pairs, wrong = (
            _read_pairs(folder.path / "tags", where) if folder.path else ([], [])
        )
        lifted = marks.lift(pairs)
        name = parse.text(meta.get("name")) or f"recovered-{ref.id}"
        deleted = folder.trashed or meta.get("lifecycle_stage") == "deleted"
        header = Experiment(
            name=name,
            artifact_location=parse.text(meta.get("artifact_location")),
            lifecycle="deleted" if deleted else "active",
            creation_time=parse.millis(meta.get("creation_time")),
            last_update_time=parse.millis(meta.get("last_update_time")),
        )
        return Item(
            ref,
            header,
            origin=f"{ref.id}/{name}",
            tags=lifted.tags,
            findings=(*findings, *wrong),
        )

    def _placed(self, finding: Finding) -> Finding:
        if isinstance(finding, Problem | Note):
            return type(finding)(self._where + finding.where, finding.what)
        return finding

    # -- runs -------------------------------------------------------------------

    def _read_run(self, ref: Ref) -> Item:
        folder: RunFolder = self._layout.runs[ref.id]
        path = folder.path
        where = self._where + path.relative_to(self.root).as_posix()
        findings: list[Finding] = [self._placed(found) for found in folder.findings]
        meta, problems = read_meta_file(path, where)
        if problems:
            problems.append(Problem(where, "run recovered from its other files"))
        findings += problems
        pairs, wrong = _read_pairs(path / "tags", where)
        findings += wrong
        pairs += _old_tags(meta)
        lifted = marks.lift(pairs)
        said = parse.text(meta.get("run_id")) or parse.text(meta.get("run_uuid"))
        if said is not None and said != ref.id.split("~")[0]:
            findings.append(
                Problem(where, f"its meta.yaml says run {said}; kept as {ref.id}")
            )
        said = parse.text(meta.get("experiment_id"))
        if said is not None and said != folder.experiment.split("~")[0]:
            findings.append(
                Problem(
                    where,
                    f"its meta.yaml says experiment {said}; kept in the one whose"
                    f" folder holds it, {folder.experiment}",
                )
            )
        params, wrong = _read_pairs(path / "params", where)
        findings += wrong
        start = parse.millis(meta.get("start_time"))
        end = parse.millis(meta.get("end_time"))
        metrics, wrong = _read_metrics(path / "metrics", where, start, end)
        findings += wrong
        inputs, wrong = self._read_inputs(path, where)
        findings += wrong
        artifacts, wrong = self._list_artifacts(ref.id, where)
        findings += wrong
        outputs = path / "outputs"
        if outputs.is_dir() and any(outputs.iterdir()):
            findings.append(
                Problem(where, "its links to logged models are not carried over")
            )
        names = dict(pairs)
        deleted = folder.trashed or meta.get("lifecycle_stage") == "deleted"
        header = Run(
            experiment=Ref("experiment", folder.experiment),
            name=parse.text(meta.get("run_name"))
            or parse.text(meta.get("name"))
            or names.get("mlflow.runName")
            or None,
            status=parse.status(meta.get("status")),
            start_time=start,
            end_time=end,
            user=parse.text(meta.get("user_id")) or names.get("mlflow.user"),
            lifecycle="deleted" if deleted else "active",
            deleted_time=parse.millis(meta.get("deleted_time")),
            artifact_uri=parse.text(meta.get("artifact_uri")),
            parent=Ref("run", lifted.parent) if lifted.parent else None,
            source_type=parse.source_type(meta.get("source_type")),
            source_name=parse.text(meta.get("source_name")),
            source_version=parse.text(meta.get("source_version")),
            entry_point=parse.text(meta.get("entry_point_name")),
        )
        origin = lifted.origin if marks.load(lifted.mark) else None
        return Item(
            ref,
            header,
            origin=origin or ref.id,
            params=tuple(Param(key, value) for key, value in params),
            tags=lifted.tags,
            metrics=tuple(metrics),
            inputs=tuple(inputs),
            artifacts=tuple(artifacts),
            mark=lifted.mark,
            findings=tuple(findings),
        )

    def _find_place(self, id: str) -> Place:
        folder = self._layout.runs[id]
        meta, _ = read_meta_file(folder.path, "")
        uri = parse.text(meta.get("artifact_uri"))
        where = self._where + folder.path.relative_to(self.root).as_posix()
        return self._place(folder, uri, where)

    def _place(self, folder: RunFolder, uri: str | None, where: str) -> Place:
        layout = [folder.path / "artifacts"]
        if uri and uri.startswith("mlflow-artifacts:"):
            below = unquote(uri.split(":", 1)[1].lstrip("/"))
            if ".." not in below.split("/"):
                roots = [
                    self.root.parent / name
                    for name in ("mlartifacts", "artifacts", "mlruns")
                ]
                layout += [root / below for root in roots]
                if roots[0].is_dir() and not any(map(Path.is_dir, layout)):
                    return Place()  # its server's artifacts are here; it has none
        return locate(
            uri,
            where=where,
            owner=folder.path.name,
            layout=layout,
            base=self.root.parent,
            maps=self._maps,
        )

    def _list_artifacts(
        self, id: str, where: str
    ) -> tuple[list[Artifact], list[Finding]]:
        place = self._place_of(id)
        found: list[Finding] = list(place.findings)
        if place.folder is not None:
            files, problems = list_folder(place.folder, where)
            return files, [*found, *problems]
        if place.uri is None:
            return [], found
        if place.uri.startswith("mlflow-artifacts:"):
            what = (
                f"artifacts at {place.uri} are held by an artifact server: give"
                " --map-artifacts mlflow-artifacts:/=FOLDER, its artifact root"
            )
            return [], [*found, Problem(where, what)]
        try:
            return Remote(place.uri).list(), found
        except ItemError as error:
            return [], [*found, Problem(where, str(error))]

    def _read_inputs(
        self, path: Path, where: str
    ) -> tuple[list[DatasetInput], list[Finding]]:
        inputs: list[DatasetInput] = []
        findings: list[Finding] = []
        if not (path / "inputs").is_dir():
            return inputs, findings
        for folder in sorted((path / "inputs").iterdir()):
            if not folder.is_dir():
                continue
            place = f"{where}/inputs/{folder.name}"
            meta, problems = read_meta_file(folder, place)
            findings += problems
            source = parse.text(meta.get("source_id"))
            if source is None:
                continue
            if str(meta.get("source_type", "DATASET")).upper().endswith("MODEL"):
                what = "a logged model as input is not carried over"
                findings.append(Problem(place, what))
                continue
            if "/" in source or source in (".", ".."):
                findings.append(Problem(place, f"names no dataset: {source!r}"))
                continue
            dataset = path.parent / "datasets" / source
            data, problems = read_meta_file(dataset, f"{place}: dataset {source}")
            findings += problems
            if not data:
                continue
            tags = meta.get("tags")
            inputs.append(
                DatasetInput(
                    name=str(data.get("name") or ""),
                    digest=str(data.get("digest") or ""),
                    source_type=str(data.get("source_type") or ""),
                    source=str(data.get("source") or ""),
                    schema=parse.text(data.get("schema")),
                    profile=parse.text(data.get("profile")),
                    tags=tuple(Tag(str(key), str(value)) for key, value in tags.items())
                    if isinstance(tags, dict)
                    else (),
                )
            )
        return inputs, findings

    # -- the registry -----------------------------------------------------------

    def _read_model(self, ref: Ref) -> Item:
        folder = self._layout.models[ref.id]
        where = f"{self._where}models/{ref.id}"
        meta, problems = read_meta_file(folder, where)
        findings: list[Finding] = list(problems)
        pairs, wrong = _read_pairs(folder / "tags", where)
        findings += wrong
        alias_pairs, wrong = _read_pairs(folder / "aliases", where)
        findings += wrong
        aliases = []
        for alias, value in alias_pairs:
            if value.strip().isdigit():
                aliases.append(Alias(alias, int(value)))
            else:
                findings.append(
                    Problem(where, f"alias {alias!r} names no version: {value!r}")
                )
        name = parse.text(meta.get("name")) or ref.id
        versions, hidden = [], 0
        for path in sorted(folder.iterdir()):
            if not path.is_dir() or not path.name.startswith("version-"):
                continue
            version, wrong = self._read_version(path, name, f"{where}/{path.name}")
            findings += wrong
            if version is None:
                continue
            if version.stage == "Deleted_Internal":
                hidden += 1
            else:
                versions.append(version)
        if hidden:
            what = f"{hidden} internally deleted versions are not copied"
            findings.append(Note(where, what))
        return Item(
            ref,
            RegisteredModel(
                name=name,
                description=parse.text(meta.get("description")),
                creation_time=parse.millis(meta.get("creation_timestamp")),
                last_updated_time=parse.millis(meta.get("last_updated_timestamp")),
            ),
            origin=name,
            tags=marks.lift(pairs).tags,
            versions=tuple(sorted(versions, key=lambda version: version.version)),
            aliases=tuple(aliases),
            findings=tuple(findings),
        )

    def _read_version(
        self, path: Path, name: str, where: str
    ) -> tuple[ModelVersion | None, list[Finding]]:
        meta, problems = read_meta_file(path, where)
        findings: list[Finding] = list(problems)
        number = path.name.removeprefix("version-")
        if not number.isdigit():
            findings.append(Problem(where, "is no version folder: not copied"))
            return None, findings
        pairs, wrong = _read_pairs(path / "tags", where)
        findings += wrong
        lifted = marks.lift(pairs)
        created = parse.millis(meta.get("creation_timestamp"))
        source = parse.text(meta.get("source"))
        run, below = lift_source(source)
        said = parse.text(meta.get("run_id"))
        origin = lifted.origin if marks.load(lifted.mark) else None
        return (
            ModelVersion(
                version=int(number),
                origin=origin or f"{name}/{number}@{created}",
                creation_time=created,
                last_updated_time=parse.millis(meta.get("last_updated_timestamp")),
                description=parse.text(meta.get("description")),
                user=parse.text(meta.get("user_id")),
                stage=str(meta.get("current_stage") or "None"),
                source=source,
                source_run=Ref("run", run) if run else None,
                source_path=below,
                storage_location=parse.text(meta.get("storage_location")),
                run=Ref("run", said) if said else None,
                run_link=parse.text(meta.get("run_link")),
                status=str(meta.get("status") or "READY"),
                status_message=parse.text(meta.get("status_message")),
                tags=lifted.tags,
                mark=lifted.mark,
            ),
            findings,
        )


def _old_tags(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the tags that MLflow < 0.5 kept inside meta.yaml."""
    tags = meta.get("tags")
    if not isinstance(tags, list):
        return []
    return [
        (str(tag["key"]), str(tag["value"]))
        for tag in tags
        if isinstance(tag, dict) and "key" in tag and "value" in tag
    ]


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (key, path) for every file below *folder*: a key with slashes is a path."""
    stack = [(str(folder), "")]
    while stack:
        path, prefix = stack.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append((entry.path, f"{prefix}{entry.name}/"))
            elif not is_litter(entry.name):
                yield prefix + entry.name, entry.path


def _bytes(path: str) -> bytes:
    """Read a whole small file: three system calls, where `open` makes seven."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        data = os.read(handle, 65536)
        if len(data) < 65536:
            return data
        parts = [data]
        while data := os.read(handle, 1 << 20):
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(handle)


def _key(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _read_pairs(
    folder: Path, where: str
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Read a folder of one file a key: params, tags, aliases."""
    pairs: list[tuple[str, str]] = []
    problems: list[Finding] = []
    for name, path in _files(folder):
        key = _key(name)
        try:
            value, sound = parse.read_text(_bytes(path))
        except OSError as error:
            what = f"{folder.name}/{key} cannot be read: {error.strerror}"
            problems.append(Problem(where, what))
            continue
        if not sound:
            problems.append(
                Problem(
                    where, f"{folder.name}/{key} is not UTF-8: kept with \\x escapes"
                )
            )
        pairs.append((key, value))
    return pairs, problems


def _read_metrics(
    folder: Path, where: str, start: int | None, end: int | None
) -> tuple[list[MetricHistory], list[Finding]]:
    metrics: list[MetricHistory] = []
    findings: list[Finding] = []
    seconds = 0
    for name, path in _files(folder):
        key = _key(name)
        try:
            metric, wrong = parse.read_metric(key, _bytes(path))
        except OSError as error:
            what = f"metrics/{key} cannot be read: {error.strerror}"
            findings.append(Problem(where, what))
            continue
        findings += [Problem(where, f"metrics/{key}: {what}") for what in wrong[:20]]
        if len(wrong) > 20:
            what = f"metrics/{key}: {len(wrong) - 20} more lines are no points"
            findings.append(Problem(where, what))
        if SYNC_COPY.match(name):
            findings.append(
                Note(where, f"metrics/{key} looks like a sync tool's copy: kept as is")
            )
        if not len(metric.steps):
            if not wrong:
                findings.append(Problem(where, f"metrics/{key} is empty: not copied"))
            continue
        converted = parse.seconds_to_millis(metric, start, end)
        seconds += converted is not None
        metrics.append(converted or metric)
    if seconds:
        what = "metric timestamps in seconds, as MLflow 0.x wrote them: read as such"
        findings.append(Note(where, what))
    return metrics, findings
