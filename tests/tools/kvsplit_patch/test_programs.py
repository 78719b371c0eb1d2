"""What is read from the output of upstream's programs. Their real output is read in the tests that need --build."""

import shutil

import pytest

from kvsplit_patch import failures
from kvsplit_patch.errors import PatchError
from kvsplit_patch.programs import backend_ops, llama_bench, llama_perplexity
from llm_kvsplit.kvtypes import CachePair

LOAD = llama_bench.Load(1, 1, 0, 1)

# As the functions of upstream's console_printer print it (tests/test-backend-ops.cpp), without colours.
DIFFERENT = """\
  FLASH_ATTN_EXT(hsk=64,nr23=[4,1],type_K=f16): OK
  FLASH_ATTN_EXT(hsk=40,nr23=[4,1],type_K=f16): not supported [CPU]
[FLASH_ATTN_EXT] ERR = 0.120000000 > 0.000500000   FLASH_ATTN_EXT(hsk=64,nr23=[1,1],type_K=q8_0): FAIL
failed to allocate tensors [CPU]   FLASH_ATTN_EXT(hsk=80,nr23=[1,1],type_K=q4_0): OK
  2/4 tests passed

Failing tests:
  FLASH_ATTN_EXT(hsk=64,nr23=[1,1],type_K=q8_0)
  FLASH_ATTN_EXT(hsk=72,nr23=[1,1],type_K=q4_0)
"""


def test_no_case_that_differs_is_overlooked():
    outcome = backend_ops.read(DIFFERENT)
    assert outcome.passed == 2 and outcome.died == ""
    assert outcome.failed == ("hsk=64,nr23=[1,1],type_K=q8_0", "hsk=72,nr23=[1,1],type_K=q4_0")
    assert outcome.refused == ("hsk=40,nr23=[4,1],type_K=f16",)


@pytest.mark.parametrize("code, ending", [(-11, "died of signal 11"), (1, "ended with code 1")])
def test_what_passed_before_the_program_died_is_counted(code, ending):
    outcome = backend_ops.read(DIFFERENT.partition("  2/4")[0], code=code)
    assert (outcome.passed, outcome.died) == (2, ending)


def test_cases_that_failed_without_a_name_are_an_error():
    with pytest.raises(PatchError, match="says 3/4 tests passed and names none"):
        backend_ops.read("  3/4 tests passed\n")


def test_programs_that_are_not_there_are_one_sentence(tmp_path):
    pair, model = CachePair.from_bits(8, 4), tmp_path / "model"
    for call in (
        lambda: llama_bench.speed(tmp_path, model, pair, LOAD),
        lambda: llama_bench.devices(tmp_path),
        lambda: backend_ops.backends(tmp_path),
        lambda: backend_ops.test(tmp_path, "CPU"),
        lambda: llama_perplexity.output(tmp_path, []),
    ):
        with pytest.raises(PatchError, match=r"build the tools anew\.$"):
            call()


def test_another_program_under_the_name_is_one_sentence(tmp_path):
    pair = CachePair.from_bits(8, 4)
    program = tmp_path / "llama-bench"
    program.symlink_to(shutil.which("ls"))  # knows none of the options
    with pytest.raises(PatchError, match=r"^llama-bench ended with code \d with K8V4: "):
        llama_bench.speed(tmp_path, tmp_path, pair, LOAD)
    program.unlink()
    program.symlink_to(shutil.which("echo"))  # says them again
    with pytest.raises(PatchError, match="^llama-bench printed other JSON with K8V4 than is known here"):
        llama_bench.speed(tmp_path, tmp_path, pair, LOAD)


def test_the_first_error_is_told_or_the_last_line():
    printed = "[1/2] error.cpp\nfoo.cpp:3:1: error: no such thing;\nfoo.cpp:9:1: error: another\nended\n"
    assert failures.first_error(printed) == "foo.cpp:3:1: error: no such thing"
    assert failures.first_error("one\n two.\n\n") == "two"
    assert failures.first_error("GGML_ASSERT(x) failed\nend", "error|assert|fail") == "GGML_ASSERT(x) failed"
    assert failures.first_error("") == "it said nothing"
