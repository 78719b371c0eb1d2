#pragma once

#include "ggml.h"

#include <cstdio>
#include <cstdlib>
#include <string>

// The type that ggml calls so. Ends the program where there is none.
static inline ggml_type type_of(const std::string & name) {
    for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
        const char * its = ggml_type_name((ggml_type) type);
        if (its && name == its) {
            return (ggml_type) type;
        }
    }
    fprintf(stderr, "there is no type %s\n", name.c_str());
    exit(1);
}
