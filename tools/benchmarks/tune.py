"""Maps of `llm kvsplit tune` beside pairs for all layers, on text that no map was chosen on (docs/evidence/tune.md).

    python tools/benchmarks/tune.py FOLDER MODEL.gguf

tunes MODEL for each number of bits a value, measures the maps and the pairs on the windows that were held out, and writes
NAME.json, NAME.md and two pictures to FOLDER. What was measured is kept where `llm kvsplit tune` keeps it: the same call
goes on from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evidence

from llm_kvsplit import machine
from llm_kvsplit.bench import subject as subjects
from llm_kvsplit.bench import summary
from llm_kvsplit.bench.results import Results
from llm_kvsplit.kvtypes import CachePair
from llm_kvsplit.plots import style
from llm_kvsplit.tune import goal, opening
from llm_kvsplit.tune.runs import CHOSEN, HELD
from llm_kvsplit.tune.search import Figures, Search

BITS = (6.5, 6, 5.5, 5, 4.5, 4)
PAIRS = tuple(
    map(
        CachePair.parse,
        ("8/q4_0", "6/6", "6/5", "6/q4_0", "6/iq4_nl", "5/q4_0", "6/3", "q5_0/3", "q4_0/q4_0", "iq4_nl/iq4_nl"),
    )
)


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", help="a registered model or a file")
    parser.add_argument("--bits", default=",".join(map(str, BITS)), help="means of a value to tune for")
    parser.add_argument("--name", help="of the files; the model's if not given")
    parser.add_argument("--threads", type=int, default=machine.physical_cores())
    parser.add_argument("--draw", action="store_true", help="measure nothing, and draw what stands in NAME.json")
    arguments = parser.parse_args()
    name = arguments.name or Path(arguments.model).stem
    if arguments.draw:
        measured = evidence.read(arguments.folder, name)
    else:
        measured = measure(arguments.model, [float(bits) for bits in arguments.bits.split(",")], arguments.threads)
    evidence.write(arguments.folder, name, measured, markdown(measured))
    draw(measured, arguments.folder, name)


def measure(model: str, bits: list[float], threads: int) -> dict[str, Any]:
    with opening.opened(subjects.named(model), None, threads) as opened:
        search = opened.search
        plan = search.plan
        goals = {f"{each:g}": goal.of(f"{each:g}bits", None, plan.sides, plan.types) for each in bits}
        search.runs.measure(CHOSEN, PAIRS, "pairs")
        maps = {name: search.choose(each) for name, each in goals.items()}
        # At once, so that f16's predictions of each window are computed once.
        search.runs.measure(HELD, [*PAIRS, *maps.values()], "text that was held out")
        tuned = {name: {"map": str(each), **row(search, search.figures(each))} for name, each in maps.items()}
        sides = [
            {"layer": side.layer, "side": side.name, plan.probe.name: search.runs.damage(CHOSEN, plan.of_side(side))}
            for side in plan.sides
        ]
        whole = {
            f"{kind}/{each.name}": search.runs.damage(CHOSEN, plan.of_kind(kind, each))
            for kind in "kv"
            for each in (plan.finer, plan.probe)
        }
        return {
            "about": search.runs.results.about,
            "window": opened.n_ctx,
            "probe": plan.probe.name,
            "sides": sides,
            "whole": whole,
            "pairs": {str(pair): row(search, search.figures(pair)) for pair in PAIRS},
            "tuned": tuned,
        }


def row(search: Search, figures: Figures) -> dict[str, Any]:
    share = figures.bytes / search.bytes(CachePair.parse("f16"))
    return {"bits": 16 * share, **{key: value for key, value in vars(figures).items() if key != "cache"}}


def markdown(measured: dict[str, Any]) -> str:
    head = (
        "",
        "bits",
        "damage: predicted",
        "measured",
        "held out",
        "99.9 % KL, held out",
        "beside K8V4",
        "beside K4V4",
    )
    table = [head]
    k8v4, k4v4 = (measured["pairs"][name]["held"][0] for name in ("K8Vq4_0", "Kq4_0Vq4_0"))
    rows = [(f"tuned to {bits}", each) for bits, each in measured["tuned"].items()] + list(measured["pairs"].items())
    for name, each in sorted(rows, key=lambda item: (-round(item[1]["bits"], 2), item[1]["held"][0])):
        table.append(
            (
                f"**{name}**" if name.startswith("tuned") else name,
                f"{each['bits']:.3f}",
                f"{1000 * each['predicted']:.2f}",
                plus_minus(each["chosen"]),
                plus_minus(each["held"]),
                f"{each['kl_999'][0]:.3f} ({each['kl_999'][1]:.3f}-{each['kl_999'][2]:.3f})",
                f"{each['held'][0] / k8v4:.2f}",
                f"{each['held'][0] / k4v4:.2f}",
            )
        )
    maps = "\n".join(f"- {bits} bits: `{each['map']}`" for bits, each in measured["tuned"].items())
    sides = [("layer", "keys", "values")]
    by_layer: dict[int, dict[str, float]] = {}
    for each in measured["sides"]:
        by_layer.setdefault(each["layer"], {})[each["side"]] = each[measured["probe"]][0]
    for layer, both in by_layer.items():
        sides.append((str(layer), *(f"{1000 * both[side]:.2f}" if side in both else "" for side in "kv")))
    about = summary.caption(results(measured))
    return (
        f"# {measured['about']['model']['name']}: maps and pairs\n\n{about}; windows of {measured['window']} tokens. Damage "
        f"in thousandths of a nat, ± half a 95 % interval.\n\n{summary.markdown(table)}\n\n## The maps\n\n{maps}\n\n"
        f"## Damage of one side of one layer in {measured['probe']}\n\n{summary.markdown(sides)}\n"
    )


def plus_minus(interval: list[float]) -> str:
    return f"{1000 * interval[0]:.2f} ± {500 * (interval[2] - interval[1]):.2f}"


def results(measured: dict[str, Any]) -> Results:
    return Results(Path(), measured["about"])


def draw(measured: dict[str, Any], folder: Path, name: str) -> None:
    style.load()
    frontier(measured, folder / f"{name}-frontier.svg")
    by_side(measured, folder / f"{name}-sides.svg")


def frontier(measured: dict[str, Any], file: Path) -> None:
    drawn, axes = style.figure(results(measured), width=6.4, height=4.4)
    for rows, colour, marker, line, label in (
        (measured["pairs"], "#D55E00", "^", "none", "one pair for all layers"),
        (measured["tuned"], "#0072B2", "o", "-", "types by layer, tuned"),
    ):
        bits = [each["bits"] for each in rows.values()]
        values, error = style.error_bars([each["held"] for each in rows.values()], 1000)
        axes.errorbar(bits, values, yerr=error, color=colour, marker=marker, linestyle=line, capsize=3, label=label)
    for pair, each in measured["pairs"].items():
        axes.annotate(
            pair, (each["bits"], 1000 * each["held"][0]), textcoords="offset points", xytext=(7, 4), fontsize=7
        )
    style.log_axis(axes)
    axes.set_xlabel("bits a value, mean of keys and values")
    axes.set_ylabel("damage on held-out text (thousandths of a nat)")
    axes.legend(loc="lower left")
    style.save(drawn, file)


def by_side(measured: dict[str, Any], file: Path) -> None:
    sides = measured["sides"]
    layers = 1 + max(each["layer"] for each in sides)
    drawn, axes = style.figure(results(measured), width=max(6.0, 0.25 * layers), height=3.4)
    for side, colour, shift, label in (("k", "#0072B2", -0.2, "keys"), ("v", "#E69F00", 0.2, "values")):
        these = [each for each in sides if each["side"] == side]
        places = [each["layer"] + shift for each in these]
        values, error = style.error_bars([each[measured["probe"]] for each in these], 1000)
        axes.bar(places, values, 0.4, color=colour, label=label)
        axes.errorbar(places, values, yerr=error, fmt="none", ecolor="black", elinewidth=0.6, capsize=1.5)
    axes.set_xticks(range(0, layers, 1 if layers < 16 else 2))
    axes.set_xlabel("layer")
    axes.set_ylabel(f"damage in {measured['probe']}\n(thousandths of a nat)")
    axes.legend()
    style.save(drawn, file)


if __name__ == "__main__":
    main()
