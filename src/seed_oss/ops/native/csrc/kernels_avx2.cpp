// Processors with AVX2, FMA, F16C, BMI, BMI2.
// No header with inline functions may come after the pragma: a linker could keep
// its copy for everybody.
#include "types.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace avx2 {
namespace {
#include "simd_x86.h"
#include "simd_avx2.h"
#include "kernels.inl"
}  // namespace
}  // namespace avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels *avx2_kernels() { return &avx2::kTable; }
#else
const Kernels *avx2_kernels() { return nullptr; }
#endif
