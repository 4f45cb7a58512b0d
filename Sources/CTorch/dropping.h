// Dropout whose mask nobody keeps: an autograd node saves three numbers and makes it again.
#pragma once
#include <torch/csrc/autograd/custom_function.h>

#include "dropout.h"
#include "shim.h"

namespace shim {

/// Dropout by a stream of random words (Kernels' dropout.h), one for each element in row-major order.
struct Dropping {
    explicit Dropping(const ct_dropout &given);

    bool drops() const { return dropout.probability > 0; }
    /// x / (1 - p) where an element is kept, else 0; x itself where nothing is dropped.
    at::Tensor of(const at::Tensor &x) const;
    /// sum += of(x)
    void add(at::Tensor sum, const at::Tensor &x) const;

    void save(torch::autograd::AutogradContext *ctx) const;
    static Dropping restored(torch::autograd::AutogradContext *ctx);

   private:
    nt_dropout dropout;
};

}  // namespace shim
