"""Artifacts to where a server wants them: through it, to a remote store, or to a disk
that both see.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote
from uuid import uuid4

from mlmigrate.artifacts import (
    Remote,
    is_local,
    local_path,
    mapped,
    safe_join,
    write_file,
)
from mlmigrate.contract import Delivery
from mlmigrate.errors import ItemError
from mlmigrate.model import Artifact, Finding, Loss, Ref
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.files import Files
from mlmigrate.stores.mlflow_server.rest import Refused, Rest, quoted
from mlmigrate.stores.mlflow_server.streams import Body

#: How MLflow answers to artifacts whose names it takes for an attack.
_NO_SUCH_NAMES = (400, 404)

_Begin: TypeAlias = Callable[[], BinaryIO]
#: Writes one artifact, opened by the second argument: -> (SHA-256, bytes).
_Put: TypeAlias = Callable[[Artifact, _Begin], tuple[str, int]]


class Uploads:
    """Writes artifacts of runs and logged models. Safe to use from many threads."""

    def __init__(
        self, rest: Rest, files: Files, maps: Sequence[tuple[str, str]]
    ) -> None:
        self._rest = rest
        self._files = files
        self._maps = maps
        self._disk_lock = threading.Lock()
        self._same_disk = False

    def write(
        self, owner: Ref, uri: str, delivery: Delivery, findings: list[Finding]
    ) -> tuple[dict[str, str], int]:
        """Write the artifacts of a delivery.

        Args:
            owner: the run or model at the server.
            uri: where the server wants them.
            delivery: what arrives.
            findings: gets what is lost.

        Returns:
            The SHA-256 of each by path, and the bytes of all.

        Raises:
            ItemError: nothing here may be written to, or one cannot be read.
        """
        put = self._put(owner, uri)
        ref = delivery.read_ref or delivery.item.ref
        checksums: dict[str, str] = {}
        total = 0
        for artifact in delivery.item.artifacts:
            safe_join(Path("/"), artifact.path)
            begin = _opener(delivery, ref, artifact)
            try:
                checksum, size = put(artifact, begin)
            except Refused as refusal:
                if refusal.status not in _NO_SUCH_NAMES:
                    raise
                what = f"artifact {artifact.path}: its name was refused: {refusal}"
                findings.append(Loss(delivery.item.ref, what, carried=False))
                continue
            checksums[artifact.path] = checksum
            total += size
        return checksums, total

    def _put(self, owner: Ref, uri: str) -> _Put:
        """Return what writes one artifact.

        Raises:
            ItemError: nothing here may be written to.
        """
        target = mapped(uri, self._maps) or uri
        root = answers.proxied_root(target)
        if root is not None:
            return lambda artifact, begin: self._upload(root, artifact, begin)
        if is_local(target):
            return self._put_local(owner, uri, target)
        remote = Remote(target, tracking_uri=self._rest.base)

        def put(artifact: Artifact, begin: _Begin) -> tuple[str, int]:
            with begin() as source:
                return remote.write(artifact.path, source)

        return put

    def _upload(self, root: str, artifact: Artifact, begin: _Begin) -> tuple[str, int]:
        path, size = artifact.path, artifact.size
        if unquote(path) != path:
            raise Refused(400, "", "the server would decode it into another")
        place = f"/api/2.0/mlflow-artifacts/artifacts/{quoted(f'{root}/{path}')}"
        body = self._rest.upload(place, lambda: Body(begin(), size, sha256()))
        return body.checksum, body.sent

    def _put_local(self, owner: Ref, uri: str, target: str) -> _Put:
        folder = Path(local_path(target))
        is_mapped = target != uri
        if not is_mapped and not self._rest.loopback:
            raise ItemError(
                f"{self._rest.base} keeps artifacts at {uri}, on its own disk, which is"
                " not this one: start it with --serve-artifacts, or mount that folder"
                " here and say so with -o map-artifacts=OLD=NEW, or copy with"
                " --artifacts skip"
            )
        if owner.id not in folder.parts or not folder.is_absolute():
            raise ItemError(f"the server names {uri} for artifacts: not written to")

        def put(artifact: Artifact, begin: _Begin) -> tuple[str, int]:
            with begin() as source:
                done = write_file(folder, artifact.path, source)
            self._check_same_disk(owner, folder, artifact.path)
            return done

        return put

    def _check_same_disk(self, owner: Ref, folder: Path, path: str) -> None:
        """Check that the server sees the first artifact that we write to a disk.

        A tunnel makes another machine look like this one.
        """
        with self._disk_lock:
            if self._same_disk:
                return
            if not self._is_seen(owner, folder, path):
                (folder / path).unlink()
                raise ItemError(
                    f"{self._rest.base} does not see what is written to {folder}: it"
                    " runs on another machine (a tunnel?); start it with"
                    " --serve-artifacts, or give -o map-artifacts=OLD=NEW"
                )
            self._same_disk = True

    def _is_seen(self, owner: Ref, folder: Path, path: str) -> bool:
        """Tell whether the server sees a file that was written."""
        if owner.kind != "trace":
            return path in {one.path for one in self._files.listed(owner)}
        # It lists none of a trace's, but gives what is attached to it.
        name, content = f"attachments/{uuid4()}", uuid4().bytes
        write_file(folder, name, io.BytesIO(content))
        try:
            with self._files.attached(owner, name) as found:
                return found.read(len(content)) == content
        except (ItemError, OSError):
            return False
        finally:
            (folder / name).unlink()


def _opener(delivery: Delivery, ref: Ref, artifact: Artifact) -> _Begin:
    opening = delivery.open
    assert opening is not None
    return lambda: opening(ref, artifact.path)
