#include "ggml-metal-fa-mixed-libs.h"

#include "ggml-impl.h"

#include <cstdio>
#include <mutex>
#include <string>
#include <unordered_map>

const char * ggml_metal_fa_mixed_types(const ggml_tensor * op, char * buf, size_t size) {
    const ggml_type type_k = op->src[1]->type;
    const ggml_type type_v = op->src[2]->type;

    if (type_k == type_v) {
        return ggml_type_name(type_k);
    }

    snprintf(buf, size, "%s_%s", ggml_type_name(type_k), ggml_type_name(type_v));

    return buf;
}

struct ggml_metal_fa_mixed_libs {
    std::mutex mutex;

    std::unordered_map<std::string, ggml_metal_library_t> data;
};

ggml_metal_fa_mixed_libs_t ggml_metal_fa_mixed_libs_init(void) {
    return new ggml_metal_fa_mixed_libs();
}

void ggml_metal_fa_mixed_libs_free(ggml_metal_fa_mixed_libs_t libs) {
    if (!libs) {
        return;
    }

    for (auto & it : libs->data) {
        ggml_metal_library_free(it.second);
    }

    delete libs;
}

#if GGML_METAL_EMBED_LIBRARY

extern "C" const char ggml_metallib_fa_mixed_start[];
extern "C" const char ggml_metallib_fa_mixed_end[];

bool ggml_metal_fa_mixed_has_kernels(void) {
    return true;
}

static std::string ggml_metal_fa_mixed_source(const char * name, const ggml_metal_fa_mixed_kernel & kernel) {
    std::string res;

    auto define = [&](const char * macro, const std::string & value) {
        res += std::string("#define ") + macro + " " + value + "\n";
    };

    define("GGML_METAL_EMBED_LIBRARY", "1");

    define("FA_NAME", name);
    define("FA_K",    ggml_type_name(kernel.type_k));
    define("FA_V",    ggml_type_name(kernel.type_v));
    define("FA_DK",   std::to_string(kernel.dk));
    define("FA_DV",   std::to_string(kernel.dv));
    define("FA_Q",    std::to_string(kernel.q));
    define("FA_NE",   std::to_string(kernel.ne));

    res.append(ggml_metallib_fa_mixed_start, ggml_metallib_fa_mixed_end);

    return res;
}

ggml_metal_library_t ggml_metal_fa_mixed_libs_get(
        ggml_metal_fa_mixed_libs_t libs,
        ggml_metal_device_t dev,
        const char * name,
        ggml_metal_fa_mixed_kernel kernel) {
    std::lock_guard<std::mutex> lock(libs->mutex);

    auto it = libs->data.find(name);
    if (it != libs->data.end()) {
        return it->second;
    }

    const std::string source = ggml_metal_fa_mixed_source(name, kernel);

    ggml_metal_library_t res = ggml_metal_library_init_from_source(dev, source.c_str(), false);
    if (!res) {
        // once more, to log the error
        GGML_LOG_ERROR("%s: failed to compile '%s'\n", __func__, name);
        res = ggml_metal_library_init_from_source(dev, source.c_str(), true);
    }

    libs->data[name] = res;

    return res;
}

#else

bool ggml_metal_fa_mixed_has_kernels(void) {
    return false;
}

ggml_metal_library_t ggml_metal_fa_mixed_libs_get(ggml_metal_fa_mixed_libs_t, ggml_metal_device_t, const char *, ggml_metal_fa_mixed_kernel) {
    return nullptr;
}

#endif // GGML_METAL_EMBED_LIBRARY
