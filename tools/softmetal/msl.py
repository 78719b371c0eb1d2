"""Metal source as C++: what must be rewritten so that clang compiles a kernel for this machine.

Most of Metal is C++ already, and what is not is defined by the headers in ``msl/``. Four things no header can do:
parameters get their values by attributes, explicit instantiations carry the kernel's name in one, function constants
are declared by one, and threadgroup memory is declared like a local variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_INSTANCE = re.compile(
    r'template\s*\[\[\s*host_name\s*\(\s*"([^"]+)"\s*\)\s*\]\]\s*kernel\s+[^;]*?(\w+\s*(?:<[^;()]*>)?)\s*(?:\([^;]*\))?\s*;'
)
_DEFINITION = re.compile(r"\bkernel\s+void\s+(\w+)\s*\(")
_ATTRIBUTE = re.compile(r"\[\[\s*(\w+)\s*(?:\(([^()]*)\))?\s*\]\]")
_CONSTANT = re.compile(r"\bconstant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant\s*\((.*?)\)\s*\]\]\s*;")
_ARRAY = re.compile(r"\bthreadgroup\s+(\w+)\s+(\w+)\s*((?:\[[^\]]*\])+)\s*;")
_UNROLL = re.compile(r"^[ \t]*#\s*pragma\s+(?:clang\s+loop\s+)?unroll.*$", re.MULTILINE)
# Lane 0 alone: in lock-step the other lanes have read by then what it is about to write.
_FIRST_LANE = re.compile(r"\bif\s*\(\s*(tiisg\s*==\s*0)\b")
_TENSOR = re.compile(r"\b(?:mpp\s*::|matmul2d\b)")
# Without a mask its sizes are 0, and kernels divide by them before they look: anything on a GPU, the end of a program here.
_REMAINDER = re.compile(r"\(\s*(\w+)\s*%\s*(args\.\w+)\s*\)")


@dataclass(frozen=True)
class Kernel:
    #: How C++ refers to the function, template arguments included.
    function: str
    #: A C++ expression for each parameter, of its type ``A<i>``.
    arguments: tuple[str, ...]


def names(text: str) -> list[str]:
    """The kernels in a preprocessed source: those a ``host_name`` names, and those that are no templates."""
    return list(_kernels(text))


def tensor_kernels(text: str) -> list[str]:
    """The kernels in a preprocessed source whose body speaks of tensors; all of them where none does.

    A source that has such a kernel and does not show which is no proof for any of its kernels.
    """
    kernels = _kernels(text)
    bodies = {match[1]: _block(text, match.end()) for match in _DEFINITION.finditer(text)}
    using = {function for function, body in bodies.items() if _TENSOR.search(body)}
    return [name for name, kernel in kernels.items() if re.split(r"\W", kernel.function)[0] in using] or list(kernels)


def translate(text: str, name: str) -> str:
    """C++ of a preprocessed source, ending in an exported ``softmetal_kernel`` that runs the kernel called ``name``."""
    kernel = _kernels(text)[name]
    body = _INSTANCE.sub("", text)
    body = _CONSTANT.sub(r"static \1 \2; static softmetal::Register \2__register(\3, sizeof \2, &\2);", body)
    body = _ARRAY.sub(
        r"static const char \2__name = 0; \1 (& \2)\3 = *reinterpret_cast<\1 (*)\3>"
        r"(softmetal::threadgroup_array(&\2__name, sizeof(\1\3)));",
        body,
    )
    body = _UNROLL.sub("", body)
    body = _FIRST_LANE.sub(r"if (softmetal::lockstep() && \1", body)
    body = _REMAINDER.sub(r"(softmetal::remainder(\1, \2))", body)
    body = _without_attributes(body)
    return f'#include "kernel.h"\n{body}\n{_entry(kernel)}'


def _kernels(text: str) -> dict[str, Kernel]:
    definitions = {match[1]: _parameters(text, match.end()) for match in _DEFINITION.finditer(text)}
    instances = {match[1]: match[2].strip() for match in _INSTANCE.finditer(text)}
    templates = {re.split(r"\W", function)[0] for function in instances.values()}
    kernels = {}
    for name, function in instances.items():
        definition = re.split(r"\W", function)[0]
        if definition in definitions:
            kernels[name] = Kernel(function, definitions[definition])
    for name, arguments in definitions.items():
        if name not in templates and not _is_template(text, name):
            kernels[name] = Kernel(name, arguments)
    return kernels


def _is_template(text: str, name: str) -> bool:
    """Whether ``template <…>`` stands in front of the kernel: one that nothing instantiates has no name on the host."""
    return re.search(rf">\s*kernel\s+void\s+{name}\s*\(", text) is not None


def _parameters(text: str, start: int) -> tuple[str, ...]:
    arguments, slot = [], 0
    for index, parameter in enumerate(_split(text, start)):
        attribute = _ATTRIBUTE.search(parameter)
        kind = attribute[1] if attribute else "buffer"
        if kind == "buffer":
            slot = int(attribute[2]) if attribute else slot
            arguments.append(f"softmetal::Argument<A{index}>::from_buffer(buffers[{slot}])")
            slot += 1
        elif kind == "threadgroup" and attribute:
            arguments.append(f"softmetal::Argument<A{index}>::from_buffer(memory[{attribute[2]}])")
        else:
            arguments.append(f"softmetal::as<A{index}>(position.{kind})")
    return tuple(arguments)


def _split(text: str, start: int) -> list[str]:
    """The parameters between a bracket that was opened before ``start`` and the one that closes it."""
    parts, depth, begin = [], 1, start
    for index in range(start, len(text)):
        char = text[index]
        depth += (char in "(<[" and 1) or -(char in ")>]")
        if depth == 0 or (depth == 1 and char == ","):
            parts.append(text[begin:index].strip())
            begin = index + 1
        if depth == 0:
            return parts
    raise ValueError("a parameter list that does not end")


def _block(text: str, start: int) -> str:
    """The next ``{ … }`` after ``start``, brackets included."""
    begin = text.index("{", start)
    depth = 0
    for index in range(begin, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[begin : index + 1]
    raise ValueError("a block that does not end")


def _without_attributes(text: str) -> str:
    return re.sub(r"\[\[\s*(?:threadgroup\s*\(\d+\)|buffer\s*\(\d+\)|\w*(?:thread|simdgroup|grid)\w*)\s*\]\]", "", text)


def _entry(kernel: Kernel) -> str:
    types = "".join(f", class A{index}" for index in range(len(kernel.arguments)))
    parameters = ", ".join(f"A{index}" for index in range(len(kernel.arguments)))
    return f"""
namespace softmetal {{
template <class R{types}> void call(R (* function)({parameters}), void * const * buffers, void * const * memory, const Position & position) {{
    function({", ".join(kernel.arguments)});
}}
static void run(void * const * buffers, void * const * memory, const Position & position) {{
    call(&{kernel.function}, buffers, memory, position);
}}
}}
extern "C" __attribute__((visibility("default"))) const softmetal::Kernel softmetal_kernel = {{ softmetal::run, &softmetal::constants }};
"""
