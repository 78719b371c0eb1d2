"""What smoke accepts and refuses; and, with --build, that it catches faults that were really compiled."""

import math
from dataclasses import replace

import pytest

from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof import smoke
from kvsplit_patch.proof.programs import llama_perplexity
from kvsplit_patch.proof.programs.llama_perplexity import CacheResult
from kvsplit_patch.proof.smoke import PHASES, Measurement
from llm_kvsplit.kvtypes import USUAL, CachePair

KLD = {"f16": 0.0, "K8V8": 0.0001, "K8V4": 0.0035, "K4V8": 0.0180, "K4V4": 0.0215}
MIB = {"f16": 1.5, "q8_0": 0.796875, "q4_0": 0.421875}


def result(pair) -> CacheResult:
    k, v = MIB[pair.k.name], MIB[pair.v.name]
    kld = KLD[str(pair)]
    return CacheResult(9 + kld, kld, 10 * kld, 100 - 100 * kld, round(k, 2), round(v, 2), k, v)


def measurement(**changed) -> Measurement:
    """A sound one; ``K8V4={"kld": 1}`` changes that cache in both phases."""
    results = {str(pair): replace(result(pair), **changed.get(str(pair), {})) for pair in USUAL}
    return Measurement(dict.fromkeys(PHASES, results), dict.fromkeys(PHASES, "same"), {})


def problems(ours, unpatched=None, baseline=None, changes=()):
    return smoke.problems(ours, unpatched, baseline and baseline.as_json(), frozenset(changes))


def test_a_sound_build_has_no_problem():
    assert problems(measurement(), measurement(), measurement()) == []


def test_what_is_no_number_is_a_problem():
    assert any("K8V4: ppl is nan" in problem for problem in problems(measurement(K8V4={"ppl": math.nan})))


@pytest.mark.parametrize("cache, kld", [("K8V8", 0.0036), ("K8V4", 0.0181), ("K4V8", 0.0230), ("K4V8", math.nan)])
def test_the_order_of_damage_must_hold(cache, kld):
    assert any("does more damage" in problem for problem in problems(measurement(**{cache: {"kld": kld}})))


def test_a_tie_of_the_four_bit_keys_is_no_problem():
    assert problems(measurement(K4V8={"kld": 0.0216})) == []


def test_bytes_must_equal_the_arithmetic():
    found = problems(measurement(K8V4={"k_mib": 0.42, "v_mib": 0.80}))
    assert "prefill K8V4: K takes 0.42 MiB, but the types make 0.80." in found


def test_the_last_digit_must_be_the_unpatched_one_unless_a_patch_says_otherwise():
    ours = measurement(K8V4={"kld": 0.003501})
    assert sorted(p.split(":")[0] for p in problems(ours, measurement())) == ["decode K8V4", "prefill K8V4"]
    assert problems(ours, measurement(), changes=["K8V4"]) == []
    assert problems(ours, measurement(), changes=["K4V8"]) != []


def test_a_patch_that_changes_numbers_may_not_change_them_much():
    ours = measurement(K8V4={"kld": 0.0038})
    assert any(
        "kld is 0.003800, the unpatched build has 0.003500" in p for p in problems(ours, measurement(), changes=["all"])
    )


def test_another_output_of_f16_is_a_problem_of_its_own():
    ours = replace(measurement(), logits=dict.fromkeys(PHASES, "other"))
    assert any("f16: the output differs" in problem for problem in problems(ours, measurement()))
    assert problems(ours, measurement(), changes=["f16"]) == []


def test_the_baseline_tells_what_upstream_changed():
    drifted = measurement(K4V4={"kld": 0.0300})
    assert any("the baseline has 0.021500" in problem for problem in problems(drifted, drifted, measurement()))


def test_a_baseline_of_another_model_is_not_used(tmp_path):
    model, other, text = (tmp_path / name for name in ("model", "other", "text"))
    for file in (model, other, text):
        file.write_text(file.name)
    smoke.write_baseline([measurement()], "0" * 40, model, text, tmp_path / "baseline.json")
    assert smoke.read_baseline(model, text, tmp_path / "baseline.json")["upstream_commit"] == "0" * 40
    with pytest.raises(PatchError, match="another model"):
        smoke.read_baseline(other, text, tmp_path / "baseline.json")
    with pytest.raises(PatchError, match="no baseline"):
        smoke.read_baseline(model, text, tmp_path / "none.json")


def test_a_number_that_was_not_printed_is_told():
    with pytest.raises(PatchError, match="printed no Mean"):
        llama_perplexity.read("Final estimate: PPL = 8.1", CachePair.from_bits(8, 4), 1024, "prefill")


# --- real builds --------------------------------------------------------------------------------
