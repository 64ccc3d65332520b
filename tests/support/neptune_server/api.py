"""What the server does at each endpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from . import leaderboard, storage
from .attributes import (
    Attribute,
    GitRef,
    Series,
    StringSet,
    as_json,
    properties_at,
    told,
)
from .messages import RefusalError, Request
from .operations import Forget, execute
from .state import (
    MODEL,
    MODEL_VERSION,
    RUN,
    ArtifactFiles,
    Container,
    Project,
    State,
    create,
    milliseconds,
)


class Api:
    """The endpoints that need somebody to be known, by their names."""

    def __init__(self, state: State, url: str) -> None:
        self.state = state
        self.url = url

    def answer(self, name: str, request: Request, lie: Forget | None) -> Any:
        """Return the answer of an endpoint."""
        if name in _ATOMS:
            found = self._attribute(request, _ATOMS[name])
            return properties_at(request["attribute"], found)
        if name in _POINTS:
            return self._points(request, _POINTS[name])
        if name in _UPLOADS:
            container = self._container(request["experimentIdentifier"])
            return storage.upload(self.state, container, request, lie)
        for ending, step in _MULTIPART.items():
            if name.endswith(ending):
                return step(self, request, lie)
        return _ENDPOINTS[name](self, request, lie)

    def _project(self, name: str) -> Project:
        project = self.state.project(name)
        if project is None:
            raise RefusalError(404, "PROJECT_NOT_FOUND", f"No project {name}")
        return project

    def _container(self, id: str) -> Container:
        container = self.state.container(id)
        if container is None:
            raise RefusalError(404, "EXPERIMENT_NOT_FOUND", f"No object {id}")
        return container

    def _attribute(self, request: Request, type: str) -> Attribute:
        container = self._container(request["experimentId"])
        found = self.state.seen(container).get(request["attribute"])
        # A set of group tags that is empty is listed, and yet not there.
        hidden = request["attribute"] == "sys/group_tags" and found == StringSet()
        if found is None or found.type != type or hidden:
            raise RefusalError(404, "ATTRIBUTE_NOT_FOUND")
        return found

    def _points(self, request: Request, type: str) -> Any:
        series = self._attribute(request, type)
        assert isinstance(series, Series)
        first, limit = int(request.get("offset", "0")), int(request.get("limit", "100"))
        page = slice(first, first + limit)
        columns = (series.timestamps[page], series.steps[page], series.values[page])
        return {
            "totalItemCount": len(series),
            "values": [
                {"timestampMillis": time, "step": step, "value": as_json(value)}
                for time, step, value in zip(*columns, strict=True)
            ]
            if type != "imageSeries"
            else [],
        }

    def _get_project(self, request: Request, lie: Forget | None) -> Any:
        return project_facts(self._project(request["projectIdentifier"]))

    def _list_projects(self, request: Request, lie: Forget | None) -> Any:
        workspace, term = (
            request.get("organizationIdentifier"),
            request.get("searchTerm"),
        )
        found = [
            project_facts(one)
            for one in self.state.projects.values()
            if (not workspace or one.workspace == workspace) and term in one.name
        ]
        first = int(request.get("offset", "0"))
        page = found[first : first + int(request.get("limit", str(len(found))))]
        return {"entries": page, "matchingItemCount": len(found)}

    def _create_project(self, request: Request, lie: Forget | None) -> Any:
        asked = request.json
        name = f"{asked['organizationId']}/{asked['name']}"
        if name in self.state.projects:
            raise RefusalError(409, "PROJECT_NAME_COLLISION", f"{name} exists")
        project = self._project(name)
        project.key = project.own.sys_id = asked.get("projectKey") or project.key
        return project_facts(project)

    def _list_workspaces(self, request: Request, lie: Forget | None) -> Any:
        names = {one.workspace: None for one in self.state.projects.values()}
        return [{"id": name, "name": name} for name in names]

    def _get_container(self, request: Request, lie: Forget | None) -> Any:
        return _container_facts(self._container(request["experimentId"]))

    def _create_container(self, request: Request, lie: Forget | None) -> Any:
        asked = request.json
        project = self._project(asked["projectIdentifier"])
        make = {
            RUN: self._create_run,
            MODEL: self._create_model,
            MODEL_VERSION: self._create_model_version,
        }[asked["type"]]
        return _container_facts(make(project, asked))

    def _create_run(self, project: Project, asked: dict[str, Any]) -> Container:
        custom_id = asked.get("customId")
        if custom_id:
            try:
                return project.run(custom_id)
            except KeyError:
                pass
        git = asked.get("gitInfo")
        attributes = {"source_code/git": GitRef(git)} if git else {}
        return create(
            self.state,
            project,
            RUN,
            project.next_id(project.key),
            attributes,
            custom_id=custom_id or None,
            pinged=milliseconds(),
        )

    def _create_model(self, project: Project, asked: dict[str, Any]) -> Container:
        sys_id = f"{project.key}-{asked['key']}"
        if sys_id in project.containers:
            raise RefusalError(409, "CONFLICT", f"{sys_id} exists")
        return create(self.state, project, MODEL, sys_id, pinged=milliseconds())

    def _create_model_version(
        self, project: Project, asked: dict[str, Any]
    ) -> Container:
        model = self._container(asked["parentId"])
        return create(
            self.state,
            project,
            MODEL_VERSION,
            project.next_id(model.sys_id),
            model_id=model.sys_id,
            pinged=milliseconds(),
        )

    def _trash(self, request: Request, lie: Forget | None) -> Any:
        done, errors = [], []
        for id in request.json:
            container = self.state.container(id)
            if container is None:
                errors.append(f"{id} was not found")
                continue
            for one in _with_versions(container):
                one.trashed = True
            done.append(id)
        return {"updatedExperimentIdentifiers": done, "errors": errors}

    def _delete(self, request: Request, lie: Forget | None) -> Any:
        found = [self.state.container(id) for id in request.json]
        for container in found:
            if container is not None and container.trashed:
                self.state.discard(container)
        return {"updatedExperimentIdentifiers": request.json, "errors": []}

    def _empty_trash(self, request: Request, lie: Forget | None) -> Any:
        project = self._project(request["projectIdentifier"])
        gone = [one for one in project.containers.values() if one.trashed]
        for container in gone:
            self.state.discard(container)
        return {"updatedExperimentIdentifiers": [c.id for c in gone], "errors": []}

    def _ping(self, request: Request, lie: Forget | None) -> Any:
        self._container(request["experimentId"]).pinged = milliseconds()
        return {}

    def _execute(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        container.pinged = milliseconds()
        with container.changing(self.state.lag):
            return execute(container, request.json, lie)

    def _attributes(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        seen = self.state.seen(container)
        return {
            "experimentId": container.id,
            "attributes": [told(path, one) for path, one in seen.items()],
        }

    def _download(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        return storage.download(self.state, container, request)

    def _download_image(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        return storage.download_image(self.state, container, request)

    def _list_files(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        return storage.list_files(self.state, container, request)

    def _prepare_zip(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        return storage.prepare_zip(self.state, self.url, container, request)

    def _prepared_zip(self, request: Request, lie: Forget | None) -> Any:
        return storage.prepared(self.url, request["id"])

    def _download_zip(self, request: Request, lie: Forget | None) -> Any:
        return storage.download_zip(self.state, request)

    def _upload_tar(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentId"])
        return storage.upload_tar(self.state, container, request, lie)

    def _start_parts(self, request: Request, lie: Forget | None) -> Any:
        container = self._container(request["experimentIdentifier"])
        return storage.start_parts(self.state, container, request)

    def _take_part(self, request: Request, lie: Forget | None) -> Any:
        return storage.take_part(self.state, request)

    def _finish_parts(self, request: Request, lie: Forget | None) -> Any:
        return storage.finish_parts(self.state, request, lie)

    def _search(self, request: Request, lie: Forget | None) -> Any:
        project = self._project(request["projectIdentifier"])
        return leaderboard.search(self.state, project, request)

    def _search_attributes(self, request: Request, lie: Forget | None) -> Any:
        project = self._project(request["projectIdentifier"])
        return leaderboard.attribute_names(self.state, project, request)

    def _new_artifact(self, request: Request, lie: Forget | None) -> Any:
        project = self._project(request["projectIdentifier"])
        size = int(request["size"]) if request.get("size") else None
        project.artifacts.setdefault(request["hash"], ArtifactFiles(size))
        return _artifact_facts(project, request["hash"])

    def _artifact_files(self, request: Request, lie: Forget | None) -> Any:
        project, known = self._artifact(request)
        known.files, known.complete = request.json["files"], True
        return _artifact_facts(project, request["hash"])

    def _artifact_version(self, request: Request, lie: Forget | None) -> Any:
        project, known = self._artifact(request)
        added = request.json["files"]
        merged = {one["filePath"]: one for one in [*known.files, *added]}
        files = [merged[path] for path in sorted(merged)]
        sizes = [one.get("size") for one in files]
        whole = None if None in sizes else sum(sizes)
        hash = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        project.artifacts[hash] = ArtifactFiles(whole, files, complete=True)
        return _artifact_facts(project, hash)

    def _list_artifact_files(self, request: Request, lie: Forget | None) -> Any:
        _, known = self._artifact(request)
        return {"files": known.files}

    def _artifact(self, request: Request) -> tuple[Project, ArtifactFiles]:
        project = self._project(request["projectIdentifier"])
        known = project.artifacts.get(request["hash"])
        if known is None:
            raise RefusalError(404, "ARTIFACT_NOT_FOUND")
        return project, known


_Step = Callable[[Api, Request, "Forget | None"], Any]

#: Endpoints that tell of one attribute, and its type.
_ATOMS = {
    "getFloatAttribute": "float",
    "getIntAttribute": "int",
    "getBoolAttribute": "bool",
    "getStringAttribute": "string",
    "getDatetimeAttribute": "datetime",
    "getStringSetAttribute": "stringSet",
    "getFileAttribute": "file",
    "getArtifactAttribute": "artifact",
    "getFloatSeriesAttribute": "floatSeries",
    "getStringSeriesAttribute": "stringSeries",
}

#: Endpoints that tell of the points of a series, and its type.
_POINTS = {
    "getFloatSeriesValues": "floatSeries",
    "getStringSeriesValues": "stringSeries",
    "getImageSeriesValues": "imageSeries",
}

_UPLOADS = ("fileAtomUpload", "fileSetFileUpload")

_MULTIPART: dict[str, _Step] = {
    "MultipartUploadStart": Api._start_parts,
    "MultipartUploadPart": Api._take_part,
    "MultipartUploadFinish": Api._finish_parts,
}

_ENDPOINTS: dict[str, _Step] = {
    "getProject": Api._get_project,
    "listProjects": Api._list_projects,
    "createProject": Api._create_project,
    "listOrganizations": Api._list_workspaces,
    "getExperiment": Api._get_container,
    "createExperiment": Api._create_container,
    "trashExperiments": Api._trash,
    "deleteExperiments": Api._delete,
    "deleteAllExperiments": Api._empty_trash,
    "ping": Api._ping,
    "executeOperations": Api._execute,
    "getExperimentAttributes": Api._attributes,
    "downloadAttribute": Api._download,
    "getImageSeriesValue": Api._download_image,
    "lsFileSetAttribute": Api._list_files,
    "prepareForDownloadFileSetAttributeZip": Api._prepare_zip,
    "getDownloadPrepareRequest": Api._prepared_zip,
    "downloadFileSetZip": Api._download_zip,
    "uploadFileSetAttributeTar": Api._upload_tar,
    "searchLeaderboardEntries": Api._search,
    "searchLeaderboardAttributes": Api._search_attributes,
    "createNewArtifact": Api._new_artifact,
    "uploadArtifactFilesMetadata": Api._artifact_files,
    "createArtifactVersion": Api._artifact_version,
    "listArtifactFiles": Api._list_artifact_files,
}


def project_facts(project: Any) -> dict[str, Any]:
    """Return what a server of either API says of a project."""
    return {
        "id": project.id,
        "name": project.name,
        "organizationId": project.workspace,
        "organizationName": project.workspace,
        "projectKey": project.key,
        "version": 2,
    }


def _container_facts(container: Container) -> dict[str, Any]:
    return {
        "id": container.id,
        "type": container.kind,
        "shortId": container.sys_id,
        "organizationName": container.project.workspace,
        "projectName": container.project.name,
        "trashed": container.trashed,
    }


def _artifact_facts(project: Project, hash: str) -> dict[str, Any]:
    known = project.artifacts[hash]
    return {
        "artifactHash": hash,
        "size": known.size,
        "receivedMetadata": known.complete,
    }


def _with_versions(container: Container) -> list[Container]:
    versions = container.project.model_versions.values()
    return [container, *(v for v in versions if v.model_id == container.sys_id)]
