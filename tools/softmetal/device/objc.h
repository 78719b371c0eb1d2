// As much of an Objective-C runtime as ggml's two .m files need, in the form that clang calls ObjFW's: a message is
// looked up with objc_msg_lookup() and called like a C function with the receiver and the selector in front.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

struct Class;

// Every object starts with these, but for a constant string (@"…"), which the compiler lays out.
struct Object {
    const Class * isa;
    std::atomic<int> references { 1 };
};

using id = Object *;
using IMP = void (*)();

struct Selector {
    const char * name;
    const char * types;
};
using SEL = const Selector *;

struct Method {
    const char * selector;
    IMP code;
};

// A class is an object too; its isa points to itself, which is how a message to it is told from one to an instance.
struct Class {
    const Class * isa;
    const char * name;
    id (*make)(const Class *);
    void (*destroy)(id);
    std::map<std::string_view, IMP> instance_methods;
    std::map<std::string_view, IMP> class_methods;
};

template <class T> Class make_class(const Class * self, const char * name, std::initializer_list<Method> instance_methods,
                                    std::initializer_list<Method> class_methods = {}) {
    Class made { self, name,
        [](const Class * which) -> id { T * object = new T; object->isa = which; return object; },
        [](id object) { delete static_cast<T *>(object); }, {}, {} };
    for (const Method & method : instance_methods) made.instance_methods[method.selector] = method.code;
    for (const Method & method : class_methods) made.class_methods[method.selector] = method.code;
    return made;
}

// Defines the symbols that the compiler refers to a class by.
#define SOFTMETAL_CLASS(name, type, ...)                          \
    extern "C" { extern Class _OBJC_CLASS_##name; int64_t __objc_class_name_##name; } \
    Class _OBJC_CLASS_##name = make_class<type>(&_OBJC_CLASS_##name, #name, __VA_ARGS__)

// A method as a lambda without captures: METHOD("selector:", (Type * self, SEL, id argument) -> id { … })
#define METHOD(selector, ...) Method { selector, reinterpret_cast<IMP>(+[] __VA_ARGS__) }

template <class T> T * make(const Class & which) {
    T * object = new T;
    object->isa = &which;
    return object;
}

bool is_constant(id object);
id retain(id object);
void release(id object);
id autorelease(id object);

// A block, as the compiler lays it out: called with itself as its first argument.
struct Block {
    void * isa;
    int flags, reserved;
    void (*code)(Block *, ...);
};

[[noreturn]] void fail(const char * format, ...) __attribute__((format(printf, 1, 2)));
