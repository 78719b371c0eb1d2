"""Compilers that link libstdc++.a into each library, as -static-libstdc++ makes any of them do."""

import subprocess
import sys

import pytest

from kvsplit_patch.building import cmake, libstdcxx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one C++ library")

#: A stream that one library makes and another one ends: its locale is of the first one's libstdc++.
MADE = "#include <sstream>\nstd::ostringstream made() { std::ostringstream s; s << 1.5; return s; }\n"
ENDED = """
#include <locale>
#include <sstream>
std::ostringstream made();
int main() { for (int i = 0; i < 3; ++i) { auto s = made(); s.imbue(std::locale::classic()); if (s.str() != "1.5") return 1; } }
"""


def linked(folder, libraries):
    """The program's exit status, and the libraries that it and its library need."""
    for name, source in (("made", MADE), ("ended", ENDED)):
        (folder / f"{name}.cpp").write_text(source)
    compiler = [cmake.find_toolchain().cxx, "-static-libstdc++"]
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", "libmade.so", "made.cpp", *libraries], cwd=folder, check=True)
    command = [*compiler, "-o", "ended", "ended.cpp", "-L.", "-lmade", "-Wl,-rpath,$ORIGIN", *libraries]
    subprocess.run(command, cwd=folder, check=True)
    needed = [b"libstdc++.so.6" in (folder / name).read_bytes() for name in ("libmade.so", "ended")]
    return subprocess.run(["./ended"], cwd=folder).returncode, all(needed)


def test_a_compiler_that_links_it_as_others_do_needs_nothing(monkeypatch):
    monkeypatch.delenv("LDFLAGS", raising=False)
    assert libstdcxx.flags(cmake.find_toolchain().cxx) == []


def test_one_that_would_copy_it_gets_the_shared_one_first(monkeypatch, tmp_path):
    monkeypatch.setenv("LDFLAGS", "-static-libstdc++")
    (flag,) = libstdcxx.flags(cmake.find_toolchain().cxx)
    name, _, libraries = flag.partition("=")
    assert name == "-DCMAKE_CXX_STANDARD_LIBRARIES"
    assert linked(tmp_path, libraries.split()) == (0, True)
    assert not linked(tmp_path, [])[1]  # the compiler does copy it


def test_a_compiler_that_fails_is_left_to_the_build(monkeypatch):
    monkeypatch.setenv("LDFLAGS", "--no-such-flag")
    assert libstdcxx.flags(cmake.find_toolchain().cxx) == []
