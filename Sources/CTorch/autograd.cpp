// Gradient mode, backward, and autograd nodes whose backward is a callback.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "shim.h"

using namespace shim;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

bool ct_set_gradients_enabled(bool enabled) {
    const bool before = c10::GradMode::is_enabled();
    c10::GradMode::set_enabled(enabled);
    return before;
}
int64_t ct_changes(ct_tensor t) { return int64_t(get(t)._version()); }
bool ct_requires_gradient(ct_tensor t) { return get(t).requires_grad(); }
ct_status ct_set_requires_gradient(ct_tensor t, bool required) {
    return guarded([&] { get(t).set_requires_grad(required); });
}
ct_status ct_set_gradient_dtype(ct_tensor t, ct_dtype dtype) {
    return guarded([&] { get(t).set_grad_dtype(scalar_type(dtype)); });
}
ct_status ct_detach(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return get(t).detach(); });
}
ct_status ct_backward(ct_tensor output, ct_tensor gradient) {
    return guarded([&] {
        const auto dy = get(gradient);
        torch::autograd::backward({get(output)}, dy.defined() ? variable_list{dy} : variable_list{});
    });
}
ct_status ct_gradient(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return get(t).grad(); });
}
ct_status ct_clear_gradient(ct_tensor t) {
    return guarded([&] { get(t).mutable_grad() = at::Tensor(); });
}

namespace {

struct CallbackNode : public torch::autograd::Node {
    std::vector<SavedVariable> saved;
    std::vector<std::pair<std::vector<int64_t>, at::TensorOptions>> outputs;
    size_t input_count = 0;
    void *context = nullptr;
    ct_backward_function function = nullptr;
    void (*release)(void *) = nullptr;

    ~CallbackNode() override { release_context(); }

    void release_context() {
        if (context && release) release(context);
        context = nullptr;
    }

    void release_variables() override {
        for (auto &variable : saved) variable.reset_data();
        release_context();
    }

    variable_list apply(variable_list &&gradients) override {
        TORCH_CHECK(context, "backward through a custom function a second time");
        std::vector<ct_tensor> saved_handles, gradient_handles, results(input_count, ct_tensor{nullptr});
        for (auto &variable : saved) saved_handles.push_back(own(variable.unpack()));
        for (size_t i = 0; i < gradients.size(); ++i) {
            const auto &gradient = gradients[i];
            gradient_handles.push_back(own(gradient.defined() ? gradient : at::zeros(outputs[i].first, outputs[i].second)));
        }
        const ct_status status = function(
            context, saved_handles.data(), saved_handles.size(), gradient_handles.data(), gradient_handles.size(), results.data(),
            results.size());
        for (auto handle : saved_handles) ct_tensor_free(handle);
        for (auto handle : gradient_handles) ct_tensor_free(handle);
        variable_list input_gradients;
        for (auto handle : results) {
            input_gradients.push_back(get(handle));
            ct_tensor_free(handle);
        }
        TORCH_CHECK(status == CT_OK, ct_last_error());
        return input_gradients;
    }
};

}  // namespace

ct_status ct_custom_function(
    const ct_tensor *inputs, size_t input_count, const ct_tensor *outputs, size_t output_count, const ct_tensor *saved,
    size_t saved_count, void *context, ct_backward_function backward, void (*release)(void *), ct_tensor *results) {
    return guarded([&] {
        auto node = c10::make_intrusive<CallbackNode>();
        node->context = context;  // from here on the node's to release
        node->release = release;
        node->function = backward;
        node->input_count = input_count;
        const auto variables = get(inputs, input_count);
        const bool recording = c10::GradMode::is_enabled() && torch::autograd::any_variable_requires_grad(variables);
        if (recording) node->set_next_edges(torch::autograd::collect_next_edges(variables));
        std::vector<at::Tensor> values;
        for (size_t i = 0; i < output_count; ++i) {
            auto value = get(outputs[i]).detach();
            node->outputs.emplace_back(value.sizes().vec(), value.options());
            if (recording) torch::autograd::set_history(value, node);
            values.push_back(value);
        }
        if (recording)
            for (const auto &tensor : get(saved, saved_count)) node->saved.emplace_back(tensor, /*is_output=*/false);
        for (size_t i = 0; i < output_count; ++i) results[i] = own(values[i]);
    });
}
