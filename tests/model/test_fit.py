"""What ``fit`` says that a model takes, against what llama.cpp allocates when it is really loaded."""

import re

import pytest

from llm_kvsplit import demo, fit, gguf
from llm_kvsplit.engine import library
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import LADDER, CachePair
from tests.support.ggufs import write_deepseek2, write_gemma2, write_llama, write_mamba

from .test_gguf_architectures import gemma3, gemma4, lfm2

MODELS = {
    "demo": lambda path: path.write_bytes(demo.MODEL.read_bytes()),
    "tinyllama shape": lambda path: write_llama(path, n_layer=22, n_embd=256, n_head=4, n_head_kv=4, n_ctx=4096),
    "one KV head": lambda path: write_llama(
        path, n_layer=5, n_embd=512, n_head=8, n_head_kv=1, head_dim=128, n_ctx=4096
    ),
    "gemma2, sliding window": lambda path: write_gemma2(path, window=512, n_ctx=4096),
    "gemma3, sliding window": gemma3,
    "gemma4, two head sizes": gemma4,
    "deepseek2, latent attention": write_deepseek2,
    "mamba, recurrent": write_mamba,
    "lfm2, convolutions": lfm2,
}


def allocated(path, pair, n_ctx) -> float:
    """Bytes of every buffer that llama.cpp names while it loads the model and makes the context."""
    with library.log.capture() as model_lines:
        weights = Weights(LoadOptions(path, use_extra_bufts=False))
    with library.log.capture() as context_lines:
        context = Context(weights, ContextOptions(pair, n_ctx))
    context.close()
    weights.close()
    sizes = [re.search(r"buffer size = +([\d.]+) MiB", text) for _, text in [*model_lines, *context_lines]]
    return sum(float(found[1]) for found in sizes if found) * 2**20


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    path = tmp_path / "model.gguf"
    MODELS[request.param](path)
    return path


@pytest.mark.parametrize("n_ctx", [256, 2048, 4096])
@pytest.mark.parametrize("bits", [(16, 16), (8, 4), (4, 4)])
def test_within_three_percent_of_what_is_allocated(model, bits, n_ctx):
    pair = CachePair.from_bits(*bits)
    with fit.simulation(LoadOptions(model)) as weights:
        if gguf.refusal(gguf.read(model), pair):  # latent attention with unequal bits
            with pytest.raises(KvsplitError):
                fit.footprint(weights, pair, n_ctx)
            return
        found = fit.footprint(weights, pair, n_ctx)
    assert found.total == pytest.approx(allocated(model, pair, n_ctx), rel=0.03)


@pytest.mark.parametrize("n_ctx", [256, 4096])
def test_the_bound_that_spares_asking_is_above_every_cache(model, n_ctx):
    pair = CachePair.from_bits(16, 16)
    with fit.simulation(LoadOptions(model)) as weights:
        assert fit.footprint(weights, pair, n_ctx).kv <= fit._largest_cache(gguf.read(model), n_ctx) - 2**30


def test_a_window_is_no_reason_to_refuse_and_none_to_believe(tmp_path, monkeypatch):
    path = write_gemma2(tmp_path / "g.gguf", window=512, n_ctx=4096)
    pair = CachePair.from_bits(16, 16)
    monkeypatch.setattr(fit, "memory_bytes", lambda: 6 * 2**20)
    fit.refuse_unless_it_fits(path, pair, 4096)  # 5 MiB; all of the context in every layer would be 8
    monkeypatch.setattr(fit, "memory_bytes", lambda: 4 * 2**20)
    with pytest.raises(KvsplitError, match="takes 5.00 MiB and there are 4.00 MiB"):
        fit.refuse_unless_it_fits(path, pair, 4096)


def test_nothing_is_allocated_for_a_cache_of_terabytes():
    with fit.simulation(LoadOptions(demo.MODEL)) as weights:
        # 2**22 tokens of f16 would be 12 GiB.
        assert fit.footprint(weights, CachePair.from_bits(16, 16), 2**22).kv == 12 * 2**30


def test_the_largest_context_fits_and_the_next_does_not():
    pair = CachePair.from_bits(16, 16)
    with fit.simulation(LoadOptions(demo.MODEL)) as weights:
        found = fit.largest(weights, pair, 22 * 2**20)
        assert found.total <= 22 * 2**20 < fit.footprint(weights, pair, found.n_ctx + 256).total
        assert fit.largest(weights, pair, 2**20) is None
        assert fit.largest(weights, pair, 2**40).n_ctx == weights.n_ctx_train


def test_fit_prints_a_row_for_each_pair(llm):
    out = llm("kvsplit", "fit", "kvsplit-demo").stdout
    for pair in LADDER:
        assert re.search(rf"^  {pair} +2048 \(all\)", out, re.M)
    assert "Nothing was measured" in out


def test_the_reverse_names_what_must_be_given_up(llm):
    out = llm("kvsplit", "fit", "kvsplit-demo", "--n-ctx", "8192", "--memory", "40MB").stdout
    assert re.search(r"^  f16 +lacks ", out, re.M)
    assert "-o kv_key_bits 8 -o kv_value_bits 8." in out
    out = llm("kvsplit", "fit", "kvsplit-demo", "--n-ctx", "8192", "--memory", "30MB").stdout
    assert "No pair fits" in out


def test_latent_attention_is_asked_for_equal_bits_only(llm, tmp_path):
    path = write_deepseek2(tmp_path / "mla.gguf")
    out = llm("kvsplit", "fit", str(path)).stdout
    assert "K8V8" in out and "K8V4" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "5MB"), "weights of kvsplit-demo alone take 10.4"),
        (("--memory", "lots"), "is not a size"),
        (("--memory", "0"), "must be more than nothing"),
        (("--n-ctx", "0"), "--n-ctx must be 1 or more, not 0"),
        (("--n-ctx", "-5"), "--n-ctx must be 1 or more, not -5"),
    ],
)
def test_errors_are_one_sentence(llm, arguments, words):
    errors = llm("kvsplit", "fit", "kvsplit-demo", *arguments, code=1).stderr.splitlines()
    assert [line for line in errors if line.startswith("Error: ")] == errors[-1:]
    assert words in errors[-1]
