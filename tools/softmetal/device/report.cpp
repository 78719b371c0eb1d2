#include "report.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

namespace softmetal {
namespace {

struct Counts {
    long dispatches = 0, threadgroups = 0;
    long loaded[SLOTS] = {};     // bytes, as often as they are loaded
    long distinct[SLOTS] = {};   // bytes, once for each dispatch: what a cache that is large enough reads from memory
};

struct Touched { char * begin; char * end; int slot; long loaded; std::vector<bool> bytes; };

std::mutex mutex;
std::map<std::string, Counts> kernels;
long libraries = 0, source_bytes = 0, functions = 0;
std::set<std::string> tensor_kernels;
std::vector<Touched> touched;   // of the dispatch that runs

void write() {
    FILE * file = fopen(getenv("SOFTMETAL_REPORT"), "w");
    if (!file) return;
    fprintf(file, "{\"libraries\": %ld, \"source_bytes\": %ld, \"functions\": %ld, \"tensor_kernels\": [", libraries, source_bytes, functions);
    const char * before = "";
    for (const std::string & name : tensor_kernels) {
        fprintf(file, "%s\"%s\"", before, name.c_str());
        before = ", ";
    }
    fprintf(file, "], \"kernels\": {");
    before = "";
    for (const auto & [name, counts] : kernels) {
        fprintf(file, "%s\n \"%s\": {\"dispatches\": %ld, \"threadgroups\": %ld", before, name.c_str(), counts.dispatches,
                counts.threadgroups);
        for (auto [title, values] : { std::pair { "loaded", counts.loaded }, std::pair { "distinct", counts.distinct } }) {
            fprintf(file, ", \"%s\": [", title);
            for (int i = 0; i < SLOTS; i++) fprintf(file, "%s%ld", i ? ", " : "", values[i]);
            fprintf(file, "]");
        }
        fprintf(file, "}");
        before = ",";
    }
    fprintf(file, "\n}}\n");
    fclose(file);
}

void write_at_exit() {
    static const bool registered = getenv("SOFTMETAL_REPORT") && (atexit(write), true);
    (void) registered;
}

}

void report_start(const Dispatch & dispatch) {
    if (!counts_loads()) return;
    touched.clear();
    for (int i = 0; i < SLOTS; i++) {
        const Slot & slot = dispatch.slots[i];
        if (slot.pointer && dispatch.bytes[i].empty()) touched.push_back({ slot.pointer, slot.end, i, 0, {} });
    }
    // A buffer often holds several tensors: each slot ends where the next begins. The first of two equal ones counts.
    std::stable_sort(touched.begin(), touched.end(), [](const Touched & a, const Touched & b) { return a.begin < b.begin; });
    touched.erase(std::unique(touched.begin(), touched.end(), [](const Touched & a, const Touched & b) { return a.begin == b.begin; }), touched.end());
    for (size_t i = 0; i + 1 < touched.size(); i++) touched[i].end = std::min(touched[i].end, touched[i + 1].begin);
    for (Touched & piece : touched) piece.bytes.assign(piece.end - piece.begin, false);
}

void report_load(const void * address, unsigned size) {
    auto at = static_cast<const char *>(address);
    for (Touched & piece : touched) {
        if (at < piece.begin || at >= piece.end) continue;
        auto start = piece.bytes.begin() + (at - piece.begin);
        std::fill(start, start + std::min<long>(size, piece.end - at), true);
        piece.loaded += size;
        return;
    }
}

void report_end(const Dispatch & dispatch) {
    std::lock_guard<std::mutex> hold(mutex);
    write_at_exit();
    Counts & mine = kernels[dispatch.name];
    mine.dispatches++;
    mine.threadgroups += long(dispatch.groups.x) * dispatch.groups.y * dispatch.groups.z;
    for (const Touched & piece : touched) {
        mine.loaded[piece.slot] += piece.loaded;
        mine.distinct[piece.slot] += std::count(piece.bytes.begin(), piece.bytes.end(), true);
    }
    touched.clear();
}

void report_library(size_t bytes, size_t count, const std::vector<std::string> & tensors) {
    std::lock_guard<std::mutex> hold(mutex);
    write_at_exit();
    libraries++;
    source_bytes += long(bytes);
    functions += long(count);
    tensor_kernels.insert(tensors.begin(), tensors.end());
}

}
