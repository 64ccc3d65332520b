"""Runs in Neptune's words and back: nothing is lost, and Neptune's limits hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reading import params, tags

from mlmigrate.contract import Capabilities
from mlmigrate.digest import digest
from mlmigrate.fit import fit
from mlmigrate.metrics import history
from mlmigrate.model import Artifact, Item, MetricHistory, Param, Ref, Run, Tag
from mlmigrate.neptune_runs import own, points
from mlmigrate.neptune_runs.attributes import MILLIONTHS, Container, Scalar
from mlmigrate.neptune_runs.mapping import (
    LONGEST_STRING,
    Logged,
    custom_id,
    logged,
)
from mlmigrate.testing.items import RUN, run
from mlmigrate.testing.strategies import histories, runs

EXPERIMENT = {"name": "exp", "origin": "1/exp"}
SINK = Capabilities(keeps_ids=True, nul=False)


def at_neptune(said: Logged) -> tuple[Container, dict[str, bytes]]:
    """What a server would hold of a run."""
    files = {**dict.fromkeys(said.files, b""), **said.blobs}
    artifacts = tuple(Artifact(path, len(data)) for path, data in files.items())
    container = Container(
        "run", "team/proj", "PROJ-1", said.scalars, said.series, artifacts
    )
    return container, files


def read_back(said: Logged) -> own.Restored:
    container, files = at_neptune(said)
    found = own.own(container, files.__getitem__)
    assert found is not None
    return own.restored(container, found, Ref("run", "x"), files.__getitem__)


def fitted(item: Item) -> Item:
    return fit(item, SINK)[0]


@settings(max_examples=150, deadline=None)
@given(runs())
def test_what_is_told_of_a_run_reads_back_as_it_was(item: Item) -> None:
    item = replace(fitted(item), artifacts=())

    said = logged(item, EXPERIMENT, source="here")

    # A source does not know what was carried of what did not fit.
    plain = tuple(t for t in item.tags if not t.key.startswith("mlmigrate."))
    wanted = replace(item, tags=plain)
    assert digest(read_back(said).item) == digest(wanted)


@settings(max_examples=150, deadline=None)
@given(runs())
def test_what_is_told_keeps_to_the_limits(item: Item) -> None:
    said = logged(fitted(item), EXPERIMENT, source="here")

    paths = [*said.scalars, *said.series, *said.files]
    assert len(paths) == len(set(paths))
    for path in paths:
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts)
        above = {"/".join(parts[:at]) for at in range(1, len(parts))}
        assert not above & set(paths)
    for scalar in said.scalars.values():
        if isinstance(scalar.value, str):
            assert len(scalar.value) <= LONGEST_STRING
    for series in said.series.values():
        assert (np.diff(series.steps) > 0).all()
        assert (np.diff(series.timestamps) >= 0).all()
        assert np.isfinite(series.values).all()
        assert (series.timestamps >= 0).all()


@settings(max_examples=200)
@given(histories("m"))
def test_points_are_divided_and_joined_again(metric: MetricHistory) -> None:
    divided = points.divide(metric)
    series, aside = divided.series, divided.aside
    held = history("m", series.steps // MILLIONTHS, series.timestamps, series.values)
    loaded = points.load(points.dump([aside])) if aside else {}

    found = points.joined("m", held if len(series.steps) else None, loaded.get("m"))

    one = Item(Ref("run", "a"), Run(Ref("experiment", "1")), "a", metrics=(metric,))
    other = replace(one, metrics=(found,))
    assert digest(one) == digest(other)


def test_plain_points_are_not_kept_aside() -> None:
    metric = history(
        "m",
        np.arange(5, dtype=np.int64),
        np.array([10, 20, 20, 30, 40], dtype=np.int64),
        np.array([1.0, 0.0, -1.5, 1e300, 5e-324]),
    )

    divided = points.divide(metric)

    assert divided.aside is None
    assert [0, 1, 2, 3, 4] == (divided.series.steps // MILLIONTHS).tolist()


@pytest.mark.parametrize(
    ("steps", "times", "values", "shown", "why"),
    [
        ([0, 0], [1, 2], [1.0, 2.0], [2.0], "1 points beside another of their step"),
        ([0, 1], [9, 5], [1.0, 2.0], [1.0, 2.0], "1 times before that of an earlier"),
        ([0, 1], [1, 2], [np.nan, 2.0], [2.0], "1 values that are not finite"),
        ([0, 10**12], [1, 2], [1.0, 2.0], [1.0], "1 steps of more than 12 digits"),
        ([0, 1], [-5, 2], [1.0, 2.0], [1.0, 2.0], "1 times before 1970"),
        ([0], [1], [-0.0], [0.0], "1 values that are -0.0"),
    ],
)
def test_what_a_series_does_not_take_is_told(
    steps: list[int], times: list[int], values: list[float], shown: object, why: str
) -> None:
    metric = history(
        "m",
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(values),
    )

    divided = points.divide(metric)

    assert shown == divided.series.values.tolist()
    assert divided.aside is not None
    assert divided.why[0].startswith(why)


def test_keys_that_are_no_paths_get_others_and_come_back() -> None:
    keys = ["a", "a/b", "a//b", "/a", "b/", "../x", "x" * 2000, "C:", "ok/key"]
    item = replace(
        run(),
        params=tuple(Param(key, key[:5]) for key in keys),
        tags=tuple(Tag(key, key[:5]) for key in keys),
        metrics=(),
        inputs=(),
        artifacts=tuple(Artifact(f"f{at}/{at}", 0) for at in range(3)),
    )

    said = logged(item, EXPERIMENT, source="here")

    assert {"params/a", "params/ok/key"} <= set(said.scalars)
    found = read_back(said).item
    assert params(item) == params(found)
    assert {t.key for t in item.tags} == {t.key for t in found.tags}


def test_keys_of_an_earlier_copy_keep_their_paths() -> None:
    first = replace(run(), params=(Param("a/b", "1"),), artifacts=())
    before = read_back(logged(first, EXPERIMENT, source="here")).paths
    grown = replace(first, params=(Param("a", "0"), *first.params))

    said = logged(grown, EXPERIMENT, source="here", before=before)

    assert "params/a/b" in said.scalars
    assert "params/a" not in said.scalars
    found = read_back(said).item
    assert {"a": "0", "a/b": "1"} == params(found)


def test_long_strings_are_shown_cut_and_read_whole() -> None:
    text = "x" * LONGEST_STRING + "end"
    item = replace(run(), params=(Param("p", text),), artifacts=())

    said = logged(item, EXPERIMENT, source="here")

    assert text[:LONGEST_STRING] == said.scalars["params/p"].value
    assert ["params/p: 16387 characters, of which Neptune shows 16384"] == [
        what for what in said.aside if what.startswith("params/")
    ]
    assert text == read_back(said).item.params[0].value


def test_what_people_changed_at_neptune_is_read() -> None:
    said = logged(replace(run(), artifacts=()), EXPERIMENT, source="here")
    container, files = at_neptune(said)
    changed = {
        **container.scalars,
        "sys/name": Scalar("string", "renamed"),
        "sys/description": Scalar("string", "a note"),
        "mlflow/tags/new": Scalar("string", "tag"),
    }
    container = replace(container, scalars=changed)
    found = own.own(container, files.__getitem__)
    assert found is not None

    item = own.restored(container, found, Ref("run", RUN), files.__getitem__).item

    assert isinstance(item.header, Run)
    assert "renamed" == item.header.name
    told = tags(item)
    assert ("a note", "tag") == (told["mlflow.note.content"], told["new"])


@given(st.text(max_size=60))
def test_custom_ids_are_such_as_neptune_takes(origin: str) -> None:
    found = custom_id(origin)

    assert 0 < len(found) <= 36
    assert found == custom_id(origin)
    assert found != custom_id(origin, "salt")


def test_ids_of_mlflow_stay() -> None:
    assert "0123456789abcdef" * 2 == custom_id("0123456789abcdef" * 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.floats().map(repr), st.integers().map(str), st.text())))
def test_typed_params_read_back_as_their_texts(values: list[str]) -> None:
    params = tuple(Param(f"p{at}", value) for at, value in enumerate(values))
    item = fitted(replace(run(), params=params, artifacts=()))

    said = logged(item, EXPERIMENT, source="here", typed=True)

    assert sorted((p.key, p.value) for p in item.params) == sorted(
        (p.key, p.value) for p in read_back(said).item.params
    )


def test_params_are_numbers_where_that_is_asked_for() -> None:
    texts = ["12", "0.5", "True", "1e400", "007", "2147483648", "x", "nan"]
    params = tuple(Param(text, text) for text in texts)
    item = replace(run(), params=params, artifacts=())

    said = logged(item, EXPERIMENT, source="here", typed=True).scalars

    kinds = [said[f"params/{text}"].type for text in texts]
    assert ["int", "float", "bool", *["string"] * 5] == kinds
