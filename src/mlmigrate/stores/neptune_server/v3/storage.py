"""Files in a project's storage: sent and read at addresses that the server signs.

What is in a file is in its name, so that an attribute never shows other bytes than
those it was told of, whenever we are killed.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError, translated
from mlmigrate.stores.neptune_server.operations import Upload
from mlmigrate.stores.neptune_server.v3.asking import asked

#: Addresses that are asked for at once: they hold for a limited time.
_SIGNED = 50
_TRIES = 5
_TIMEOUT = 60.0  # seconds
_RANGE = re.compile(r"bytes .*/(\d+)")
_ANY = "application/octet-stream"


class Storage:
    """The files of one project."""

    def __init__(self, api: Any, project: str) -> None:
        """Take files by *api*, the client's."""
        import httpx

        self._api = api
        self._project = project
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=True)

    def close(self) -> None:
        """Release everything."""
        self._http.close()

    def upload(self, run: str, uploads: Sequence[Upload]) -> Mapping[str, Any]:
        """Store files; return what tells of each, by the paths of the attributes.

        Raises:
            ItemError: one cannot be stored.
        """
        from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import FileRef

        found = {}
        for upload in uploads:
            size = upload.file.stat().st_size
            kind = mimetypes.guess_type(upload.path)[0] or _ANY
            where = _place(run, upload)
            self._send(where, upload, size, kind)
            found[upload.path] = FileRef(path=where, size_bytes=size, mime_type=kind)
        return found

    def _send(self, where: str, upload: Upload, size: int, kind: str) -> None:
        from neptune_scale.exceptions import NeptuneRetryableError

        for left in reversed(range(_TRIES)):
            signed = next(self._signed([(where, size)], "write"))
            try:
                with translated(
                    lambda error: ItemError(f"file {upload.path}: {_said(error)}"),
                    passing=(ItemError, NeptuneRetryableError),
                ):
                    self._put(signed, upload.file, kind)
                return
            except NeptuneRetryableError as error:
                if not left:
                    said = _said(error.__cause__ or error)
                    raise ItemError(f"file {upload.path}: {said}") from error
            time.sleep(0.1 * 3 ** (_TRIES - 1 - left))

    def _put(self, signed: Any, file: Path, kind: str) -> None:
        """Send a file as the kind of storage wants it."""
        if signed.provider.value == "azure":
            from neptune_scale.sync.storage.azure_storage import upload_to_azure

            asyncio.run(upload_to_azure(str(file), kind, signed.url))
        elif signed.provider.value == "gcp":
            from neptune_scale.sync.storage.gcs import upload_to_gcp

            asyncio.run(upload_to_gcp(str(file), kind, signed.url))
        else:
            self._put_to_s3(signed, file, kind)

    def _put_to_s3(self, signed: Any, file: Path, kind: str) -> None:
        from neptune_scale.sync.storage.s3 import (
            upload_to_s3_multipart,
            upload_to_s3_single,
        )

        parts = signed.multipart
        if not parts:
            asyncio.run(upload_to_s3_single(str(file), kind, signed.url))
            return
        sending = upload_to_s3_multipart(
            str(file), kind, parts.part_size, list(parts.part_urls)
        )
        etags = asyncio.run(sending)
        asked(
            f"file {signed.path}",
            lambda: self._api.complete_multipart_upload(
                parts.upload_id, self._project, signed.path, etags
            ),
        )

    def sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """Return the bytes of files that are stored; those that are not are not in it.

        Raises:
            ItemError: that cannot be told.
        """
        found: dict[str, int] = {}
        for signed in self._signed(
            [(path, 0) for path in dict.fromkeys(paths)], "read"
        ):
            size = self._size(signed)
            if size is not None:
                found[signed.path] = size
        return found

    def _size(self, signed: Any) -> int | None:
        """Return the bytes of a file by asking for its first: a signed address is good
        for nothing but to read it.
        """

        def ask() -> Any:
            with self._http.stream(
                "GET", signed.url, headers={"Range": "bytes=0-0"}
            ) as answer:
                if not answer.is_success:
                    answer.read()
                return answer

        answer = asked(f"file {signed.path}", ask, passing=(404, 416))
        if answer.status_code == 404:
            return None
        said = _RANGE.match(answer.headers.get("Content-Range", ""))
        if said:
            return int(said[1])
        # Of an empty file there is no first byte.
        is_empty = answer.status_code == 416
        return 0 if is_empty else int(answer.headers.get("Content-Length", 0))

    def open(self, path: str, size: int, *, temporary: str | None) -> BinaryIO:
        """Return the bytes of a file: it is downloaded to an unnamed temporary file.

        Raises:
            ItemError: it cannot be downloaded, or has not *size* bytes.
        """
        data = cast(BinaryIO, tempfile.TemporaryFile(dir=temporary))  # noqa: SIM115
        try:
            # Again with a new address, where one holds no longer.
            asked(f"file {path}", lambda: self._download(path, data))
            there = data.seek(0, 2)
            if there != size:
                raise ItemError(f"file {path} has {there} of {size} bytes")
            data.seek(0)
        except BaseException:
            data.close()
            raise
        return data

    def _download(self, path: str, data: BinaryIO) -> Any:
        signed = next(self._signed([(path, 0)], "read"))
        with self._http.stream("GET", signed.url) as answer:
            data.seek(0)
            data.truncate()
            if answer.status_code == 200:
                for chunk in answer.iter_bytes(1 << 20):
                    data.write(chunk)
            else:
                answer.read()
            return answer

    def _signed(
        self, files: Sequence[tuple[str, int]], permission: Literal["read", "write"]
    ) -> Iterator[Any]:
        """Yield the address of each file, in order.

        Raises:
            ItemError: the server gives none.
        """
        from neptune_scale.net.api_client import FileSignRequest

        for begin in range(0, len(files), _SIGNED):
            part = files[begin : begin + _SIGNED]
            wanted = [FileSignRequest(path, size, permission) for path, size in part]
            what = f"addresses of files of {self._project}"
            answer = asked(
                what,
                partial(self._api.fetch_file_storage_urls, wanted, self._project),
            )
            given = {each.path: each for each in getattr(answer.parsed, "files", ())}
            for path, _ in part:
                if path not in given:
                    raise ItemError(f"{what}: none of {path}")
                yield given[path]


def _said(error: BaseException) -> str:
    """Return what an error says, but no signed address: who has it has the file."""
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    return short(error) if status is None else f"HTTP {status}"


def _place(run: str, upload: Upload) -> str:
    """Return where a file is stored: of equal bytes, at the same place."""
    from neptune_scale.sync.files import generate_destination

    hash = blake2b(digest_size=16)
    with upload.file.open("rb") as data:
        while chunk := data.read(1 << 20):
            hash.update(chunk)
    ending = PurePosixPath(upload.path).suffix
    return str(generate_destination(run, upload.path, hash.hexdigest() + ending, None))
