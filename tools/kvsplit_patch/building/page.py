"""llama.cpp's own web page (``tools/ui``, Svelte), built by npm from the tree of the series; kept in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from llm_kvsplit.builds import shelf

from ..echo import Echo
from ..errors import PatchError, Unable
from ..failures import first_error
from ..paths import cache_dir
from ..series import trees
from . import cmake

#: What its vite asks for (``engines`` in vite's package.json).
_NODE = (20, 19)


def for_plugin(echo: Echo) -> Path:
    """The folder of the page's files, made where it is not there yet. Raises Unable without Node, PatchError."""
    source = trees.patched().folder / "tools" / "ui"
    folder = cache_dir() / "pages" / _digest(source)
    if (folder / "index.html").is_file():
        return folder
    npm = _npm()
    folder.parent.mkdir(exist_ok=True)
    with (
        FileLock(f"{folder}.lock"),
        cmake.disk_full_explained(folder.parent),
        # npm's packages take 700 MB, and are needed no longer then.
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".packages-") as scratch,
    ):
        if (folder / "index.html").is_file():
            return folder
        work = Path(scratch) / "ui"
        shutil.copytree(source, work, copy_function=shutil.copyfile)
        with shelf.whole(folder) as out:
            echo("Building llama.cpp's web page: npm fetches its packages, and runs for about two minutes.")
            # No package runs a script of its own at installation.
            _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"], work, out)
            _run([npm, "run", "build"], work, out)
            if not (out / "index.html").is_file():
                raise PatchError("npm built llama.cpp's web page without an index.html: report it.")
    return folder


def _npm() -> str:
    wanted = ".".join(map(str, _NODE))
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        raise Unable(f"There is no npm: install Node {wanted} or newer.")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    if not numbers or (int(numbers[1]), int(numbers[2])) < _NODE:
        raise Unable(f"Node {version.removeprefix('v')} is too old: install Node {wanted} or newer.")
    return npm


def _run(command: list[str], work: Path, out: Path) -> None:
    environment = {**os.environ, "LLAMA_UI_OUT_DIR": str(out), "CI": "1"}
    done = subprocess.run(
        command,
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise PatchError(f"'npm {command[1]}' failed for llama.cpp's web page: {first_error(done.stdout, 'err')}.")


def _digest(source: Path) -> str:
    """Changes with the sources of the page."""
    total = hashlib.sha256()
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(source)}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
