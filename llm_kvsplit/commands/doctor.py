"""``llm kvsplit doctor``: which library is loaded and what it can do here, tried rather than guessed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import click

from .. import backend, demo, probe
from ..errors import KvsplitError
from ..kvtypes import BITS, CachePair
from ..paths import cache_dir, registry_file
from ..sessions import store
from ..units import size


@dataclass(frozen=True)
class Trial:
    """The bundled model, evaluated with one pair of cache types."""

    pair: str
    runs: bool
    #: Where attention ran, or why it did not.
    where: str


@click.command()
@click.option("as_json", "--json", is_flag=True, help="Print everything as JSON.")
@click.option("--metal", is_flag=True, help="Build the patch series and prove its attention on this Mac's GPU (minutes).")
def command(as_json: bool, metal: bool) -> None:
    """Say which library is loaded, its devices, and which cache types it can run where."""
    if metal:
        from kvsplit_patch.options import echo
        from softmetal import confirm

        return confirm.command(echo, emulated=False)
    report = _report()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    if report["problems"]:
        raise SystemExit(1)


def _report() -> dict[str, Any]:
    chosen = backend.choose()
    trial = probe.result(chosen)
    report: dict[str, Any] = {
        "bindings": backend.bindings_version(),
        "backend": chosen.id,
        "folder": str(chosen.folder) if chosen.folder else None,
        "usable": trial.usable,
        "extra_bufts": trial.extra_bufts,
        "series": None,
        "devices": [],
        "pairs": [],
        "notes": [chosen.note] if chosen.note else [],
        "problems": _file_problems(chosen),
    }
    if stored := store.note():
        report["notes"].append(f"Of the stored states, the latest trouble was at {stored}")
    if not trial.usable:
        try:
            backend.prepare(chosen)
        except KvsplitError as ex:
            report["problems"].append(str(ex))
        return report
    if not trial.extra_bufts:
        report["notes"].append(
            "This library's AMX path for quantized weights dies on this CPU, so models are loaded without it: a build "
            "of the patch series ('llm kvsplit backend build') has it mended."
        )
    # In a child, so that a pair that kills its process is a line of the report.
    child = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, env={**os.environ})
    if child.returncode != 0:
        report["problems"].append(f"Trying the cache types ended with exit code {child.returncode}: {child.stderr[-500:]}")
        return report
    report.update(json.loads(child.stdout))
    gpu = [device["name"] for device in report["devices"] if device["type"] in ("gpu", "igpu")]
    fallen = [pair["pair"] for pair in report["pairs"] if gpu and "CPU" in pair["where"]]
    if fallen:
        report["notes"].append(
            f"With {', '.join(fallen)} attention runs on the CPU, since this library has no {gpu[0]} kernels for them: "
            "'llm kvsplit backend build' makes one from the patch series."
        )
    return report


def _file_problems(chosen: backend.Backend) -> list[str]:
    problems = []
    if chosen.manifest is not None and chosen.folder is not None:
        for name, sha256 in chosen.manifest.get("libraries", {}).items():
            if hashlib.sha256((chosen.folder / name).read_bytes()).hexdigest() != sha256:
                problems.append(
                    f"{name} of backend build {chosen.id} is not the file that was built: remove the build with "
                    f"'llm kvsplit backend remove {chosen.id}' and build it anew."
                )
    from ..registry import load

    try:
        problems += [
            f"{entry.name} is registered, but {entry.path} is gone: 'llm kvsplit remove {entry.name}' forgets it."
            for entry in load().values()
            if not entry.path.is_file()
        ]
    except KvsplitError as ex:
        problems.append(str(ex))
    return problems


def _print(report: dict[str, Any]) -> None:
    series = report["series"]
    click.echo(f"llama-cpp-python  {report['bindings']}")
    click.echo(f"library           {report['backend']}" + (f" in {report['folder']}" if report["folder"] else ""))
    click.echo(f"patch series      {series['series'] + ': ' + ', '.join(series['features']) if series else 'none'}")
    for device in report["devices"]:
        click.echo(
            f"device            {device['name']}, {device['description']}, {size(device['total_bytes'])} of memory"
        )
    click.echo(f"models            {registry_file()}")
    click.echo(f"cache             {cache_dir()}")
    if report["pairs"]:
        click.echo("\nCache types, tried with the bundled model:")
    for pair in report["pairs"]:
        click.echo(f"  {pair['pair']:<6} {'runs' if pair['runs'] else 'fails'}  {pair['where']}")
    for note in report["notes"]:
        click.echo(f"\nNote: {note}")
    for problem in report["problems"]:
        click.echo(f"\nProblem: {problem}")
    if not report["problems"]:
        click.echo("\nEverything that was tried works.")


def _child() -> dict[str, Any]:
    from ..engine import library
    from ..engine.weights import LoadOptions, Weights

    library.load()
    weights = Weights(LoadOptions(demo.MODEL, use_extra_bufts=probe.result(backend.choose()).extra_bufts))
    devices = library.devices()
    trials = [_try(weights, CachePair.from_bits(k, v), devices) for k in BITS for v in BITS]
    return {
        "series": library.kvsplit_info(),
        "devices": devices,
        "pairs": [dataclasses.asdict(trial) for trial in trials],
    }


def _try(weights: Any, pair: CachePair, devices: list[dict[str, Any]]) -> Trial:
    from ..engine.context import Context, ContextOptions

    tokens = weights.tokenize(demo.SMOKE_TEXT.read_text()[:2000], add_special=True, parse_special=False)[:128]
    try:
        context = Context(weights, ContextOptions(pair, 256))
    except KvsplitError as ex:
        return Trial(str(pair), False, str(ex))
    try:
        context.evaluate(tokens[:-1])
        context.evaluate(tokens[-1:])
    except KvsplitError as ex:
        return Trial(str(pair), False, str(ex))
    finally:
        context.close()
    gpus = [device["name"] for device in devices if device["type"] in ("gpu", "igpu")]
    if not gpus:
        return Trial(str(pair), True, "attention on the CPU")
    # One split for the embedding on the host and one for everything else is all that a GPU run has.
    on_gpu = (context.graph_splits or 0) <= 2
    return Trial(str(pair), True, f"attention on {gpus[0]}" if on_gpu else "attention on the CPU")


if __name__ == "__main__":
    print(json.dumps(_child()))
