"""Files of runs, logged models and traces: listed by the server, or where they are, and
opened there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mlmigrate.artifacts import (
    Remote,
    is_local,
    list_folder,
    local_path,
    mapped,
    open_file,
    safe_join,
)
from mlmigrate.errors import ItemError
from mlmigrate.mlflow_traces import ARTIFACT_LOCATION, SPANS_FILE
from mlmigrate.model import Artifact, Ref
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.logged_models import place
from mlmigrate.stores.mlflow_server.rest import Json, Rest, quoted
from mlmigrate.stores.mlflow_server.trace_infos import infos

_URIS_KEPT = 4000
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"
#: Gives the spans of a trace, wherever they are, as MLflow's own pages get them, or
#: what is attached to them. What a database holds is passed on as it is stored, which
#: ``traces/batchGet`` would write anew.
SPANS = "/ajax-api/2.0/mlflow/get-trace-artifact"


class Files:
    """The artifacts of a server's runs and logged models."""

    def __init__(self, rest: Rest, maps: Sequence[tuple[str, str]]) -> None:
        """Read through *rest*, or where *maps*, (old, new) prefixes, lead."""
        self._rest = rest
        self._maps = maps
        self._uris: OrderedDict[Ref, str] = OrderedDict()
        self._lock = threading.Lock()

    def listed(self, ref: Ref) -> Iterator[Artifact]:
        """Yield the files of an item, as the server sees them.

        Raises:
            ItemError: the server cannot list them.
        """
        if ref.kind == "trace":
            yield from self._listed_elsewhere(self.uri(ref), str(ref))
            return
        folders, seen = [""], {""}
        listing, name = "artifacts/list", "path"
        if ref.kind == "logged_model":
            listing = f"{place(ref.id)}/artifacts/directories"
            name = "artifact_directory_path"
        while folders:
            query: Json = {} if ref.kind == "logged_model" else {"run_id": ref.id}
            if folder := folders.pop():
                query[name] = folder
            for info in self._rest.pages(listing, "files", query):
                path = str(info["path"])
                if path in seen:  # some stores list a folder inside itself
                    continue
                seen.add(path)
                if info.get("is_dir"):
                    folders.append(path)
                else:
                    yield Artifact(path, int(info.get("file_size") or 0))

    def _listed_elsewhere(self, uri: str, where: str) -> Iterator[Artifact]:
        """Yield the files below a URI: no server lists those of a trace."""
        replaced = mapped(uri, self._maps)
        if replaced is not None and is_local(replaced):
            yield from list_folder(Path(local_path(replaced)), where)[0]
            return
        root = answers.proxied_root(uri)
        if replaced is None and root is not None:
            yield from self._listed_proxied(root)
            return
        if not (replaced or uri) or is_local(uri):
            raise ItemError(
                f"they are at {uri or 'no place'}, on the disk of {self._rest.base}:"
                " start it with --serve-artifacts, or mount that folder here and say"
                " so with --map-artifacts OLD=NEW"
            )
        yield from Remote(replaced or uri, tracking_uri=self._rest.base).list()

    def _listed_proxied(self, root: str) -> Iterator[Artifact]:
        folders = [""]
        while folders:
            folder = folders.pop()
            query = {"path": f"{root}/{folder}".rstrip("/")}
            for info in self._rest.get(_PROXY, **query).get("files") or ():
                try:
                    path = f"{folder}/{info['path']}".lstrip("/")
                    size = int(info.get("file_size") or 0)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    what = f"{self._rest.base} lists no files: {error!r}"
                    raise ItemError(what) from None
                safe_join(Path("/"), path)
                if info.get("is_dir"):
                    folders.append(path)
                else:
                    yield Artifact(path, size)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        if ref.kind not in ("run", "logged_model", "trace"):
            raise ItemError(f"{ref}: has no artifacts here")
        safe_join(Path("/"), path)
        uri = self.uri(ref)
        replaced = mapped(uri, self._maps)
        if replaced is not None and is_local(replaced):
            return open_file(Path(local_path(replaced)), path)
        root = answers.proxied_root(uri)
        if replaced is None and root is not None:
            place = f"{_PROXY}/{quoted(f'{root}/{path}')}"
            return self._rest.download(place)
        if replaced is None and (
            is_local(uri) or uri.startswith(f"{answers.PROXIED}:")
        ):
            return self._through_server(ref, path)
        try:
            return Remote(replaced or uri, tracking_uri=self._rest.base).open(path)
        except (ItemError, ImportError):
            # The server may hold credentials, or a library, that we lack.
            return self._through_server(ref, path)

    def _through_server(self, ref: Ref, path: str) -> BinaryIO:
        if ref.kind == "logged_model":
            files = f"/ajax-api/2.0/mlflow/{place(ref.id)}/artifacts/files"
            return self._rest.download(files, {"artifact_file_path": path})
        if ref.kind == "trace":
            return self.attached(ref, path)
        return self._rest.download("/get-artifact", {"run_id": ref.id, "path": path})

    def attached(self, ref: Ref, path: str) -> BinaryIO:
        """Open a file of a trace through the server, which gives those of spans and of
        attachments.
        """
        query = {"request_id": ref.id}
        if path != SPANS_FILE:
            query["path"] = path.removeprefix("attachments/")
        return self._rest.download(SPANS, query)

    def uri(self, ref: Ref) -> str:
        """Return where an item's artifacts are: it never changes."""
        with self._lock:
            uri = self._uris.get(ref)
        if uri is None:
            uri = self._asked_uri(ref)
            self.note(ref, uri)
        return uri

    def note(self, ref: Ref, uri: str) -> None:
        """Remember where an item's artifacts are."""
        with self._lock:
            self._uris[ref] = uri
            while len(self._uris) > _URIS_KEPT:
                self._uris.popitem(last=False)

    def _asked_uri(self, ref: Ref) -> str:
        if ref.kind == "trace":
            info = infos(self._rest, [ref.id]).get(ref.id)
            return str(info["tags"].get(ARTIFACT_LOCATION) or "") if info else ""
        if ref.kind == "logged_model":
            owner = self._rest.get(place(ref.id))["model"]
        else:
            owner = self._rest.get("runs/get", run_id=ref.id)["run"]
        return str(owner["info"].get("artifact_uri") or "")
