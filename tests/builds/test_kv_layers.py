"""The patch kv-layers: in upstream's programs, on models of many architectures, and the same as our figures."""

import os
import re
import subprocess

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.proof.programs import llama_perplexity
from kvsplit_patch.series import trees
from llm_kvsplit import demo
from llm_kvsplit.bench import results
from tests.support import commands
from tests.support.release import HERE, fetch

pytestmark = [pytest.mark.build, pytest.mark.timeout(2400)]

PROGRAMS = ("test-kv-layers", "test-llama-archs")
N_CTX = 512
#: The bundled model has six layers.
MAP = "0-1:8/8,rest:8/4"
#: Plain, sliding windows, hybrids, latent attention, heads that differ by layer.
SUPPORTED = ("llama", "gemma3", "granitehybrid", "lfm2", "jamba", "deepseek2", "openelm", "falcon-h1")
#: Their caches are of their own kind, or they have none.
REFUSED = ("mamba", "minimax-m3", "deepseek32")


@pytest.fixture(scope="module")
def tools():
    fetch(HERE)
    return artifacts.tools(trees.patched(), cmake.flags(), print, extra=PROGRAMS)


def test_the_text_of_a_map(tools):
    ended = subprocess.run([tools / "test-kv-layers"], capture_output=True, text=True)
    assert ended.returncode == 0 and "0 failed" in ended.stdout, ended.stdout
    assert ended.stdout.count("OK  : ") >= 12


@pytest.mark.parametrize("architecture", SUPPORTED + REFUSED)
def test_models_of_other_architectures(tools, tmp_path, architecture):
    """Bits as without a map where all layers are alike, near f16 where they are not; states, shifts and refusals."""
    subprocess.run([tools / "test-llama-archs", "-a", architecture, "-o", tmp_path], check=True, capture_output=True)
    models = sorted(tmp_path.glob("*.gguf"))
    assert models
    ended = subprocess.run([tools / "test-kv-layers", *models], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    tried = ended.stdout.count("another map refuses the state")
    assert tried == (len(models) if architecture in SUPPORTED else 0), ended.stdout


@pytest.fixture(scope="module")
def base(tools, tmp_path_factory):
    """What all runs of llama-perplexity have in common, on the windows that bench takes; f16's predictions are stored."""
    file = tmp_path_factory.mktemp("perplexity") / "base"
    common = ["-m", demo.MODEL, "-f", demo.SMOKE_TEXT, "-c", N_CTX, "-b", N_CTX, "-ub", N_CTX, "--chunks", 16, "-t", 2]
    common += ["-fa", "on", "-lv", 4, "--kl-divergence-base", file]
    llama_perplexity.output(tools, common)
    return common


def figures(printed):
    return {
        label: re.search(re.escape(label).replace(r"\ ", " +") + r" *[:=] *(-?[\d.]+)", printed)[1]
        for label in ("Mean PPL(Q)", "Same top p", "Mean KLD", "99.9% KLD")
    }


def test_a_map_of_one_pair_prints_that_pairs_figures(tools, base):
    pair = llama_perplexity.output(tools, [*base, "-ctk", "q8_0", "-ctv", "iq4_nl", "--kl-divergence"])
    mapped = llama_perplexity.output(tools, [*base, "--kvq-layers", "0-5:8/4", "--kl-divergence"])
    assert figures(mapped) == figures(pair)


def test_llama_perplexity_and_bench_say_the_same_of_a_map(tools, base, tmp_path):
    options = ("--config", f"f16,{MAP}", "--threads", "2", "--seq-len", str(N_CTX), "--repeats", "1")
    commands.process(
        tmp_path, "bench", "kvsplit-demo", *options, "--out", str(tmp_path / "out"), LLAMA_CPP_LIB_PATH=str(tools)
    )
    ours = results.read(tmp_path / "out" / "results.json").cell("0-1:K8V8,rest:K8V4", N_CTX)
    printed = llama_perplexity.output(tools, [*base, "--kvq-layers", MAP, "--kl-divergence"])
    theirs = {label: float(value) for label, value in figures(printed).items()}
    assert ours["ppl"] == pytest.approx(theirs["Mean PPL(Q)"], rel=0.002)
    assert ours["kl_mean"][0] == pytest.approx(theirs["Mean KLD"], rel=0.05)
    assert 100 * ours["same_top"][0] == pytest.approx(theirs["Same top p"], abs=0.5)
    k_type, k_mib, v_type, v_mib = re.search(
        r", K \((\w+)\): +([\d.]+) MiB, V \((\w+)\): +([\d.]+) MiB", printed
    ).groups()
    assert (k_type, v_type) == ("q8_0", "mixed")
    assert (float(k_mib) + float(v_mib)) * 2**20 == pytest.approx(ours["kv_bytes"], abs=0.011 * 2**20)


def test_the_environment_names_a_map_too(tools, base):
    named = llama_perplexity.output(tools, [*base, "--kl-divergence"], {**os.environ, "LLAMA_ARG_KVQ_LAYERS": MAP})
    assert "V (mixed)" in named


@pytest.mark.parametrize(
    ("text", "words"),
    [("0-9:8/8", "names layer 9"), ("", "empty"), ("0:8/7", "has '7' bits"), ("0:8,0:8", "a second time")],
)
@pytest.mark.parametrize("program", ["llama-perplexity", "llama-bench"])
def test_what_is_no_map(tools, program, text, words):
    read = ["-f", demo.SMOKE_TEXT] if program == "llama-perplexity" else []
    command = [tools / program, "-m", demo.MODEL, *read, "--kvq-layers", text]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode != 0 and words in ended.stdout + ended.stderr


def test_llama_bench_shows_its_map(tools):
    run = [tools / "llama-bench", "-m", demo.MODEL, "-p", "64", "-n", "4", "-r", "1", "--kvq-layers", MAP]
    ended = subprocess.run(run, capture_output=True, text=True)
    assert ended.returncode == 0 and MAP in ended.stdout, ended.stderr
