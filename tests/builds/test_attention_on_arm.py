"""Attention on Arm CPUs, in an emulator: right for every pair of cache types, and by the instructions that a CPU has."""

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from kvsplit_patch.series import trees
from tests.support.release import HERE, fetch

BENCHMARKS = Path(__file__).parents[2] / "tools" / "benchmarks"

#: Each pair of cache types has at least 42 cases, one after the other. CI takes fewer: an emulator is slow.
ALL_PAIRS, SOME = 41, 123

#: What is compiled for -> the CPU that the emulator is, whether it has products of bytes, and of bf16.
CPUS = {
    "armv8-a": ("cortex-a53", False, False),
    "armv8.2-a+dotprod": ("neoverse-n1", True, False),
    "armv8.6-a+dotprod+fp16+i8mm": ("max", True, True),
    "armv8.6-a+dotprod+fp16+i8mm+sve": ("max", True, True),
}
NEWEST = "armv8.6-a+dotprod+fp16+i8mm"


@pytest.fixture
def instructions(monkeypatch):
    for program in ("qemu-aarch64", "aarch64-linux-gnu-g++"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("instructions")


@pytest.mark.build
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "cpu, every", [(NEWEST, SOME), *(pytest.param(cpu, ALL_PAIRS, marks=pytest.mark.long) for cpu in CPUS)]
)
def test_agrees_with_double_precision(cpu, every, instructions, tmp_path):
    fetch(HERE)
    sources = trees.patched().folder
    program = instructions.cross_compiled(
        sources / "ggml", cpu, tmp_path / "out", sources / "tests" / "test-flash-attn-cpu.cpp"
    )
    emulated, has_bytes, has_bf16 = CPUS[cpu]
    run = subprocess.run(
        ["qemu-aarch64", "-cpu", emulated, program, "-v", "-n", str(every), "-g", "60"], capture_output=True, text=True
    )
    cases = re.findall(
        r"^(\S+)-(\S+) dk=.* kv=(\d+) tokens=(\d+) .*: (\S+) [0-9a-f]{16}( FAIL.*)?$", run.stdout, re.MULTILINE
    )
    # Fewer keys are stock's. GCC 12 compiles its products with q5_0 wrongly for armv8.6-a: a signed side as unsigned.
    ours = [case for case in cases if int(case[2]) >= 64]
    assert re.search(rf"^{len(cases)} cases, ", run.stdout, re.MULTILINE), run.stdout + run.stderr
    assert not [case for case in ours if case[-1]]
    assert len({(k, v) for k, v, *_ in cases}) >= (81 if every == ALL_PAIRS else 25)
    # Queries in 8 bits, weights in 16 and panels in bf16 are seen in the error, which is f32's without them.
    quantized = [(int(tokens), float(error)) for k, _, _, tokens, error, _ in ours if k != "f16"]
    few = [error for tokens, error in quantized if tokens == 1]
    many = [error for tokens, error in quantized if tokens >= 9]
    assert len(few) > 2 and len(many) > 5
    assert all((error > 1e-7) == has_bytes for error in few)
    assert all((error > 1e-7) == has_bf16 for error in many)


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_instruction_set_takes_fewer_instructions(instructions, tmp_path):
    fetch(HERE)
    sources = trees.patched().folder / "ggml"
    plugin = instructions.plugin(tmp_path)
    programs = [
        instructions.cross_compiled(sources, cpu, tmp_path / str(number)) for number, cpu in enumerate(list(CPUS)[:3])
    ]
    shape = (256, 8, 2, 64)
    one, many = [
        [instructions.counted(program, plugin, ("q8_0", "q4_0", *shape, tokens)) for program in programs]
        for tokens in (1, 33)
    ]
    assert one[0] > 1.5 * one[1] and many[1] > 1.5 * many[2]
