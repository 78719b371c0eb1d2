"""One measurement in a process of its own, so that the memory is its own, too.

Run as a program it reads a job (JSON) from stdin and writes JSON lines: ``{"done": tokens}`` while it works, then
``{"result": …}`` or ``{"error": sentence}``. ``run`` is the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import kvtypes
from ..errors import KvsplitError
from ..kvtypes import Cache

if TYPE_CHECKING:
    from ..engine.context import Context
    from ..engine.weights import Weights

#: Called with the number of tokens that were just evaluated.
Done = Callable[[int], None]


def run(job: dict[str, Any], done: Done, started: Callable[[int], None] = lambda pid: None) -> dict[str, Any]:
    """Measure in a child process. ``started`` gets the child's id, ``done`` numbers of tokens. Raises KvsplitError."""
    child = subprocess.Popen(
        [sys.executable, "-m", "llm_kvsplit.bench.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is ours: a child that is still importing would answer it with a traceback
    )
    assert child.stdin and child.stdout
    try:
        started(child.pid)
        with suppress(BrokenPipeError), child.stdin:  # if it is dead already, its exit code tells more
            child.stdin.write(json.dumps(job))
        for line in child.stdout:
            message = json.loads(line)
            if "done" in message:
                done(message["done"])
            elif "error" in message:
                raise KvsplitError(message["error"])
            else:
                return message["result"]
        code = child.wait()
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise KvsplitError(
            f"Measuring {job['pair']} at {job['n_ctx']} tokens {end}: memory may have run out; measure a shorter context."
        )
    finally:
        child.kill()
        child.wait()


def main() -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not come between our lines

    def send(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")

    job = sys.stdin.read()
    if not job:
        sys.exit(130)  # the parent was interrupted before it could say what to measure
    try:
        send(result=measure(json.loads(job), lambda tokens: send(done=tokens)))
    except KvsplitError as error:
        send(error=str(error))
    except BrokenPipeError:
        os._exit(130)  # the parent is gone


def measure(job: dict[str, Any], done: Done) -> dict[str, Any]:
    from ..engine.weights import LoadOptions, Weights

    weights = Weights(LoadOptions(**job["load"] | {"path": Path(job["load"]["path"])}))
    try:
        return measure_with(weights, job, done)
    finally:
        weights.close()


def measure_with(weights: Weights, job: dict[str, Any], done: Done) -> dict[str, Any]:
    """Do the job on a loaded model; the result is what stands in the results file."""
    from . import subject

    tokens = subject.text_tokens(weights, subject.read_text(Path(job["text"])))
    return _KINDS[job["kind"]](weights, tokens, job, done)


def _open(weights: Weights, job: dict[str, Any]) -> Context:
    from ..engine.context import Context, ContextOptions

    return Context(weights, ContextOptions(_pair(job), job["n_ctx"], job["threads"]))


def _pair(job: dict[str, Any]) -> Cache:
    return kvtypes.parse(job["pair"])


def _speed(weights: Weights, tokens: list[int], job: dict[str, Any], done: Done) -> dict[str, Any]:
    from . import speed

    n_ctx = job["n_ctx"]
    tokens = (tokens * (n_ctx // len(tokens) + 1))[:n_ctx]  # what they say does not matter here
    context = _open(weights, job)
    try:
        timing = speed.run(context, tokens, done)
        return {
            "kv_bytes": context.kv_size.bytes,
            "buffer_bytes": context.buffers.total,
            "cells": context.n_ctx,
            "prompt_tokens": timing.prompt_tokens,
            "generated_tokens": timing.generated_tokens,
            "timed": {**timing.rates(), "peak_bytes": peak_bytes()},
        }
    finally:
        context.close()


def _quality(weights: Weights, tokens: list[int], job: dict[str, Any], done: Done) -> dict[str, Any]:
    from . import quality

    pair, texts = _pair(job), quality.windows(tokens, job["n_ctx"], job["windows"])
    measured = quality.measure(weights, [pair], texts, n_threads=job["threads"], done=done)
    return {"windows": job["windows"], **quality.record(pair, measured[pair])}


def _needles(weights: Weights, tokens: list[int], job: dict[str, Any], done: Done) -> dict[str, Any]:
    from . import needles

    hay = needles.haystack(weights, tokens, job["n_ctx"], job["seed"])
    context = _open(weights, job)
    try:
        return {"answers": needles.ask(context, hay, done)}
    finally:
        context.close()


def _layers(weights: Weights, tokens: list[int], job: dict[str, Any], done: Done) -> dict[str, Any]:
    from . import layers

    return layers.measure(weights, tokens, job["n_ctx"], job["windows"], job["threads"], done)


def _heads(weights: Weights, tokens: list[int], job: dict[str, Any], done: Done) -> dict[str, Any]:
    from . import attention

    return attention.measure(weights, tokens[: job["n_ctx"]], job["threads"], done)


_KINDS = {"speed": _speed, "quality": _quality, "needles": _needles, "layers": _layers, "heads": _heads}


def peak_bytes() -> int:
    """The most memory that this process has held."""
    try:
        # Not getrusage: on Linux a child begins with its parent's peak there.
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    main()
