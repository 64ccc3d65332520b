"""What every sink must do: subclass `SinkSuite`, and pytest collects the tests.

::

    class TestMySink(SinkSuite):
        @pytest.fixture
        def sink_location(self, tmp_path): ...        # a fresh, empty store

        def peek(self, location, run): ...            # past the adapter

The hooks `peek`, `edit_tag` and `delete_run` must not use the adapter: a bug in
``write`` cannot then hide behind its mirror in ``read``.
"""

from __future__ import annotations

from mlmigrate.testing.broken_artifacts import BrokenArtifacts
from mlmigrate.testing.entities import Entities, NoEntities
from mlmigrate.testing.entity_items import with_entities
from mlmigrate.testing.items import (
    NOW,
    OTHER,
    RUN,
    everything,
    experiment,
    logged_model,
    model,
    points,
    run,
    version,
    with_logged_models,
)
from mlmigrate.testing.logged_models import LoggedModels, NoLoggedModels
from mlmigrate.testing.merging import Merging
from mlmigrate.testing.registry import Registry
from mlmigrate.testing.repeats import Repeats
from mlmigrate.testing.round_trips import RoundTrips
from mlmigrate.testing.sink_under_test import (
    MemorySources,
    Peeked,
    Result,
    memory_sources,
)
from mlmigrate.testing.trace_items import trace, with_traces
from mlmigrate.testing.traces import NoTraces, Traces
from mlmigrate.testing.workspaces import NoWorkspaces, Workspaces

__all__ = [
    "NOW",
    "OTHER",
    "RUN",
    "Entities",
    "FullSinkSuite",
    "MemorySources",
    "Peeked",
    "Result",
    "RunSinkSuite",
    "SinkSuite",
    "Traces",
    "everything",
    "experiment",
    "logged_model",
    "memory_sources",
    "model",
    "points",
    "run",
    "trace",
    "version",
    "with_entities",
    "with_logged_models",
    "with_traces",
]


class RunSinkSuite(
    RoundTrips,
    Repeats,
    Merging,
    BrokenArtifacts,
    NoLoggedModels,
    NoTraces,
    NoEntities,
    NoWorkspaces,
):
    """Tests that a sink passes which has a place only for runs."""


class SinkSuite(RunSinkSuite, Registry):
    """Tests that a sink passes which also has a place for registered models."""


class FullSinkSuite(SinkSuite, LoggedModels, Traces, Entities, Workspaces):
    """Tests that a sink passes which holds all that MLflow has, under its ids."""
