"""Records that a sink can hold, and what that cost. Pure functions.

Fitting is idempotent. A text that is too long is cut, and a point whose value a sink
cannot hold is replaced; the whole of it is then carried in the copy's tags
``mlmigrate.whole.1``, ``.2``, … as JSON, where it fits there.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from mlmigrate.contract import Capabilities
from mlmigrate.errors import ItemError
from mlmigrate.marks import carrying
from mlmigrate.metrics import history, one_value
from mlmigrate.model import (
    Alias,
    DatasetInput,
    Experiment,
    Item,
    LoggedModel,
    Loss,
    MetricHistory,
    ModelLink,
    ModelMetric,
    ModelVersion,
    Param,
    RegisteredModel,
    Run,
    Tag,
)

#: How many characters an item may carry in its tags.
_MOST_CARRIED = 200_000
#: On a logged model, the versions that were registered from it: what gives ids itself
#: also writes this itself, when it is given those versions.
_REGISTERED = "mlflow.modelVersions"
_LARGEST = float(np.finfo(np.float64).max)


@dataclass(slots=True)
class _Fitting:
    """What was cut from one item so far."""

    item: Item
    sink: Capabilities
    whole: list[dict[str, Any]] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    def text(self, kind: str, value: str, label: str) -> str:
        """Return *value* as the field *kind* holds it."""
        result = value
        if not self.sink.nul and "\0" in result:
            result = result.replace("\0", "\\x00")
        if not self.sink.surrogates:
            result = result.encode("utf-8", "backslashreplace").decode()
        limit = self.sink.text.get(kind)
        if limit is not None and len(result) > limit:
            result = result[:limit]
        if result != value:
            self.losses.append(f"{label}: {len(value)} characters do not fit {kind}")
            self.whole.append({"field": label, "text": value})
        return result

    def optional(self, kind: str, value: str | None, label: str) -> str | None:
        return None if value is None else self.text(kind, value, label)

    def keys(self, kind: str, values: Sequence[str], word: str) -> list[str]:
        """Return *values* as keys, no two of which are equal at the sink."""
        texts = [self.text(kind, value, f"{word} {value}") for value in values]
        folded = [self._folded(text) for text in texts]
        taken = {
            fold
            for fold, text, value in zip(folded, texts, values, strict=True)
            if text == value
        }
        seen: set[str] = set()
        result = []
        for fold, text, value in zip(folded, texts, values, strict=True):
            own, key = fold, text
            if text != value or fold in seen:
                if text == value:
                    self.losses.append(f"{word} {value}: equals another key there")
                    self.whole.append({"field": f"{word} {value}", "text": value})
                key, own = self._renamed(kind, text, value, taken | seen)
            seen.add(own)
            result.append(key)
        return result

    def _renamed(
        self, kind: str, text: str, value: str, taken: set[str]
    ) -> tuple[str, str]:
        """Return a key made from *value* that is not taken, and how it compares."""
        encoded = value.encode("utf-8", "surrogatepass")
        for salt in range(1000):
            tail = (
                "~"
                + blake2b(
                    encoded, digest_size=4, salt=salt.to_bytes(2, "little")
                ).hexdigest()
            )
            limit = self.sink.text.get(kind, len(text) + len(tail))
            key = text[: limit - len(tail)] + tail
            folded = self._folded(key)
            if folded not in taken:
                return key, folded
        raise ItemError(f"no key like {text[:40]!r} is free")

    def _folded(self, key: str) -> str:
        if not self.sink.folds_keys:
            return key
        plain = unicodedata.normalize("NFKD", key.casefold()).rstrip()
        return "".join(char for char in plain if not unicodedata.combining(char))

    def carry(self) -> tuple[tuple[Tag, ...], list[Loss]]:
        """Return the tags that hold what was cut, none where that is too much, and
        what to say of it.
        """
        tags = carrying(self.whole)
        if sum(len(tag.value) for tag in tags) > _MOST_CARRIED:
            tags = ()
        carried = bool(tags)
        return tags, [Loss(self.item.ref, what, carried) for what in self.losses]


def fit(item: Item, sink: Capabilities) -> tuple[Item, tuple[Loss, ...]]:
    """Make *item* what *sink* can hold.

    Returns:
        The fitted item, and a `Loss` for each thing that is not in its own place.
    """
    fitting = _Fitting(item, sink)
    header = _HEADERS[type(item.header)](item.header, fitting)
    params = _params(item, fitting)
    kept = item.tags
    if item.ref.kind == "logged_model" and not sink.keeps_ids:
        kept = tuple(tag for tag in kept if tag.key != _REGISTERED)
    tags = _tags(kept, fitting, _TAG_FIELDS[item.ref.kind], "")
    keys = fitting.keys("metric.key", [metric.key for metric in item.metrics], "metric")
    metrics = [
        _metric(key, metric, fitting)
        for key, metric in zip(keys, item.metrics, strict=True)
    ]
    inputs = _inputs(item.inputs, fitting)
    links = _links(item.links, fitting)
    model_metrics = _model_metrics(item.model_metrics, fitting)
    aliases = _aliases(item, fitting)
    carried, losses = fitting.carry()
    versions = []
    for version in item.versions:
        # A version keeps its own: other copies of the model bring other versions.
        own = _Fitting(item, sink)
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
    )
    return fitted, tuple(losses)


def _params(item: Item, fitting: _Fitting) -> tuple[Param, ...]:
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


def _tags(tags: tuple[Tag, ...], fitting: _Fitting, kind: str, owner: str) -> list[Tag]:
    keys = fitting.keys(f"{kind}.key", [tag.key for tag in tags], f"{owner}tag")
    return [
        Tag(key, fitting.text(f"{kind}.value", tag.value, f"{owner}tag {tag.key}"))
        for key, tag in zip(keys, tags, strict=True)
    ]


def _inputs(
    inputs: Sequence[DatasetInput], fitting: _Fitting
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


def _links(links: Sequence[ModelLink], fitting: _Fitting) -> tuple[ModelLink, ...]:
    if fitting.sink.logged_models is not None:
        return tuple(links)
    for link in links:
        label = f"{link.role} {link.model}"
        fitting.losses.append(f"{label}: no place for logged models")
        fitting.whole.append({"field": label, "step": link.step})
    return ()


def _model_metrics(
    metrics: Sequence[ModelMetric], fitting: _Fitting
) -> tuple[ModelMetric, ...]:
    facts = fitting.sink.logged_models
    if not metrics or facts is None:
        return tuple(metrics)
    before = list(dict.fromkeys(metric.history.key for metric in metrics))
    after = fitting.keys("logged_model_metric.key", before, "metric")
    keys = dict(zip(before, after, strict=True))
    found = []
    for metric in metrics:
        own = metric.history
        label = f"metric {own.key} of {metric.run}"
        if facts.nan == "left out":
            own = _without_nan(own, fitting, label)
            if not len(own.steps):
                continue
        zero = facts.nan == "zero"
        points = _metric(keys[own.key], own, fitting, label, nan_is_zero=zero)
        name, checksum = metric.dataset, metric.dataset_digest
        found.append(
            replace(
                metric,
                history=points,
                dataset=fitting.optional("logged_model_metric.dataset", name, label),
                dataset_digest=fitting.optional(
                    "logged_model_metric.digest", checksum, label
                ),
            )
        )
    if not facts.one_value:
        return tuple(found)
    left, dropped = one_value(found)
    if not dropped:
        return tuple(found)
    fitting.losses.append(f"{dropped} points of metrics: others of their run and step")
    fitting.whole.append({"field": "metrics", "metrics": list(map(_plain, found))})
    return tuple(left)


def _without_nan(metric: MetricHistory, fitting: _Fitting, label: str) -> MetricHistory:
    unknown = np.isnan(metric.values)
    if not unknown.any():
        return metric
    fitting.losses.append(f"{label}: {unknown.sum()} values NaN left out")
    times = metric.timestamps[unknown].tolist()
    points = zip(metric.steps[unknown].tolist(), times, strict=True)
    fitting.whole.append({"field": label, "nan": list(points)})
    known = ~unknown
    return replace(
        metric,
        steps=metric.steps[known],
        timestamps=metric.timestamps[known],
        values=metric.values[known],
    )


def _plain(metric: ModelMetric) -> list[Any]:
    points = metric.history
    columns = (points.steps.tolist(), points.timestamps.tolist())
    values = list(map(repr, points.values.tolist()))
    owner = [metric.run.id, metric.dataset, metric.dataset_digest]
    return [points.key, *owner, *columns, values]


def _aliases(item: Item, fitting: _Fitting) -> tuple[Alias, ...]:
    if fitting.sink.aliases:
        return item.aliases
    # By its origin: its number may become another.
    origins = {version.version: version.origin for version in item.versions}
    for alias in item.aliases:
        fitting.losses.append(f"alias {alias.name}: no place for aliases")
        text = origins.get(alias.version, str(alias.version))
        fitting.whole.append({"field": f"alias {alias.name}", "text": text})
    return ()


def _metric(
    key: str,
    metric: MetricHistory,
    fitting: _Fitting,
    label: str | None = None,
    *,
    nan_is_zero: bool = False,
) -> MetricHistory:
    label = label or f"metric {metric.key}"
    values, timestamps = metric.values, metric.timestamps
    replaced = np.zeros(len(values), dtype=bool)
    if not fitting.sink.infinities:
        infinite = np.isinf(values)
        if infinite.any():
            replaced |= infinite
            values = np.where(infinite, np.copysign(_LARGEST, values), values)
            what = f"{label}: {infinite.sum()} infinities as largest float"
            fitting.losses.append(what)
    if not fitting.sink.negative_zero:
        zero = (values == 0) & np.signbit(values)
        if zero.any():
            replaced |= zero
            values = np.where(zero, 0.0, values)
            what = f"{label}: {zero.sum()} values -0.0 held as 0.0"
            fitting.losses.append(what)
    if nan_is_zero:
        unknown = np.isnan(values)
        if unknown.any():
            replaced |= unknown
            values = np.where(unknown, 0.0, values)
            what = f"{label}: {unknown.sum()} values NaN held as 0.0, as MLflow does"
            fitting.losses.append(what)
    if not fitting.sink.negative_times:
        negative = timestamps < 0
        if negative.any():
            replaced |= negative
            timestamps = np.where(negative, 0, timestamps)
            what = f"{label}: {negative.sum()} negative timestamps as 0"
            fitting.losses.append(what)
    if not replaced.any():
        return metric if key == metric.key else replace(metric, key=key)
    points = zip(
        metric.steps[replaced].tolist(),
        metric.timestamps[replaced].tolist(),
        map(repr, metric.values[replaced].tolist()),
        strict=True,
    )
    fitting.whole.append({"field": label, "points": list(points)})
    return history(key, metric.steps, timestamps, values)


def _experiment(header: Any, fitting: _Fitting) -> Experiment:
    (name,) = fitting.keys("experiment.name", [header.name], "experiment")
    if not fitting.sink.keeps_times and header.creation_time is not None:
        fitting.losses.append("its creation time is given by the server")
        fitting.whole.append(
            {"field": "creation_time", "text": str(header.creation_time)}
        )
        header = replace(header, creation_time=None, last_update_time=None)
    fitted: Experiment = replace(header, name=name)
    return fitted


def _run(header: Any, fitting: _Fitting) -> Run:
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


def _logged_model(header: Any, fitting: _Fitting) -> LoggedModel:
    if not fitting.sink.keeps_times and header.creation_time is not None:
        fitting.losses.append("its times are given by the server")
        times = [header.creation_time, header.last_updated_time]
        fitting.whole.append({"field": "times", "text": json.dumps(times)})
        header = replace(header, creation_time=None, last_updated_time=None)
    elif fitting.sink.needs_start and header.creation_time is None:
        created = header.last_updated_time or 0
        fitting.losses.append("it had no creation time: its last update's, or 0")
        fitting.whole.append({"field": "creation_time", "text": ""})
        header = replace(header, creation_time=created)
    if not fitting.sink.keeps_legacy and header.status == "UNSPECIFIED":
        fitting.losses.append("its status, UNSPECIFIED, is PENDING there")
        fitting.whole.append({"field": "status", "text": header.status})
        header = replace(header, status="PENDING")
    if not fitting.sink.keeps_legacy and header.status_message:
        fitting.losses.append("its status message is given by the server")
        message = header.status_message
        fitting.whole.append({"field": "status_message", "text": message})
        header = replace(header, status_message=None)
    fitted: LoggedModel = replace(
        header,
        name=fitting.text("logged_model.name", header.name, "model name"),
        model_type=fitting.optional(
            "logged_model.model_type", header.model_type, "model type"
        ),
        status_message=fitting.optional(
            "logged_model.status_message", header.status_message, "status message"
        ),
    )
    return fitted


def _model(header: Any, fitting: _Fitting) -> RegisteredModel:
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


def _version(version: ModelVersion, fitting: _Fitting) -> ModelVersion:
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
    "trace": "tag",
}
_HEADERS: dict[type, Callable[[Any, _Fitting], Any]] = {
    Experiment: _experiment,
    Run: _run,
    LoggedModel: _logged_model,
    RegisteredModel: _model,
}
