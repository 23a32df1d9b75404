// Processors with AVX512F, AVX512BW, AVX512DQ, AVX512VL, AVX512VNNI, AVX2, FMA, F16C, BMI, BMI2.
// No header with inline functions may come after the pragma: a linker could keep
// its copy for everybody.
#include "types.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi,bmi2")
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12 warns of its own headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace avx512 {
namespace {
#include "simd_x86.h"
#include "simd_avx512.h"
#include "kernels.inl"
}  // namespace
}  // namespace avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels *avx512_kernels() { return &avx512::kTable; }
#else
const Kernels *avx512_kernels() { return nullptr; }
#endif
