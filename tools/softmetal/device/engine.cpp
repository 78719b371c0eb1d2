#include "engine.h"
#include "fibers.h"
#include "guard.h"
#include "objc.h"
#include "report.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

namespace softmetal {

bool counts_loads() {
    static const bool set = getenv("SOFTMETAL_COUNT_LOADS") && atoi(getenv("SOFTMETAL_COUNT_LOADS"));
    return set;
}

namespace {

// Everything that one thread of the host needs to run threadgroups.
struct Worker {
    Fibers fibers;
    Guarded memory;

    void run(Dispatch & dispatch, unsigned index);
};

thread_local Worker * current = nullptr;

void place(Position & position, const Dispatch & dispatch, Uint3 group, unsigned index) {
    Uint3 threads = dispatch.threads, groups = dispatch.groups;
    Uint3 in_group { index % threads.x, index / threads.x % threads.y, index / (threads.x * threads.y) };
    unsigned count = threads.x * threads.y * threads.z;
    position = {
        group, groups, threads, in_group,
        { group.x * threads.x + in_group.x, group.y * threads.y + in_group.y, group.z * threads.z + in_group.z },
        { groups.x * threads.x, groups.y * threads.y, groups.z * threads.z },
        index, index % WIDTH, index / WIDTH, (count + WIDTH - 1) / WIDTH,
    };
}

void Worker::run(Dispatch & dispatch, unsigned index) {
    Uint3 groups = dispatch.groups;
    Uint3 group { index % groups.x, index / groups.x % groups.y, index / (groups.x * groups.y) };
    void * buffers[SLOTS];
    void * threadgroup[SLOTS];
    for (int i = 0; i < SLOTS; i++) {
        buffers[i] = dispatch.bytes[i].empty() ? dispatch.slots[i].pointer : dispatch.bytes[i].data();
    }
    memory.start(dispatch.threadgroup_memory, SLOTS, threadgroup);
    current = this;
    fibers.run(dispatch.threads.x * dispatch.threads.y * dispatch.threads.z, [&](Lane & lane) {
        place(lane.position, dispatch, group, lane.position.thread_index_in_threadgroup);
        dispatch.kernel->run(buffers, threadgroup, lane.position);
    }, dispatch.name.c_str());
    current = nullptr;
    memory.check(dispatch.name);
}

// The host's threads. They live as long as the process, which ends without waiting for them.
class Crew {
  public:
    Crew() {
        unsigned count = counts_loads() ? 1 : std::max(1u, std::thread::hardware_concurrency());
        if (const char * set = getenv("SOFTMETAL_THREADS")) count = std::max(1, atoi(set));
        for (unsigned i = 1; i < count; i++) std::thread([this] { help(); }).detach();
    }

    void run(Dispatch & next) {
        unsigned count = next.groups.x * next.groups.y * next.groups.z;
        {
            std::lock_guard<std::mutex> hold(mutex);
            dispatch = &next;
            total = count;
            taken = 0;
            done = 0;
        }
        if (count > 1) woken.notify_all();
        take(own);
        std::unique_lock<std::mutex> hold(mutex);
        finished.wait(hold, [&] { return done == total && busy == 0; });
        dispatch = nullptr;
    }

  private:
    void take(Worker & worker) {
        for (;;) {
            unsigned index = taken++;
            if (index >= total) return;
            worker.run(*dispatch, reversed() ? total - 1 - index : index);
            done++;
        }
    }

    void help() {
        auto worker = new Worker;
        std::unique_lock<std::mutex> hold(mutex);
        for (;;) {
            woken.wait(hold, [&] { return dispatch && taken < total; });
            busy++;
            hold.unlock();
            take(*worker);
            hold.lock();
            busy--;
            finished.notify_all();
        }
    }

    std::mutex mutex;
    std::condition_variable woken, finished;
    Dispatch * dispatch = nullptr;
    std::atomic<unsigned> taken { 0 }, done { 0 };
    unsigned total = 0;
    int busy = 0;
    Worker & own = *new Worker;
};

void * threadgroup_variable(Lane *, const void * variable, unsigned long size) { return current->memory.variable(variable, size); }

}

void prepare_lane(Lane & lane, unsigned index) {
    lane.position.thread_index_in_threadgroup = index;
    lane.threadgroup_memory = threadgroup_variable;
    lane.loaded = [](Lane *, const void * address, unsigned size) { report_load(address, size); };
}

static void run(Dispatch & dispatch) {
    static Crew & crew = *new Crew;
    for (Constant * constant = *dispatch.kernel->constants; constant; constant = constant->next) {
        auto found = dispatch.constants.find(constant->index);
        long value = found == dispatch.constants.end() ? 0 : found->second;
        switch (constant->size) {
            case 1: *static_cast<char *>(constant->value) = char(value); break;
            case 2: *static_cast<short *>(constant->value) = short(value); break;
            case 4: *static_cast<int *>(constant->value) = int(value); break;
            default: fail("%s: a function constant of %d bytes", dispatch.name.c_str(), constant->size);
        }
    }
    report_start(dispatch);
    crew.run(dispatch);
    report_end(dispatch);
}

void execute(std::vector<Dispatch> & dispatches, bool concurrent) {
    if (concurrent && reversed()) {
        for (auto dispatch = dispatches.rbegin(); dispatch != dispatches.rend(); ++dispatch) run(*dispatch);
    } else {
        for (Dispatch & dispatch : dispatches) run(dispatch);
    }
    dispatches.clear();
}

}
