#include "llama-kvsplit.h"

#include "llama-kvsplit-info.h"

const char * llama_kvsplit_info(void) {
    return LLAMA_KVSPLIT_INFO;
}
