// Inside of the shim: handles to tensors and back, and the one place where C++ exceptions end.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "ct.h"

namespace shim {

extern std::atomic<int64_t> live_handles;
extern thread_local std::string last_error;

inline ct_tensor own(at::Tensor tensor) {
    if (!tensor.defined()) return {nullptr};
    live_handles.fetch_add(1, std::memory_order_relaxed);
    return {tensor.unsafeReleaseTensorImpl()};
}

/// A counted reference to what the handle holds; undefined for the null handle.
inline at::Tensor get(ct_tensor handle) {
    if (!handle.impl) return {};
    return at::Tensor(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(
        static_cast<c10::TensorImpl *>(handle.impl)));
}

/// ATen and autograd functions take what may be missing as an optional.
inline std::optional<at::Tensor> if_defined(const at::Tensor &x) { return x.defined() ? std::optional(x) : std::nullopt; }

inline std::vector<at::Tensor> get(const ct_tensor *handles, size_t count) {
    std::vector<at::Tensor> tensors;
    tensors.reserve(count);
    for (size_t i = 0; i < count; ++i) tensors.push_back(get(handles[i]));
    return tensors;
}

inline at::IntArrayRef sizes(const int64_t *values, size_t rank) { return {values, rank}; }

template <typename Body>
ct_status guarded(Body &&body) noexcept {
    try {
        body();
        return CT_OK;
    } catch (const c10::OutOfMemoryError &error) {
        last_error = error.what_without_backtrace();
        return CT_OUT_OF_MEMORY;
    } catch (const c10::Error &error) {
        last_error = error.what_without_backtrace();
        // The CPU allocator reports a failed allocation as a plain engine error: "DefaultCPUAllocator: can't allocate
        // memory" where the system refuses, "... not enough memory" elsewhere.
        return last_error.find("DefaultCPUAllocator: ") != std::string::npos ? CT_OUT_OF_MEMORY : CT_INVALID;
    } catch (const std::bad_alloc &) {
        last_error = "out of memory";
        return CT_OUT_OF_MEMORY;
    } catch (const std::exception &error) {
        last_error = error.what();
        return CT_INTERNAL;
    } catch (...) {
        last_error = "unknown C++ exception";
        return CT_INTERNAL;
    }
}

/// guarded, for the calls that give one tensor.
template <typename Body>
ct_status giving(ct_tensor *out, Body &&body) noexcept {
    return guarded([&] { *out = own(body()); });
}

at::ScalarType scalar_type(ct_dtype dtype);
c10::Device device(ct_device device);

/// Forgets what `scratch` and `temporary` (fused.h) keep for this thread.
void release_buffers();

}  // namespace shim
