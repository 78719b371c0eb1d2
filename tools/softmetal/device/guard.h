// Threadgroup memory: filled with not-a-numbers before each threadgroup, since the hardware's holds anything, and
// followed by a pattern that must still be there afterwards.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace softmetal {

class Guarded {
  public:
    Guarded();
    ~Guarded();
    // Lays out the buffers that the encoder asked for; `pointers` gets an address for each size that is not 0.
    void start(const size_t * sizes, int count, void ** pointers);
    // The array that a kernel declares `threadgroup`, known by its address in the kernel.
    void * variable(const void * name, size_t size);
    // Aborts when a kernel wrote behind its memory.
    void check(const std::string & kernel);

  private:
    struct Piece { const void * name; size_t offset, size; };
    char * add(const void * name, size_t size);
    char * memory;
    std::vector<Piece> pieces;
    size_t used = 0;
};

}
