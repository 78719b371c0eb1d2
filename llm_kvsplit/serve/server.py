"""``llama-server`` of the chosen build, with llama.cpp's own web page where that can be made."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import click

from .. import companion
from ..builds import first_build, programs

NAME = "llama-server"
#: A small page of ours, which shows each model's cache and asks all of them the same question. It is the first page where
#: llama.cpp's is missing.
OWN_PAGE = Path(__file__).with_name("page") / "index.html"
#: Where it is found beside llama.cpp's page.
BESIDE = "kvsplit.html"
#: Where llama.cpp's build looks for a page that is ready made (scripts/ui-assets.cmake).
_READY_MADE = "tools/ui/dist"


def with_page() -> Path:
    """The server that holds llama.cpp's page and ours; each is made once. Raises click.ClickException."""
    variant = f"page-{hashlib.sha256(OWN_PAGE.read_bytes()).hexdigest()[:8]}"
    if program := programs.find(NAME, variant=variant):
        return program
    page = first_build.with_progress(companion.function("page"))
    with tempfile.TemporaryDirectory(prefix="kvsplit-page-") as scratch:
        both = Path(scratch) / "page"
        shutil.copytree(page, both)
        shutil.copyfile(OWN_PAGE, both / BESIDE)
        return programs.ensure(NAME, variant=variant, added={_READY_MADE: both})


def program() -> tuple[Path, str]:
    """The server to start, and why it lacks llama.cpp's page; "" where it has it. Raises KvsplitError, click.Abort."""
    programs.find(NAME)  # what prevents any server is said as such
    try:
        return with_page(), ""
    except click.ClickException as reason:
        return without_page(), reason.message


def without_page() -> Path:
    """The server alone. Raises KvsplitError, click.Abort."""
    return programs.ensure(NAME)
