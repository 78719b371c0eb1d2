// Runs the threads of one threadgroup as fibers of the calling thread.
//
// A thread runs until it waits: at a simd operation for the others of its simdgroup, at a threadgroup barrier for all.
// Between two waits the lanes of a simdgroup run one after another, and the simdgroups one after another, which is an
// order the hardware might have chosen: what one writes and another reads without a barrier between them goes wrong
// here every time in one of the two orders, forwards and backwards.
#pragma once

#include "lane.h"

#include <functional>
#include <vector>

namespace softmetal {

// Tells a new lane who it is, and where kernels get the rest from; by the engine.
void prepare_lane(Lane & lane, unsigned index);

// What makes a group of fibers wait in the other order: SOFTMETAL_REVERSE=1.
bool reversed();

class Fibers {
  public:
    Fibers();
    ~Fibers();
    // Runs `body` once for each of `count` threads; each finds itself with lane(). Reports by fail() when the lanes of
    // a simdgroup wait at different places, which is undefined on the hardware.
    void run(unsigned count, const std::function<void(Lane &)> & body, const char * name);
    Lane & lane(unsigned index);

    void wait(Lane * lane, const void * place, bool threadgroup);

  private:
    struct Group;
    void prepare(unsigned count);
    void finish(Lane * lane);
    Lane * after(Group & group);
    [[noreturn]] void live(Lane * lane);
    static void enter();

    std::vector<Group *> groups;
    std::vector<Lane *> lanes;
    Lane outside {};
    unsigned group_count = 0;
    const std::function<void(Lane &)> * body = nullptr;
    const char * name = "";
};

}
