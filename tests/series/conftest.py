import pytest

from tests.support.verdicts import upstream_here  # noqa: F401
from tests.support.worlds import git, numbered


@pytest.fixture
def remote(tmp_path):
    """An upstream of four commits: lightweight tag b1, annotated b2, none on the third, b4 on the last."""
    folder = tmp_path / "served" / "llama.cpp"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=master")
    commits = [_commit(folder, numbered(l25=f"upstream {number}"), f"commit {number}") for number in range(4)]
    git(folder, "tag", "b1", commits[0])
    git(folder, "tag", "--annotate", "-m", "release", "b2", commits[1])
    git(folder, "tag", "b4", commits[3])
    return folder, commits


def _commit(folder, content: bytes, message: str) -> str:
    (folder / "f").write_bytes(content)
    git(folder, "add", "f")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")
