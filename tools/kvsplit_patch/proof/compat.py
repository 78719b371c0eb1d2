"""What becomes of every patch on every tag: a table made by replaying in memory, and the newest tag that is clean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from ..echo import Echo
from ..errors import PatchError
from ..series import applying, replay, watched
from ..series.patchset import Series, Step
from ..upstream import store, tags
from ..upstream.tags import RemoteTags, Tag

#: Tags that ``furthest`` fetches at a time on its way down.
_STRIDE = 50


@dataclass(frozen=True)
class Cell:
    """One patch on one tag. ``state``: as ``replay`` names it."""

    state: str
    #: Where it conflicts, or what it leaves out or deletes; one phrase each.
    notes: tuple[str, ...] = ()
    #: Files that the patch touches or watches and upstream changed since the row before.
    watched: tuple[str, ...] = ()


@dataclass(frozen=True)
class TagRow:
    tag: str
    commit: str
    #: Patch -> cell, in the series' order.
    cells: dict[str, Cell]
    seconds: float

    @property
    def clean(self) -> bool:
        return all(cell.state == replay.CLEAN for cell in self.cells.values())


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
    repo = store.open_store()
    rows, before = [], loaded.lock.base_tree
    for tag in chosen:
        began = perf_counter()
        base = store.tree_of(repo, tag.commit)
        cells = dict(cells_on(repo, loaded, steps, before, base))
        rows.append(TagRow(tag.name, tag.commit, cells, round(perf_counter() - began, 4)))
        before = base
    return CompatTable(loaded.lock.upstream.commit, tuple(loaded.names()), tuple(rows))


def cells_on(repo, loaded: Series, steps: Sequence[Step], before: str, base: str) -> Iterator[tuple[str, Cell]]:
    """Each patch and what becomes of it on the tree ``base``; ``before`` is the tree from which changes count."""
    changed: dict[str, list[str]] = {}
    if before != base:
        for change in watched.changes(repo, loaded, before, base):
            changed.setdefault(change.patch, []).append(change.path)
    missing = {step.name: applying.lacking(repo, step, base) for step in steps}
    within = [step for step in steps if not missing[step.name]]
    outcomes = {step.name: outcome for step, _, outcome in replay.onto(repo, within, base)}
    for step in steps:
        if step.name not in outcomes:
            notes = tuple(f"it needs {path}, which is not there" for path in missing[step.name])
            yield step.name, Cell(replay.CONFLICT, notes)
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
