"""The experiments that projects are whose runs tell of none."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote


def project_id(entity: str, project: str) -> str:
    """Return the id of the experiment that a project is whose runs tell of none."""
    return f"{quote(entity, safe='')}:{quote(project, safe='')}"


def project_record(entity: str, project: str) -> dict[str, Any]:
    """Return what is known of such an experiment: see `mlmigrate.told.experiments`."""
    name = f"{entity}/{project}" if entity else project
    return {"name": name, "origin": f"{project_id(entity, project)}/{name}"}
