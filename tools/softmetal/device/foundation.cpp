#include "foundation.h"

#include <algorithm>
#include <cstring>

// As the compiler lays it out; it is never made or counted here.
struct ConstantString { const Class * isa; const char * text; unsigned size; };

struct FastEnumeration {
    unsigned long state;
    id * items;
    unsigned long * mutations;
    unsigned long extra[5];
};

Array::~Array() { for (id item : items) release(item); }
Dictionary::~Dictionary() { for (auto & item : items) release(item.second); }

extern "C" { extern Class _OBJC_CLASS_NSString, _OBJC_CLASS_NSMutableArray, _OBJC_CLASS_NSMutableDictionary, _OBJC_CLASS_NSError; }

static id string_description(id self, SEL) { return self; }

static const char * string_utf8(id self, SEL) {
    return is_constant(self) ? reinterpret_cast<ConstantString *>(self)->text : static_cast<String *>(self)->text.c_str();
}

std::string text_of(id string) { return string ? string_utf8(string, nullptr) : ""; }

id new_string(std::string text) {
    auto made = make<String>(_OBJC_CLASS_NSString);
    made->text = std::move(text);
    return made;
}

id new_array(std::vector<id> items) {
    auto made = make<Array>(_OBJC_CLASS_NSMutableArray);
    made->items = std::move(items);
    return made;
}

void set_error(id * error, std::string text) {
    if (!error) return;
    auto made = make<Error>(_OBJC_CLASS_NSError);
    made->text = std::move(text);
    *error = autorelease(made);
}

static bool string_contains(id self, SEL, id other) { return text_of(self).find(text_of(other)) != std::string::npos; }
static bool string_equals(id self, SEL, id other) { return text_of(self) == text_of(other); }
static bool string_has_prefix(id self, SEL, id other) { return text_of(self).rfind(text_of(other), 0) == 0; }
static unsigned long string_length(id self, SEL) { return text_of(self).size(); }

static const std::initializer_list<Method> string_methods = {
    { "UTF8String", reinterpret_cast<IMP>(string_utf8) },
    { "description", reinterpret_cast<IMP>(string_description) },
    { "length", reinterpret_cast<IMP>(string_length) },
    { "containsString:", reinterpret_cast<IMP>(string_contains) },
    { "isEqualToString:", reinterpret_cast<IMP>(string_equals) },
    { "hasPrefix:", reinterpret_cast<IMP>(string_has_prefix) },
    METHOD("initWithBytes:length:encoding:", (String * self, SEL, const char * bytes, unsigned long size, unsigned long) -> id {
        self->text.assign(bytes, size);
        return self;
    }),
};

SOFTMETAL_CLASS(NSConstantString, String, string_methods);
SOFTMETAL_CLASS(NSString, String, string_methods, {
    METHOD("stringWithUTF8String:", (const Class *, SEL, const char * text) -> id { return autorelease(new_string(text)); }),
    METHOD("stringWithCString:encoding:", (const Class *, SEL, const char * text, unsigned long) -> id {
        return autorelease(new_string(text));
    }),
});

SOFTMETAL_CLASS(NSNumber, Number, {
    METHOD("intValue", (Number * self, SEL) -> int { return self->value; }),
    METHOD("stringValue", (Number * self, SEL) -> id { return autorelease(new_string(std::to_string(self->value))); }),
}, {
    METHOD("numberWithInt:", (const Class * which, SEL, int value) -> id {
        auto made = make<Number>(*which);
        made->value = value;
        return autorelease(made);
    }),
});

SOFTMETAL_CLASS(NSLock, Lock, {
    METHOD("lock", (Lock * self, SEL) -> void { self->mutex.lock(); }),
    METHOD("unlock", (Lock * self, SEL) -> void { self->mutex.unlock(); }),
});

SOFTMETAL_CLASS(NSError, Error, {
    METHOD("description", (Error * self, SEL) -> id { return autorelease(new_string(self->text)); }),
    METHOD("localizedDescription", (Error * self, SEL) -> id { return autorelease(new_string(self->text)); }),
});

SOFTMETAL_CLASS(NSMutableArray, Array, {
    METHOD("count", (Array * self, SEL) -> unsigned long { return self->items.size(); }),
    METHOD("addObject:", (Array * self, SEL, id item) -> void { self->items.push_back(retain(item)); }),
    METHOD("objectAtIndexedSubscript:", (Array * self, SEL, unsigned long i) -> id { return self->items.at(i); }),
    METHOD("removeObject:", (Array * self, SEL, id item) -> void {
        auto found = std::find(self->items.begin(), self->items.end(), item);
        if (found != self->items.end()) {
            self->items.erase(found);
            release(item);
        }
    }),
    METHOD("removeAllObjects", (Array * self, SEL) -> void {
        for (id item : self->items) release(item);
        self->items.clear();
    }),
    METHOD("countByEnumeratingWithState:objects:count:", (Array * self, SEL, FastEnumeration * walk, id *, unsigned long) -> unsigned long {
        static unsigned long unchanged = 0;
        walk->mutations = &unchanged;
        walk->items = self->items.data();
        return walk->state++ == 0 ? self->items.size() : 0;
    }),
});

static id dictionary_get(Dictionary * self, SEL, id key) {
    auto found = self->items.find(text_of(key));
    return found == self->items.end() ? nullptr : found->second;
}

static void dictionary_set(Dictionary * self, SEL, id value, id key) {
    id & place = self->items[text_of(key)];
    id old = place;
    place = retain(value);
    release(old);
}

SOFTMETAL_CLASS(NSMutableDictionary, Dictionary, {
    { "objectForKey:", reinterpret_cast<IMP>(dictionary_get) },
    { "objectForKeyedSubscript:", reinterpret_cast<IMP>(dictionary_get) },
    { "setObject:forKey:", reinterpret_cast<IMP>(dictionary_set) },
    { "setObject:forKeyedSubscript:", reinterpret_cast<IMP>(dictionary_set) },
}, {
    METHOD("dictionary", (const Class * which, SEL) -> id { return autorelease(make<Dictionary>(*which)); }),
});

// Named by code that does not run here: capturing a trace needs GGML_METAL_CAPTURE_COMPUTE.
SOFTMETAL_CLASS(NSURL, Nothing, {});
