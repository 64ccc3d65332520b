"""Laws that hold for any records."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlmigrate import merge
from mlmigrate.contract import Capabilities
from mlmigrate.digest import digest
from mlmigrate.fit import fit
from mlmigrate.metrics import history, latest, missing, union, value_bits
from mlmigrate.model import Item, MetricHistory, Param, Ref, Run
from mlmigrate.stores.mlflow_files.parse import read_meta
from mlmigrate.stores.mlflow_files.points import read_metric
from mlmigrate.testing.items import experiment
from mlmigrate.testing.strategies import histories, keys, runs, texts

modest = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)

Points = set[tuple[int, int, int]]


def points(metric: MetricHistory) -> Points:
    """Return a history as a set of (step, timestamp, bits of the value)."""
    bits = value_bits(np.ascontiguousarray(metric.values))
    rows = zip(
        metric.steps.tolist(), metric.timestamps.tolist(), bits.tolist(), strict=True
    )
    return set(rows)


class TestMetrics:
    @modest
    @given(histories(key="m"))
    def test_history_is_normal(self, metric: MetricHistory) -> None:
        """Sorted by step and time, each point once; normalizing again does nothing."""
        order = list(
            zip(metric.steps.tolist(), metric.timestamps.tolist(), strict=True)
        )
        again = history("m", metric.steps, metric.timestamps, metric.values)

        assert sorted(order) == order
        assert len(order) == len(points(metric))
        assert points(again) == points(metric)

    @modest
    @given(histories(key="m"), histories(key="m"))
    def test_missing_and_union(self, one: MetricHistory, other: MetricHistory) -> None:
        """They are difference and union of sets of points."""
        assert points(other) - points(one) == points(missing(one, other))
        assert points(one) | points(other) == points(union(one, other))
        assert set() == points(missing(one, one))
        assert not len(missing(union(one, other), other).steps)
        assert points(other) == points(missing(None, other))

    @modest
    @given(histories(key="m"))
    def test_latest(self, metric: MetricHistory) -> None:
        """The last point by (step, timestamp, value), NaN counting as 0."""
        rows = [
            (step, time, 0.0 if value != value else value)
            for step, time, value in zip(
                metric.steps.tolist(),
                metric.timestamps.tolist(),
                metric.values.tolist(),
                strict=True,
            )
        ]

        assert max(rows) == rows[latest(metric)]


# -- fit ------------------------------------------------------------------------------

LIMITS = {
    "param.key": 250,
    "param.value": 8000,
    "tag.key": 250,
    "tag.value": 8000,
    "metric.key": 250,
    "run.name": 250,
    "run.user": 256,
    "dataset.name": 500,
    "dataset.digest": 36,
    "dataset_tag.key": 255,
    "dataset_tag.value": 500,
}
NARROW = Capabilities(
    keeps_ids=True,
    text=LIMITS,
    infinities=False,
    negative_zero=False,
    negative_times=False,
    nul=False,
)


class TestFit:
    @modest
    @given(runs())
    def test_nothing_exceeds_limits(self, item: Item) -> None:
        """What is fitted is held: lengths, characters and values."""
        fitted, _ = fit(item, NARROW)
        header = fitted.header
        assert isinstance(header, Run)
        fields = [
            *(("param.key", param.key) for param in fitted.params),
            *(("param.value", param.value) for param in fitted.params),
            *(("tag.key", tag.key) for tag in fitted.tags),
            *(("tag.value", tag.value) for tag in fitted.tags),
            *(("metric.key", metric.key) for metric in fitted.metrics),
            ("run.name", header.name or ""),
            ("run.user", header.user or ""),
            *(("dataset.name", entry.name) for entry in fitted.inputs),
            *(
                ("dataset_tag.value", tag.value)
                for entry in fitted.inputs
                for tag in entry.tags
            ),
        ]
        for name, text in fields:
            assert len(text) <= LIMITS[name], name
            assert "\0" not in text
            text.encode()
        for metric in fitted.metrics:
            assert not np.isinf(metric.values).any()
            assert not ((metric.values == 0) & np.signbit(metric.values)).any()
            assert (metric.timestamps >= 0).all()

    @modest
    @given(runs())
    def test_idempotent(self, item: Item) -> None:
        """What fits is left alone, without a loss."""
        once, _ = fit(item, NARROW)
        twice, losses = fit(once, NARROW)

        assert () == losses
        assert digest(once) == digest(twice)

    @modest
    @given(runs())
    def test_a_wide_sink_changes_nothing(self, item: Item) -> None:
        """Without limits only what is no text at all is changed."""
        fitted, losses = fit(item, Capabilities(keeps_ids=True))

        if not losses:
            assert digest(item) == digest(fitted)

    @modest
    @given(runs())
    def test_what_changes_is_told(self, item: Item) -> None:
        """An item that is changed has a loss."""
        fitted, losses = fit(item, NARROW)

        assert bool(losses) == (digest(item) != digest(fitted))

    @modest
    @given(st.sets(keys(), max_size=8))
    def test_keys_stay_apart(self, names: set[str]) -> None:
        """Different keys stay different, however they are cut."""
        cut = {name * 300 for name in names} | names
        item = replace(_bare(), params=tuple(Param(key, "") for key in sorted(cut)))
        fitted, _ = fit(item, NARROW)

        assert len(cut) == len({param.key for param in fitted.params})

    def test_a_key_that_looks_cut(self) -> None:
        """A key equal to what another becomes stays apart from it."""
        long = "x" * 300
        first, _ = fit(replace(_bare(), params=(Param(long, ""),)), NARROW)
        twin = first.params[0].key
        for keys_ in ((long, twin), (twin, long)):
            item = replace(_bare(), params=tuple(Param(key, "") for key in keys_))
            fitted, _ = fit(item, NARROW)

            assert 2 == len({param.key for param in fitted.params})


def _bare() -> Item:
    return Item(Ref("run", "r"), Run(Ref("experiment", "1")), "r")


# -- the file store's parsers ---------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66).map(str),
    st.integers(0, 2 * 10**12).map(str),
    st.floats().map(repr),
    st.sampled_from(["nan", "NaN", "-inf", "1e5", "+1", "1_0", "", "x", "1.", "--1"]),
)
GOOD = st.tuples(
    st.integers(0, 2**63 - 1).map(str),
    st.floats().map(repr),
    st.integers(-(2**63), 2**63 - 1).map(str),
).map(" ".join)
LINES = st.one_of(GOOD, st.lists(NUMBERS, max_size=6).map(" ".join))


def naive(data: bytes) -> Points:
    """Read metric lines one by one."""
    found = []
    for line in data.decode("latin-1").split("\n"):
        fields = line.split()
        if len(fields) in (0, 1, 4):
            continue
        try:
            time, value = int(fields[0]), float(fields[1])
            step = int(fields[2]) if len(fields) > 2 else 0
        except ValueError:
            continue
        if max(time, step) < 2**63 and min(time, step) >= -(2**63):
            found.append((step, time, value))
    steps, times, values = zip(*found, strict=True) if found else ((), (), ())
    metric = MetricHistory(
        "m",
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(values, dtype=np.float64),
    )
    return points(metric)


class TestFileParsers:
    @modest
    @given(st.lists(LINES, max_size=12), st.booleans())
    def test_metric_lines(self, lines: list[str], ends: bool) -> None:
        """Fast or slow, a file has the points that reading line by line finds."""
        data = ("\n".join(lines) + "\n" * ends).encode()
        metric, *_ = read_metric("m", [data])

        assert naive(data) == points(metric)

    @modest
    @given(st.integers(0, 2**32), st.sampled_from([2, 3]), st.integers(0, 3))
    def test_many_metric_lines(self, seed: int, width: int, odd: int) -> None:
        """So it does for long files, which are read as one block."""
        rng = random.Random(seed)
        lines = []
        for step in range(200):
            value = rng.choice([rng.random(), -rng.random(), 1e-310, 1e300, 3, 0.1])
            fields = [str(10**12 + rng.randrange(10**6)), repr(value), str(step)]
            lines.append(" ".join(fields[:width]))
        for _ in range(odd):
            at = rng.randrange(200)
            lines[at] = rng.choice(["1 2 3e1", str(2**60 + 1) + " 1.5 7", "1.5 1 1"])
        data = ("\n".join(lines) + "\n").encode()
        metric, *_ = read_metric("m", [data])

        assert naive(data) == points(metric)

    @modest
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "artifact_uri": st.one_of(st.text("abC/:._- %", max_size=30), texts()),
                "end_time": st.none() | st.integers(-(2**70), 2**70),
                "entry_point_name": st.just(""),
                "experiment_id": st.text("0123456789abcdef_e", max_size=18),
                "lifecycle_stage": st.sampled_from(["active", "deleted"]),
                "name": texts(),
                "run_id": st.text("0123456789e", min_size=1, max_size=8),
                "run_name": st.one_of(
                    st.sampled_from(
                        [
                            "yes",
                            "No",
                            "ON",
                            "off",
                            "y",
                            "n",
                            "null",
                            "~",
                            "1e3",
                            "1_000",
                            "0x1f",
                            "0b1",
                            ".5",
                            "1:30",
                            "12:30:45",
                            "2020-01-01",
                            "=",
                            "<<",
                            ".inf",
                            ".NaN",
                            "1.5e+3",
                            "0o7",
                            "017",
                            "089",
                            "-1",
                            "+1",
                        ]
                    ),
                    texts(),
                ),
                "start_time": st.floats(allow_nan=False) | st.integers(),
                "status": st.integers(1, 5),
                "tags": st.just([]),
                "user_id": texts(),
            },
        )
    )
    def test_meta(self, fields: dict[str, object]) -> None:
        """What PyYAML wrote is read as PyYAML reads it."""
        plain = {
            key: value.encode("utf-8", "replace").decode()
            if isinstance(value, str)
            else value
            for key, value in fields.items()
        }
        data = yaml.safe_dump(plain, allow_unicode=True).encode()
        expected = yaml.safe_load(data)
        found, wrong = read_meta(data)
        expected.pop("tags", None)
        found.pop("tags", None)

        assert wrong is None
        assert expected == found
        assert {k: type(v) for k, v in expected.items()} == {
            k: type(v) for k, v in found.items()
        }

    @modest
    @given(st.binary(max_size=200))
    def test_damaged_meta(self, data: bytes) -> None:
        """No bytes make the parser raise."""
        fields, wrong = read_meta(data)

        assert isinstance(fields, dict)
        assert wrong is None or isinstance(wrong, str)


# -- digests --------------------------------------------------------------------------


@modest
@given(runs(), st.randoms(use_true_random=False))
def test_digest_ignores_order(item: Item, rng: random.Random) -> None:
    """The order of params, tags, metrics, inputs and of points makes no difference."""

    def shuffled(entries: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(rng.sample(entries, len(entries)))

    metrics = []
    for metric in shuffled(item.metrics):
        assert isinstance(metric, MetricHistory)
        order = np.array(rng.sample(range(len(metric.steps)), len(metric.steps)))
        metrics.append(
            history(
                metric.key,
                metric.steps[order],
                metric.timestamps[order],
                metric.values[order],
            )
        )
    other = replace(
        item,
        params=shuffled(item.params),
        tags=shuffled(item.tags),
        inputs=shuffled(item.inputs),
        metrics=tuple(metrics),
    )

    assert digest(item) == digest(other)


@modest
@given(runs(), st.sampled_from(["status", "name", "user", "end_time"]))
def test_digest_sees_changes(item: Item, name: str) -> None:
    """A changed field changes it."""
    value: object = 77 if name == "end_time" else "something else"
    changed = replace(item, header=replace(item.header, **{name: value}))

    assert digest(item) != digest(changed)


def test_an_experiment_that_was_merged_before_keeps_all_its_origins() -> None:
    first = merge.merge_experiments([experiment("1"), experiment("7")])
    again = merge.merge_experiments([first, experiment("9")])
    assert merge.origins_of(again.origin) == ["1/churn", "7/churn", "9/churn"]
