"""A run of MLflow's in Neptune's words: attributes, series and files.

| of the run | at Neptune |
| --- | --- |
| params | ``params/KEY``, strings |
| metrics | ``metrics/KEY``, float series |
| tags | ``mlflow/tags/KEY``, strings |
| artifacts | ``artifacts/PATH``, files |
| name, note, failed | ``sys/name``, ``sys/description``, ``sys/failed`` |
| experiment | ``sys/group_tags``, ``mlflow/experiment`` |
| parent | ``sys/group_tags``, ``mlflow/parent_run_id`` |
| status, times, user | ``mlflow/status``, ``mlflow/start_time``, … |
| all that is no string of Neptune's | ``mlmigrate/record`` |
| points that a series does not take | ``mlmigrate/points``, a Parquet file |
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import md5
from typing import Any

from mlmigrate.model import Item, MetricHistory, Run
from mlmigrate.neptune_runs import points
from mlmigrate.neptune_runs.attributes import FloatSeries, Scalar, ScalarType
from mlmigrate.neptune_runs.items import NOTE
from mlmigrate.neptune_runs.names import Names, cleaned
from mlmigrate.told.inputs import inputs_record
from mlmigrate.told.values import carried, plain, pruned

PARAMS, METRICS, TAGS, FILES = "params/", "metrics/", "mlflow/tags/", "artifacts/"
#: Paths of what mlmigrate keeps of a run.
FORMAT_PATH = "mlmigrate/format"
ORIGIN, MARK = "mlmigrate/origin", "mlmigrate/mark"
SOURCE = "mlmigrate/source"
#: For people, and for the time that the origin is not there.
RUN_ID = "mlflow/run_id"
#: The record is a string where it is short enough, else a file.
RECORD, RECORD_FILE = "mlmigrate/record", "mlmigrate/record_file"
POINTS = "mlmigrate/points"
#: What Neptune shows where that is not what it was sent: nobody has edited it then.
SHOWN = {
    "sys/name": "mlmigrate/shown/name",
    "sys/description": "mlmigrate/shown/description",
}
#: What a listing of runs tells of each.
EXPERIMENT, PARENT = "mlflow/experiment", "mlflow/parent_run_id"
STATUS, END, LIFECYCLE = "mlflow/status", "mlflow/end_time", "mlflow/lifecycle"
FORMAT = 1

#: The tags that tell, as JSON, the words of Neptune's two sets.
WORDS, GROUP_WORDS = "neptune.tags", "neptune.group_tags"
#: The client cuts longer strings (`neptune.attributes.atoms.string`).
LONGEST_STRING = 16_384
_LONGEST_ID = 36  # a longer custom id is ignored
LATEST = 253_402_300_799_999  # milliseconds: the end of 9999, as `datetime` has it
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """A run as Neptune is told of it."""

    custom_id: str
    scalars: Mapping[str, Scalar]
    series: Mapping[str, FloatSeries]
    files: Mapping[str, str]  # the path of each attribute -> that of the artifact
    #: Files of mlmigrate's own, by the paths of their attributes: a record that is too
    #: long for a string, and points that no series takes.
    blobs: Mapping[str, bytes]
    #: What is not in its own place, in words.
    aside: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Paths:
    """What the keys of a run became: the paths, without what all begin with."""

    params: Mapping[str, str] = field(default_factory=dict)  # path -> key
    metrics: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def custom_id(origin: str, salt: str = "") -> str:
    """Return the custom id that a run gets: its origin where Neptune takes that, else
    one made of it, always the same.
    """
    fits = len(origin) <= _LONGEST_ID and _PLAIN_ID.match(origin)
    if fits and not salt:
        return origin
    text = f"{salt}\0{origin}" if salt else origin
    return md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def logged(
    item: Item,
    experiment: Mapping[str, Any],
    *,
    source: str,
    salt: str = "",
    typed: bool = False,
    before: Paths | None = None,
    lowest_step: int = -points.LARGEST_STEP,
    standing: Mapping[str, FloatSeries] | None = None,
) -> Logged:
    """Return *item*, a run, in Neptune's words; its mark is set apart from that.

    Args:
        item: the run, whole.
        experiment: the record of its experiment.
        source: where it was read, for people.
        salt: makes its id another: Neptune keeps those of runs in its trash.
        typed: whether params that are numbers or truth values are such at Neptune.
        before: what the keys of its earlier copy became.
        lowest_step: the least step that a series takes.
        standing: the series that are there, where these only grow.

    Raises:
        ItemError: a series is there that cannot become what it is to be.
    """
    header = item.header
    assert isinstance(header, Run)
    held = before or Paths()
    tags = plain(item.tags)
    params, param_names = _named([p.key for p in item.params], PARAMS, held.params)
    metrics, metric_names = _named([m.key for m in item.metrics], METRICS, held.metrics)
    tag_paths, tag_names = _named(list(tags), TAGS, held.tags)
    paths = [artifact.path for artifact in item.artifacts]
    files, file_names = _named(paths, FILES, held.files)
    # What tells whose it is comes first: a run that was begun is found by it.
    said: dict[str, Any] = {FORMAT_PATH: FORMAT, ORIGIN: item.origin, SOURCE: source}
    values = [param.value for param in item.params]
    shown = [_typed(value) for value in values] if typed else values
    said |= dict(zip(params, shown, strict=True))
    said |= dict(zip(tag_paths, tags.values(), strict=True))
    said |= _header(item, header, experiment, tags)
    whole, aside = _cut(said)
    series: dict[str, FloatSeries] = {}
    kept: list[MetricHistory] = []
    for path, metric in zip(metrics, item.metrics, strict=True):
        divided = points.divide(metric, lowest_step, (standing or {}).get(path))
        if len(divided.series.steps):
            series[path] = divided.series
        if divided.aside is not None:
            kept.append(divided.aside)
            aside.append(f"metric {metric.key}: {', '.join(divided.why)}")
    record = {
        "header": _exact(header),
        "experiment": pruned(experiment),
        "inputs": inputs_record(item.inputs),
        "carried": carried(item.tags),
        "whole": whole,
        "aside": sum(len(metric.steps) for metric in kept),
        "renamed": pruned(
            {
                "params": param_names,
                "metrics": metric_names,
                "tags": tag_names,
                "files": file_names,
            }
        ),
    }
    text = json.dumps(pruned(record), sort_keys=True)
    # In one order, whatever that of the metrics: equal points are an equal file.
    kept.sort(key=lambda metric: metric.key)
    blobs = {POINTS: points.dump(kept)} if kept else {}
    if len(text) <= LONGEST_STRING:
        said[RECORD] = text
    else:
        blobs[RECORD_FILE] = text.encode("ascii")
    return Logged(
        custom_id(item.origin, salt),
        {path: _scalar(value) for path, value in said.items()},
        series,
        dict(zip(files, paths, strict=True)),
        blobs,
        aside,
    )


def _header(
    item: Item, header: Run, experiment: Mapping[str, Any], tags: Mapping[str, str]
) -> dict[str, Any]:
    """Return what people and listings see of a run; its record tells it exactly."""
    name = str(experiment["name"])
    parent = header.parent.id if header.parent else None
    groups = {name} | ({parent} if parent else set())
    said: dict[str, Any] = {
        "sys/name": header.name or "",
        "sys/failed": header.status in ("FAILED", "KILLED"),
        "sys/group_tags": tuple(sorted(groups)),
        EXPERIMENT: name,
        RUN_ID: item.origin,
        STATUS: header.status,
        LIFECYCLE: header.lifecycle,
        "mlflow/start_time": _moment(header.start_time),
        END: _moment(header.end_time),
        "mlflow/user": header.user,
        "mlflow/artifact_uri": header.artifact_uri,
        PARENT: parent,
        "sys/description": tags.get(NOTE),
        "sys/tags": tuple(tag_words(tags)),
    }
    return {path: value for path, value in said.items() if value not in (None, ())}


@dataclass(frozen=True, slots=True)
class _Moment:
    time: int


def _moment(time: int | None) -> _Moment | None:
    """Return a time that Neptune has; others are in the record only."""
    return _Moment(time) if time is not None and 0 <= time <= LATEST else None


def _scalar(value: Any) -> Scalar:
    if isinstance(value, _Moment):
        return Scalar("datetime", value.time)
    kinds: tuple[tuple[type, ScalarType], ...] = (
        (bool, "bool"),
        (int, "int"),
        (float, "float"),
        (tuple, "string_set"),
        (str, "string"),
    )
    kind = next(kind for type, kind in kinds if isinstance(value, type))
    return Scalar(kind, value)


def _typed(text: str) -> str | int | float | bool:
    """Return the number or truth value that a text is, as Python writes it; other texts
    as they are.
    """
    if text in ("True", "False"):
        return text == "True"
    if text == "-0.0":
        return text  # not every server keeps the sign of a zero
    for kind, fits in ((int, _fits_int), (float, math.isfinite)):
        try:
            found = kind(text)
            if repr(found) == text and fits(found):
                return found
        except (ValueError, OverflowError):
            continue
    return text


def _fits_int(number: float) -> bool:
    return abs(number) < 1 << 31  # the client leaves larger ones out


def _cut(said: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Cut the strings that are too long.

    Returns:
        The whole of each, by its path, and what to say of them.
    """
    whole = {
        path: value
        for path, value in said.items()
        if isinstance(value, str) and len(value) > LONGEST_STRING
    }
    for path, value in whole.items():
        said[path] = value[:LONGEST_STRING]
    return whole, [
        f"{path}: {len(value)} characters, of which Neptune shows {LONGEST_STRING}"
        for path, value in whole.items()
    ]


def _named(
    keys: Sequence[str], prefix: str, before: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the paths that keys get, and the keys of those that are others."""
    names = Names()
    given = {key: names.give(path) for path, key in before.items()}
    # Keys that can stay come first, that they do.
    for key in sorted(keys, key=lambda key: (cleaned(key) != key, key)):
        if key not in given:
            given[key] = names.give(key)
    renamed = {given[key]: key for key in keys if given[key] != key}
    return [prefix + given[key] for key in keys], renamed


def tag_words(tags: Mapping[str, str]) -> list[str]:
    """Return the words that are tags at Neptune, and were at W&B."""
    return words_of(tags.get(WORDS) or tags.get("wandb.tags"))


def words_of(text: str | None) -> list[str]:
    """Return the words that a tag tells as JSON."""
    try:
        said = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    if not isinstance(said, list):
        return []
    return sorted({word for word in said if isinstance(word, str)})


def _exact(header: Run) -> dict[str, Any]:
    fields = asdict(header)
    fields["parent"] = header.parent.id if header.parent else None
    del fields["experiment"]
    return {name: value for name, value in fields.items() if value is not None}
