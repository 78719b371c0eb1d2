"""What is found is what llama.cpp loads and allocates."""

from llm_kvsplit import fit, gguf
from llm_kvsplit.engine.weights import LoadOptions
from llm_kvsplit.models.estimate import RESERVED, estimate
from tests.support import ggufs
from tests.unit.test_find import LIBRARY, home, ollamas  # noqa: F401


def test_a_blob_of_ollama_answers(llm, home, ollamas):  # noqa: F811
    file = ggufs.write_scripted(home / "m.gguf", {"<answer>": ["Ahoy", "there"]}, chat_template=ggufs.CHAT)
    ollamas.pull(f"{LIBRARY}/pirate/1b", model=file.read_bytes())
    llm("kvsplit", "add", "pirate:1b")
    assert llm("-m", "pirate:1b", "hello").stdout == "Ahoythere\n"


def test_what_is_said_to_fit_is_what_llama_cpp_would_allocate(tmp_path):
    file = ggufs.write_llama(tmp_path / "m.gguf", n_layer=4, n_embd=256, n_head=4, n_head_kv=4, n_ctx=1 << 17)
    header = gguf.read(file)
    with fit.simulation(LoadOptions(file)) as weights:
        for memory in (RESERVED + (1 << 25), RESERVED + (1 << 27), RESERVED + (1 << 31)):
            fits = estimate(header, memory)
            assert fits.n_ctx and fit.footprint(weights, fits.pair, fits.n_ctx).total <= memory
            if not fits.whole:
                more = fit.footprint(weights, fits.pair, fits.n_ctx + 512)
                assert more.weights + more.kv > memory - RESERVED - (1 << 20)
    assert fits.whole and str(fits) == "fits"
    assert str(estimate(header, RESERVED)) == "too large"
    assert str(estimate(header, RESERVED + header.size)) == "too large"
    assert str(estimate(header, RESERVED + (1 << 25))).startswith("fits with ")
