"""Artifact bytes: where they lie, how to list, open and write them safely.

A recorded URI is untrusted, and often dead: the folder was moved, the path is another
user's home or another machine's drive. `locate` finds the folder or URI that really
holds a run's artifacts. Local files are read and written here; every other scheme goes
through MLflow's own artifact repositories, imported only then.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from mlmigrate.contract import Delivery
from mlmigrate.errors import ItemError, UnsafePath, translated
from mlmigrate.model import Artifact, Finding, Note, Problem, Ref, named_version
from mlmigrate.partial_files import appearing

CHUNK = 1 << 20
_DRIVE = re.compile(r"^/?[A-Za-z]:[\\/]")
_RUN_SOURCE = re.compile(r"^runs:/([^/]+)/?(.*)$")
_IN_RUN = re.compile(r"[/\\]([0-9a-f]{32})[/\\]artifacts(?:[/\\](.*))?$")
_MODEL_SOURCE = re.compile(r"^models:/(m-[0-9a-f]{32})/?(.*)$")
_IN_MODEL = re.compile(r"[/\\]models[/\\](m-[0-9a-f]{32})[/\\]artifacts(?:[/\\](.*))?$")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run's artifacts are: a local folder, a remote URI, or nowhere."""

    folder: Path | None = None
    uri: str | None = None
    findings: tuple[Finding, ...] = ()


def is_local(uri: str) -> bool:
    """Tell whether *uri* is a path, in any spelling, rather than a remote URI."""
    if _DRIVE.match(uri):
        return True
    match = _SCHEME.match(uri)
    return match is None or match.group().lower() == "file:"


def local_path(uri: str) -> PurePosixPath | PureWindowsPath:
    r"""Return the path that a local URI names, in any spelling found in the wild:
    ``/a``, ``./a``, ``..\\a``, ``C:\\a``, ``file:///a%20b``, ``file:///C:/a``,
    ``file://C:/a``, ``file:a``.
    """
    text = uri
    if text[:5].lower() == "file:":
        text = text[5:]
        if text.startswith("//"):
            host, slash, rest = text[2:].partition("/")
            drive = _DRIVE.match(text[2:])
            text = text[2:] if drive else slash + rest
            if host and not drive and host != "localhost":
                text = f"//{host}{slash}{rest}"
        text = unquote(text.split("#")[0].split("?")[0])
    if _DRIVE.match(text):
        return PureWindowsPath(text.lstrip("/"))
    if "\\" in text and "/" not in text:
        return PureWindowsPath(text)
    return PurePosixPath(text)


def lift_source(source: str | None) -> tuple[str | None, str | None]:
    """Split a model version's source into a run id and a path below its artifacts,
    where it leads there.
    """
    match = (_RUN_SOURCE.match(source) or _IN_RUN.search(source)) if source else None
    if match is None:
        return None, None
    return match.group(1), (match.group(2) or "").replace("\\", "/")


def lift_model(source: str | None) -> tuple[str | None, str | None]:
    """Split a model version's source into the id of a logged model and a path below its
    artifacts, where it leads there.
    """
    match = (
        (_MODEL_SOURCE.match(source) or _IN_MODEL.search(source)) if source else None
    )
    if match is None:
        return None, None
    return match.group(1), (match.group(2) or "").replace("\\", "/")


@dataclass(frozen=True, slots=True)
class Led:
    """Where the files of a model version are: in a run, a logged model, or elsewhere,
    and the path below its artifacts.
    """

    run: Ref | None = None
    model: Ref | None = None
    path: str | None = None


def lift_files(source: str | None, storage: str | None) -> Led:
    """Return where the files of a model version are.

    Args:
        source: its source.
        storage: where its store says that the files are: all that says so where the
            source names a version, which may be gone, and another one of its number.
    """
    text = source if named_version(source) is None else storage
    run, below = lift_source(text)
    model, below_model = lift_model(text)
    return Led(
        Ref("run", run) if run else None,
        Ref("logged_model", model) if model else None,
        below if run else below_model,
    )


def mapped(uri: str, maps: Sequence[tuple[str, str]]) -> str | None:
    """Return *uri* with the first matching prefix replaced, or None."""
    for old, new in maps:
        stem = old.rstrip("/\\")
        if uri == stem or uri.startswith((stem + "/", stem + "\\")):
            rest = uri[len(stem) :].replace("\\", "/")
            return new.rstrip("/") + rest
    return None


def parse_maps(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Split each ``OLD=NEW``.

    Raises:
        ValueError: one has no ``=``.
    """
    maps = []
    for text in texts:
        old, equals, new = text.partition("=")
        if not equals or not old:
            raise ValueError(f"{text!r} is not of the form OLD=NEW")
        maps.append((old, new))
    return maps


def locate(
    uri: str | None,
    *,
    where: str,
    owner: str,
    layout: Sequence[Path] = (),
    base: Path | None = None,
    maps: Sequence[tuple[str, str]] = (),
) -> Place:
    """Find the artifacts of the run or model *owner*.

    Args:
        uri: as recorded.
        where: what to call the run in findings.
        owner: the id that must stand in a local path: a store could name any path of
            this disk, and MLflow always puts the id there.
        layout: where the store's own layout says they must be, best first.
        base: the folder relative URIs count from.
        maps: (old, new) prefixes given by the user.
    """
    replaced = mapped(uri, maps) if uri else None
    if replaced is not None:
        if not is_local(replaced):
            return Place(uri=replaced)
        folder = Path(local_path(replaced))
        if folder.is_dir():
            return Place(folder=folder)
        problem = Problem(where, f"the mapped artifact folder {folder} does not exist")
        return Place(findings=(problem,))
    beside = next((folder for folder in layout if _holds_files(folder)), None)
    if not uri:
        return Place(folder=beside)
    if is_local(uri):
        path = local_path(uri)
        if owner in path.parts and isinstance(path, PurePosixPath):
            folder = Path(path) if path.is_absolute() or not base else base / path
            if _holds_files(folder):
                return Place(folder=folder)
        if beside is not None:
            note = Note(where, "artifact URI is dead; read from the store's own layout")
            return Place(folder=beside, findings=(note,))
        if owner in path.parts:
            # Empty folders vanish in git and in many copies: nothing was there.
            return Place()
        problem = Problem(
            where,
            f"artifacts at {redact(uri)} cannot be read: the path does not bear the"
            " run's id;"
            " give --map-artifacts OLD=NEW",
        )
        return Place(findings=(problem,))
    if beside is not None:
        note = Note(where, f"artifacts of {_scheme(uri)} read from the local layout")
        return Place(folder=beside, findings=(note,))
    return Place(uri=uri)


def _scheme(uri: str) -> str:
    return uri.split(":", 1)[0] + ":"


def _holds_files(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except (OSError, ValueError):  # a path with a NUL byte is none
        return False


def list_folder(folder: Path, where: str) -> tuple[list[Artifact], list[Problem]]:
    """List the files below *folder*, sorted by path.

    A symlink is followed only where it stays inside the folder.
    """
    files: list[Artifact] = []
    problems: list[Problem] = []
    root = os.path.realpath(folder)

    def walk(path: str, prefix: str) -> None:
        try:
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Problem(where, f"artifact folder {prefix!r}: {error}"))
            return
        for entry in entries:
            name = prefix + entry.name
            try:
                name.encode()
            except UnicodeEncodeError:
                problems.append(
                    Problem(where, f"artifact {name!a}: its name is not UTF-8")
                )
                continue
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if not target.startswith(root + os.sep) or os.path.isdir(target):
                    problems.append(
                        Problem(where, f"artifact {name}: a link, not followed")
                    )
                    continue
            if entry.is_dir(follow_symlinks=False):
                walk(entry.path, name + "/")
                continue
            try:
                if not entry.is_file():
                    what = f"artifact {name}: not a regular file"
                    problems.append(Problem(where, what))
                    continue
                files.append(Artifact(name, entry.stat().st_size))
            except OSError as error:
                problems.append(Problem(where, f"artifact {name}: {error.strerror}"))

    walk(str(folder), "")
    return files, problems


def safe_join(root: Path, path: str) -> Path:
    """Return the place of the artifact *path* below *root*.

    Raises:
        UnsafePath: it would lie outside.
    """
    pure = PurePosixPath(path)
    if (
        not path
        or pure.is_absolute()
        or ".." in pure.parts
        or "\0" in path
        or _DRIVE.match(path)
    ):
        raise UnsafePath(f"artifact path {path!r} leads out of its root: not written")
    return root / pure


def open_file(folder: Path, path: str) -> BinaryIO:
    """Open an artifact below *folder* for reading.

    Raises:
        UnsafePath: it lies outside, also by a symlink.
        OSError: it cannot be read.
    """
    place = safe_join(folder, path)
    root = os.path.realpath(folder)
    if not os.path.realpath(place).startswith(root + os.sep):
        raise UnsafePath(f"artifact {path!r} leads out of {folder}")
    return place.open("rb")


def write_file(root: Path, path: str, source: BinaryIO) -> tuple[str, int]:
    """Write one artifact below *root*: a partial file is never seen under its name,
    nor anywhere below *root*, where it would pass for an artifact after a kill.

    Returns:
        The SHA-256 of the bytes, in hex, and their number.
    """
    place = safe_join(root, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    real_root = os.path.realpath(root)
    real_parent = os.path.realpath(place.parent)
    if real_parent != real_root and not real_parent.startswith(real_root + os.sep):
        raise UnsafePath(f"artifact {path!r} would be written outside {root}")
    checksum = sha256()
    size = 0
    with appearing(place, Path(real_root).parent) as target:
        while chunk := source.read(CHUNK):
            checksum.update(chunk)
            size += len(chunk)
            target.write(chunk)
    return checksum.hexdigest(), size


def copy_files(
    delivery: Delivery,
    files: Iterable[Artifact],
    write: Callable[[str, BinaryIO], tuple[str, int]],
) -> tuple[dict[str, str], int]:
    """Write artifacts of a delivery, which are to be copied.

    Args:
        delivery: the item that they belong to.
        files: which of its artifacts.
        write: writes one, by its path, and returns its SHA-256 in hex and its bytes.

    Returns:
        The SHA-256 of each, by its path, and the bytes of all.

    Raises:
        OSError: one cannot be read or written.
        ItemError: one cannot be read or written.
    """
    checksums: dict[str, str] = {}
    total = 0
    for file in files:
        assert delivery.open is not None
        with delivery.open(delivery.read_ref or delivery.item.ref, file.path) as data:
            checksums[file.path], size = write(file.path, data)
        total += size
    return checksums, total


def checksum_of(source: BinaryIO) -> str:
    """Return the SHA-256 of what is left in *source*, in hex."""
    digest = sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def combined_checksum(checksums: Mapping[str, str]) -> str:
    """Return one checksum for a set of artifacts, from path -> SHA-256."""
    digest = sha256()
    for path in sorted(checksums):
        digest.update(f"{path}\0{checksums[path]}\n".encode())
    return digest.hexdigest()[:32]


class Remote:
    """The artifacts below one URI, through MLflow's own repository for its scheme."""

    def __init__(self, uri: str, *, tracking_uri: str | None = None) -> None:
        from mlflow.store.artifact.artifact_repository_registry import (
            get_artifact_repository,
        )

        self._uri = uri
        extra = {"tracking_uri": tracking_uri} if tracking_uri else {}
        with self._translated("reach artifacts at"):
            self._repository: Any = get_artifact_repository(uri, **extra)

    def list(self) -> list[Artifact]:
        """List the files, sorted by path.

        Raises:
            ItemError: the store of the artifacts does not answer.
        """
        return sorted(self._walk(None, set()), key=lambda artifact: artifact.path)

    def _walk(self, path: str | None, seen: set[str]) -> Iterator[Artifact]:
        with self._translated("list artifacts at"):
            infos = self._repository.list_artifacts(path)
        for info in infos:
            if info.path in seen:  # some stores list a folder inside itself
                continue
            seen.add(info.path)
            if info.is_dir:
                yield from self._walk(info.path, seen)
            else:
                yield Artifact(info.path, int(info.file_size or 0))

    def open(self, path: str) -> BinaryIO:
        """Open one file: it is downloaded to an unnamed temporary file."""
        safe_join(Path("/"), path)
        with tempfile.TemporaryDirectory(prefix="mlmigrate-") as folder:
            with self._translated(f"read artifact {path} at"):
                local = self._repository.download_artifacts(path, dst_path=folder)
            # The file stays readable after its folder is gone, until it is closed.
            return Path(local).open("rb")

    def write(self, path: str, source: BinaryIO) -> tuple[str, int]:
        """Upload one file. Returns its SHA-256 in hex and its size."""
        pure = safe_join(Path("/"), path)
        with tempfile.TemporaryDirectory(prefix="mlmigrate-") as folder:
            local = Path(folder) / "whole"
            checksum, size = write_file(local, pure.name, source)
            parent = str(PurePosixPath(path).parent)
            with self._translated(f"write artifact {path} to"):
                self._repository.log_artifact(
                    str(local / pure.name), None if parent == "." else parent
                )
        return checksum, size

    def _translated(self, what: str) -> AbstractContextManager[None]:
        return translated(
            lambda error: ItemError(
                f"cannot {what} {redact(self._uri)}: {short(error)}"
            )
        )


# -- secrets in what is shown ---------------------------------------------------------

_MASK = "***"
_SCHEME_AT_START = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_FILE_SCHEME = re.compile(r"(?:^|[^A-Za-z0-9+.-])file$", re.IGNORECASE)
_END_OF_USER = re.compile(r"[\s/]")
_END_OF_HOST = re.compile(r"[/?#]")
_IPV6_HOST = re.compile(r"\[[0-9A-Fa-f:.]*\]")
_WORD = re.compile(r"\S*")
_PORT = re.compile(r"[^\s/?#:]*(?::\d*[^\w\s]*)?(?:[/?#]|$)")
_PARAMETER = re.compile(r"([?&;#][^\s=&?#;]++=)([^\s&]+)")
_LAST_PARAMETER = re.compile(r"([?&;#][^\s=&?#;]++=)([^&]+)")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|sig|cred|auth", re.IGNORECASE)


def redact(location: str) -> str:
    """Return *location* with the passwords and tokens in it masked, fit for printing.

    In case of doubt too much is masked: a password may hold ``:``, ``/``, ``@`` and
    blanks, whatever the rules for URLs say. For what must stay true otherwise, see
    `mlmigrate.redaction`.
    """
    text = _printable(location)
    scheme = _SCHEME_AT_START.match(text)
    if scheme is not None:
        text = scheme.group() + _mask_login(text[scheme.end() :], scheme.group()[:-3])
        text = _LAST_PARAMETER.sub(_mask_parameter, text)
    return redact_within(text)


def redact_within(text: str) -> str:
    """Return *text*, such as the message of an error, with the passwords and tokens of
    the URLs in it masked, fit for printing.
    """
    before, *pieces = _printable(text).split("://")
    shown = [before]
    for rest in _joined(pieces):
        shown.append(_mask_login(rest, before, end=_end_of_login(rest)))
        before = rest
    return _PARAMETER.sub(_mask_parameter, "://".join(shown))


def _joined(pieces: Iterable[str]) -> Iterator[str]:
    """Join again what a password parted that itself holds a ``://``."""
    whole: list[str] = []
    for piece in pieces:
        whole.append(piece)
        if _END_OF_USER.search(piece):
            yield "://".join(whole)
            whole = []
    if whole:
        yield "://".join(whole)


def _printable(text: str) -> str:
    # Names of files that are not UTF-8 bear surrogates.
    return text.encode(errors="backslashreplace").decode()


def _mask_login(rest: str, scheme: str, end: int | None = None) -> str:
    """Mask the login at the beginning of what follows a ``://``.

    Args:
        rest: what follows.
        scheme: what precedes.
        end: where the login must have ended; the end of *rest* if None.
    """
    if _DRIVE.match(rest) and _FILE_SCHEME.search(scheme[-10:]):
        return rest
    last = rest.rfind("@", 0, end)
    ipv6 = _IPV6_HOST.match(rest)
    colon = rest.find(":", ipv6.end() if ipv6 else 0)
    host = _END_OF_HOST.search(rest)
    host_end = host.start() if host else len(rest)
    if 0 <= colon < min(host_end, last):
        user = rest[:colon]
        # A user before the colon that holds an @ is itself a token, and a host.
        shown = "" if not user or "@" in user else f"{user}:"
        return f"{shown}{_MASK}@{rest[last + 1 :]}"
    last = rest.rfind("@", 0, min(host_end, len(rest) if end is None else end))
    return rest if last < 0 else f"{_MASK}@{rest[last + 1 :]}"


def _end_of_login(piece: str) -> int:
    """Return where a login in running text must have ended: at the first blank, unless
    that stands in a password.
    """
    word = _WORD.match(piece)
    end = word.end() if word else 0
    if "@" in piece[:end] or _PORT.match(piece[:end]):
        return end
    line = piece.find("\n")
    at = piece.find("@", 0, line if line >= 0 else len(piece))
    more = _WORD.match(piece, at) if at >= 0 else None
    return more.end() if more else end


def _mask_parameter(match: re.Match[str]) -> str:
    name, value = match.groups()
    return name + (_MASK if _SECRET_NAME.search(name) else value)


def short(error: BaseException) -> str:
    """Return the first line of an error's text, secrets masked."""
    text = str(error).strip().splitlines()
    return redact_within(text[0])[:300] if text else type(error).__name__


def host_of(uri: str) -> str | None:
    """Return the host of a URI, None where it has none or cannot be parsed."""
    try:
        return urlsplit(uri).hostname
    except ValueError:
        return None
