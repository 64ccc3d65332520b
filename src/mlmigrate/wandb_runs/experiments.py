"""Experiments, of which W&B has none: what runs tell of them, or their project does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from mlmigrate import marks
from mlmigrate.contract import Copy
from mlmigrate.merge import origins_of
from mlmigrate.model import Experiment, Ref
from mlmigrate.wandb_runs.own import EXPERIMENT, experiment_of


def project_id(entity: str, project: str) -> str:
    """Return the id of the experiment that a project is whose runs tell of none."""
    return f"{quote(entity, safe='')}:{quote(project, safe='')}"


def project_record(entity: str, project: str) -> dict[str, Any]:
    """Return what is known of such an experiment: see `own.experiment_of`."""
    name = f"{entity}/{project}" if entity else project
    return {"name": name, "origin": f"{project_id(entity, project)}/{name}"}


def copies(
    records: Mapping[str, Mapping[str, Any]], wanted: Iterable[Ref]
) -> Iterator[tuple[Ref, Copy]]:
    """Find experiments by their origins, else by their names.

    Args:
        records: what runs tell of each experiment, by its id.
        wanted: refs whose ids are origins.
    """
    bearing: dict[str, str] = {}
    for known, record in records.items():
        if known.startswith(EXPERIMENT):
            bearing.setdefault(f"\0{record['name']}", known)
            for origin in origins_of(str(record.get("origin", ""))):
                bearing.setdefault(origin, known)
    for ref in wanted:
        if ref.kind != "experiment":
            continue
        name = ref.id.partition("/")[2]
        id = bearing.get(ref.id) or bearing.get(f"\0{name}")
        if id is not None:
            at = Ref("experiment", id)
            held = experiment_of(records[id], at)
            assert isinstance(held.header, Experiment)
            yield ref, Copy(at, marks.load(held.mark), held.header.lifecycle)


def grown(held: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what runs tell of an experiment once *record*, which is new, is added."""
    merged = {**record, "name": held["name"]}
    for name in ("tags", "carried"):
        before, new = held.get(name), record.get(name)
        merged[name] = {
            **(before if isinstance(before, dict) else {}),
            **(new if isinstance(new, dict) else {}),
        }
    merged["revision"] = int(held.get("revision") or 0) + 1
    return merged
