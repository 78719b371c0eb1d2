"""Files that are found where a model should be: each is called what it is, with the next step."""

import gzip
import io
import json
import pickle
import struct
import zipfile

import numpy
import pytest

from llm_kvsplit import gguf
from llm_kvsplit.errors import KvsplitError

# As git-lfs writes it (git-lfs: docs/spec.md, "The Pointer").
POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def checkpoint() -> bytes:
    """A zip with the members that torch.save writes, in its order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("model/version", "3\n")
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    numpy.savez(file, weights=numpy.zeros(3))
    return file.getvalue()


def ggml(magic: int, n_vocab: int) -> bytes:
    return struct.pack("<Ii", magic, n_vocab) + bytes(100)


FILES = {
    "LFS pointer": (POINTER, "a Git LFS pointer, which stands for the file of 12345 bytes: run 'git lfs pull'"),
    "web page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page: download the file itself"),
    "XML error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML text"),
    "JSON error": (b'{"error":"Repository not found"}', "a JSON text"),
    "whisper": (ggml(0x67676D6C, 51865), "an old ggml file (whisper), which turns speech into text"),
    "ggml": (ggml(0x67676D6C, 32000), "an old ggml file: download a GGUF"),
    "ggmf": (ggml(0x67676D66, 1), "an old ggml file (GGMF)"),
    "ggjt": (ggml(0x67676A74, 3), "an old ggml file (GGJT)"),
    "gzip": (gzip.compress(b"GGUF" * 100), "a gzip archive: unpack it first"),
    "safetensors": (safetensors(), "a safetensors file: download a GGUF of the model, or convert its folder"),
    "pickle": (pickle.dumps({"w": [1]}, protocol=2), "a Python pickle"),
    "PyTorch": (checkpoint(), "a PyTorch checkpoint"),
    "zip": (archive(), "a zip archive: unpack it first"),
    "zeros": (bytes(4096), "zeros, as an interrupted download leaves them: download it again"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_is_called_what_it_is(tmp_path, name):
    data, words = FILES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(KvsplitError) as error:
        gguf.read(path)
    assert f"{path} is not a GGUF file but {words}" in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("data", [b"GG", b"hello", bytes([0x80]), b"lmgg", b"PK", b"\x00\x01\x02" * 500])
def test_what_is_not_known_is_not_guessed_at(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(KvsplitError, match="is not a GGUF file"):
        gguf.read(path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_binary_protocol(tmp_path, protocol):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=protocol))
    with pytest.raises(KvsplitError, match="a Python pickle"):
        gguf.read(path)
