"""Source ``mlflow_files``: every file store that MLflow 0.1 to 3.x wrote.

The files are read directly: MLflow is never imported, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

from mlmigrate import marks
from mlmigrate.artifacts import (
    Place,
    Remote,
    is_local,
    list_folder,
    local_path,
    locate,
    open_file,
    parse_maps,
    safe_join,
)
from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import ItemError, StoreError, StoreNotFound, UnsafePath
from mlmigrate.mlflow_messages import whole_number
from mlmigrate.model import (
    Artifact,
    Experiment,
    Failed,
    Finding,
    Item,
    Lifecycle,
    Note,
    Param,
    Problem,
    Ref,
    Run,
)
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.checks import doubts
from mlmigrate.stores.mlflow_files.inputs import read_inputs, unused_datasets
from mlmigrate.stores.mlflow_files.layout import (
    ExperimentFolder,
    ItemFolder,
    Layout,
    looks_like_store,
    read_meta_file,
    scan,
)
from mlmigrate.stores.mlflow_files.links import read_links
from mlmigrate.stores.mlflow_files.logged_models import read_logged_model
from mlmigrate.stores.mlflow_files.point_datasets import (
    lost_datasets,
    measured_models,
    models_of,
)
from mlmigrate.stores.mlflow_files.records import (
    read_metrics,
    read_old_tags,
    read_own_tags,
    read_pairs,
)
from mlmigrate.stores.mlflow_files.registry import read_model
from mlmigrate.stores.mlflow_files.traces import location_of, read_trace

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
        # Runs come by experiments, and a group of them may be of two.
        self._measured = lru_cache(maxsize=2)(partial(measured_models, self._layout))

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        kind, wanted = selection.kind, selection.experiments
        if kind == "experiment":
            yield from (Ref(kind, id) for id in self._layout.experiments)
        elif kind == "registered_model":
            yield from (Ref(kind, name) for name in self._layout.models)
        else:
            for folder in self._layout.of_kind(kind).values():
                if wanted is None or folder.experiment in wanted:
                    yield Ref(kind, folder.id)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for ref in refs:
            try:
                match ref.kind:
                    case "experiment":
                        yield self._read_experiment(ref)
                    case "run":
                        yield self._read_run(ref)
                    case "logged_model":
                        yield self._read_logged_model(ref)
                    case "trace":
                        yield self._read_trace(ref)
                    case "registered_model":
                        yield read_model(
                            ref,
                            self._layout.models[ref.id],
                            f"{self._where}models/{ref.id}",
                        )
                    case _:
                        yield Failed(ref, f"{self.location} holds no {ref.kind}")
            except KeyError:
                yield Failed(ref, f"{self.location} holds no such {ref.kind}")
            except OSError as error:
                yield Failed(ref, f"cannot be read: {error}")

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        for ref in refs:
            folder = self._layout.runs[ref.id]
            meta, problems = read_meta_file(folder.path, "")
            if problems:
                continue  # what is damaged is told of in every copy
            pairs = read_own_tags(folder.path / "tags")
            lifted = marks.lift(pairs)
            yield Glance(
                ref,
                (lifted.origin if marks.load(lifted.mark) else None) or ref.id,
                parse.status(meta.get("status")),
                whole_number(meta.get("end_time")),
                _lifecycle(folder, meta),
            )

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        if ref.kind == "trace":
            place = self._trace_place(self._layout.traces[ref.id], "")
        else:
            place = self._place_of(ref)
        if place.folder is not None:
            return open_file(place.folder, path)
        if place.uri is not None:
            return Remote(place.uri).open(path)
        raise ItemError(f"{ref}: its artifacts are nowhere to be read")

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return [self._placed(finding) for finding in self._layout.findings]

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""

    # -- experiments ------------------------------------------------------------

    def _read_experiment(self, ref: Ref) -> Item:
        folder: ExperimentFolder = self._layout.experiments[ref.id]
        meta = folder.meta
        where = self._where + ref.id
        findings = [self._placed(finding) for finding in folder.findings]
        findings += doubts(meta, "experiment", where)
        if folder.path:
            runs = self._layout.runs.values()
            own = (run.path for run in runs if run.experiment == ref.id)
            findings += unused_datasets(folder.path, own, where)
        pairs, wrong = (
            read_pairs(folder.path / "tags", where) if folder.path else ([], [])
        )
        lifted = marks.lift(pairs)
        name = parse.text(meta.get("name")) or f"recovered-{ref.id}"
        deleted = folder.trashed or meta.get("lifecycle_stage") == "deleted"
        header = Experiment(
            name=name,
            artifact_location=parse.text(meta.get("artifact_location")),
            lifecycle="deleted" if deleted else "active",
            creation_time=whole_number(meta.get("creation_time")),
            last_update_time=whole_number(meta.get("last_update_time")),
        )
        return Item(
            ref,
            header,
            origin=f"{ref.id}/{name}",
            tags=lifted.tags,
            findings=(*findings, *wrong),
        )

    def _where_is(self, folder: ItemFolder) -> str:
        return self._where + folder.path.relative_to(self.root).as_posix()

    def _placed(self, finding: Finding) -> Finding:
        if isinstance(finding, Problem | Note):
            where = (
                self.location if finding.where == "." else self._where + finding.where
            )
            return type(finding)(where, finding.what)
        return finding

    # -- runs -------------------------------------------------------------------

    def _read_run(self, ref: Ref) -> Item:
        folder = self._layout.runs[ref.id]
        path, where = folder.path, self._where_is(folder)
        findings: list[Finding] = [self._placed(found) for found in folder.findings]
        meta, problems = read_meta_file(path, where)
        if problems:
            problems.append(Problem(where, "run recovered from its other files"))
        findings += problems
        pairs, wrong = read_pairs(path / "tags", where)
        findings += wrong
        old, wrong = read_old_tags(meta, pairs, where)
        pairs += old
        findings += wrong
        findings += doubts(meta, "run", where)
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
        params, wrong = read_pairs(path / "params", where)
        findings += wrong
        start = whole_number(meta.get("start_time"))
        end = whole_number(meta.get("end_time"))
        metrics, named, wrong = read_metrics(path / "metrics", where, start, end)
        findings += wrong
        inputs, wrong = read_inputs(path, where)
        findings += wrong
        links, wrong = read_links(path, where)
        findings += wrong
        id = ref.id.split("~")[0]  # by which models name it
        measured = partial(self._measured, folder.experiment)
        models = partial(models_of, id, links, self._layout, measured)
        findings += lost_datasets(id, path / "metrics", named, models, where)
        artifacts, wrong = self._list_artifacts(ref, where)
        findings += wrong
        names = dict(pairs)
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
            lifecycle=_lifecycle(folder, meta),
            deleted_time=whole_number(meta.get("deleted_time")),
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
            links=tuple(links),
            artifacts=tuple(artifacts),
            mark=lifted.mark,
            findings=tuple(findings),
        )

    # -- logged models ----------------------------------------------------------

    def _read_logged_model(self, ref: Ref) -> Item:
        folder = self._layout.logged_models[ref.id]
        where = self._where_is(folder)
        placed = tuple(self._placed(found) for found in folder.findings)
        elsewhere = [(each.path, self._where_is(each)) for each in folder.elsewhere]
        artifacts = self._list_artifacts(ref, where)
        return read_logged_model(
            ref, replace(folder, findings=placed), where, elsewhere, artifacts
        )

    # -- traces -----------------------------------------------------------------

    def _read_trace(self, ref: Ref) -> Item:
        folder = self._layout.traces[ref.id]
        where = self._where_is(folder)
        placed = tuple(self._placed(finding) for finding in folder.findings)
        return read_trace(
            ref,
            replace(folder, findings=placed),
            where,
            lambda where: self._trace_place(folder, where),
        )

    def _trace_place(self, folder: ItemFolder, where: str) -> Place:
        return self._place(folder, location_of(folder), where)

    # -- artifacts --------------------------------------------------------------

    def _find_place(self, ref: Ref) -> Place:
        folder = self._layout.of_kind(ref.kind)[ref.id]
        meta, _ = read_meta_file(folder.path, "")
        uri = parse.text(meta.get("artifact_uri") or meta.get("artifact_location"))
        return self._place(folder, uri, self._where_is(folder))

    def _place(self, folder: ItemFolder, uri: str | None, where: str) -> Place:
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

    def _passed_over(
        self, ref: Ref, folder: Path, files: list[Artifact], where: str
    ) -> list[Finding]:
        """Tell of artifacts in the run's or model's own folder, where others are
        copied: a store that was copied elsewhere still names the place of the first.
        """
        own = self._layout.of_kind(ref.kind)[ref.id].path / "artifacts"
        if not own.is_dir() or own.samefile(folder):
            return []
        passed = [each for each in list_folder(own, where)[0] if each not in files]
        if not passed:
            return []
        what = (
            f"its artifacts were read from {folder}; {len(passed)} files in its own"
            f" artifacts folder are not there, or not of that size: not copied, such as"
            f" {passed[0].path!r}; --map-artifacts {folder}={own} copies those instead"
        )
        return [Problem(where, what)]

    def _list_artifacts(
        self, ref: Ref, where: str
    ) -> tuple[list[Artifact], list[Finding]]:
        place = self._place_of(ref)
        found: list[Finding] = list(place.findings)
        if place.folder is not None:
            files, problems = list_folder(place.folder, where)
            found += [*problems, *self._passed_over(ref, place.folder, files, where)]
            return [each for each in files if _is_safe(each.path, where, found)], found
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


def _lifecycle(folder: ItemFolder, meta: Mapping[str, Any]) -> Lifecycle:
    deleted = folder.trashed or meta.get("lifecycle_stage") == "deleted"
    return "deleted" if deleted else "active"


def _is_safe(path: str, where: str, found: list[Finding]) -> bool:
    """Tell whether a sink would write an artifact; one that it would not must not cost
    the others.
    """
    try:
        safe_join(Path("/"), path)
    except UnsafePath:
        what = f"artifact {path}: its name would lead out of a folder: not copied"
        found.append(Problem(where, what))
        return False
    return True
