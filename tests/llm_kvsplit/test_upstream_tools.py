"""Our quality against upstream's program, from the same build on the same tokens; of speeds see docs/use/measuring.md."""

import os
import subprocess
import sys

import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import results

pytestmark = [pytest.mark.build, pytest.mark.timeout(2400)]

N_CTX = 512
TYPES = {"K8V4": ("q8_0", "q4_0"), "K4V4": ("q4_0", "q4_0")}


@pytest.fixture(scope="module")
def tools():
    """A folder with upstream's libraries and programs, unpatched."""
    from kvsplit_patch import build, cmake, trees

    return build.tools(trees.unpatched(), cmake.flags(), print)


@pytest.fixture(scope="module")
def ours(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    env = {**os.environ, "LLM_USER_PATH": str(folder), "LLAMA_CPP_LIB_PATH": str(tools)}
    command = [sys.executable, "-m", "llm", "kvsplit", "bench", "kvsplit-demo", "--config", "f16,8/4,4/4", "--threads", "2"]
    subprocess.run([*command, "--seq-len", str(N_CTX), "--repeats", "1", "--out", str(folder / "out")], env=env, check=True)
    return results.read(folder / "out" / "results.json")


@pytest.fixture(scope="module")
def perplexity(tools, tmp_path_factory):
    """What llama-perplexity prints for each cache, on the windows that bench takes."""
    from kvsplit_patch import smoke

    base = tmp_path_factory.mktemp("base") / "kld"
    common = ["-m", demo.MODEL, "-f", demo.SMOKE_TEXT, "-c", N_CTX, "-b", N_CTX, "--chunks", 16, "-t", 2, "-fa", "on"]
    common += ["-lv", 4, "--kl-divergence-base", base]
    printed = {"f16": smoke.perplexity(tools, "f16", "prefill", common)}
    for cache, (k, v) in TYPES.items():
        printed[cache] = smoke.perplexity(tools, cache, "prefill", [*common, "-ctk", k, "-ctv", v, "--kl-divergence"])
    return {cache: smoke.read(text, cache, "prefill", N_CTX) for cache, text in printed.items()}


def test_perplexity_of_f16(ours, perplexity):
    assert ours.cell("K8V4", N_CTX)["ppl_f16"] == pytest.approx(perplexity["f16"].ppl, rel=0.001)


@pytest.mark.parametrize("cache", TYPES)
def test_quality_of_a_quantized_cache(ours, perplexity, cache):
    cell, theirs = ours.cell(cache, N_CTX), perplexity[cache]
    print(cache, cell["ppl"], theirs.ppl, cell["kl_mean"][0], theirs.kld, cell["kl_999"][0], theirs.kld_999, theirs.same_top)
    assert cell["ppl"] == pytest.approx(theirs.ppl, rel=0.002)
    assert cell["kl_mean"][0] == pytest.approx(theirs.kld, rel=0.03)
    assert cell["kl_999"][1] <= theirs.kld_999 <= cell["kl_999"][2]  # of 4080 tokens, four are beyond it
    assert 100 * cell["same_top"][0] == pytest.approx(theirs.same_top, abs=0.5)
