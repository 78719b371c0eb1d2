"""GitHub's REST API: what it answers, waited for where that helps, and its refusals as sentences.

Reads are tried again after a fault of the server or the network. A write is not, unless the server said that it did
not do it: whoever writes looks first what is there, so the next run finds out.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

from ..echo import Echo
from ..errors import NetworkError, PatchError

PUBLIC = "https://api.github.com"
_VERSION = "2022-11-28"
_TIMEOUT = (15, 60)  # seconds to connect, and for the answer
_TRIES = 4
#: Seconds that the server may ask to be left alone and still be waited for.
PATIENCE = 120
#: Of an answer that tells a program too much at once.
_MOST_PAGES = 50


class Refused(PatchError):
    """The server understood and said no. ``status``: 401, 403, 404, 409, 422, …"""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class GitHub:
    """One repository, ``owner/name``, at an API address; ``dry_run`` prints each write in place of making it."""

    def __init__(
        self,
        repository: str,
        token: str = "",
        url: str = PUBLIC,
        dry_run: bool = False,
        echo: Echo = print,
        pause: float = 1.0,
    ):
        import requests

        self.repository, self.url, self.dry_run = repository, url.rstrip("/"), dry_run
        self._echo, self._pause = echo, pause
        self._session = requests.Session()
        self._session.headers.update(
            {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": _VERSION, "User-Agent": "llm-kvsplit"}
        )
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def beside(self, repository: str) -> GitHub:
        """Another repository, asked with the same token."""
        other = copy.copy(self)
        other.repository = repository
        return other

    def get(self, path: str, **parameters: Any) -> Any:
        """The answer to a GET below the repository, ``issues/1``. Raises Refused, NetworkError."""
        return self._ask("GET", self._below(path), params=parameters).json()

    def find(self, path: str, **parameters: Any) -> Any:
        """``get``, or None for what is not there."""
        try:
            return self.get(path, **parameters)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    def pages(self, path: str, **parameters: Any) -> Iterator[Any]:
        """Every item of a list, page after page."""
        address, parameters = self._below(path), {"per_page": 100, **parameters}
        for _ in range(_MOST_PAGES):
            answer = self._ask("GET", address, params=parameters)
            yield from answer.json()
            following = answer.links.get("next", {}).get("url")
            if not following:
                return
            if not following.startswith(f"{self.url}/"):
                raise PatchError(f"{self.url} names {following} as the next page, which is elsewhere: report it.")
            address, parameters = following, {}
        raise PatchError(f"{self._below(path)} has more than {_MOST_PAGES} pages: close what is done with.")

    def write(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """POST, PATCH or PUT below the repository; an empty answer in a dry run."""
        if self.dry_run:
            self._echo(f"{method} /repos/{self.repository}/{path} {json.dumps(body, ensure_ascii=False)}")
            return {}
        return self._ask(method, self._below(path), json=body).json()

    def _below(self, path: str) -> str:
        return f"{self.url}/repos/{self.repository}/{path}"

    def _ask(self, method: str, address: str, **more: Any) -> Any:
        import requests

        failure = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                answer = self._session.request(method, address, timeout=_TIMEOUT, **more)
            except requests.RequestException as error:
                failure = _reason(error)
            else:
                if answer.ok:
                    return answer
                if (seconds := _wait(answer)) is not None:
                    failure = self._rest(seconds)
                    continue  # it was not done, so a write may be tried again, too
                if answer.status_code < 500:
                    raise Refused(_sentence(method, address, answer, self.repository), answer.status_code)
                failure = f"it answered {answer.status_code}"
            if method != "GET":
                break
        raise NetworkError(f"{method} {address} failed: {failure}; try again later.")

    def _rest(self, seconds: float) -> str:
        """Wait as long as the server asks. Raises NetworkError if that is too long."""
        if seconds > PATIENCE:
            until = datetime.fromtimestamp(time.time() + seconds, timezone.utc)
            raise NetworkError(f"{self.url} allows no more requests until {until:%H:%M} UTC: try again then.")
        self._echo(f"{self.url} asks for {seconds:.0f} s of rest")
        time.sleep(seconds)
        return "it allows no more requests for now"


def _wait(answer: Any) -> float | None:
    """Seconds that a rate limit asks for; None where that is not why the server says no."""
    if answer.status_code not in (403, 429):
        return None
    after = answer.headers.get("Retry-After", "")
    if after.isdecimal():
        return float(after)
    if answer.headers.get("X-RateLimit-Remaining") == "0":
        return max(0.0, float(answer.headers.get("X-RateLimit-Reset", 0)) - time.time()) + 1
    # GitHub's second limit may come without a header; its documentation asks for a minute.
    return 60.0 if answer.status_code == 429 else None


def _sentence(method: str, address: str, answer: Any, repository: str) -> str:
    try:
        reason = str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        reason = ""
    steps = {
        401: "the token in GITHUB_TOKEN is not valid: make a new one",
        403: "the token may not do that: give it write access to contents, issues and pull requests",
        404: f"there is no such thing, or the token may not see {repository}: check GITHUB_REPOSITORY and the token",
        409: "something else changed it at the same time: run this again",
    }
    step = steps.get(answer.status_code, "look at the request")
    return f"{method} {address} was refused with {answer.status_code}{f' ({reason})' if reason else ''}; {step}."


def _reason(error: Exception) -> str:
    return type(error).__name__ + (f" ({str(error)[:100]})" if str(error) else "")


def from_environment(dry_run: bool, echo: Echo) -> GitHub | None:
    """The repository and token that GitHub's workflows have in their environment; None without, but for a dry run."""
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token and not dry_run:
        return None
    repository = os.environ.get("GITHUB_REPOSITORY", "llm-kvsplit/llm-kvsplit")
    return GitHub(repository, token, os.environ.get("GITHUB_API_URL", PUBLIC), dry_run, echo)


def newest_release(upstream: GitHub, accept: Callable[[str], Any]) -> str | None:
    """The tag of the newest release that is neither a draft nor a trial and whose name ``accept`` takes."""
    for release in upstream.get("releases", per_page=100):
        if not release["draft"] and not release["prerelease"] and accept(release["tag_name"]):
            return release["tag_name"]
    return None
