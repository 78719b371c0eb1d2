"""The series on a llama.cpp that nobody here had seen when it was written: build b11549, of October 2026.

Its files come out of the sdist of a package that vendors them, and one patch stops. ``b11549/metal-mixed-kv.patch`` is
that patch as a person resolved it, with the three faults mended that merge silently.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvsplit_patch.building import artifacts, cmake
from kvsplit_patch.series import journal, patchset, trees
from kvsplit_patch.upstream import index
from kvsplit_patch.upstream.archive import fetch_archive
from tests.support.release import HERE, fetch, skipped_without
from tests.support.worlds import run

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
RESOLVED = Path(__file__).with_name("b11549") / "metal-mixed-kv.patch"
#: Where upstream does again what metal-mixed-kv has changed elsewhere.
SILENT = (
    "ggml-metal-ops.cpp:3144  if (op->src[1]->type != GGML_TYPE_F16 && !ggml_metal_op_flash_attn_ext_use_kv_f16(op)) {",
    "ggml-metal-device.m:220  return [device newLibraryWithSource:src options:options error:error];",
    'fa_q8_0.metal:44  template [[host_name("kernel_flash_attn_ext_q8_0_dk128_dv96" )]]',
)


@pytest.fixture
def b11549(tmp_path):
    fetch(HERE)
    with skipped_without("llama.cpp b11549"), index.incoming(tmp_path / "downloads") as folder:
        fetch_archive(index.download("xllamacpp", "2026.10.11549", "sdist", folder), "b11549")


def test_it_is_planned_resolved_built_and_asked(b11549, project, tmp_path, llm):
    plan = run("rebase", "--plan", "b11549")
    assert "metal-mixed-kv       conflict" in plan
    for line in SILENT:
        assert line in plan
    run("rebase", "b11549", code=1)
    work = Path(journal.read(project).work)
    assert journal.read(project).todo[0].name == "metal-mixed-kv"
    subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", "ggml", "tests"], cwd=work, check=True)
    subprocess.run(["git", "apply", RESOLVED], cwd=work, check=True)
    sizes = work / "ggml/src/ggml-metal/ggml-metal-fa-mixed.cpp"
    shutil.copy(project / "patchset/metal-mixed-kv/ggml/src/ggml-metal/ggml-metal-fa-mixed.cpp", sizes)
    sizes.write_text(sizes.read_text().replace("{ 128, 128 }, {", "{ 128, 128 }, { 128,  96 }, {"))
    for name in ("ggml-metal-fa-mixed.h", "kernels/fa_mixed.metal"):
        shutil.copy(
            project / f"patchset/metal-mixed-kv/ggml/src/ggml-metal/{name}", work / "ggml/src/ggml-metal" / name
        )
    run("continue")
    assert patchset.read_lock(project / "patchset").upstream.archive == "b11549"
    run("lint")
    build = artifacts.build(trees.patched(), cmake.flags(), print)
    # llama-cpp-python is of another day, and its structures are shorter: the build brings its own definitions.
    shutil.copytree(build, tmp_path / "builds" / build.name)
    env = {"KVSPLIT_BUILDS": str(tmp_path / "builds")}
    asked = ("-m", "kvsplit-demo", "-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4", "-o", "max_tokens", "8")
    assert llm(*asked, "def fibonacci(n):", env=env).stdout.strip()
    assert llm("-c", "-o", "max_tokens", "4", "more", env=env).stdout.strip()
