"""A new environment on a machine with Python and nothing else: bindings, a library from a release, an answer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.web import body

ROOT = Path(__file__).parents[2]
#: How this machine reaches an index of packages.
NETWORK = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http", "no_proxy")


@pytest.fixture
def alone(tmp_path):
    """Run a command in a new environment: an empty home, and Python alone on the PATH."""
    (tmp_path / "path").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "path" / "python3").symlink_to(sys._base_executable)
    environment = {name: value for name, value in os.environ.items() if name.startswith(NETWORK)}
    environment |= {"PATH": str(tmp_path / "path"), "HOME": str(tmp_path / "home")}
    for tool in ("c++", "g++", "clang++", "cc", "gcc", "clang", "cmake", "ninja", "git"):
        assert not shutil.which(tool, path=environment["PATH"])

    def run(*command, **variables):
        done = subprocess.run(
            list(map(str, command)), env={**environment, **variables}, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    run("python3", "-m", "venv", tmp_path / "venv")
    return run


@pytest.mark.build
def test_bindings_a_library_and_an_answer(alone, release, packed, tmp_path):
    scripts = tmp_path / "venv" / "bin"
    alone(scripts / "python", "-m", "pip", "install", "-q", "--no-cache-dir", ROOT, SKBUILD_WHEEL_CMAKE="false")
    bindings = next((tmp_path / "venv").rglob("llama_cpp/llama_cpp.py")).parent
    assert not (bindings / "lib").exists(), "llama.cpp was compiled"

    for file in packed.iterdir():
        release.at[f"/release/{file.name}"] = body(file.read_bytes())
    address = {"KVSPLIT_BACKENDS_URL": f"{release.url}/release"}
    installed = alone(scripts / "llm", "kvsplit", "backend", "install", **address)
    assert "Compiling" not in installed.stderr
    options = ("-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4", "-o", "max_tokens", "8")
    answer = alone(scripts / "llm", "-m", "kvsplit-demo", *options, "def fibonacci(n):").stdout
    assert answer.strip()
    logged = json.loads(alone(scripts / "llm", "logs", "--json", "-n", "1").stdout)[0]["response_json"]
    assert (logged["kv_cache"]["key_type"], logged["kv_cache"]["value_type"]) == ("q8_0", "iq4_nl")
    assert installed.stdout.strip() in json.dumps(logged), "another library answered"
