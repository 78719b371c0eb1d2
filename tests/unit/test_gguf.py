import os
import random
import tracemalloc

import pytest

from llm_kvsplit import demo, gguf, gguf_format
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import F16, Q4_0, Q8_0, CachePair
from tests.support.tiny_gguf import DAMAGED, change_arch, gguf_bytes, part, value


@pytest.fixture
def write(tmp_path):
    def write(data, name="tiny.gguf"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def read(write, changes=None, **kwargs):
    return gguf.read(write(gguf_bytes(changes, **kwargs)))


def test_says_what_the_header_says(write):
    model = read(write, {"tokenizer.chat_template": "{{ messages }}"})
    assert (model.architecture, model.name, model.kind, model.weights) == ("llama", "Tiny", "model", "F16")
    assert (model.n_layer, model.n_head, model.n_head_kv, model.n_embd) == (2, 4, (2, 2), 128)
    assert (model.head_dim_k, model.head_dim_v, model.n_ctx_train) == (32, 32, 512)
    assert model.chat_template == "{{ messages }}"
    assert model.sliding_window is None and not model.mla and not model.recurrent
    assert model.size == model.path.stat().st_size


def test_reads_what_another_writer_wrote(tmp_path):
    writer_of = pytest.importorskip("gguf")
    import numpy

    path = tmp_path / "other.gguf"
    writer = writer_of.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(4096)
    writer.add_embedding_length(256)
    writer.add_head_count(8)
    writer.add_head_count_kv([4, 4, 2])
    writer.add_key_length(64)
    writer.add_token_list([f"token {i}" for i in range(100_000)])
    writer.add_token_scores([0.5] * 100_000)
    writer.add_chat_template("{{ bos_token }}")
    writer.add_tensor("token_embd.weight", numpy.zeros((100, 256), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = gguf.read(path)
    assert (model.n_head_kv, model.head_dim_k, model.head_dim_v) == ((4, 4, 2), 64, 32)
    assert (model.n_ctx_train, model.weights, model.chat_template) == (4096, "F32", "{{ bos_token }}")


def test_what_is_shown_cannot_steer_a_terminal(write):
    model = read(write, {"general.name": "Nice\x1b[2J\nmodel"})
    assert model.name == "Nice [2J model"
    strange = gguf_bytes({"new\nline": ["a"], "tokenizer.ggml.tokens": None}).replace(
        value(["a"])[:8], value(["a"])[:4] + b"\x63\0\0\0"
    )
    with pytest.raises(KvsplitError, match=r"'new\\nline' is an array of 1 values of type 99"):
        gguf.read(write(strange))


def test_tensor_sizes_are_those_of_the_gguf_package():
    sizes = pytest.importorskip("gguf.constants").GGML_QUANT_SIZES
    assert gguf_format.TENSOR_TYPES[9][1:] == (32, 36)  # q8_1 is never in a file, and the package has an old size
    for kind, (block, size) in sizes.items():
        if kind.name != "Q8_1":
            assert gguf_format.TENSOR_TYPES[int(kind)] == (kind.name, block, size)


def test_the_demo_model():
    model = gguf.read(demo.MODEL)
    assert (model.architecture, model.n_layer, model.head_dim_k, model.chat_template) == ("llama", 6, 64, None)
    assert (model.n_head_kv, model.file_type, model.weights_text) == ((2,) * 6, "F16", "F16")


@pytest.mark.parametrize(
    "arch, own, shapes",
    [
        # Grouped heads that differ by layer, and none in a layer without attention.
        ("deci", {"attention.head_count_kv": [2, 0]}, [(2, 32, 32), (0, 32, 32)]),
        # Layers of a multi-token-prediction head are not in the main cache.
        ("glm4moe", {"block_count": 3, "nextn_predict_layers": 1}, [(2, 32, 32)] * 2),
        # Gemma 4: the last layer reads the first's cache; windowed layers have heads of another size.
        ("gemma4", {"attention.shared_kv_layers": 1}, [(2, 32, 32), (0, 32, 32)]),
        (
            "gemma4",
            {
                "attention.sliding_window_pattern": [True, False],
                "attention.key_length_swa": 16,
                "attention.value_length_swa": 16,
            },
            [(2, 16, 16), (2, 32, 32)],
        ),
        # Every second layer attends, the other is recurrent.
        ("qwen3next", {"full_attention_interval": 2, "ssm.state_size": 16}, [(0, 32, 32), (2, 32, 32)]),
        # Latent attention: one head of keys, no values.
        (
            "deepseek2",
            {"attention.head_count_kv": 1, "attention.key_length": 576, "attention.key_length_mla": 192},
            [(1, 576, 0)] * 2,
        ),
    ],
)
def test_the_shape_of_each_layers_cache(write, arch, own, shapes):
    model = read(write, change_arch(arch, own))
    assert [(layer.n_head_kv, layer.head_dim_k, layer.head_dim_v) for layer in model.layers] == shapes


def test_refuses_what_llama_cpp_refuses(write):
    odd = read(write, {"llama.attention.key_length": 80})
    assert gguf.refusal(odd, CachePair(F16, Q4_0)) is None
    assert "key heads of 80 values" in gguf.refusal(odd, CachePair(Q8_0, Q4_0))
    latent = read(write, change_arch("deepseek2", {"attention.key_length_mla": 192}))
    assert gguf.refusal(latent, CachePair(Q8_0, Q8_0)) is None
    assert "same bits" in gguf.refusal(latent, CachePair(Q8_0, Q4_0))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "is empty"),
        (b"PK\3\4 a zip file", "is not a GGUF file but a zip archive: unpack it first"),
        (b"GG", "is not a GGUF file"),
        (gguf_bytes(version=1), "version 1"),
        (gguf_bytes(version=9), "version 9"),
        (gguf_bytes(order=">"), "byte order"),
        (gguf_bytes()[:-40], " 24 of its 2480 bytes are missing"),
        (gguf_bytes()[:100], "cut short or damaged"),
        (gguf_bytes({"general.architecture": None}), "architecture"),
        (gguf_bytes({"llama.block_count": 1 << 30}), "1073741824 layers"),
        (gguf_bytes({"llama.attention.head_count_kv": [2]}), "1 entries for 2 layers"),
        (gguf_bytes({"llama.context_length": "many"}), "context_length is not a count"),
        (gguf_bytes({"general.alignment": 3}), "alignment is 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(write, data, words):
    path = write(data)
    with pytest.raises(KvsplitError) as error:
        gguf.read(path)
    assert words in error.value.message
    assert str(path) in error.value.message and "\n" not in error.value.message


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(KvsplitError, match="does not exist"):
        gguf.read(tmp_path / "none.gguf")
    with pytest.raises(KvsplitError, match="cannot be read"):
        gguf.read(tmp_path)


def test_every_truncation_is_noticed(write):
    data = gguf_bytes(fill=200)
    whole = len(gguf_bytes(fill=200)) - (-200 % 32)  # the last tensor needs no padding
    path = write(data[:whole])
    gguf.read(path)
    for length in reversed(range(whole)):
        os.truncate(path, length)
        with pytest.raises(KvsplitError):
            gguf.read(path)


def test_damaged_bytes_give_an_error_or_a_model_and_never_cost_much(write):
    data = gguf_bytes({"tokenizer.chat_template": "x" * 50, "llama.attention.head_count_kv": [2, 2]})
    chance = random.Random(42)
    tracemalloc.start()
    refused = 0
    for _ in range(1000):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(4, len(data))
            width = chance.choice((1, 4, 8))
            damaged[at : at + width] = chance.choice((b"\xff" * width, bytes(width), chance.randbytes(width)))
        try:
            model = gguf.read(write(damaged))
            gguf.refusal(model, CachePair(Q8_0, Q4_0))
        except KvsplitError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 100
    assert peak < 20 << 20


def test_strings_longer_than_the_buffer(write, monkeypatch):
    monkeypatch.setattr(gguf_format._Header, "CHUNK", 16)
    words = [chr(97 + i % 26) * (i % 60) for i in range(500)]
    model = read(write, {"tokenizer.ggml.tokens": words, "tokenizer.chat_template": "z" * 300})
    assert model.chat_template == "z" * 300


def test_split_models_are_read_over_all_parts(write):
    paths = [write(part(i), f"big-{i + 1:05}-of-00003.gguf") for i in range(3)]
    model = gguf.read(paths[0])
    assert model.files == tuple(paths)
    assert model.n_tensors == 3
    assert model.size == sum(path.stat().st_size for path in paths)

    with pytest.raises(KvsplitError, match="first part, big-00001-of-00003.gguf"):
        gguf.read(paths[1])
    paths[2].write_bytes(part(2)[:-10])
    with pytest.raises(KvsplitError, match="big-00003-of-00003.gguf is cut short"):
        gguf.read(paths[0])
    paths[2].unlink()
    with pytest.raises(KvsplitError, match="big-00003-of-00003.gguf is missing"):
        gguf.read(paths[0])


def test_a_renamed_part_is_refused(write):
    with pytest.raises(KvsplitError, match="names they were published with"):
        gguf.read(write(part(0), "mine.gguf"))


@pytest.mark.parametrize(
    "number, text",
    [
        (15, "Q4_K_M, most bytes F16"),
        (1, "F16"),
        (15 + 1024, "Q4_K_M (guessed), most bytes F16"),
        (99, "file type 99 (of no known name), most bytes F16"),
        (None, "F16"),
    ],
)
def test_the_file_type_and_what_most_bytes_are(write, number, text):
    assert read(write, {"general.file_type": number}).weights_text == text


def test_a_mix_that_its_name_tells_is_named_once(write):
    tensors = [("output.weight", (256, 3), 12)]
    assert read(write, {"general.file_type": 15}, tensors=tensors).weights_text == "Q4_K_M"


@pytest.mark.parametrize(
    "changes, tensors, words",
    [
        ({}, (), "a vocabulary without a model"),
        ({"tokenizer.ggml.tokens": None}, (), "a header without a model"),
        (
            change_arch("superpoint", {"block_count": None}),
            None,
            "not a language model that llama.cpp knows (architecture superpoint)",
        ),
        (change_arch("t5", {"decoder_block_count": 2}), None, "an encoder-decoder model"),
        (change_arch("t5encoder", {}), None, "an encoder, which writes no text"),
        (change_arch("llada", {}), None, "a diffusion model"),
        (change_arch("bert", {"attention.causal": False}), None, "embeds text"),
        (change_arch("gemma-embedding", {}), None, "embeds text"),
        ({"tokenizer.ggml.model": "no_vocab"}, None, "a model without a vocabulary (tokenizer.ggml.model is no_vocab)"),
        ({"tokenizer.ggml.model": "none"}, None, "a model without a vocabulary"),
        ({}, None, None),
    ],
)
def test_what_is_no_language_model_is_called_what_it_is(write, changes, tensors, words):
    model = read(write, changes) if tensors is None else read(write, changes, tensors=tensors)
    what = gguf.other_kind(model)
    assert what is None if words is None else words in what
    refusal = gguf.refusal(model, CachePair(F16, F16))
    assert refusal is None if words is None else words in refusal


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    with pytest.raises(KvsplitError, match="is a pipe or a device"):
        gguf.read(path)


@pytest.mark.parametrize("name", ["key twice", "tensor twice"])
def test_the_gguf_package_agrees(write, name):
    reader = pytest.importorskip("gguf").GGUFReader
    reader(write(gguf_bytes(), "good.gguf"))
    with pytest.raises((KeyError, ValueError), match="(?i)duplicate"):
        reader(write(DAMAGED[name][0]))
