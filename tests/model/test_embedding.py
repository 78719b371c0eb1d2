"""`llm embed` with a model that others trained, against the runtime that it was trained for."""

import json
from pathlib import Path

import llm as llm_package
import numpy as np
import pytest
from gguf import PoolingType

from kvsplit_patch.errors import PatchError
from llm_kvsplit import registry
from tests.support import minilm
from tests.support.ggufs import write_llama
from tests.support.release import skipped_without

#: Texts and their vectors in f32, from sentence-transformers (tools/benchmarks/embeddings.py).
REFERENCE = json.loads(Path(__file__).with_name("minilm.json").read_text())


@pytest.fixture(scope="module")
def minilm_file():
    with skipped_without("all-MiniLM-L6-v2", PatchError):
        return minilm.gguf_file()


@pytest.fixture
def embedder(minilm_file, user_path):
    registry.add(registry.Entry("minilm", minilm_file, aliases=("ml",), embeds=True))
    return llm_package.get_embedding_model("minilm")


def cosines(vectors, others):
    vectors, others = np.asarray(vectors), np.asarray(others)
    return (vectors * others).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(others, axis=1)


@pytest.mark.feature("embeddings")
def test_vectors_are_those_of_the_models_own_runtime(embedder, capsys):
    texts = [each["text"] for each in REFERENCE]
    together = list(embedder.embed_multi(texts))
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-6)
    assert cosines(together, [each["vector"] for each in REFERENCE]).min() >= 0.9999
    assert capsys.readouterr().err == "1 of 10 texts cut to the 512 tokens that minilm takes.\n"
    alone = [embedder.embed(text) for text in texts]
    assert cosines(together, alone).min() >= 0.99999  # the neighbours of a batch change nothing


def test_a_control_token_in_a_text_is_text(embedder):
    """sentence-transformers takes it for the token itself."""
    plain, spelled = embedder.embed("a b"), embedder.embed("a [SEP] b")
    assert cosines([plain], [spelled])[0] < 0.95


@pytest.mark.feature("embeddings")
def test_the_command_line_finds_what_is_meant(minilm_file, user_path, llm, tmp_path):
    added = llm("kvsplit", "add", str(minilm_file), "--name", "minilm", "-a", "ml").stdout
    assert "bert, 6 layers, vectors of 384 values for texts of up to 512 tokens, F16" in added
    assert "KV split: minilm (aliases: ml)" in llm("embed-models").stdout
    assert "minilm" not in llm("models").stdout  # it cannot be asked
    assert "for llm embed" in llm("kvsplit", "models").stdout
    assert "'llm embed' can use it" in llm("kvsplit", "info", "minilm").stdout
    lines = {"1": "How do I bake bread?", "2": "The engine needs oil.", "3": "Paris is the capital of France."}
    (tmp_path / "lines.json").write_text(json.dumps([{"id": key, "text": text} for key, text in lines.items()]))
    llm("embed-multi", "things", "lines.json", "-m", "ml", "--store")
    for question, answer in (("flour and yeast", "1"), ("my car makes a noise", "2"), ("European cities", "3")):
        first = llm("similar", "things", "-c", question, "-n", "1").stdout
        assert json.loads(first)["id"] == answer, question
    (row,) = json.loads(llm("collections", "list", "--json").stdout)
    assert row["num_embeddings"] == 3


def test_bits_are_refused_where_there_is_no_cache(minilm_file, user_path, llm):
    refused = llm("kvsplit", "add", str(minilm_file), "--kv-key-bits", "8", code=1).stderr
    assert refused.endswith("embeds texts and keeps no KV cache: leave out the bits.\n")


@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.LAST])
def test_a_decoder_that_was_trained_to_embed(tmp_path, user_path, llm, pooling):
    """As Qwen3-Embedding is: causal, and its file says how to pool."""
    path = write_llama(tmp_path / "m.gguf", pooling=pooling)
    llm("kvsplit", "add", str(path))
    model = llm_package.get_embedding_model("m")
    texts = ["one", "two words", "three"] * 30
    together = list(model.embed_multi(texts))
    assert cosines(together, [model.embed(text) for text in texts[:3]] * 30).min() > 0.99999
    assert cosines(together[:1], together[1:2])[0] < 0.99


def test_what_cannot_embed_is_refused_by_name(tmp_path, user_path, llm):
    reranker = write_llama(tmp_path / "reranker.gguf", pooling=PoolingType.RANK)
    assert "is a reranker, which scores pairs of texts" in llm("kvsplit", "add", str(reranker), code=1).stderr
    registry.add(registry.Entry("writer", write_llama(tmp_path / "writer.gguf"), embeds=True))
    assert (
        "is a model that writes text: give an embedding model" in llm("embed", "-m", "writer", "-c", "x", code=1).stderr
    )
    registry.add(registry.Entry("gone", tmp_path / "gone.gguf", embeds=True))
    assert "gone.gguf" in llm("embed", "-m", "gone", "-c", "x", code=1).stderr
