"""add, download, models, info and remove as a person calls them."""

import json

import pytest

from llm_kvsplit import registry
from llm_kvsplit.paths import models_dir, registry_file
from llm_kvsplit.registry import Entry
from tests.support.commands import refused
from tests.support.tiny_gguf import change_arch, gguf_bytes, part
from tests.support.web import body, in_turn, serving


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "Tiny-Q4.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_add_keeps_defaults_and_aliases(run, tiny):
    output = run("add", tiny, "--name", "mine", "-a", "m", "-a", "n", "--kv-key-bits", 8, "--kv-value-bits", 4,
                 "--n-ctx", 1024, "--n-gpu-layers", -1)  # fmt: skip
    assert registry.get("m") == Entry("mine", tiny, ("m", "n"), 8, 4, 1024, -1)
    assert "context of 1024 is more than it was trained for" in output
    assert "mine (m, n)\n    llama," in run("models")
    assert "kv_key_bits 8, kv_value_bits 4, n_ctx 1024, n_gpu_layers -1" in run("models")


def test_add_takes_a_relative_path(run, tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    run("add", tiny.name)
    assert registry.get("tiny-q4").path == tiny


def test_add_registers_a_split_model_by_its_first_part(run, tmp_path):
    for i in range(3):
        (tmp_path / f"Big-{i + 1:05}-of-00003.gguf").write_bytes(part(i))
    assert "first part" in refused(run, "add", tmp_path / "Big-00002-of-00003.gguf")
    run("add", tmp_path / "Big-00001-of-00003.gguf")
    assert registry.get("big")


def test_a_taken_name_is_refused(run, tiny):
    run("add", tiny, "-a", "t")
    assert "already registered" in refused(run, "add", tiny)
    assert "already registered" in refused(run, "add", tiny, "--name", "t")
    assert "already registered" in refused(run, "add", tiny, "--name", "kvsplit-demo")
    assert "llm already has a model called gpt-4o" in refused(run, "add", tiny, "--name", "new", "-a", "gpt-4o")
    assert "cannot be a model's name" in refused(run, "add", tiny, "--name", "two words")


def test_bits_that_the_model_cannot_have_are_refused(run, tiny):
    tiny.write_bytes(gguf_bytes({"llama.attention.value_length": 80}))
    assert "value heads of 80 values" in refused(run, "add", tiny, "--kv-value-bits", 4)
    assert "'7' is not one of" in run("add", tiny, "--kv-value-bits", 7, code=2)
    run("add", tiny, "--kv-key-bits", 8)


def test_models_lists_what_is_wrong_with_a_file(run, tiny):
    run("add", tiny)
    tiny.unlink()
    assert f"tiny-q4\n    {tiny} does not exist" in run("models")
    demo, gone = json.loads(run("models", "--json"))
    assert (demo["name"], demo["architecture"], demo["n_ctx_train"]) == ("kvsplit-demo", "llama", 2048)
    assert demo["error"] is None
    assert (gone["name"], gone["size"]) == ("tiny-q4", None)
    assert "does not exist" in gone["error"]


def test_info_without_a_library_says_that_nobody_was_asked(run, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    shown = run("info", tiny)
    assert "not known, since llama.cpp cannot be asked: " in shown and "architecture     llama" in shown


def test_info_calls_a_file_without_a_model_what_it_is(run, tiny):
    tiny.write_bytes(gguf_bytes(tensors=()))
    assert "It is a vocabulary without a model." in run("info", tiny)
    tiny.write_bytes(gguf_bytes(change_arch("superpoint", {"block_count": None})))
    shown = run("info", tiny)
    assert "It is not a language model that llama.cpp knows (architecture superpoint)." in shown
    assert "KV cache" not in shown


def test_info_of_nothing(run):
    assert "neither a registered model nor a file" in refused(run, "info", "nothing")


def test_remove_forgets_and_leaves_the_file(run, tiny):
    run("add", tiny)
    assert f"{tiny} is still there" in run("remove", "tiny-q4")
    assert tiny.exists() and registry.get("tiny-q4") is None
    assert "No model is called tiny-q4" in refused(run, "remove", "tiny-q4")
    assert "No model is called tiny-q4" in refused(run, "remove", "tiny-q4", "--delete-file")
    assert "cannot be removed" in refused(run, "remove", "kvsplit-demo")
    assert "cannot be removed" in refused(run, "remove", "kvsplit-demo", "--delete-file")


def test_only_downloads_are_deleted(run, tiny):
    run("add", tiny)
    assert "delete it yourself" in refused(run, "remove", "tiny-q4", "--delete-file", "-y")
    assert tiny.exists() and registry.get("tiny-q4")


def test_a_split_model_is_downloaded_used_and_deleted_as_one(run):
    with serving() as web:
        urls = [f"{web.url}/Big-{i + 1:05}-of-00003.gguf" for i in range(3)]
        for i, url in enumerate(urls):
            web.at[url[len(web.url) :]] = body(part(i))
        output = run("download", urls[1], "-a", "b", "--kv-key-bits", 8)
        entry = registry.get("b")
        assert (entry.name, entry.kv_key_bits, entry.source) == ("big", 8, urls[0])
        assert "llm -m big " in output

        seen = len(web.seen)
        assert "already registered" in refused(run, "download", urls[0])
        assert len(web.seen) == seen

    files = sorted(models_dir().rglob("*.gguf"))
    assert len(files) == 3 and entry.path == files[0]
    run("remove", "big", "--delete-file", input="n\n", code=1)
    assert registry.get("big") and all(file.exists() for file in files)
    run("add", files[0], "--name", "same")
    assert "is also the model same" in refused(run, "remove", "big", "--delete-file")
    run("remove", "same")
    run("remove", "b", "--delete-file", input="y\n")
    assert registry.get("big") is None and not any(file.exists() for file in files)


def test_what_came_damaged_is_not_registered(run):
    with serving() as web:
        web.at["/m.gguf"] = in_turn(body(gguf_bytes()[:-50]), body(gguf_bytes()))
        assert "is cut short" in run("download", f"{web.url}/m.gguf", code=1)
        assert not registry_file().exists()
        run("download", f"{web.url}/m.gguf")
    assert registry.get("m")


def test_a_hash_that_does_not_fit_registers_nothing(run):
    with serving() as web:
        web.at["/m.gguf"] = body(gguf_bytes())
        assert "was deleted" in run("download", f"{web.url}/m.gguf", "--sha256", "0" * 64, code=1)
    assert not registry_file().exists()
