"""llama.cpp itself: fetching commits from its remote or out of an sdist, and laying trees out as source folders."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import click

from . import store
from .errors import PatchError
from .paths import sdists_dir, sources_dir

_MODULE = re.compile(
    r"[^/]+/\.git/modules/vendor/llama\.cpp/"
    r"(HEAD|objects/pack/pack-[0-9a-f]{40}\.(?:pack|idx)|objects/[0-9a-f]{2}/[0-9a-f]{38})"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


# --- from the remote ----------------------------------------------------------------------------


def fetch(url: str, what: str, expected: str | None = None) -> str:
    """Bring a tag, or a 40-hex commit, into the store without its history; its 40-hex id.

    ``expected``: the commit a lock file holds for that tag. A tag that names another commit than it did,
    there or in the store, is refused. Raises PatchError.
    """
    import pygit2

    repo = store.open_store()
    if _COMMIT.fullmatch(what):
        if store.find_commit(repo, what):
            return what
        source, ref = what, f"{store.REFS}/commit/{what}"
    elif re.fullmatch(r"[A-Za-z0-9][\w.+-]*", what):
        source, ref = f"refs/tags/{what}", f"{store.REFS}/upstream/{what}"
    else:
        raise PatchError(f"{what!r} is neither a tag nor a 40-hex commit: give one of them.")
    remote = repo.remotes.create_anonymous(url)
    incoming = f"{store.REFS}/incoming/{os.getpid()}"
    with store.writing():
        try:
            heads = {head.name: str(head.oid) for head in remote.list_heads(proxy=True)}
            if source == what:  # servers hand out the tips of their refs to anyone, other commits maybe not
                source = next((name for name, tip in heads.items() if tip == what and "^" not in name), what)
            elif source not in heads:
                raise PatchError(f"{url} has no tag {what}: look at its tags, or give a 40-hex commit.")
            click.echo(f"fetching {what} from {url} …", err=True)
            remote.fetch([f"+{source}:{incoming}"], depth=1, proxy=True)
        except pygit2.GitError as failure:
            raise PatchError(f"Fetching {what} from {url} failed: {_sentence(failure)}; try again, or use --sdist.") from None
        try:
            commit = str(repo.references[incoming].peel(pygit2.Commit).id)
        except (KeyError, pygit2.InvalidSpecError):
            raise PatchError(f"{what} at {url} names no commit: give another tag.") from None
        finally:
            if incoming in repo.references:
                repo.references.delete(incoming)
        known = expected or (str(repo.references[ref].peel(pygit2.Commit).id) if ref in repo.references else None)
        if known and known != commit:
            raise PatchError(
                f"The tag {what} at {url} has moved from {known} to {commit}: "
                "find out why, and give the 40-hex commit you trust instead."
            )
        _require_complete(repo, commit, url)
        repo.references.create(ref, commit, force=True)
    return commit


def _sentence(failure: Exception) -> str:
    return str(failure).strip().rstrip(".").splitlines()[0]


def _require_complete(repo, commit: str, source: str):
    """Read every object of a commit's tree; libgit2 compares each with its id as it does."""
    import pygit2

    try:
        for _, mode, blob in store.entries(repo, repo[commit].peel(pygit2.Tree).id):
            if mode != 0o160000:
                repo.read(blob)
    except (KeyError, pygit2.GitError, ValueError) as failure:
        raise PatchError(f"The objects of {commit} in {source} are incomplete ({_sentence(failure)}): fetch it again.") from None


# --- from an sdist ------------------------------------------------------------------------------


def fetch_sdist(version_or_file: str) -> str:
    """Bring the commit that a llama-cpp-python sdist vendors into the store; its 40-hex id.

    Takes a version (downloaded by pip, kept by content) or the path of a ``.tar.gz``. Raises PatchError.
    """
    import pygit2

    repo = store.open_store()
    path = Path(version_or_file)
    if version_or_file.endswith(".gz") or path.is_file():
        if not path.is_file():
            raise PatchError(f"There is no file {path}: give an sdist, or a version to download.")
        version = _version_of(path)
    else:
        version = version_or_file
        if not re.fullmatch(r"\d+(\.\w+)+", version):
            raise PatchError(f"{version!r} is neither a llama-cpp-python version nor an sdist: give one such as 0.3.36.")
        ref = f"{store.REFS}/sdist/{version}"
        if ref in repo.references:
            return str(repo.references[ref].peel(pygit2.Commit).id)
        path = download_sdist(version)
    with store.writing():
        return _import_sdist(repo, path, version)


def _version_of(path: Path) -> str:
    found = re.search(r"llama_cpp_python-([\w.]+)\.tar\.gz$", path.name)
    if not found:
        raise PatchError(f"{path.name} is not named like an sdist of llama-cpp-python: give one as pip downloads it.")
    return found[1]


def download_sdist(version: str) -> Path:
    """The sdist of a llama-cpp-python version, through pip because some indexes serve nothing else; cached."""
    kept = sdists_dir() / f"llama_cpp_python-{version}.sha256"
    if kept.is_file():
        path = sdists_dir() / kept.read_text().strip() / f"llama_cpp_python-{version}.tar.gz"
        if path.is_file() and _sha256(path) == path.parent.name:
            return path
    sdists_dir().mkdir(parents=True, exist_ok=True)
    click.echo(f"downloading the sdist of llama-cpp-python {version} (about 75 MB) through pip …", err=True)
    with tempfile.TemporaryDirectory(dir=sdists_dir()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", folder, f"llama-cpp-python=={version}"], capture_output=True, text=True, check=False
        )
        found = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or not found:
            reason = (done.stderr.strip() or "it left no sdist").splitlines()[-1]
            raise PatchError(f"pip could not download the sdist of llama-cpp-python {version}: {reason}")
        sha256 = _sha256(found[0])
        target = sdists_dir() / sha256 / f"llama_cpp_python-{version}.tar.gz"
        target.parent.mkdir(exist_ok=True)
        os.replace(found[0], target)
        kept.write_text(sha256 + "\n")
    return target


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _import_sdist(repo, path: Path, version: str) -> str:
    """Read the submodule's HEAD and objects, nothing else, and check them before the store sees them.

    The sdist's git configuration and hooks are never looked at; member names only choose which of our own
    names a file gets, so no name can lead out of the quarantine folder.
    """
    import pygit2

    store_objects = Path(repo.path) / "objects"
    for left_by_a_kill in Path(repo.path).glob("quarantine-*"):
        shutil.rmtree(left_by_a_kill)
    with tempfile.TemporaryDirectory(dir=repo.path, prefix="quarantine-") as folder:
        quarantine = pygit2.init_repository(folder, bare=True)
        head = None
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    wanted = _MODULE.fullmatch(member.name)
                    if not wanted or not member.isreg():
                        continue
                    if wanted[1] == "HEAD":
                        head = archive.extractfile(member).read(100).decode("ascii", "replace").strip()
                        continue
                    target = Path(folder) / wanted[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open(target, "wb") as file:
                        shutil.copyfileobj(archive.extractfile(member), file)
        except (tarfile.TarError, zlib.error, EOFError, OSError) as failure:
            raise PatchError(f"{path} cannot be read ({_sentence(failure)}): download it again.") from None
        if not head or not _COMMIT.fullmatch(head):
            raise PatchError(f"{path.name} does not carry llama.cpp's git objects: fetch the commit it vendors by its id instead.")
        try:
            quarantine = pygit2.Repository(folder)
            quarantine[head].peel(pygit2.Commit)
        except (KeyError, pygit2.GitError, ValueError):
            raise PatchError(f"{path.name} names {head}, but does not carry that commit: download it again.") from None
        _require_complete(quarantine, head, path.name)
        # The .idx last: a pack counts only from then on.
        files = [file for file in (Path(folder) / "objects").rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.suffix == ".idx"):
            target = store_objects / file.relative_to(Path(folder) / "objects")
            target.parent.mkdir(exist_ok=True)
            os.replace(file, target)
    _mark_shallow(repo, head)
    repo = store.open_store()
    repo.references.create(f"{store.REFS}/sdist/{version}", head, force=True)
    return head


def _mark_shallow(repo, commit: str):
    """Tell git that the commit's parents are left out on purpose, for people who run git in the store."""
    path = Path(repo.path) / "shallow"
    known = path.read_text().split() if path.exists() else []
    if commit not in known:
        path.write_text("\n".join([*known, commit, ""]))


# --- what the commands ask for ------------------------------------------------------------------


def bindings_of(repo, commit: str) -> str | None:
    """The newest llama-cpp-python release, of those fetched, that vendors a commit."""
    import pygit2

    prefix = f"{store.REFS}/sdist/"
    versions = [
        ref.removeprefix(prefix)
        for ref in repo.references
        if ref.startswith(prefix) and str(repo.references[ref].peel(pygit2.Commit).id) == commit
    ]
    return max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)], default=None)


def resolve(url: str, what: str) -> tuple[str, str | None]:
    """The 40-hex commit a person means, and its tag if they gave one; fetched if the store lacks it.

    ``what``: a tag, a 40-hex commit (or the start of one the store has), or a llama-cpp-python version.
    """
    repo = store.open_store()
    version = re.fullmatch(r"\d+\.\d+\.\w+", what)
    commit = store.find_commit(repo, what)
    if not commit:
        commit = fetch_sdist(what) if version else fetch(url, what)
    is_tag = not version and not commit.startswith(what.lower())
    return commit, what if is_tag else None


def ensure(upstream) -> str:
    """The tree id of a lock's commit, fetched first if the store lacks it (from the sdist when the lock names one)."""
    import pygit2

    repo = store.open_store()
    if not store.find_commit(repo, upstream.commit):
        if upstream.bindings:
            commit = fetch_sdist(upstream.bindings)
        else:
            commit = fetch(upstream.url, upstream.tag or upstream.commit, upstream.commit)
        if commit != upstream.commit:
            raise PatchError(
                f"llama-cpp-python {upstream.bindings} vendors {commit}, but lock.json says {upstream.commit}: "
                "restore lock.json with git checkout."
            )
        repo = store.open_store()
    return str(repo[upstream.commit].peel(pygit2.Tree).id)


def materialize(tree: str) -> Path:
    """A folder with the files of a tree, byte for byte, files read-only; made once and shared.

    Build elsewhere (``cmake -S folder -B elsewhere``). Raises PatchError if the store lacks the tree.
    """
    repo = store.open_store()
    if tree not in repo:
        raise PatchError(f"The store lacks the tree {tree}: fetch the upstream commit it belongs to.")
    target = sources_dir() / tree
    if target.is_dir():
        return target
    sources_dir().mkdir(parents=True, exist_ok=True)
    with _temporary_beside(target) as folder:
        write_tree(repo, tree, folder, read_only=True)
        try:
            os.rename(folder, target)
        except OSError:  # another process was first; theirs is the same
            if not target.is_dir():
                raise
    return target


def write_tree(repo, tree: str, folder: Path, read_only: bool = False):
    """Write a tree's files into an empty folder: no filters, no line-ending conversion, links as links."""
    for path, mode, blob in store.entries(repo, tree):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == 0o160000:
            target.mkdir()
        elif mode == 0o120000:
            os.symlink(os.fsdecode(store.read_blob(repo, blob)), target)
        else:
            # "x": a tree that names a path twice, or hides one behind a link, must not write elsewhere.
            with open(target, "xb") as file:
                file.write(store.read_blob(repo, blob))
            bits = 0o755 if mode == 0o100755 else 0o644
            target.chmod(bits & ~(stat.S_IWUSR if read_only else 0))


@contextmanager
def _temporary_beside(target: Path):
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:12]}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
