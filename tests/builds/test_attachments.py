"""Answers about pictures and sound are those of upstream's own program, of the same build, on the same files."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.series import trees
from tests.support import sighted
from tests.support.library import BUILD  # noqa: F401  # names where the plugin's own build is
from tests.support.media import JPEG, PNG

#: Upstream's own samples.
NEWSPAPER, SPEECH = "tools/mtmd/test-1.jpeg", "tools/mtmd/test-2.mp3"


#: The program can end before the thread of its log has written the end of an answer, where the machine is busy.
TRIES = 30
#: It writes out control tokens, which random weights choose, too; an answer of ours leaves them out.
CONTROL = re.compile(rb"<[a-z-]+>")


@pytest.fixture(scope="module")
def upstream() -> Path:
    """llama-mtmd-cli and its libraries."""
    folder = artifacts.tools(trees.patched(), cmake.flags(), print, extra=["llama-mtmd-cli"])
    return folder / "llama-mtmd-cli"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return sighted.write(tmp_path_factory.mktemp("sighted"))


@pytest.mark.build
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["llava", "tiles", "mrope", "ultravox", "both"])
def test_an_answer_is_that_of_llama_mtmd_cli(llm, upstream, models, user_path, name):
    model = models[name]
    model.register()
    tree = trees.patched().folder
    files = [tree / SPEECH] if "image" not in model.takes else [tree / NEWSPAPER, JPEG, PNG]
    if model.takes == ("image", "audio"):
        files.append(tree / SPEECH)
    for file in files:
        command = [upstream, "-m", model.model, "--mmproj", model.mmproj, "--jinja"]
        command += ["--temp", "0", "-n", "16", "-c", "2048", "-t", "2"]
        command += ["--audio" if file.suffix == ".mp3" else "--image", file, "-p", "What is this?<__media__>"]
        options = ("-o", "temperature", "0", "-o", "max_tokens", "16", "-o", "n_threads", "2", "--no-log")
        ours = llm("-m", name, "-a", str(file), *options, "What is this?").stdout.replace(
            "\0", ""
        )  # which the program cannot print
        theirs = _run(command)
        for _ in range(TRIES):
            if len(theirs.strip()) >= len(ours.strip()):
                break
            theirs = _run(command)
        assert ours.strip() and ours.strip() == theirs.strip(), file.name


def _run(command) -> str:
    """Where its input has ended, it answers nothing."""
    read, write = os.pipe()
    try:
        done = subprocess.run(command, stdin=read, capture_output=True, timeout=600)
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 0, done.stderr[-2000:]
    return CONTROL.sub(b"", done.stdout).decode(errors="replace").replace("\r", "\n")
