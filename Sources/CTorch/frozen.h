// Frozen weights of products: a tensor, or packed blocks of which a panel at a time is decoded.
// N rows of x, I inputs, O outputs
#pragma once
#include "fused.h"
#include "packed.h"

namespace shim {

/// W [O, I], which gets no gradient.
struct FrozenWeight {
    /// A tensor [O, I] in the products' dtype.
    explicit FrozenWeight(at::Tensor dense) : data(std::move(dense)), columns(data.size(1)) {}
    /// Blocks; checks that the parts fit each other.
    explicit FrozenWeight(const ct_packed &packed);

    /// x W^T: x [N, I] -> [N, O]
    at::Tensor product(const at::Tensor &x) const;
    /// dy W: dy [N, O] -> [N, I]
    at::Tensor back(const at::Tensor &dy) const;
    /// Rows of a packed weight.
    at::Tensor decoded(int64_t row, int64_t rows, at::ScalarType dtype) const;

    /// What an autograd node saves: `others`, then the weight, which `restored` reads from the end.
    void save(torch::autograd::AutogradContext *ctx, torch::autograd::variable_list others) const;
    static FrozenWeight restored(torch::autograd::AutogradContext *ctx, const torch::autograd::variable_list &saved);

   private:
    at::Tensor data;  // packed: u8 [O, bytes of a row]
    int64_t columns;
    int64_t type = -1;                     // packed.h's; -1: a tensor
    at::Tensor scale_codes, scale_steps;  // NF4
    double scale_mean = 0;

    bool is_packed() const { return type >= 0; }
    int64_t rows() const { return data.size(0); }
    /// panel [rows, columns] = W from there on.
    void decode(int64_t row, int64_t column, const at::Tensor &panel) const;
};

}  // namespace shim
