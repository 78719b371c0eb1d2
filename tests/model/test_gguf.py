"""What we say of a GGUF, beside what llama.cpp says of it."""

import importlib.util
import re
from pathlib import Path

import pytest

from llm_kvsplit import gguf, gguf_format
from llm_kvsplit.engine.weights import LoadError, LoadOptions, Weights
from llm_kvsplit.errors import KvsplitError
from tests.support.tiny_gguf import DAMAGED


def test_file_types_are_those_of_the_gguf_package_and_of_llama_h():
    kinds = pytest.importorskip("gguf.constants").LlamaFileType
    ours = gguf_format.FILE_TYPES
    for kind in kinds:
        if kind.name != "GUESSED":
            assert ours[int(kind)] == kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    assert int(kinds.GUESSED) == gguf_format.FILE_TYPE_GUESSED

    package = Path(importlib.util.find_spec("llama_cpp").origin).parent  # to import it, its library would be needed
    stated = re.findall(r"^LLAMA_FTYPE_(?:MOSTLY|ALL)_(\w+) = (\d+)", (package / "llama_cpp.py").read_text(), re.M)
    bindings = {int(number): name for name, number in stated}
    assert len(bindings) > 30 and {number: ours.get(number) for number in bindings} == bindings


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_called_damaged_llama_cpp_refuses_too(tmp_path, name):
    data, words = DAMAGED[name]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    with pytest.raises(KvsplitError) as error:
        gguf.read(path)
    assert words in error.value.message
    with pytest.raises(LoadError):
        Weights(LoadOptions(path))
