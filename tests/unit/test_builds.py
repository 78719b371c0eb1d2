"""Builds: what is copied, kept, swept and chosen, and what is said where there is no compiler."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvsplit_patch.building import cmake
from kvsplit_patch.errors import PatchError
from llm_kvsplit.builds import shelf
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import backends_dir
from tests.support import defined
from tests.support.small_project import small


def test_a_file_that_is_gone_from_the_tree_is_gone_from_the_workspace(tmp_path):
    source, target = small(tmp_path / "a"), tmp_path / "b"
    cmake.copy_changed(source, target)
    (source / "one.cpp").unlink()
    (source / "link").symlink_to("two.cpp")
    assert cmake.copy_changed(source, target) == [Path("one.cpp"), Path("link")]
    assert not (target / "one.cpp").exists() and os.readlink(target / "link") == "two.cpp"
    assert cmake.copy_changed(source, target) == []


def test_without_cmake_or_a_compiler_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX")
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
        with cmake.disk_full_explained(tmp_path), open("/dev/full", "w", buffering=1) as full:
            full.write("x\n")
    with pytest.raises(FileNotFoundError), cmake.disk_full_explained(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "other errors stay what they are")


def test_nothing_half_written_is_left_where_builds_are_looked_for(no_builds, tmp_path):
    folder = backends_dir() / "kvsplit-0000000-1"
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


def a_build(identity, *changed, **more):
    defined.a_build(backends_dir() / identity, *changed, **more)


def test_use_takes_an_id_or_its_beginning_and_refuses_what_does_not_fit(no_builds):
    a_build("one-1", "2026-11-22T00:00:00+00:00")
    a_build("one-2", "2026-11-23T00:00:00+00:00")
    a_build("bad", defined=defined.without("llama_decode"))
    (backends_dir() / "broken").mkdir()
    (backends_dir() / "broken" / "manifest.json").write_text("{")
    assert [each.id for each in shelf.builds()][:1] == ["one-2"]
    assert shelf.active() == ""
    assert shelf.use("one-1") == shelf.active() == "one-1"
    with pytest.raises(KvsplitError, match="could be one-2 or one-1"):
        shelf.use("one")
    with pytest.raises(KvsplitError, match=r"bad cannot be used: .* llama_decode\(\) is gone"):
        shelf.use("bad")
    with pytest.raises(KvsplitError, match="no build 'none'"):
        shelf.use("none")
    assert shelf.active() == "one-1"
    assert shelf.remove("one-1") == "one-1" and shelf.active() == ""


@pytest.mark.parametrize("name", ["libllama.so", "libggml.so", "bindings.json", "manifest.json"])
def test_a_damaged_build_is_not_taken_for_one_that_is_there(no_builds, name):
    """So that making it again makes it, instead of saying that it is there already."""
    folder = backends_dir() / "one"
    assert not shelf.there(folder)
    digest = hashlib.sha256(b"ggml").hexdigest()
    a_build("one", libraries={"libllama.so": hashlib.sha256(b"library").hexdigest(), "libggml.so": digest})
    (folder / "libggml.so").write_bytes(b"ggml")
    assert shelf.there(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert not shelf.there(folder)
    (folder / name).unlink()
    assert not shelf.there(folder)
