"""What we say of a GGUF, beside what llama.cpp says of it."""

import pytest

from llm_kvsplit import gguf, gguf_format
from llm_kvsplit.engine import library
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

    bindings = {
        getattr(library.load(), name): name.removeprefix("LLAMA_FTYPE_MOSTLY_").removeprefix("LLAMA_FTYPE_ALL_")
        for name in dir(library.load())
        if name.startswith(("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"))
    }
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
