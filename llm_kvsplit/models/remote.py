"""A model on a server: what a person may write for it, and asking for it.

This file knows Hugging Face: its addresses, its token, and what it says about a file on the way to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from ..errors import KvsplitError
from ..gguf import part_names

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

#: Seconds to connect, and between two pieces of an answer.
TIMEOUT = (15, 60)


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch."""

    url: str
    #: Where it belongs under the folder of downloads, such as huggingface.co/owner/repo/model.gguf.
    place: str

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]


class TransferCut(Exception):
    """The transfer ended early in a way that may pass; the message completes "… : run the command again"."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def resolve(spec: str, file: str | None = None) -> list[RemoteFile]:
    """The file that ``spec`` names, or all parts of a split model.

    ``spec`` is a URL, ``owner/repo/file.gguf`` on Hugging Face, or ``owner/repo`` with the file beside it. Without
    one the repository is asked, which answers where it has one GGUF only, or one of the file type in
    ``owner/repo:Q4_K_M``, as llama.cpp and Ollama write it. Raises KvsplitError with what is wrong.
    """
    if "://" in spec:
        if file:
            raise KvsplitError(f"{public(spec)} is an address already: leave {file} out.")
        return _from_url(spec)
    segments = spec.split("/")
    if len(segments) < 2 or not all(re.match(r"\w", each) for each in segments) or (file and len(segments) > 2):
        raise KvsplitError(f"{spec} names nothing to fetch: give a URL, or owner/repo and a file on Hugging Face.")
    repo, _, file_type = "/".join(segments[:2]).partition(":")
    if file_type and (file or len(segments) > 2):
        raise KvsplitError(f"{spec} names a file type and a file: give one of them.")
    inside = file or "/".join(segments[2:]) or _only_file(repo, file_type)
    return _from_url(f"{_endpoint()}/{repo}/resolve/main/{quote(inside)}")


def _from_url(url: str) -> list[RemoteFile]:
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
            "use 'llm kvsplit add FILE'."
        )
    sources = []
    for name in part_names(unquote(last)):
        path = split.path if name == unquote(last) else f"{folder}/{quote(name)}"
        sources.append(RemoteFile(urlunsplit(split._replace(path=path)), _place(split.netloc, unquote(path))))
    return sources


def _place(netloc: str, path: str) -> str:
    path = re.sub(r"^(/[^/]+/[^/]+)/resolve/[^/]+/", r"\1/", path)
    segments = [re.sub(r"[^\w.+@=-]", "_", each) for each in f"{netloc.rpartition('@')[2]}{path}".split("/")]
    return "/".join(each for each in segments if each.strip("."))


def _only_file(repo: str, file_type: str) -> str:
    """The one GGUF (or split model) of a Hugging Face repository; with a file type, the one whose name holds it."""
    import requests

    source = RemoteFile(f"{_endpoint()}/{repo}", repo)
    try:
        with requests.Session() as session:
            response, _ = get(session, f"{_endpoint()}/api/models/{repo}", {})
            if response.status_code != 200:
                raise answer_error(response, source)
            names = [each["rfilename"] for each in response.json()["siblings"]]
    except (requests.ConnectionError, requests.Timeout) as error:
        raise KvsplitError(
            f"{_endpoint()} cannot be reached for the files of {repo}: check the network, and try again."
        ) from error
    except (requests.RequestException, TransferCut) as error:
        raise KvsplitError(
            f"{_endpoint()} cannot be asked for the files of {repo} ({error}): name the file."
        ) from error
    except (KeyError, TypeError) as error:
        raise KvsplitError(f"{_endpoint()} does not list the files of {repo}: name the file.") from error
    models = [name for name in names if name.endswith(".gguf") and part_names(name)[0] == name]
    if not models:
        raise KvsplitError(f"{repo} has no GGUF files: choose another repository.")
    if file_type:
        named = re.compile(rf"(?<![a-z0-9]){re.escape(file_type.lower())}(?![a-z0-9_])")
        of_type = [name for name in models if named.search(name.lower())]
        if not of_type:
            raise KvsplitError(f"{repo} has no {file_type} among {', '.join(models)}: name one of them.")
        models = of_type
    if len(models) > 1:
        raise KvsplitError(
            f"{repo} has {', '.join(models)}: name one, such as 'llm kvsplit download {repo} {models[0]}'."
        )
    return models[0]


# Requests.


@dataclass(frozen=True)
class FileFacts:
    """What Hugging Face says about a large file, on the redirect to where it lies."""

    sha256: str | None = None
    size: int | None = None


def get(session: Session, url: str, headers: dict[str, str]) -> tuple[Response, FileFacts]:
    """GET, following redirects here: the token goes to its own host only, and the hash stands on a redirect."""
    facts = FileFacts()
    for _ in range(10):
        token = _token() if _origin(url) == _origin(_endpoint()) else None
        response = session.get(
            url, headers=headers, auth=_bearer(token), stream=True, allow_redirects=False, timeout=TIMEOUT
        )
        linked = response.headers.get("X-Linked-Size", "")
        facts = FileFacts(
            as_sha256(response.headers.get("X-Linked-Etag", "").strip('"')) or facts.sha256,
            int(linked) if linked.isdecimal() else facts.size,
        )
        if not response.is_redirect:
            return response, facts
        to = urljoin(url, response.headers["Location"])
        response.close()
        if urlsplit(to).scheme != "https" and urlsplit(url).scheme == "https":
            raise KvsplitError(f"{host(url)} sends the download on to the unencrypted {host(to)}: it is not followed.")
        url = to
    raise KvsplitError(f"{host(url)} sends the download round in circles: check the address.")


def answer_error(response: Response, source: RemoteFile) -> Exception:
    """What to raise for an answer without the file: TransferCut where another try may help, else KvsplitError."""
    status = response.status_code
    hub, at_hub = (_origin(url) == _origin(_endpoint()) for url in (source.url, response.url))
    what = f"{host(response.url)} answers HTTP {status} for {source.name}"
    if status == 429 or status >= 500:
        after = response.headers.get("Retry-After", "")
        return TransferCut(what, wait=int(after) if after.isdecimal() else None)
    if status in (401, 403) and hub and not at_hub:
        return TransferCut(what)  # the address that the hub signed has run out: it will sign another
    if status in (401, 403) and hub:
        page = "/".join(source.url.split("/")[:5])
        if not _token():
            return KvsplitError(
                f"{what}: check that {page} exists, accept its terms there if it has any, and put a token from "
                f"{_endpoint()}/settings/tokens into HF_TOKEN."
            )
        return KvsplitError(f"{what}: accept the terms on {page} with the account of your HF_TOKEN.")
    if status in (401, 403):
        return KvsplitError(f"{what}: download it the way its site asks for, then use 'llm kvsplit add FILE'.")
    if status == 404:
        return KvsplitError(f"{what}: it does not exist there, check the spelling of {public(source.url)}.")
    return KvsplitError(f"{what}: check the address {public(source.url)}.")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _token() -> str | None:
    """The person's token, without the line end of a secret from a file. Raises KvsplitError for one inside."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        token = os.environ.get(name, "").strip()
        if not token:
            continue
        if not re.fullmatch(r"[!-~]+", token):
            raise KvsplitError(f"{name} holds a space, a line end or a letter that no token has: set it anew.")
        return token
    return None


def _bearer(token: str | None) -> Callable[[PreparedRequest], PreparedRequest] | None:
    """As requests' ``auth``, which takes precedence over what ~/.netrc has for the host."""
    if not token:
        return None

    def sign(request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def _origin(url: str) -> tuple[str, str | None, int | None]:
    split = urlsplit(url)
    return split.scheme, split.hostname, split.port


def host(url: str) -> str:
    return urlsplit(url).hostname or url


def public(url: str) -> str:
    """Without the password that it may carry."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def as_sha256(text: str) -> str | None:
    return text.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", text) else None
