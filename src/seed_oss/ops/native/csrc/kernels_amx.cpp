// Processors with what kernels_avx512_bf16.cpp asks for, and AMX tiles of whole numbers.
// No header with inline functions may come after the pragma: a linker could keep
// its copy for everybody.
#include "types.h"

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 11))
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi,bmi2,amx-tile,amx-int8"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi,bmi2,amx-tile,amx-int8")
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12 warns of its own headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define SEED_OSS_PAIRS
#define SEED_OSS_TILES
namespace amx {
namespace {
#include "simd_x86.h"
#include "simd_avx512.h"
#include "kernels.inl"
}  // namespace
}  // namespace amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Kernels *amx_kernels() { return &amx::kTable; }
#else
const Kernels *amx_kernels() { return nullptr; }
#endif
