"""Files of runs and logged models: listed by the server, opened where they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mlmigrate.artifacts import (
    Remote,
    is_local,
    local_path,
    mapped,
    open_file,
    safe_join,
)
from mlmigrate.errors import ItemError
from mlmigrate.model import Artifact, Ref
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.logged_models import place
from mlmigrate.stores.mlflow_server.rest import Json, Rest, quoted

_URIS_KEPT = 4000


class Files:
    """The artifacts of a server's runs and logged models."""

    def __init__(self, rest: Rest, maps: Sequence[tuple[str, str]]) -> None:
        """Read through *rest*, or where *maps*, (old, new) prefixes, lead."""
        self._rest = rest
        self._maps = maps
        self._uris: OrderedDict[Ref, str] = OrderedDict()
        self._lock = threading.Lock()

    def listed(self, ref: Ref) -> Iterator[Artifact]:
        """Yield the files of a run or a logged model, as the server sees them.

        Raises:
            ItemError: the server cannot list them.
        """
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

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        if ref.kind not in ("run", "logged_model"):
            raise ItemError(f"{ref}: only runs and logged models have artifacts here")
        safe_join(Path("/"), path)
        uri = self.uri(ref)
        replaced = mapped(uri, self._maps)
        if replaced is not None and is_local(replaced):
            return open_file(Path(local_path(replaced)), path)
        root = answers.proxied_root(uri)
        if replaced is None and root is not None:
            place = f"/api/2.0/mlflow-artifacts/artifacts/{quoted(f'{root}/{path}')}"
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
        return self._rest.download("/get-artifact", {"run_id": ref.id, "path": path})

    def uri(self, ref: Ref) -> str:
        """Return where an item's artifacts are: it never changes."""
        with self._lock:
            uri = self._uris.get(ref)
        if uri is None:
            if ref.kind == "logged_model":
                owner = self._rest.get(place(ref.id))["model"]
            else:
                owner = self._rest.get("runs/get", run_id=ref.id)["run"]
            uri = str(owner["info"].get("artifact_uri") or "")
            with self._lock:
                self._uris[ref] = uri
                while len(self._uris) > _URIS_KEPT:
                    self._uris.popitem(last=False)
        return uri
