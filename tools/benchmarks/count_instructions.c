// A plugin of qemu that counts the instructions of a program, and prints their number at its end.
//
//  cc -shared -fPIC -O2 -o count_instructions.so count_instructions.c
//  qemu-aarch64 -plugin ./count_instructions.so PROGRAM
//
// Debian's packages bring no qemu-plugin.h: these are the declarations of its version 1 that are used here.
// https://www.qemu.org/docs/master/devel/tcg-plugins.html

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb; // a run of instructions without a jump
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

void   qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*translated)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void   qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb * tb, enum qemu_plugin_op op, void * to, uint64_t value);
void   qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*ended)(qemu_plugin_id_t, void *), void * data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb * tb);

int qemu_plugin_version = 1;

static uint64_t count; // of one thread: others would add without a lock

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb * tb) {
    (void) id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &count, qemu_plugin_tb_n_insns(tb));
}

static void ended(qemu_plugin_id_t id, void * data) {
    (void) id;
    (void) data;
    fprintf(stderr, "instructions %" PRIu64 "\n", count);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void * info, int argc, char ** argv) {
    (void) info;
    (void) argc;
    (void) argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
