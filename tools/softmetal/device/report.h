// Counts, for each kernel, what was done; written as JSON to the file in SOFTMETAL_REPORT when the process ends.
#pragma once

#include "engine.h"

namespace softmetal {

void report_start(const Dispatch & dispatch);
void report_load(const void * address, unsigned size);
void report_end(const Dispatch & dispatch);
// A library was made from source, with that many kernels in it; `tensors` are those that a GPU with tensors has of it.
void report_library(size_t bytes, size_t kernels, const std::vector<std::string> & tensors);

}
