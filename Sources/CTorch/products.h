// Products of two matrices without autograd: by whichever is fastest on this processor, one of LibTorch's two libraries or
// our kernel.
#pragma once
#include "shim.h"

namespace shim {

/// a b: a [M, K], b [K, N], of one dtype, of any strides.
at::Tensor product(const at::Tensor &a, const at::Tensor &b);

/// out = alpha a b + (adds ? out : 0), into out [M, N] of the same dtype, which may be part of a larger tensor.
void product_into(at::Tensor out, const at::Tensor &a, const at::Tensor &b, bool adds = false, double alpha = 1);

}  // namespace shim
