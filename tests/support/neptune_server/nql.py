"""Neptune's query language: conditions on attributes, joined by AND, OR and NOT."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from .attributes import Atom, Attribute, Series, StringSet

Condition = Callable[[Mapping[str, Attribute]], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<name>`(?:[^`\\]|\\.)*`)
      | (?P<sign>!=|>=|<=|==|[()=<>:])
      | (?P<word>[^\s()=<>!:"`]+)
    )""",
    re.VERBOSE,
)


class SyntaxFault(Exception):
    """A query that makes no sense."""


def parse(query: str) -> Condition:
    """Return the condition that a query sets; an empty one is met by all."""
    if not query.strip():
        return lambda attributes: True
    tokens, place = [], 0
    while query[place:].strip():
        found = _TOKEN.match(query, place)
        if not found:
            raise SyntaxFault(query[place:])
        tokens.append((str(found.lastgroup), str(found[found.lastgroup or 0])))
        place = found.end()
    reader = _Reader(tokens)
    condition = reader.either()
    if reader.tokens:
        raise SyntaxFault(reader.tokens[0][1])
    return condition


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens

    def take(self, *texts: str) -> str | None:
        """Take the next token if it is one of *texts*."""
        if self.tokens and self.tokens[0][1].upper() in texts:
            return self.tokens.pop(0)[1].upper()
        return None

    def next(self, *kinds: str) -> tuple[str, str]:
        """Take the next token, which must be of one of *kinds*."""
        if not self.tokens or self.tokens[0][0] not in kinds:
            raise SyntaxFault(self.tokens[0][1] if self.tokens else "end")
        return self.tokens.pop(0)

    def either(self) -> Condition:
        found = [self.both()]
        while self.take("OR"):
            found.append(self.both())
        return lambda attributes: any(one(attributes) for one in found)

    def both(self) -> Condition:
        found = [self.negated()]
        while self.take("AND"):
            found.append(self.negated())
        return lambda attributes: all(one(attributes) for one in found)

    def negated(self) -> Condition:
        if self.take("NOT"):
            inner = self.negated()
            return lambda attributes: not inner(attributes)
        if self.take("("):
            inner = self.either()
            if not self.take(")"):
                raise SyntaxFault("a parenthesis is open")
            return inner
        return self.comparison()

    def comparison(self) -> Condition:
        kind, name = self.next("name", "word")
        mode = ""
        if kind == "word" and self.take("("):
            # 3.x: one of the values that are computed of a series.
            mode = name
            kind, name = self.next("name", "word")
        if kind == "name":
            name = name[1:-1].replace("\\`", "`")
        wanted = self.next("word")[1] if self.take(":") else ""
        if mode and not self.take(")"):
            raise SyntaxFault("a parenthesis is open")
        if self.take("EXISTS"):
            return lambda attributes: (
                name in attributes and _of_type(attributes[name], wanted)
            )
        negative = self.take("NOT") is not None
        operator = self.take(
            "=", "==", "!=", ">", ">=", "<", "<=", "CONTAINS", "MATCHES"
        )
        if operator is None:
            raise SyntaxFault(f"no comparison with {name}")
        operator = "=" if operator == "==" else operator
        kind, given = self.next("text", "word")
        if kind == "text":
            given = re.sub(r"\\(.)", r"\1", given[1:-1])

        def met(attributes: Mapping[str, Attribute]) -> bool:
            found = attributes.get(name)
            if found is None or not _of_type(found, wanted):
                return False
            if mode not in ("", "last"):
                value = computed(found, mode)
                if value is None:
                    return False
                found = Atom("float", value)
            return _compare(found, operator, given) != negative

        return met


def computed(attribute: Attribute, mode: str) -> float | None:
    """Return what is computed of a series of numbers, such as its `min`."""
    if not isinstance(attribute, Series) or attribute.type != "floatSeries":
        return None
    finite = [value for value in attribute.values if math.isfinite(value)]
    if mode == "last" or not finite:
        return attribute.values[-1] if mode == "last" and attribute.values else None
    mean = _mean(finite)
    return {
        "min": min(finite),
        "max": max(finite),
        "average": mean,
        "variance": _mean((value - mean) * (value - mean) for value in finite),
    }.get(mode)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    try:
        return math.fsum(known) / len(known)
    except OverflowError:
        return math.inf


def _of_type(attribute: Attribute, wanted: str) -> bool:
    # The client says "integer" in one place and "int" in another.
    synonyms = {"integer": "int", "boolean": "bool"}
    return not wanted or attribute.type == synonyms.get(wanted, wanted)


def _compare(attribute: Attribute, operator: str, given: str) -> bool:
    if isinstance(attribute, StringSet):
        if operator == "MATCHES":
            return any(re.search(given, one) for one in attribute.values)
        return (given in attribute.values) == (operator != "!=")
    value = _value(attribute)
    if value is None:
        return False
    if operator == "CONTAINS":
        return given in str(value)
    if operator == "MATCHES":
        return re.search(given, str(value)) is not None
    other = _like(attribute, value, given)
    results: dict[str, bool] = {
        "=": value == other,
        "!=": value != other,
        ">": value > other,
        ">=": value >= other,
        "<": value < other,
        "<=": value <= other,
    }
    return results[operator]


def _value(attribute: Attribute) -> Any:
    if isinstance(attribute, Atom):
        return attribute.value
    if isinstance(attribute, Series) and attribute.type != "imageSeries":
        return attribute.values[-1] if attribute.values else None
    return attribute.properties().get("hash")


def _like(attribute: Attribute, value: Any, given: str) -> Any:
    """Read what is compared with as what it is compared with."""
    try:
        if attribute.type == "datetime":
            time = datetime.fromisoformat(given)
            aware = time if time.tzinfo else time.replace(tzinfo=UTC)
            return round(aware.timestamp() * 1000)
        if isinstance(value, bool):
            return {"true": True, "false": False}[given.lower()]
        return float(given) if isinstance(value, int | float) else given
    except (KeyError, ValueError):
        raise SyntaxFault(given) from None
