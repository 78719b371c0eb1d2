"""Compiling: first a small project through the real cmake and ninja; with --build, llama.cpp itself."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvsplit_patch import build, cmake, libraries, trees
from kvsplit_patch.errors import PatchError
from kvsplit_patch.programs import llama_bench, llama_perplexity
from llm_kvsplit.builds import shelf
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir

from .test_releases import HERE, fetch

SMALL = {
    "CMakeLists.txt": "cmake_minimum_required(VERSION 3.14)\nproject(small CXX)\n"
    "set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
    "add_library(llama SHARED one.cpp two.cpp)\nset_target_properties(llama PROPERTIES VERSION 1.2.3 SOVERSION 1)\n",
    "one.cpp": 'extern "C" int one() { return 1; }\n',
    "two.cpp": 'extern "C" int two() { return 2; }\n',
}


def small(folder, **changed):
    folder.mkdir()
    for name, text in {**SMALL, **changed}.items():
        (folder / name).write_text(text)
    return folder


def compiled(tree, lines=None):
    """Build the small project; the steps that ninja took, and what the library's two functions give."""
    lines = [] if lines is None else lines
    with cmake.compiled(tree, "", ("-DCMAKE_BUILD_TYPE=Release",), ("llama",), lines.append) as out:
        program = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); print(lib.one(), lib.two())"
        said = subprocess.run([sys.executable, "-c", program, libraries.library(out)], capture_output=True, text=True)
    return [line for line in lines if "Building" in line], said.stdout.split()


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


def test_a_file_that_is_gone_from_the_tree_is_gone_from_the_workspace(tmp_path):
    source, target = small(tmp_path / "a"), tmp_path / "b"
    cmake.copy_changed(source, target)
    (source / "one.cpp").unlink()
    (source / "link").symlink_to("two.cpp")
    assert cmake.copy_changed(source, target) == [Path("one.cpp"), Path("link")]
    assert not (target / "one.cpp").exists() and os.readlink(target / "link") == "two.cpp"
    assert cmake.copy_changed(source, target) == []


def test_an_error_of_the_compiler_is_one_sentence(tmp_path, cache):
    with pytest.raises(PatchError, match=r"ninja failed: .*one\.cpp.*error.*; all of its output is in .*log\.txt"):
        compiled(small(tmp_path / "a", **{"one.cpp": "not C++\n"}))
    assert compiled(small(tmp_path / "b"))[1] == ["1", "2"]


def test_an_error_of_cmake_is_one_sentence(tmp_path, cache):
    with pytest.raises(PatchError, match="cmake failed"):
        compiled(small(tmp_path / "a", **{"CMakeLists.txt": "message(FATAL_ERROR no)\n"}))


def test_a_compile_that_was_killed_is_finished_by_the_next(tmp_path, cache):
    heavy = '#include <regex>\n#include <iostream>\nstatic std::regex pattern("a|b");\n'
    tree = small(tmp_path / "a", **{"one.cpp": heavy + SMALL["one.cpp"], "two.cpp": heavy + SMALL["two.cpp"]})
    program = (
        "import sys; from pathlib import Path; from kvsplit_patch import cmake\n"
        "with cmake.compiled(Path(sys.argv[1]), '', ('-DCMAKE_BUILD_TYPE=Release',), ('llama',), lambda line: None): pass"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tree], start_new_session=True)
    try:
        for _ in range(600):
            if list(cache.glob("build/*/out/CMakeFiles/llama.dir/*")):  # ninja makes the folder just before it compiles
                break
            time.sleep(0.05)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not list(cache.glob("build/*/out/bin/*"))
    assert compiled(tree)[1] == ["1", "2"]


def test_without_cmake_or_a_compiler_it_says_how_to_get_them(monkeypatch, tmp_path):
    cmake.find_toolchain()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PatchError, match="no C.. compiler .'no-such-compiler'."):
        cmake.find_toolchain()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PatchError, match="no cmake and no ninja: run 'pip install cmake ninja'"):
        cmake.find_toolchain()


def test_a_full_disk_is_told(tmp_path):
    with pytest.raises(PatchError, match="is full, and a build takes about 1 GB"):  # noqa: SIM117
        with cmake.disk_full_told(tmp_path), open("/dev/full", "w", buffering=1) as full:
            full.write("x\n")
    with pytest.raises(FileNotFoundError), cmake.disk_full_told(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "other errors stay what they are")


def test_nothing_half_written_is_left_where_builds_are_looked_for(no_builds, tmp_path):
    folder = backends_dir() / "0.3.36-kvsplit-0000000-1"
    with pytest.raises(KeyboardInterrupt), shelf.whole(folder) as temporary:
        (temporary / "manifest.json").write_text("{}")
        assert shelf.builds() == [] and not list(backends_dir().glob("*"))
        raise KeyboardInterrupt
    assert not folder.exists() and not temporary.exists()


def test_a_killed_build_is_swept_by_the_next(no_builds):
    folder = backends_dir() / "killed"
    program = (
        "import sys, time; from pathlib import Path; from llm_kvsplit.builds import shelf\n"
        "with shelf.whole(Path(sys.argv[1])) as t: (t / 'manifest.json').write_text('{}'); print(t, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)
    left = Path(child.stdout.readline().strip())
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert left.is_dir() and shelf.builds() == []
    with shelf.whole(folder) as temporary:
        (temporary / "new").touch()
    assert [file.name for file in folder.iterdir()] == ["new"] and not left.exists()


def a_build(identity, created="2026-11-22T00:00:00+00:00", **manifest):
    folder = backends_dir() / identity
    folder.mkdir(parents=True)
    whole = {"id": identity, "created": created, "bindings_version": build.bindings_version(), "abi": "ok", **manifest}
    (folder / "manifest.json").write_text(json.dumps(whole))


def test_use_takes_an_id_or_its_beginning_and_refuses_what_does_not_fit(no_builds):
    a_build("one-1", "2026-11-22T00:00:00+00:00")
    a_build("one-2", "2026-11-23T00:00:00+00:00")
    a_build("old", bindings_version="0.3.1")
    a_build(
        "bad",
        abi="mismatch",
        abi_mismatches=["llama_batch.pos is at offset 8 in the bindings and at offset 16 in the tree"],
    )
    (backends_dir() / "broken").mkdir()
    (backends_dir() / "broken" / "manifest.json").write_text("{")
    assert [each.id for each in shelf.builds()][:1] == ["one-2"]
    assert shelf.active() == ""
    assert shelf.use("one-1") == shelf.active() == "one-1"
    with pytest.raises(KvsplitError, match="could be one-2 or one-1"):
        shelf.use("one")
    with pytest.raises(KvsplitError, match="old was built for llama-cpp-python 0.3.1"):
        shelf.use("old")
    with pytest.raises(KvsplitError, match="llama_batch.pos is at offset 8 in the bindings and at offset 16"):
        shelf.use("bad")
    with pytest.raises(KvsplitError, match="no backend build 'none'"):
        shelf.use("none")
    assert shelf.active() == "one-1"
    assert shelf.remove("one-1") == "one-1" and shelf.active() == ""


# --- real builds --------------------------------------------------------------------------------


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_the_patched_libraries_load_through_the_bindings(no_builds, tmp_path):
    fetch(HERE)
    lines = []
    folder = build.build(trees.patched(), cmake.flags(), lines.append)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["abi"], manifest["series_version"]) == ("ok", "1")
    assert {"kvq-args", "amx-tile-config"} <= set(manifest["features"])
    assert {"libllama.so", "libggml.so", "libmtmd.so"} <= set(manifest["libraries"]) or sys.platform == "darwin"

    began = time.perf_counter()
    assert build.build(trees.patched(), cmake.flags(), lines.append) == folder
    assert time.perf_counter() - began < 5 and lines[-1] == f"{folder.name} is already built."

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
    from kvsplit_patch.smoke import demo

    fetch(HERE)
    tools = build.tools(trees.patched(), cmake.flags(), print)
    model, text = demo()

    def types(*words, **environment):
        command = ["-m", model, "-f", text, "-c", "256", "--chunks", "1", "-lv", "4", *words]
        printed = llama_perplexity.output(tools, command, {**os.environ, **environment})
        return llama_perplexity.cache_types(printed)

    assert types("--kvq", "8") == ("q8_0", "q8_0")
    assert types("--kvq", "8", "--kvq-val", "4") == ("q8_0", "q4_0")
    assert types("--kvq-key", "5") == ("q5_1", "f16")
    assert types("--kvq-val", "4", LLAMA_ARG_KVQ="8") == ("q8_0", "q4_0")
    with pytest.raises(PatchError) as failure:
        types("--kvq", "7")
    assert "no KV cache type has '7' bits, use one of: 16 (f16), 8 (q8_0), 5 (q5_1), 4 (q4_0)" in failure.value.message
    command = ["-m", model, "-p", 8, "-n", 0, "-r", 1, "-fa", 1, "-kvqk", "8", "-kvqv", "4,5"]
    rows = llama_bench.rows(tools, command)
    assert [(row.key_type, row.value_type) for row in rows] == [("q8_0", "q4_0"), ("q8_0", "q5_1")]


@pytest.mark.build
@pytest.mark.timeout(600)
def test_quantized_weights_run_on_a_machine_with_amx(tmp_path):
    """Without the patch amx-tile-config, GCC 12 makes this die with SIGILL where /proc/cpuinfo lists amx_int8."""
    from kvsplit_patch.smoke import demo

    fetch(HERE)
    tools = build.tools(trees.patched(), cmake.flags(), print, extra=("llama-quantize",))
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
    from kvsplit_patch import wheel

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
    assert libraries.marker(build.build(trees.unpatched(), cmake.flags(), print)) is None
