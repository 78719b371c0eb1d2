#include "objc.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

void fail(const char * format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fputs(("softmetal: " + std::string(text) + "\n").c_str(), stderr);  // at once: another thread may fail too
    abort();
}

static thread_local std::vector<id> pool;

extern "C" Class _OBJC_CLASS_NSConstantString;

// Strings in the program, and classes: neither is counted.
bool is_constant(id object) { return object->isa == &_OBJC_CLASS_NSConstantString || object->isa == reinterpret_cast<const Class *>(object); }

id retain(id object) {
    if (object && !is_constant(object)) object->references++;
    return object;
}

void release(id object) {
    if (!object || is_constant(object)) return;
    int left = --object->references;
    if (left < 0) fail("a %s is released once too often", object->isa->name);
    if (left == 0) object->isa->destroy(object);
}

id autorelease(id object) {
    pool.push_back(object);
    return object;
}

extern "C" {

void * objc_autoreleasePoolPush() { return reinterpret_cast<void *>(pool.size()); }

void objc_autoreleasePoolPop(void * mark) {
    while (pool.size() > reinterpret_cast<size_t>(mark)) {
        id object = pool.back();
        pool.pop_back();
        release(object);
    }
}

static long nothing() { return 0; }

static id object_retain(id self, SEL) { return retain(self); }
static void object_release(id self, SEL) { release(self); }
static id object_init(id self, SEL) { return self; }
static id class_make(id self, SEL) {
    auto which = reinterpret_cast<const Class *>(self);
    return which->make(which);
}

IMP objc_msg_lookup(id receiver, SEL selector) {
    if (!receiver) return reinterpret_cast<IMP>(nothing);
    const Class * which = receiver->isa;
    bool to_class = reinterpret_cast<const Class *>(receiver) == which;
    auto & methods = to_class ? which->class_methods : which->instance_methods;
    auto found = methods.find(selector->name);
    if (found != methods.end()) return found->second;
    std::string_view name = selector->name;
    if (to_class && (name == "alloc" || name == "new")) return reinterpret_cast<IMP>(class_make);
    if (name == "retain") return reinterpret_cast<IMP>(object_retain);
    if (name == "release") return reinterpret_cast<IMP>(object_release);
    if (name == "init") return reinterpret_cast<IMP>(object_init);
    fail("%c[%s %s] is not there: ggml uses more of Metal than softmetal has", to_class ? '+' : '-', which->name, selector->name);
}

void __objc_exec_class(void *) {}
void objc_enumerationMutation(id) { fail("a collection changed while it was walked through"); }
void __gnu_objc_personality_v0() { abort(); }

// Blocks. Only plain values and objects are captured by the ones that are kept.
int _NSConcreteStackBlock[32], _NSConcreteGlobalBlock[32];
enum { BLOCK_HAS_COPY_DISPOSE = 1 << 25, BLOCK_IS_GLOBAL = 1 << 28, FIELD_IS_OBJECT = 3 };

struct BlockDescriptor {
    unsigned long reserved, size;
    void (*copy)(void *, const void *);
    void (*dispose)(const void *);
};
struct BlockLayout : Block {
    BlockDescriptor * descriptor;
};

void * _Block_copy(const void * block) {
    auto from = static_cast<const BlockLayout *>(block);
    if (from->flags & BLOCK_IS_GLOBAL) return const_cast<void *>(block);
    void * to = malloc(from->descriptor->size);
    memcpy(to, block, from->descriptor->size);
    if (from->flags & BLOCK_HAS_COPY_DISPOSE) from->descriptor->copy(to, block);
    return to;
}

void _Block_release(const void * block) {
    auto layout = static_cast<const BlockLayout *>(block);
    if (!block || layout->flags & BLOCK_IS_GLOBAL) return;
    if (layout->flags & BLOCK_HAS_COPY_DISPOSE) layout->descriptor->dispose(block);
    free(const_cast<void *>(block));
}

void _Block_object_assign(void * target, const void * object, int flags) {
    if ((flags & 15) == FIELD_IS_OBJECT) retain(static_cast<id>(const_cast<void *>(object)));
    *static_cast<const void **>(target) = object;
}

void _Block_object_dispose(const void * object, int flags) {
    if ((flags & 15) == FIELD_IS_OBJECT) release(static_cast<id>(const_cast<void *>(object)));
}

// libdispatch, with one worker: the calling thread.
void * dispatch_queue_create(const char *, void *) { return nullptr; }
void * dispatch_get_global_queue(long, unsigned long) { return nullptr; }
void * dispatch_group_create() { return nullptr; }
void dispatch_group_async(void *, void *, Block * block) { reinterpret_cast<void (*)(Block *)>(block->code)(block); }
long dispatch_group_wait(void *, uint64_t) { return 0; }
void dispatch_apply(size_t count, void *, Block * block) {
    for (size_t i = 0; i < count; i++) reinterpret_cast<void (*)(Block *, size_t)>(block->code)(block, i);
}
void * dispatch_semaphore_create(long) { return nullptr; }
long dispatch_semaphore_wait(void *, uint64_t) { return 0; }
long dispatch_semaphore_signal(void *) { return 0; }
void dispatch_release(void *) {}
}
