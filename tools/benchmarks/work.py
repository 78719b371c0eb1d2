"""Pieces of work done in child processes, and each once: what is finished is kept in the cache.

So a piece that hangs or dies is a result like any other, and an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import queue
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_kvsplit.machine import physical_cores
from llm_kvsplit.paths import cache_dir

Result = dict[str, Any]

#: At once. What is measured here is not speed.
CHILDREN = max(1, physical_cores())

#: Files of results for one name: another checkout may be at work, too.
_KEPT = 4
_SPAWN = multiprocessing.get_context("spawn")
_ROOT = Path(__file__).parents[2]


def results(
    name: str,
    pieces: Iterable[tuple[str, Any]],
    work: Callable[[Any], Result],
    *,
    seconds: float,
    versions: str,
    sources: Sequence[str],
) -> Iterator[Result]:
    """What ``work`` returns for each (key, piece), in order; {"hung": …} or {"died": …} where it does not return.

    Results of before are taken where ``versions`` and the ``sources`` in the checkout were the same.
    """
    file = cache_dir() / "evidence" / f"{name}-{_digest(versions, sources)}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = dict(_lines(file))
    for older in sorted(file.parent.glob(f"{name}-{'?' * 16}.jsonl"), key=lambda each: each.stat().st_mtime)[:-_KEPT]:
        older.unlink()
    children: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    for _ in range(CHILDREN):
        children.put(_Child(work, seconds))

    def done(piece: Any) -> Result:
        child = children.get()
        try:
            return child.ask(piece)
        finally:
            children.put(child)

    waiting: deque[tuple[str, Future[Result] | None]] = deque()
    with open(file, "a", encoding="utf-8") as out, ThreadPoolExecutor(CHILDREN) as pool:
        try:
            pieces = iter(pieces)
            for n in itertools.count(1):
                for key, piece in itertools.islice(pieces, 2 * CHILDREN - len(waiting)):
                    waiting.append((key, None if key in kept else pool.submit(done, piece)))
                if not waiting:
                    return
                key, future = waiting.popleft()
                if future is not None:
                    kept[key] = future.result()
                    out.write(json.dumps([key, kept[key]]) + "\n")
                    out.flush()
                if n % 200 == 0:
                    print(f"{name}: {n}", file=sys.stderr)
                yield kept[key]
        finally:
            pool.shutdown(cancel_futures=True)
            for _ in range(CHILDREN):
                children.get().end()


def _lines(file: Path) -> Iterator[tuple[str, Result]]:
    """The whole lines; a run that was killed leaves half of one."""
    data = file.read_text(encoding="utf-8") if file.is_file() else ""
    whole = data[: data.rfind("\n") + 1]
    if whole != data:
        file.write_text(whole, encoding="utf-8")
    for line in whole.splitlines():
        key, result = json.loads(line)
        yield key, result


def _digest(versions: str, sources: Sequence[str]) -> str:
    digest = hashlib.sha256(versions.encode())
    for each in sources:
        path = _ROOT / each
        for source in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class _Child:
    """A process that works; another one follows where it hangs or dies."""

    def __init__(self, work: Callable[[Any], Result], seconds: float) -> None:
        self._work, self._seconds = work, seconds
        self._process: Any = None

    def ask(self, piece: Any) -> Result:
        if self._process is None:
            self._pipe, theirs = _SPAWN.Pipe()
            self._process = _SPAWN.Process(target=_serve, args=[theirs, self._work], daemon=True)
            self._process.start()
            theirs.close()
            self._pipe.recv()  # it is there; what it imports is no work
        self._pipe.send(piece)
        try:
            if self._pipe.poll(self._seconds):
                return self._pipe.recv()
            self.end()
            return {"hung": self._seconds}
        except EOFError:
            self._process.join()
            code, self._process = self._process.exitcode, None
            return {"died": code}

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: Any, work: Callable[[Any], Result]) -> None:
    with suppress(EOFError, KeyboardInterrupt):
        pipe.send("ready")
        while True:
            pipe.send(work(pipe.recv()))
