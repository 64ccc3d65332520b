"""Runs that mlmigrate wrote, read from Neptune as the runs that they were.

What stands in a record is untrusted: whatever is not as mlmigrate writes it is left
out, and a run of which too little is left is a run of Neptune's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from mlmigrate.metrics import history
from mlmigrate.model import (
    Artifact,
    DatasetInput,
    Finding,
    Item,
    MetricHistory,
    Param,
    Problem,
    Ref,
    Run,
    Tag,
)
from mlmigrate.neptune_runs import points
from mlmigrate.neptune_runs.attributes import MILLIONTHS, Container
from mlmigrate.neptune_runs.items import ATTRIBUTES, NOTE, text_of
from mlmigrate.neptune_runs.mapping import (
    FILES,
    FORMAT,
    FORMAT_PATH,
    GROUP_WORDS,
    LONGEST_STRING,
    MARK,
    METRICS,
    ORIGIN,
    PARAMS,
    POINTS,
    RECORD,
    RECORD_FILE,
    SHOWN,
    TAGS,
    WORDS,
    Paths,
    tag_words,
    words_of,
)
from mlmigrate.told.experiments import experiment_id
from mlmigrate.told.inputs import inputs_of
from mlmigrate.told.runs import header_of
from mlmigrate.told.values import as_dict, as_texts, as_time


@dataclass(frozen=True, slots=True)
class Own:
    """What mlmigrate keeps in a run."""

    origin: str
    mark: str | None
    experiment: Mapping[str, Any]
    header: Mapping[str, Any]
    inputs: tuple[DatasetInput, ...]
    carried: Mapping[str, str]
    whole: Mapping[str, str]  # the strings that were cut, by their paths
    renamed: Paths
    aside: int | None  # points that are kept aside, None where that is not known

    @property
    def experiment_id(self) -> str:
        """The id of its experiment."""
        return experiment_id(str(self.experiment["name"]))


@dataclass(frozen=True, slots=True)
class Added:
    """What people added to a run at Neptune in places of their own, by keys."""

    tags: Mapping[str, str | None] = field(default_factory=dict)
    """And the value that mlmigrate wrote of each tag, if it did."""
    metrics: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A run that mlmigrate wrote."""

    item: Item
    own: Own
    paths: Paths  # of all that it has
    files: Mapping[str, str]  # the attribute of each artifact
    added: Added
    words: Mapping[str, Set[str]]  # those that mlmigrate put into Neptune's sets


#: What the names begin with of what people added at Neptune.
_ADDED = "neptune/"
#: Below these is what mlmigrate writes, and Neptune itself.
_OURS = (PARAMS, METRICS, "mlflow/", "mlmigrate/", "sys/")


def own(container: Container, read: Callable[[str], bytes]) -> Own | None:
    """Return what mlmigrate keeps in a run, None where it wrote none.

    Args:
        container: the run.
        read: reads the file of an attribute.

    Raises:
        ItemError: the file of the record cannot be read.
        OSError: likewise.
    """
    origin = container.text(ORIGIN)
    if not origin or container.number(FORMAT_PATH) != FORMAT:
        return None
    record = record_of(container, read)
    experiment = record.get("experiment")
    if not isinstance(experiment, dict) or not isinstance(experiment.get("name"), str):
        return None
    renamed = as_dict(record.get("renamed"))
    return Own(
        origin,
        container.text(MARK) or None,
        experiment,
        header_of(as_dict(record.get("header"))),
        inputs_of(record.get("inputs")),
        as_texts(record.get("carried")),
        as_texts(record.get("whole")),
        Paths(
            *(as_texts(renamed.get(n)) for n in ("params", "metrics", "tags", "files"))
        ),
        as_time(record.get("aside")),
    )


def record_of(container: Container, read: Callable[[str], bytes]) -> dict[str, Any]:
    """Return the record in a run or a model; an empty one where there is none.

    Raises:
        ItemError: its file cannot be read.
        OSError: likewise.
    """
    text: str | bytes = container.text(RECORD)
    if not text:
        if not _has_file(container, RECORD_FILE):
            return {}
        text = read(RECORD_FILE)
    try:
        return as_dict(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _has_file(container: Container, path: str) -> bool:
    return any(artifact.path == path for artifact in container.artifacts)


def restored(
    container: Container, found: Own, ref: Ref, read: Callable[[str], bytes]
) -> Restored:
    """Return the run that mlmigrate wrote, with what people changed at Neptune.

    Args:
        container: the run; its artifacts are named by their attributes.
        found: what mlmigrate keeps in it.
        ref: its address.
        read: reads the file of an attribute.

    Raises:
        ItemError: the points kept aside cannot be read.
        OSError: likewise.
    """
    keys = found.renamed
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    added: dict[str, str] = {}
    for path, scalar in container.scalars.items():
        value = _whole(found, path, text_of(scalar))
        if path.startswith(PARAMS):
            params[path.removeprefix(PARAMS)] = value
        elif path.startswith(TAGS):
            tags[path.removeprefix(TAGS)] = value
        elif not path.startswith(_OURS):
            added[_ADDED + path] = value
    said = {keys.tags.get(path, path): value for path, value in tags.items()}
    words = _own_words(found, said)
    added |= _added_words(container, words, said)
    before = {key: said.get(key) for key in added}
    said |= added
    header = dict(found.header)
    name = _edited(container, "sys/name", header["name"] or "")
    if name:
        header["name"] = name
    note = _edited(container, "sys/description", said.get(NOTE, ""))
    if note:
        said[NOTE] = note
    # Where Neptune deletes no file, points that are no longer aside are still there.
    kept = found.aside != 0 and _has_file(container, POINTS)
    aside = points.load(read(POINTS)) if kept else {}
    findings: list[Finding] = list(container.findings)
    where = f"{container.project}/{container.id}"
    if (found.aside or 0) > sum(len(metric.steps) for metric in aside.values()):
        what = f"{POINTS}, with points that no series takes, is not there, or not whole"
        findings.append(Problem(where, what))
    metrics = tuple(_metrics(container, keys.metrics, aside, where, findings))
    files = dict(_files(container, keys.files))
    item = Item(
        ref,
        Run(experiment=Ref("experiment", found.experiment_id), **header),
        origin=found.origin,
        params=tuple(Param(keys.params.get(p, p), v) for p, v in params.items()),
        tags=tuple(Tag(key, value) for key, value in said.items()),
        metrics=metrics,
        inputs=found.inputs,
        artifacts=tuple(files.values()),
        mark=found.mark,
        findings=tuple(findings),
    )
    paths = Paths(
        {path: keys.params.get(path, path) for path in params},
        _by_path(container.floats, METRICS, keys.metrics),
        {path: keys.tags.get(path, path) for path in tags},
        _by_path(files, FILES, keys.files),
    )
    at = {artifact.path: path for path, artifact in files.items()}
    theirs = Added(
        before,
        frozenset(
            _ADDED + path for path in container.floats if not path.startswith(METRICS)
        ),
        frozenset(own for own, path in at.items() if not path.startswith(FILES)),
    )
    return Restored(item, found, paths, at, theirs, words)


def without(item: Item, added: Added, new: Item) -> Item:
    """Return what is to be written of a run: not what people added to it, which stays
    where they put it.

    Args:
        item: the run as it is to be.
        added: what people added.
        new: what the source adds; that is written, whatever its name.
    """
    fresh = {tag.key for tag in new.tags}
    tags = {
        tag.key: added.tags.get(tag.key, tag.value)
        if tag.key not in fresh
        else tag.value
        for tag in item.tags
    }
    metrics = added.metrics - {metric.key for metric in new.metrics}
    files = added.files - {artifact.path for artifact in new.artifacts}
    return replace(
        item,
        tags=tuple(Tag(key, text) for key, text in tags.items() if text is not None),
        metrics=tuple(each for each in item.metrics if each.key not in metrics),
        artifacts=tuple(each for each in item.artifacts if each.path not in files),
    )


def _own_words(found: Own, said: Mapping[str, str]) -> dict[str, Set[str]]:
    """Return the words that mlmigrate put into Neptune's two sets."""
    parent = found.header["parent"]
    groups = {str(found.experiment["name"]), *([parent.id] if parent else ())}
    return {"sys/tags": {*tag_words(said)}, "sys/group_tags": groups}


def _added_words(
    container: Container, own_words: Mapping[str, Set[str]], said: Mapping[str, str]
) -> dict[str, str]:
    """Return the tags that tell of words which people put into these sets."""
    words = {}
    for key, path in ((WORDS, "sys/tags"), (GROUP_WORDS, "sys/group_tags")):
        before = {*words_of(said.get(key))}
        more = {*container.words(path)} - own_words[path] - before
        if more:
            words[key] = json.dumps(sorted(before | more))
    return words


def _edited(container: Container, path: str, written: str) -> str:
    """Return what people made of a text that Neptune shows, '' where they did not."""
    text = container.text(path)
    known = (written[:LONGEST_STRING], container.text(SHOWN[path]))
    return "" if text in known else text


def _by_path(
    paths: Iterable[str], prefix: str, keys: Mapping[str, str]
) -> dict[str, str]:
    """Return the key of each path that begins so, without the beginning."""
    own = (path.removeprefix(prefix) for path in paths if path.startswith(prefix))
    return {path: keys.get(path, path) for path in own}


def _files(
    container: Container, keys: Mapping[str, str]
) -> Iterator[tuple[str, Artifact]]:
    """Yield the attribute of each file, and the artifact that it is."""
    for artifact in container.artifacts:
        path = artifact.path
        if path.startswith(FILES):
            short = path.removeprefix(FILES)
            yield path, Artifact(keys.get(short, short), artifact.size)
        elif path not in (POINTS, RECORD_FILE, ATTRIBUTES):
            yield path, Artifact(_ADDED + path, artifact.size)


def _whole(found: Own, path: str, value: str) -> str:
    whole = found.whole.get(path)
    return whole if whole is not None and whole[:LONGEST_STRING] == value else value


def _metrics(
    container: Container,
    keys: Mapping[str, str],
    aside: Mapping[str, MetricHistory],
    where: str,
    findings: list[Finding],
) -> Iterator[MetricHistory]:
    left = dict(aside)
    for path, series in container.floats.items():
        if (series.steps % MILLIONTHS).any():
            what = f"{path} was added at Neptune, and its steps are fractions: left out"
            findings.append(Problem(where, what))
            continue
        short = path.removeprefix(METRICS)
        key = keys.get(short, short) if path.startswith(METRICS) else _ADDED + path
        steps = series.steps // MILLIONTHS
        held = history(key, steps, series.timestamps, series.values)
        yield points.joined(key, held, left.pop(key, None))
    for key, rest in left.items():
        yield points.joined(key, None, rest)
