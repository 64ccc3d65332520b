"""The tags by which mlmigrate knows its copies again.

``mlmigrate.origin`` says what a copy was at its first home; ``mlmigrate.mark`` that it
is complete, and of what; ``mlmigrate.source``, for people, where it was read. They are
never copied onward: `lift` takes them off what a source reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from mlmigrate.contract import Delivery, Mark
from mlmigrate.digest import tag_hashes
from mlmigrate.model import (
    Assessment,
    Header,
    Item,
    Lifecycle,
    LoggedModel,
    Run,
    Tag,
    Trace,
)

PREFIX = "mlmigrate."
ORIGIN = "mlmigrate.origin"
MARK = "mlmigrate.mark"
SOURCE = "mlmigrate.source"
UNRESOLVED = "mlmigrate.unresolved"
WHOLE = "mlmigrate.whole."
PARENT = "mlflow.parentRunId"

FORMAT = 1
#: Characters in one of the tags that carry what did not fit.
_CHUNK = 4000
#: A mark must fit the shortest tag column that MLflow has had (5,000 characters).
_LONGEST_TAGS = 3200


@dataclass(frozen=True, slots=True)
class Lifted:
    """A store's tags, with those that mean something to mlmigrate set apart."""

    tags: tuple[Tag, ...]
    parent: str | None
    origin: str | None
    mark: str | None


def lift(pairs: Iterable[tuple[str, str]]) -> Lifted:
    """Set mlmigrate's own tags and the parent apart from the others."""
    tags: list[Tag] = []
    parent = origin = mark = None
    for key, value in pairs:
        if key == PARENT and value:
            parent = value
        elif key == ORIGIN:
            origin = value
        elif key == MARK:
            mark = value
        elif not key.startswith(PREFIX):
            tags.append(Tag(key, value))
    return Lifted(tuple(tags), parent, origin, mark)


def mark_of(item: Item, *, digest: str, options: str, source: str) -> Mark:
    """Make the mark of a complete copy of *item*, which is fitted; *digest* is that
    of the item as the source has it.
    """
    header = item.header
    hashes = tag_hashes([*item.tags, *map(stand_in, item.assessments)])
    status, lifecycle = state_of(header)
    return Mark(
        digest=digest,
        options=options,
        status=status,
        end_time=header.end_time if isinstance(header, Run) else None,
        lifecycle=lifecycle,
        source=source,
        tags=hashes if len(hashes) <= _LONGEST_TAGS else None,
    )


def state_of(header: Header) -> tuple[str | None, Lifecycle | None]:
    """Return the status and the lifecycle stage that the mark of a copy holds."""
    match header:
        case Run() | LoggedModel():
            return header.status, header.lifecycle
        case Trace():
            return header.state, "active"
    return None, None


def stand_in(assessment: Assessment) -> Tag:
    """Return a tag that stands for an assessment among the tags of a mark."""
    state = f"{assessment.updated} {assessment.valid} {assessment.value}"
    return Tag(f"{PREFIX}assessment.{assessment.id}", state)


def dump(mark: Mark) -> str:
    """Return the text of a mark."""
    fields = {name: value for name, value in asdict(mark).items() if value is not None}
    return json.dumps({"format": FORMAT, **fields}, separators=(",", ":"))


def load(text: str | None) -> Mark | None:
    """Return the mark that *text* says, or None where it says none: a copy whose mark
    cannot be read is an incomplete copy.
    """
    if not text:
        return None
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            return None
        return Mark(**fields)
    except (ValueError, TypeError, RecursionError):
        return None


def own_tags(delivery: Delivery, *, mark: Mark) -> list[Tag]:
    """Return the tags that mlmigrate adds to a copy, the mark last."""
    tags = [Tag(ORIGIN, delivery.item.origin), Tag(SOURCE, delivery.source)]
    if delivery.missing_parent is not None:
        tags.append(Tag(UNRESOLVED, delivery.missing_parent))
    return [*tags, Tag(MARK, dump(mark))]


# -- what did not fit -----------------------------------------------------------------

#: A field of an item, and what it held.
Carried: TypeAlias = dict[str, Any]


def carrying(entries: Sequence[Carried]) -> tuple[Tag, ...]:
    """Return the tags ``mlmigrate.whole.N`` that hold *entries* as JSON, cut."""
    if not entries:
        return ()
    text = json.dumps(entries)
    chunks = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
    return tuple(Tag(f"{WHOLE}{n}", chunk) for n, chunk in enumerate(chunks, 1))


def carried(tags: Iterable[Tag]) -> list[Carried]:
    """Return what `carrying` put into some of *tags*, which come in its order."""
    text = "".join(tag.value for tag in tags if tag.key.startswith(WHOLE))
    entries: list[Carried] = json.loads(text) if text else []
    return entries


def beside(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """Return *tags* under names that overwrite nothing that a copy already carries."""
    own = tuple(tags)
    text = "".join(tag.value for tag in own).encode("utf-8", "surrogatepass")
    infix = blake2b(text, digest_size=4).hexdigest()
    return tuple(
        Tag(f"{WHOLE}{infix}.{tag.key.removeprefix(WHOLE)}", tag.value) for tag in own
    )
