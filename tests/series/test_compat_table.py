"""The table of docs/maintain/series.md: made by the command that it names, and every cell of it as git itself merges."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvsplit_patch import paths
from kvsplit_patch.proof import compat
from kvsplit_patch.series import applying, patchset, replay, targets
from kvsplit_patch.upstream import store
from tests.support.release import HERE, fetch, skipped_without

PAGE = Path(__file__).parents[2] / "docs" / "maintain" / "series.md"
#: What anyone has who ran the other tests.
QUICK = (HERE, "0.3.35")


def table() -> tuple[list[str], dict[str, list[str]]]:
    """The patches, and the cells of each row."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    start = next(at for at, row in enumerate(rows) if row[0] == "llama.cpp of")
    end = next(at for at, row in enumerate(rows) if at > start and len(row) != len(rows[start]))
    (_, *names), *of_patches = rows[start:end]
    cells = [row[1:] for row in of_patches]
    return [row[0] for row in of_patches], {name: [row[at] for row in cells] for at, name in enumerate(names)}


PATCHES, ROWS = table()


class Git:
    """git's own merges of the store's trees, in a repository beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.run("init", "--quiet", "--bare")

    def run(self, *words: str) -> subprocess.CompletedProcess:
        who = {f"GIT_{role}_{part}": "x" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        env = {**os.environ, **who, "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(store.store_dir() / "objects")}
        return subprocess.run(["git", *words], cwd=self.folder, env=env, capture_output=True, text=True)

    def commit(self, tree: str, *parents: str) -> str:
        words = [word for parent in parents for word in ("-p", parent)]
        return self.run("commit-tree", tree, *words, "-m", "x").stdout.strip()

    def merge(self, before: str, after: str, onto: str) -> str | None:
        """The tree of a three-way merge; None where it conflicts."""
        base = self.commit(before)
        merged = self.run("merge-tree", "--write-tree", self.commit(onto, base), self.commit(after, base))
        assert merged.returncode in (0, 1), merged.stderr
        return merged.stdout.split()[0] if merged.returncode == 0 else None

    def has(self, tree: str, path: str) -> bool:
        return self.run("cat-file", "-e", f"{tree}:{path}").returncode == 0


def test_the_table_is_of_this_series():
    loaded = patchset.load(paths.patchset_dir())
    assert loaded.names() == PATCHES, "run 'cog -r docs/maintain/series.md'"
    assert {HERE, *(each.target for each in loaded.resolutions)} <= ROWS.keys()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in ROWS])
def test_a_row_is_what_git_makes_of_it(tmp_path, name):
    fetch(HERE)
    loaded = patchset.load(paths.patchset_dir())
    with skipped_without(f"llama.cpp of {name}"):
        commit, _ = targets.resolve(loaded, name)
    repo, git = store.open_store(), Git(tmp_path)
    current = base = store.tree_of(repo, commit)
    kept = loaded.kept(base)
    for step, cell in zip(applying.at_base(loaded), ROWS[name], strict=True):
        merged = git.merge(step.before, step.after, current)
        if cell == "–":
            assert step.header.needs and not all(git.has(base, path) for path in step.header.needs)
        elif cell == "✓ kept":  # a conflict, or a merge that a person changed
            assert step.name in kept
            current = replay.replay(repo, step, current, kept[step.name]).tree
        elif cell == "✗":
            assert merged is None
        else:
            assert cell == "✓" and merged == replay.replay(repo, step, current).tree
            current = merged


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_command_makes_the_table():
    subprocess.run([sys.executable, "-m", "cogapp", "--check", str(PAGE)], check=True, cwd=PAGE.parents[2])
    assert len(ROWS) >= 10 and compat.FIRST_RELEASE in ROWS
