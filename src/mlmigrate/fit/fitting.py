"""What was cut from one item so far, and how texts, keys and points are cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from mlmigrate.contract import Capabilities
from mlmigrate.errors import ItemError
from mlmigrate.marks import carrying
from mlmigrate.metrics import history
from mlmigrate.model import Item, Loss, MetricHistory, Tag

#: How many characters an item may carry in its tags.
_MOST_CARRIED = 200_000
_LARGEST = float(np.finfo(np.float64).max)


@dataclass(slots=True)
class Fitting:
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
        """Return the same of a text that may be missing."""
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


def fitted_metric(
    key: str,
    metric: MetricHistory,
    fitting: Fitting,
    label: str | None = None,
    *,
    nan_is_zero: bool = False,
) -> MetricHistory:
    """Return points as the sink holds them, under *key*.

    Args:
        key: as the sink holds it.
        metric: the points.
        fitting: gets what was replaced.
        label: what to call them there; by their key if None.
        nan_is_zero: NaN becomes 0.0, which is what MLflow itself does.
    """
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
