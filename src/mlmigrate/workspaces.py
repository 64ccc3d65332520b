"""Workspaces, by which MLflow keeps teams apart in one store: their names.

Nothing of one refers to anything of another, and names of experiments, models, datasets
and the like are unique in one alone. So a store is opened in one workspace, and is then
as if it had no others.
"""

from __future__ import annotations

import re

#: That of a store of which nobody chooses one, and of all that MLflow before 3.10 made.
DEFAULT = "default"
#: The column that tells in which one a row stands, in MLflow's tables.
COLUMN = "workspace"
#: What MLflow takes for a name: ``WorkspaceNameValidator``.
_NAME = re.compile(r"[a-z0-9][-a-z0-9]{0,61}[a-z0-9]")
_RESERVED = ("workspaces", "api", "ajax-api", "static-files")


def is_name(text: str) -> bool:
    """Tell whether MLflow takes a text for the name of a workspace."""
    return bool(_NAME.fullmatch(text)) and text not in _RESERVED
