#include "fibers.h"
#include "objc.h"
#include <algorithm>

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

extern "C" void softmetal_switch(void ** save, void * load);

namespace softmetal {

struct Fibers::Group : Simdgroup {
    unsigned order;         // among the simdgroups that run
    unsigned count;         // lanes that have not returned
    unsigned left;          // a bit for each of them; `live` holds those that took part in the last wait
    Lane * first;           // that runs next, of those
    bool at_barrier;
    const void * place;     // where the first of this round waits
};

// What lies at the start of a stack: the part that kernels know, and ours.
struct Home : Lane {
    Fibers * fibers;
    Home * previous;
};

bool reversed() {
    static const bool set = getenv("SOFTMETAL_REVERSE") && atoi(getenv("SOFTMETAL_REVERSE"));
    return set;
}

Fibers::Fibers() = default;

Fibers::~Fibers() {
    for (Lane * lane : lanes) munmap(lane, STACK);
    for (Group * group : groups) delete group;
}

Lane & Fibers::lane(unsigned index) {
    while (lanes.size() <= index) {
        // Twice the size, to cut one that is aligned out of it.
        auto space = static_cast<char *>(mmap(nullptr, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (space == MAP_FAILED) fail("no memory for the stacks of %u threads", index + 1);
        char * stack = reinterpret_cast<char *>((reinterpret_cast<size_t>(space) + STACK - 1) & ~(STACK - 1));
        if (stack > space) munmap(space, stack - space);
        if (stack < space + STACK) munmap(stack + STACK, space + STACK - stack);
        mprotect(stack + 4096, 4096, PROT_NONE);  // a thread that needs more stack dies here, and not in another's
        auto home = new (stack) Home {};
        home->fibers = this;
        home->wait = [](Lane * lane, const void * place, bool threadgroup) { static_cast<Home *>(lane)->fibers->wait(lane, place, threadgroup); };
        // A frame that softmetal_switch() returns from, into enter().
        void ** top = reinterpret_cast<void **>(stack + STACK) - 32;
        memset(top, 0, 32 * sizeof(void *));
#if defined(__x86_64__)
        top[6] = reinterpret_cast<void *>(enter);
#else
        top[11] = reinterpret_cast<void *>(enter);
#endif
        home->stack_pointer = top;
        prepare_lane(*home, lanes.size());
        lanes.push_back(home);
    }
    return *lanes[index];
}

void Fibers::enter() {
    auto stack = reinterpret_cast<size_t>(__builtin_frame_address(0)) & ~(STACK - 1);
    auto home = reinterpret_cast<Home *>(stack);
    home->fibers->live(home);
}

void Fibers::live(Lane * lane) {
    for (;;) {
        (*body)(*lane);
        finish(lane);
    }
}

void Fibers::prepare(unsigned count) {
    group_count = (count + WIDTH - 1) / WIDTH;
    while (groups.size() < group_count) groups.push_back(new Group {});
    for (unsigned g = 0; g < group_count; g++) {
        Group & group = *groups[g];
        unsigned from = g * WIDTH, size = std::min(count - from, unsigned(WIDTH));
        group.order = reversed() ? group_count - 1 - g : g;
        group.count = size;
        group.live = group.left = size == 32 ? ~0u : (1u << size) - 1;
        group.at_barrier = false;
        for (unsigned i = 0; i < size; i++) {
            auto home = static_cast<Home *>(&lane(from + i));
            unsigned next = reversed() ? (i + size - 1) % size : (i + 1) % size;
            home->simdgroup = &group;
            home->next = &lane(from + next);
            static_cast<Home *>(home->next)->previous = home;
            home->index = i;
            home->parity = 0;
        }
        group.first = &lane(reversed() ? from + size - 1 : from);
    }
}

void Fibers::run(unsigned count, const std::function<void(Lane &)> & what, const char * kernel) {
    body = &what;
    name = kernel;
    prepare(count);
    Group & start = *groups[reversed() ? group_count - 1 : 0];
    softmetal_switch(&outside.stack_pointer, start.first->stack_pointer);
}

void Fibers::wait(Lane * lane, const void * place, bool threadgroup) {
    auto & group = *static_cast<Group *>(lane->simdgroup);
    if (lane == group.first) {
        group.place = place;
        group.at_barrier = threadgroup;
    } else if (group.place != place) {
        fail("%s: lanes of one simdgroup wait at different places", name);
    }
    Lane * next = lane->next;
    if (next == group.first) {
        group.live = group.left;
        if (threadgroup) next = after(group);
    }
    if (next != lane) softmetal_switch(&lane->stack_pointer, next->stack_pointer);
}

// Who runs once all lanes of `group` are at the barrier or have returned: the next simdgroup, or round again.
Lane * Fibers::after(Group & group) {
    for (unsigned turn = 1; turn <= group_count; turn++) {
        unsigned order = group.order + turn;
        if (order == group_count) order = 0; else if (order > group_count) order -= group_count;
        Group & other = *groups[reversed() ? group_count - 1 - order : order];
        if (other.count) return other.first;
    }
    return &outside;
}

void Fibers::finish(Lane * lane) {
    auto home = static_cast<Home *>(lane);
    auto & group = *static_cast<Group *>(lane->simdgroup);
    Lane * next = lane->next;
    bool last = next == group.first;
    group.count--;
    group.left &= ~(1u << lane->index);
    if (last) group.live = group.left;
    home->previous->next = next;
    static_cast<Home *>(next)->previous = home->previous;
    if (group.count == 0) {
        next = after(group);
    } else if (lane == group.first) {
        group.first = next;
    } else if (last && group.at_barrier) {
        next = after(group);
    }
    softmetal_switch(&lane->stack_pointer, next->stack_pointer);
}

}
