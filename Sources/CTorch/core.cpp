// Library facts, handles, storage and shapes.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <torch/version.h>

#include <climits>
#include <cstdlib>

#include "shim.h"

namespace shim {
std::atomic<int64_t> live_handles{0};
thread_local std::string last_error;

at::ScalarType scalar_type(ct_dtype dtype) {
    switch (dtype) {
        case CT_F32: return at::kFloat;
        case CT_F64: return at::kDouble;
        case CT_BF16: return at::kBFloat16;
        case CT_F16: return at::kHalf;
        case CT_I64: return at::kLong;
        case CT_I32: return at::kInt;
        case CT_I16: return at::kShort;
        case CT_I8: return at::kChar;
        case CT_U8: return at::kByte;
        case CT_BOOL: return at::kBool;
    }
    TORCH_CHECK(false, "unknown dtype ", dtype);
}

static ct_dtype dtype_of(at::ScalarType type) {
    for (ct_dtype dtype = CT_F32; dtype <= CT_BOOL; ++dtype)
        if (scalar_type(dtype) == type) return dtype;
    return -1;
}

c10::Device device(ct_device device) {
    return device.kind == 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, c10::DeviceIndex(device.index));
}

static at::TensorOptions options(ct_dtype dtype, ct_device where) {
    return at::TensorOptions().dtype(scalar_type(dtype)).device(device(where));
}
}  // namespace shim

using namespace shim;

const char *ct_last_error(void) { return last_error.c_str(); }
void ct_set_last_error(const char *message) { last_error = message; }

const char *ct_version(void) { return TORCH_VERSION; }
const char *ct_build_information(void) {
    static const std::string text = at::show_config();
    return text.c_str();
}
const char *ct_cpu_capability(void) {
    static const std::string text = at::get_cpu_capability();
    return text.c_str();
}
bool ct_cuda_available(void) {
    // Its static initializers register the CUDA back end; absent from CPU builds.
    static const bool loaded = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
    return loaded && at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
}

// Whether a back end's class is in the loaded libraries.
bool ct_has_gloo(void) { return dlsym(RTLD_DEFAULT, "_ZTVN4c10d16ProcessGroupGlooE") != nullptr; }
bool ct_has_nccl(void) { return dlsym(RTLD_DEFAULT, "_ZTVN4c10d16ProcessGroupNCCLE") != nullptr; }
bool ct_has_mpi(void) { return dlsym(RTLD_DEFAULT, "_ZTVN4c10d15ProcessGroupMPIE") != nullptr; }
void ct_prepare_for_training(void) {
#if defined(__GLIBC__)
    // By default every block above 32 MB is mapped anew and its pages cleared by the system, each time.
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
    // oneDNN keeps 1,024 by default, about a megabyte each: rows of ever new lengths would fill a gigabyte with them.
    setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128", /*overwrite=*/0);
}

void ct_release_free_memory(void) {
    shim::release_buffers();
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

void ct_heap_bytes(int64_t *taken, int64_t *used) {
    *taken = *used = 0;
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    const auto heap = mallinfo2();
    *taken = int64_t(heap.arena + heap.hblkhd);
    *used = int64_t(heap.uordblks + heap.hblkhd);
#endif
}
void ct_set_threads(int32_t count) { at::set_num_threads(count); }
int32_t ct_threads(void) { return at::get_num_threads(); }
int64_t ct_live_handles(void) { return live_handles.load(); }

void ct_tensor_free(ct_tensor t) {
    if (!t.impl) return;
    live_handles.fetch_sub(1, std::memory_order_relaxed);
    c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim(static_cast<c10::TensorImpl *>(t.impl));
}

ct_status ct_from_bytes(const void *bytes, const int64_t *shape, size_t rank, ct_dtype dtype, ct_tensor *out) {
    return giving(out, [&] {
        auto tensor = at::empty(sizes(shape, rank), options(dtype, {0, 0}));
        if (tensor.nbytes() > 0) memcpy(tensor.mutable_data_ptr(), bytes, tensor.nbytes());
        return tensor;
    });
}
ct_status ct_full(const int64_t *shape, size_t rank, double value, ct_dtype dtype, ct_device where, ct_tensor *out) {
    return giving(out, [&] { return at::full(sizes(shape, rank), value, options(dtype, where)); });
}
ct_status ct_empty(const int64_t *shape, size_t rank, ct_dtype dtype, ct_device where, ct_tensor *out) {
    return giving(out, [&] { return at::empty(sizes(shape, rank), options(dtype, where)); });
}
ct_status ct_arange(int64_t start, int64_t end, ct_device where, ct_tensor *out) {
    return giving(out, [&] { return at::arange(start, end, options(CT_I64, where)); });
}
ct_status ct_shape(ct_tensor t, int64_t *values, size_t capacity, size_t *rank) {
    return guarded([&] {
        const auto tensor = get(t);
        TORCH_CHECK(size_t(tensor.dim()) <= capacity, "rank ", tensor.dim(), " is over ", capacity);
        *rank = size_t(tensor.dim());
        for (int64_t i = 0; i < tensor.dim(); ++i) values[i] = tensor.size(i);
    });
}
ct_dtype ct_tensor_dtype(ct_tensor t) { return dtype_of(get(t).scalar_type()); }
ct_device ct_tensor_device(ct_tensor t) {
    const auto where = get(t).device();
    return {where.is_cpu() ? 0 : 1, where.index()};
}
ct_status ct_data(ct_tensor t, void **data) {
    return guarded([&] {
        const auto tensor = get(t);
        TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), "data of a contiguous CPU tensor only");
        *data = tensor.data_ptr();
    });
}
ct_status ct_item(ct_tensor t, double *value) {
    return guarded([&] { *value = get(t).item().toDouble(); });
}
ct_status ct_to(ct_tensor t, ct_dtype dtype, ct_device where, ct_tensor *out) {
    return giving(out, [&] { return get(t).to(device(where), scalar_type(dtype)); });
}
ct_status ct_clone(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return get(t).clone(); });
}
ct_status ct_contiguous(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return get(t).contiguous(); });
}
ct_status ct_copy_inplace(ct_tensor t, ct_tensor source) {
    return guarded([&] { get(t).copy_(get(source)); });
}

ct_status ct_reshape(ct_tensor t, const int64_t *shape, size_t rank, ct_tensor *out) {
    return giving(out, [&] { return get(t).reshape(sizes(shape, rank)); });
}
ct_status ct_transpose(ct_tensor t, int64_t a, int64_t b, ct_tensor *out) {
    return giving(out, [&] { return get(t).transpose(a, b); });
}
ct_status ct_narrow(ct_tensor t, int64_t dim, int64_t start, int64_t length, ct_tensor *out) {
    return giving(out, [&] { return get(t).narrow(dim, start, length); });
}
ct_status ct_split(ct_tensor t, const int64_t *lengths, size_t count, int64_t dim, ct_tensor *parts) {
    return guarded([&] {
        const auto split = get(t).split_with_sizes(sizes(lengths, count), dim);
        for (size_t i = 0; i < count; ++i) parts[i] = own(split[i]);
    });
}
ct_status ct_expand(ct_tensor t, const int64_t *shape, size_t rank, ct_tensor *out) {
    return giving(out, [&] { return get(t).expand(sizes(shape, rank)); });
}
ct_status ct_cat(const ct_tensor *parts, size_t count, int64_t dim, ct_tensor *out) {
    return giving(out, [&] { return at::cat(get(parts, count), dim); });
}
ct_status ct_index_select(ct_tensor t, int64_t dim, ct_tensor index, ct_tensor *out) {
    return giving(out, [&] { return get(t).index_select(dim, get(index)); });
}
ct_status ct_gather(ct_tensor t, int64_t dim, ct_tensor index, ct_tensor *out) {
    return giving(out, [&] { return get(t).gather(dim, get(index)); });
}
ct_status ct_index_copy_inplace(ct_tensor t, int64_t dim, ct_tensor index, ct_tensor source) {
    return guarded([&] { get(t).index_copy_(dim, get(index), get(source)); });
}
