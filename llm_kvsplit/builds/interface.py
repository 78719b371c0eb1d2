"""What the plugin uses of llama.cpp: the one list of it, and what a library's definitions lack of it.

Types and signatures are spelt as ``definitions.py`` says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from ..kvtypes import TYPES
from .definitions import Definitions, Field, Struct, split


def _rows(cache_type: str) -> dict[str, str]:
    """The functions that turn values into blocks of a type, as the cache stores them, and back."""
    return {
        f"dequantize_row_{cache_type}": "void(void*, float32*, int64)",
        f"quantize_row_{cache_type}_ref": "void(float32*, void*, int64)",
    }


FUNCTIONS = {
    "ggml_backend_dev_count": "uint64()",
    "ggml_backend_dev_description": "char*(ggml_backend_device*)",
    "ggml_backend_dev_get": "ggml_backend_device*(uint64)",
    "ggml_backend_dev_memory": "void(ggml_backend_device*, uint64*, uint64*)",
    "ggml_backend_dev_name": "char*(ggml_backend_device*)",
    "ggml_backend_dev_type": "enum32(ggml_backend_device*)",
    "ggml_backend_load_all_from_path": "void(char*)",
    "ggml_backend_reg_dev_count": "uint64(ggml_backend_reg*)",
    "ggml_backend_reg_dev_get": "ggml_backend_device*(ggml_backend_reg*, uint64)",
    "ggml_backend_tensor_get": "void(ggml_tensor*, void*, uint64, uint64)",
    "ggml_backend_tensor_set": "void(ggml_tensor*, void*, uint64, uint64)",
    "ggml_get_name": "char*(ggml_tensor*)",
    "ggml_nbytes": "uint64(ggml_tensor*)",
    "llama_backend_init": "void()",
    "llama_batch_free": "void(llama_batch)",
    "llama_batch_get_one": "llama_batch(int32*, int32)",
    "llama_batch_init": "llama_batch(int32, int32, int32)",
    "llama_context_default_params": "llama_context_params()",
    "llama_decode": "int32(llama_context*, llama_batch)",
    "llama_free": "void(llama_context*)",
    "llama_get_embeddings_seq": "float32*(llama_context*, int32)",
    "llama_get_logits": "float32*(llama_context*)",
    "llama_get_memory": "llama_memory_i*(llama_context*)",
    "llama_init_from_model": "llama_context*(llama_model*, llama_context_params)",
    "llama_log_set": "void(ggml_log_callback, void*)",
    "llama_memory_clear": "void(llama_memory_i*, bool)",
    "llama_memory_seq_pos_max": "int32(llama_memory_i*, int32)",
    "llama_memory_seq_pos_min": "int32(llama_memory_i*, int32)",
    "llama_memory_seq_rm": "bool(llama_memory_i*, int32, int32, int32)",
    "llama_model_chat_template": "char*(llama_model*, char*)",
    "llama_model_default_params": "llama_model_params()",
    "llama_model_free": "void(llama_model*)",
    "llama_model_get_vocab": "llama_vocab*(llama_model*)",
    "llama_model_is_hybrid": "bool(llama_model*)",
    "llama_model_is_recurrent": "bool(llama_model*)",
    "llama_model_load_from_file": "llama_model*(char*, llama_model_params)",
    "llama_model_n_ctx_train": "int32(llama_model*)",
    "llama_model_n_embd_out": "int32(llama_model*)",
    "llama_model_n_swa": "int32(llama_model*)",
    "llama_model_quantize": "uint32(char*, char*, llama_model_quantize_params*)",
    "llama_model_quantize_default_params": "llama_model_quantize_params()",
    "llama_model_size": "uint64(llama_model*)",
    "llama_n_batch": "uint32(llama_context*)",
    "llama_n_ctx": "uint32(llama_context*)",
    "llama_pooling_type": "enum32(llama_context*)",
    "llama_sampler_chain_add": "void(llama_sampler*, llama_sampler*)",
    "llama_sampler_chain_default_params": "llama_sampler_chain_params()",
    "llama_sampler_chain_init": "llama_sampler*(llama_sampler_chain_params)",
    "llama_sampler_free": "void(llama_sampler*)",
    "llama_sampler_init_dist": "llama_sampler*(uint32)",
    "llama_sampler_init_greedy": "llama_sampler*()",
    "llama_sampler_init_min_p": "llama_sampler*(float32, uint64)",
    "llama_sampler_init_penalties": "llama_sampler*(int32, int32, float32, float32, float32)",
    "llama_sampler_init_temp": "llama_sampler*(float32)",
    "llama_sampler_init_top_k": "llama_sampler*(int32)",
    "llama_sampler_init_top_p": "llama_sampler*(float32, uint64)",
    "llama_sampler_sample": "int32(llama_sampler*, llama_context*, int32)",
    "llama_set_abort_callback": "void(llama_context*, ggml_abort_callback, void*)",
    "llama_state_seq_get_data": "uint64(llama_context*, uint8*, uint64, int32)",
    "llama_state_seq_get_size": "uint64(llama_context*, int32)",
    "llama_state_seq_set_data": "uint64(llama_context*, uint8*, uint64, int32)",
    "llama_synchronize": "void(llama_context*)",
    "llama_token_to_piece": "int32(llama_vocab*, int32, char*, int32, int32, bool)",
    "llama_tokenize": "int32(llama_vocab*, char*, int32, int32*, int32, bool, bool)",
    "llama_vocab_bos": "int32(llama_vocab*)",
    "llama_vocab_eos": "int32(llama_vocab*)",
    "llama_vocab_get_add_bos": "bool(llama_vocab*)",
    "llama_vocab_get_attr": "enum32(llama_vocab*, int32)",
    "llama_vocab_is_eog": "bool(llama_vocab*, int32)",
    "llama_vocab_n_tokens": "int32(llama_vocab*)",
    "llama_vocab_sep": "int32(llama_vocab*)",
    # From a header of ggml's own, for the types of the cache that are quantized.
    **{name: kind for each in TYPES if each.block > 1 and not each.feature for name, kind in _rows(each.name).items()},
}
#: Only the patch series has them, but for two of RPC's, which are of use with the others.
OPTIONAL = {
    "ggml_backend_rpc_add_server": "ggml_backend_reg*(char*)",
    "ggml_backend_rpc_get_status": "enum32(char*)",
    "ggml_backend_rpc_set_abort_callback": "void(ggml_abort_callback, void*)",
    "ggml_backend_rpc_start_server": "void(char*, char*, uint64, uint64, ggml_backend_device**)",
    "llama_kvsplit_info": "char*()",
    "llama_kvsplit_set_layers": "char*(llama_model*, enum32*, enum32*, int32)",
    "llama_kvsplit_type_4_bits": "enum32()",
    **{name: kind for each in TYPES if each.feature for name, kind in _rows(each.name).items()},
    # Blocks as a cache of the series stores them; their scale is searched.
    "quantize_row_kv_iq4_nl_ref": "void(float32*, void*, int64)",
    "quantize_row_kv_q5_0_ref": "void(float32*, void*, int64)",
}
CALLBACKS = {
    "ggml_abort_callback": "bool(void*)",
    "ggml_backend_sched_eval_callback": "bool(ggml_tensor*, bool, void*)",
    "ggml_log_callback": "void(enum32, char*, void*)",
    "llama_progress_callback": "bool(float32, void*)",
}
#: The fields that are read or set, of the structures that are passed by value.
FIELDS = {
    "llama_batch": {
        "n_tokens": "int32",
        "token": "int32*",
        "pos": "int32*",
        "n_seq_id": "int32*",
        "seq_id": "int32**",
        "logits": "int8*",
    },
    "llama_context_params": {
        "n_ctx": "uint32",
        "n_batch": "uint32",
        "n_ubatch": "uint32",
        "n_seq_max": "uint32",
        "n_threads": "int32",
        "n_threads_batch": "int32",
        "pooling_type": "enum32",
        "flash_attn_type": "enum32",
        "cb_eval": "ggml_backend_sched_eval_callback",
        "type_k": "enum32",
        "type_v": "enum32",
        "embeddings": "bool",
        "swa_full": "bool",
        "kv_unified": "bool",
    },
    "llama_model_params": {
        "devices": "ggml_backend_device**",
        "n_gpu_layers": "int32",
        "load_mode": "enum32",
        "progress_callback": "llama_progress_callback",
        "use_extra_bufts": "bool",
        "no_alloc": "bool",
    },
    "llama_model_quantize_params": {"ftype": "enum32"},
    "llama_sampler_chain_params": {},
}
#: What is used of libmtmd, which reads pictures and sound. Its headers call it experimental, so a library without it, or
#: with another one, serves for text all the same.
MEDIA_FUNCTIONS = {
    "mtmd_bitmap_free": "void(mtmd_bitmap*)",
    "mtmd_bitmap_get_nx": "uint32(mtmd_bitmap*)",
    "mtmd_context_params_default": "mtmd_context_params()",
    "mtmd_decode_use_non_causal": "bool(mtmd_context*, mtmd_input_chunk*)",
    "mtmd_encode_chunk": "int32(mtmd_context*, mtmd_input_chunk*)",
    "mtmd_free": "void(mtmd_context*)",
    "mtmd_get_output_embd": "float32*(mtmd_context*)",
    "mtmd_helper_bitmap_init_from_buf": (
        "mtmd_helper_bitmap_wrapper(mtmd_context*, uint8*, uint64, bool, mtmd_helper_init_opt)"
    ),
    "mtmd_helper_decode_image_chunk": (
        "int32(mtmd_context*, llama_context*, mtmd_input_chunk*, float32*, int32, int32, int32, int32*, void*, void*)"
    ),
    "mtmd_helper_init_opt_default": "mtmd_helper_init_opt()",
    "mtmd_helper_log_set": "void(ggml_log_callback, void*)",
    "mtmd_init_from_file": "mtmd_context*(char*, llama_model*, mtmd_context_params)",
    "mtmd_input_chunk_get_id": "char*(mtmd_input_chunk*)",
    "mtmd_input_chunk_get_n_pos": "int32(mtmd_input_chunk*)",
    "mtmd_input_chunk_get_n_tokens": "uint64(mtmd_input_chunk*)",
    "mtmd_input_chunk_get_tokens_text": "int32*(mtmd_input_chunk*, uint64*)",
    "mtmd_input_chunk_get_type": "enum32(mtmd_input_chunk*)",
    "mtmd_input_chunks_free": "void(mtmd_input_chunks*)",
    "mtmd_input_chunks_get": "mtmd_input_chunk*(mtmd_input_chunks*, uint64)",
    "mtmd_input_chunks_init": "mtmd_input_chunks*()",
    "mtmd_input_chunks_size": "uint64(mtmd_input_chunks*)",
    "mtmd_tokenize_from_parts": "int32(mtmd_context*, mtmd_input_chunks*, mtmd_input_part**, uint64, bool)",
}
#: Those that others hold stand after what they hold.
MEDIA_FIELDS = {
    "mtmd_context_params": {
        "use_gpu": "bool",
        "print_timings": "bool",
        "n_threads": "int32",
        "flash_attn_type": "enum32",
    },
    "mtmd_helper_video_init_params": {
        "fps_target": "float32",
        "ffmpeg_bin_dir": "char*",
        "timestamp_interval_ms": "int64",
    },
    "mtmd_helper_init_opt": {"video_params": "mtmd_helper_video_init_params"},
    "mtmd_helper_bitmap_wrapper": {"bitmap": "mtmd_bitmap*", "video_ctx": "mtmd_helper_video*"},
    "mtmd_input_text": {"text": "char*", "text_len": "uint64", "add_special": "bool", "parse_special": "bool"},
    "mtmd_input_part": {"text": "mtmd_input_text*", "bitmap": "mtmd_bitmap*"},
}
MEDIA_CONSTANTS = {"MTMD_INPUT_CHUNK_TYPE_TEXT": 0}
#: Constants by what the plugin's own code takes them for; None: asked of the definitions, whatever it is.
CONSTANTS = {
    "GGML_BACKEND_DEVICE_TYPE_ACCEL": 3,
    "GGML_BACKEND_DEVICE_TYPE_CPU": 0,
    "GGML_BACKEND_DEVICE_TYPE_GPU": 1,
    "GGML_BACKEND_DEVICE_TYPE_IGPU": 2,
    "GGML_LOG_LEVEL_CONT": 5,
    "GGML_LOG_LEVEL_ERROR": 4,
    "LLAMA_DEFAULT_SEED": 0xFFFFFFFF,
    "LLAMA_FLASH_ATTN_TYPE_AUTO": -1,
    "LLAMA_FLASH_ATTN_TYPE_DISABLED": 0,
    "LLAMA_FLASH_ATTN_TYPE_ENABLED": 1,
    "LLAMA_FTYPE_MOSTLY_Q8_0": None,
    "LLAMA_LOAD_MODE_NONE": None,
    "LLAMA_POOLING_TYPE_MEAN": 1,
    "LLAMA_POOLING_TYPE_NONE": 0,
    "LLAMA_TOKEN_ATTR_CONTROL": None,
    "LLAMA_TOKEN_ATTR_UNKNOWN": None,
    "LLAMA_TOKEN_ATTR_USER_DEFINED": None,
    # Both are counted up when the meaning of a state changes.
    "LLAMA_SESSION_VERSION": None,
    "LLAMA_STATE_SEQ_VERSION": None,
    **{f"GGML_TYPE_{each.name.upper()}": each.ggml_id for each in TYPES if not each.feature},
}


def opaque() -> set[str]:
    """The structures that the list names only to point to them."""
    signatures = {**FUNCTIONS, **OPTIONAL, **CALLBACKS, **MEDIA_FUNCTIONS}.values()
    fields = [kind for struct in MEDIA_FIELDS.values() for kind in struct.values()]
    words = {word for text in (*signatures, *fields) for word in re.findall(r"\w+", text)}
    plain = re.compile(r"void|bool|char|(u?int|float|enum)\d+")
    described = FIELDS.keys() | MEDIA_FIELDS.keys() | CALLBACKS.keys()
    return {word for word in words if not plain.fullmatch(word)} - described


def digest() -> str:
    """Changes with the list."""
    whole = [FUNCTIONS, OPTIONAL, CALLBACKS, FIELDS, CONSTANTS, MEDIA_FUNCTIONS, MEDIA_FIELDS, MEDIA_CONSTANTS]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:10]


def faults(definitions: Definitions) -> list[str]:
    """Why the plugin cannot use a library of these definitions, a clause for each reason; empty when it can."""
    return _faults(definitions, {**CALLBACKS, **FUNCTIONS}, FIELDS, CONSTANTS)


def media_faults(definitions: Definitions) -> list[str]:
    """Why it cannot use its libmtmd; for a library without one, that the first function is gone."""
    return _faults(definitions, MEDIA_FUNCTIONS, MEDIA_FIELDS, MEDIA_CONSTANTS)


def _faults(
    have: Definitions,
    functions: dict[str, str],
    structs: dict[str, dict[str, str]],
    constants: Mapping[str, int | None],
) -> list[str]:
    clauses = []
    for name, wanted in functions.items():
        signature = have.callbacks.get(name) if name in CALLBACKS else have.functions.get(name)
        if signature is None:
            clauses.append(f"{name}() is gone")
        elif signature != wanted:
            clauses.append(f"{name}() is {signature} and not {wanted}")
    for name, fields in structs.items():
        clauses += _struct_faults(name, fields, have.structs.get(name))
    for name, value in constants.items():
        if name not in have.constants:
            clauses.append(f"{name} is gone")
        elif value is not None and have.constants[name] != value:
            clauses.append(f"{name} is {have.constants[name]} and not {value}")
    return clauses


def summary(clauses: list[str]) -> str:
    """The first clause, and how many more there are."""
    return clauses[0] + (f", and {len(clauses) - 1} more" if len(clauses) > 1 else "")


def _struct_faults(name: str, fields: dict[str, str], struct: Struct | None) -> list[str]:
    if struct is None:
        return [f"struct {name} is gone"]
    clauses = []
    for field, kind in fields.items():
        if field not in struct.fields:
            clauses.append(f"{name}.{field} is gone")
        elif struct.fields[field].type != kind:
            clauses.append(f"{name}.{field} is {struct.fields[field].type} and not {kind}")
    return clauses


def changes(before: Definitions, after: Definitions) -> list[str]:
    """What the structures have gained and lost, a clause for each; the plugin may well be able to use both."""
    clauses = []
    for name, struct in after.structs.items():
        old = before.structs.get(name, Struct(0, {})).fields
        for field, at in struct.fields.items():
            if field not in old:
                clauses.append(f"{name}.{field} is new: {at.type}, at offset {at.offset}")
            elif old[field].type != at.type:
                clauses.append(f"{name}.{field} is {at.type} and was {old[field].type}")
        clauses += [f"{name}.{field} is gone" for field in old if field not in struct.fields]
    return clauses


def as_the_plugin_knows(loose: Definitions) -> Definitions:
    """Definitions that were written by hand in Python, which leave pointers untyped: with the plugin's types instead.

    A type that contradicts the plugin's stays, and is a fault then. What they do not define at all is taken as the
    plugin states it, if it is ggml's: llama-cpp-python defines little of that.
    """
    used, described = {**FUNCTIONS, **MEDIA_FUNCTIONS}, {**FIELDS, **MEDIA_FIELDS}
    functions = {name: _rather(name, wanted, loose.functions.get(name)) for name, wanted in used.items()}
    structs = {}
    for name, struct in loose.structs.items():
        wanted_fields = described.get(name, {})
        fields = {
            field: Field(at.offset, wanted_fields[field] if _fits(wanted_fields.get(field), at.type) else at.type)
            for field, at in struct.fields.items()
        }
        structs[name] = Struct(struct.size, fields)
    ggml = {name: value for name, value in CONSTANTS.items() if value is not None and name.startswith("GGML_")}
    return Definitions(
        functions={name: signature for name, signature in functions.items() if signature is not None},
        callbacks=dict(CALLBACKS),
        structs=structs,
        constants={**ggml, **loose.constants},
    )


def _rather(name: str, wanted: str, loose: str | None) -> str | None:
    if loose is None:
        return None if name.startswith(("llama_", "mtmd_")) else wanted
    (result, arguments), (loose_result, loose_arguments) = split(wanted), split(loose)
    pairs = zip([result, *arguments], [loose_result, *loose_arguments])
    fits = len(arguments) == len(loose_arguments) and all(_fits(one, other) for one, other in pairs)
    return wanted if fits else loose


def _fits(wanted: str | None, loose: str) -> bool:
    """Whether a type written by hand may mean what the plugin means."""
    if wanted is None or wanted == loose:
        return wanted == loose
    if wanted.endswith("*") or wanted in CALLBACKS:
        return loose.rstrip("*") == "void" and loose != "void"
    return wanted == "enum32" and loose in ("int32", "uint32")
