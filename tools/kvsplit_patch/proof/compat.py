"""What becomes of every patch on every tag: a table made by replaying in memory, and the newest tag that is clean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from ..echo import Echo
from ..errors import PatchError
from ..series import applying, replay, targets, watched
from ..series.patchset import Series, Step
from ..upstream import index, store, tags
from ..upstream.sdist import PACKAGE
from ..upstream.tags import RemoteTags, Tag

#: The oldest llama-cpp-python that the series is held against: see tests/series/test_releases.py.
FIRST_RELEASE = "0.3.28"
#: A state beside those of ``replay``: upstream lacks a file there without which there is nothing to patch.
OUTSIDE = "outside the range"

#: Tags that ``furthest`` fetches at a time on its way down.
_STRIDE = 50


@dataclass(frozen=True)
class Cell:
    """One patch on one tag. ``state``: as ``replay`` names it, or OUTSIDE."""

    state: str
    #: Where it conflicts, or what it leaves out or deletes; one phrase each.
    notes: tuple[str, ...] = ()
    #: Files that the patch touches or watches and upstream changed since the row before.
    watched: tuple[str, ...] = ()


@dataclass(frozen=True)
class TagRow:
    """``tag``: one of upstream's, or another name of a commit."""

    tag: str
    commit: str
    #: Patch -> cell, in the series' order.
    cells: dict[str, Cell]
    seconds: float

    @property
    def clean(self) -> bool:
        return all(cell.state in replay.DONE for cell in self.cells.values())


@dataclass(frozen=True)
class CompatTable:
    base: str
    patches: tuple[str, ...]
    rows: tuple[TagRow, ...]


def choose(listing: RemoteTags, base: str, first: str | None, last: str | None, every: int = 1) -> tuple[Tag, ...]:
    """Each ``every``-th tag and the last, from ``first`` (or the series' base) to ``last`` (or the newest).

    Raises PatchError where one is not there, or the base has no tag.
    """
    if not listing.builds:
        raise PatchError(f"{listing.url} has no b tags: check the url in patchset/lock.json.")
    begin = listing.find(first) if first else listing.at(base)
    if begin is None:
        raise PatchError(f"The series' base {base} has no tag at {listing.url}: name the first tag with --from.")
    line = listing.between(begin, listing.find(last) if last else listing.builds[-1])
    chosen = line[::every]
    return chosen if chosen[-1] == line[-1] else (*chosen, line[-1])


def table(loaded: Series, steps: Sequence[Step], url: str, chosen: Sequence[Tag], echo: Echo) -> CompatTable:
    """Replay the series onto each tag, fetching what the store lacks. Raises PatchError, NetworkError."""
    tags.fetch(url, chosen, echo)
    rows, before = [], loaded.lock.base_tree
    for tag in chosen:
        rows.append(_row(loaded, steps, tag.name, tag.commit, before))
        before = store.tree_of(store.open_store(), tag.commit)
    return CompatTable(loaded.lock.upstream.commit, tuple(loaded.names()), tuple(rows))


def table_of(loaded: Series, names: Sequence[str]) -> CompatTable:
    """The same of commits by any name a person may give, without what upstream changed between them.

    Raises PatchError, NetworkError.
    """
    steps = applying.at_base(loaded)
    commits = {name: targets.resolve(loaded, name)[0] for name in names}
    rows = [_row(loaded, steps, name, commit) for name, commit in commits.items()]
    return CompatTable(loaded.lock.upstream.commit, tuple(loaded.names()), tuple(rows))


def releases(loaded: Series) -> CompatTable:
    """``table_of`` what packages vendor: llama-cpp-python since FIRST_RELEASE, and where a resolution is kept."""
    versions = [version for version in index.versions(PACKAGE) if _number(version) >= _number(FIRST_RELEASE)]
    return table_of(loaded, [*versions, *dict.fromkeys(each.target for each in loaded.resolutions)])


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _row(loaded: Series, steps: Sequence[Step], name: str, commit: str, before: str | None = None) -> TagRow:
    began = perf_counter()
    repo = store.open_store()
    base = store.tree_of(repo, commit)
    cells = dict(cells_on(repo, loaded, steps, before or base, base))
    return TagRow(name, commit, cells, round(perf_counter() - began, 4))


def cells_on(repo, loaded: Series, steps: Sequence[Step], before: str, base: str) -> Iterator[tuple[str, Cell]]:
    """Each patch and what becomes of it on the tree ``base``; ``before`` is the tree from which changes count."""
    changed: dict[str, list[str]] = {}
    if before != base:
        for change in watched.changes(repo, loaded, watched.between(repo, before, base)):
            changed.setdefault(change.patch, []).append(change.path)
    missing = {step.name: applying.lacking(repo, step, base) for step in steps}
    within = [step for step in steps if not missing[step.name]]
    outcomes = {step.name: outcome for step, _, outcome in replay.onto(repo, within, base, loaded.kept(base))}
    for step in steps:
        if step.name not in outcomes:
            notes = tuple(f"it needs {path}, which is not there" for path in missing[step.name])
            yield step.name, Cell(OUTSIDE, notes)
            continue
        outcome = outcomes[step.name]
        notes = tuple(f"{path}: {why}" for path, why in outcome.conflicts)
        notes += outcome.lines + tuple(f"now in {path}" for path in outcome.elsewhere)
        yield step.name, Cell(outcome.state, notes, tuple(changed.get(step.name, ())))


def on_commit(loaded: Series, commit: str) -> dict[str, Cell]:
    """Each patch of the series as it was made, and what becomes of it on a commit of the store."""
    repo = store.open_store()
    base = store.tree_of(repo, commit)
    return dict(cells_on(repo, loaded, applying.at_base(loaded), base, base))


def furthest(loaded: Series, steps: Sequence[Step], listing: RemoteTags, chosen: Sequence[Tag], echo: Echo) -> TagRow:
    """The newest of ``chosen`` on which every patch is clean, looking from the newest down. Raises PatchError."""
    left = list(chosen)
    while left:
        part, left = left[-_STRIDE:], left[:-_STRIDE]
        tags.fetch(listing.url, part, echo)
        for tag in reversed(part):
            row = table(loaded, steps, listing.url, [tag], echo).rows[0]
            if row.clean:
                return row
    raise PatchError(
        f"The series is clean on no tag from {chosen[0].name} to {chosen[-1].name}: rebase it onto one of them."
    )
