"""
What the server can be asked, and the documents that tell the client so.

The client learns paths, parameters and the fields of answers from these documents
alone, so they hold just what it needs, in a short notation of our own:

- a parameter is `name`, `name:type`, `header name`, `body name` or `body name:model`;
- a field is `name`, or `name:kind`, where the kind is a type of JSON, `date-time`, a
  model, or one of these in brackets for a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Endpoint(NamedTuple):
    """One operation: its name, where it is, and what goes in and out."""

    name: str
    method: str
    path: str
    parameters: tuple[str, ...] = ()
    #: A kind; empty where no JSON comes back.
    result: str = ""


_MODELS = {
    "Error": "code:integer errorType title message",
    "ClientConfig": (
        "apiUrl applicationUrl pyLibVersions:ClientVersions sysNameSetByBackend:boolean"
        " multiPartUpload:MultipartConfig artifacts:ArtifactsConfig"
    ),
    "ClientVersions": "minRecommendedVersion minCompatibleVersion maxCompatibleVersion",
    "MultipartConfig": (
        "enabled:boolean minChunkSize:integer maxChunkSize:integer"
        " maxChunkCount:integer maxSinglePartSize:integer"
    ),
    "ArtifactsConfig": "enabled:boolean apiVersion:integer",
    "Tokens": "accessToken refreshToken username",
    "Project": "id name organizationId organizationName projectKey version:integer",
    "Projects": "entries:[Project] matchingItemCount:integer totalItemCount:integer",
    "Organization": "id name",
    "Experiment": "id type shortId organizationName projectName trashed:boolean",
    "ExperimentCreation": "projectIdentifier parentId type customId gitInfo:GitInfo",
    "AttributeError": "attribute errorDescription",
    "Experiments": "updatedExperimentIdentifiers:[string] errors:[string]",
    "Attributes": "experimentId attributes:[Attribute]",
    "AttributeNames": "entries:[AttributeName]",
    "AttributeName": "name type",
    "Attribute": (
        "name type floatProperties:Float intProperties:Int boolProperties:Bool"
        " stringProperties:String datetimeProperties:Datetime"
        " experimentStateProperties:String notebookRefProperties:String"
        " floatSeriesProperties:FloatSeries stringSeriesProperties:StringSeries"
        " imageSeriesProperties:ImageSeries stringSetProperties:StringSet"
        " fileProperties:File fileSetProperties:FileSet"
        " artifactProperties:Artifact gitRefProperties:GitRef"
    ),
    "Float": "value:number",
    "Int": "value:integer",
    "Bool": "value:boolean",
    "String": "value",
    "Datetime": "value:date-time",
    "StringSet": "values:[string]",
    "FloatSeries": "last:number lastStep:number",
    "StringSeries": "last lastStep:number",
    "ImageSeries": "lastStep:number",
    "FloatPoint": "timestampMillis:integer step:number value:number",
    "FloatPoints": "totalItemCount:integer values:[FloatPoint]",
    "StringPoint": "timestampMillis:integer step:number value",
    "StringPoints": "totalItemCount:integer values:[StringPoint]",
    "ImagePoints": "totalItemCount:integer",
    "File": "name ext size:integer",
    "FileSet": "size:integer",
    "FileEntry": "name size:integer mtime:date-time fileType",
    "GitRef": "commit:GitCommit",
    "GitInfo": (
        "commit:GitCommit repositoryDirty:boolean currentBranch remotes:[string]"
    ),
    "GitCommit": "commitId message authorName authorEmail commitDate:date-time",
    "Artifact": "hash",
    "ArtifactVersion": "artifactHash size:integer receivedMetadata:boolean",
    "ArtifactFiles": "files:[ArtifactFile]",
    "ArtifactFile": "filePath fileHash type size:integer metadata:[KeyValue]",
    "KeyValue": "key value",
    "Upload": "uploadId errors:[AttributeError]",
    "Download": "id downloadUrl",
}

_ATTRIBUTE = ("experimentId", "attribute")
_PAGE = (*_ATTRIBUTE, "limit:integer", "offset:integer")
_UPLOAD = ("experimentIdentifier", "attribute")
_TRASH = ("projectIdentifier", "body experimentIdentifiers")
_ARTIFACT = ("projectIdentifier", "hash", "parentIdentifier")
_STORAGE = "/attributes/storage"

_ENDPOINTS = {
    "backend": [
        Endpoint(
            "getClientConfig",
            "GET",
            "/clients/config",
            ("header X-Neptune-Api-Token", "alpha"),
            "ClientConfig",
        ),
        Endpoint(
            "exchangeApiToken",
            "GET",
            "/authorization/oauth-token",
            ("header X-Neptune-Api-Token",),
            "Tokens",
        ),
        Endpoint(
            "getProject", "GET", "/projects/get", ("projectIdentifier",), "Project"
        ),
        Endpoint(
            "listProjects",
            "GET",
            "/projects/list",
            (
                "organizationIdentifier",
                "searchTerm",
                "userRelation",
                "sortBy:array",
                "sortDirection:array",
                "limit:integer",
                "offset:integer",
            ),
            "Projects",
        ),
        Endpoint(
            "createProject", "POST", "/projects", ("body projectToCreate",), "Project"
        ),
        Endpoint("listOrganizations", "GET", "/organizations", (), "[Organization]"),
    ],
    "leaderboard": [
        Endpoint(
            "getExperiment", "GET", "/experiments", ("experimentId",), "Experiment"
        ),
        Endpoint(
            "createExperiment",
            "POST",
            "/experiments",
            (
                "header X-Neptune-CliVersion",
                "body experimentCreationParams:ExperimentCreation",
            ),
            "Experiment",
        ),
        Endpoint(
            "trashExperiments", "PUT", "/experiments/trash", _TRASH, "Experiments"
        ),
        Endpoint(
            "deleteExperiments", "PUT", "/experiments/delete", _TRASH, "Experiments"
        ),
        Endpoint(
            "deleteAllExperiments",
            "DELETE",
            "/experiments",
            ("projectIdentifier",),
            "Experiments",
        ),
        Endpoint("ping", "POST", "/attributes/ping", ("experimentId",)),
        Endpoint(
            "executeOperations",
            "POST",
            "/attributes/operations",
            ("experimentId", "body operations"),
            "[AttributeError]",
        ),
        Endpoint(
            "getExperimentAttributes",
            "GET",
            "/attributes",
            ("experimentId",),
            "Attributes",
        ),
        Endpoint("getFloatAttribute", "GET", "/attributes/floats", _ATTRIBUTE, "Float"),
        Endpoint("getIntAttribute", "GET", "/attributes/ints", _ATTRIBUTE, "Int"),
        Endpoint("getBoolAttribute", "GET", "/attributes/bools", _ATTRIBUTE, "Bool"),
        Endpoint(
            "getStringAttribute", "GET", "/attributes/strings", _ATTRIBUTE, "String"
        ),
        Endpoint(
            "getDatetimeAttribute",
            "GET",
            "/attributes/datetimes",
            _ATTRIBUTE,
            "Datetime",
        ),
        Endpoint(
            "getStringSetAttribute",
            "GET",
            "/attributes/stringSets",
            _ATTRIBUTE,
            "StringSet",
        ),
        Endpoint("getFileAttribute", "GET", "/attributes/files", _ATTRIBUTE, "File"),
        Endpoint(
            "getArtifactAttribute",
            "GET",
            "/attributes/artifacts",
            _ATTRIBUTE,
            "Artifact",
        ),
        Endpoint(
            "getFloatSeriesAttribute",
            "GET",
            "/attributes/series/float",
            _ATTRIBUTE,
            "FloatSeries",
        ),
        Endpoint(
            "getStringSeriesAttribute",
            "GET",
            "/attributes/series/string",
            _ATTRIBUTE,
            "StringSeries",
        ),
        Endpoint(
            "getFloatSeriesValues",
            "GET",
            "/attributes/series/float/values",
            _PAGE,
            "FloatPoints",
        ),
        Endpoint(
            "getStringSeriesValues",
            "GET",
            "/attributes/series/string/values",
            _PAGE,
            "StringPoints",
        ),
        Endpoint(
            "getImageSeriesValues",
            "GET",
            "/attributes/imageSeries/values",
            _PAGE,
            "ImagePoints",
        ),
        Endpoint(
            "getImageSeriesValue",
            "GET",
            "/attributes/imageSeries/value",
            (*_ATTRIBUTE, "index:integer"),
        ),
        Endpoint("downloadAttribute", "GET", "/attributes/download", _ATTRIBUTE),
        Endpoint(
            "lsFileSetAttribute",
            "GET",
            "/attributes/fileSets/ls",
            (*_ATTRIBUTE, "path"),
            "[FileEntry]",
        ),
        Endpoint(
            "prepareForDownloadFileSetAttributeZip",
            "POST",
            "/attributes/downloadFileSetZipRequest",
            _ATTRIBUTE,
            "Download",
        ),
        Endpoint(
            "getDownloadPrepareRequest",
            "GET",
            "/download/prepareRequest",
            ("id",),
            "Download",
        ),
        Endpoint("downloadFileSetZip", "GET", "/download/zip", ("id",)),
        Endpoint(
            "uploadFileSetAttributeTar",
            "POST",
            "/attributes/uploadFileSetTar",
            (*_ATTRIBUTE, "reset"),
        ),
        Endpoint(
            "fileAtomUpload", "POST", f"{_STORAGE}/file/upload", (*_UPLOAD, "ext")
        ),
        Endpoint(
            "fileAtomMultipartUploadStart",
            "POST",
            f"{_STORAGE}/file/upload/start",
            (*_UPLOAD, "ext", "totalLength:integer"),
            "Upload",
        ),
        Endpoint(
            "fileAtomMultipartUploadPart",
            "POST",
            f"{_STORAGE}/file/upload/part",
            (*_UPLOAD, "uploadId", "uploadPartIdx:integer"),
        ),
        Endpoint(
            "fileAtomMultipartUploadFinish",
            "POST",
            f"{_STORAGE}/file/upload/finish",
            (*_UPLOAD, "uploadId"),
            "Upload",
        ),
        Endpoint(
            "fileSetFileUpload",
            "POST",
            f"{_STORAGE}/fileset/upload",
            (*_UPLOAD, "subPath"),
        ),
        Endpoint(
            "fileSetFileMultipartUploadStart",
            "POST",
            f"{_STORAGE}/fileset/upload/start",
            (*_UPLOAD, "subPath", "totalLength:integer"),
            "Upload",
        ),
        Endpoint(
            "fileSetFileMultipartUploadPart",
            "POST",
            f"{_STORAGE}/fileset/upload/part",
            (*_UPLOAD, "subPath", "uploadId", "uploadPartIdx:integer"),
        ),
        Endpoint(
            "fileSetFileMultipartUploadFinish",
            "POST",
            f"{_STORAGE}/fileset/upload/finish",
            (*_UPLOAD, "subPath", "uploadId"),
            "Upload",
        ),
        Endpoint(
            "searchLeaderboardEntries",
            "POST",
            "/leaderboard/entries/search",
            ("projectIdentifier", "type:array", "body params"),
            "object",
        ),
        Endpoint(
            "searchLeaderboardAttributes",
            "POST",
            "/leaderboard/attributes/search",
            ("projectIdentifier", "search", "type:array", "body params"),
            "AttributeNames",
        ),
    ],
    "artifacts": [
        Endpoint(
            "createNewArtifact",
            "POST",
            "/artifacts",
            (*_ARTIFACT, "size:integer"),
            "ArtifactVersion",
        ),
        Endpoint(
            "createArtifactVersion",
            "POST",
            "/artifacts/versions",
            (*_ARTIFACT, "body artifactFilesDTO"),
            "ArtifactVersion",
        ),
        Endpoint(
            "uploadArtifactFilesMetadata",
            "POST",
            "/artifacts/files",
            ("projectIdentifier", "hash", "body artifactFilesDTO"),
            "ArtifactVersion",
        ),
        Endpoint(
            "listArtifactFiles",
            "GET",
            "/artifacts/files",
            ("projectIdentifier", "hash"),
            "ArtifactFiles",
        ),
    ],
}


def endpoints() -> Iterator[Endpoint]:
    """Yield every operation, with its whole path."""
    for service, ones in _ENDPOINTS.items():
        for one in ones:
            yield one._replace(path=f"/api/{service}/v1{one.path}")


def document(service: str, url: str) -> dict[str, Any] | None:
    """Return what is to be known of a service at *url*; None if there is no such."""
    if service not in _ENDPOINTS:
        return None
    scheme, _, host = url.partition("://")
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints():
        if one.path.startswith(f"/api/{service}/"):
            paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "swagger": "2.0",
        "info": {"title": service, "version": "1"},
        "schemes": [scheme],
        "host": host,
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": paths,
        "definitions": {name: _model(fields) for name, fields in _MODELS.items()},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "what was asked for"}
    if endpoint.result:
        answer["schema"] = _kind(endpoint.result)
    failure = {"description": "a failure", "schema": _kind("Error")}
    return {
        "operationId": endpoint.name,
        # The client looks for all of them below this tag.
        "tags": ["api"],
        "parameters": [_parameter(one) for one in endpoint.parameters],
        "responses": {"200": answer, "default": failure},
    }


def _parameter(notation: str) -> dict[str, Any]:
    place, _, name = notation.rpartition(" ")
    name, _, type = name.partition(":")
    if place == "body":
        return {"name": name, "in": "body", "schema": _kind(type) if type else {}}
    found: dict[str, Any] = {"name": name, "in": place or "query"}
    found["type"] = type or "string"
    if type == "array":
        found["items"] = {"type": "string"}
        found["collectionFormat"] = "multi"
    return found


def _model(fields: str) -> dict[str, Any]:
    properties = {}
    for field in fields.split():
        name, _, kind = field.partition(":")
        properties[name] = _kind(kind or "string")
    return {"type": "object", "properties": properties}


def _kind(notation: str) -> dict[str, Any]:
    if notation.startswith("["):
        return {"type": "array", "items": _kind(notation[1:-1])}
    if notation in _MODELS:
        return {"$ref": f"#/definitions/{notation}"}
    if notation == "date-time":
        return {"type": "string", "format": notation}
    return {"type": notation}
