"""The plugin uses nothing that llama.cpp has announced to remove: version 1.0.0 removed what was announced before it."""

import os
import re
import subprocess

import pytest

from kvsplit_patch.building import headers
from kvsplit_patch.series import patchset, targets, trees
from llm_kvsplit.builds import interface
from tests.support.release import HERE, fetch, skipped_without

USED = {*interface.FUNCTIONS, *interface.OPTIONAL, *interface.CALLBACKS}
#: A declaration as its author wrote it: with the macro around the whole of it, or behind what exports it.
DEPRECATED = re.compile(r"\b(?:MTMD_|GGML_)?DEPRECATED\((?:[^;\"]*?[\s*])?(\w+)\s*\(")
COMMITS = [HERE, pytest.param("b11549", marks=pytest.mark.long)]


@pytest.fixture(params=COMMITS)
def tree(request):
    """The files of upstream's own tree."""
    fetch(HERE)
    with skipped_without(request.param):
        commit, _ = targets.resolve(patchset.load(), request.param)
    return trees.unpatched(commit).folder


def announced(tree) -> set[str]:
    """The functions that a tree's headers call deprecated."""
    files = [*(tree / "include").glob("*.h"), *(tree / "ggml/include").glob("*.h"), *(tree / "tools/mtmd").glob("*.h")]
    texts = (re.sub(r"^#.*(\\\n.*)*$", "", file.read_text(), flags=re.MULTILINE) for file in files)
    return {name for text in texts for name in DEPRECATED.findall(text)}


def test_nothing_that_is_used_is_deprecated(tree):
    names = announced(tree)
    assert {"llama_load_model_from_file", "llama_get_state_size", "ggml_add1", "ggml_upscale_ext"} <= names
    counted = sum(
        len(re.findall(r"^(?!\s*#).*DEPRECATED\(", file.read_text(), re.MULTILINE))
        for folder in ("include", "ggml/include", "tools/mtmd")
        for file in (tree / folder).glob("*.h")
    )
    assert len(names) == counted, "a way to say so that is not read here"
    assert not names & USED


def test_the_compiler_says_so_too(tree, tmp_path):
    """What a declaration may hide from the eye, such as a macro of another name."""
    include = [f"-I{tree / folder}" for folder in ("include", "ggml/include", "ggml/src", "tools/mtmd")]
    present = [name for name in headers.HEADERS if (tree / name).is_file()]

    def warnings(names) -> str:
        text = "".join(f'#include "{name.rpartition("/")[2]}"\n' for name in present)
        text += "".join(f"auto use_{name} = &{name};\n" for name in names)
        (tmp_path / "use.cpp").write_text(text)
        command = [os.environ.get("CXX", "c++"), "-std=c++17", "-fsyntax-only", "-Wdeprecated-declarations", *include]
        done = subprocess.run([*command, tmp_path / "use.cpp"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "deprecated" not in warnings(interface.FUNCTIONS)
    assert warnings(["llama_load_model_from_file"]).count("deprecated") >= 1


def test_what_version_1_removed_is_not_used():
    """From its release notes: functions that were never announced, and a field."""
    assert "llama_set_warmup" not in USED
    assert all("defrag_thold" not in fields for fields in interface.FIELDS.values())
