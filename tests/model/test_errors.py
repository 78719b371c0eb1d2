"""What goes wrong is said in one sentence, with exit code 1 and no traceback."""

import subprocess
import sys

import pytest

from llm_kvsplit import demo, registry
from tests.support.ggufs import write_llama, write_scripted


@pytest.fixture
def ask(user_path, llm):
    """Ask a file registered as "m"; returns what stands on stderr."""

    def run(path, *arguments: str, prompt: str = "Hello", **defaults) -> str:
        registry.add(registry.Entry("m", path, **defaults))
        done = llm("-m", "m", *arguments, prompt, code=1)
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
        assert line.startswith("Error: ")
        assert line.endswith((".", '"', "python")), line
        return line

    return run


def test_missing_file(ask, tmp_path):
    assert "gone.gguf" in ask(tmp_path / "gone.gguf")


def test_truncated_file(ask, tmp_path):
    path = tmp_path / "short.gguf"
    path.write_bytes(demo.MODEL.read_bytes()[:5_000_000])
    missing = demo.MODEL.stat().st_size - 5_000_000
    assert f"{missing} of its" in ask(path)


def test_not_a_gguf(ask, tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("This is a README, not a model. " * 10)
    assert "GGUF" in ask(path)


def test_a_gguf_without_weights(ask, tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "empty.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "empty.gguf" in ask(tmp_path / "empty.gguf")


def test_a_word_of_thirty_thousand_letters(llm, user_path):
    """Its split into tokens recurses for each letter, which overflowed the stack and ended the process."""
    for text, n_tokens in (("a" * 30_000, 7_500), ("a" * 1_000_000, 250_000)):
        error = llm("-m", "kvsplit-demo", stdin=text, code=1).stderr
        assert f"The prompt has {n_tokens} tokens and the context holds 2048" in error


def test_unknown_model(llm):
    assert "nosuch" in llm("-m", "nosuch", "Hello", code=1).stderr


@pytest.mark.parametrize("name", ["kv_key_bits", "kv_value_bits"])
def test_bits_outside_the_list(llm, name):
    assert (
        f"{name} must be one of 16, 8, 6, 5, 4, 3, not 7."
        in llm("-m", "kvsplit-demo", "-o", name, "7", "x", code=1).stderr
    )


@pytest.mark.parametrize(
    ("name", "value"), [("n_ctx", "0"), ("top_p", "1.5"), ("max_tokens", "-1"), ("n_threads", "0")]
)
def test_numbers_out_of_range(llm, name, value):
    assert f"{name} must be from" in llm("-m", "kvsplit-demo", "-o", name, value, "x", code=1).stderr


def test_a_head_dim_that_blocks_do_not_divide(ask, tmp_path):
    path = write_llama(tmp_path / "dim.gguf", n_embd=160, n_head=2, n_head_kv=2, head_dim=80)
    line = ask(path, "-o", "kv_key_bits", "8")
    assert "80" in line and "32" in line


def test_quantized_values_without_flash_attention(llm):
    done = llm("-m", "kvsplit-demo", "-o", "kv_value_bits", "4", "-o", "flash_attn", "false", "x", code=1)
    assert "needs flash attention" in done.stderr


def test_a_context_longer_than_trained_is_a_warning(llm):
    done = llm("-m", "kvsplit-demo", "-o", "n_ctx", "4096", "-o", "max_tokens", "1", "x")
    assert "trained for 2048 tokens" in done.stderr and "4096" in done.stderr


@pytest.mark.parametrize("context", [(), ("-o", "n_ctx", "512")])
def test_a_prompt_longer_than_the_context_names_both(llm, context):
    done = llm("-m", "kvsplit-demo", *context, "abc " * 5000, code=1)
    limit = context[-1] if context else "2048"
    assert f"the context holds {limit}" in done.stderr
    assert "The prompt has " in done.stderr


def test_an_empty_prompt(llm):
    assert "prompt is empty" in llm("-m", "kvsplit-demo", "", code=1).stderr


def test_a_cache_larger_than_the_memory(llm):
    done = llm("-m", "kvsplit-demo", "-o", "n_ctx", "1000000000", "x", code=1)
    assert "cache of 1000000000 tokens takes 2.79 TiB" in done.stderr
    assert "-o n_ctx " in done.stderr and "would fit" in done.stderr


def test_fewer_bits_are_suggested_when_they_would_fit(monkeypatch):
    from llm_kvsplit import fit
    from llm_kvsplit.kvtypes import CachePair

    monkeypatch.setattr(fit, "memory_bytes", lambda: 3 * 2**20)
    with pytest.raises(
        fit.KvsplitError, match="takes 6.00 MiB and there are 3.00 MiB.* kv_key_bits 8 .* kv_value_bits 4 would"
    ):
        fit.refuse_unless_it_fits(demo.MODEL, CachePair.from_bits(16, 16), 2048)


def test_a_template_that_refuses(ask, tmp_path):
    template = "{{ raise_exception('only after midnight') }}"
    assert "only after midnight" in ask(write_scripted(tmp_path / "t.gguf", {"<a>": ["yes"]}, chat_template=template))


def test_a_template_is_sandboxed(ask, tmp_path):
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert "unsafe" in ask(write_scripted(tmp_path / "t.gguf", {"<a>": ["yes"]}, chat_template=template))


def test_tools_without_a_place_for_them(ask, tmp_path):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<a>"
    path = write_scripted(tmp_path / "t.gguf", {"<a>": ["yes"]}, chat_template=template)
    assert "no place for tools" in ask(path, "-T", "llm_time")


def test_a_registry_that_is_not_json_is_left_alone(llm, user_path):
    file = user_path / "kvsplit" / "models.json"
    file.write_text("{ my notes")
    done = llm("models")
    assert str(file) in done.stderr
    assert "kvsplit-demo" in done.stdout  # and so are llm's other models
    assert llm("kvsplit", "add", str(demo.MODEL), "--name", "x", code=1).stderr
    assert file.read_text() == "{ my notes"


def test_llama_cpp_is_silent_unless_asked(llm):
    quiet = llm("-m", "kvsplit-demo", "-o", "max_tokens", "1", "x")
    assert quiet.stderr == ""
    loud = llm("-m", "kvsplit-demo", "-o", "max_tokens", "1", "-o", "verbose", "true", "x")
    assert "llama_kv_cache" in loud.stderr


@pytest.fixture
def deadly_library(tmp_path):
    """A libllama that ends its process as a build for another CPU does."""
    folder = tmp_path / "deadly"
    folder.mkdir()
    source = folder / "die.c"
    source.write_text("__attribute__((constructor)) static void die(void) { __builtin_trap(); }\n")
    suffix = "dylib" if sys.platform == "darwin" else "so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / f"libllama.{suffix}", source], check=True)
    return folder


def test_a_library_that_dies_is_named(llm, deadly_library):
    env = {"LLAMA_CPP_LIB_PATH": str(deadly_library)}
    done = llm("-m", "kvsplit-demo", "x", code=1, env=env)
    assert str(deadly_library) in done.stderr
    assert "instructions that this CPU lacks (SIGILL)" in done.stderr or "(SIGTRAP)" in done.stderr
    doctor = llm("kvsplit", "doctor", code=1, env=env)
    assert "Problem: " in doctor.stdout and str(deadly_library) in doctor.stdout


def test_a_folder_without_a_library(llm, tmp_path):
    done = llm("-m", "kvsplit-demo", "x", code=1, env={"LLAMA_CPP_LIB_PATH": str(tmp_path)})
    assert str(tmp_path) in done.stderr


def test_quantized_weights_answer_on_this_machine(llm, tmp_path, user_path):
    """Also where the CPU lists AMX tiles that trap."""
    from llm_kvsplit.engine.weights import quantize

    quantize(demo.MODEL, tmp_path / "q8.gguf")
    registry.add(registry.Entry("q8", tmp_path / "q8.gguf"))
    assert llm("-m", "q8", "-o", "max_tokens", "8", "import ").stdout


def test_doctor_tries_every_pair(llm):
    out = llm("kvsplit", "doctor").stdout
    for pair in ("f16", "K8V8", "K8V4", "K4V8", "K4V4", "K5V4"):
        assert f"  {pair:<6} runs" in out
    assert "llama-cpp-python" in out
