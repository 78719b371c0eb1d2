#pragma once

#include "llama.h"

// KV cache types that differ by layer [TAG_KV_LAYERS]
//
// A dozen classes pass one type for K and one for V down to llama_kv_cache. So that none of them has to change, the types
// by layer wait in the thread that makes the context, and llama_kv_cache asks for them here.

struct llama_kv_layer_types {
    ggml_type k;
    ggml_type v;
};

// the types of a layer in a cache that is being made: its own, or type_k and type_v where it has none
llama_kv_layer_types llama_kv_layers_types(uint32_t il, ggml_type type_k, ggml_type type_v);

// whether the context that is being made has types by layer
bool llama_kv_layers_active();

// one for each context that is made: takes what llama_kvsplit_set_layers() left, whatever becomes of the context
class llama_kv_layers_scope {
  public:
    llama_kv_layers_scope();
    ~llama_kv_layers_scope();

    llama_kv_layers_scope(const llama_kv_layers_scope &)             = delete;
    llama_kv_layers_scope & operator=(const llama_kv_layers_scope &) = delete;

    // false, with the reason in the log, if the context cannot be made. Enables flash attention where a V type needs it
    bool check(const llama_model * model, llama_context_params & params);

  private:
    bool checked = false;
};
