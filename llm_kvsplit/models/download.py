"""Fetching a GGUF over HTTP: resumed after a cut, checked, and never under its name before it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import files
from ..errors import KvsplitError
from ..gguf_format import MAGIC, not_gguf
from ..progress import transfer
from ..units import size as as_size
from .remote import RemoteFile, TransferCut, answer_error, as_sha256, get, host, public

if TYPE_CHECKING:
    from requests import Response, Session

CHUNK = 1 << 18
#: Attempts in a row that bring nothing; any progress starts the count again.
TRIES = 5
#: Seconds that a server may ask to be left alone; one that asks for more ends the download.
LONGEST_WAIT = 120
#: Bytes of a file's name on Linux and macOS.
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Download:
    path: Path
    size: int
    sha256: str
    #: The file was there already.
    reused: bool = False


def fetch(source: RemoteFile, folder: Path, sha256: str | None = None, pause: float = 1.0) -> Download:
    """Download ``source`` to its place under ``folder``, going on where an earlier attempt was cut.

    ``sha256`` is what the file must have. Without it, the file is compared with what the server states (Hugging Face
    does). ``pause`` is the first wait between attempts, in seconds, doubled each time. Ctrl-C leaves what came.
    Raises KvsplitError: no access, no such file, no space, another file there, not a GGUF, a wrong hash or size.
    """
    from filelock import FileLock, Timeout

    target = folder / source.place
    if sha256 and not as_sha256(sha256):
        raise KvsplitError(f"{sha256} is not a SHA-256: give its 64 hexadecimal digits.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_beside(target, ".lock"), timeout=0)
        with lock:
            download = _fetch_locked(source, target, sha256 and sha256.lower(), pause)
        # A process that gets this lock later checks for the finished file first, so the lock file may go.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        return download
    except Timeout:
        raise KvsplitError(f"Another process is downloading {target}: wait until it is done.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise KvsplitError(
                f"The disk of {target.parent} is full: make room and run the same command again, it goes on from there."
            ) from error
        raise KvsplitError(f"{target} cannot be written ({error.strerror or error}): check its folder.") from error


# One transfer.


@dataclass(frozen=True)
class _PartNotes:
    """What is kept beside a partial file, so that resuming knows what it is a part of."""

    url: str
    #: A strong ETag or a date, for the If-Range header.
    validator: str | None
    sha256: str | None


def _fetch_locked(source: RemoteFile, target: Path, sha256: str | None, pause: float) -> Download:
    import requests

    part = _beside(target, ".part")
    failures = 0
    with requests.Session() as session:
        session.headers.update({"User-Agent": "llm-kvsplit", "Accept-Encoding": "identity"})
        while True:
            before = files.size(part)
            try:
                return _attempt(session, source, target, part, sha256)
            except TransferCut as cut:
                failures = 0 if files.size(part) > before else failures + 1
                if failures == TRIES or (cut.wait or 0) > LONGEST_WAIT:
                    raise KvsplitError(f"{cut}: run the same command again later, it goes on from there.") from cut
                wait = pause * 2**failures if cut.wait is None else cut.wait
                click.echo(f"{cut}; trying again" + (f" in {wait:.0f} s." if wait >= 1 else "."), err=True)
                time.sleep(wait)


def _attempt(session: Session, source: RemoteFile, target: Path, part: Path, sha256: str | None) -> Download:
    notes = _resumable_notes(source, part, sha256)
    offset = files.size(part)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and notes.validator:
        headers["If-Range"] = notes.validator
    with _transfer_errors(source, part):
        response, facts = get(session, source.url, headers)
        with response:
            _refuse_compressed(response, source)
            if response.status_code == 416 and offset:
                # Either all of it is here and only the renaming was missed, or this is part of something else.
                if response.headers.get("Content-Range") != f"bytes */{offset}":
                    raise _changed(source, part)
                return _finish(target, part, offset, sha256 or notes.sha256)
            if response.status_code == 206 and notes.validator not in (None, _validator(response)):
                raise _changed(source, part)
            offset, total = _extent(response, source, part, offset, facts.size)
            if sha256 and facts.sha256 and sha256 != facts.sha256:
                raise KvsplitError(
                    f"The server states SHA-256 {facts.sha256} for {source.name}, not {sha256}: "
                    "check the hash and the file's name."
                )
            expected = sha256 or facts.sha256 or (notes.sha256 if offset else None)
            if target.exists():
                return _reuse(target, total, expected)
            _refuse_full_disk(source, part, offset, total)
            _save_notes(part, _PartNotes(public(source.url), _validator(response), expected))
            _receive(response, source, part, offset, total)
    return _finish(target, part, total, expected)


def _resumable_notes(source: RemoteFile, part: Path, sha256: str | None) -> _PartNotes:
    """The notes on ``part``, which is deleted where nothing would tell that it is a part of this file."""
    notes = _load_notes(part)
    if notes and notes.url == public(source.url) and (notes.validator or notes.sha256 or sha256):
        return notes
    _delete_part(part)
    return _PartNotes(public(source.url), None, None)


@contextmanager
def _transfer_errors(source: RemoteFile, part: Path) -> Iterator[None]:
    """Turn what requests raises into TransferCut, where another try may help, or KvsplitError."""
    import requests

    try:
        yield
    except requests.exceptions.SSLError as error:
        raise KvsplitError(
            f"{host(source.url)} has no certificate that this machine trusts ({error}): check the clock, "
            "or set REQUESTS_CA_BUNDLE to your network's own."
        ) from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise TransferCut(f"The connection to {host(source.url)} failed at {as_size(files.size(part))}") from error
    except (requests.RequestException, ValueError) as error:  # ValueError: a redirect to no address at all
        raise KvsplitError(f"{public(source.url)} cannot be fetched ({error}): check the address.") from error


def _refuse_compressed(response: Response, source: RemoteFile) -> None:
    """Raises KvsplitError: neither its length nor a range of it would be the file's."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if response.ok and encoding not in ("", "identity"):
        raise KvsplitError(
            f"{host(source.url)} sends {source.name} compressed ({encoding}), though it was asked not to: download it "
            "another way, then use 'llm kvsplit add FILE'."
        )


def _changed(source: RemoteFile, part: Path) -> TransferCut:
    _delete_part(part)
    return TransferCut(f"{source.name} has changed on the server", wait=0)


def _refuse_full_disk(source: RemoteFile, part: Path, offset: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total and total - offset > free:
        raise KvsplitError(
            f"{source.name} needs {as_size(total - offset)} more, but {part.parent} has {as_size(free)} free: "
            "make room first."
        )


def _extent(
    response: Response, source: RemoteFile, part: Path, offset: int, linked_size: int | None
) -> tuple[int, int | None]:
    """Where the body of the answer begins in the file, and how long the whole file is if that is known."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != offset:
            _delete_part(part)
            raise TransferCut(f"{host(source.url)} sent another piece of {source.name} than asked for", wait=0)
        return offset, int(match[2]) if match[2] != "*" else linked_size
    if response.status_code != 200:
        raise answer_error(response, source)
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else linked_size
    if total and linked_size and total != linked_size:
        raise KvsplitError(
            f"{host(source.url)} states two sizes for {source.name}, {linked_size} and {total} bytes: try again later."
        )
    return 0, total


def _receive(response: Response, source: RemoteFile, part: Path, offset: int, total: int | None) -> None:
    with part.open("ab" if offset else "wb") as out, transfer(source.name, total) as advance:
        advance(offset)
        at = offset
        for chunk in response.iter_content(CHUNK):
            if at == 0 and chunk[: len(MAGIC)] != MAGIC[: len(chunk)]:
                raise KvsplitError(f"{public(source.url)} {not_gguf(chunk)}.")
            out.write(chunk)
            advance(len(chunk))
            at += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    if total and at < total:
        raise TransferCut(f"The connection to {host(source.url)} ended at {as_size(at)} of {as_size(total)}")


def _finish(target: Path, part: Path, total: int | None, expected: str | None) -> Download:
    size = files.size(part)
    if total is not None and size != total:
        _delete_part(part)
        raise KvsplitError(f"{target.name} came as {size} bytes instead of {total} and was deleted: try again.")
    digest = files.sha256(part)
    if expected and digest != expected:
        _delete_part(part)
        raise KvsplitError(
            f"{target.name} came with SHA-256 {digest} instead of {expected} and was deleted: try again, "
            "or check the hash you gave."
        )
    os.replace(part, target)
    _delete_part(part)
    return Download(target, size, digest)


def _reuse(target: Path, total: int | None, expected: str | None) -> Download:
    if total == files.size(target):
        digest = files.sha256(target)
        if not expected or digest == expected:
            return Download(target, files.size(target), digest, reused=True)
    raise KvsplitError(f"{target} exists and is not what the server has: move it away, or delete it.")


def _validator(response: Response) -> str | None:
    etag = response.headers.get("ETag")
    # RFC 9110: a weak ETag may stand for different bytes, so If-Range does not take it.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


# Files.


def _beside(path: Path, ending: str) -> Path:
    """A file beside it whose name tells what it belongs to, as far as names may be so long."""
    name = f"{path.name}{ending}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{ending}"
    return path.with_name(name)


def _notes_file(part: Path) -> Path:
    return _beside(part, ".json")


def _load_notes(part: Path) -> _PartNotes | None:
    try:
        return _PartNotes(**json.loads(_notes_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _save_notes(part: Path, notes: _PartNotes) -> None:
    _notes_file(part).write_text(json.dumps(asdict(notes)), encoding="utf-8")


def _delete_part(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes_file(part).unlink(missing_ok=True)
