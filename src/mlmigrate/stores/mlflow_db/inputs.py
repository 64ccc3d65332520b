"""The datasets that runs consumed, from ``inputs``, ``datasets`` and ``input_tags``."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mlmigrate.model import DatasetInput, Finding, Problem, Tag
from mlmigrate.stores.mlflow_db.tables import IN, Tables
from mlmigrate.stores.mlflow_db.values import text


def read(
    tables: Tables, ids: list[str], problems: dict[str, list[Finding]]
) -> dict[str, list[DatasetInput]]:
    """Read the dataset inputs of some runs; those that are lost are in *problems*."""
    inputs: dict[str, list[DatasetInput]] = defaultdict(list)
    links = tables.rows(
        "inputs",
        "input_uuid",
        "source_id",
        "destination_id",
        where={
            "source_type": "DATASET",
            "destination_type": "RUN",
            "destination_id": ids,
        },
    )
    datasets: dict[str, Any] = {}
    tags: dict[str, list[Tag]] = defaultdict(list)
    for at in range(0, len(links), IN):
        part = links[at : at + IN]
        for row in tables.rows(
            "datasets",
            "dataset_uuid",
            "name",
            "digest",
            "dataset_source_type",
            "dataset_source",
            "dataset_schema",
            "dataset_profile",
            where={"dataset_uuid": list({link[1] for link in part})},
        ):
            datasets[row[0]] = row[1:]
        for link, name, value in tables.rows(
            "input_tags",
            "input_uuid",
            "name",
            "value",
            where={"input_uuid": [link[0] for link in part]},
        ):
            tags[link].append(Tag(text(name) or "", text(value) or ""))
    for link, dataset, run in links:
        if dataset not in datasets:
            what = f"dataset {dataset}, which it used, is gone"
            problems[run].append(Problem(f"{tables.location} run {run}", what))
            continue
        name, checksum, kind, source, schema, profile = datasets[dataset]
        inputs[run].append(
            DatasetInput(
                text(name) or "",
                text(checksum) or "",
                text(kind) or "",
                text(source) or "",
                text(schema),
                text(profile),
                tuple(tags[link]),
            )
        )
    return inputs
