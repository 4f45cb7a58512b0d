// Matrix decompositions: singular values and QR.
#include "shim.h"

using namespace shim;

ct_status ct_singular_values(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::linalg_svdvals(get(t)); });
}
ct_status ct_svd(ct_tensor t, ct_tensor *u, ct_tensor *s, ct_tensor *vh) {
    return guarded([&] {
        auto [left, values, right] = at::linalg_svd(get(t), /*full_matrices=*/false);
        *u = own(left);
        *s = own(values);
        *vh = own(right);
    });
}
ct_status ct_qr_r(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return std::get<1>(at::linalg_qr(get(t), "r")); });
}
