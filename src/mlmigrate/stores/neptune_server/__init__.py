"""Adapters ``neptune_server`` and ``neptune3_server``: a project at a Neptune server.

Location ``neptune://WORKSPACE/PROJECT`` for the 2.x API, ``neptune3://…`` for that of
3.x: a token does not tell. The token in ``NEPTUNE_API_TOKEN`` holds the address of the
server. Neptune's own hosted service has ended: a token that leads there
is refused with a word on what can still be copied.

As a source it gives what archives of neptune-exporter give (see
`mlmigrate.neptune_runs.items`), read from the server itself. As a sink see
`mlmigrate.stores.neptune_server.writing`, and for what becomes of a run
`mlmigrate.neptune_runs.mapping`. A run that mlmigrate wrote is read as the run that it
was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlmigrate.stores.neptune_server.access import PREFIX
from mlmigrate.stores.neptune_server.reading import NeptuneProject

if TYPE_CHECKING:
    from mlmigrate.stores.neptune_server.writing import NeptuneSink

__all__ = ["PREFIX", "NeptuneProject", "open_sink", "open_source"]


def open_source(location: str, options: Mapping[str, Any]) -> NeptuneProject:
    """Open the project at *location* for reading.

    Raises:
        LocationError: it names none.
        StoreError: the server cannot be reached, or refuses us.
    """
    return NeptuneProject(location, options)


def open_sink(location: str, options: Mapping[str, Any]) -> NeptuneSink:
    """Open the project at *location* for writing; it must be there.

    Raises:
        LocationError: it names none.
        StoreError: the server cannot be reached, or refuses us.
    """
    from mlmigrate.stores.neptune_server.writing import NeptuneSink

    return NeptuneSink(location, options)
