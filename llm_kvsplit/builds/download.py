"""Builds to download: the list of a release, the archive that fits this machine, and what is checked of it.

``backends.json`` beside the archives names them with size and SHA-256 (``ci/pack_backends.py`` writes both). An archive
holds ``manifest.json`` first and then the libraries and the ``bindings.json`` that it names, nothing else and in no folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from .. import files
from ..errors import KvsplitError
from ..paths import backends_dir
from . import definitions, interface, probe, shelf

_RELEASE = "https://github.com/llm-kvsplit/llm-kvsplit/releases/latest/download"
_TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of the answer
#: More than any build takes: bytes of a list, of an archive, of what is in it, and of its manifest.
_LIST, _ARCHIVE, _UNPACKED, _MANIFEST = 1 << 20, 1 << 30, 4 << 30, 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,150}")
_PIECE = 1 << 20
_BUILD = "'llm kvsplit backend build' compiles one here"


class NothingFits(KvsplitError):
    """There is no build to download for this machine, or none can be had now; compiling one helps."""


@dataclass(frozen=True)
class Archive:
    #: File name beside the list.
    file: str
    #: The build's id.
    id: str
    sha256: str
    #: Bytes.
    size: int


def here() -> str:
    """This machine as the list names it, such as ``macos-arm64``."""
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    return f"{system}-{platform.machine().lower()}"


def base_url() -> str:
    """``KVSPLIT_BACKENDS_URL``, or the newest release of this project."""
    return os.environ.get("KVSPLIT_BACKENDS_URL", _RELEASE).rstrip("/")


def find() -> Archive:
    """The archive for this machine. Raises NothingFits."""
    try:
        builds = json.loads(_get(f"{base_url()}/backends.json", _LIST))["builds"]
        fitting = [each for each in builds if each["platform"] == here()]
        archives = [Archive(each["file"], each["id"], each["sha256"].lower(), int(each["size"])) for each in fitting]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KvsplitError(f"{base_url()}/backends.json is no list of builds: report it; {_BUILD}.") from None
    if not archives:
        raise NothingFits(f"There is no build to download for {here()}.")
    archive = archives[0]
    if not all(_NAME.fullmatch(name) for name in (archive.file, archive.id)) or not 0 < archive.size <= _ARCHIVE:
        raise KvsplitError(
            f"{base_url()}/backends.json names {archive.file!r}, which is no archive: report it; {_BUILD}."
        )
    return archive


def install_tried() -> Path:
    """Find, install and try the build of the newest release; its folder.

    Raises NothingFits where there is none, or where it does not run here.
    """
    folder = install(find())
    installed = next(build for build in shelf.builds() if build.id == folder.name)
    trial = probe.result(installed)
    if not trial.usable:
        import shutil

        shutil.rmtree(folder)
        raise NothingFits(f"The build {folder.name} does not run here ({trial.reason}).")
    return folder


def install(archive: Archive) -> Path:
    """Download, check and put in place; the build's folder, which appears whole or not at all.

    Raises KvsplitError for anything that is not what the list or the manifest says, NothingFits without a connection.
    """
    from filelock import FileLock

    folder = backends_dir() / archive.id
    backends_dir().mkdir(parents=True, exist_ok=True)
    with (
        FileLock(str(backends_dir().with_name("install.lock"))),
        tempfile.TemporaryFile(dir=backends_dir().parent) as file,
    ):
        if shelf.there(folder):
            return folder
        _download(archive, file)
        file.seek(0)
        try:
            with shelf.whole(folder) as temporary, tarfile.open(fileobj=file, mode="r|gz") as opened:
                _unpack(opened, archive, temporary)
                _require_usable(archive, temporary)
        except (tarfile.TarError, zlib.error, EOFError, OSError) as failure:
            raise _refused(archive, f"cannot be unpacked ({failure})") from failure
    return folder


def _download(archive: Archive, file: IO[bytes]) -> None:
    _get(f"{base_url()}/{quote(archive.file)}", archive.size, file)
    if file.tell() != archive.size:
        raise _refused(archive, f"came as {file.tell()} bytes instead of {archive.size}")
    file.seek(0)
    came = files.sha256_of(file)
    if came != archive.sha256:
        raise _refused(archive, f"came with SHA-256 {came} instead of {archive.sha256}")


def _get(url: str, most: int, file: IO[bytes] | None = None) -> bytes:
    """What is at ``url``, at most so many bytes, into ``file`` where there is one."""
    import requests

    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}) as answer:
            if not answer.ok:
                raise NothingFits(f"{url} cannot be had (HTTP {answer.status_code}).")
            pieces, size = [], 0
            for piece in answer.iter_content(_PIECE):
                size += len(piece)
                if size > most:
                    raise KvsplitError(f"{url} is longer than {most} bytes: report it; {_BUILD}.")
                if file is None:
                    pieces.append(piece)
                else:
                    file.write(piece)
            return b"".join(pieces)
    except requests.RequestException as failure:
        raise NothingFits(f"{url} cannot be reached ({type(failure).__name__}).") from failure


def _unpack(opened: tarfile.TarFile, archive: Archive, folder: Path) -> None:
    """Write the files of an open archive, each compared with the manifest at its head; nothing but those."""
    manifest: dict[str, Any] | None = None
    named: dict[str, str] = {}
    written, size = set(), 0
    for member in opened:
        size += member.size
        if not member.isreg() or not _NAME.fullmatch(member.name) or size > _UNPACKED:
            raise _refused(archive, f"holds {member.name!r}, which does not belong in a build")
        if manifest is None:
            manifest = _manifest(opened, member, archive)
            named = shelf.files_of(manifest)
        elif member.name not in named or member.name in written:
            raise _refused(archive, f"holds {member.name!r}, which its manifest does not name")
        else:
            _write(opened.extractfile(member), folder / member.name, named[member.name], archive)
            written.add(member.name)
    missing = set(named) - written if manifest else {"manifest.json"}
    if missing or manifest is None:
        raise _refused(archive, f"lacks {', '.join(sorted(missing))}")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _require_usable(archive: Archive, folder: Path) -> None:
    """Before it is a build: another version of this program may have made it. Raises NothingFits, KvsplitError."""
    try:
        clauses = interface.faults(definitions.read(folder / shelf.BINDINGS))
    except KvsplitError:
        raise _refused(archive, f"has a {shelf.BINDINGS} that cannot be read") from None
    if clauses:
        raise NothingFits(
            f"The build {archive.id} is for another version of llm-kvsplit: {interface.summary(clauses)}."
        )


def _manifest(opened: tarfile.TarFile, member: tarfile.TarInfo, archive: Archive) -> dict[str, Any]:
    """The manifest, if it is of the build that the list named."""
    if member.name != "manifest.json" or member.size > _MANIFEST:
        raise _refused(archive, "does not begin with a manifest")
    file = opened.extractfile(member)
    assert file is not None  # a regular file
    try:
        manifest = json.loads(file.read())
        fits = manifest["id"] == archive.id
        named = bool(manifest["libraries"]) and all(isinstance(each, str) for each in shelf.files_of(manifest).values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _refused(archive, "has a manifest that cannot be read") from None
    if not fits or not named:
        raise _refused(archive, "has a manifest of another build")
    return manifest


def _write(source: IO[bytes] | None, target: Path, sha256: str, archive: Archive) -> None:
    assert source is not None
    total = hashlib.sha256()
    with open(target, "xb") as out:
        while piece := source.read(_PIECE):
            total.update(piece)
            out.write(piece)
    if total.hexdigest() != sha256:
        raise _refused(archive, f"holds a {target.name} that is not the manifest's")


def _refused(archive: Archive, why: str) -> KvsplitError:
    return KvsplitError(f"{archive.file} {why}, and nothing was installed: report it; {_BUILD}.")
