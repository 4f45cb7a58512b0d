// A trace of what LibTorch and the fused operations do, by Kineto, the profiler inside LibTorch.
#include <torch/csrc/autograd/profiler_kineto.h>

#include "shim.h"

using namespace shim;
namespace profiler = torch::autograd::profiler;

ct_status ct_trace_start(void) {
    return guarded([] {
        const torch::profiler::impl::ProfilerConfig config(
            torch::profiler::impl::ProfilerState::KINETO, /*report_input_shapes=*/true);
        const std::set<torch::profiler::impl::ActivityType> activities{torch::profiler::impl::ActivityType::CPU};
        profiler::prepareProfiler(config, activities);
        profiler::enableProfiler(config, activities);
    });
}

ct_status ct_trace_stop(const char *path) {
    return guarded([&] { profiler::disableProfiler()->save(path); });
}
