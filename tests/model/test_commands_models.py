"""add, info and asking, of files that llama.cpp is asked about."""

import json
import shutil

import pytest
from gguf import GGUFReader

from llm_kvsplit import demo, registry
from llm_kvsplit.paths import registry_file
from llm_kvsplit.registry import Entry
from tests.support.commands import refused
from tests.support.ggufs import write_deepseek2, write_gemma2, write_llama, write_mamba
from tests.support.tiny_gguf import change_arch, gguf_bytes


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "Tiny-Q4.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_add_registers_a_file_under_its_own_name(run, tiny):
    output = run("add", tiny)
    assert "Added tiny-q4: llama, 2 layers, trained for 512 tokens, F16" in output
    assert "Warning: llama.cpp cannot load it: " in output  # its tensors are not a llama's
    assert "llm -m tiny-q4 " in output
    assert registry.get("tiny-q4") == Entry("tiny-q4", tiny)


@pytest.mark.parametrize(
    "data, words",
    [
        (gguf_bytes()[:-100], "is cut short"),
        (b"not a model", "is not a GGUF file"),
        (gguf_bytes(tensors=()), "a vocabulary without a model"),
        (gguf_bytes({"general.type": "adapter"}), "of type adapter"),
        (gguf_bytes(change_arch("t5", {"decoder_block_count": 2})), "an encoder-decoder model"),
        (gguf_bytes({"tokenizer.ggml.model": "no_vocab"}), "without a vocabulary"),
        (gguf_bytes(change_arch("superpoint", {"block_count": None})), "not a language model that llama.cpp knows"),
        (gguf_bytes(change_arch("nope", {})), "(architecture nope): use a newer llama.cpp"),
        (gguf_bytes({"general.type": "mmproj"}), "projector"),
        (gguf_bytes({"general.architecture": "clip"}), "projector"),
    ],
)
def test_what_is_no_language_model_is_not_registered(run, tiny, data, words):
    tiny.write_bytes(data)
    assert words in refused(run, "add", tiny)
    assert not registry_file().exists()


def test_a_file_that_ends_llama_cpps_process_is_not_registered(run, tmp_path):
    path = tmp_path / "twice.gguf"
    shutil.copy(demo.MODEL, path)
    reader = GGUFReader(path, "r+")
    tokens = reader.fields["tokenizer.ggml.tokens"]
    one, other = [at for at in tokens.data if len(tokens.parts[at]) == 5][:2]
    tokens.parts[other][:] = tokens.parts[one]  # the same token twice, which llama.cpp asserts against
    reader.data.flush()
    assert "llama.cpp crashed on it" in refused(run, "add", path)
    assert not registry_file().exists()


def test_info_shows_the_cache_in_each_configuration(run, tmp_path):
    path = write_llama(tmp_path / "Small.gguf", n_head_kv=1, n_ctx=8192)
    shown = f"""\
{path}
  name             Small
  architecture     llama
  weights          F16, {path.stat().st_size / 1024:.2f} KiB
  layers           2
  heads            2, of them for keys and values 1
  head dims        keys 64, values 64
  trained context  8192 tokens
  chat template    no: it completes text

  KV cache       a token       4096 tokens       8192 tokens
  f16          512 bytes          2.00 MiB          4.00 MiB
  K8V8         272 bytes          1.06 MiB          2.12 MiB
  K8V5         232 bytes        928.00 KiB          1.81 MiB
  K6V5         200 bytes        800.00 KiB          1.56 MiB
  K8V4         208 bytes        832.00 KiB          1.62 MiB
  K6V4         176 bytes        704.00 KiB          1.38 MiB
  K5V5         192 bytes        768.00 KiB          1.50 MiB
  K5V4         168 bytes        672.00 KiB          1.31 MiB
  K6V3         156 bytes        624.00 KiB          1.22 MiB
  K4V8         208 bytes        832.00 KiB          1.62 MiB
  K4V4         144 bytes        576.00 KiB          1.12 MiB
"""
    assert run("info", path) == shown
    run("add", path, "-a", "t")
    assert run("info", "t") == shown
    facts = json.loads(run("info", "small", "--json"))
    assert [(row["pair"], row["bytes_per_token"]) for row in facts["kv_cache"]][:4] == [
        ("f16", 512), ("K8V8", 272), ("K8V5", 232), ("K6V5", 200)
    ]  # fmt: skip
    assert facts["kv_cache"][0]["bytes_at"] == {"4096": 512 * 4096, "8192": 512 * 8192}
    assert (facts["file_type"], facts["weights"]) == ("F16", "F16")


def test_info_counts_a_sliding_window_as_it_is_allocated(run, tmp_path):
    path = write_gemma2(tmp_path / "g.gguf", window=512, n_ctx=4096)
    shown = run("info", path)
    # 2 layers of 4096 tokens, 2 of a window and a batch; 2 heads of 64 keys and 64 values each.
    assert "  f16             varies          3.00 MiB          5.00 MiB\n" in shown
    assert "keep its 512 tokens" in shown
    assert json.loads(run("info", path, "--json"))["kv_cache"][0]["bytes"] == 2 * (4096 + 1024) * 2 * 128 * 2


def test_info_of_a_model_without_a_cache_and_with_one_kind_of_bits(run, tmp_path):
    assert "has no KV cache" in run("info", write_mamba(tmp_path / "m.gguf"))
    shown = run("info", write_deepseek2(tmp_path / "d.gguf"))
    rows = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  K")}
    assert "MiB" in rows["K8V8"] and "only keys are cached" in shown
    assert "not possible: it uses multi-head latent attention" in rows["K8V4"]


def test_info_of_what_llama_cpp_cannot_load(run, tiny):
    tiny.write_bytes(gguf_bytes(change_arch("nope", {})))
    shown = run("info", tiny)
    assert "not known, since llama.cpp cannot load the file: unknown model architecture: 'nope'." in shown
    assert "  K8V4         not known\n" in shown
    assert json.loads(run("info", tiny, "--json"))["kv_cache"][0]["bytes"] is None


def test_a_broken_registry_does_not_break_llm(llm, user_path):
    registry_file().write_text("{")
    done = llm("models")
    assert "gpt-4o" in done.stdout and "kvsplit-demo" in done.stdout
    assert str(registry_file()) in done.stderr
    assert registry_file().read_text() == "{"


def test_a_registered_file_that_became_another_kind_is_refused_when_asked(llm, tmp_path):
    path = write_llama(tmp_path / "m.gguf")
    llm("kvsplit", "add", str(path))
    for changes in (change_arch("t5", {}), {"tokenizer.ggml.model": "no_vocab"}):
        path.write_bytes(gguf_bytes(changes))
        for command in (("-m", "m", "hi"), ("kvsplit", "fit", "m")):
            assert "give a language model's own GGUF file" in llm(*command, code=1).stderr.replace(
                "the language", "a language"
            )
