"""Functions of kvsplit-patch, the companion, that the plugin calls: by entry point, since it imports nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from .errors import KvsplitError


def function(name: str) -> Callable[..., Any]:
    """The companion's function ``name`` of the entry point group ``llm_kvsplit``. Raises KvsplitError where it is absent."""
    for entry in entry_points(group="llm_kvsplit", name=name):
        try:
            return entry.load()
        except (ImportError, AttributeError) as failure:
            raise KvsplitError(f"kvsplit-patch cannot be imported ({failure}): install llm-kvsplit again.") from failure
    raise KvsplitError("This installation of llm-kvsplit has lost its entry points: install it again.")
