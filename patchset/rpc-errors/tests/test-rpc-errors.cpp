// A server that is not there, goes away or does not answer must fail the call, and never the client's process.

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-rpc.h"
#include "ggml.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#undef NDEBUG
#include <assert.h>

static const char * SELF = nullptr;

static int serve(const char * endpoint) {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_rpc_start_server(endpoint, nullptr, 1, 1, &cpu);
    return 1;
}

// a port of this machine that nobody listens on
static int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in addr = {};
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof(addr);
    assert(bind(fd, (sockaddr *) &addr, len) == 0 && getsockname(fd, (sockaddr *) &addr, &len) == 0);
    close(fd);
    return ntohs(addr.sin_port);
}

struct server {
    std::string endpoint = "127.0.0.1:" + std::to_string(free_port());
    pid_t pid;

    server() {
        pid = fork();
        if (pid == 0) {
            execl(SELF, SELF, endpoint.c_str(), (char *) nullptr);
            _exit(127);
        }
    }
    ~server() {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
    }
};

static bool give_up(void * data) {
    return --*(int *) data <= 0;
}

struct doubling {
    ggml_context_ptr ctx;
    ggml_tensor * in;
    ggml_tensor * out;
    ggml_cgraph * graph;
    ggml_backend_buffer_ptr buffer;

    explicit doubling(ggml_backend_t backend) {
        ctx.reset(ggml_init({ 8*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }));
        in    = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 4);
        out   = ggml_add(ctx.get(), in, in);
        graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, out);
        buffer.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
    }

    std::vector<float> result(ggml_backend_t backend, ggml_status & status) {
        const float values[4] = { 1, 2, 3, 4 };
        std::vector<float> doubled(4, -1.0f);
        ggml_backend_tensor_set(in, values, 0, sizeof(values));
        status = ggml_backend_graph_compute(backend, graph);
        ggml_backend_tensor_get(out, doubled.data(), 0, sizeof(values));
        return doubled;
    }
};

static ggml_backend_ptr connect(const server & s) {
    for (int i = 0; i < 100; i++) {
        if (ggml_backend_t backend = ggml_backend_rpc_init(s.endpoint.c_str(), 0)) {
            return ggml_backend_ptr(backend);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return nullptr;
}

// what is done to a server, and what becomes of the connection
static void test_lost(int sig, ggml_status expected) {
    server s;
    ggml_backend_ptr backend = connect(s);
    assert(backend);
    doubling d(backend.get());
    assert(d.buffer);

    ggml_status status;
    assert(d.result(backend.get(), status) == std::vector<float>({ 2, 4, 6, 8 }) && status == GGML_STATUS_SUCCESS);
    assert(ggml_backend_rpc_get_status(s.endpoint.c_str()) == GGML_STATUS_SUCCESS);

    kill(s.pid, sig);
    int polls = 5;
    ggml_backend_rpc_set_abort_callback(give_up, sig == SIGSTOP ? &polls : &polls);
    assert(d.result(backend.get(), status) == std::vector<float>({ 0, 0, 0, 0 }));
    assert(ggml_backend_rpc_get_status(s.endpoint.c_str()) == expected);
    assert(ggml_backend_graph_compute(backend.get(), d.graph) == expected);
    assert(!doubling(backend.get()).buffer);
    ggml_backend_rpc_set_abort_callback(nullptr, nullptr);

    // once nobody holds the old connection, a new one is tried
    d.buffer.reset();
    backend.reset();
    assert(ggml_backend_rpc_get_status(s.endpoint.c_str()) == GGML_STATUS_SUCCESS);
}

int main(int argc, char ** argv) {
    SELF = argv[0];
    ggml_backend_load_all();
    if (argc == 2) {
        return serve(argv[1]);
    }
    assert(ggml_backend_rpc_init(("127.0.0.1:" + std::to_string(free_port())).c_str(), 0) == nullptr);
    assert(ggml_backend_rpc_init("no endpoint", 0) == nullptr);
    assert(ggml_backend_rpc_add_server("127.0.0.1:x") == nullptr);

    test_lost(SIGKILL, GGML_STATUS_FAILED);
    test_lost(SIGSTOP, GGML_STATUS_ABORTED);
    return 0;
}
