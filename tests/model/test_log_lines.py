"""What is read from llama.cpp's log: the real lines of the real library, and lines that are worded otherwise."""

import pytest

from llm_kvsplit.engine import library, log_lines
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.log_lines import KvSize
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import CachePair
from tests.support import ggufs

from .test_gguf_architectures import N_EMBD, gemma4, write

PAIR = CachePair.from_bits(8, 4)


def gemma3_270m(path):
    """The cache of Gemma 3 270M: 18 layers with one KV head of 256 values, 15 of them with a window of 512 tokens."""

    def extra(i):
        return {"output_norm": (N_EMBD,)} if i < 0 else {"attn_q_norm": (256,), "attn_k_norm": (256,)}

    norms = ("post_attention_norm", "post_ffw_norm")
    write(path, "gemma3", [256] * 18, [1] * 18, norms, {"attention.sliding_window": 512}, extra)


MODELS = {
    "llama": lambda path: ggufs.write_llama(path),
    "gemma2": lambda path: ggufs.write_gemma2(path, window=512),
    "gemma4": gemma4,
    "mamba": lambda path: ggufs.write_mamba(path),
    "lfm2": lambda path: ggufs.write_lfm2(path),
    "gemma3": gemma3_270m,
}


class Lines:
    """What the library logs while it loads a model and makes a context of it."""

    def __init__(self, path, pair=PAIR, n_ctx=2048):
        weights = Weights(LoadOptions(path))
        self.model = [text for _, text in library.log.lines]
        context = Context(weights, ContextOptions(pair, n_ctx))
        self.context = [text for _, text in library.log.lines]
        self.kv_size, self.buffers, self.splits = context.kv_size, context.buffers, context.graph_splits
        self.attention, self.values = context.attention, weights.values_per_layer
        self.recurrent, self.state = weights.recurrent, weights.recurrent or weights.hybrid
        context.close()
        weights.close()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    kept = {}

    def of(name):
        if name not in kept:
            path = tmp_path_factory.mktemp("logs") / f"{name}.gguf"
            MODELS[name](path)
            kept[name] = Lines(path)
        return kept[name]

    return of


@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_in_the_log_of_this_library(logs, name):
    log = logs(name)
    assert log.values is not None
    assert log.kv_size.bytes is not None and log.kv_size.f16_bytes is not None
    assert log.buffers.compute and log.buffers.output is not None
    assert (log.kv_size.bytes == 0) == log.recurrent
    assert log.buffers.state is not None and (name != "mamba" or log.buffers.state > 0)
    assert log.splits == 1  # these tests run on the CPU alone
    assert log.attention == (None if log.recurrent else "CPU")


def test_the_cache_of_gemma3_270m(tmp_path):
    path = tmp_path / "gemma3.gguf"
    gemma3_270m(path)
    f16 = 18 * 256 * 2 * 2  # bytes of a token
    for pair, n_ctx, taken, at_f16 in [
        (PAIR, 256, 256 * f16 * 13 // 32, 4718592),
        (CachePair.from_bits(16, 16), 256, 4718592, 4718592),
        # 3 layers of 4096 tokens, 15 of a window and a batch: 27 MiB, not 72.
        (CachePair.from_bits(16, 16), 4096, 28311552, 28311552),
    ]:
        log = Lines(path, pair, n_ctx)
        assert log.kv_size == KvSize(taken, at_f16)


def reworded(lines, before, after):
    changed = [line.replace(before, after) for line in lines]
    assert changed != lines, f"no line has {before!r}"
    return changed


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("llama_kv_cache: size =", "llama_kv_cache: total ="),
        ("K (q8_0):", "K[q8_0]"),
        ("cells,", "slots,"),
        (": dev = ", ": device "),
        ("llama_kv_cache: layer   0", "llama_kv_cache: block 0"),
        ("llama_kv_cache: ", "kv_cache_init: "),
        ("constructing llama_context", "new context"),
    ],
)
def test_a_cache_in_other_words_is_not_known(logs, name, before, after):
    lines = reworded(logs(name).context, before, after)
    parts = log_lines.cache_parts(lines, cached=True)
    assert parts is None
    assert log_lines.kv_size(parts, logs(name).values) == KvSize(None, None)


def test_one_part_in_other_words_does_not_pass_for_the_whole(logs):
    lines = list(logs("gemma2").context)
    sizes = [i for i, line in enumerate(lines) if line.startswith("llama_kv_cache: size =")]
    assert len(sizes) == 2
    for i in sizes:
        assert log_lines.cache_parts(lines[:i] + lines[i + 1 :], cached=True) is None


def test_a_log_that_lost_its_beginning_is_not_known(logs):
    assert log_lines.cache_parts(logs("gemma2").context[20:], cached=True) is None
    assert log_lines.buffers(logs("gemma2").context[20:], recurrent=False).total is None


@pytest.mark.parametrize(
    ("name", "before", "missing"),
    [
        ("llama", "compute buffer size", "compute"),
        ("llama", "output buffer size", "output"),
        ("mamba", "RS buffer size", "state"),
        ("lfm2", "RS buffer size", "state"),
    ],
)
def test_a_buffer_in_other_words_is_not_known(logs, name, before, missing):
    lines = reworded(logs(name).context, before, "memory")
    found = log_lines.buffers(lines, recurrent=logs(name).state)
    assert getattr(found, missing) is None and found.total is None


def test_values_in_other_words_leave_the_printed_size(logs):
    log = logs("gemma4")
    for before in ("n_embd_k_gqa", "n_layer_all"):
        assert log_lines.values_per_layer(reworded(log.model, before, "width")) is None
    printed = log_lines.kv_size(log_lines.cache_parts(log.context, cached=True), None)
    assert printed.bytes == pytest.approx(log.kv_size.bytes, abs=4 * 0.0051 * 2**20)


def test_an_unknown_cache_type_has_no_size_at_f16(logs):
    lines = reworded(logs("llama").context, "K (q8_0)", "K (q6_9)")
    size = log_lines.kv_size(log_lines.cache_parts(lines, cached=True), logs("llama").values)
    assert size.bytes and size.f16_bytes is None


def test_fit_says_so_when_the_log_is_worded_otherwise(monkeypatch):
    from llm_kvsplit import demo, fit

    monkeypatch.setattr(log_lines, "_SIZE", log_lines.re.compile("no such line"))
    with fit.simulation(LoadOptions(demo.MODEL)) as weights, pytest.raises(KvsplitError, match="in other words"):
        fit.footprint(weights, PAIR, 256)
