// Metal source to machine code: each kernel becomes a shared library, made once and kept by its content.
#pragma once

#include "lane.h"

#include <map>
#include <string>
#include <vector>

namespace softmetal {

using Macros = std::map<std::string, std::string>;

// The source with a fault in it, for tests of whether it is noticed: SOFTMETAL_FAULT is a file with what stands there, a
// line of "=====", and what is to stand there instead. A source that does not hold the first stays as it is.
std::string with_fault(std::string source);

// The names of the kernels in a source. Returns false, and the compiler's first error, when it does not preprocess.
bool kernel_names(const std::string & source, const Macros & macros, std::vector<std::string> & names, std::string & error);

// The names of the kernels in a source that are computed with tensors (Metal 4) on a GPU that has them. They are not run
// here: this device has none, so that upstream's host code chooses other kernels. Returns false, and the compiler's first
// error, when it does not preprocess.
bool tensor_kernels(const std::string & source, const Macros & macros, std::vector<std::string> & names, std::string & error);

// The kernel called `name`; null and the compiler's first error when it cannot be compiled.
const Kernel * compile_kernel(const std::string & source, const Macros & macros, const std::string & name, std::string & error);

}
