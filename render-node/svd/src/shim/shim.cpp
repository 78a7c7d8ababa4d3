// What tch does not reach of libtorch, as plain functions. Only headers that libtorch has without CUDA too: the same object
// serves both, and what asks for a GPU says so when there is none.

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/InferenceMode.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

namespace {

// MKL sums up in an order that depends on where its operands lie in memory, and on some processors equal inputs then give
// unequal bits, unless it is told to be reproducible before its first product. It hears that from the environment only, which is
// set here before any thread runs. A setting of the caller's own stays.
// https://www.intel.com/content/www/us/en/docs/onemkl/developer-guide-linux/current/obtaining-numerically-reproducible-results.html
__attribute__((constructor)) void have_mkl_compute_reproducibly() { setenv("MKL_CBWR", "AUTO", 0); }

// A copy for the caller to free; null is success.
template <typename Body>
char* guarded(Body body) {
    try {
        body();
        return nullptr;
    } catch (const std::exception& error) {
        return strdup(error.what());
    } catch (...) {
        return strdup("an exception that is none of the standard library");
    }
}

}  // namespace

extern "C" {

// `order`: values of at::SDPBackend, the preferred one first.
char* flowai_set_attention_order(const int64_t* order, size_t count) {
    return guarded([&] { at::globalContext().setSDPPriorityOrder(std::vector<int64_t>(order, order + count)); });
}

char* flowai_attention_order(int64_t* order, size_t count) {
    return guarded([&] {
        const auto now = at::globalContext().sDPPriorityOrder();
        TORCH_CHECK(count == now.size(), "there are ", now.size(), " kinds of attention, not ", count);
        for (size_t i = 0; i < count; ++i) {
            order[i] = static_cast<int64_t>(now[i]);
        }
    });
}

// The same kernel for the same shapes in every process, and no product rounded to TF32.
char* flowai_compute_reproducibly() {
    return guarded([] {
        auto& context = at::globalContext();
        context.setBenchmarkCuDNN(false);
        context.setDeterministicCuDNN(true);
        context.setAllowTF32CuDNN(false);
        context.setFloat32MatmulPrecision("highest");
    });
}

bool flowai_computes_reproducibly() {
    const auto& context = at::globalContext();
    return !context.benchmarkCuDNN() && context.deterministicCuDNN() && !context.allowTF32CuDNN() &&
        context.float32MatmulPrecision() == at::Float32MatmulPrecision::HIGHEST;
}

// Until it is left, tensors are made in inference mode on this thread.
void* flowai_enter_inference() {
    return new c10::InferenceMode();
}

void flowai_leave_inference(void* mode) {
    delete static_cast<c10::InferenceMode*>(mode);
}

bool flowai_is_inference() {
    return c10::InferenceMode::is_enabled();
}

// Gives memory that libtorch keeps, and that no tensor uses, back to the device.
char* flowai_empty_cache() {
    return guarded([] { at::accelerator::emptyCache(); });
}

// The most bytes that tensors had on the device since the process began.
char* flowai_peak_memory(int8_t index, int64_t* bytes) {
    return guarded([&] {
        const auto stats = at::accelerator::getDeviceStats(index);
        *bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
    });
}

}
