"""The records of an item as a sink can hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from mlmigrate.contract import Capabilities
from mlmigrate.fit.entities import fitted_entity
from mlmigrate.fit.fitting import Fitting, fitted_metric
from mlmigrate.fit.message_traces import (
    assessments_in_message,
    links_in_message,
    metadata_in_message,
    spans_in_message,
)
from mlmigrate.fit.models import (
    fitted_links,
    fitted_logged_model,
    fitted_model_metrics,
    own_tags,
)
from mlmigrate.fit.traces import fitted_assessment, fitted_span, fitted_trace
from mlmigrate.model import (
    Alias,
    DatasetInput,
    Entity,
    Experiment,
    Item,
    LoggedModel,
    Loss,
    ModelVersion,
    Param,
    RegisteredModel,
    Run,
    Tag,
    Trace,
)


def fit(item: Item, sink: Capabilities) -> tuple[Item, tuple[Loss, ...]]:
    """Make *item* what *sink* can hold.

    Returns:
        The fitted item, and a `Loss` for each thing that is not in its own place.
    """
    if isinstance(item.header, Entity):
        return fitted_entity(item, sink)
    fitting = Fitting(item, sink)
    header = _HEADERS[type(item.header)](item.header, fitting)
    params = _params(item, fitting)
    tags = _tags(own_tags(item, fitting), fitting, _TAG_FIELDS[item.ref.kind], "")
    keys = fitting.keys("metric.key", [metric.key for metric in item.metrics], "metric")
    metrics = [
        fitted_metric(key, metric, fitting)
        for key, metric in zip(keys, item.metrics, strict=True)
    ]
    inputs = _inputs(item.inputs, fitting)
    links = fitted_links(item.links, fitting)
    model_metrics = fitted_model_metrics(item.model_metrics, fitting)
    aliases = _aliases(item, fitting)
    metadata = _tags(item.metadata, fitting, "trace_metadata", "metadata ")
    assessments = [fitted_assessment(each, fitting) for each in item.assessments]
    spans = [fitted_span(each, fitting) for each in item.spans]
    trace_links = item.trace_links
    if sink.traces is not None and sink.traces.in_messages:
        assessments = assessments_in_message(assessments, header, fitting)
        trace_links = links_in_message(trace_links, header, fitting)
        metadata = metadata_in_message(metadata, fitting)
        spans = spans_in_message(spans, fitting)
    carried, losses = fitting.carry()
    versions = []
    for version in item.versions:
        # A version keeps its own: other copies of the model bring other versions.
        own = Fitting(item, sink)
        found = _version(version, own)
        kept, lost = own.carry()
        versions.append(replace(found, tags=(*found.tags, *kept)))
        losses += lost
    fitted = replace(
        item,
        header=header,
        params=params,
        tags=(*tags, *carried),
        metrics=tuple(metrics),
        inputs=inputs,
        links=links,
        model_metrics=model_metrics,
        versions=tuple(versions),
        aliases=aliases,
        metadata=tuple(metadata),
        spans=tuple(spans),
        assessments=tuple(assessments),
        trace_links=trace_links,
    )
    return fitted, tuple(losses)


def _params(item: Item, fitting: Fitting) -> tuple[Param, ...]:
    kind = "logged_model_param" if item.ref.kind == "logged_model" else "param"
    params = []
    keys = fitting.keys(f"{kind}.key", [param.key for param in item.params], "param")
    for key, param in zip(keys, item.params, strict=True):
        value = fitting.text(f"{kind}.value", param.value, f"param {param.key}")
        params.append(
            param
            if key == param.key and value == param.value
            else replace(param, key=key, value=value)
        )
    return tuple(params)


def _tags(tags: tuple[Tag, ...], fitting: Fitting, kind: str, owner: str) -> list[Tag]:
    keys = fitting.keys(f"{kind}.key", [tag.key for tag in tags], f"{owner}tag")
    return [
        Tag(key, fitting.text(f"{kind}.value", tag.value, f"{owner}tag {tag.key}"))
        for key, tag in zip(keys, tags, strict=True)
    ]


def _inputs(
    inputs: Sequence[DatasetInput], fitting: Fitting
) -> tuple[DatasetInput, ...]:
    if not fitting.sink.dataset_inputs:
        for entry in inputs:
            fitting.losses.append(f"dataset {entry.name}: no place for dataset inputs")
            whole = {"field": f"dataset {entry.name}", "dataset": asdict(entry)}
            fitting.whole.append(whole)
        return ()
    return tuple(
        replace(
            entry,
            name=fitting.text("dataset.name", entry.name, "dataset name"),
            digest=fitting.text("dataset.digest", entry.digest, "dataset digest"),
            source_type=fitting.text(
                "dataset.source_type", entry.source_type, "dataset source type"
            ),
            source=fitting.text("dataset.source", entry.source, "dataset source"),
            schema=fitting.optional("dataset.schema", entry.schema, "dataset schema"),
            profile=fitting.optional(
                "dataset.profile", entry.profile, "dataset profile"
            ),
            tags=tuple(_tags(entry.tags, fitting, "dataset_tag", "dataset ")),
        )
        for entry in inputs
    )


def _aliases(item: Item, fitting: Fitting) -> tuple[Alias, ...]:
    if fitting.sink.aliases:
        return item.aliases
    # By its origin: its number may become another.
    origins = {version.version: version.origin for version in item.versions}
    for alias in item.aliases:
        fitting.losses.append(f"alias {alias.name}: no place for aliases")
        text = origins.get(alias.version, str(alias.version))
        fitting.whole.append({"field": f"alias {alias.name}", "text": text})
    return ()


def _experiment(header: Any, fitting: Fitting) -> Experiment:
    (name,) = fitting.keys("experiment.name", [header.name], "experiment")
    if not fitting.sink.keeps_times and header.creation_time is not None:
        fitting.losses.append("its creation time is given by the server")
        fitting.whole.append(
            {"field": "creation_time", "text": str(header.creation_time)}
        )
        header = replace(header, creation_time=None, last_update_time=None)
    fitted: Experiment = replace(header, name=name)
    return fitted


def _run(header: Any, fitting: Fitting) -> Run:
    if not fitting.sink.keeps_legacy and header.source_name:
        fitting.losses.append("its source, as MLflow < 1.0 kept it, has no place")
        fitting.whole.append(
            {
                "field": "source",
                "text": json.dumps(
                    [
                        header.source_type,
                        header.source_name,
                        header.source_version,
                        header.entry_point,
                    ]
                ),
            }
        )
    if not fitting.sink.keeps_legacy:
        header = replace(
            header,
            source_type=None,
            source_name=None,
            source_version=None,
            entry_point=None,
            deleted_time=None,
        )
    if fitting.sink.needs_start and header.start_time is None:
        start = _first_time(fitting.item) or header.end_time or 0
        fitting.losses.append("it had no start time: its first metric's, or 0")
        fitting.whole.append({"field": "start_time", "text": ""})
        header = replace(header, start_time=start)
    fitted: Run = replace(
        header,
        name=fitting.optional("run.name", header.name, "run name"),
        user=fitting.optional("run.user", header.user, "user"),
        source_name=fitting.optional(
            "run.source_name", header.source_name, "source name"
        ),
        source_version=fitting.optional(
            "run.source_version", header.source_version, "source version"
        ),
        entry_point=fitting.optional(
            "run.entry_point", header.entry_point, "entry point"
        ),
    )
    return fitted


def _first_time(item: Item) -> int | None:
    times = [int(metric.timestamps.min()) for metric in item.metrics]
    return min((time for time in times if time > 0), default=None)


def _model(header: Any, fitting: Fitting) -> RegisteredModel:
    if not fitting.sink.keeps_times and header.creation_time is not None:
        fitting.losses.append("its creation time is given by the server")
        fitting.whole.append(
            {"field": "creation_time", "text": str(header.creation_time)}
        )
        header = replace(header, creation_time=None, last_updated_time=None)
    fitted: RegisteredModel = replace(
        header,
        name=fitting.text("registered_model.name", header.name, "model name"),
        description=fitting.optional(
            "registered_model.description", header.description, "description"
        ),
    )
    return fitted


def _version(version: ModelVersion, fitting: Fitting) -> ModelVersion:
    label = f"version {version.version}"

    def cut(name: str) -> str | None:
        return fitting.optional(
            f"model_version.{name}", getattr(version, name), f"{label} {name}"
        )

    if not fitting.sink.keeps_times and version.creation_time is not None:
        fitting.losses.append(f"{label}: its creation time is given by the server")
        fitting.whole.append(
            {"field": f"{label} creation_time", "text": str(version.creation_time)}
        )
        version = replace(version, creation_time=None, last_updated_time=None)
    if not fitting.sink.keeps_legacy:
        for name in ("user", "status_message"):
            value = getattr(version, name)
            if value:
                fitting.losses.append(f"{label}: its {name} is given by the server")
                fitting.whole.append({"field": f"{label} {name}", "text": value})
        version = replace(
            version, user=None, status_message=None, storage_location=None
        )
    facts = fitting.sink.logged_models
    if version.logged_model is not None and (facts is None or not facts.of_versions):
        if version.logged_model != version.source_model:  # its source says it, too
            fitting.losses.append(f"{label}: no place for its logged model")
            field = f"{label} logged_model"
            fitting.whole.append({"field": field, "text": version.logged_model.id})
        version = replace(version, logged_model=None)
    if facts is None:
        version = replace(version, source_model=None)
    return replace(
        version,
        description=cut("description"),
        user=cut("user"),
        source=cut("source"),
        storage_location=cut("storage_location"),
        run_link=cut("run_link"),
        status_message=cut("status_message"),
        tags=tuple(_tags(version.tags, fitting, "model_version_tag", f"{label} ")),
    )


_TAG_FIELDS = {
    "experiment": "experiment_tag",
    "run": "tag",
    "logged_model": "logged_model_tag",
    "registered_model": "registered_model_tag",
    "trace": "trace_tag",
}
_HEADERS: dict[type, Callable[[Any, Fitting], Any]] = {
    Experiment: _experiment,
    Run: _run,
    LoggedModel: fitted_logged_model,
    RegisteredModel: _model,
    Trace: fitted_trace,
}
