"""Sets of files, which a server gives as a ZIP archive: each of their files.

The archive itself is made anew each time, and no two are alike.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import Any, BinaryIO, cast

from mlmigrate.errors import ItemError

_IN_MEMORY = 8 << 20  # bytes


def members(
    path: str, archive: BinaryIO
) -> Iterator[tuple[str, tuple[int, Callable[[], BinaryIO]]]]:
    """Yield the files of a set, by the path of its attribute and theirs in it: the size
    of each, and what opens it.

    Args:
        path: that of the attribute.
        archive: the ZIP archive, which stays open as long as one of these is held.

    Raises:
        ItemError: it is none.
    """
    lock = Lock()
    try:
        with zipfile.ZipFile(archive) as listed:
            infos = [info for info in listed.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ItemError(f"files of {path}: {error}") from error
    for info in infos:

        def opener(info: zipfile.ZipInfo = info) -> BinaryIO:
            return _unpacked(path, archive, info, lock)

        yield f"{path}/{info.filename}", (info.file_size, opener)


def _unpacked(
    path: str, archive: BinaryIO, info: zipfile.ZipInfo, lock: Lock
) -> BinaryIO:
    data: Any = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        with lock, zipfile.ZipFile(archive) as opened, opened.open(info) as member:
            shutil.copyfileobj(member, data)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        data.close()
        raise ItemError(f"{info.filename} of {path}: {error}") from error
    data.seek(0)
    return cast(BinaryIO, data)
