// Executes dispatches of compiled kernels, and says what they did.
#pragma once

#include "lane.h"

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace softmetal {

constexpr int SLOTS = 31;
constexpr size_t THREADGROUP_MEMORY = 32768;

struct Slot {
    char * pointer = nullptr;
    char * end = nullptr;            // of the buffer it points into
    const void * buffer = nullptr;
};

// One dispatchThreadgroups: with everything that was set before it.
struct Dispatch {
    const Kernel * kernel = nullptr;
    std::string name;
    std::map<int, long> constants;   // function constants, by index
    Slot slots[SLOTS];
    std::vector<char> bytes[SLOTS];  // of setBytes:, which win over a buffer in the same slot
    size_t threadgroup_memory[SLOTS] = {};
    Uint3 groups {}, threads {};
};

// Runs the dispatches in order, or backwards: nothing orders those between two memory barriers.
void execute(std::vector<Dispatch> & between_barriers, bool concurrent);

// Whether kernels are to be compiled so that they report what they load: SOFTMETAL_COUNT_LOADS=1.
bool counts_loads();

}
