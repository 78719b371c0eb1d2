"""tune: maps are within their bytes and better than pairs, stored and taken over; interruptions lose nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from llm_kvsplit import demo, files, gguf, registry
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair, LayerMap
from tests.support.ggufs import write_deepseek2, write_gemma2, write_llama, write_mamba
from tests.support.library import BUILD

#: A thread: two that wait for each other beside other work take several times as long.
ONE = ("--threads", "1")
#: The context whose bytes a budget is of.
N_CTX = 1024


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A cache folder where what is measured is kept for the tests that follow."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tune(llm, measured, monkeypatch):
    """``llm kvsplit tune``, with "m" and "n" registered as the bundled model."""
    monkeypatch.setenv("KVSPLIT_CACHE", str(measured))
    for name in ("m", "n"):
        registry.add(registry.Entry(name, demo.MODEL, n_ctx=N_CTX))

    def run(*arguments, **kwargs):
        return llm("kvsplit", "tune", *map(str, arguments), *ONE, **kwargs)

    return run


def layer_map(printed):
    return LayerMap.parse(re.search(r"^    -o kv_layers (\S+)$", printed, re.MULTILINE)[1])


def allocated(cache):
    """Bytes as llama.cpp allocates them."""
    weights = Weights(LoadOptions(demo.MODEL))
    try:
        context = Context(weights, ContextOptions(cache, N_CTX, 1))
        context.close()
        return context.kv_size.bytes
    finally:
        weights.close()


def recipe_of(file):
    return json.loads(file.read_text())


def test_a_map_is_chosen_stored_and_used(tune, llm, logged, tmp_path):
    done = tune("m", "--export", "r.json")
    chosen = layer_map(done.stdout)
    assert "Stored: llm -m m uses it from now on." in done.stdout
    assert registry.get("m").kv_layers == str(chosen) and registry.get("n").kv_layers is None
    assert registry.get("m").n_ctx == N_CTX
    llm("-m", "m", "-o", "max_tokens", "2", "Hello")
    assert logged()["response_json"]["kv_cache"]["layers"] == str(chosen)
    whole = recipe_of(tmp_path / "r.json")
    assert whole["kv_layers"] == str(chosen) and whole["model"]["sha256"] == demo.MODEL_SHA256
    assert (
        allocated(chosen) == whole["tuned"]["bytes"] <= allocated(CachePair.parse("8/q4_0")) == whole["goal"]["bytes"]
    )
    k8v4 = next(each for each in whole["pairs"] if each["pair"] == "K8Vq4_0")
    # Half of K8V4's damage in its bytes, on text that the map was not chosen on.
    assert whole["tuned"]["held"][0] < 0.5 * k8v4["held"][0]
    assert whole["tuned"]["chosen"][0] <= min(each["chosen"][0] for each in whole["pairs"])
    for each in (whole["tuned"], *whole["pairs"]):
        assert each["predicted"] == pytest.approx(each["chosen"][0], rel=0.6)
        assert each["held"][1] < each["held"][0] < each["held"][2] and each["kl_999"][0] > 3 * each["kl_mean"][0]


def test_another_budget_measures_little(tune, measured, tmp_path):
    tune("m", "--dry-run")
    before = dict(runs(measured))
    done = tune("m", "--budget", "4.5bits", "--dry-run", "--export", "r.json")
    assert "Nothing was stored." in done.stdout and registry.get("m").kv_layers is None
    assert f"{len(before)} measurements are there already." in done.stderr
    after = dict(runs(measured))
    assert {name: after[name] for name in before} == before and len(after) - len(before) < len(before)
    whole = recipe_of(tmp_path / "r.json")
    assert allocated(layer_map(done.stdout)) <= 4.5 / 16 * whole["f16_bytes"]
    assert whole["f16_bytes"] == allocated(CachePair.parse("f16"))
    again = tune("m", "--budget", f"{whole['goal']['bytes']}B", "--dry-run")
    assert layer_map(again.stdout) == layer_map(done.stdout)


def test_a_limit_is_kept_surely(tune, tmp_path):
    done = tune("m", "--limit", "0.02", "--dry-run", "--export", "r.json")
    whole = recipe_of(tmp_path / "r.json")
    assert whole["tuned"]["chosen"][2] <= 0.02 and "damage of at most 0.02 nats" in done.stdout
    # It is no larger than a map that has half of that damage.
    assert whole["tuned"]["chosen"][0] > 0.002 and whole["tuned"]["bytes"] < 0.4 * whole["f16_bytes"]
    assert "give a larger --limit" in tune("m", "--limit", "1e-9", code=1).stderr


def test_the_bundled_model_and_a_file_are_told_how(tune, tmp_path):
    shutil.copy(demo.MODEL, tmp_path / "my model.gguf")
    for model, words in (
        ("kvsplit-demo", "llm models options set kvsplit-demo kv_layers "),
        ("my model.gguf", "llm kvsplit add 'my model.gguf' --kv-layers "),
    ):
        done = tune(model, "--budget", "41%")
        assert words + str(layer_map(done.stdout)) in done.stdout


def test_a_recipe_is_taken_over(tune, llm, tmp_path):
    tune("m", "--export", "r.json", "--dry-run")
    done = tune("n", "--import", "r.json")
    assert registry.get("n").kv_layers == recipe_of(tmp_path / "r.json")["kv_layers"] == str(layer_map(done.stdout))
    assert registry.get("m").kv_layers is None
    llm("models", "options", "set", "m", "kv_key_bits", "8")
    note = tune("m", "--import", "r.json").stderr
    assert "llm's own options for m say kv_key_bits, and go before it" in note


def test_a_recipe_for_another_model_or_library(tune, tmp_path):
    tune("m", "--export", "r.json", "--dry-run")
    registry.add(registry.Entry("other", write_llama(tmp_path / "o.gguf", n_layer=6)))
    assert "is for another model" in one_sentence(tune("other", "--import", "r.json", code=1))
    spoilt = {**recipe_of(tmp_path / "r.json"), "kv_layers": "0-5:6/3"}
    (tmp_path / "s.json").write_text(json.dumps(spoilt))
    older = library_without(tmp_path, b'"kv-types"', b'"kv-typos"')
    assert "this library has no q6_0 and no q3_nl" in one_sentence(tune("m", "--import", "s.json", code=1, env=older))
    assert "leave out --budget" in one_sentence(tune("m", "--import", "r.json", "--budget", "41%", code=1))
    assert registry.get("m").kv_layers is registry.get("other").kv_layers is None


def one_sentence(done):
    line = done.stderr.strip()
    assert line.startswith("Error: ") and "\n" not in line and line.endswith("."), line
    return line


def library_without(folder, before, after):
    """The library, spoilt so that it lacks something; as a build that was made before does."""
    folder = shutil.copytree(BUILD, folder / after.strip(b'"').decode())
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["libraries"]:
        library = folder / name
        library.write_bytes(library.read_bytes().replace(before, after))
        manifest["libraries"][name] = files.sha256(library)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return {"LLAMA_CPP_LIB_PATH": str(folder)}


def test_a_library_without_layer_maps(tune, tmp_path):
    older = library_without(tmp_path, b"llama_kvsplit_set_layers", b"llama_kvsplit_set_lawyer")
    assert "'llm kvsplit backend install'" in one_sentence(tune("m", code=1, env=older))


MODELS = {
    "one layer": (lambda path: write_llama(path, n_layer=1), "has one layer"),
    "latent attention": (lambda path: write_deepseek2(path), "has latent attention"),
    "no cache": (lambda path: write_mamba(path), "has no KV cache"),
    "heads of 16 values": (
        lambda path: write_llama(path, n_embd=64, n_head=4, n_head_kv=2),
        "does not divide the head size 16",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_take_no_map(tune, tmp_path, kind):
    write, words = MODELS[kind]
    write(tmp_path / "model.gguf")
    assert words in one_sentence(tune("model.gguf", code=1))


def test_what_cannot_be_asked(tune, tmp_path):
    (tmp_path / "short.txt").write_text("A short text. " * 99)
    for arguments, words in (
        (("nobody",), "neither a registered model nor a file"),
        (("m", "--text", "short.txt"), "are needed: give a longer one with --text"),
        (("m", "--text", "nowhere.txt"), "cannot be read as text"),
        (("m", "--budget", "300%"), "has room for the f16 cache"),
        (("m", "--budget", "3 layers"), "is no share, bits or size"),
        (("m", "--budget", "41%", "--limit", "1"), "two goals"),
        (("m", "--limit", "-1"), "must be more than 0"),
        (("m", "--import", "nowhere.json"), "cannot be read"),
    ):
        assert words in one_sentence(tune(*arguments, code=1))


def test_flash_attention_turned_off(tune, llm):
    llm("models", "options", "set", "m", "flash_attn", "false")
    assert "'llm models options clear m flash_attn'" in one_sentence(tune("m", code=1))


def test_a_window_takes_fewer_cells(tmp_path, monkeypatch, measured, llm, user_path):
    """gemma2: every other layer holds a window alone, and llama.cpp says how many bytes a map then takes."""
    monkeypatch.setenv("KVSPLIT_CACHE", str(measured))
    write_gemma2(tmp_path / "windows.gguf", window=64)
    done = llm("kvsplit", "tune", "windows.gguf", "--budget", "7bits", "--export", "r.json", *ONE)
    whole = recipe_of(tmp_path / "r.json")
    weights = Weights(LoadOptions(tmp_path / "windows.gguf"))
    context = Context(
        weights, ContextOptions(layer_map(done.stdout), gguf.read(tmp_path / "windows.gguf").n_ctx_train, 1)
    )
    assert context.kv_size.bytes == whole["tuned"]["bytes"] <= 7 / 16 * whole["f16_bytes"]
    context.close()
    weights.close()


def start(folder, cache):
    return subprocess.Popen(
        [sys.executable, "-m", "llm", "kvsplit", "tune", "m", "--export", str(folder / "r.json"), *ONE],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KVSPLIT_CACHE": str(cache)},
        start_new_session=True,
    )


def runs(cache):
    """What was measured; never half a file."""
    every = [json.loads(file.read_text()) for file in cache.glob("tune/*/results.json")]
    return [run for each in every if each["model"]["sha256"] == demo.MODEL_SHA256 for run in each["runs"].items()]


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_is_the_same_map(tune, user_path, tmp_path, kill):
    tune("n", "--export", "whole.json")
    cache = tmp_path / "cache"
    for count in (2, 20):
        process = start(tmp_path, cache)
        while len(runs(cache)) < count and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, kill)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
        assert process.returncode != 0 and "Traceback" not in stderr
        kept = runs(cache)
        assert len(kept) >= count and not (tmp_path / "r.json").exists() and registry.get("m").kv_layers is None
        if kill == signal.SIGINT:
            assert "the same command goes on from there" in stderr
    process = start(tmp_path, cache)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert f"{len(kept)} measurements are there already." in stderr
    assert dict(kept).items() <= dict(runs(cache)).items()
    once, resumed = (recipe_of(tmp_path / name) for name in ("whole.json", "r.json"))
    assert {**once, "model": 0} == {**resumed, "model": 0}
    assert registry.get("m").kv_layers == once["kv_layers"] == str(layer_map(stdout))


def test_what_was_measured_and_then_spoilt_is_one_sentence(tune, tmp_path, monkeypatch, measured):
    tune("m", "--dry-run")
    cache = tmp_path / "cache"
    shutil.copytree(measured / "tune", cache / "tune")
    monkeypatch.setenv("KVSPLIT_CACHE", str(cache))
    for file in cache.glob("tune/*/results.json"):
        file.write_text(file.read_text()[:-9])
    done = tune("m", code=1)
    assert "move it away and measure again" in one_sentence(done)
