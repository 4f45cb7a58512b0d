// LibTorch's threads for kernels. at::parallel_for is a template that is serial unless its includer is compiled for
// OpenMP, which would bring a second runtime; so the team is taken from the runtime that LibTorch itself has loaded.
#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>

#include "shim.h"

namespace {

/// The entry points that GCC's runtime and LLVM's both export; null where LibTorch uses neither.
struct Team {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    int (*index)(), (*size)(), (*inside)();
    template <class Function>
    static Function find(const char *name) {
        return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
    }
    Team()
        : parallel(find<decltype(parallel)>("GOMP_parallel")), index(find<decltype(index)>("omp_get_thread_num")),
          size(find<decltype(size)>("omp_get_num_threads")), inside(find<decltype(inside)>("omp_in_parallel")) {}
    bool isUsable() const { return parallel && index && size && inside; }
};

struct Loop {
    const Team &team;
    int64_t count;
    void (*body)(void *, int64_t, int64_t);
    void *context;
    void run() const {
        const int64_t threads = team.size(), i = team.index();
        const int64_t begin = count * i / threads, end = count * (i + 1) / threads;
        if (begin < end) body(context, begin, end);
    }
};

}  // namespace

void ct_parallel_for(
    int64_t count, int64_t grain, void (*body)(void *context, int64_t begin, int64_t end), void *context) {
    static const Team team;
    if (count <= 0) return;
    const int64_t threads = std::min<int64_t>(at::get_num_threads(), count / std::max<int64_t>(grain, 1));
    if (threads <= 1 || !team.isUsable() || team.inside()) return body(context, 0, count);
    Loop loop{team, count, body, context};
    team.parallel([](void *loop) { static_cast<const Loop *>(loop)->run(); }, &loop, unsigned(threads), 0);
}
