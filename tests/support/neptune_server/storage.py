"""Files: how they come in, whole, in parts or as archives, and how they go out."""

from __future__ import annotations

import io
import re
import tarfile
import uuid
import zipfile
from typing import Any

from ..planted import Answer
from .attributes import File, FileSet, Image, Series, iso_time
from .messages import RefusalError, Request, file_answer
from .operations import Forget, RefusedError, provide
from .state import Container, State, Upload

_IMAGES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def upload(
    state: State, container: Container, request: Request, lie: Forget | None
) -> Any:
    """Take a whole file, which may be one of a set."""
    path, inner = request["attribute"], request.get("subPath")
    return _store(state, container, path, inner, request.get("ext"), request.body, lie)


def start_parts(state: State, container: Container, request: Request) -> Any:
    """Begin to take a file in parts."""
    id = uuid.uuid4().hex
    state.uploads[id] = Upload(
        container,
        request["attribute"],
        int(request["totalLength"]),
        request.get("ext"),
        request.get("subPath"),
    )
    return {"uploadId": id, "errors": []}


def take_part(state: State, request: Request) -> Any:
    """Take a part, whose place is said in a header."""
    coming = _coming(state, request)
    found = re.fullmatch(
        r"bytes=(\d+)-(\d+)/(\d+)", request.headers.get("X-Range") or ""
    )
    first, last, total = map(int, found.groups()) if found else (0, -1, -1)
    if last - first + 1 != len(request.body) or total != coming.total:
        said = "Length of stream does not match given range"
        raise RefusalError(400, "BAD_REQUEST", said)
    coming.parts[first] = request.body
    return {"errors": []}


def finish_parts(state: State, request: Request, lie: Forget | None) -> Any:
    """Make a file of its parts."""
    coming = _coming(state, request)
    data = bytearray()
    for first, part in sorted(coming.parts.items()):
        if first != len(data):
            break
        data += part
    if len(data) != coming.total:
        raise RefusalError(400, "BAD_REQUEST", "Parts are missing")
    del state.uploads[request["uploadId"]]
    done = _store(
        state,
        coming.container,
        coming.path,
        coming.inner,
        coming.ext,
        bytes(data),
        lie,
    )
    return {"uploadId": request["uploadId"], **done}


def upload_tar(
    state: State, container: Container, request: Request, lie: Forget | None
) -> Any:
    """Take an archive with files of a set."""
    path = request["attribute"]
    if lie is not None and lie.covers(path):
        return {"errors": []}
    with container.changing(state.lag):
        if request.get("reset") == "True":
            container.remove(path)
        try:
            files = provide(container, path, FileSet()).files
        except RefusedError as refusal:
            return _errors(path, refusal)
        with tarfile.open(fileobj=io.BytesIO(request.body)) as archive:
            for member in archive:
                if member.isdir():
                    files[f"{member.name}/"] = b""
                elif (file := archive.extractfile(member)) is not None:
                    files[member.name] = file.read()
    return {"errors": []}


def download(state: State, container: Container, request: Request) -> Answer:
    """Give a file."""
    path = request["attribute"]
    file = _seen(state, container, path, File)
    return file_answer(file.data, file.name(path))


def download_image(state: State, container: Container, request: Request) -> Answer:
    """Give a file of a series, by its place in it."""
    series = _seen(state, container, request["attribute"], Series)
    number = int(request["index"])
    if series.type != "imageSeries" or not 0 <= number < len(series):
        raise RefusalError(404, "ATTRIBUTE_NOT_FOUND")
    image = series.values[number]
    assert isinstance(image, Image)
    kind = next((k for head, k in _IMAGES.items() if image.data.startswith(head)), "")
    return file_answer(image.data, str(number), kind or "image/png")


def list_files(state: State, container: Container, request: Request) -> Any:
    """Tell what lies in a folder of a set."""
    files = _seen(state, container, request["attribute"], FileSet).files
    folder = request.get("path").strip("/")
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, data in sorted(files.items()):
        if not path.startswith(prefix) or path == prefix:
            continue
        name, _, rest = path.removeprefix(prefix).partition("/")
        kind = "directory" if rest or path.endswith("/") else "file"
        entry = found.setdefault(
            name,
            {
                "name": name,
                "size": 0,
                "fileType": kind,
                "mtime": iso_time(container.modified),
            },
        )
        entry["size"] += len(data)
    return [*found.values()]


def prepare_zip(
    state: State, url: str, container: Container, request: Request
) -> dict[str, str]:
    """Say where the archive of a set will be."""
    _seen(state, container, request["attribute"], FileSet)
    id = uuid.uuid4().hex
    state.downloads[id] = (container.id, request["attribute"])
    return prepared(url, id)


def prepared(url: str, id: str) -> dict[str, str]:
    """Say where the archive is that was asked for."""
    return {"id": id, "downloadUrl": f"{url}/api/leaderboard/v1/download/zip?id={id}"}


def download_zip(state: State, request: Request) -> Answer:
    """Give the archive of a set."""
    id, path = state.downloads.get(request["id"]) or ("", "")
    container = state.container(id)
    if container is None:
        raise RefusalError(404, "NOT_FOUND")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in _seen(state, container, path, FileSet).files.items():
            archive.writestr(name, data)
    name = path.rpartition("/")[2]
    return file_answer(packed.getvalue(), f"{name}.zip", "application/zip")


def _coming(state: State, request: Request) -> Upload:
    coming = state.uploads.get(request["uploadId"])
    if coming is None:
        raise RefusalError(404, "UPLOAD_NOT_FOUND")
    return coming


def _store(
    state: State,
    container: Container,
    path: str,
    inner: str,
    ext: str,
    data: bytes,
    lie: Forget | None,
) -> dict[str, Any]:
    if lie is not None and lie.covers(path):
        return {"errors": []}
    with container.changing(state.lag):
        try:
            if inner:
                provide(container, path, FileSet()).files[inner] = data
            else:
                file = provide(container, path, File(b""))
                file.data, file.ext = data, ext
        except RefusedError as refusal:
            return _errors(path, refusal)
    return {"errors": []}


def _errors(path: str, refusal: RefusedError) -> dict[str, Any]:
    return {"errors": [{"attribute": path, "errorDescription": str(refusal)}]}


def _seen(state: State, container: Container, path: str, type: type) -> Any:
    found = state.seen(container).get(path)
    if not isinstance(found, type):
        raise RefusalError(404, "ATTRIBUTE_NOT_FOUND")
    return found
