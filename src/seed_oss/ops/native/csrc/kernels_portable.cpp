// Any processor.
#include "types.h"

#pragma GCC diagnostic ignored "-Wpsabi"

namespace portable {
namespace {
#include "simd_portable.h"
#include "kernels.inl"
}  // namespace
}  // namespace portable

const Kernels *portable_kernels() { return &portable::kTable; }
