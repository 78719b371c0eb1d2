"""llm imports every plugin for every command: ours must not bring anything heavy with it."""

import os
import subprocess
import sys

import pytest

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
