"""Experiments and registered models, of which runs at W&B tell.

A run tells of its own experiment. Of an experiment without runs, and of a model, one
run tells beside that: `mlmigrate.wandb_runs.own.Told`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlmigrate import marks
from mlmigrate.contract import Delivery, Written
from mlmigrate.errors import ItemError
from mlmigrate.model import Failed, Finding, Loss, Ref
from mlmigrate.stores.wandb_cloud import facts, linking
from mlmigrate.stores.wandb_cloud.held import Held
from mlmigrate.stores.wandb_cloud.index import Listed
from mlmigrate.wandb_runs import experiments, models
from mlmigrate.wandb_runs.mapping import MLFLOW, experiment_record, pruned
from mlmigrate.wandb_runs.own import Told, experiment_id, own

_NOBODY = "no run is there that could tell of it"


def write_experiment(held: Held, delivery: Delivery) -> Written:
    """Keep what runs are to say of an experiment, and let one that is there say what is
    new.

    Raises:
        ItemError: W&B does not take it.
    """
    record: Mapping[str, Any] = experiment_record(
        delivery.item, mark=marks.dump(delivery.mark), source=delivery.source
    )
    id = experiment_id(str(record["name"]))
    if delivery.into is not None:
        id = delivery.into.id
        record = experiments.grown(held.index.experiments[id], record)
    with held.lock:
        held.index.experiments[id] = record
        held.index.guests.discard(id)  # whoever tells of it is to tell this
        home = next((run for run in held.own() if run.experiment == id), None)
    if home is not None:
        run = held.run(home)
        run.config[MLFLOW] = {**run.config[MLFLOW], "experiment": record}
        facts.save(run)
        held.note(held.run(home))
    return Written(Ref("experiment", id))


def tell_of_empty_experiments(held: Held) -> Iterator[Finding]:
    """Let the first run tell of the experiments that have no runs."""
    homes = (run.experiment for run in held.index.runs.values())
    left = experiments.homeless(held.index.experiments, homes, held.index.guests)
    if not left:
        return
    teller = next(held.own(), None)
    why = _NOBODY
    if teller is not None:
        try:
            _tell(held, teller, Told(experiments=left))
            return
        except ItemError as error:
            why = str(error)
    for name in left:
        yield Loss(Ref("experiment", experiment_id(name)), why, carried=False)


def write_model(held: Held, delivery: Delivery, registry: str) -> Written | Failed:
    """Let the run that tells of a model, or one of its versions' first, tell of it as
    it is now, and link the files of new versions in W&B's own *registry*.

    Raises:
        ItemError: W&B does not take it.
    """
    item, index = delivery.item, held.index
    name = item.ref.id if delivery.into is None else delivery.into.id
    record = models.next_record(index.models.get(name), delivery)
    first = [index.bearers.get(name, "")]
    first += [version.run.id for version in item.versions if version.run]
    teller = next(held.own([*first, *index.runs]), None)
    if teller is None:
        return Failed(item.ref, _NOBODY)
    _tell(held, teller, Told(models={name: record}))
    notes = linking.link(held.client, item, name, index.runs, registry)
    return Written(Ref("registered_model", name), findings=tuple(notes))


def _tell(held: Held, at: Listed, more: Told) -> None:
    """Let a run tell of *more*.

    Raises:
        ItemError: W&B does not take it, or gives it back otherwise.
    """
    run = held.run(at)
    found = own(run.config)
    if found is None:
        raise ItemError(f"run {at.id} is no longer what it was")
    told = pruned(found.told.and_more(more).config())
    run.config[MLFLOW] = {**run.config[MLFLOW], **told}
    facts.save(run)
    run = held.run(at)
    held.note(run)
    kept = run.rawconfig.get(MLFLOW)
    wanted = json.loads(json.dumps(told))
    if not isinstance(kept, dict) or kept != {**kept, **wanted}:
        raise ItemError(f"what run {at.id} is to tell reads back otherwise")
