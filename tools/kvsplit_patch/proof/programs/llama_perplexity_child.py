"""Run as a program: ``… FOLDER ARGUMENT…`` is that folder's llama-perplexity, with all of its output.

Upstream's own ``main()`` returns while another thread still prints, and on a busy machine the last lines, the very
statistics that are wanted, are lost (llama.cpp#22142). So its ``llama_perplexity()`` is called from here, and the log
drained before the process ends.
"""

import ctypes
import sys
from pathlib import Path


def library(folder: Path, name: str) -> ctypes.CDLL:
    file = next((file for file in folder.iterdir() if file.stem == f"lib{name}"), None)
    if file is None:
        sys.exit(f"there is no lib{name} in {folder}: build the tools anew")
    return ctypes.CDLL(str(file))


def main(folder: str, *arguments: str) -> int:
    common = library(Path(folder), "llama-common")
    perplexity = library(Path(folder), "llama-perplexity-impl")
    # C++ names of: common_log * common_log_main(); void common_log_flush(common_log *);
    # int llama_perplexity(int, char **)
    common._Z15common_log_mainv.restype = ctypes.c_void_p
    words = [b"llama-perplexity", *map(str.encode, arguments)]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    code = perplexity._Z16llama_perplexityiPPc(len(words), argv)
    common._Z16common_log_flushP10common_log(ctypes.c_void_p(common._Z15common_log_mainv()))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
