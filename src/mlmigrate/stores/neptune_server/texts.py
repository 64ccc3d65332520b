"""Texts of any length in attributes: a string where it is short enough, else a file."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

from mlmigrate.errors import ItemError
from mlmigrate.neptune_runs.mapping import LONGEST_STRING
from mlmigrate.stores.neptune_server.operations import (
    Delete,
    Operation,
    Upload,
    assign_text,
)
from mlmigrate.stores.neptune_server.server import Fetched

#: What the path of such a file ends with.
_FILE = "_file"


def text_of(fetched: Fetched, path: str) -> str:
    """Return a text.

    Raises:
        ItemError: it cannot be read.
    """
    if f"{path}{_FILE}" in fetched.files:
        try:
            return fetched.read(f"{path}{_FILE}").decode()
        except UnicodeDecodeError as error:
            raise ItemError(f"{path} is no text: {error}") from error
    return fetched.container.text(path)


def texts_below(fetched: Fetched, prefix: str) -> Iterator[str]:
    """Yield the paths of the texts that are below one."""
    found = {*fetched.container.scalars, *fetched.files}
    yield from sorted(
        {path.removesuffix(_FILE) for path in found if path.startswith(prefix)}
    )


def put(fetched: Fetched, path: str, text: str, folder: Path) -> list[Operation]:
    """Return the operations that put a text there.

    What became a file stays one: not every server can delete it, and a file is what is
    read where there is one.

    Args:
        fetched: what the container has.
        path: that of its attribute.
        text: in ASCII, as JSON is.
        folder: for a file.
    """
    if len(text) <= LONGEST_STRING and f"{path}{_FILE}" not in fetched.files:
        return [assign_text(path, text)]
    file = folder / md5(path.encode(), usedforsecurity=False).hexdigest()
    file.write_text(text, encoding="ascii")
    operations: list[Operation] = [Upload(f"{path}{_FILE}", file)]
    if fetched.container.text(path):
        operations.append(Delete(path, "string"))
    return operations
