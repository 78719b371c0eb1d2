"""Results on disk: one JSON file that is whole at any moment, and what a spreadsheet and a person read.

``runs`` holds a record for each thing that was measured, by its name: ``K8V4/4096/speed/1``. What depends on the
moment (times, peak memory) stands under ``timed`` in a record; everything else is the same whenever it is measured,
and whether or not the bench was interrupted in between.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import files, kvtypes
from ..errors import KvsplitError
from . import quality
from .speed import spread

SCHEMA = 1
#: What must be the same for runs to stand in one file, and how to say it.
_IDENTITY = {
    ("model", "sha256"): "another model",
    ("text", "sha256"): "another text",
    ("machine", "cpu"): "another machine",
    ("backend", "id"): "another build of llama.cpp",
    ("backend", "bindings"): "another version of llama-cpp-python",
    ("settings", "threads"): "another number of threads",
    ("settings", "seed"): "another seed",
}


@dataclass
class Results:
    file: Path
    #: What was measured with what: model, text, machine, backend, settings.
    about: dict[str, Any]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, run: dict[str, Any]) -> None:
        self.runs[name] = run
        self.write()

    def write(self) -> None:
        """Replace the file: whoever reads it, or kills this process, finds the old one or the new one."""
        whole = {"schema": SCHEMA, **self.about, "runs": self.runs}
        write_whole(self.file, json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def pairs(self) -> list[str]:
        """The measured configurations, f16 first, then from most to least bits."""
        return sorted({name.split("/")[0] for name in self.runs if name.count("/") > 1}, key=by_bits)

    def lengths(self) -> list[int]:
        return sorted({int(name.split("/")[1]) for name in self.runs if name.count("/") > 1})

    def cell(self, pair: str, n_ctx: int) -> dict[str, Any]:
        """Everything known of one configuration at one length: [median, low, high] where there is a spread."""
        start = f"{pair}/{n_ctx}/"
        speeds = [run for name, run in self.runs.items() if name.startswith(f"{start}speed/")]
        cell: dict[str, Any] = {"pair": pair, "n_ctx": n_ctx}
        if speeds:
            cell |= {key: speeds[0][key] for key in ("kv_bytes", "cells", "buffer_bytes")}
            for key in speeds[0]["timed"]:
                cell[key] = spread(run["timed"][key] for run in speeds)
        predictions, nudged = self.runs.get(f"{start}quality", {}), self.runs.get(f"f16/{n_ctx}/quality", {})
        cell |= {key: value for key, value in predictions.items() if key not in ("timed", "kl_blocks")}
        if pair != "f16" and "kl_blocks" in predictions and "kl_blocks" in nudged:
            cell["damage"] = quality.damage(predictions, nudged)
        if needles := self.runs.get(f"{start}needles"):
            cell["needles"] = [sum(answer["right"] for answer in needles["answers"]), len(needles["answers"])]
        return cell

    def cells(self) -> list[dict[str, Any]]:
        return [self.cell(pair, n_ctx) for n_ctx in self.lengths() for pair in self.pairs() if self._has(pair, n_ctx)]

    def _has(self, pair: str, n_ctx: int) -> bool:
        return any(name.startswith(f"{pair}/{n_ctx}/") for name in self.runs)


def by_bits(configuration: str) -> tuple[bool, int, int, str]:
    """The sort key of a configuration: f16 first, then from most to least bits in all, then of the keys; maps last."""
    cache = kvtypes.parse(configuration)
    if isinstance(cache, kvtypes.LayerMap):
        return True, 0, 0, configuration
    return False, -cache.k.bits - cache.v.bits, -cache.k.bits, configuration


def write_whole(file: Path, text: str) -> None:
    """``files.write_whole``. Raises KvsplitError when the disk refuses."""
    try:
        files.write_whole(file, text)
    except OSError as error:
        raise KvsplitError(f"{file} cannot be written ({error.strerror}): choose another folder.") from error


def read(file: Path) -> Results:
    """Results that were written before. Raises KvsplitError for what ``bench`` did not write."""
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        schema = whole.pop("schema")
        runs = whole.pop("runs")
        if not (isinstance(runs, dict) and all(isinstance(run, dict) for run in runs.values())):
            raise ValueError("its runs are not records")
        _ = [whole[part][key] for part, key in _IDENTITY]
    except FileNotFoundError:
        raise KvsplitError(f"There is no {file}: 'llm kvsplit bench MODEL' makes one.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KvsplitError(
            f"{file} is not what 'llm kvsplit bench' writes ({error}): move it away and measure again."
        ) from error
    if schema != SCHEMA:
        raise KvsplitError(f"{file} has schema {schema}, and this version reads {SCHEMA}: measure again elsewhere.")
    return Results(file, whole, runs)


def open_folder(folder: Path, about: dict[str, Any]) -> Results:
    """The results in ``folder`` to go on with, or new ones. Raises KvsplitError when they are of something else."""
    file = folder / "results.json"
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KvsplitError(f"{folder} cannot be made ({error.strerror}): choose another folder.") from error
        return Results(file, about)
    kept = read(file)
    for (part, key), words in _IDENTITY.items():
        if kept.about[part][key] != about[part][key]:
            raise KvsplitError(
                f"{file} was made with {words} ({kept.about[part][key]}, now {about[part][key]}): choose another "
                "folder with --out."
            )
    # Predictions that were measured before f16 was nudged have no blocks to count damage from: they are measured again.
    kept.runs = {name: run for name, run in kept.runs.items() if not name.endswith("/quality") or "kl_blocks" in run}
    return kept


#: Column of the CSV -> key of a cell, and which of [value, low, high].
_COLUMNS = {
    "kv_bytes": ("kv_bytes", None),
    "buffer_bytes": ("buffer_bytes", None),
    "peak_bytes": ("peak_bytes", 0),
    "prompt_tokens_per_s": ("prompt_tps", 0),
    "prompt_tokens_per_s_low": ("prompt_tps", 1),
    "prompt_tokens_per_s_high": ("prompt_tps", 2),
    "prompt_at_depth_tokens_per_s": ("last_batch_tps", 0),
    "generation_tokens_per_s": ("generation_tps", 0),
    "generation_tokens_per_s_low": ("generation_tps", 1),
    "generation_tokens_per_s_high": ("generation_tps", 2),
    "perplexity": ("ppl", None),
    "perplexity_change": ("ppl_change", 0),
    "perplexity_change_low": ("ppl_change", 1),
    "perplexity_change_high": ("ppl_change", 2),
    "damage_nats": ("damage", 0),
    "damage_low": ("damage", 1),
    "damage_high": ("damage", 2),
    "kl_mean_nats": ("kl_mean", 0),
    "kl_mean_low": ("kl_mean", 1),
    "kl_mean_high": ("kl_mean", 2),
    "kl_p999_nats": ("kl_999", 0),
    "moved_p999_share": ("moved_999", 0),
    "same_top_share": ("same_top", 0),
    "needles_found": ("needles", 0),
    "needles_asked": ("needles", 1),
}


def write_csv(results: Results, file: Path) -> None:
    """Write a row for each configuration and length. A field is empty where nothing was measured."""
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["configuration", "context_tokens", *_COLUMNS])
    for cell in results.cells():
        row = []
        for key, index in _COLUMNS.values():
            value = cell.get(key)
            row.append("" if value is None else value if index is None else value[index])
        writer.writerow([cell["pair"], cell["n_ctx"], *row])
    write_whole(file, out.getvalue())
