#include "guard.h"
#include "objc.h"

#include <cstdlib>
#include <cstring>

namespace softmetal {

constexpr size_t SPACE = 1 << 18, GAP = 1024;
constexpr unsigned char PATTERN = 0xa5, GARBAGE = 0xff;

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
        if (written) fail("%s writes %zu bytes behind its %zu bytes of threadgroup memory", kernel.c_str(), written, piece.size);
    }
}

}
