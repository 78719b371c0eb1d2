"""Recipes: what is written is read, and what is anything else is one sentence."""

import json
import random
import shutil

import pytest

from llm_kvsplit import demo, gguf
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import CachePair, LayerMap
from llm_kvsplit.tune import goal, recipe
from llm_kvsplit.tune.search import Figures, Outcome
from tests.support.ggufs import write_llama

MAP = "0-1:K8V6,2-4:K6Viq4_nl,5:K8V3"
ABOUT = {
    "model": {"name": "kvsplit-demo", "architecture": "llama", "weights": "F16", "layers": 6},
    "text": {}, "machine": {}, "backend": {}, "settings": {}, "made_by": "llm-kvsplit",
}  # fmt: skip


@pytest.fixture
def model(user_path):
    return gguf.read(demo.MODEL)


@pytest.fixture
def file(tmp_path, model):
    """A recipe as ``--export`` writes it."""
    figures = Figures(LayerMap.parse(MAP), 1000, 0.001, *([0.001, 0.0005, 0.0015] for _ in range(4)))
    pair = Figures(CachePair.parse("8/4"), 1000, 0.002, *([0.002, 0.001, 0.003] for _ in range(4)))
    outcome = Outcome(goal.Goal("as large", 1000), LayerMap.parse(MAP), figures, (pair,), 2000)
    recipe.write(tmp_path / "recipe.json", model, outcome, ABOUT)
    return tmp_path / "recipe.json"


def changed(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return file


def refused(file, model, words):
    with pytest.raises(KvsplitError, match=words) as raised:
        recipe.map_for(recipe.read(file), file, model, "m")
    sentence = str(raised.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500
    assert all(each.isprintable() for each in sentence)


def test_what_was_written_is_read(file, model):
    read = recipe.read(file)
    assert read.model_sha256 == demo.MODEL_SHA256
    assert str(recipe.map_for(read, file, model, "m")) == MAP
    whole = json.loads(file.read_text())
    assert whole["tuned"]["held"] == [0.001, 0.0005, 0.0015] and whole["pairs"][0]["pair"] == "K8V4"


def test_another_model(file, tmp_path, user_path):
    path = tmp_path / "other.gguf"
    write_llama(path, n_layer=6, n_head=4, n_head_kv=2, n_embd=256)
    refused(file, gguf.read(path), "is for another model: m has other bytes than the kvsplit-demo")


def test_one_changed_byte_is_another_model(file, tmp_path, user_path):
    path = tmp_path / "copy.gguf"
    shutil.copy(demo.MODEL, path)
    with path.open("r+b") as copy:
        copy.seek(-1, 2)
        last = copy.read(1)[0]
        copy.seek(-1, 2)
        copy.write(bytes([last ^ 1]))
    refused(file, gguf.read(path), "is for another model")


def test_no_file(tmp_path, model):
    refused(tmp_path / "nothing.json", model, "cannot be read")
    refused(tmp_path, model, "cannot be read")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"GGUF\x03\x00", b"[" * 100_000, b'{"kind": "another"}',
        b'{"kind": "llm-kvsplit layer map", "version": 1}',
        b'{"kind": "llm-kvsplit layer map", "version": 1, "model": []}',
        b'{"kind": "llm-kvsplit layer map", "version": 1, "model": {"sha256": 1, "name": "", "layers": 6}, "kv_layers": ""}',
        b'{"kind": "llm-kvsplit layer map", "version": 1, "model": {"sha256": "", "name": "", "layers": true}, "kv_layers": ""}',
        b" " * (1 << 21),
    ],
)  # fmt: skip
def test_what_is_no_recipe(tmp_path, model, data):
    (tmp_path / "bad.json").write_bytes(data)
    refused(tmp_path / "bad.json", model, "is no recipe that 'llm kvsplit tune --export' wrote")


def test_another_version(file, model):
    refused(changed(file, version=2), model, "is of version '2', and this llm-kvsplit reads 1")
    refused(changed(file, version="\x1b[31m" * 99), model, "is of version")


@pytest.mark.parametrize(
    ("kv_layers", "words"),
    [
        ("", "it is empty"),
        ("0-5:8/7", "16, 8, 6, 5, 4, 3"),
        ("0-5:8/q9_9", "16, 8, 6, 5, 4, 3"),
        ("0-6:8/4", "it names 7 of the model's 6 layers"),
        ("0-4:8/4", "it names 5 of the model's 6 layers"),
        ("0-99999:8/4", "it names 100000 of"),
        ("1-6:8/4", "names layer 6, and the model has layers 0 to 5"),
        ("0-5:8/4,2:8/8", "named twice"),
        ("rm -rf:8/4", "is not layers:pair"),
        ("\x1b[31m:8/4", "is not layers:pair"),
    ],
)
def test_a_map_that_does_not_fit(file, model, kv_layers, words):
    refused(changed(file, kv_layers=kv_layers), model, words)


def test_any_damage_is_the_same_map_or_one_sentence(file, model):
    """A byte changed, or the end cut off."""
    data, chance = file.read_bytes(), random.Random(0)
    for _ in range(300):
        spoilt = bytearray(data)
        spoilt[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(bytes(spoilt[: chance.choice([len(data), chance.randrange(len(data))])]))
        try:
            layer_map = recipe.map_for(recipe.read(file), file, model, "m")
        except KvsplitError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
        else:
            layer_map.pairs(model.n_layer)
