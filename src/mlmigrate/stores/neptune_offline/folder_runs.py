"""Runs that the 1.x client left: the queues of their folders, done again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlmigrate.stores.neptune_offline.folders import Folder, metadata_of, queues_of
from mlmigrate.stores.neptune_offline.gathered import Gathered, whole_time
from mlmigrate.stores.neptune_offline.made import Made
from mlmigrate.stores.neptune_offline.operations import Replay
from mlmigrate.stores.neptune_offline.queue import Queue
from mlmigrate.stores.neptune_offline.told import Told

#: What ``metadata.json`` tells of a run, and the tags that it becomes.
_FACTS = {
    "mode": "mode",
    "os": "os",
    "pythonVersion": "python_version",
    "neptuneClientVersion": "client_version",
}
_STARTED = re.compile(r"exec-(\d{9,11}\.\d+)")


def told_by_folder(folder: Folder, made: Made, *, points: bool = True) -> Told:
    """Return a run that a 1.x client left.

    Args:
        folder: where it is.
        made: where files go that are made.
        points: whether more than files is wanted.
    """
    told = Told(Gathered(made), str(folder.executions[0]))
    replay = Replay(told.gathered, folder.id)
    for execution in folder.executions:
        match = _STARTED.match(execution.name)
        if match:
            told.saw(whole_time(float(match.group(1))))
        for place in queues_of(execution):
            _add_metadata(told, metadata_of(place))
            _add_queue(told, replay, place, points=points)
    told.about["container_id"] = folder.id
    told.finish()
    return told


def _add_queue(told: Told, replay: Replay, place: Path, *, points: bool) -> None:
    queue = Queue(place)
    try:
        for record in queue.records(points=points):
            replay.apply(record, place)
    except OSError as error:
        queue.wrong.append(f"it cannot be read: {error.strerror or error}")
    told.wrong(f"{place.parent.name}/{place.name}", queue.wrong)
    for time in (queue.began, queue.heard):
        told.saw(None if time is None else whole_time(time))
    told.sent += min(queue.sent, queue.count)
    told.written += queue.count
    told.removed += queue.removed


def _add_metadata(told: Told, said: Mapping[str, Any]) -> None:
    for key, name in _FACTS.items():
        if isinstance(said.get(key), str):
            told.about[name] = said[key]
    try:
        made = datetime.fromisoformat(said["createdAt"])
        told.saw(whole_time(made.timestamp()))
    except (KeyError, TypeError, ValueError, OverflowError):
        return  # clients before 1.8.3 wrote none
