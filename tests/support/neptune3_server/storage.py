"""Where files are: signed addresses, and what the three kinds of storage answer."""

from __future__ import annotations

import base64
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from typing import Any
from urllib.parse import quote, unquote, urlencode
from xml.etree import ElementTree as ET

from ..neptune_server.messages import BYTES, RefusalError
from ..neptune_server.operations import Forget
from ..planted import Answer
from .state import Project, State, StoredFile

_XML = "application/xml"


@dataclass(frozen=True, slots=True)
class _Grant:
    """What a signed address allows."""

    provider: str
    project: str
    path: str
    writes: bool
    until: float


@dataclass
class _Upload:
    """A file of which not all has come yet."""

    grant: _Grant
    mime_type: str
    data: bytearray = field(default_factory=bytearray)
    parts: dict[int, bytes] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    requests: int = 0


@dataclass
class Storage:
    """The storage of all projects; what is in it is in `Project.files`."""

    state: State
    url: str
    _grants: dict[str, _Grant] = field(default_factory=dict)
    _uploads: dict[str, _Upload] = field(default_factory=dict)
    #: What is not to be stored while a request is answered; only so many bytes are.
    _forget: Forget | None = None

    @contextmanager
    def forgetting(self, forget: Forget | None) -> Iterator[None]:
        """Lie in all that is answered within the block."""
        self._forget = forget
        try:
            yield
        finally:
            self._forget = None

    # What the Neptune server itself answers.

    def sign(self, body: Any) -> dict[str, Any]:
        """Return addresses for files that a client wants to read or to write."""
        return {"files": [self._signed(one) for one in body["files"]]}

    def _signed(self, file: Mapping[str, Any]) -> dict[str, Any]:
        state, path = self.state, file["path"]
        project = state.project(file["project_identifier"])
        if project is None:
            raise RefusalError(404, "PROJECT_NOT_FOUND", file["project_identifier"])
        grant = _Grant(
            state.provider,
            project.full_name,
            path,
            file["permission"] == "write",
            time.monotonic() + state.url_seconds,
        )
        found = {
            "path": path,
            "project_identifier": project.full_name,
            "provider": state.provider,
            "url": self._address(grant),
        }
        size = file.get("size") or 0
        if grant.writes and state.provider == "aws" and size > state.part_size:
            id = self._begin(grant, "")
            count = -(-size // state.part_size)
            found["multipart"] = {
                "part_size": state.part_size,
                "upload_id": id,
                "part_urls": [
                    self._address(grant, uploadId=id, partNumber=str(number))
                    for number in range(1, count + 1)
                ],
            }
        return found

    def _address(self, grant: _Grant, **query: str) -> str:
        signature = uuid.uuid4().hex
        self._grants[signature] = grant
        path = quote(f"{grant.project}/{grant.path}", safe="/~")
        coded = urlencode({"sig": signature, **query})
        return f"{self.url}/storage/{grant.provider}/{path}?{coded}"

    def complete(self, body: Any) -> dict[str, Any]:
        """Put a file together of the parts that have come."""
        upload = self._uploads.get(body["upload_id"])
        if upload is None or upload.grant.path != body["path"]:
            raise RefusalError(404, "NOT_FOUND", "No such upload")
        for part in body["parts"]:
            number = part["part_number"]
            if _etag(upload.parts.get(number, b"")) != part["etag"]:
                raise RefusalError(400, "BAD_REQUEST", f"Part {number} is not that")
        numbers = sorted(part["part_number"] for part in body["parts"])
        upload.data += b"".join(upload.parts[number] for number in numbers)
        self._finish(body["upload_id"])
        return {}

    # What the storage itself answers.

    def answer(
        self, method: str, path: str, query: Mapping[str, str], headers: Message,
        body: bytes,
    ) -> Answer:  # fmt: skip
        """Answer a request to a signed address."""
        provider, _, rest = path.removeprefix("/storage/").partition("/")
        grant = self._grants.get(query.get("sig", ""))
        if grant is None or unquote(rest) != f"{grant.project}/{grant.path}":
            return _refusal(403, "AuthenticationFailed")
        if grant.until < time.monotonic():
            return _refusal(400 if provider == "gcp" else 403, "ExpiredToken")
        if method in ("GET", "HEAD"):
            return self._read(provider, grant, headers)
        if not grant.writes:
            return _refusal(403, "AccessDenied")
        write: Callable[..., Answer] = getattr(self, f"_write_{provider}")
        return write(grant, method, query, headers, body)

    def _read(self, provider: str, grant: _Grant, headers: Message) -> Answer:
        project = self.state.projects.get(grant.project)
        file = project.files.get(grant.path) if project else None
        if file is None:
            code = "BlobNotFound" if provider == "azure" else "NoSuchKey"
            return _refusal(404, code)
        said = (
            ("ETag", f'"{_etag(file.data)}"'),
            ("Last-Modified", formatdate(usegmt=True)),
            ("Accept-Ranges", "bytes"),
            ("x-ms-blob-type", "BlockBlob"),
            ("x-ms-version", "2021-08-06"),
        )
        wanted = headers.get("x-ms-range") or headers.get("Range")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if not found:
            return Answer(200, file.data, file.mime_type, said)
        start, size = int(found[1]), len(file.data)
        if start >= size:
            return _refusal(416, "InvalidRange")
        end = min(int(found[2] or size - 1), size - 1)
        part = file.data[start : end + 1]
        span = ("Content-Range", f"bytes {start}-{end}/{size}")
        return Answer(206, part, file.mime_type, (*said, span))

    def _write_gcp(
        self, grant: _Grant, method: str, query: Mapping[str, str], headers: Message,
        body: bytes,
    ) -> Answer:  # fmt: skip
        if method == "POST":
            if headers.get("X-goog-resumable") != "start":
                return _refusal(400, "InvalidArgument")
            id = self._begin(grant, headers.get("Content-Type", BYTES))
            where = self._address(grant, upload_id=id)
            return Answer(201, b"", BYTES, (("Location", where),))
        upload = self._uploads.get(query.get("upload_id", ""))
        if upload is None:
            return _refusal(404, "NoSuchUpload")
        upload.requests += 1
        said = headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", said)
        if not found:
            return _refusal(400, "InvalidArgument")
        if found[1] is not None and int(found[1]) <= len(upload.data):
            upload.data[int(found[1]) :] = body
        if len(upload.data) == int(found[3]):
            self._finish(query["upload_id"])
            return Answer(200, b"", BYTES)
        last = len(upload.data) - 1
        span = (("Range", f"bytes=0-{last}"),) if upload.data else ()
        return Answer(308, b"", BYTES, span)

    def _write_aws(
        self, grant: _Grant, method: str, query: Mapping[str, str], headers: Message,
        body: bytes,
    ) -> Answer:  # fmt: skip
        kind = headers.get("Content-Type", BYTES)
        if "uploadId" in query:
            upload = self._uploads.get(query["uploadId"])
            if upload is None:
                return _refusal(404, "NoSuchUpload")
            upload.mime_type = kind
            upload.requests += 1
            upload.parts[int(query["partNumber"])] = body
        else:
            self._store(grant, StoredFile(body, kind))
        return Answer(200, b"", BYTES, (("ETag", f'"{_etag(body)}"'),))

    def _write_azure(
        self, grant: _Grant, method: str, query: Mapping[str, str], headers: Message,
        body: bytes,
    ) -> Answer:  # fmt: skip
        kind = headers.get("x-ms-blob-content-type", BYTES)
        if query.get("comp") == "block":
            key = f"{grant.project}/{grant.path}"
            upload = self._uploads.setdefault(key, _Upload(grant, kind))
            upload.blocks[query["blockid"]] = body
            upload.requests += 1
        elif query.get("comp") == "blocklist":
            key = f"{grant.project}/{grant.path}"
            upload = self._uploads.setdefault(key, _Upload(grant, kind))
            upload.mime_type = kind
            for one in ET.fromstring(body):
                upload.data += upload.blocks[one.text or ""]
            self._finish(key)
        else:
            self._store(grant, StoredFile(body, kind))
        digest = base64.b64encode(hashlib.md5(body).digest()).decode()
        said = (
            ("ETag", f'"{_etag(body)}"'),
            ("Last-Modified", formatdate(usegmt=True)),
            ("Content-MD5", digest),
            ("x-ms-request-server-encrypted", "true"),
            ("x-ms-version", headers.get("x-ms-version", "2021-08-06")),
        )
        return Answer(201, b"", BYTES, said)

    def _begin(self, grant: _Grant, mime_type: str) -> str:
        id = uuid.uuid4().hex
        self._uploads[id] = _Upload(grant, mime_type)
        return id

    def _finish(self, id: str) -> None:
        upload = self._uploads.pop(id)
        file = StoredFile(bytes(upload.data), upload.mime_type, upload.requests)
        self._store(upload.grant, file)

    def _store(self, grant: _Grant, file: StoredFile) -> None:
        project = self.state.project(grant.project)
        assert isinstance(project, Project)
        if self._forget is not None and self._forget.covers(grant.path):
            if not self._forget.keep:
                return
            file.data = file.data[: self._forget.keep]
        project.files[grant.path] = file


def _etag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def _refusal(status: int, code: str) -> Answer:
    said = f"<Code>{code}</Code><Message>{code}</Message>"
    page = f"<?xml version='1.0'?><Error>{said}</Error>".encode()
    return Answer(status, page, _XML, (("x-ms-error-code", code),))
