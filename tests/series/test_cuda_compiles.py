"""CUDA's own compiler takes what the series adds to that backend. No GPU is needed, and none runs it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kvsplit_patch import paths
from kvsplit_patch.series import trees
from tests.support.release import HERE, fetch

VERSION = "13.0"
#: The compiler and its headers. Of cuBLAS (400 MB) only the headers are kept.
PACKAGES = ["cuda-nvcc", "nvvm", "cuda-crt", "cuda-runtime", "cuda-cccl", "cublas"]
SOURCES = ["attn-rot.cu", "fattn-quant.cu", "fattn.cu", "set-rows-kv.cu", "set-rows.cu"]
TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
#: As upstream's build files compile the backend, with the vector kernels of the default.
FLAGS = ["-std=c++17", "-O3", "-use_fast_math", "-extended-lambda", "-Xcompiler", "-fPIC", "-Xptxas", "-v"]
PAIRS = [f"-DGGML_CUDA_FA_{k}_{v}={int(k == v and k in ('F16', 'BF16', 'Q4_0', 'Q8_0'))}" for k in TYPES for v in TYPES]


@pytest.fixture(scope="session")
def toolkit() -> Path:
    """The folder with ``bin/nvcc``, in the cache of tests."""
    folder = paths.cache_dir() / "compilers" / f"cuda-{VERSION}"
    if not (folder / "whole").exists():
        _unpack(folder)
    return folder / "nvidia/cu13"


def _unpack(folder: Path) -> None:
    wheels = folder / "wheels"
    names = [f"nvidia-{name}=={VERSION}.*" for name in PACKAGES]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", wheels]
    done = subprocess.run([*command, *names], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the compiler's packages cannot be had: {done.stderr.strip()[-200:]}")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "cublas" not in wheel.name or "/include/" in name:
                    archive.extract(name, folder)
        wheel.unlink()
    for program in [*(folder / "nvidia/cu13/bin").iterdir(), *(folder / "nvidia/cu13/nvvm/bin").iterdir()]:
        program.chmod(0o755)
    (folder / "whole").touch()


@pytest.fixture(scope="session")
def backend() -> Path:
    """The folder of the patched CUDA backend's sources."""
    fetch(HERE)
    return trees.patched().folder / "ggml/src/ggml-cuda"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES)
def test_it_compiles_for_an_h100(toolkit, backend, source, tmp_path):
    include = [backend, backend.parent, backend.parents[1] / "include", toolkit / "include", toolkit / "include/cccl"]
    command = [toolkit / "bin/nvcc", *FLAGS, "-arch=sm_90", "-DGGML_CUDA_USE_GRAPHS", *PAIRS]
    command += [f"-I{folder}" for folder in include] + ["-c", backend / source, "-o", tmp_path / "object.o"]
    environment = {**os.environ, "PATH": f"{toolkit / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert " error" not in done.stderr
