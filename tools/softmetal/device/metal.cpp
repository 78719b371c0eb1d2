// The Metal that ggml's host code talks to. A command buffer runs when it is committed, in the calling thread.
#include "engine.h"
#include "foundation.h"
#include "library.h"
#include "report.h"

#include <cstring>
#include <functional>
#include <sys/sysinfo.h>

using namespace softmetal;
using Unsigned = unsigned long;

extern "C" {
extern Class _OBJC_CLASS_SMDevice, _OBJC_CLASS_SMQueue, _OBJC_CLASS_SMBuffer, _OBJC_CLASS_SMLibrary, _OBJC_CLASS_SMFunction;
extern Class _OBJC_CLASS_SMPipeline, _OBJC_CLASS_SMCommandBuffer, _OBJC_CLASS_SMEncoder, _OBJC_CLASS_SMBlit, _OBJC_CLASS_SMEvent;
}

struct Size { Unsigned width, height, depth; };
struct Range { Unsigned location, length; };

namespace {

struct Device : Object {};
struct Queue : Object {};
struct Options : Object { Macros macros; };
struct Values : Object { std::map<int, long> values; };
struct Event : Object { uint64_t value = 0; };

struct Buffer : Object {
    char * data = nullptr;
    size_t size = 0;
    bool owned = false;
    ~Buffer();
};

struct Library : Object {
    std::string source;
    Macros macros;
    std::vector<std::string> names;
};

struct Function : Object {
    std::string name;
    const Kernel * kernel = nullptr;
    std::map<int, long> constants;
};

struct Pipeline : Object {
    std::string name;
    const Kernel * kernel = nullptr;
    std::map<int, long> constants;
};

struct CommandBuffer : Object {
    std::vector<std::function<void()>> commands;
    std::vector<Block *> handlers;
    bool committed = false;
};

struct Encoder : Object {
    CommandBuffer * owner = nullptr;
    bool concurrent = false;
    Dispatch next;
    std::vector<Dispatch> since_barrier;

    void flush() {
        if (since_barrier.empty()) return;
        owner->commands.push_back([dispatches = std::move(since_barrier), concurrent = concurrent]() mutable { execute(dispatches, concurrent); });
        since_barrier.clear();
    }
};

struct Blit : Object { CommandBuffer * owner = nullptr; };

std::atomic<size_t> allocated { 0 };

Buffer::~Buffer() {
    allocated -= size;
    if (owned) free(data);
}


id new_buffer(void * data, size_t size, bool owned) {
    auto made = make<Buffer>(_OBJC_CLASS_SMBuffer);
    made->data = static_cast<char *>(data);
    made->size = size;
    made->owned = owned;
    allocated += size;
    return made;
}

id new_owned_buffer(size_t size) {
    void * data = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    memset(data, 0xff, size);  // private memory holds anything at first
    return new_buffer(data, size, true);
}

id new_function(Library * library, const std::string & name, Values * values, id * error) {
    std::string said;
    const Kernel * kernel = compile_kernel(library->source, library->macros, name, said);
    if (!kernel) {
        set_error(error, said);
        fprintf(stderr, "softmetal: %s does not compile: %s\n", name.c_str(), said.c_str());
        return nullptr;
    }
    auto made = make<Function>(_OBJC_CLASS_SMFunction);
    made->name = name;
    made->kernel = kernel;
    if (values) made->constants = values->values;
    return made;
}

id new_encoder(CommandBuffer * owner, bool concurrent) {
    auto made = make<Encoder>(_OBJC_CLASS_SMEncoder);
    made->owner = owner;
    made->concurrent = concurrent;
    return autorelease(made);
}

id new_command_buffer(Queue *, SEL) { return autorelease(make<CommandBuffer>(_OBJC_CLASS_SMCommandBuffer)); }

}

SOFTMETAL_CLASS(SMDevice, Device, {
    METHOD("name", (Device *, SEL) -> id { return autorelease(new_string(getenv("SOFTMETAL_NAME") ? getenv("SOFTMETAL_NAME") : "softmetal")); }),
    // An M1 unless told otherwise: the family decides which tuned kernels are chosen.
    METHOD("supportsFamily:", (Device *, SEL, long family) -> bool {
        int apple = getenv("SOFTMETAL_FAMILY") ? atoi(getenv("SOFTMETAL_FAMILY")) : 7;
        return (family >= 1001 && family <= 1000 + apple) || family == 5001;
    }),
    METHOD("hasUnifiedMemory", (Device *, SEL) -> bool { return true; }),
    METHOD("maxBufferLength", (Device *, SEL) -> Unsigned { return Unsigned(1) << 40; }),
    METHOD("maxThreadgroupMemoryLength", (Device *, SEL) -> Unsigned { return THREADGROUP_MEMORY; }),
    METHOD("currentAllocatedSize", (Device *, SEL) -> Unsigned { return allocated; }),
    METHOD("recommendedMaxWorkingSetSize", (Device *, SEL) -> Unsigned {
        struct sysinfo info;
        sysinfo(&info);
        return info.totalram * info.mem_unit / 4 * 3;
    }),
    METHOD("newCommandQueue", (Device *, SEL) -> id { return make<Queue>(_OBJC_CLASS_SMQueue); }),
    METHOD("newSharedEvent", (Device *, SEL) -> id { return make<Event>(_OBJC_CLASS_SMEvent); }),
    METHOD("newBufferWithLength:options:", (Device *, SEL, Unsigned size, Unsigned) -> id { return new_owned_buffer(size); }),
    METHOD("newBufferWithBytes:length:options:", (Device *, SEL, const void * bytes, Unsigned size, Unsigned) -> id {
        auto made = static_cast<Buffer *>(new_owned_buffer(size));
        memcpy(made->data, bytes, size);
        return made;
    }),
    METHOD("newBufferWithBytesNoCopy:length:options:deallocator:", (Device *, SEL, void * bytes, Unsigned size, Unsigned, void *) -> id {
        return new_buffer(bytes, size, false);
    }),
    METHOD("newLibraryWithSource:options:error:", (Device *, SEL, id source, Options * options, id * error) -> id {
        auto made = make<Library>(_OBJC_CLASS_SMLibrary);
        made->source = with_fault(text_of(source));
        if (options) made->macros = options->macros;
        std::string said;
        if (!kernel_names(made->source, made->macros, made->names, said)) {
            set_error(error, said);
            release(made);
            return nullptr;
        }
        std::vector<std::string> tensors;
        if (!tensor_kernels(made->source, made->macros, tensors, said)) {
            set_error(error, said);
            release(made);
            return nullptr;
        }
        report_library(made->source.size(), made->names.size(), tensors);
        return made;
    }),
    METHOD("newComputePipelineStateWithFunction:error:", (Device *, SEL, Function * function, id *) -> id {
        auto made = make<Pipeline>(_OBJC_CLASS_SMPipeline);
        made->name = function->name;
        made->kernel = function->kernel;
        made->constants = function->constants;
        return made;
    }),
});

SOFTMETAL_CLASS(SMQueue, Queue, {
    { "commandBuffer", reinterpret_cast<IMP>(new_command_buffer) },
    { "commandBufferWithUnretainedReferences", reinterpret_cast<IMP>(new_command_buffer) },
});

SOFTMETAL_CLASS(SMBuffer, Buffer, {
    METHOD("contents", (Buffer * self, SEL) -> void * { return self->data; }),
});

SOFTMETAL_CLASS(SMEvent, Event, {
    METHOD("waitUntilSignaledValue:timeoutMS:", (Event * self, SEL, uint64_t value, uint64_t) -> bool { return self->value >= value; }),
});

SOFTMETAL_CLASS(SMLibrary, Library, {
    METHOD("functionNames", (Library * self, SEL) -> id {
        std::vector<id> names;
        for (auto & name : self->names) names.push_back(new_string(name));
        return autorelease(new_array(names));
    }),
    METHOD("newFunctionWithName:", (Library * self, SEL, id name) -> id { return new_function(self, text_of(name), nullptr, nullptr); }),
    METHOD("newFunctionWithName:constantValues:error:", (Library * self, SEL, id name, Values * values, id * error) -> id {
        return new_function(self, text_of(name), values, error);
    }),
});

SOFTMETAL_CLASS(SMFunction, Function, {});

SOFTMETAL_CLASS(SMPipeline, Pipeline, {
    METHOD("maxTotalThreadsPerThreadgroup", (Pipeline *, SEL) -> Unsigned { return 1024; }),
    METHOD("threadExecutionWidth", (Pipeline *, SEL) -> Unsigned { return WIDTH; }),
});

SOFTMETAL_CLASS(MTLFunctionConstantValues, Values, {
    METHOD("setConstantValue:type:atIndex:", (Values * self, SEL, const void * value, Unsigned type, Unsigned index) -> void {
        long & place = self->values[int(index)];
        switch (type) {
            case 29: place = *static_cast<const int *>(value); break;
            case 37: place = *static_cast<const short *>(value); break;
            case 53: place = *static_cast<const bool *>(value); break;
            default: fail("a function constant of type %lu", type);
        }
    }),
});

SOFTMETAL_CLASS(MTLCompileOptions, Options, {
    METHOD("setPreprocessorMacros:", (Options * self, SEL, Dictionary * macros) -> void {
        for (auto & [name, value] : macros->items) self->macros[name] = text_of(value);
    }),
    METHOD("setLanguageVersion:", (Options *, SEL, Unsigned) -> void {}),
});

SOFTMETAL_CLASS(SMCommandBuffer, CommandBuffer, {
    METHOD("enqueue", (CommandBuffer *, SEL) -> void {}),
    METHOD("commit", (CommandBuffer * self, SEL) -> void {
        for (auto & command : self->commands) command();
        self->commands.clear();
        self->committed = true;
        for (Block * handler : self->handlers) reinterpret_cast<void (*)(Block *, id)>(handler->code)(handler, self);
    }),
    METHOD("waitUntilCompleted", (CommandBuffer * self, SEL) -> void {
        if (!self->committed) fail("somebody waits for a command buffer that was never committed");
    }),
    METHOD("status", (CommandBuffer * self, SEL) -> Unsigned { return self->committed ? 4 : 0; }),
    METHOD("error", (CommandBuffer *, SEL) -> id { return nullptr; }),
    METHOD("addCompletedHandler:", (CommandBuffer * self, SEL, Block * handler) -> void { self->handlers.push_back(handler); }),
    METHOD("computeCommandEncoder", (CommandBuffer * self, SEL) -> id { return new_encoder(self, false); }),
    METHOD("computeCommandEncoderWithDispatchType:", (CommandBuffer * self, SEL, Unsigned type) -> id { return new_encoder(self, type == 1); }),
    METHOD("blitCommandEncoder", (CommandBuffer * self, SEL) -> id {
        auto made = make<Blit>(_OBJC_CLASS_SMBlit);
        made->owner = self;
        return autorelease(made);
    }),
    METHOD("encodeSignalEvent:value:", (CommandBuffer * self, SEL, Event * event, uint64_t value) -> void {
        self->commands.push_back([=] { event->value = value; });
    }),
    METHOD("encodeWaitForEvent:value:", (CommandBuffer * self, SEL, Event * event, uint64_t value) -> void {
        self->commands.push_back([=] { if (event->value < value) fail("a command buffer waits for an event that comes later"); });
    }),
});

SOFTMETAL_CLASS(SMEncoder, Encoder, {
    METHOD("setComputePipelineState:", (Encoder * self, SEL, Pipeline * pipeline) -> void {
        self->next.kernel = pipeline->kernel;
        self->next.name = pipeline->name;
        self->next.constants = pipeline->constants;
    }),
    METHOD("setBytes:length:atIndex:", (Encoder * self, SEL, const char * bytes, Unsigned size, Unsigned index) -> void {
        self->next.bytes[index].assign(bytes, bytes + size);
    }),
    METHOD("setBuffer:offset:atIndex:", (Encoder * self, SEL, Buffer * buffer, Unsigned offset, Unsigned index) -> void {
        self->next.bytes[index].clear();
        self->next.slots[index] = buffer ? Slot { buffer->data + offset, buffer->data + buffer->size, buffer } : Slot {};
    }),
    METHOD("setThreadgroupMemoryLength:atIndex:", (Encoder * self, SEL, Unsigned size, Unsigned index) -> void {
        if (size > THREADGROUP_MEMORY) fail("%s asks for %lu bytes of threadgroup memory", self->next.name.c_str(), size);
        self->next.threadgroup_memory[index] = size;
    }),
    METHOD("dispatchThreadgroups:threadsPerThreadgroup:", (Encoder * self, SEL, Size groups, Size threads) -> void {
        self->next.groups = { unsigned(groups.width), unsigned(groups.height), unsigned(groups.depth) };
        self->next.threads = { unsigned(threads.width), unsigned(threads.height), unsigned(threads.depth) };
        Unsigned count = threads.width * threads.height * threads.depth;
        if (count == 0 || count > 1024) fail("%s is dispatched with %lu threads in a threadgroup", self->next.name.c_str(), count);
        self->since_barrier.push_back(self->next);
    }),
    METHOD("memoryBarrierWithScope:", (Encoder * self, SEL, Unsigned) -> void { self->flush(); }),
    METHOD("endEncoding", (Encoder * self, SEL) -> void { self->flush(); }),
    METHOD("pushDebugGroup:", (Encoder *, SEL, id) -> void {}),
    METHOD("popDebugGroup", (Encoder *, SEL) -> void {}),
});

SOFTMETAL_CLASS(SMBlit, Blit, {
    METHOD("endEncoding", (Blit *, SEL) -> void {}),
    METHOD("fillBuffer:range:value:", (Blit * self, SEL, Buffer * buffer, Range range, unsigned char value) -> void {
        self->owner->commands.push_back([=] { memset(buffer->data + range.location, value, range.length); });
    }),
    METHOD("copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:",
           (Blit * self, SEL, Buffer * from, Unsigned from_offset, Buffer * to, Unsigned to_offset, Unsigned size) -> void {
        self->owner->commands.push_back([=] { memmove(to->data + to_offset, from->data + from_offset, size); });
    }),
});

// Named by code that does not run here.
SOFTMETAL_CLASS(MTLCaptureManager, Nothing, {});
SOFTMETAL_CLASS(MTLCaptureDescriptor, Nothing, {});

extern "C" id MTLCreateSystemDefaultDevice() { return make<Device>(_OBJC_CLASS_SMDevice); }
