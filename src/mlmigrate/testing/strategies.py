"""Hypothesis strategies: records with everything that a store may hold, and worse."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from mlmigrate.metrics import history
from mlmigrate.model import DatasetInput, Item, MetricHistory, Param, Ref, Run, Tag

INT64 = st.integers(-(2**63), 2**63 - 1)
#: Milliseconds that people have logged: years 1970 to 2100, and none at all.
TIMES = st.one_of(st.just(0), st.just(1), st.integers(10**12, 4 * 10**12))

STEPS = st.one_of(st.integers(-3, 5), st.sampled_from([2**62, -(2**62), 2**31]), INT64)
VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.8e308]),
)

_NASTY = st.sampled_from(
    [
        "a/b/c",
        "../x",
        "/etc/passwd",
        "C:\\x",
        " blank ",
        "tab\there",
        "line\nbreak",
        "größer ≥ 🚀",
        "e\u0301",
        "\u200f\u202e",
        "NUL\0inside",
        "lone \ud800 surrogate",
        "'; drop table runs; --",
        "%s {name} \\x00",
        "null",
        "~",
        "Case",
        "case",
    ]
)
_LONG = st.builds(
    lambda text, times: text * times,
    st.sampled_from(["x", "ä", "🚀", "ab "]),
    st.sampled_from([249, 250, 251, 500, 6000, 8001]),
)


def texts(*, empty: bool = True) -> st.SearchStrategy[str]:
    """Values: empty, huge, of any character, even of those that are none."""
    whole = st.one_of(st.text(max_size=20), _NASTY, _LONG)
    return whole if empty else whole.filter(bool)


def keys() -> st.SearchStrategy[str]:
    """Keys of params, tags and metrics, which are never empty."""
    return st.one_of(
        st.text("abcXYZ_-./ 0189", min_size=1, max_size=12),
        texts(empty=False),
    ).filter(_is_foreign)


def _is_foreign(key: str) -> bool:
    return not key.startswith(("mlmigrate.", "mlflow."))


@st.composite
def histories(draw: st.DrawFn, key: str | None = None) -> MetricHistory:
    """Histories of up to 12 points, some of which share step and time."""
    points = draw(st.lists(st.tuples(STEPS, TIMES, VALUES), min_size=1, max_size=12))
    steps, times, values = zip(*points, strict=True)
    return history(
        draw(keys()) if key is None else key,
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(values, dtype=np.float64),
    )


@st.composite
def datasets(draw: st.DrawFn) -> DatasetInput:
    """A dataset input."""
    return DatasetInput(
        name=draw(texts(empty=False)),
        digest=draw(st.text("0123456789abcdef", min_size=1, max_size=36)),
        source_type=draw(st.sampled_from(["local", "hugging_face", "s3"])),
        source=draw(texts(empty=False)),
        schema=draw(st.none() | texts(empty=False)),
        profile=draw(st.none() | texts(empty=False)),
        tags=tuple(
            Tag(key, value)
            for key, value in draw(st.dictionaries(keys(), texts(), max_size=2)).items()
        ),
    )


@st.composite
def runs(draw: st.DrawFn, experiment: str = "1") -> Item:
    """A run of *experiment* with params, tags, metrics and datasets."""
    id = draw(st.integers(0, 2**128 - 1).map("{:032x}".format))
    start = draw(st.none() | TIMES)
    end = draw(st.none() | TIMES)
    pairs = st.dictionaries(keys(), texts(), max_size=5)
    metrics = draw(st.lists(histories(), max_size=4, unique_by=lambda each: each.key))
    inputs = draw(
        st.lists(datasets(), max_size=2, unique_by=lambda each: (each.name[:200],))
    )
    return Item(
        Ref("run", id),
        Run(
            Ref("experiment", experiment),
            name=draw(st.none() | texts(empty=False)),
            status=draw(
                st.sampled_from(["RUNNING", "SCHEDULED", "FINISHED", "FAILED"])
            ),
            start_time=start,
            end_time=end,
            user=draw(st.none() | texts(empty=False)),
            lifecycle=draw(st.sampled_from(["active", "deleted"])),
        ),
        origin=id,
        params=tuple(Param(key, value) for key, value in draw(pairs).items()),
        tags=tuple(Tag(key, value) for key, value in draw(pairs).items()),
        metrics=tuple(metrics),
        inputs=tuple(inputs),
    )
