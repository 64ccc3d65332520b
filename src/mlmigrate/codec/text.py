"""Text as UTF-8 can hold it: Python's may have lone surrogates."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from mlmigrate.codec.arrays import of_texts

#: A noncharacter, which no text has a use for: four hex digits after it are a lone
#: surrogate, which UTF-8 cannot hold, or (ffff) the noncharacter itself.
_ESCAPE = "\U0010ffff"
_ODD = re.compile(f"[\ud800-\udfff{_ESCAPE}]")
_ESCAPED = re.compile(f"{_ESCAPE}(d[89a-f][0-9a-f]{{2}}|ffff)")


def escape(text: str) -> str:
    """Return *text* as UTF-8 can hold it."""
    return _ODD.sub(lambda odd: f"{_ESCAPE}{ord(odd.group()) & 0xFFFF:04x}", text)


def unescape(text: str) -> str:
    """Return what was `escape`d."""
    if _ESCAPE not in text:
        return text
    return _ESCAPED.sub(
        lambda odd: _ESCAPE if odd.group(1) == "ffff" else chr(int(odd.group(1), 16)),
        text,
    )


def text_array(values: Sequence[str | None]) -> pa.Array:
    """Return texts, escaped where they must be, as an Arrow array."""
    if any(value is not None and _ESCAPE in value for value in values):
        values = [None if value is None else escape(value) for value in values]
    try:
        return of_texts(values)
    except UnicodeEncodeError:
        escaped = [None if value is None else escape(value) for value in values]
        return of_texts(escaped)
