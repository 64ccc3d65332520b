"""Experiments into ``experiments`` and ``experiment_tags``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.contract import Delivery
from mlmigrate.model import Experiment, Ref
from mlmigrate.stores.mlflow_db.transaction import Transaction


def experiment_ids(
    transaction: Transaction, deliveries: Sequence[Delivery], limit: int
) -> dict[int, int]:
    """Choose an id for each new experiment: its own where free and fitting."""
    wanted = {
        at: delivery.item.ref.id
        for at, delivery in enumerate(deliveries)
        if isinstance(delivery.item.header, Experiment) and delivery.into is None
    }
    if not wanted:
        return {}
    table = transaction.tables["experiments"]
    taken = set(transaction.connection.scalars(sa.select(table.c.experiment_id)))
    chosen: dict[int, int] = {}
    for at, id in wanted.items():
        number = int(id) if re.fullmatch(r"0|[1-9][0-9]{0,18}", id) else None
        if number is not None and number <= limit and number not in taken:
            chosen[at] = number
            taken.add(number)
    highest = max((id for id in taken if id < 2**31 - 1), default=0)
    for at in wanted:
        if at not in chosen:
            highest += 1
            chosen[at] = highest
    return chosen


def write_experiment(
    transaction: Transaction,
    delivery: Delivery,
    id: int | None,
    artifact_root: str | None,
) -> Ref:
    """Insert an experiment under *id*, or add to the one that stands."""
    header = delivery.item.header
    assert isinstance(header, Experiment)
    tables, connection = transaction.tables, transaction.connection
    table, tags = tables["experiments"], tables["experiment_tags"]
    if delivery.into is not None:
        number = int(delivery.into.id)
        connection.execute(
            sa.update(table)
            .where(table.c.experiment_id == number)
            .values(lifecycle_stage=header.lifecycle)
        )
    else:
        assert id is not None
        number = id
        location = header.artifact_location
        if delivery.artifacts == "copy" and artifact_root:
            location = f"{artifact_root}/{number}"
        connection.execute(
            sa.insert(table).values(
                experiment_id=number,
                name=header.name,
                artifact_location=location,
                lifecycle_stage=header.lifecycle,
                creation_time=header.creation_time,
                last_update_time=header.last_update_time,
                **transaction.home("experiments"),
            )
        )
    new = {tag.key: tag.value for tag in delivery.item.tags}
    new.update((t.key, t.value) for t in marks.own_tags(delivery, mark=delivery.mark))
    connection.execute(
        sa.delete(tags).where(tags.c.experiment_id == number, tags.c.key.in_(list(new)))
    )
    connection.execute(
        sa.insert(tags),
        [
            {"experiment_id": number, "key": key, "value": value}
            for key, value in new.items()
        ],
    )
    return Ref("experiment", str(number))
