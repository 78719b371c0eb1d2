"""The types that only the series has: what they keep of values, answers with them, and libraries that lack them."""

import json
import shutil

import numpy as np
import pytest

from llm_kvsplit import files
from llm_kvsplit.builds import shelf
from llm_kvsplit.engine import rows
from llm_kvsplit.kvtypes import IQ4_NL, Q3_NL, Q5_0, Q5_1, Q6_0, Q8_0
from tests.support.library import BUILD

ANSWER = ("-m", "kvsplit-demo", "-o", "temperature", "0", "-o", "max_tokens", "8", "def f(")


def error(values, cache_type) -> float:
    """The squared error as a share of the squares."""
    return float(((values - rows.rounded(values, cache_type)) ** 2).sum() / (values**2).sum())


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(1).standard_normal((200, 256)).astype(np.float32)


#: What tools/benchmarks/cache_types.py computes for the same blocks with numpy.
@pytest.mark.parametrize(
    ("cache_type", "share"), [(Q6_0, 0.00041), (Q5_0, 0.00166), (IQ4_NL, 0.00557), (Q3_NL, 0.0245)]
)
@pytest.mark.parametrize("factor", [1e-3, 1, 1e3])
def test_what_is_left_of_normal_values(normal, cache_type, share, factor):
    assert error(factor * normal, cache_type) == pytest.approx(share, rel=0.02)
    assert error(-factor * normal, cache_type) == pytest.approx(share, rel=0.02)


def test_more_bits_keep_more(normal):
    errors = [error(normal, each) for each in (Q8_0, Q6_0, Q5_1, Q3_NL)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("cache_type", [Q6_0, Q5_0, IQ4_NL, Q3_NL])
def test_blocks_at_the_ends(cache_type):
    """Nothing at all, one value alone, equal ones, and such as the scale cannot hold."""
    blocks = np.zeros((5, 32), np.float32)
    blocks[1, 7], blocks[2], blocks[3], blocks[4, ::2] = -3, 0.5, 1e-9, 6e4
    left = rows.rounded(blocks, cache_type)
    assert not left[0].any()
    assert left[1, 7] == pytest.approx(-3, rel=0.13)
    assert left[2] == pytest.approx(0.5, rel=0.13)
    assert np.abs(left[3]).max() < 1e-4
    assert np.isfinite(left[4]).all() and left[4, 0] == pytest.approx(6e4, rel=0.13)


@pytest.mark.parametrize(("key_bits", "value_bits"), [(6, 3), (3, 6), (8, 3), (6, 5)])
def test_an_answer(llm, key_bits, value_bits):
    bits = ("-o", "kv_key_bits", str(key_bits), "-o", "kv_value_bits", str(value_bits))
    assert llm(*bits, *ANSWER).stdout.strip()


@pytest.fixture
def older(tmp_path):
    """The libraries, saying of themselves that they lack the types; as a build that was made before does."""
    folder = shutil.copytree(BUILD, tmp_path / "older")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["libraries"]:
        library = folder / name
        library.write_bytes(library.read_bytes().replace(b'"kv-types"', b'"kv-typos"'))
        manifest["libraries"][name] = files.sha256(library)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert shelf.custom(folder).bindings
    return {"LLAMA_CPP_LIB_PATH": str(folder)}


def test_a_library_without_the_types_is_not_given_one(llm, older):
    refused = llm("-o", "kv_key_bits", "6", "-o", "kv_value_bits", "3", *ANSWER, code=1, env=older).stderr
    assert "this library has no q6_0 and no q3_nl. 'llm kvsplit backend install' gets a build" in refused
    assert "this library has no q6_0." in llm("-o", "kv_key_bits", "6", *ANSWER, code=1, env=older).stderr
    assert "K6V4 " not in llm("kvsplit", "fit", "kvsplit-demo", env=older).stdout
    info = llm("kvsplit", "info", "kvsplit-demo", env=older).stdout
    assert "K6V4      not possible: it is refused by llama.cpp (this library has no q6_0)" in info
