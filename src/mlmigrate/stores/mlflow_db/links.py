"""The logged models that runs made and used, from ``inputs`` (MLflow >= 3.0)."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from mlmigrate.model import ModelLink, Ref
from mlmigrate.stores.mlflow_db.tables import Tables

#: Role -> the types of the two ends of a row: the run is its source.
ENDS: dict[Literal["input", "output"], tuple[str, str]] = {
    "input": ("RUN_INPUT", "MODEL_INPUT"),
    "output": ("RUN_OUTPUT", "MODEL_OUTPUT"),
}


def read(tables: Tables, ids: list[str]) -> dict[str, list[ModelLink]]:
    """Read the links of some runs."""
    found: dict[str, list[ModelLink]] = defaultdict(list)
    for role, (run_end, model_end) in ENDS.items():
        for run, model, step in tables.rows(
            "inputs",
            "source_id",
            "destination_id",
            "step",
            where={
                "source_type": run_end,
                "destination_type": model_end,
                "source_id": ids,
            },
        ):
            number = step if isinstance(step, int) else 0
            link = ModelLink(Ref("logged_model", str(model)), role, number)
            found[run].append(link)
    return found
