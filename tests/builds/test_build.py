"""Compiling: first a small project through the real cmake and ninja; with --build, llama.cpp itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from kvsplit_patch.building import artifacts, cmake, headers, libraries
from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof.programs import llama_bench, llama_perplexity
from kvsplit_patch.series import folders, trees
from llm_kvsplit import files
from llm_kvsplit.builds import definitions
from llm_kvsplit.paths import backends_dir
from tests.support import stub
from tests.support.release import HERE, fetch
from tests.support.small_project import FILES as SMALL
from tests.support.small_project import small
from tests.support.worlds import make_tree


def compiled(tree, lines=None):
    """Build the small project; the steps that ninja took, and what the library's two functions give."""
    lines = [] if lines is None else lines
    with cmake.compiled(tree, "", ("-DCMAKE_BUILD_TYPE=Release",), ("llama",), lines.append) as out:
        program = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); print(lib.one(), lib.two())"
        said = subprocess.run([sys.executable, "-c", program, libraries.library(out)], capture_output=True, text=True)
    return [line for line in lines if "Building" in line], said.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one C++ library")
def test_a_build_has_one_libstdcpp(tmp_path, cache, monkeypatch):
    """Also with a compiler that links libstdc++.a into each library. What one copy makes, another must not end."""
    monkeypatch.setenv("LDFLAGS", "-static-libstdc++")
    words = '#include <regex>\nextern "C" int one() { return std::regex_match("a1", std::regex("[a-z][0-9]")); }\n'
    tree = small(tmp_path / "a", **{"one.cpp": words})
    with cmake.compiled(tree, "", ("-DCMAKE_BUILD_TYPE=Release",), ("llama",), lambda line: None) as out:
        library = libraries.library(out)
        needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    assert "libstdc++.so.6" in needed and " one" in symbols.stdout
    assert "_ZNSt6locale" not in symbols.stdout  # std::locale, which the archive defines


def test_a_second_tree_compiles_only_what_differs(tmp_path, cache):
    steps, answers = compiled(small(tmp_path / "a"))
    assert len(steps) == 2 and answers == ["1", "2"]
    steps, answers = compiled(small(tmp_path / "b", **{"two.cpp": 'extern "C" int two() { return 22; }\n'}))
    assert len(steps) == 1 and answers == ["1", "22"]
    assert compiled(tmp_path / "b") == ([], ["1", "22"])


def test_a_cache_behind_a_link_makes_the_same_bytes(tmp_path, cache, monkeypatch):
    """A header's path is compiled into assertions: what is compiled anew must be what was there before."""
    where = "inline const char * where() { return __FILE__; }\n"
    uses = '#include "where.h"\nextern "C" const char * one() { return where(); }\n'
    lists = SMALL["CMakeLists.txt"] + "target_include_directories(llama PRIVATE ${CMAKE_SOURCE_DIR})\n"

    def made(name, text):
        tree = small(tmp_path / name, **{"CMakeLists.txt": lists, "where.h": where, "one.cpp": text})
        with cmake.compiled(tree, "", flags, ("llama",), print) as out:
            return libraries.library(out).read_bytes()

    flags = [
        "-DCMAKE_BUILD_TYPE=Release",
        *(["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []),
    ]
    first = made("a", uses)
    made("b", uses + "int more = 1;\n")
    (tmp_path / "link").symlink_to(cache)
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path / "link"))
    assert made("c", uses) == first


def test_a_library_has_one_name(tmp_path, cache):
    with cmake.compiled(small(tmp_path / "a"), "", (), ("llama",), print) as out:
        assert [file.name for file in out.iterdir()] == [libraries.library(out).name]


def test_an_error_of_the_compiler_is_one_sentence(tmp_path, cache):
    with pytest.raises(PatchError, match=r"ninja failed: .*one\.cpp.*error.*; all of its output is in .*log\.txt"):
        compiled(small(tmp_path / "a", **{"one.cpp": "not C++\n"}))
    assert compiled(small(tmp_path / "b"))[1] == ["1", "2"]


def test_the_first_error_is_quoted_however_much_follows_it(tmp_path, cache):
    """The other job's warnings come after it, and quote code that prints the word."""
    warns = '#include <cstdio>\nextern "C" int two() {\n'
    warns += (
        "".join(f'    int unused_{at}; std::printf("error: %d", unused_{at});\n' for at in range(400)) + "return 2; }\n"
    )
    tree = small(tmp_path / "a", **{"one.cpp": "#error planted\n", "two.cpp": warns})
    lists = SMALL["CMakeLists.txt"] + "target_compile_options(llama PRIVATE -Wall -Wextra -Wno-error=unused)\n"
    (tree / "CMakeLists.txt").write_text(lists)
    with pytest.raises(PatchError, match=r"ninja failed: \S*one\.cpp:1:2: error: #error planted; all of its output"):
        compiled(tree)


@pytest.mark.parametrize("linked", ["-Wl,--no-undefined", "-lno-such-library"])
@pytest.mark.skipif(sys.platform != "linux", reason="GNU ld's options")
def test_an_error_of_the_linker_is_quoted(tmp_path, cache, linked):
    lists = SMALL["CMakeLists.txt"] + f"target_link_libraries(llama PRIVATE {linked})\n"
    missing = 'extern "C" int missing();\nextern "C" int one() { return missing(); }\n'
    words = "undefined reference to .missing" if "undefined" in linked else "cannot find -lno-such-library"
    with pytest.raises(PatchError, match=rf"ninja failed: .*{words}.*; all of its output"):
        compiled(small(tmp_path / "a", **{"CMakeLists.txt": lists, "one.cpp": missing}))


@pytest.mark.parametrize(
    "text, words",
    [
        ("message(FATAL_ERROR no)\n", r"CMake Error at CMakeLists\.txt:1 \(message\): no;"),
        ("project(x CXX\n", r"CMake Error at CMakeLists\.txt:1: Parse error"),
        (
            "project(x CXX)\nadd_library(llama SHARED gone.cpp)\n",
            r"CMake Error at CMakeLists\.txt:\d \(add_library\): Cannot",
        ),
    ],
)
def test_an_error_of_cmake_is_quoted(tmp_path, cache, text, words):
    with pytest.raises(PatchError, match=f"cmake failed: {words}"):
        compiled(small(tmp_path / "a", **{"CMakeLists.txt": text}))


def test_a_compile_that_was_killed_is_finished_by_the_next(tmp_path, cache):
    heavy = '#include <regex>\n#include <iostream>\nstatic std::regex pattern("a|b");\n'
    tree = small(tmp_path / "a", **{"one.cpp": heavy + SMALL["one.cpp"], "two.cpp": heavy + SMALL["two.cpp"]})
    program = (
        "import sys; from pathlib import Path; from kvsplit_patch.building import cmake\n"
        "with cmake.compiled(Path(sys.argv[1]), '', ('-DCMAKE_BUILD_TYPE=Release',), ('llama',), lambda line: None): pass"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tree], start_new_session=True)
    try:
        for _ in range(600):
            if list(cache.glob("build/*/out/CMakeFiles/llama.dir/*")):  # ninja makes the folder just before it compiles
                break
            time.sleep(0.05)
        else:
            pytest.fail("nothing was compiled, so that there is nothing to kill")
        assert child.poll() is None, "the compile was over before it could be killed"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not list(cache.glob("build/*/out/bin/*"))
    assert compiled(tree)[1] == ["1", "2"]


@pytest.fixture
def stubbed(no_builds, tmp_path):
    """A tree with llama.cpp's real headers, whose libraries export all that is used and do nothing of it."""
    fetch(HERE)
    tree = stub.headers(trees.unpatched(HERE).folder, tmp_path / "tree")
    stub.library(tree, tmp_path / "library")
    for name in ("real.cpp", "empty.c"):
        shutil.copyfile(tmp_path / "library" / name, tree / name)
    include = " ".join(stub.FOLDERS)
    (tree / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14)\nproject(stub C CXX)\nset(CMAKE_CXX_STANDARD 17)\n"
        f"include_directories({include})\nadd_compile_options(-w -fno-builtin)\n"
        "set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
        "add_library(llama SHARED real.cpp empty.c)\nadd_library(mtmd SHARED empty.c)\n"
    )
    files = {path: data for path, (_, data) in folders.read(tree).items()}
    return trees.SourceTree(make_tree(files), "0" * 40)


def test_a_build_that_does_not_answer_is_not_kept(stubbed):
    """It compiles, exports all that is used, and no model can be loaded with it."""
    with pytest.raises(
        PatchError, match=r"What was compiled of llama.cpp 0{40} cannot be used here, and is not kept: "
    ) as no:
        artifacts.build(stubbed, ("-DCMAKE_BUILD_TYPE=Release",), print)
    assert "\n" not in no.value.message
    assert not list(backends_dir().glob("*")) and not list(backends_dir().parent.glob(".building-*"))


# --- real builds --------------------------------------------------------------------------------


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_the_patched_libraries_load_through_the_bindings(no_builds, tmp_path):
    fetch(HERE)
    lines = []
    folder = artifacts.build(trees.patched(), cmake.flags(), lines.append)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["bindings"], manifest["series_version"]) == (files.sha256(folder / "bindings.json"), "1")
    assert definitions.read(folder / "bindings.json") == headers.of_tree(trees.patched().folder)
    assert {"kvq-args", "amx-tile-config"} <= set(manifest["features"])
    assert {"libllama.so", "libggml.so", "libmtmd.so"} <= set(manifest["libraries"]) or sys.platform == "darwin"

    again = []
    assert artifacts.build(trees.patched(), cmake.flags(), again.append) == folder
    assert again == [f"{folder.name} is already built."]  # neither cmake nor ninja had a word

    # Relocatable: only the folder, somewhere else, and asked through the installed bindings.
    moved = tmp_path / "moved"
    os.rename(folder, moved)
    program = (
        "import llama_cpp, llama_cpp.mtmd_cpp, ctypes\n"
        "info = llama_cpp.llama_cpp._lib.llama_kvsplit_info; info.restype = ctypes.c_char_p; print(info().decode())\n"
        "print(llama_cpp.llama_supports_mmap())"
    )
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(moved), "MTMD_CPP_LIB": str(moved)}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout.splitlines()[0])["features"] == manifest["features"]


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_kvq_options_of_the_programs(tmp_path):
    from kvsplit_patch.proof.smoke import demo

    fetch(HERE)
    tools = artifacts.tools(trees.patched(), cmake.flags(), print)
    model, text = demo()

    def types(*words, **environment):
        command = ["-m", model, "-f", text, "-c", "256", "--chunks", "1", "-lv", "4", *words]
        printed = llama_perplexity.output(tools, command, {**os.environ, **environment})
        return llama_perplexity.cache_types(printed)

    assert types("--kvq", "8") == ("q8_0", "q8_0")
    assert types("--kvq", "8", "--kvq-val", "4") == ("q8_0", "iq4_nl")
    assert types("--kvq-key", "5") == ("q5_1", "f16")
    assert types("--kvq", "8", "-ctv", "q4_0") == ("q8_0", "q4_0")
    assert types("--kvq-key", "6", "--kvq-val", "3") == ("q6_0", "q3_nl")
    assert types("--kvq-val", "4", LLAMA_ARG_KVQ="8") == ("q8_0", "iq4_nl")
    with pytest.raises(PatchError) as failure:
        types("--kvq", "7")
    assert (
        "no KV cache type has '7' bits, use one of: 16 (f16), 8 (q8_0), 6 (q6_0), 5 (q5_1), 4 (iq4_nl), 3 (q3_nl)"
        in failure.value.message
    )
    command = ["-m", model, "-p", 8, "-n", 0, "-r", 1, "-fa", 1, "-kvqk", "8", "-kvqv", "4,5"]
    rows = llama_bench.rows(tools, command)
    assert [(row.key_type, row.value_type) for row in rows] == [("q8_0", "iq4_nl"), ("q8_0", "q5_1")]


@pytest.mark.build
@pytest.mark.timeout(600)
def test_quantized_weights_run_on_a_machine_with_amx(tmp_path):
    """Without the patch amx-tile-config, GCC 12 makes this die with SIGILL where /proc/cpuinfo lists amx_int8."""
    from kvsplit_patch.proof.smoke import demo

    fetch(HERE)
    tools = artifacts.tools(trees.patched(), cmake.flags(), print, extra=("llama-quantize",))
    model, text = demo()
    subprocess.run([tools / "llama-quantize", model, tmp_path / "q8.gguf", "q8_0"], check=True, capture_output=True)
    windows = llama_perplexity.Windows(256, 4, 256)
    perplexities = []
    for more in ([], ["--no-repack"]):  # with AMX where there is any, and without
        quantized = tmp_path / "q8.gguf"
        compared = llama_perplexity.compare(tools, quantized, text, [], windows, what="the test", threads=2, more=more)
        perplexities.append(compared.results["f16"].ppl)
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.01)


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_wheel_installs_in_a_fresh_environment(tmp_path):
    from kvsplit_patch.building import wheel

    fetch(HERE)
    made = wheel.make(trees.patched(), cmake.flags(), tmp_path, print)
    assert made.name.startswith("llama_cpp_python-0.3.36+kvsplit.1-")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", made], check=True)
    program = (
        "import ctypes, llama_cpp; info = llama_cpp.llama_cpp._lib.llama_kvsplit_info; info.restype = ctypes.c_char_p\n"
        "print(llama_cpp.__version__, info().decode())"
    )
    said = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout.startswith('0.3.36+kvsplit.1 {"series": "1"'), said.stderr


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_an_unpatched_library_has_no_marker(no_builds):
    fetch(HERE)
    assert libraries.marker(artifacts.build(trees.unpatched(), cmake.flags(), print)) is None
