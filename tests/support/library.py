"""One build of the series serves all tests, whatever llm's user folder is, and the release that would be made of it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.series import trees
from llm_kvsplit.paths import cache_dir

# A clone whose first question was answered has compiled it already, and it is copied from there.
_series = trees.patched()
os.environ["KVSPLIT_BUILDS"] = str(cache_dir() / "test-builds" / _series.tree)
#: The folder of that build, named by its id. KVSPLIT_TESTS=cuda: the one that uses NVIDIA's GPUs.
BUILD = artifacts.build(
    _series, cmake.flags(cuda=os.environ.get("KVSPLIT_TESTS") == "cuda"), lambda line: print(line, file=sys.stderr)
)


@pytest.fixture(scope="session")
def packer():
    """``ci/pack_backends.py``, which makes what a release has."""
    spec = importlib.util.spec_from_file_location(
        "pack_backends", Path(__file__).parents[2] / "ci" / "pack_backends.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def packed(tmp_path_factory, packer):
    """The release that the build which serves all tests makes."""
    folder = tmp_path_factory.mktemp("release")
    packer.pack(BUILD, folder)
    packer.write_list(folder)
    return folder
