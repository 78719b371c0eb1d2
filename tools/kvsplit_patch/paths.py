"""Where the series, the upstream objects and the state of an unfinished rebase lie."""

import os
from pathlib import Path

from .errors import PatchError


def checkout() -> Path:
    """The project checkout whose ``patchset/`` the commands change.

    ``KVSPLIT_CHECKOUT``, or the first folder from the current one upwards that holds ``patchset/series``.
    Raises PatchError outside a checkout.
    """
    override = os.environ.get("KVSPLIT_CHECKOUT")
    if override:
        candidates = [Path(override).resolve()]
    else:
        here = Path.cwd()
        candidates = [here, *here.parents]
    for folder in candidates:
        # The second is there when a swap of the series was cut short between two renames: see folders.py.
        if any((folder / name / "series").is_file() for name in ("patchset", ".kvsplit-next")):
            return folder
    where = f"{override} (KVSPLIT_CHECKOUT)" if override else f"{Path.cwd()} or above it"
    raise PatchError(f"There is no patchset/series in {where}: run this inside a checkout of llm-kvsplit.")


def patchset_dir() -> Path:
    """The series to read: the checkout's, else the copy that came with the installed package."""
    try:
        return checkout() / "patchset"
    except PatchError:
        if os.environ.get("KVSPLIT_CHECKOUT"):
            raise
    package = Path(__file__).resolve().parent
    # The second is where an editable install finds it: tools/kvsplit_patch -> the checkout.
    for folder in (package / "patchset", package.parents[1] / "patchset"):
        if (folder / "series").is_file():
            return folder
    raise PatchError("This installation of llm-kvsplit carries no patchset: reinstall it.")


def state_dir(project: Path) -> Path:
    """``kvsplit`` in the checkout's git directory: the journal and the lock, never committed, never swept as a cache."""
    dot_git = project / ".git"
    if dot_git.is_file():  # a linked worktree or a submodule: "gitdir: PATH"
        target = dot_git.read_text().partition("gitdir:")[2].strip()
        dot_git = (project / target).resolve()
    if not dot_git.is_dir():
        raise PatchError(
            f"{project} is no git checkout, so there is nowhere safe to keep the state of a rebase: clone the project."
        )
    folder = dot_git / "kvsplit"
    folder.mkdir(exist_ok=True)
    return folder


def cache_dir() -> Path:
    """The plugin's, which is made if it is not there. Raises PatchError where it cannot be."""
    from llm_kvsplit.paths import cache_dir as plugin_cache_dir

    folder = plugin_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PatchError(
            f"The cache {folder} cannot be made ({error.strerror}): check its folder, or name another in KVSPLIT_CACHE."
        ) from error
    return folder


def store_dir() -> Path:
    """The one bare repository of upstream objects, shared by all checkouts."""
    return cache_dir() / "upstream.git"


def sources_dir() -> Path:
    """Read-only source folders, one a tree id."""
    return cache_dir() / "sources"


def sdists_dir() -> Path:
    """Downloaded sdists, named by their SHA-256."""
    return cache_dir() / "sdists"


def models_dir() -> Path:
    """Downloaded models that tests and measurements use, named by their SHA-256."""
    return cache_dir() / "models"
