"""A first question without a library: one is compiled, once; and what stops that says so."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import llm
import pytest
import sqlite_utils
from llm.migrations import migrate

from llm_kvsplit import paths
from llm_kvsplit.builds import shelf
from tests.support.first_question import QUESTION


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_the_first_question_compiles_and_the_next_does_not(no_library, llm):
    first = llm(*QUESTION)
    assert "% compiled" in first.stderr or not first.stderr.count("Compiling")  # the workspace may have it all already
    (build,) = shelf.builds()
    assert build.patched
    second = llm(*QUESTION)
    assert second.stdout and not second.stderr


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_two_first_questions_at_once_are_both_answered(no_library):
    # Two that make or write llm's database at once are its own matter.
    migrate(sqlite_utils.Database(llm.user_dir() / "logs.db"))
    command = [sys.executable, "-m", "llm", *QUESTION, "--no-log"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        answer, said = process.communicate()
        assert process.returncode == 0 and answer.strip(), said
    assert len(shelf.builds()) == 1


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_ctrl_c_while_compiling_stops_at_once_and_leaves_nothing_half_made(no_library, tmp_path):
    """On a terminal of its own, with an empty workspace, so that it really compiles; upstream's objects are there."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "upstream.git").symlink_to(paths.cache_dir() / "upstream.git")
    (cache / "sources").symlink_to(paths.cache_dir() / "sources")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "KVSPLIT_CACHE": str(cache), "GGML_CCACHE": "OFF"}
    process = subprocess.Popen(
        [sys.executable, "-m", "llm", *QUESTION], stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    screen = bytearray()
    reader = threading.Thread(target=_drain, args=(ours, screen))
    reader.start()
    while b"Compiling  [" not in screen and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 1
    reader.join()
    assert b"Stopped: the same command goes on from there." in screen and b"Traceback" not in screen
    assert not list(no_library.glob("*")) and not list(cache.glob("build/*/out/bin/libllama*"))


def _drain(descriptor: int, into: bytearray) -> None:
    while True:
        try:
            into += os.read(descriptor, 4096)
        except OSError:  # the terminal's other end is closed
            os.close(descriptor)
            return
