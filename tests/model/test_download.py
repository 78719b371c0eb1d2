"""A download that Ctrl+C ends, by the command that a person types."""

import random
import signal
import subprocess
import sys
import time

import pytest

from llm_kvsplit.models import download
from tests.support.tiny_gguf import gguf_bytes
from tests.support.web import body, serving

GGUF = gguf_bytes() + random.Random(1).randbytes(3 << 20)

HALF = len(GGUF) // 2


@pytest.fixture
def web():
    with serving() as web:
        yield web


def test_ctrl_c_keeps_what_came_and_the_same_command_goes_on(web, user_path):
    command = [sys.executable, "-m", "llm", "kvsplit", "download", f"{web.url}/Tiny.gguf"]
    web.at["/Tiny.gguf"] = body(GGUF, cut=HALF, hang=web.closing)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = user_path / "kvsplit" / "models" / f"127.0.0.1_{web.server.server_port}"
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in folder.glob("*.part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in stderr and "Traceback" not in stderr
    assert not (folder / "Tiny.gguf").exists()

    web.at["/Tiny.gguf"] = body(GGUF)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "llm -m tiny" in done.stdout
    assert int(web.ranges()[-1][6:-1]) >= download.CHUNK
    assert (folder / "Tiny.gguf").read_bytes() == GGUF
    assert [path.name for path in folder.iterdir()] == ["Tiny.gguf"]
