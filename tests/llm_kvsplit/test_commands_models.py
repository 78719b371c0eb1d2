"""add, download, models, info and remove as a person calls them."""

import json

import pytest
from click.testing import CliRunner

from llm_kvsplit import registry
from llm_kvsplit.commands import kvsplit
from llm_kvsplit.paths import models_dir, registry_file
from llm_kvsplit.registry import Entry

from .test_gguf import part
from .tiny_gguf import change_arch, gguf_bytes
from .web import body, in_turn, serving


@pytest.fixture
def run(user_path):
    def run(*arguments, code=0, **kwargs):
        done = CliRunner().invoke(kvsplit, [str(each) for each in arguments], **kwargs)
        assert done.exit_code == code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output

    return run


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "Tiny-Q4.gguf"
    path.write_bytes(gguf_bytes())
    return path


def refused(run, *arguments):
    output = run(*arguments, code=1)
    assert output.startswith("Error: ") and output.count("\n") == 1, output
    return output


def test_add_registers_a_file_under_its_own_name(run, tiny):
    output = run("add", tiny)
    assert "Added tiny-q4: llama, 2 layers, trained for 512 tokens, F16" in output
    assert "llm -m tiny-q4 " in output
    assert registry.get("tiny-q4") == Entry("tiny-q4", tiny)


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


@pytest.mark.parametrize(
    "data, words",
    [
        (gguf_bytes()[:-100], "is cut short"),
        (b"not a model", "is not a GGUF file"),
        (gguf_bytes(tensors=()), "a vocabulary without a model"),
        (gguf_bytes(change_arch("bert", {"attention.causal": False})), "embeds text"),
        (gguf_bytes({"general.type": "adapter"}), "of type adapter"),
        (gguf_bytes({"general.type": "mmproj"}), "projector"),
        (gguf_bytes({"general.architecture": "clip"}), "projector"),
    ],
)
def test_what_is_no_language_model_is_not_registered(run, tiny, data, words):
    tiny.write_bytes(data)
    assert words in refused(run, "add", tiny)
    assert not registry_file().exists()


def test_bits_that_the_model_cannot_have_are_refused(run, tiny):
    tiny.write_bytes(gguf_bytes({"llama.attention.value_length": 80}))
    assert "value heads of 80 values" in refused(run, "add", tiny, "--kv-value-bits", 4)
    assert "'6' is not one of" in run("add", tiny, "--kv-value-bits", 6, code=2)
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


def test_info_shows_the_cache_in_each_configuration(run, tiny):
    shown = f"""\
{tiny}
  name             Tiny
  architecture     llama
  weights          F16, {tiny.stat().st_size / 1024:.2f} KiB
  layers           2
  heads            4, of them for keys and values 2
  head dims        keys 32, values 32
  trained context  512 tokens
  chat template    no: it completes text

  KV cache       a token        512 tokens
  f16          512 bytes        256.00 KiB
  K8V8         272 bytes        136.00 KiB
  K8V5         232 bytes        116.00 KiB
  K8V4         208 bytes        104.00 KiB
  K5V5         192 bytes         96.00 KiB
  K4V8         208 bytes        104.00 KiB
  K4V4         144 bytes         72.00 KiB
"""
    assert run("info", tiny) == shown
    run("add", tiny, "-a", "t")
    assert run("info", "t") == shown
    facts = json.loads(run("info", "tiny-q4", "--json"))
    assert [(row["pair"], row["bytes_per_token"]) for row in facts["kv_cache"]][:4] == [
        ("f16", 512), ("K8V8", 272), ("K8V5", 232), ("K8V4", 208)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes, words",
    [
        (change_arch("gemma3", {"attention.sliding_window": 64}), "sliding window of 64 tokens are counted in full"),
        (change_arch("glm-dsa", {"attention.indexer.head_count": 2}), "not known here"),
        (change_arch("deepseek2", {"attention.key_length_mla": 64}), "only keys are cached"),
        (change_arch("qwen3next", {"full_attention_interval": 2, "ssm.state_size": 4}), "not counted"),
        (change_arch("mamba", {"attention.head_count": 0, "attention.head_count_kv": 0}), "has no KV cache"),
    ],
)
def test_info_says_what_it_cannot_know(run, tiny, changes, words):
    tiny.write_bytes(gguf_bytes(changes))
    assert words in run("info", tiny)


def test_info_of_what_cannot_run_with_a_pair(run, tiny):
    tiny.write_bytes(gguf_bytes(change_arch("deepseek2", {"attention.key_length_mla": 64})))
    rows = {line.split()[0]: line for line in run("info", tiny).splitlines() if line.startswith("  K")}
    assert "not possible" in rows["K8V4"] and "not possible" not in rows["K8V8"]


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


def test_a_broken_registry_does_not_break_llm(llm, user_path):
    registry_file().write_text("{")
    done = llm("models")
    assert "gpt-4o" in done.stdout and "kvsplit-demo" in done.stdout
    assert str(registry_file()) in done.stderr
    assert registry_file().read_text() == "{"
