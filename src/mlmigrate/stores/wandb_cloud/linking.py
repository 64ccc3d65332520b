"""Versions of registered models as links in W&B's own registry.

A link shows the files of a version where people look for models, with its aliases. W&B
numbers links itself: MLflow's numbers are aliases, and all else that MLflow knows of a
model is in the config of a run (`mlmigrate.wandb_runs.models`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mlmigrate.errors import ItemError
from mlmigrate.model import Item, ModelVersion, Note
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.stores.wandb_cloud.index import Listed
from mlmigrate.wandb_runs import bundles

#: The registry of models that every organization has.
REGISTRY = "wandb-registry-model"
#: What stands for none: models are not linked.
NONE = "none"
_BAD = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST = 128


def link(
    client: Client, item: Item, name: str, runs: Mapping[str, Listed], registry: str
) -> Iterator[Note]:
    """Link the files of the versions of a model, and tell which could not be.

    Args:
        client: the client of the server.
        item: a registered model, or the new versions of one.
        name: the model's.
        runs: those at W&B, by the ids of their refs.
        registry: whose collection of the model's name gets the links.
    """
    if registry == NONE:
        return
    aliases: dict[int, list[str]] = {}
    for alias in item.aliases:
        aliases.setdefault(alias.version, []).append(_plain(alias.name))
    for version in item.versions:
        run = runs.get(version.source_run.id) if version.source_run else None
        if run is None or not version.source_path:
            continue
        artifact = bundles.model_name(run.id, version.source_path)
        path = f"{run.entity}/{run.project}/{artifact}:latest"
        known = [*aliases.get(version.version, ()), *_more_aliases(version)]
        target = f"{registry}/{_plain(name)}"
        try:
            with asking(path):
                client.api.artifact(path).link(target, aliases=known)
        except ItemError as error:
            what = f"version {version.version} is not linked to {target}: {error}"
            yield Note(f"registered_model/{name}", what)


def _more_aliases(version: ModelVersion) -> Iterator[str]:
    # W&B keeps `v1` and the like for its own numbers.
    yield f"mlflow-{version.version}"
    if version.stage != "None":
        yield _plain(version.stage.lower())


def _plain(name: str) -> str:
    return _BAD.sub("-", name)[:_LONGEST]
