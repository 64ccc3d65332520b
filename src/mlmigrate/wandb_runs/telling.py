"""Experiments and registered models on their way into runs, which tell of them.

A run tells of its own experiment. Of an experiment without runs, and of a model, one
run tells beside that: `mlmigrate.wandb_runs.own.Told`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from mlmigrate import marks
from mlmigrate.contract import Delivery, Written
from mlmigrate.errors import ItemError
from mlmigrate.model import Failed, Loss, Ref
from mlmigrate.told import experiments, models
from mlmigrate.told.experiments import experiment_id, experiment_record
from mlmigrate.wandb_runs.index import Entry, Index
from mlmigrate.wandb_runs.own import Told

R = TypeVar("R", bound=Entry)
_NOBODY = "no run is there that could tell of it"


class Teller(Protocol[R]):
    """How a sink lets its runs tell."""

    def tellers(self, first: Sequence[str] = ()) -> Iterator[R]:
        """Yield the runs that can be made to tell, those of ids in *first* first."""

    def tell(self, run: R, more: Told) -> None:
        """Let a run tell of its experiment as the index knows it, and of *more*.

        Raises:
            ItemError: it cannot be changed.
            OSError: it cannot be written.
        """


def write_experiment(index: Index[R], delivery: Delivery, to: Teller[R]) -> Written:
    """Keep what runs are to say of an experiment, and let one that is there say what is
    new.

    Raises:
        ItemError: it cannot be changed.
    """
    record: dict[str, Any] = experiment_record(
        delivery.item, mark=marks.dump(delivery.mark), source=delivery.source
    )
    id = experiment_id(str(record["name"]))
    if delivery.into is not None:
        id = delivery.into.id
        record = experiments.grown(index.experiments[id], record)
    index.experiments[id] = record
    index.guests.discard(id)  # whoever tells of it is to tell this
    told = Told()
    teller = next((run for run in to.tellers() if run.experiment == id), None)
    if teller is None and any(run.experiment == id for run in index.own()):
        # Its own runs can no longer be changed: another tells of it.
        teller = next(to.tellers(), None)
        told = Told(experiments={str(record["name"]): record})
    if teller is not None:
        to.tell(teller, told)
    return Written(Ref("experiment", id))


def tell_of_empty_experiments(index: Index[R], to: Teller[R]) -> Iterator[Loss]:
    """Let the first run tell of the experiments that have no runs."""
    left = index.homeless()
    if not left:
        return
    why = _NOBODY
    teller = next(to.tellers(), None)
    if teller is not None:
        try:
            to.tell(teller, Told(experiments=left))
            return
        except ItemError as error:
            why = str(error)
    for name in left:
        yield Loss(Ref("experiment", experiment_id(name)), why, carried=False)


def write_model(index: Index[R], delivery: Delivery, to: Teller[R]) -> Written | Failed:
    """Let the run that tells of a model, or one of its versions' first, tell of it as
    it is now.

    Raises:
        ItemError: it cannot be changed.
    """
    item = delivery.item
    name = item.ref.id if delivery.into is None else delivery.into.id
    record = models.next_record(index.models.get(name), delivery)
    first = [index.tellers.get(name, "")]
    first += [version.run.id for version in item.versions if version.run]
    teller = next(to.tellers(first), None)
    if teller is None:
        return Failed(item.ref, _NOBODY)
    to.tell(teller, Told(models={name: record}))
    return Written(Ref("registered_model", name))
