"""The bundled demo model is the one its card describes, and the scripts that made it still run."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from llm_kvsplit import demo

SCRIPTS = Path(__file__).parents[2] / "tools" / "demo_model"


@pytest.mark.parametrize(
    ("path", "sha256"),
    [
        (demo.MODEL, demo.MODEL_SHA256),
        (demo.SMOKE_TEXT, demo.SMOKE_SHA256),
    ],
)
def test_files_are_those_the_card_names(path, sha256):
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert sha256 in (SCRIPTS / "README.md").read_text("utf-8")


def test_sizes():
    assert demo.MODEL.stat().st_size <= 12_000_000
    assert 100_000 <= len(demo.SMOKE_TEXT.read_text("utf-8").encode()) <= 300_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (demo.MODEL.parent / "LICENSE-PSF.txt").read_text("utf-8")


def test_gguf_says_what_it_is():
    gguf = pytest.importorskip("gguf", reason="gguf, a development dependency, is not installed")
    reader = gguf.GGUFReader(demo.MODEL)

    def value(key):
        return reader.fields[key].contents()

    assert value("general.architecture") == "llama"
    assert value("general.name") == "kvsplit-demo"
    assert value("general.license") == "PSF-2.0"
    assert value("llama.context_length") == 2048
    assert [value(f"llama.{key}") for key in ("block_count", "embedding_length", "feed_forward_length")] == [
        6,
        256,
        704,
    ]
    assert [value(f"llama.attention.{key}") for key in ("head_count", "head_count_kv", "key_length")] == [4, 2, 64]
    assert len(value("tokenizer.ggml.tokens")) == 4096
    assert value("tokenizer.ggml.tokens")[value("tokenizer.ggml.eos_token_id")] == "<|endoftext|>"
    assert value("tokenizer.ggml.add_bos_token") is False
    assert "tokenizer.chat_template" not in reader.fields
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds == {"F16", "F32"}  # no quantized weights: on some machines they die in AMX code


def test_scripts_run_from_text_to_gguf(tmp_path):
    """A few steps on a few modules, one of which the split is known to hold out for each purpose."""
    for package in ("torch", "tokenizers", "gguf"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    stdlib = Path(sysconfig.get_path("stdlib"))
    lib, data = tmp_path / "lib", tmp_path / "data"
    lib.mkdir()
    for name in ("argparse", "shlex", "heapq", "cmd", "keyword"):
        shutil.copy(stdlib / f"{name}.py", lib)

    def script(name, *arguments):
        # One thread: on shared cores OpenMP's waiting threads make these few small steps take minutes.
        command = [sys.executable, SCRIPTS / f"{name}.py", *map(str, arguments)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    smoke, weights, model = tmp_path / "smoke.txt", tmp_path / "weights.npz", tmp_path / "model.gguf"
    script("prepare", "--stdlib", lib, "--docs", tmp_path / "none", "--out", data, "--smoke", smoke)
    assert smoke.read_text("utf-8") == (lib / "cmd.py").read_text("utf-8")

    run = ("--data", data, "--device", "cpu", "--steps", 2, "--batch", 2, "--context", 64, "--parts", "library")
    script("train", *run, "--out", tmp_path / "first.npz")
    script("train", *run, "--out", weights, "--init", tmp_path / "first.npz", "--line-starts")
    script("convert", "--weights", weights, "--tokenizer", data / "tokenizer.json", "--out", model)
    assert model.read_bytes()[:4] == b"GGUF"
