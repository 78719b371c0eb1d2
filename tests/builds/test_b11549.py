"""Every proof of the series on b11549 (see tests/series/test_b11549.py), and what a person does with that build.

The installed llama-cpp-python is of another day, and its structures are shorter: the build brings its own definitions.
"""

import pytest

from kvsplit_patch.building import cmake
from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof import stages, subjects, verify
from llm_kvsplit import registry
from tests.support.release import skipped_without
from tests.support.verdicts import results

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture
def smol(user_path):
    with skipped_without("SmolLM2", PatchError):
        registry.add(registry.Entry("smol", subjects.smollm2()))


def test_all_is_proven_and_then_used(upstream_here, tmp_path, llm, logged, smol):
    verdict = verify.verify("b11549", cmake.flags(), print)
    assert verdict.problems == []
    assert results(verdict) == dict.fromkeys(stages.NAMES, "ok")
    details = {check.name: check.details for check in verdict.checks}
    assert "llama_context_params" in " ".join(details["abi"]["changes"]), "upstream has moved fields since the base"
    (build,) = (tmp_path / "builds").iterdir()
    assert build.name == details["build"]["id"]

    # KVSPLIT_BUILDS names it. No rebase: the checkout's series stands where it did.
    pair = ("-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4")
    brief = ("-o", "max_tokens", "12", "-o", "temperature", "0")
    assert f"* {build.name}" in llm("kvsplit", "backend", "list").stdout
    doctor = llm("kvsplit", "doctor").stdout
    assert "Everything that was tried works." in doctor and "K8V4   runs" in doctor and " fails " not in doctor
    assert llm("-m", "kvsplit-demo", *pair, *brief, "def fibonacci(n):").stdout.strip()
    sessions = ("-o", "kv_sessions", "true")
    assert llm("-m", "smol", *pair, *brief, *sessions, "Name the three primary colours of light.").stdout.strip()
    assert llm("-c", *pair, *brief, *sessions, "And which one is the sky?").stdout.strip()
    assert logged()["response_json"]["session"]["restored_tokens"] > 0
    compared = llm("kvsplit", "compare", "kvsplit-demo", "--pairs", "8/4", "--n-ctx", "256").stdout
    assert "K8V4" in compared
    commit = verdict.target["commit"]
    assert f"llama.cpp {commit[:9]} with the patch series" in compared, "and not of the llama-cpp-python installed"
