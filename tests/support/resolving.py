"""Resolving conflicts the way a person would who knows that the patch only adds lines."""

import difflib
import re
import subprocess
from pathlib import Path

from kvsplit_patch import journal, replay

from .worlds import run

CONFLICT = re.compile(r"<<<<<<< ours\n(.*?)\|\|\|\|\|\|\| ancestor\n(.*?)=======\n(.*?)>>>>>>> theirs\n", re.DOTALL)


def beside_their_neighbours(match) -> str:
    """A conflict where the patch only adds lines: put each behind the line of ours most like the one it stood behind."""
    ours, ancestor, theirs = (text.splitlines(keepends=True) for text in match.groups())
    squeezed = [" ".join(line.split()) for line in ours]
    result = {position: [] for position in range(-1, len(ours))}
    for tag, begin, _, first, last in difflib.SequenceMatcher(None, ancestor, theirs, autojunk=False).get_opcodes():
        assert tag in ("equal", "insert"), "this patch changes lines: resolve it by hand, and teach the test how"
        if tag == "insert":
            anchor = " ".join(ancestor[begin - 1].split()) if begin else ""
            close = difflib.get_close_matches(anchor, squeezed, n=1)
            result[squeezed.index(close[0]) if close else len(ours) - 1] += theirs[first:last]
    return "".join(result[-1] + [line for at, own in enumerate(ours) for line in [own, *result[at]]])


def resolve(work):
    """Resolve every file with markers in a work folder."""
    marked = subprocess.run(
        ["git", "diff", "--name-only", "--diff-filter=U"], cwd=work, capture_output=True, text=True, check=True
    )
    for path in set(marked.stdout.split()):
        text = (work / path).read_text()
        (work / path).write_text(CONFLICT.sub(beside_their_neighbours, text))


def carry(project, version) -> list[str]:
    """Rebase to what a release vendors, resolving what stops; the names of the patches that stopped."""
    stopped = []
    done = run("rebase", version, code=None)
    while state := journal.read(project):
        assert state.stopped == replay.CONFLICT, done
        stopped.append(state.todo[0].name)
        resolve(Path(state.work))
        done = run("continue", code=None)
    return stopped
