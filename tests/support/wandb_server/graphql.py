"""
As much of GraphQL as W&B's clients speak: documents, and answers shaped by them.

Data are nodes: dicts from a field's name to its value, or to a function of the
field's arguments (one dict). What a query does not select is never computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Node = Mapping[str, Any]

_TOKEN = re.compile(
    r"""(?P<skip>[\s,]+|\#[^\n]*)
    |(?P<text>\"{3}.*?\"{3}|"(?:\\.|[^"\\])*")
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<word>\w+)
    |(?P<sign>\.{3}|[{}()\[\]:!=@$|])""",
    re.VERBOSE | re.DOTALL,
)

#: The interfaces of the schema that clients use as type conditions.
_KINDS_OF = {
    "ArtifactSequence": {"ArtifactCollection"},
    "ArtifactPortfolio": {"ArtifactCollection"},
}

_CONSTANTS = {"true": True, "false": False, "null": None}


class QueryError(Exception):
    """The document, or what it asks for, makes no sense to this server."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A reference to a variable, where a value may be."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """One selected field; *selections* is None when it has no braces."""

    name: str
    alias: str
    arguments: Mapping[str, Any]
    directives: Mapping[str, Mapping[str, Any]]
    selections: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Selections under a type condition, inline or of a fragment with a *name*."""

    name: str
    kind: str
    directives: Mapping[str, Mapping[str, Any]]
    selections: tuple[Any, ...]


@dataclass(slots=True)
class Document:
    """A parsed request."""

    kind: str = "query"
    name: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)
    selections: tuple[Any, ...] = ()
    fragments: dict[str, Spread] = field(default_factory=dict)


@lru_cache(maxsize=512)
def parse(text: str) -> Document:
    """Parse a document of one operation and any number of fragments."""
    parser = _Parser(text)
    document = Document()
    while parser.peek():
        word = parser.peek()
        if word == "fragment":
            parser.take()
            name = parser.take()
            parser.take("on")
            kind = parser.take()
            document.fragments[name] = Spread(
                name, kind, parser.directives(), parser.selections()
            )
            continue
        if word != "{":
            document.kind = parser.take()
            document.name = parser.take() if parser.peek() not in "({@" else ""
            document.defaults = parser.variables()
            parser.directives()
        document.selections = parser.selections()
    return document


def execute(document: Document, root: Node, variables: Mapping[str, Any]) -> Any:
    """Return what *document* selects of *root*."""
    scope = _Scope(document.fragments, {**document.defaults, **variables})
    return scope.project(document.selections, root)


@dataclass(frozen=True, slots=True)
class _Scope:
    fragments: Mapping[str, Spread]
    variables: Mapping[str, Any]

    def project(self, selections: Sequence[Any], node: Node) -> dict[str, Any]:
        # One key may be selected in several places, with different fields below.
        found: dict[str, list[Field]] = {}
        for one in self.fields(selections, node):
            found.setdefault(one.alias, []).append(one)
        return {key: self.answer(node, same) for key, same in found.items()}

    def fields(self, selections: Sequence[Any], node: Node) -> Iterator[Field]:
        for one in selections:
            if not self.included(one.directives):
                continue
            if isinstance(one, Field):
                yield one
                continue
            spread = self.fragments.get(one.name) if one.name else one
            if spread is None:
                raise QueryError(f'Unknown fragment "{one.name}".')
            if _applies(spread.kind, node):
                yield from self.fields(spread.selections, node)

    def included(self, directives: Mapping[str, Mapping[str, Any]]) -> bool:
        def condition(name: str) -> Any:
            return self.value(directives[name]["if"])

        if "include" in directives and not condition("include"):
            return False
        return "skip" not in directives or not condition("skip")

    def answer(self, node: Node, same: Sequence[Field]) -> Any:
        name = same[0].name
        if name not in node:
            kind = node.get("__typename", "?")
            raise QueryError(f'Cannot query field "{name}" on type "{kind}".')
        value = node[name]
        if callable(value):
            value = value(self.arguments(same[0].arguments))
        if same[0].selections is None:
            return value
        return self.complete(value, [s for f in same for s in f.selections or ()])

    def complete(self, value: Any, selections: Sequence[Any]) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [self.complete(each, selections) for each in value]
        return self.project(selections, value)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        # An argument whose variable was not sent counts as not given.
        return {
            name: self.value(value)
            for name, value in given.items()
            if not isinstance(value, Variable) or value.name in self.variables
        }

    def value(self, value: Any) -> Any:
        if isinstance(value, Variable):
            return self.variables.get(value.name)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return self.arguments(value)
        return value


def _applies(kind: str, node: Node) -> bool:
    actual = node.get("__typename")
    return actual is None or kind == actual or kind in _KINDS_OF.get(actual, ())


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise QueryError(f"Syntax Error: unexpected {text[place]!r}.")
            place = match.end()
            if match.lastgroup != "skip":
                self.tokens.append((str(match.lastgroup), match.group()))
        self.place = 0

    def peek(self) -> str:
        if self.place < len(self.tokens):
            return self.tokens[self.place][1]
        return ""

    def take(self, wanted: str = "") -> str:
        word = self.peek()
        if not word or (wanted and word != wanted):
            raise QueryError(f"Syntax Error: wanted {wanted!r}, got {word!r}.")
        self.place += 1
        return word

    def took(self, wanted: str) -> bool:
        if self.peek() != wanted:
            return False
        self.place += 1
        return True

    def variables(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {}
        if not self.took("("):
            return defaults
        while not self.took(")"):
            self.take("$")
            name = self.take()
            self.take(":")
            self.type()
            if self.took("="):
                defaults[name] = self.value()
        return defaults

    def type(self) -> None:
        if self.took("["):
            self.type()
            self.take("]")
        else:
            self.take()
        self.took("!")

    def selections(self) -> tuple[Any, ...]:
        found = []
        self.take("{")
        while not self.took("}"):
            found.append(self.spread() if self.took("...") else self.field())
        return tuple(found)

    def spread(self) -> Spread:
        if self.took("on"):
            return Spread("", self.take(), self.directives(), self.selections())
        return Spread(self.take(), "", self.directives(), ())

    def field(self) -> Field:
        alias = name = self.take()
        if self.took(":"):
            name = self.take()
        arguments = self.arguments()
        directives = self.directives()
        selections = self.selections() if self.peek() == "{" else None
        return Field(name, alias, arguments, directives, selections)

    def arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.took("("):
            while not self.took(")"):
                name = self.take()
                self.take(":")
                found[name] = self.value()
        return found

    def directives(self) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        while self.took("@"):
            name = self.take()
            found[name] = self.arguments()
        return found

    def value(self) -> Any:
        if self.took("$"):
            return Variable(self.take())
        if self.took("["):
            items = []
            while not self.took("]"):
                items.append(self.value())
            return items
        if self.took("{"):
            found = {}
            while not self.took("}"):
                name = self.take()
                self.take(":")
                found[name] = self.value()
            return found
        kind = self.tokens[self.place][0]
        word = self.take()
        if kind == "text":
            return word[3:-3] if word.startswith('"""') else json.loads(word)
        if kind == "number":
            return json.loads(word)
        return _CONSTANTS.get(word, word)  # an enum's value is its name
