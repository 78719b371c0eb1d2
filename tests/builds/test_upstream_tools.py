"""Our quality against upstream's program, from the same build on the same tokens; of speeds see docs/use/measuring.md."""

import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import results
from llm_kvsplit.kvtypes import CachePair
from tests.support import commands

pytestmark = [pytest.mark.build, pytest.mark.timeout(2400)]

N_CTX = 512
PAIRS = [CachePair.from_bits(8, 4), CachePair.from_bits(4, 4)]


@pytest.fixture(scope="module")
def tools():
    """A folder with upstream's libraries and programs, unpatched."""
    from kvsplit_patch.building import artifacts, cmake
    from kvsplit_patch.series import trees

    return artifacts.tools(trees.unpatched(), cmake.flags(), print)


@pytest.fixture(scope="module")
def ours(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    options = ("--config", "f16,8/4,4/4", "--threads", "2", "--seq-len", str(N_CTX), "--repeats", "1")
    out = ("--out", str(folder / "out"))
    commands.process(folder, "bench", "kvsplit-demo", *options, *out, LLAMA_CPP_LIB_PATH=str(tools))
    return results.read(folder / "out" / "results.json")


@pytest.fixture(scope="module")
def perplexity(tools):
    """What llama-perplexity prints for each cache, on the windows that bench takes."""
    from kvsplit_patch.proof.programs import llama_perplexity

    windows = llama_perplexity.Windows(N_CTX, 16, N_CTX)
    return llama_perplexity.compare(
        tools, demo.MODEL, demo.SMOKE_TEXT, PAIRS, windows, what="the test", threads=2
    ).results


def test_perplexity_of_f16(ours, perplexity):
    assert ours.cell("K8V4", N_CTX)["ppl_f16"] == pytest.approx(perplexity["f16"].ppl, rel=0.001)


@pytest.mark.parametrize("cache", [str(pair) for pair in PAIRS])
def test_quality_of_a_quantized_cache(ours, perplexity, cache):
    cell, theirs = ours.cell(cache, N_CTX), perplexity[cache]
    print(
        cache,
        cell["ppl"],
        theirs.ppl,
        cell["kl_mean"][0],
        theirs.kld,
        cell["kl_999"][0],
        theirs.kld_999,
        theirs.same_top,
    )
    assert cell["ppl"] == pytest.approx(theirs.ppl, rel=0.002)
    assert cell["kl_mean"][0] == pytest.approx(theirs.kld, rel=0.03)
    assert cell["kl_999"][1] <= theirs.kld_999 <= cell["kl_999"][2]  # of 4080 tokens, four are beyond it
    assert 100 * cell["same_top"][0] == pytest.approx(theirs.same_top, abs=0.5)
