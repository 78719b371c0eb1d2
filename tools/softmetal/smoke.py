"""KL divergence of the caches on the emulated Metal beside the CPU's, at batch sizes that take different kernels.

The same programs compute both, so that what differs is the device. At 256 tokens at once Metal's matrix kernel reads a
cache that was converted to f16, at 24 it reads quantized keys and values themselves, at 8 and 1 it is the vector kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kvsplit_patch.echo import Echo
from kvsplit_patch.proof.programs import llama_perplexity
from kvsplit_patch.proof.programs.llama_perplexity import CacheResult, Windows
from kvsplit_patch.proof.smoke import demo
from llm_kvsplit.kvtypes import USUAL, CachePair

from . import build

UBATCHES = (256, 24, 8, 1)
#: Name -> what the programs are told to compute on it.
DEVICES = {"cpu": ("-dev", "none", "-ngl", 0), "metal": ("-dev", "MTL0", "-ngl", 99)}
CONTEXT = 256
#: How far the devices may be apart, relative and absolute. They round differently (the CPU quantizes queries for quantized
#: keys, Metal does not), and 128 tokens are few; a fault in a kernel is farther off than any of this.
BOUNDS = {"ppl": (0.02, 0.0), "kld": (0.25, 1e-4), "kld_999": (0.6, 5e-3)}


@dataclass(frozen=True)
class DeviceRow:
    ubatch: int
    cache: str
    cpu: CacheResult
    metal: CacheResult

    def problems(self) -> list[str]:
        problems = []
        for name, (relative, absolute) in BOUNDS.items():
            here, there = getattr(self.metal, name), getattr(self.cpu, name)
            if not abs(here - there) <= relative * abs(there) + absolute:
                problems.append(
                    f"{self.cache} at ubatch {self.ubatch}: {name} is {here:.6f} on Metal and {there:.6f} on the CPU."
                )
        return problems


def measure(
    programs: Path,
    echo: Echo,
    caches: tuple[CachePair, ...] = USUAL,
    ubatches: tuple[int, ...] = UBATCHES,
    emulated: bool = True,
) -> list[DeviceRow]:
    """Every cache at every batch size on both devices, 256 tokens each. Raises PatchError when a program dies.

    Without ``emulated``, the programs are those of a Mac.
    """
    environment = build.environment() if emulated else dict(os.environ)
    rows = []
    for ubatch in ubatches:
        results = {device: _measure(programs, device, ubatch, caches, echo, environment) for device in DEVICES}
        for cache in map(str, caches):
            rows.append(DeviceRow(ubatch, cache, results["cpu"][cache], results["metal"][cache]))
    return rows


def _measure(
    programs: Path, device: str, ubatch: int, caches: tuple[CachePair, ...], echo: Echo, environment: dict[str, str]
) -> dict[str, CacheResult]:
    return llama_perplexity.compare(
        programs,
        *demo(),
        caches,
        Windows(CONTEXT, 1, ubatch),
        what=device,
        threads=os.cpu_count() or 1,
        more=DEVICES[device],
        environment=environment,
        begun=lambda pair: echo(f"{pair} at ubatch {ubatch} on {device}"),
    ).results


def table(rows: list[DeviceRow]) -> list[str]:
    """Markdown."""
    lines = [
        "| ubatch | cache | PPL, CPU | Metal | mean KLD, CPU | Metal | 99.9 % KLD, CPU | Metal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [f"{row.cpu.ppl:.4f}", f"{row.metal.ppl:.4f}", f"{row.cpu.kld:.6f}", f"{row.metal.kld:.6f}"]
        numbers += [f"{row.cpu.kld_999:.4f}", f"{row.metal.kld_999:.4f}"]
        lines.append(f"| {row.ubatch} | {row.cache} | {' | '.join(numbers)} |")
    return lines
