"""``llm kvsplit doctor``: which library is loaded and what it can do here, tried rather than guessed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import click

from .. import companion, demo, files, registry
from ..builds import choice, pair_speed, probe, shelf
from ..errors import KvsplitError
from ..kvtypes import BITS, Cache, CachePair, LayerMap
from ..options import rpc_servers
from ..paths import cache_dir, registry_file
from ..sessions import states
from ..units import size


@dataclass(frozen=True)
class PairTrial:
    """The bundled model, evaluated with one pair of cache types, or with a layer map."""

    pair: str
    runs: bool
    #: How fast and where, or why it does not run.
    how: str
    #: See ``pair_speed.PairSpeed``; None where it does not run.
    speed: dict[str, Any] | None = None


@click.command()
@click.option("as_json", "--json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--rpc", help="Also look at these machines, as host:port after commas (those of models are, in any case)."
)
@click.option(
    "--metal", is_flag=True, help="Build the patch series and prove its attention on this Mac's GPU (minutes)."
)
def command(as_json: bool, rpc: str | None, metal: bool) -> None:
    """Say which library is loaded, its devices, and which cache types it can run where."""
    if metal:
        companion.function("metal")()
        return
    named = rpc_servers(rpc)
    report = _report()
    look_at_servers(report, named)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    if report["problems"]:
        raise SystemExit(1)


def _report() -> dict[str, Any]:
    chosen = choice.choose()
    trial = probe.result(chosen) if chosen.id != shelf.NONE else probe.Result(usable=False)
    report: dict[str, Any] = {
        "bindings": shelf.bindings_version(),
        "backend": chosen.id,
        "folder": str(chosen.folder) if chosen.folder else None,
        "definitions": "its own" if chosen.bindings else f"llama-cpp-python {shelf.bindings_version()}",
        "usable": trial.usable,
        "extra_bufts": trial.extra_bufts,
        "series": None,
        "devices": [],
        "four_bits": None,
        "servers": [],
        "pairs": [],
        "layer_map": None,
        "notes": [chosen.note] if chosen.note else [],
        "problems": _file_problems(chosen),
    }
    if trouble := states.latest_trouble():
        report["notes"].append(f"Of the stored states, the latest trouble was at {trouble}")
    if chosen.id == shelf.NONE:
        report["notes"].append(
            f"There is no llama.cpp library yet: the first question makes one, or '{pair_speed.MEND}'."
        )
        return report
    if not trial.usable:
        try:
            choice.ensure()
        except KvsplitError as ex:
            report["problems"].append(str(ex))
        return report
    if chosen.id == shelf.CUSTOM and not chosen.bindings:
        report["notes"].append(_about_unbound())
    if not trial.extra_bufts:
        report["notes"].append(
            "This library's AMX path for quantized weights dies on this CPU, so models are loaded without it: a build "
            "of the patch series ('llm kvsplit backend build') has it mended."
        )
    _try_pairs(report)
    gpu = [device["name"] for device in report["devices"] if device["type"] in ("gpu", "igpu")]
    poor = [pair["pair"] for pair in report["pairs"] if pair["speed"] and pair_speed.PairSpeed(**pair["speed"]).poor]
    if chosen.patched and report["layer_map"] is None:
        report["notes"].append(
            "This build is older than layer maps (kv_layers): 'llm kvsplit backend install' gets one that has them."
        )
    if poor and not chosen.patched:
        what = f"kernels for {gpu[0]}" if gpu else "fast attention on a CPU"
        report["notes"].append(
            f"For {', '.join(poor)} this library lacks {what}: '{pair_speed.MEND}' gets a build of the patch series, "
            "which has it."
        )
    return report


def _try_pairs(report: dict[str, Any]) -> None:
    """Try every pair in a child, so that one that kills its process is a line of the report."""
    child = subprocess.Popen(
        [sys.executable, "-m", __name__], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    label = "Trying every pair of cache types"
    with child, click.progressbar(length=len(BITS) ** 2, label=label, file=sys.stderr) as bar:
        for line in child.stdout or ():
            part = json.loads(line)
            bar.length = part.pop("trials", bar.length)
            report["pairs"] += part.pop("pairs", [])
            report.update(part)
            bar.update(len(report["pairs"]) - bar.pos)
        last_words = (child.stderr.read() if child.stderr else "")[-500:]
    if child.returncode != 0:
        report["problems"].append(f"Trying the cache types ended with exit code {child.returncode}: {last_words}")


def look_at_servers(report: dict[str, Any], named: tuple[str, ...]) -> None:
    """Ask each machine that computes for this one what memory it has."""
    try:
        known = [rpc_servers(entry.rpc) for entry in registry.load().values()]
    except KvsplitError:
        known = []  # of which _file_problems has spoken
    endpoints = dict.fromkeys([*named, *(endpoint for each in known for endpoint in each)])
    if not endpoints or not report["usable"]:
        return
    from ..engine import servers

    for endpoint in endpoints:
        try:
            report["servers"] += [dataclasses.asdict(device) for device in servers.devices([endpoint])]
        except KvsplitError as ex:
            report["problems"].append(str(ex))


def _about_unbound() -> str:
    """What is known, and what is not, of a library that has no definitions of its own."""
    from ..engine import unbound

    sizes = "its structures are as large as those, and" if unbound.sizes_can_be_seen() else "its structures"
    unseen = "" if unbound.sizes_can_be_seen() else "how large its structures are, and "
    return (
        f"The library that LLAMA_CPP_LIB_PATH names has no {shelf.BINDINGS}, so it is used through the definitions of "
        f"llama-cpp-python {shelf.bindings_version()}: it has all functions, {sizes} begin with the same values. "
        f"Not to be seen without its headers: {unseen}what its functions take."
    )


def _file_problems(chosen: shelf.Build) -> list[str]:
    problems = []
    if chosen.manifest is not None and chosen.folder is not None and not shelf.misfit(chosen):
        mend = (
            f"remove the build with 'llm kvsplit backend remove {chosen.id}' and build it anew"
            if chosen.id != shelf.CUSTOM
            else "copy the build anew, or unset LLAMA_CPP_LIB_PATH"
        )
        problems += [
            f"{name} in {chosen.folder} is not the file that was built: {mend}."
            for name, sha256 in shelf.files_of(chosen.manifest).items()
            if files.sha256(chosen.folder / name) != sha256
        ]
    try:
        problems += [
            f"{entry.name} is registered, but {entry.path} is gone: 'llm kvsplit remove {entry.name}' forgets it."
            for entry in registry.load().values()
            if not entry.path.is_file()
        ]
    except KvsplitError as ex:
        problems.append(str(ex))
    return problems


def _print(report: dict[str, Any]) -> None:
    series = report["series"]
    click.echo(f"llama-cpp-python  {report['bindings']}")
    click.echo(f"library           {report['backend']}" + (f" in {report['folder']}" if report["folder"] else ""))
    click.echo(f"definitions       {report['definitions']}")
    click.echo(f"patch series      {series['series'] + ': ' + ', '.join(series['features']) if series else 'none'}")
    for device in report["devices"]:
        click.echo(
            f"device            {device['name']}, {device['description']}, {size(device['total_bytes'])} of memory"
        )
    if report["four_bits"]:
        click.echo(f"4 bits            {report['four_bits']}")
    for server in report["servers"]:
        memory = f"{size(server['total'])} of memory, {size(server['free'])} free"
        click.echo(f"server            {server['endpoint']}, {memory}, of this library's protocol")
    click.echo(f"models            {registry_file()}")
    click.echo(f"cache             {cache_dir()}")
    if report["pairs"]:
        click.echo("\nCache types, tried with the bundled model:")
    for pair in report["pairs"]:
        click.echo(f"  {pair['pair']:<6} {'runs' if pair['runs'] else 'fails'}  {pair['how']}")
    if trial := report["layer_map"]:
        click.echo(f"  map    {'runs' if trial['runs'] else 'fails'}  {trial['how']} ({trial['pair']})")
    for note in report["notes"]:
        click.echo(f"\nNote: {note}")
    for problem in report["problems"]:
        click.echo(f"\nProblem: {problem}")
    if report["pairs"] and not report["problems"]:
        click.echo("\nEverything that was tried works.")


def _print_trials() -> None:
    """A line of JSON with what the library is, then one for each pair."""
    from ..engine import layer_types, library
    from ..engine.weights import LoadOptions, Weights

    library.load()
    four = library.stored(CachePair.from_bits(4, 4)).types[0].name
    about = {"series": library.kvsplit_info(), "devices": library.devices(), "four_bits": four}
    print(json.dumps(about), flush=True)
    weights = Weights(LoadOptions(demo.MODEL, use_extra_bufts=choice.extra_bufts()))
    pairs = [CachePair.from_bits(k, v) for k in BITS for v in BITS]
    pairs = [pair for pair in pairs if not library.lacking(pair)]
    print(json.dumps({"trials": len(pairs)}), flush=True)
    for pair in pairs:
        print(json.dumps({"pairs": [dataclasses.asdict(_try(weights, pair))]}), flush=True)
    if layer_types.supported():
        print(
            json.dumps({"layer_map": dataclasses.asdict(_try(weights, LayerMap.parse("0-1:8/8,rest:8/4")))}), flush=True
        )


def _try(weights: Any, cache: Cache) -> PairTrial:
    from ..engine import pair_timing

    try:
        speed = pair_timing.measure(weights, cache)
    except KvsplitError as ex:
        return PairTrial(str(cache), False, str(ex))
    return PairTrial(str(cache), True, speed.words(cache), dataclasses.asdict(speed))


if __name__ == "__main__":
    _print_trials()
