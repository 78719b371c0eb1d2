#ifndef LLAMA_KVSPLIT_H
#define LLAMA_KVSPLIT_H

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

    // What the kvsplit patch series made of this build, as JSON:
    //   {"series": "1", "features": ["kvq-args", ...]}
    // A library without this function carries none of the series.
    // The string is static, do not free it.
    LLAMA_API const char * llama_kvsplit_info(void);

#ifdef __cplusplus
}
#endif

#endif // LLAMA_KVSPLIT_H
