"""Run as a program by the device: ``kernels.py CLANG WHAT SOURCE RESULT [-DNAME=VALUE]…``.

WHAT is ``names`` (of the kernels in the source), ``tensors`` (of those that a GPU with tensors computes with them),
``compile:NAME`` or ``count:NAME`` (one kernel, as a shared library; ``count`` has it report what it loads). What goes
wrong is printed as one line.
"""

import os
import subprocess
import sys
from pathlib import Path

import msl  # beside this file: a program has no package

HERE = Path(__file__).parent / "msl"
# Where lanes wait must stay one place in the code, by which the device knows that all wait for the same.
_ONE_PLACE = ["-disable-tail-duplicate", "-disable-early-taildup", "-tail-dup-placement=0"]
_OPTIMIZED = ["-O2", "-ffp-contract=off"]
# Every load where the source has one, none merged; and a call with its address in front.
_COUNTED = ["-O1", "-fno-vectorize", "-fno-slp-vectorize", "-DSOFTMETAL_COUNT_LOADS=1"]
_COUNTED += ["-Xclang", "-fsanitize-coverage-trace-loads", "-Xclang", "-fsanitize-coverage-type=1"]


def main(clang: str, what: str, source: str, result: str, *macros: str) -> int:
    cache = str(Path(result).parent / "zig")
    os.environ |= {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    temporary = f"{result}.{os.getpid()}"
    step, _, name = what.partition(":")
    if step == "tensors":
        macros = (*macros, "-DGGML_METAL_HAS_TENSOR=1")  # as upstream's host code defines it for such a GPU
    command = [clang, "c++", "-E", "-P", "-x", "c++", "-D__METAL__=1", "-D__METAL_VERSION__=310", *macros]
    done = subprocess.run([*command, f"-I{HERE / 'stub'}", source], capture_output=True, text=True)
    if done.returncode == 0:
        text = done.stdout
        if step == "names":
            Path(temporary).write_text("\n".join(msl.names(text)) + "\n")
        elif step == "tensors":
            Path(temporary).write_text("\n".join(msl.tensor_kernels(text)) + "\n")
        elif name not in msl.names(text):
            print(f"the library has no kernel {name}")
            return 1
        else:
            cpp = Path(f"{temporary}.cpp")
            cpp.write_text(msl.translate(text, name))
            command = [clang, "c++", "-std=c++17", "-march=native", "-fPIC", "-shared", "-nostdlib", "-w", f"-I{HERE}"]
            command += ["-fno-sanitize=all", "-fno-math-errno", "-Xclang", "-ffloat16-excess-precision=none"]
            command += [word for option in _ONE_PLACE for word in ("-mllvm", option)]
            command += _COUNTED if step == "count" else _OPTIMIZED
            done = subprocess.run([*command, str(cpp), "-o", temporary], capture_output=True, text=True)
            cpp.unlink()
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        print(errors[0] if errors else "the compiler said nothing")
        return 1
    os.replace(temporary, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
