"""Does a build still mean the same? Perplexity and KL divergence of some caches on the bundled model and text.

Measured with upstream's llama-perplexity, twice: *prefill* (512 tokens at once) and *decode* (one at a time), since
backends run different kernels for them. The build is held against the unpatched same commit, which shares everything
but the patches, and against a stored baseline, which tells what upstream changed. Caches of types that the patches
bring are held against the baseline alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm_kvsplit import files
from llm_kvsplit.kvtypes import USUAL, CachePair

from ..echo import Echo
from ..errors import PatchError
from ..series.trees import SourceTree
from .programs import llama_bench, llama_perplexity
from .programs.llama_perplexity import CacheResult, Windows

#: The first is what the others are compared with.
CACHES = tuple(map(str, USUAL))
#: What else is measured where the build has the types: what 4 bits are in a build of the series, and its own types.
OTHERS = tuple(map(CachePair.parse, ("K8Viq4_nl", "K6V5", "K6V4", "K6V3")))
#: What upstream has and the series stores otherwise: its own build is no measure of it.
STORED_BY = {"K8Viq4_nl": frozenset({"kv-scales"})}
#: From least to most damage, in mean KL divergence.
ORDER = CACHES[1:]

PHASES = {"prefill": Windows(1024, 4, 512), "decode": Windows(256, 4, 1)}
#: Whose speed is compared with f16's.
LOAD = llama_bench.Load(prompt=256, answer=32, depth=512, repeats=2)

# The same everywhere, because the number of threads decides how some kernels split their sums.
_THREADS = 2

#: A tie for ORDER's last two: V's 4 bits hardly show beside K's.
TIE = 1.05
#: How far a cache that a patch means to change may move from the unpatched build: it may round differently, no more.
#: A last bit that differs in one layer tips 4-bit keys of the next over to a neighbour: other attention kernels, no less
#: exact by themselves, moved K4V4 by 0.6 % (ppl), 4.8 % (kld) and 17 % (kld_999), up in one phase and down in the other.
REORDERED = {"ppl": 0.0075, "kld": 0.06, "kld_999": 0.50}
#: How far a cache may move from the baseline before someone should look: other machines and upstream round differently.
DRIFTED = {"ppl": 0.0075, "kld": 0.15, "kld_999": 0.40}
#: What rounding alone moves, whatever the value: another order of sums changed K8V8's 0.000130 to 0.000135.
ROUNDING = {"ppl": 0.0, "kld": 2e-5, "kld_999": 1e-3}

BASELINE = Path(__file__).with_name("baseline.json")


@dataclass(frozen=True)
class Measurement:
    """What one build gave. ``logits`` are the SHA-256 of the f16 cache's output in each phase."""

    results: dict[str, dict[str, CacheResult]]
    logits: dict[str, str]
    #: Cache -> tokens/s of prefill and decode over those of f16, from the same run; noisy, never a reason to fail.
    speed: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        results = {
            phase: {cache: CacheResult(**numbers) for cache, numbers in caches.items()}
            for phase, caches in data["results"].items()
        }
        return cls(results, data["logits"], data["speed"])


def check(
    source: SourceTree, plain: SourceTree, exact: SourceTree | None, flags: Sequence[str], echo: Echo
) -> tuple[Measurement, list[str]]:
    """Build the trees' programs, measure them, and name every rule that the series breaks. Raises PatchError.

    ``exact``: the series without the patches that may change every result (``trees.exact``). It has to give the
    unpatched build's bits, which one such patch would otherwise excuse all the others from.
    """
    model, text = demo()
    baseline = read_baseline(model, text)
    ours = measured(source, flags, model, text, echo)
    unpatched = measured(plain, flags, model, text, echo)
    broken = problems(ours, unpatched, baseline, source.changes_numerics)
    if exact is not None:
        rest = measured(exact, flags, model, text, echo)
        left_out = {patch["name"] for patch in source.patches} - {patch["name"] for patch in exact.patches}
        named = f"Without {', '.join(sorted(left_out))}: "
        broken += [named + problem for problem in problems(rest, unpatched, None, exact.changes_numerics)]
    return ours, broken


def caches(source: SourceTree) -> tuple[CachePair, ...]:
    """Those that a build of ``source`` has the types of, and stores as the series does."""
    carried = {patch["name"] for patch in source.patches}
    return (*USUAL, *(pair for pair in OTHERS if pair.features | STORED_BY.get(str(pair), frozenset()) <= carried))


def measured(source: SourceTree, flags: Sequence[str], model: Path, text: Path, echo: Echo) -> Measurement:
    """``measure`` on the build of a tree, remembered beside its programs: they give the same numbers every time."""
    from ..building.artifacts import tools

    folder = tools(source, flags, echo)
    pairs = caches(source)
    types = {str(pair): (pair.k.name, pair.v.name) for pair in pairs}
    phases = {phase: asdict(windows) for phase, windows in PHASES.items()}
    settings = json.dumps([phases, types, _THREADS, files.sha256(model), files.sha256(text)])
    kept = folder / f"smoke-{hashlib.sha256(settings.encode()).hexdigest()[:10]}.json"
    if not kept.is_file():
        echo(f"measuring the {'patched' if source.patches else 'unpatched'} build")
        files.write_whole(kept, json.dumps(measure(folder, model, text, pairs, echo).as_json(), indent=1))
    return Measurement.from_json(json.loads(kept.read_text()))


def measure(tools: Path, model: Path, text: Path, pairs: Sequence[CachePair], echo: Echo) -> Measurement:
    """Run the caches, f16 among them, in every phase with the programs in ``tools``.

    Raises PatchError when a program dies or prints no numbers.
    """
    phases = {phase: _phase(phase, tools, model, text, pairs, echo) for phase in PHASES}
    echo("speed")
    return Measurement(
        {phase: comparison.results for phase, comparison in phases.items()},
        {phase: comparison.logits for phase, comparison in phases.items()},
        _speed(tools, model),
    )


def _phase(
    phase: str, tools: Path, model: Path, text: Path, pairs: Sequence[CachePair], echo: Echo
) -> llama_perplexity.Comparison:
    def begun(pair: CachePair) -> None:
        if pair.quantized:
            echo(f"{phase} {pair}")

    return llama_perplexity.compare(
        tools, model, text, pairs, PHASES[phase], what=phase, threads=_THREADS, more=["-ngl", 99], begun=begun
    )


def _speed(tools: Path, model: Path) -> dict[str, dict[str, float]]:
    rates = {str(pair): llama_bench.speed(tools, model, pair, LOAD, ["-t", _THREADS]) for pair in USUAL}
    return {
        cache: {phase: round(rate / rates["f16"][phase], 3) for phase, rate in by_phase.items()}
        for cache, by_phase in rates.items()
    }


def problems(
    ours: Measurement, unpatched: Measurement | None, baseline: dict[str, Any] | None, changes: frozenset[str]
) -> list[str]:
    """Every rule that the measurement breaks, one sentence each; empty when the build means the same.

    ``changes``: the caches, or ``all``, whose results a patch says it changes.
    """
    broken = _sane(ours)
    if unpatched is not None:
        broken += _same(ours, unpatched, changes)
    if baseline is not None:
        broken += _near(ours, baseline["results"], "the baseline", DRIFTED)
    return broken


def _sane(ours: Measurement) -> list[str]:
    broken = []
    for phase, results in ours.results.items():
        for cache, result in results.items():
            for name, number in asdict(result).items():
                if not math.isfinite(number):
                    broken.append(f"{phase} {cache}: {name} is {number}.")
            for side in ("k", "v"):
                allocated, expected = getattr(result, f"{side}_mib"), getattr(result, f"{side}_mib_expected")
                if abs(allocated - expected) > 0.00501:  # printed with two decimals
                    broken.append(
                        f"{phase} {cache}: {side.upper()} takes {allocated:.2f} MiB, but the types make {expected:.2f}."
                    )
        for less, more in pairwise(ORDER):
            slack = TIE if (less, more) == ORDER[-2:] else 1.0
            if not results[less].kld < results[more].kld * slack:
                broken.append(
                    f"{phase}: {less} does more damage (KLD {results[less].kld:.6f}) than {more} ({results[more].kld:.6f})."
                )
    return broken


def _same(ours: Measurement, unpatched: Measurement, changes: frozenset[str]) -> list[str]:
    broken = []
    for phase, results in ours.results.items():
        if ours.logits[phase] != unpatched.logits[phase] and not changes & {"all", "f16"}:
            broken.append(
                f"{phase} f16: the output differs from the unpatched build's, and no patch says that it changes it."
            )
        # A changed reference moves the divergence of every cache from it.
        every = bool(changes & {"all", "f16"})
        for cache in sorted(results.keys() & unpatched.results[phase].keys()):
            result, theirs = results[cache], unpatched.results[phase][cache]
            if every or cache in changes:
                broken += _moved(phase, cache, result, theirs, "the unpatched build", REORDERED)
            elif result != theirs:
                broken.append(
                    f"{phase} {cache}: differs from the unpatched build (KLD {result.kld:.6f}, there {theirs.kld:.6f}; "
                    f"PPL {result.ppl:.6f}, there {theirs.ppl:.6f}), and no patch says that it changes it."
                )
    return broken


def _near(ours: Measurement, known: dict[str, Any], what: str, limits: dict[str, float]) -> list[str]:
    broken = []
    for phase, results in known.items():
        for cache in sorted(results.keys() & ours.results[phase].keys()):
            broken += _moved(phase, cache, ours.results[phase][cache], CacheResult(**results[cache]), what, limits)
    return broken


def _moved(
    phase: str, cache: str, ours: CacheResult, theirs: CacheResult, what: str, limits: dict[str, float]
) -> list[str]:
    broken = []
    for name, limit in limits.items():
        have, want = getattr(ours, name), getattr(theirs, name)
        if not abs(have - want) <= limit * abs(want) + ROUNDING[name]:
            broken.append(f"{phase} {cache}: {name} is {have:.6f}, {what} has {want:.6f}, and {limit:.1%} is allowed.")
    return broken


def read_baseline(model: Path, text: Path, file: Path = BASELINE) -> dict[str, Any]:
    """The stored measurement. Raises PatchError when it is of another model or text."""
    if not file.is_file():
        raise PatchError("There is no baseline yet: run 'kvsplit-patch smoke --accept'.")
    baseline = json.loads(file.read_text())
    if baseline["model"] != files.sha256(model) or baseline["text"] != files.sha256(text):
        raise PatchError("The baseline was measured with another model or text: run 'kvsplit-patch smoke --accept'.")
    return baseline


def write_baseline(
    measurements: Sequence[Measurement], commit: str, model: Path, text: Path, file: Path = BASELINE
) -> None:
    """Store the results; what the last measurement has goes before what the others have."""
    results: dict[str, dict[str, Any]] = {phase: {} for phase in PHASES}
    for measurement in measurements:
        for phase, caches in measurement.as_json()["results"].items():
            results[phase] |= caches
    baseline = {
        "upstream_commit": commit,
        "model": files.sha256(model),
        "text": files.sha256(text),
        "results": results,
    }
    files.write_whole(file, json.dumps(baseline, indent=1) + "\n")


def demo() -> tuple[Path, Path]:
    """The bundled model and its held-out text."""
    from llm_kvsplit.demo import MODEL, SMOKE_TEXT

    return MODEL, SMOKE_TEXT
