"""Fetching a GGUF over HTTP: resumed after a cut, checked, and never under its name before it is whole."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import click

from .errors import KvsplitError
from .gguf import MAGIC, part_names
from .units import size as as_size

TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of the answer
CHUNK = 1 << 18
#: Attempts in a row that bring nothing; any progress starts the count again.
TRIES = 5
#: Seconds that a server may ask to be left alone and still be waited for.
PATIENCE = 120


@dataclass(frozen=True)
class Source:
    """One file to fetch."""

    url: str
    #: Where it belongs under the folder of downloads, such as huggingface.co/owner/repo/model.gguf.
    place: str

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]


@dataclass(frozen=True)
class Download:
    path: Path
    size: int
    sha256: str
    #: The file was there already.
    reused: bool = False


def resolve(spec: str, file: str | None = None) -> list[Source]:
    """The file that ``spec`` names, or all parts of a split model.

    ``spec`` is a URL, ``owner/repo/file.gguf`` on Hugging Face, or ``owner/repo`` with the file beside it; without
    one the repository is asked, which settles it if it has one GGUF only. Raises KvsplitError with what is wrong.
    """
    if "://" in spec:
        if file:
            raise KvsplitError(f"{public(spec)} is an address already: leave {file} out.")
        return _from_url(spec)
    segments = spec.split("/")
    if len(segments) < 2 or not all(re.match(r"\w", each) for each in segments) or (file and len(segments) > 2):
        raise KvsplitError(f"{spec} names nothing to fetch: give a URL, or owner/repo and a file on Hugging Face.")
    repo = "/".join(segments[:2])
    inside = file or "/".join(segments[2:]) or _only_file(repo)
    return _from_url(f"{_endpoint()}/{repo}/resolve/main/{quote(inside)}")


def fetch(source: Source, folder: Path, sha256: str | None = None, pause: float = 1.0) -> Download:
    """Download ``source`` to its place under ``folder``, going on where an earlier attempt was cut.

    ``sha256`` is what the file must have; without it, what the server states (Hugging Face does) is held against
    the file. ``pause`` is the first wait between attempts, in seconds, doubled each time. Ctrl-C leaves what came.
    Raises KvsplitError: no access, no such file, no space, another file there, not a GGUF, a wrong hash or size.
    """
    from filelock import FileLock, Timeout

    target = folder / source.place
    if sha256 and not _as_sha256(sha256):
        raise KvsplitError(f"{sha256} is not a SHA-256: give its 64 hexadecimal digits.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{target}.lock", timeout=0)
        with lock:
            done = _fetch_locked(source, target, sha256 and sha256.lower(), pause)
        # Whoever waits for this lock looks for the finished file first, so the lock file may go.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        return done
    except Timeout:
        raise KvsplitError(f"Another process is downloading {target}: wait until it is done.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise KvsplitError(
                f"The disk of {target.parent} is full: make room and run the same command again, it goes on from there."
            ) from error
        raise KvsplitError(f"{target} cannot be written ({error.strerror or error}): check its folder.") from error


# One transfer.


class _Cut(Exception):
    """The transfer ended early in a way that may pass; the message completes "… : run the command again"."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class _Notes:
    """What is kept beside a partial file, to know on resuming that it is part of the same thing."""

    url: str
    #: A strong ETag or a date, for the If-Range header.
    validator: str | None
    sha256: str | None


def _fetch_locked(source: Source, target: Path, sha256: str | None, pause: float) -> Download:
    import requests

    part = Path(f"{target}.part")
    failures = 0
    with requests.Session() as session:
        session.headers.update({"User-Agent": "llm-kvsplit", "Accept-Encoding": "identity"})
        while True:
            before = _size(part)
            try:
                return _attempt(session, source, target, part, sha256)
            except _Cut as cut:
                failures = 0 if _size(part) > before else failures + 1
                if failures == TRIES or (cut.wait or 0) > PATIENCE:
                    raise KvsplitError(f"{cut}: run the same command again later, it goes on from there.") from cut
                wait = pause * 2**failures if cut.wait is None else cut.wait
                click.echo(f"{cut}; trying again" + (f" in {wait:.0f} s." if wait >= 1 else "."), err=True)
                time.sleep(wait)


def _attempt(session, source: Source, target: Path, part: Path, sha256: str | None) -> Download:
    import requests

    notes = _load_notes(part)
    if not notes or notes.url != public(source.url) or not (notes.validator or notes.sha256 or sha256):
        _forget(part)
        notes = None
    offset = _size(part)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and notes.validator:
        headers["If-Range"] = notes.validator
    try:
        response, stated = _get(session, source.url, headers)
        with response:
            if response.status_code == 416 and offset:
                # Either all of it is here and only the renaming was missed, or this is part of something else.
                if response.headers.get("Content-Range") != f"bytes */{offset}":
                    _forget(part)
                    raise _Cut(f"{source.name} has changed on the server", wait=0)
                return _finish(target, part, offset, sha256 or notes.sha256)
            if response.status_code == 206 and notes and notes.validator not in (None, _validator(response)):
                _forget(part)
                raise _Cut(f"{source.name} has changed on the server", wait=0)
            offset, total = _extent(response, source, part, offset, stated.size)
            if sha256 and stated.sha256 and sha256 != stated.sha256:
                raise KvsplitError(
                    f"The server states SHA-256 {stated.sha256} for {source.name}, not {sha256}: "
                    "check the hash and the file's name."
                )
            expected = sha256 or stated.sha256 or (notes.sha256 if notes and offset else None)
            if target.exists():
                return _reuse(target, total, expected)
            if total and (total - offset) > (free := shutil.disk_usage(part.parent).free):
                raise KvsplitError(
                    f"{source.name} needs {as_size(total - offset)} more, but {part.parent} has {as_size(free)} free: "
                    "make room first."
                )
            _save_notes(part, _Notes(public(source.url), _validator(response), expected))
            _receive(response, source, part, offset, total)
    except requests.exceptions.SSLError as error:
        raise KvsplitError(f"{_host(source.url)} has no certificate that this machine trusts ({error}).") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Cut(f"The connection to {_host(source.url)} failed at {as_size(_size(part))}") from error
    except (requests.RequestException, ValueError) as error:  # ValueError: a redirect to no address at all
        raise KvsplitError(f"{public(source.url)} cannot be fetched ({error}): check the address.") from error
    return _finish(target, part, total, expected)


def _extent(response, source: Source, part: Path, offset: int, linked_size: int | None) -> tuple[int, int | None]:
    """Where the body of the answer begins in the file, and how long the whole file is if that is known."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != offset:
            _forget(part)
            raise _Cut(f"{_host(source.url)} sent another piece of {source.name} than asked for", wait=0)
        return offset, int(match[2]) if match[2] != "*" else linked_size
    if response.status_code != 200:
        raise _refused(response, source)
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else linked_size
    if total and linked_size and total != linked_size:
        raise KvsplitError(
            f"{_host(source.url)} states two sizes for {source.name}, {linked_size} and {total} bytes: try again later."
        )
    return 0, total


def _receive(response, source: Source, part: Path, offset: int, total: int | None) -> None:
    with part.open("ab" if offset else "wb") as out, _progress(source.name, total) as advance:
        advance(offset)
        at = offset
        for chunk in response.iter_content(CHUNK):
            if at == 0 and chunk[: len(MAGIC)] != MAGIC[: len(chunk)]:
                raise KvsplitError(
                    f"{public(source.url)} is not a GGUF file (it begins with {chunk[:16]!r}): "
                    "give the address of the file itself."
                )
            out.write(chunk)
            advance(len(chunk))
            at += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    if total and at < total:
        raise _Cut(f"The connection to {_host(source.url)} ended at {as_size(at)} of {as_size(total)}")


def _finish(target: Path, part: Path, total: int | None, expected: str | None) -> Download:
    size = _size(part)
    if total is not None and size != total:
        _forget(part)
        raise KvsplitError(f"{target.name} came as {size} bytes instead of {total} and was deleted: try again.")
    digest = file_sha256(part)
    if expected and digest != expected:
        _forget(part)
        raise KvsplitError(
            f"{target.name} came with SHA-256 {digest} instead of {expected} and was deleted: try again, "
            "or check the hash you gave."
        )
    os.replace(part, target)
    _forget(part)
    return Download(target, size, digest)


def _reuse(target: Path, total: int | None, expected: str | None) -> Download:
    if total == _size(target):
        digest = file_sha256(target)
        if not expected or digest == expected:
            return Download(target, _size(target), digest, reused=True)
    raise KvsplitError(f"{target} exists and is not what the server has: move it away, or delete it.")


def _refused(response, source: Source) -> Exception:
    status, host = response.status_code, _host(response.url)
    hub, at_hub = (_origin(url) == _origin(_endpoint()) for url in (source.url, response.url))
    what = f"{host} answers HTTP {status} for {source.name}"
    if status == 429 or status >= 500:
        after = response.headers.get("Retry-After", "")
        return _Cut(what, wait=int(after) if after.isdecimal() else None)
    if status in (401, 403) and hub and not at_hub:
        return _Cut(what)  # the address that the hub signed has run out: it will sign another
    if status in (401, 403) and hub:
        page = "/".join(source.url.split("/")[:5])
        if not _token():
            return KvsplitError(
                f"{what}: check that {page} exists, accept its terms there if it has any, and put a token from "
                f"{_endpoint()}/settings/tokens into HF_TOKEN."
            )
        return KvsplitError(f"{what}: accept the terms on {page} with the account of your HF_TOKEN.")
    if status in (401, 403):
        return KvsplitError(f"{what}: download it the way its site asks for, then use `llm kvsplit add FILE`.")
    if status == 404:
        return KvsplitError(f"{what}: it does not exist there, check the spelling of {public(source.url)}.")
    return KvsplitError(f"{what}: check the address {public(source.url)}.")


# Requests and addresses.


@dataclass(frozen=True)
class _Stated:
    """What Hugging Face says about a large file, on the redirect to where it lies."""

    sha256: str | None = None
    size: int | None = None


def _get(session, url: str, headers: dict[str, str]):
    """GET with redirects followed by hand: the token goes to its own host only, and the hash stands on a redirect."""
    stated = _Stated()
    for _ in range(10):
        token = _token() if _origin(url) == _origin(_endpoint()) else None
        response = session.get(
            url, headers=headers, auth=_bearer(token), stream=True, allow_redirects=False, timeout=TIMEOUT
        )
        linked = response.headers.get("X-Linked-Size", "")
        stated = _Stated(
            _as_sha256(response.headers.get("X-Linked-Etag", "").strip('"')) or stated.sha256,
            int(linked) if linked.isdecimal() else stated.size,
        )
        if not response.is_redirect:
            return response, stated
        to = urljoin(url, response.headers["Location"])
        response.close()
        if urlsplit(to).scheme != "https" and urlsplit(url).scheme == "https":
            raise KvsplitError(f"{_host(url)} sends the download on to the unencrypted {_host(to)}: it is not followed.")
        url = to
    raise KvsplitError(f"{_host(url)} sends the download round in circles: check the address.")


def _only_file(repo: str) -> str:
    """The one GGUF (or split model) of a Hugging Face repository."""
    import requests

    source = Source(f"{_endpoint()}/{repo}", repo)
    try:
        with requests.Session() as session:
            response, _ = _get(session, f"{_endpoint()}/api/models/{repo}", {})
            if response.status_code != 200:
                raise _refused(response, source)
            names = [each["rfilename"] for each in response.json()["siblings"]]
    except (requests.RequestException, _Cut) as error:
        raise KvsplitError(f"{_endpoint()} cannot be asked for the files of {repo} ({error}): name the file.") from error
    except (KeyError, TypeError) as error:
        raise KvsplitError(f"{_endpoint()} does not list the files of {repo}: name the file.") from error
    models = [name for name in names if name.endswith(".gguf") and part_names(name)[0] == name]
    if len(models) != 1:
        raise KvsplitError(f"{repo} has {', '.join(models) or 'no GGUF files'}: " + (
            f"name one, such as `llm kvsplit download {repo} {models[0]}`." if models else "choose another repository."
        ))  # fmt: skip
    return models[0]


def _from_url(url: str) -> list[Source]:
    try:
        split = urlsplit(url)
        usable = split.scheme in ("http", "https") and split.hostname and split.port != 0
    except ValueError:  # an impossible port or bracket
        usable = False
    if not usable:
        raise KvsplitError(f"{public(url)} is not an address that can be fetched: give one with https://.")
    if _origin(url) == _origin(_endpoint()):
        # What the browser shows is a page about the file; the file itself is beside it.
        split = split._replace(path=split.path.replace("/blob/", "/resolve/", 1), query="", fragment="")
    folder, _, last = split.path.rpartition("/")
    if not last.endswith(".gguf"):
        raise KvsplitError(
            f"{public(url)} does not end in .gguf: give the file's own address, or download it another way and "
            "use `llm kvsplit add FILE`."
        )
    sources = []
    for name in part_names(unquote(last)):
        path = split.path if name == unquote(last) else f"{folder}/{quote(name)}"
        sources.append(Source(urlunsplit(split._replace(path=path)), _place(split.netloc, unquote(path))))
    return sources


def _place(netloc: str, path: str) -> str:
    path = re.sub(r"^(/[^/]+/[^/]+)/resolve/[^/]+/", r"\1/", path)
    segments = [re.sub(r"[^\w.+@=-]", "_", each) for each in f"{netloc.rpartition('@')[2]}{path}".split("/")]
    return "/".join(each for each in segments if each.strip("."))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _token() -> str | None:
    return os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")


def _bearer(token: str | None) -> Callable | None:
    """As requests' ``auth``, which takes precedence over what ~/.netrc has for the host."""
    if not token:
        return None

    def sign(request):
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def _origin(url: str) -> tuple[str, str | None, int | None]:
    split = urlsplit(url)
    return split.scheme, split.hostname, split.port


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def public(url: str) -> str:
    """Without the password that it may carry."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def _as_sha256(text: str) -> str | None:
    return text.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", text) else None


def _validator(response) -> str | None:
    etag = response.headers.get("ETag")
    # RFC 9110: a weak ETag may stand for different bytes, so If-Range does not take it.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


# Files.


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _notes_file(part: Path) -> Path:
    return Path(f"{part}.json")


def _load_notes(part: Path) -> _Notes | None:
    try:
        return _Notes(**json.loads(_notes_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _save_notes(part: Path, notes: _Notes) -> None:
    _notes_file(part).write_text(json.dumps(asdict(notes)), encoding="utf-8")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes_file(part).unlink(missing_ok=True)


@contextmanager
def _progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal, else one line; yields what to call with each number of bytes."""
    at = 0
    with click.progressbar(
        length=total or 0,
        label=label,
        file=sys.stderr,
        item_show_func=lambda _: as_size(at) + (f" of {as_size(total)}" if total else ""),
    ) as bar:

        def advance(n: int) -> None:
            nonlocal at
            at += n
            bar.update(n, current_item=at)

        yield advance
