"""Source and sink ``mlflow_server``: an MLflow tracking server over its REST API.

``rest`` speaks HTTP, by ``connections`` and ``streams``; ``access`` logs in;
``release`` tells what an older server lacks. ``reading`` is the source half, with
``answers``, ``logged_models``, ``traces`` and ``entities`` (their records), ``files``,
``trace_files``, ``trace_infos``, ``trace_links``, ``registry_reading`` and
``entity_reading`` beside it;
``writing`` is the sink half, with ``index`` (what is there already), ``experiments``,
``registry``, ``model_writing``, ``trace_writing`` (with ``otlp``) and
``entity_writing`` (with ``entity_task``) beside it. ``mcp_servers`` is both halves of
one kind of entity, and ``workspaces`` tells which of these there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, BinaryIO, Literal

from mlmigrate.artifacts import parse_maps
from mlmigrate.contract import (
    Capabilities,
    Copy,
    Delivery,
    Glance,
    ModelFacts,
    Selection,
    TraceFacts,
    Written,
)
from mlmigrate.entities import ENTITIES, HOUSES
from mlmigrate.errors import StoreNotFound
from mlmigrate.model import Failed, Finding, Item, Note, Ref
from mlmigrate.stores.mlflow_server import workspaces
from mlmigrate.stores.mlflow_server.entities import TOLD
from mlmigrate.stores.mlflow_server.entity_writing import COLUMNS
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.release import (
    has_workspaces,
    kinds_of,
    lacks,
    narrowed,
)
from mlmigrate.stores.mlflow_server.rest import Rest
from mlmigrate.stores.mlflow_server.traces import SHOWN_METADATA, SHOWN_TAG
from mlmigrate.stores.mlflow_server.workspaces import ToCome
from mlmigrate.stores.mlflow_server.writing import Writer
from mlmigrate.workspaces import DEFAULT

__all__ = ["CAPABILITIES", "Server", "open_sink", "open_source"]

#: The shorter of what MLflow 3 checks and what its tables hold in PostgreSQL. Older
#: servers hold less: `release.narrowed`.
CAPABILITIES = Capabilities(
    keeps_ids=False,
    needs_start=True,
    keeps_times=False,
    keeps_legacy=False,
    follows_sources=True,
    text={
        "experiment.name": 256,
        "experiment_tag.key": 250,
        "experiment_tag.value": 20_000,
        "run.name": 250,
        "run.user": 256,
        "param.key": 250,
        "param.value": 6000,
        "tag.key": 250,
        "tag.value": 8000,
        "metric.key": 250,
        "dataset.name": 500,
        "dataset.digest": 36,
        "dataset.source_type": 36,
        "dataset.source": 65_535,
        "dataset.schema": 1_048_575,
        "dataset.profile": 16_777_215,
        "dataset_tag.key": 255,
        "dataset_tag.value": 500,
        "logged_model.name": 500,
        "logged_model.model_type": 500,
        "logged_model_param.key": 250,
        "logged_model_param.value": 6000,
        "logged_model_tag.key": 250,
        "logged_model_tag.value": 8000,
        "logged_model_metric.key": 250,
        "logged_model_metric.dataset": 500,
        "logged_model_metric.digest": 36,
        "registered_model.name": 256,
        "registered_model.description": 5000,
        "registered_model_tag.key": 250,
        "registered_model_tag.value": 5000,
        "model_version.description": 5000,
        "model_version.source": 500,
        "model_version.run_link": 500,
        "model_version_tag.key": 250,
        "model_version_tag.value": 100_000,
        "alias.name": 255,
        "trace.client_request_id": 50,
        "trace.request_preview": 1000,
        "trace.response_preview": 1000,
        # All that a server shows: `traces`.
        "trace_tag.key": 250,
        "trace_tag.value": SHOWN_TAG,
        "trace_metadata.key": 250,
        "trace_metadata.value": SHOWN_METADATA,
        "assessment.name": 250,
        "assessment.source_id": 250,
        "mcp_servers.display_name": 256,
        "mcp_server_tags.value": 5000,
        "mcp_server_versions.source": 512,
        "mcp_server_version_tags.value": 5000,
    },
    logged_models=ModelFacts(
        nan="left out",
        one_value=True,
        needs_runs=True,
        deleted=False,
        of_versions=False,
    ),
    traces=TraceFacts(in_messages=True, needs_runs=True),
    entities=TOLD,
    columns=COLUMNS,
    acts=True,
    infinities=False,
    negative_zero=False,
    negative_times=False,
    one_dataset_a_digest=True,
    nul=False,
)


def open_source(location: str, options: Mapping[str, Any]) -> Server:
    """Open the server at *location*, an ``http(s)://`` URL, for reading.

    Raises:
        LocationError: it is no URL of a server.
        StoreError: it cannot be reached, refuses us, or is no MLflow server.
    """
    return Server(location, options, default_threads=8)


def open_sink(location: str, options: Mapping[str, Any]) -> Server | ToCome:
    """Open the server at *location* for writing, and for reading back. A workspace that
    it lacks is made when there is something to write.

    Raises:
        LocationError: it is no URL of a server.
        StoreError: it cannot be reached, refuses us, or is no MLflow server; or it has
            no workspaces, and one was chosen.
    """
    workspace = options.get("workspace") or DEFAULT
    if workspace == DEFAULT:
        return _sink(location, options)
    with closing(_sink(location, {**options, "workspace": DEFAULT})) as server:
        if not server.lacks(workspace):
            return _sink(location, options)
        place, capabilities = server.location, server.capabilities

    def make() -> Server:
        with closing(_sink(location, {**options, "workspace": DEFAULT})) as server:
            server.make(workspace)
        return _sink(location, options, fresh=True)

    return ToCome(place, capabilities, make)


def _sink(location: str, options: Mapping[str, Any], *, fresh: bool = False) -> Server:
    return Server(location, options, default_threads=4, sink=True, fresh=fresh)


class Server:
    """An MLflow server; see `mlmigrate.contract.Source` and `Sink`."""

    parallel: Literal["process", "thread"] = "thread"

    def __init__(
        self,
        location: str,
        options: Mapping[str, Any],
        *,
        default_threads: int,
        sink: bool = False,
        fresh: bool = False,
    ) -> None:
        threads = int(options.get("threads") or default_threads)
        maps = parse_maps(options.get("map-artifacts") or ())
        self._rest = Rest(
            location,
            timeout=float(options.get("timeout", 120)),
            retries=int(options.get("retries", 6)),
            workspace=options.get("workspace"),
        )
        self.location = self._rest.base
        self._reader = Reader(self._rest, threads=threads, maps=maps, sink=sink)
        self._writer = Writer(
            self._rest,
            self._reader,
            threads=threads,
            maps=maps,
            fire_webhooks=options.get("fire-webhooks") in ("yes", True),
            fresh=fresh,
        )
        try:
            if not sink:
                workspaces.check(self._rest, self._rest.workspace)
            self._reader.probe()
        except BaseException:
            self.close()
            raise

    def workspaces(self) -> Sequence[str]:
        """See `mlmigrate.contract.Housing.workspaces`."""
        return workspaces.names(self._rest)

    def view(self, workspace: str) -> Mapping[str, object]:
        """See `mlmigrate.contract.Housing.view`."""
        return {"workspace": workspace}

    def lacks(self, workspace: str) -> bool:
        """Tell whether it has another workspace.

        Raises:
            StoreError: it has no workspaces at all.
        """
        try:
            workspaces.check(self._rest, workspace)
        except StoreNotFound:
            return True
        return False

    def make(self, workspace: str) -> None:
        """Make a workspace; see `workspaces.make`."""
        workspaces.make(self._rest, workspace)

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self._reader.refs(selection)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        return self._reader.read(refs)

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        return self._reader.glance(refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        return self._reader.files.open(ref, path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return tuple(dict.fromkeys(self._reader.entities.found))

    @cached_property
    def capabilities(self) -> Capabilities:
        """See `mlmigrate.contract.Sink.capabilities`."""
        kinds = kinds_of(self._rest)
        if has_workspaces(self._rest):
            kinds |= {*HOUSES}
        return narrowed(CAPABILITIES, self._reader.release, kinds)

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        wanted = list(origins)
        entities = [ref for ref in wanted if ref.kind in ENTITIES]
        others = [ref for ref in wanted if ref.kind not in ENTITIES]
        return {
            **(self._writer.index.copies(others) if others else {}),
            **(self._writer.entities.copies(entities) if entities else {}),
        }

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        return self._writer.write(deliveries)

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`."""
        yield from self._writer.finish()
        release = self._reader.release
        if lacking := lacks(release):
            what = f"is {release.name}, which has no {' and no '.join(lacking)}:"
            yield Note(self.location, f"{what} kept in the tags mlmigrate.whole.N")

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._writer.close()
        self._reader.close()
        self._rest.close()
