"""The series as it stands on a newer commit, on a branch of its own: in the checkout, and as a pull request."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

from ..errors import PatchError
from ..series import applying, patchset
from ..series.folders import Files
from ..series.patchset import Series
from ..upstream import revisions, store
from .github import GitHub

#: One branch, moved from night to night.
BRANCH = "nightly/series"


def refreshed(loaded: Series, commit: str, tag: str | None) -> Files:
    """The files of ``patchset/`` for the series on ``commit``. Raises PatchError unless every patch is clean there."""
    repo = store.open_store()
    base = store.tree_of(repo, commit)
    # One that a kept resolution drops there changes nothing.
    steps = [step for step in applying.on_commit(loaded, commit) if step.before != step.after]
    where = patchset.Upstream(loaded.lock.upstream.url, commit, tag, revisions.bindings_of(repo, commit))
    return patchset.export(repo, loaded.lock.series_version, where, base, steps)


def branch(project: Path, files: Files, message: str) -> bool:
    """Put BRANCH of the checkout on one commit over HEAD with these files in ``patchset/``; False if it is there.

    The work tree and the index stay as they are. Raises PatchError in a checkout without a commit.
    """
    import pygit2

    repo = pygit2.Repository(str(project))
    if repo.head_is_unborn:
        raise PatchError(f"{project} has no commit to put a branch on: commit something first.")
    head = repo.head.peel(pygit2.Commit)
    blobs = {f"patchset/{path}": (mode, repo.create_blob(data)) for path, (mode, data) in files.items()}
    tree = pygit2.Oid(hex=store.tree_with(repo, str(head.tree_id), blobs))
    reference = f"refs/heads/{BRANCH}"
    if reference in repo.references:
        there = repo.references[reference].peel(pygit2.Commit)
        if there.tree_id == tree and there.parent_ids == [head.id]:
            return False
    who = pygit2.Signature("kvsplit-patch", "kvsplit-patch@localhost")
    commit = repo.create_commit(None, who, who, message, tree, [head.id])
    repo.references.create(reference, commit, force=True)
    return True


def propose(github: GitHub, files: Files, title: str, body: str) -> None:
    """The same on GitHub, with a pull request: opened once, then moved. Doing it twice changes nothing."""
    default = github.get("")["default_branch"]
    head = github.get(f"git/ref/heads/{default}")["object"]["sha"]
    base_tree = github.get(f"git/commits/{head}")["tree"]["sha"]
    entries = [
        {"path": f"patchset/{path}", "mode": f"{mode:o}", "type": "blob", **_content(github, data)}
        for path, (mode, data) in sorted(files.items())
    ]
    # A tree's name is its content's hash, so making one that is there changes nothing.
    tree = github.write("POST", "git/trees", base_tree=base_tree, tree=entries).get("sha", "")
    if tree == base_tree:
        return  # the default branch has it
    there = github.find(f"git/ref/heads/{BRANCH}")
    if not there or github.get(f"git/commits/{there['object']['sha']}")["tree"]["sha"] != tree:
        commit = github.write("POST", "git/commits", message=f"{title}\n\n{body}", tree=tree, parents=[head]).get(
            "sha", ""
        )
        if there:
            github.write("PATCH", f"git/refs/heads/{BRANCH}", sha=commit, force=True)
        else:
            github.write("POST", "git/refs", ref=f"refs/heads/{BRANCH}", sha=commit)
    owner = github.repository.partition("/")[0]
    pulls = list(github.pages("pulls", head=f"{owner}:{BRANCH}", state="open"))
    if not pulls:
        github.write("POST", "pulls", title=title, body=body, head=BRANCH, base=default)
    elif pulls[0]["title"] != title:
        github.write("PATCH", f"pulls/{pulls[0]['number']}", title=title, body=body)


def _content(github: GitHub, data: bytes) -> dict[str, str]:
    """What a tree's entry holds: text, or the name of a blob for what is not UTF-8."""
    try:
        return {"content": data.decode()}
    except UnicodeDecodeError:
        blob = github.write("POST", "git/blobs", content=b64encode(data).decode(), encoding="base64")
        return {"sha": blob.get("sha", "")}
