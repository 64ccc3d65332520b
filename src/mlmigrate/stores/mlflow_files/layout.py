"""Where things lie in a file store: experiments, runs, the registry, the trash.

::

    <root>/<experiment>/meta.yaml, tags/<key>, datasets/<id>/meta.yaml
    <root>/<experiment>/<run>/meta.yaml, params/, metrics/, tags/, inputs/, outputs/,
        artifacts/
    <root>/<experiment>/models/<model>/meta.yaml, params/, metrics/, tags/, artifacts/
    <root>/<experiment>/models/<model>/metrics/     alone: what runs of this experiment
        measured of a model that has its meta.yaml in another one
    <root>/<experiment>/traces/<trace>/trace_info.yaml, …
    <root>/.trash/<experiment>/…        deleted experiments; runs may lie there, too
    <root>/models/<name>/meta.yaml, tags/, aliases/, version-<n>/meta.yaml, …/tags/

Listing reads no run: a thousand runs cost a few folder scans.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlmigrate.model import Finding, Kind, Note, Problem
from mlmigrate.stores.mlflow_files import parse
from mlmigrate.stores.mlflow_files.strays import (
    SYNC_COPY,
    entries,
    files_below,
    is_litter,
    loose_files,
    strangers,
    stray,
)

RESERVED = {"tags", "datasets", "traces", "models", "artifacts", "assessments"}
RECORDS = ("metrics", "params", "tags", "inputs", "outputs")
RUN_FOLDERS = frozenset({*RECORDS, "artifacts"})
MODEL_FOLDERS = frozenset({"metrics", "params", "tags", "artifacts"})
EXPERIMENT_FOLDERS = frozenset({"tags", "datasets", "traces", "models"})
RUN_ID = re.compile(r"[0-9a-f]{32}$")
_META_COPIES = ("meta 2.yaml", "meta 3.yaml")


@dataclass(frozen=True, slots=True)
class ExperimentFolder:
    """A folder that holds an experiment, whole or damaged."""

    id: str
    path: Path | None  # None: its folder is gone, and only runs name it
    meta: dict[str, Any]
    trashed: bool
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemFolder:
    """A folder that holds a run, a logged model or a trace."""

    id: str
    path: Path
    experiment: str
    findings: tuple[Finding, ...] = ()
    trashed: bool = False  # it is a run's, and lies directly in the trash
    #: Of a logged model: where runs of other experiments put its points.
    elsewhere: tuple[ItemFolder, ...] = ()


@dataclass(slots=True)
class Layout:
    """What a scan of a store's folders found."""

    experiments: dict[str, ExperimentFolder] = field(default_factory=dict)
    runs: dict[str, ItemFolder] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)  # registered
    logged_models: dict[str, ItemFolder] = field(default_factory=dict)
    traces: dict[str, ItemFolder] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    #: All that hold logged models or points of one, from which `logged_models` is made.
    model_folders: list[ItemFolder] = field(default_factory=list)
    #: The meta.yaml of the root, where that is an experiment's own folder.
    home: dict[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: Kind) -> dict[str, ItemFolder]:
        """Return the folders of experiments that hold items of a kind, by their ids."""
        held: dict[Kind, dict[str, ItemFolder]] = {
            "run": self.runs,
            "logged_model": self.logged_models,
            "trace": self.traces,
        }
        return held.get(kind, {})


def looks_like_store(root: Path) -> bool:
    """Tell whether *root* holds at least one experiment, run or registered model."""
    found = scan(root)
    return bool(found.experiments or found.runs or found.models)


def scan(root: Path) -> Layout:
    """Find everything below *root*.

    Raises:
        OSError: *root* itself cannot be listed.
    """
    layout = Layout()
    names, files = entries(root)
    if "meta.yaml" in files:
        meta, _ = read_meta_file(root, "")
        if "experiment_id" in meta and not _names_run(meta):
            layout.home = meta
            files.remove("meta.yaml")
    layout.findings += loose_files(files, ".")
    for name in names:
        if name == ".trash":
            continue
        if name in RESERVED and layout.home:
            if name == "models":
                home = parse.text(layout.home.get("experiment_id")) or "0"
                _add_logged_models(root / name, home, layout, name)
            elif name != "tags":  # which `_adopt_orphans` has them read
                layout.findings += stray(root / name, name)
        elif name == "models" and not (root / name / "meta.yaml").exists():
            _scan_models(root / name, layout)
        else:
            _scan_folder(root / name, layout, root, trashed=False)
    if ".trash" in names:
        names, files = _listed(root / ".trash", layout, ".trash") or ([], [])
        layout.findings += loose_files(files, ".trash")
        for name in names:
            _scan_folder(root / ".trash" / name, layout, root, trashed=True)
    _identify_logged_models(layout, root)
    _adopt_orphans(layout, root)
    return layout


def _listed(
    path: Path, layout: Layout, where: str
) -> tuple[list[str], list[str]] | None:
    try:
        return entries(path)
    except OSError as error:
        layout.findings.append(Problem(where, f"cannot be listed: {error.strerror}"))
        return None


def _names_run(meta: dict[str, Any]) -> bool:
    return "run_id" in meta or "run_uuid" in meta


def read_meta_file(folder: Path, where: str) -> tuple[dict[str, Any], list[Problem]]:
    """Read ``meta.yaml``, or the copy that a sync tool left where it is damaged."""
    problems: list[Problem] = []
    meta, wrong = read_yaml(folder / "meta.yaml")
    if wrong is None:
        return meta, problems
    problems.append(Problem(where, f"meta.yaml {wrong}"))
    for name in _META_COPIES:
        other, wrong = read_yaml(folder / name)
        if wrong is None:
            problems.append(Problem(where, f"recovered from {name!r}"))
            return other, problems
    return meta, problems


def read_yaml(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read a file of fields; say why it cannot be read, None where it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return {}, "is no regular file"  # to open a pipe would wait for ever
        return parse.read_meta(path.read_bytes())
    except FileNotFoundError:
        return {}, "is missing"
    except OSError as error:
        return {}, f"cannot be read: {error.strerror}"


def _is_run(path: Path, names: list[str], files: list[str]) -> bool:
    """A run has a meta.yaml of its own or at least one record; but so has an experiment
    of a store that lies within this one.
    """
    if not RUN_ID.match(path.name):
        if any(RUN_ID.match(name) for name in names):
            return False
        if "meta.yaml" in files and not any(name in RUN_FOLDERS for name in names):
            meta, _ = read_meta_file(path, "")
            if "experiment_id" in meta and not _names_run(meta):
                return False
    if "meta.yaml" in files:
        return True
    return any(
        name in names and any(True for _ in files_below(path / name))
        for name in RECORDS
    )


def _scan_folder(folder: Path, layout: Layout, root: Path, *, trashed: bool) -> None:
    where = folder.relative_to(root).as_posix()
    listed = _listed(folder, layout, where)
    if listed is None:
        return
    names, files = listed
    meta: dict[str, Any] = {}
    problems: list[Problem] = []
    if "meta.yaml" in files or "meta 2.yaml" in files:
        meta, problems = read_meta_file(folder, where)
    if _is_lone_run(folder, meta, names, files):
        _add_lone_run(folder, meta, layout, where, trashed=trashed)
        layout.findings += strangers(folder, names, files, RUN_FOLDERS, where)
        return
    found: list[tuple[str, list[str], list[str]]] = []
    for name in names:
        if name not in RESERVED:
            listed = _listed(folder / name, layout, f"{where}/{name}")
            if listed is not None:
                found.append((name, *listed))
    runs = [name for name, inner, own in found if _is_run(folder / name, inner, own)]
    logged = "models" in names and _has_logged_models(folder / "models")
    if not meta and not runs and not logged and "meta.yaml" not in files:
        layout.findings += stray(folder, where)
        return
    if not meta and not problems:
        problems = [Problem(where, "meta.yaml is missing")]
    experiment = _add_experiment(folder, meta, problems, layout, where, trashed=trashed)
    if "models" in names:
        _add_logged_models(folder / "models", experiment, layout, f"{where}/models")
    if "traces" in names:
        _add_traces(folder / "traces", experiment, layout, f"{where}/traces")
    for name, inner, own in found:
        if name in runs:
            place = f"{where}/{name}"
            _add_run(folder / name, experiment, layout, place)
            layout.findings += strangers(folder / name, inner, own, RUN_FOLDERS, place)
    known = {*runs, *EXPERIMENT_FOLDERS}
    layout.findings += strangers(folder, names, files, known, where)


def _is_lone_run(
    folder: Path, meta: dict[str, Any], names: list[str], files: list[str]
) -> bool:
    if _names_run(meta):
        return True
    if "experiment_id" in meta or "name" in meta or not RUN_ID.match(folder.name):
        return False
    return any(name in names for name in ("metrics", "params")) and _is_run(
        folder, names, files
    )


def _add_experiment(
    folder: Path,
    meta: dict[str, Any],
    problems: list[Problem],
    layout: Layout,
    where: str,
    *,
    trashed: bool,
) -> str:
    findings: list[Finding] = list(problems)
    said = parse.text(meta.get("experiment_id"))
    if said is not None and said != folder.name:
        findings.append(
            Problem(
                where, f"its meta.yaml says experiment {said}; kept as the folder's"
            )
        )
    if not parse.text(meta.get("name")):
        findings.append(
            Problem(where, f"has no name; recovered as 'recovered-{folder.name}'")
        )
    id = _free(folder.name, layout.experiments)
    if id != folder.name:
        findings.append(
            Problem(where, f"experiment {folder.name} stands twice; this one is {id}")
        )
    name = parse.text(meta.get("name"))
    twin = next(
        (
            other.id
            for other in layout.experiments.values()
            if name
            and not trashed
            and not other.trashed
            and other.meta.get("name") == name
        ),
        None,
    )
    if twin is not None:
        findings.append(
            Problem(where, f"experiment {twin} bears the same name {name!r}: merged")
        )
    layout.experiments[id] = ExperimentFolder(
        id, folder, meta, trashed, tuple(findings)
    )
    return id


def _add_run(path: Path, experiment: str, layout: Layout, where: str) -> None:
    findings: list[Finding] = []
    wanted = path.name
    if not RUN_ID.match(wanted):
        meta, _ = read_meta_file(path, where)
        said = parse.text(meta.get("run_id")) or parse.text(meta.get("run_uuid"))
        copied = SYNC_COPY.match(wanted)
        wanted = said or (copied.group(1) if copied else wanted)
    id = _free(wanted, layout.runs)
    if id != wanted:
        other = layout.runs[wanted].path
        findings.append(
            Problem(where, f"run {wanted} stands twice, also in {other}; this is {id}")
        )
    layout.runs[id] = ItemFolder(id, path, experiment, tuple(findings))


def _add_lone_run(
    folder: Path, meta: dict[str, Any], layout: Layout, where: str, *, trashed: bool
) -> None:
    said = parse.text(meta.get("run_id")) or parse.text(meta.get("run_uuid"))
    wanted = folder.name if RUN_ID.match(folder.name) else said or folder.name
    id = _free(wanted, layout.runs)
    place = "the trash" if trashed else "the store"
    finding: Finding = Note(where, f"run lies directly in {place}")
    if id != wanted:
        finding = Problem(where, f"run {wanted} stands twice; this one is {id}")
    home = parse.text(layout.home.get("experiment_id"))
    experiment = parse.text(meta.get("experiment_id")) or home or "0"
    layout.runs[id] = ItemFolder(id, folder, experiment, (finding,), trashed)


def _has_logged_models(folder: Path) -> bool:
    names, _ = _listed(folder, Layout(), "") or ([], [])
    return any(_is_logged_model(folder / name) for name in names)


def _is_logged_model(path: Path) -> bool:
    """A logged model has a meta.yaml or at least one record: artifacts alone are those
    of a model that a database tells of.
    """
    names, files = _listed(path, Layout(), "") or ([], [])
    return "meta.yaml" in files or any(
        name in names and any(True for _ in files_below(path / name))
        for name in MODEL_FOLDERS - {"artifacts"}
    )


def _add_logged_models(
    folder: Path, experiment: str, layout: Layout, where: str
) -> None:
    names, files = _listed(folder, layout, where) or ([], [])
    layout.findings += strangers(folder, (), files, (), where)
    for name in names:
        path, place = folder / name, f"{where}/{name}"
        if not _is_logged_model(path):
            layout.findings += stray(path, place)
            continue
        layout.model_folders.append(ItemFolder(name, path, experiment))


def _identify_logged_models(layout: Layout, root: Path) -> None:
    """Tell which folders are logged models, and which hold points of one.

    MLflow puts a point of a model into the experiment of the run that measured it,
    where the model has no meta.yaml if it is another one's. Where none of a name has
    one, nobody knows whose the points are: each folder is a damaged model.
    """
    described = {each.path for each in layout.model_folders if _has_meta(each.path)}
    homes = {each.id for each in layout.model_folders if each.path in described}
    models: list[ItemFolder] = []
    elsewhere: dict[str, list[ItemFolder]] = {}
    for folder in layout.model_folders:
        where = folder.path.relative_to(root).as_posix()
        names, files = _listed(folder.path, layout, where) or ([], [])
        if folder.id in homes and folder.path not in described:
            elsewhere.setdefault(folder.id, []).append(folder)
            known = frozenset({"metrics"})
        else:
            models.append(folder)
            known = MODEL_FOLDERS
        layout.findings += strangers(folder.path, names, files, known, where)
    for folder in models:
        name, found = folder.id, folder.findings
        id = _free(name, layout.logged_models)
        if id != name:
            other = layout.logged_models[name].path
            where = folder.path.relative_to(root).as_posix()
            what = f"logged model {name} stands twice, also in {other}; this is {id}"
            found = (Problem(where, what),)
        points = tuple(elsewhere.pop(name, ()))
        layout.logged_models[id] = ItemFolder(
            id, folder.path, folder.experiment, found, elsewhere=points
        )


def _has_meta(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in ("meta.yaml", *_META_COPIES))


def _adopt_orphans(layout: Layout, root: Path) -> None:
    """Make the experiments that only runs lying outside of one still name, and the one
    whose own folder the root is.
    """
    home = parse.text(layout.home.get("experiment_id"))
    if home is not None and home not in layout.experiments:
        layout.experiments[home] = ExperimentFolder(home, root, layout.home, False)
    for run in list(layout.runs.values()):
        id = run.experiment
        if id not in layout.experiments:
            where = run.path.relative_to(root).as_posix()
            what = f"its experiment {id} is gone; recovered as 'recovered-{id}'"
            layout.experiments[id] = ExperimentFolder(
                id, None, {}, run.trashed, (Problem(where, what),)
            )


def _free(wanted: str, taken: dict[str, Any]) -> str:
    id, number = wanted, 2
    while id in taken:
        id, number = f"{wanted}~{number}", number + 1
    return id


def _add_traces(folder: Path, experiment: str, layout: Layout, where: str) -> None:
    names, files = _listed(folder, layout, where) or ([], [])
    layout.findings += strangers(folder, (), files, (), where)
    for name in names:
        path, place = folder / name, f"{where}/{name}"
        if next(files_below(path), None) is None:
            continue
        id = _free(name, layout.traces)
        found: tuple[Finding, ...] = ()
        if id != name:
            other = layout.traces[name].path
            what = f"trace {name} stands twice, also in {other}; this one is {id}"
            found = (Problem(place, what),)
        layout.traces[id] = ItemFolder(id, path, experiment, found)


def _scan_models(folder: Path, layout: Layout) -> None:
    names, files = _listed(folder, layout, "models") or ([], [])
    for name in names:
        place = f"models/{name}"
        inner, own = _listed(folder / name, layout, place) or ([], [])
        if "meta.yaml" in own or any(each.startswith("version-") for each in inner):
            layout.models[name] = folder / name
        else:
            layout.findings += stray(folder / name, place)
    for name in files:
        if not is_litter(name):
            layout.findings.append(
                Problem(f"models/{name}", "is no registered model: not copied")
            )
