"""What is read from the output of upstream's programs. Their real output is read in the tests that need --build."""

import shutil
import sys

import pytest

from kvsplit_patch import failures
from kvsplit_patch.building import cmake
from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof.programs import backend_ops, llama_bench, llama_perplexity
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


# As upstream's perplexity.cpp and llama.cpp's print_info and llama_kv_cache print it.
COMPARED = """\
0.00.180.017 I print_info: n_layer               = 6
0.00.180.018 I print_info: n_layer_all           = 7
0.00.180.019 I print_info: n_head_kv             = 2
0.00.180.021 I print_info: n_embd_head_k         = 64
0.00.180.022 I print_info: n_embd_head_v         = 64
0.00.190.029 I llama_kv_cache: size =    1.22 MiB (  1024 cells,   6 layers,  1/1 seqs), K (q8_0):    0.80 MiB, V (q4_0):    0.42 MiB
chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p
   1       6.8291 ±    0.8361       0.00144 ±    0.00434       0.00399 ±    0.00078     1.628 ±  0.206 %    97.647 ±  0.951 %
Mean PPL(Q)                   :   6.441718 ±   0.384093
Mean PPL(Q)/PPL(base)         :   1.003650 ±   0.002133
Mean    KLD:   0.003507 ±   0.000221
Maximum KLD:   0.133333
99.9%   KLD:   0.066887
Same top p: 97.701 ± 0.332 %
"""


def test_the_numbers_of_a_comparison():
    result = llama_perplexity.read(COMPARED, CachePair.from_bits(8, 4), 1024, "prefill")
    assert (result.ppl, result.kld, result.kld_999, result.same_top) == (6.441718, 0.003507, 0.066887, 97.701)
    assert (result.k_mib, result.v_mib) == (0.80, 0.42)
    assert (result.k_mib_expected, result.v_mib_expected) == (0.796875, 0.421875)
    assert llama_perplexity.cache_types(COMPARED) == ("q8_0", "q4_0")
    with pytest.raises(PatchError, match="no size of the cache for prefill with K8V8"):
        llama_perplexity.read(COMPARED, CachePair.from_bits(8, 8), 1024, "prefill")


def test_the_first_error_is_told_or_the_last_line():
    printed = "[1/2] error.cpp\nfoo.cpp:3:1: error: no such thing;\nfoo.cpp:9:1: error: another\nended\n"
    assert failures.first_error(printed) == "foo.cpp:3:1: error: no such thing"
    assert failures.first_error("one\n two.\n\n") == "two"
    assert failures.first_error("GGML_ASSERT(x) failed\nend", "error|assert|fail") == "GGML_ASSERT(x) failed"
    assert failures.first_error("") == "it said nothing"


@pytest.mark.parametrize(
    "printed, quoted",
    [
        # Apple's linker, clang's last line, and pip's frame around another program's output.
        (
            'Undefined symbols for architecture arm64:\n  "_missing", referenced from:\n      _one in one.o\n'
            "clang: error: linker command failed with exit code 1\n",
            'Undefined symbols for architecture arm64: "_missing", referenced from',
        ),
        (
            "error: subprocess-exited-with-error\n  x.cu(12): error: no such thing\nERROR: Failed building wheel\n",
            "x.cu(12): error: no such thing",
        ),
        (
            "a.cpp:1:2: warning: x [-Wno-error=y]\n 1 | puts(error: )\nninja: build stopped: it.\n",
            "ninja: build stopped: it",
        ),
        (
            "c++: fatal error: Killed signal terminated program cc1plus\n",
            "c++: fatal error: Killed signal terminated program cc1plus",
        ),
    ],
)
def test_of_a_build_the_reason_is_quoted(printed, quoted):
    assert failures.build_error(printed) == quoted


@pytest.mark.parametrize(
    "said, needs",
    [  # With Debian 12's headers, and without any; as GCC, CMake 3.25 and Ninja print it.
        (
            "../src/ggml/src/ggml-vulkan/ggml-vulkan.cpp:5214:21: error: 'LayerSettingEXT' is not a member of 'vk'",
            "Vulkan SDK",
        ),
        (
            "CMake Error at Find.cmake:230 (message):\n  Could NOT find Vulkan (missing: Vulkan_LIBRARY glslc)",
            "VULKAN_SDK",
        ),
        ("CMake Error at CMakeLists.txt:274 (message):\n  CUDA Toolkit not found", "nvcc on the PATH"),
        ('../src/ggml/src/ggml-cuda/fattn.cu(12): error: identifier "x" is undefined', ""),
        ("../src/src/llama.cpp:1:1: error: 'x' does not name a type", ""),
    ],
)
def test_what_a_backend_needs_is_said_where_it_is_missing(tmp_path, said, needs):
    command = [sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"]
    with pytest.raises(PatchError) as caught, open(tmp_path / "lock", "w") as lock:
        cmake._run(command, tmp_path, tmp_path / "log.txt", print, lock.fileno())
    last = str(caught.value).split("log.txt.")[1]
    assert needs in last and bool(last) == bool(needs)
