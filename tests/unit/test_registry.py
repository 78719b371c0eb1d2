import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm_kvsplit import demo, registry
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import registry_file
from llm_kvsplit.registry import DEMO, Entry

pytestmark = pytest.mark.usefixtures("user_path")


def test_the_bundled_model_is_always_there():
    assert registry.load() == {DEMO: Entry(DEMO, demo.MODEL)}
    with pytest.raises(KvsplitError, match="cannot be removed"):
        registry.remove(DEMO)
    with pytest.raises(KvsplitError, match="already registered"):
        registry.add(Entry(DEMO, Path("other.gguf")))
    assert not registry_file().exists()


def test_what_was_added_comes_back():
    entry = Entry(
        "tiny", Path("/models/tiny.gguf"), ("t", "small"), 8, 4, 4096, -1, "0" * 64, "https://example.org/tiny.gguf"
    )
    registry.add(entry)
    seeing = Entry("seeing", Path("/models/seeing.gguf"), mmproj=Path("/models/mmproj.gguf"), media=("image", "audio"))
    registry.add(seeing)
    registry.add(Entry("plain", Path("/models/plain.gguf")))
    assert registry.load() == {
        DEMO: Entry(DEMO, demo.MODEL),
        "tiny": entry,
        "seeing": seeing,
        "plain": Entry("plain", Path("/models/plain.gguf")),
    }
    assert registry.get("small") == registry.get("tiny") == entry
    assert registry.get("none") is None
    assert registry.remove("t") == entry
    assert set(registry.load()) == {DEMO, "plain", "seeing"}
    with pytest.raises(KvsplitError, match="No model is called tiny"):
        registry.remove("tiny")


@pytest.mark.parametrize("name", ["", "two words", "-m", "line\nbreak", "bell\a"])
def test_names_that_llm_could_not_be_given(name):
    with pytest.raises(KvsplitError, match="cannot be a model's name"):
        registry.add(Entry(name, Path("a.gguf")))
    with pytest.raises(KvsplitError, match="cannot be a model's name"):
        registry.add(Entry("fine", Path("a.gguf"), (name,)))


@pytest.mark.parametrize(
    "entry",
    [Entry("a", Path("b")), Entry("x", Path("b")), Entry("b", Path("b"), ("a",)), Entry("b", Path("b"), ("x",))],
)
def test_no_two_models_share_a_name(entry):
    registry.add(Entry("a", Path("a.gguf"), ("x",)))
    before = registry_file().read_bytes()
    with pytest.raises(KvsplitError, match="already registered.*remove a'"):
        registry.add(entry)
    assert registry_file().read_bytes() == before


def test_a_name_twice_in_one_model():
    with pytest.raises(KvsplitError, match="a is given twice"):
        registry.add(Entry("a", Path("a.gguf"), ("a",)))


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"models": 3}',
    b'{"models": {"a": {}}}',
    b'{"models": {"a": {"path": 3}}}',
    b'{"models": {"a": {"path": "a.gguf", "kv_key_bits": "8"}}}',
    b'{"models": {"a": {"path": "a.gguf", "aliases": "b"}}}',
    b'{"models": {"a": {"path": "a.gguf", "aliases": [1]}}}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_named_and_never_overwritten(content):
    registry_file().write_bytes(content)
    for use in (registry.load, lambda: registry.add(Entry("b", Path("b"))), lambda: registry.remove("b")):
        with pytest.raises(KvsplitError) as error:
            use()
        assert str(registry_file()) in error.value.message and "\n" not in error.value.message
    assert registry_file().read_bytes() == content


def test_fields_of_a_later_version_do_not_hide_a_model():
    registry_file().write_text('{"models": {"a": {"path": "a.gguf", "colour": "red"}}}')
    assert registry.load()["a"] == Entry("a", Path("a.gguf"))


def test_a_link_to_the_file_stays_a_link(tmp_path):
    elsewhere = tmp_path / "dotfiles.json"
    elsewhere.write_text('{"models": {}}')
    registry_file().symlink_to(elsewhere)
    registry.add(Entry("a", Path("a.gguf")))
    assert registry_file().is_symlink()
    assert list(json.loads(elsewhere.read_text())["models"]) == ["a"]


def test_processes_adding_and_removing_at_once_lose_nothing():
    script = """
import sys
from pathlib import Path
from llm_kvsplit import registry

for i in range(10):
    registry.add(registry.Entry(f"{sys.argv[1]}-{i}", Path("m.gguf")))
    if i % 2:
        registry.remove(f"{sys.argv[1]}-{i}")
"""
    workers = [subprocess.Popen([sys.executable, "-c", script, name]) for name in ("a", "b", "c")]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    kept = {f"{name}-{i}" for name in ("a", "b", "c") for i in range(0, 10, 2)}
    assert set(registry.load()) == kept | {DEMO}
    left = {path.name for path in registry_file().parent.iterdir()}
    assert left <= {"models.json", "models.json.lock"}


def test_loading_imports_nothing_heavy():
    registry.add(Entry("a", Path("a.gguf")))
    script = """
import sys, llm, click
before = set(sys.modules)
from llm_kvsplit import registry
registry.load()
print(*sorted(name for name in set(sys.modules) - before if "." not in name))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["llm_kvsplit"]
