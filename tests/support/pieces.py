"""Work for the child processes of tools/benchmarks/work.py."""

import os
import time
from typing import Any


def work(piece: Any) -> dict[str, Any]:
    if piece == "dies":
        os._exit(7)
    if piece == "hangs":
        time.sleep(600)
    return {"process": os.getpid()}
