"""Which models a person registered, with their defaults: one JSON file.

``load`` runs on every ``llm`` invocation, so this module imports nothing but the standard library until
something is written.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import files
from .errors import KvsplitError
from .paths import registry_file

#: The bundled model: always there, not in the file.
DEMO = "kvsplit-demo"


@dataclass(frozen=True)
class Entry:
    """A registered model; None where the person set no default."""

    name: str
    path: Path
    aliases: tuple[str, ...] = ()
    kv_key_bits: int | None = None
    kv_value_bits: int | None = None
    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    #: Of the (first) file, known for downloads.
    sha256: str | None = None
    #: The address it was downloaded from.
    source: str | None = None
    #: It gives vectors of texts, and writes none.
    embeds: bool = False
    #: A layer map as ``kvtypes.LayerMap`` reads it.
    kv_layers: str | None = None
    #: Other machines as ``endpoints.parse`` reads them.
    rpc: str | None = None
    #: The projector through which it takes attachments, and their kinds (``media.py``).
    mmproj: Path | None = None
    media: tuple[str, ...] = ()


def load() -> dict[str, Entry]:
    """All models by name, the bundled one first.

    Raises KvsplitError when the file is not what this module writes; it is left as it is.
    """
    return bundled() | _read(registry_file())


def bundled() -> dict[str, Entry]:
    """The model that comes with the package."""
    from .demo import MODEL

    return {DEMO: Entry(DEMO, MODEL)}


def get(name: str) -> Entry | None:
    """The model of that name or alias."""
    return next((entry for entry in load().values() if name == entry.name or name in entry.aliases), None)


def no_projector(entry: Entry) -> KvsplitError:
    """Why a model takes no attachments."""
    return KvsplitError(
        f"{entry.name} has no projector (mmproj), so it takes no attachments: register it anew with "
        f"'llm kvsplit add {entry.path} --mmproj FILE', if one was published with it."
    )


def add(entry: Entry) -> None:
    """Raises KvsplitError when a name or alias cannot be one, or is another model's."""
    for name in (entry.name, *entry.aliases):
        check_name(name)

    def change(entries: dict[str, Entry]) -> None:
        check_free((entry.name, *entry.aliases), entries)
        entries[entry.name] = entry

    _update(change)


def remove(name: str) -> Entry:
    """Forget the model of that name or alias and return it; its file stays.

    Raises KvsplitError for a name that is not registered, and for the bundled model.
    """
    if name == DEMO:
        raise KvsplitError(f"{DEMO} comes with llm-kvsplit and cannot be removed.")
    removed = []

    def change(entries: dict[str, Entry]) -> None:
        entry = next((e for e in entries.values() if name == e.name or name in e.aliases), None)
        if entry is None:
            raise KvsplitError(f"No model is called {name}: 'llm kvsplit models' lists them.")
        removed.append(entries.pop(entry.name))

    _update(change)
    return removed[0]


def set_layers(name: str, kv_layers: str) -> None:
    """Store a layer map with the model of that name. Raises KvsplitError for one that is not registered."""

    def change(entries: dict[str, Entry]) -> None:
        if name not in entries:
            raise KvsplitError(f"No model is called {name}: 'llm kvsplit models' lists them.")
        entries[name] = replace(entries[name], kv_layers=kv_layers)

    _update(change)


def check_name(name: str) -> None:
    """Raises KvsplitError for what could not be given to ``llm -m``."""
    if not name or name.startswith("-") or any(c.isspace() or not c.isprintable() for c in name):
        raise KvsplitError(f"{name!r} cannot be a model's name: use letters, digits and marks, without spaces.")


def check_free(names: tuple[str, ...], entries: dict[str, Entry] | None = None) -> None:
    """Raises KvsplitError when a registered model has one of these names or aliases, or one occurs twice."""
    taken = {DEMO: DEMO}
    for entry in (load() if entries is None else entries).values():
        taken |= dict.fromkeys((entry.name, *entry.aliases), entry.name)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise KvsplitError(f"{name} is given twice: name each alias once, and none like the model.")
        if name in taken:
            raise KvsplitError(
                f"A model called {name} is already registered: choose another name with --name, "
                f"or remove it first with 'llm kvsplit remove {taken[name]}'."
            )


def _read(file: Path) -> dict[str, Entry]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise KvsplitError(f"The list of models {file} cannot be read ({error}): repair it or move it away.") from error
    try:
        return {name: _entry(name, fields) for name, fields in json.loads(text)["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KvsplitError(
            f"The list of models {file} is not what llm-kvsplit writes ({error}): repair it or move it away."
        ) from error


def _entry(name: str, fields: dict) -> Entry:
    # Fields that this version does not know are a later version's: do not lose the model over them.
    known = {key: value for key, value in fields.items() if key in Entry.__dataclass_fields__ and value is not None}
    kinds = {
        "path": str,
        "aliases": list,
        "kv_layers": str,
        "rpc": str,
        "sha256": str,
        "source": str,
        "embeds": bool,
        "mmproj": str,
        "media": list,
    }
    for key, value in known.items():
        if type(value) is not kinds.get(key, int):
            raise TypeError(f"{key} of {name} is {value!r}")
    lists = {key: known.pop(key, []) for key in ("aliases", "media")}
    for key, values in lists.items():
        if not all(isinstance(value, str) for value in values):
            raise TypeError(f"{key} of {name} are {values!r}")
        known[key] = tuple(values)
    mmproj = known.pop("mmproj", None)
    return Entry(name, Path(known.pop("path")), mmproj=mmproj and Path(mmproj), **known)


def _fields(entry: Entry) -> dict:
    fields = {key: value for key, value in asdict(entry).items() if value not in (None, False) and key != "name"}
    return {key: str(value) if isinstance(value, Path) else value for key, value in fields.items() if value != ()}


def _update(change: Callable[[dict[str, Entry]], None]) -> None:
    """Read, change and replace the file, so that of two processes at it neither loses its change."""
    from filelock import FileLock, Timeout

    file = Path(os.path.realpath(registry_file()))  # a link, to a dotfiles folder say, stays one
    try:
        with FileLock(f"{file}.lock", timeout=30):
            entries = _read(file)
            change(entries)
            text = json.dumps({"models": {name: _fields(entry) for name, entry in entries.items()}}, indent=2) + "\n"
            files.write_whole(file, text)
    except Timeout:
        raise KvsplitError(f"Another process has held {file}.lock for 30 seconds: end it, then try again.") from None
    except OSError as error:
        raise KvsplitError(f"The list of models {file} cannot be written ({error}): check its folder.") from error
