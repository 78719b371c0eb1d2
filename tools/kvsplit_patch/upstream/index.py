"""One file of a package, from wherever pip gets packages on this machine; nothing of the package is run.

``pip download`` is not enough: it makes a package's metadata first, for which it installs and runs what the package
names, and it is silent for as long as its output goes to another program. So pip is asked for its settings alone.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import NetworkError, PatchError

if TYPE_CHECKING:
    from unearth import Link, Package, PackageFinder

_TIMEOUT = 30  # seconds to connect, and between two pieces of the answer
_YES = ("1", "true", "yes", "y", "on", "t")  # as pip reads its settings


def newest(name: str) -> str:
    """The newest version of a package that has an sdist for this Python.

    Raises NetworkError, or PatchError where there is none.
    """
    return str(_choose(_finder(name, "sdist"), name, f"sdist of {name}", allow_prereleases=False).version)


def versions(name: str) -> list[str]:
    """Every released version of a package that has an sdist for this Python, the oldest first. Raises NetworkError."""
    what = f"sdist of {name}"
    with _in_words(what):
        packages = list(_finder(name, "sdist").find_matches(name, allow_prereleases=False))
    if not packages:
        raise NetworkError(f"The {what} cannot be looked for: check the network, then try again.")
    return list(dict.fromkeys(str(package.version) for package in reversed(packages)))


def download(name: str, version: str, form: str, folder: Path) -> Path:
    """Bring one file of a package into ``folder``, under the name it has on the index; its path.

    ``form`` is "sdist", or "wheel" for the one that fits this Python. The hash that the index states is checked; how
    far it is stands on stderr. Half a file lies in the folder meanwhile: give the one of ``incoming``.
    Raises NetworkError, or PatchError where no index has that file.
    """
    what = f"{form} of {name} {version}"
    finder = _finder(name, form)
    link = _choose(finder, f"{name}=={version}", what).link
    with _in_words(what), _bar(link) as report:
        path = finder.download(link, folder, download_reporter=report)
        if path.parent != folder:  # the index is a folder of this machine
            path = Path(shutil.copy(path, folder))
    return path


@contextmanager
def incoming(folder: Path) -> Iterator[Path]:
    """A scratch folder inside ``folder``, for one process at a time: empty at first, and gone afterwards."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".incoming"
    lock = FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        click.echo(f"waiting for another process that downloads into {folder} …", err=True)
        lock.acquire()
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a kill
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def _choose(finder: PackageFinder, requirement: str, what: str, allow_prereleases: bool | None = None) -> Package:
    """The best file for a requirement; ``what`` says in a message what it is."""
    with _in_words(what), _complaints() as complaints:
        package = next(iter(finder.find_matches(requirement, allow_prereleases=allow_prereleases)), None)
    if package:
        return package
    # That one index does not know a package is ordinary where there are several.
    reasons = [each for each in complaints if "(404)" not in each]
    if reasons:
        raise NetworkError(f"The {what} cannot be looked for ({reasons[0]}): mend that, or try again later.")
    raise PatchError(f"There is no {what} for this Python where pip looks for packages: see pip config list.")


# Where to look, and how to connect.


def _finder(name: str, form: str) -> PackageFinder:
    """What looks for one package where pip would, and connects as pip would."""
    from unearth import PackageFinder

    settings = _pip_settings()
    main = _words(settings.get("index-url"), "UV_DEFAULT_INDEX", "UV_INDEX_URL")[:1]
    more = _words(settings.get("extra-index-url"), "UV_INDEX", "UV_EXTRA_INDEX_URL")
    finder = PackageFinder(
        _client(settings, [*main, *more]),
        index_urls=main,  # without one it takes the public index, as pip does
        trusted_hosts=settings.get("trusted-host", "").split(),
        no_binary=[name] if form == "sdist" else (),
        only_binary=[name] if form == "wheel" else (),
    )
    for url in more:
        finder.add_index_url(url)
    if settings.get("no-index", "").lower() in _YES:
        finder.sources.clear()
    for place in _words(settings.get("find-links"), "UV_FIND_LINKS"):
        if "://" in place or os.path.exists(place):
            finder.add_find_links(place)
    return finder


def _client(settings: dict[str, str], indexes: list[str]):
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers.sync import PyPIClient

    proxy = settings.get("proxy")
    try:
        client = PyPIClient(
            trusted_hosts=settings.get("trusted-host", "").split(),
            verify=ssl.create_default_context(cafile=settings["cert"]) if "cert" in settings else True,
            proxy=f"http://{proxy}" if proxy and "://" not in proxy else proxy,
            timeout=_TIMEOUT,
            follow_redirects=True,
        )
    except (OSError, ValueError) as failure:
        raise PatchError(f"pip's cert or proxy cannot be used ({failure}): mend it (pip config list).") from failure
    # Passwords come from the address, ~/.netrc or a keyring: this may run where nobody can be asked.
    client.auth = MultiDomainBasicAuth(prompting=False, index_urls=indexes)
    return client


def _pip_settings() -> dict[str, str]:
    """pip's settings for ``pip download`` by name, out of its files and of ``PIP_…`` variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1].removeprefix("ERROR: ")
        raise PatchError(f"pip could not tell where it gets packages ({reason}): mend its configuration.")
    settings: dict[str, str] = {}
    for section in ("global", "download", ":env:"):  # the later wins
        lines = re.findall(rf"^{section}\.([\w-]+)=(.+)$", done.stdout, re.MULTILINE)
        settings.update((name, value) for name, text in lines if (value := ast.literal_eval(text)))
    return settings


def _words(setting: str | None, *variables: str) -> list[str]:
    """The places in a setting of pip, else in uv's variables: whoever installs with uv may have told uv alone."""
    for text in (setting, *map(os.environ.get, variables)):
        if text:
            # uv gives an index a name ("internal=https://…") and divides links by commas.
            return [re.sub(r"^[\w-]+=(?=\w+://)", "", word) for word in re.split(r"[\s,]+", text.strip())]
    return []


# What a person sees.


@contextmanager
def _bar(link: Link) -> Iterator[Callable[..., None]]:
    """What unearth is to call with how far it is."""
    from llm_kvsplit.progress import transfer

    before = 0
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None

        def report(link: Link, completed: int, total: int | None) -> None:
            nonlocal advance, before
            # Only here is the length known.
            advance = advance or stack.enter_context(transfer(f"{link.filename} from {link.parsed.hostname}", total))
            advance(completed - before)
            before = completed

        yield report


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What unearth logs about an index and goes on after; nothing of it appears on stderr by itself."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("unearth")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """The failures of a look-up or a transfer, each as one sentence."""
    import httpx2
    from unearth.errors import HashMismatchError, UnpackError

    try:
        yield
    except HashMismatchError as failure:
        raise NetworkError(f"The {what} came with another hash than its index states: try again.") from failure
    except (httpx2.HTTPError, UnpackError) as failure:
        request = getattr(failure, "_request", None)
        host = f"{request.url.host}: " if request else ""
        reason = host + (str(failure).splitlines() or [type(failure).__name__])[0]
        raise NetworkError(f"The {what} cannot be had ({reason}): check the network, then try again.") from failure
    except (httpx2.InvalidURL, ValueError) as failure:
        raise PatchError(f"pip is told of a place that is none ({failure}): mend it (pip config list).") from failure
    except OSError as failure:
        reason = f"{failure.strerror or failure}" + (f", {failure.filename}" if failure.filename else "")
        raise PatchError(f"The {what} cannot be kept ({reason}): mend that, then try again.") from failure
