// Processors with what kernels_avx512.cpp asks for, and AVX512BF16.
// No header with inline functions may come after the pragma: a linker could keep
// its copy for everybody.
#include "types.h"

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi,bmi2")
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12 warns of its own headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define SEED_OSS_PAIRS
namespace avx512_bf16 {
namespace {
#include "simd_x86.h"
#include "simd_avx512.h"
#include "kernels.inl"
}  // namespace
}  // namespace avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels *avx512_bf16_kernels() { return &avx512_bf16::kTable; }
#else
const Kernels *avx512_bf16_kernels() { return nullptr; }
#endif
