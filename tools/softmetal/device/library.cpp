#include "library.h"
#include "engine.h"
#include "objc.h"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

namespace softmetal {
namespace {

// SOFTMETAL_CACHE is a folder for this version of softmetal and its compiler, SOFTMETAL_COMPILER a command line to
// which are added: what to do, the source, the result, the macros. kernels.py is that program.
std::string setting(const char * name) {
    const char * value = getenv(name);
    if (!value) fail("%s is not set: run this program in the environment of softmetal/build.py", name);
    return value;
}

// FNV-1a, twice: 128 bits that name a content.
std::string digest(const std::string & text) {
    unsigned long a = 0xcbf29ce484222325, b = 0x84222325cbf29ce4;
    for (unsigned char c : text) {
        a = (a ^ c) * 0x100000001b3;
        b = (b ^ (c + 0x5bu)) * 0x100000001b3;
    }
    char name[33];
    snprintf(name, sizeof name, "%016lx%016lx", a, b);
    return name;
}

std::string content(const std::string & file) {
    std::ifstream in(file);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

std::string quoted(const std::string & text) { return "'" + text + "'"; }

// Has `file` made from the source, if it is not there. The compiler writes beside it and renames: processes may race.
bool made(const std::string & what, const std::string & source, const Macros & macros, const std::string & file, std::string & error) {
    if (access(file.c_str(), R_OK) == 0) return true;
    std::string from = file + "." + std::to_string(getpid()) + ".metal";
    std::ofstream(from) << source;
    std::string command = setting("SOFTMETAL_COMPILER") + " " + quoted(what) + " " + quoted(from) + " " + quoted(file);
    for (auto & [name, value] : macros) command += " " + quoted("-D" + name + "=" + value);
    std::string log = from + ".log";
    int status = system((command + " >" + quoted(log) + " 2>&1").c_str());
    error = content(log);
    unlink(from.c_str());
    unlink(log.c_str());
    return status == 0;
}

std::string cached(const std::string & source, const Macros & macros, const std::string & name) {
    std::string all = source + '\0' + name + (counts_loads() ? "\1" : "");
    for (auto & [macro, value] : macros) all += '\0' + macro + '=' + value;
    return setting("SOFTMETAL_CACHE") + "/" + digest(all);
}

// The lines that the compiler makes of a source for `what`.
bool listed(const std::string & what, const std::string & source, const Macros & macros, std::vector<std::string> & lines, std::string & error) {
    std::string file = cached(source, macros, "") + "." + what;
    if (!made(what, source, macros, file, error)) return false;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return true;
}

}

std::string with_fault(std::string source) {
    const char * file = getenv("SOFTMETAL_FAULT");
    if (!file) return source;
    static const std::string text = content(file), separator = "\n=====\n";
    size_t middle = text.find(separator);
    if (middle == std::string::npos) fail("%s holds no line of =====", file);
    std::string from = text.substr(0, middle), to = text.substr(middle + separator.size());
    for (size_t at = source.find(from); at != std::string::npos; at = source.find(from, at + to.size())) source.replace(at, from.size(), to);
    return source;
}

bool kernel_names(const std::string & source, const Macros & macros, std::vector<std::string> & names, std::string & error) {
    return listed("names", source, macros, names, error);
}

bool tensor_kernels(const std::string & source, const Macros & macros, std::vector<std::string> & names, std::string & error) {
    // The one operation that tensors are for.
    return source.find("matmul2d") == std::string::npos || listed("tensors", source, macros, names, error);
}

const Kernel * compile_kernel(const std::string & source, const Macros & macros, const std::string & name, std::string & error) {
    std::string file = cached(source, macros, name) + ".so";
    if (!made((counts_loads() ? "count:" : "compile:") + name, source, macros, file, error)) return nullptr;
    void * library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        error = dlerror();
        return nullptr;
    }
    return static_cast<const Kernel *>(dlsym(library, "softmetal_kernel"));
}

}
