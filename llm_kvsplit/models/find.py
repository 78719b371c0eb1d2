"""Which models lie on this machine already, what they are called, and whether they fit the memory.

Names need the programs' folders only; what a model is needs the header of its file, so that comes second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import gguf
from ..errors import KvsplitError
from .place import Fault, Place, printable, without_ending


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file (or the first part of a split one) with every name that a program has for it."""

    #: What ``resolve`` takes for this file and no other: the shortest such name, or the path where there is none.
    handle: str
    places: tuple[Place, ...]

    @property
    def path(self) -> Path:
        return self.places[0].path


@dataclass(frozen=True)
class Inventory:
    """All files, and what is left out."""

    models: list[tuple[ModelFile, gguf.Gguf]]
    #: GGUF files of another kind, such as "the projector for a model's images".
    others: list[tuple[ModelFile, str]]
    faults: list[Fault]


def inventory() -> Inventory:
    """Every file once, however many names and links lead to it, with what its header says."""
    places, faults = _everywhere()
    names = _Names(places)
    models: list[tuple[ModelFile, gguf.Gguf]] = []
    others: list[tuple[ModelFile, str]] = []
    for identity, same in names.files.items():
        file = ModelFile(names.handle(identity), tuple(same))
        try:
            header = gguf.read(file.path)
        except KvsplitError as error:
            faults.append(Fault(file.path, error.message.removeprefix(f"{file.path} ").removesuffix(".")))
            continue
        if what := gguf.other_kind(header):
            others.append((file, what))
        else:
            models.append((file, header))
    return Inventory(models, others, faults)


def resolve(name: str) -> Place | None:
    """What a person means by ``name``, without reading a header; None if no program has it.

    Raises KvsplitError, with the choices, if it may be several files.
    """
    places, _ = _everywhere()
    names = _Names(places)
    meant = names.meant_by(name)
    if len(meant) > 1:
        choices = [printable(f"{names.handle(each)} ({places[0].program})") for each, places in meant.items()]
        raise KvsplitError(f"{name} could be {', '.join(choices[:-1])} or {choices[-1]}: give one of these names.")
    return next((places[0] for places in meant.values()), None)


def _everywhere() -> tuple[list[Place], list[Fault]]:
    from .places import everywhere

    every = dict.fromkeys(everywhere())
    places = [each for each in every if isinstance(each, Place)]
    return places, [each for each in every if isinstance(each, Fault)]


#: The same for two links to one file.
_Identity = tuple[int, int]


class _Names:
    """Which files each name may mean. Upper and lower case are the same."""

    def __init__(self, places: Iterable[Place]):
        self.files: dict[_Identity, list[Place]] = {}
        self._full: dict[str, dict[_Identity, list[Place]]] = {}
        self._short: dict[str, dict[_Identity, list[Place]]] = {}
        for place in places:
            identity = _identity(place.path)
            self.files.setdefault(identity, []).append(place)
            for names, index in ((_full(place), self._full), (_short(place), self._short)):
                for name in names:
                    index.setdefault(name.casefold(), {}).setdefault(identity, []).append(place)

    def meant_by(self, name: str) -> dict[_Identity, list[Place]]:
        """A whole name goes before the end of another."""
        return self._full.get(name.casefold()) or self._short.get(name.casefold()) or {}

    def handle(self, identity: _Identity) -> str:
        for place in self.files[identity]:
            # A program's own name is used as it is; a file's is shortened from the front.
            whole = without_ending(place.name)
            for name in (*reversed(_ends(whole)), whole) if whole != place.name else (whole,):
                if self.meant_by(name).keys() == {identity}:
                    return name
        return str(self.files[identity][0].path)


def _full(place: Place) -> set[str]:
    return {place.name, without_ending(place.name)}


def _short(place: Place) -> set[str]:
    names = (*place.short, place.name, without_ending(place.name))
    return {*place.short, *(end for name in names for end in _ends(name))}


def _ends(name: str) -> list[str]:
    """c/d and d of b/c/d."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]


def _identity(path: Path) -> _Identity:
    try:
        status = os.stat(path)
        if status.st_ino:
            return status.st_dev, status.st_ino
    except OSError:  # deleted meanwhile
        pass
    return -1, hash(os.path.realpath(path))  # some file systems have no numbers
