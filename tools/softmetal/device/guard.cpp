#include "guard.h"
#include "objc.h"
#include "report.h"

#include <cstdlib>
#include <cstring>
#include <regex>

namespace softmetal {

constexpr size_t SPACE = 1 << 18, GAP = 1024;
constexpr unsigned char PATTERN = 0xa5, GARBAGE = 0xff;

// Kernels of upstream's that are known to write behind the memory that upstream's host code gives them. The vector
// kernel zeroes its result for all 32 lanes although a head may have fewer elements (fa_vec_common.metal:134): zeros,
// before the first barrier. Pairs of types are ours, and must not.
static const std::regex KNOWN("kernel_flash_attn_ext_vec_(f32|f16|bf16|q[458]_[01])_dk[0-9]+_dv[0-9]+(_q[0-9]_ne[0-9])?");
constexpr size_t KNOWN_SIZE = 384;

Guarded::Guarded() : memory(static_cast<char *>(aligned_alloc(4096, SPACE))) {}
Guarded::~Guarded() { free(memory); }

char * Guarded::add(const void * name, size_t size) {
    if (used + size + GAP > SPACE) fail("a threadgroup asks for %zu bytes of memory more", size);
    char * start = memory + used;
    memset(start, GARBAGE, size);
    memset(start + size, PATTERN, GAP);
    pieces.push_back({ name, used, size });
    used += (size + GAP + 63) / 64 * 64;
    return start;
}

void Guarded::start(const size_t * sizes, int count, void ** pointers) {
    pieces.clear();
    used = 0;
    for (int i = 0; i < count; i++) pointers[i] = sizes[i] ? add(nullptr, sizes[i]) : nullptr;
}

void * Guarded::variable(const void * name, size_t size) {
    for (const Piece & piece : pieces) {
        if (piece.name == name) return memory + piece.offset;
    }
    return add(name, size);
}

void Guarded::check(const std::string & kernel) {
    for (const Piece & piece : pieces) {
        auto behind = reinterpret_cast<const unsigned char *>(memory + piece.offset + piece.size);
        size_t written = GAP;
        while (written && behind[written - 1] == PATTERN) written--;
        if (!written) continue;
        bool zeros = true;
        for (size_t i = 0; i < written; i++) zeros &= behind[i] == 0 || behind[i] == PATTERN;
        if (!zeros || written > KNOWN_SIZE || !std::regex_match(kernel, KNOWN)) {
            fail("%s writes %zu bytes behind its %zu bytes of threadgroup memory", kernel.c_str(), written, piece.size);
        }
        report_overrun(kernel, written);
    }
}

}
