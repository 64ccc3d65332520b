"""Where things lie in a file store: experiments, runs, the registry, the trash.

::

    <root>/<experiment>/meta.yaml, tags/<key>, datasets/<id>/meta.yaml
    <root>/<experiment>/<run>/meta.yaml, params/, metrics/, tags/, inputs/, artifacts/
    <root>/.trash/<experiment>/…        deleted experiments; runs may lie there, too
    <root>/models/<name>/meta.yaml, tags/, aliases/, version-<n>/meta.yaml, …/tags/

Listing reads no run: a thousand runs cost a few folder scans.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlmigrate.model import Finding, Note, Problem
from mlmigrate.stores.mlflow_files import parse

RESERVED = {"tags", "datasets", "traces", "models", "artifacts", "assessments"}
RECORDS = ("metrics", "params", "tags", "inputs", "outputs")
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".gitignore", ".keep"}
RUN_ID = re.compile(r"[0-9a-f]{32}$")
#: What Finder and iCloud make of a name when they copy it: "meta 2.yaml", "run 2".
SYNC_COPY = re.compile(r"^(.+) ([2-9])(\.[a-z]+)?$")


@dataclass(frozen=True, slots=True)
class ExperimentFolder:
    """A folder that holds an experiment, whole or damaged."""

    id: str
    path: Path | None  # None: its folder is gone, and only runs name it
    meta: dict[str, Any]
    trashed: bool
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds a run."""

    id: str
    path: Path
    experiment: str
    trashed: bool = False  # it lies directly in the trash
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class Layout:
    """What a scan of a store's folders found."""

    experiments: dict[str, ExperimentFolder] = field(default_factory=dict)
    runs: dict[str, RunFolder] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    uncarried: Counter[str] = field(default_factory=Counter)  # kind -> items


def is_litter(name: str) -> bool:
    """Tell whether a file belongs to the system it lay on rather than to MLflow."""
    return name in LITTER or name.startswith("._")


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
    trash = root / ".trash"
    for folder in _folders(root):
        if folder.name == ".trash":
            continue
        if folder.name == "models" and not (folder / "meta.yaml").exists():
            _scan_models(folder, layout)
        else:
            _scan_folder(folder, layout, root, trashed=False)
    if trash.is_dir():
        for folder in _folders(trash):
            _scan_folder(folder, layout, root, trashed=True)
    _adopt_orphans(layout, root)
    return layout


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return [path / name for name in names]


def _entries(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of folders and of files, sorted."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files)


def read_meta_file(folder: Path, where: str) -> tuple[dict[str, Any], list[Problem]]:
    """Read ``meta.yaml``, or the copy that a sync tool left where it is damaged."""
    problems: list[Problem] = []
    meta: dict[str, Any] = {}
    try:
        meta, wrong = parse.read_meta((folder / "meta.yaml").read_bytes())
        if wrong:
            problems.append(Problem(where, f"meta.yaml {wrong}"))
    except FileNotFoundError:
        problems.append(Problem(where, "meta.yaml is missing"))
    except OSError as error:
        problems.append(Problem(where, f"meta.yaml cannot be read: {error.strerror}"))
    if problems:
        for name in ("meta 2.yaml", "meta 3.yaml"):
            if (folder / name).is_file():
                other, wrong = parse.read_meta((folder / name).read_bytes())
                if not wrong:
                    problems.append(Problem(where, f"recovered from {name!r}"))
                    return other, problems
    return meta, problems


def _is_run(path: Path, names: list[str], files: list[str]) -> bool:
    """A run has a meta.yaml of its own or at least one record."""
    if "meta.yaml" in files:
        return True
    return any(
        name in names and any(True for _ in _record_files(path / name))
        for name in RECORDS
    )


def _record_files(path: Path) -> Iterator[str]:
    for _, _, files in os.walk(path):
        yield from (name for name in files if not is_litter(name))


def _scan_folder(folder: Path, layout: Layout, root: Path, *, trashed: bool) -> None:
    where = folder.relative_to(root).as_posix()
    try:
        names, files = _entries(folder)
    except OSError as error:
        layout.findings.append(Problem(where, f"cannot be listed: {error.strerror}"))
        return
    meta: dict[str, Any] = {}
    problems: list[Problem] = []
    if "meta.yaml" in files or "meta 2.yaml" in files:
        meta, problems = read_meta_file(folder, where)
    if _is_lone_run(folder, meta, names, files):
        _add_lone_run(folder, meta, layout, where, trashed=trashed)
        return
    found: list[tuple[str, list[str], list[str]]] = []
    for name in names:
        if name in RESERVED or name.startswith("."):
            continue
        try:
            found.append((name, *_entries(folder / name)))
        except OSError as error:
            layout.findings.append(
                Problem(f"{where}/{name}", f"cannot be listed: {error.strerror}")
            )
    runs = [name for name, inner, own in found if _is_run(folder / name, inner, own)]
    if not meta and not runs and "meta.yaml" not in files:
        _report_stray(folder, layout, where)
        return
    if not meta and not problems:
        problems = [Problem(where, "meta.yaml is missing")]
    experiment = _add_experiment(folder, meta, problems, layout, where, trashed=trashed)
    _report_uncarried(folder, names, layout, where)
    for name, _inner, _own in found:
        if name in runs:
            _add_run(folder / name, experiment, layout, f"{where}/{name}")
        else:
            _report_stray(folder / name, layout, f"{where}/{name}")
    for name in files:
        if name != "meta.yaml" and not is_litter(name):
            layout.findings.append(
                Problem(f"{where}/{name}", "is no file of MLflow's: not copied")
            )


def _is_lone_run(
    folder: Path, meta: dict[str, Any], names: list[str], files: list[str]
) -> bool:
    if "run_id" in meta or "run_uuid" in meta:
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
    layout.runs[id] = RunFolder(id, path, experiment, findings=tuple(findings))


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
    experiment = parse.text(meta.get("experiment_id")) or "0"
    layout.runs[id] = RunFolder(id, folder, experiment, trashed, (finding,))


def _adopt_orphans(layout: Layout, root: Path) -> None:
    """Make the experiments that only runs lying outside of one still name."""
    for run in list(layout.runs.values()):
        if run.experiment not in layout.experiments:
            layout.experiments[run.experiment] = ExperimentFolder(
                run.experiment,
                None,
                {},
                run.trashed,
                (
                    Problem(
                        run.path.relative_to(root).as_posix(),
                        f"its experiment {run.experiment} is gone;"
                        f" recovered as 'recovered-{run.experiment}'",
                    ),
                ),
            )


def _free(wanted: str, taken: dict[str, Any]) -> str:
    id, number = wanted, 2
    while id in taken:
        id, number = f"{wanted}~{number}", number + 1
    return id


def _report_stray(folder: Path, layout: Layout, where: str) -> None:
    files = size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            if not is_litter(name):
                files += 1
                try:
                    size += os.lstat(os.path.join(path, name)).st_size
                except OSError:
                    continue  # a file that vanishes while it is counted
    if files:
        layout.findings.append(
            Problem(
                where,
                f"holds {files} files ({size} bytes) but no run or experiment:"
                " not copied",
            )
        )


def _report_uncarried(
    folder: Path, names: list[str], layout: Layout, where: str
) -> None:
    kinds = {"models": "logged_models", "traces": "traces"}
    for kind, label in kinds.items():
        if kind in names:
            count = len(_folders(folder / kind))
            word = label.replace("_", " ")
            layout.uncarried[label] += count
            if count:
                layout.findings.append(
                    Problem(f"{where}/{kind}", f"{count} {word} are not carried over")
                )


def _scan_models(folder: Path, layout: Layout) -> None:
    names, files = _entries(folder)
    for name in names:
        if (folder / name / "meta.yaml").is_file() or any(
            inner.startswith("version-") for inner in _entries(folder / name)[0]
        ):
            layout.models[name] = folder / name
        elif not name.startswith("."):
            _report_stray(folder / name, layout, f"models/{name}")
    for name in files:
        if not is_litter(name):
            layout.findings.append(
                Problem(f"models/{name}", "is no registered model: not copied")
            )
