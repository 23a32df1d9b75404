// Sixteen lanes in one register. Included inside a namespace, under a target with AVX-512 F, BW, DQ, VL and VNNI.

#define SEED_OSS_PANELS
constexpr bool kHasManyRegisters = true;  // some thirty, of sixteen lanes each

struct F16 {
    __m512 v;
};
struct I16 {
    __m512i v;
};
using B64 = __m512i;  // 64 bytes: four columns of 16 rows

static inline F16 zero16() { return {_mm512_setzero_ps()}; }
static inline F16 set1(float x) { return {_mm512_set1_ps(x)}; }
static inline F16 load16(const float *p) { return {_mm512_loadu_ps(p)}; }
static inline void store16(float *p, F16 x) { _mm512_storeu_ps(p, x.v); }
static inline F16 load_first(const float *p, int64_t n) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p)};
}
static inline F16 add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F16 sub(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F16 div(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F16 max16(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F16 min16(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F16 abs16(F16 a) { return {_mm512_abs_ps(a.v)}; }
static inline F16 half_to_float(const uint16_t *p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
static inline F16 bf16_to_float(const uint16_t *p) {
    __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
}
// Of 16 pairs of bf16: the first ones, the second ones.
static inline F16 first_halves(F16 pairs) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs.v), 16))}; }
static inline F16 second_halves(F16 pairs) {
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs.v), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
// Nearest, ties to even; NaN stays NaN.
static inline void store_bf16(uint16_t *p, F16 x) {
    __m512i raw = _mm512_castps_si512(x.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(raw, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(raw, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
#ifdef SEED_OSS_PAIRS
using Bf32 = __m512bh;  // 32 numbers in bf16
static inline Bf32 load_pairs(const uint16_t *p) { return (__m512bh)_mm512_loadu_si512(p); }
static inline Bf32 load_first_pairs(const uint16_t *p, int64_t n) {  // n below 32
    return (__m512bh)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << n) - 1u), p);
}
// sum[i] += a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1]; numbers too small for normal ones count as 0
static inline F16 add_pairs(F16 sum, Bf32 a, Bf32 b) { return {_mm512_dpbf16_ps(sum.v, a, b)}; }
static inline Bf32 as_pairs(F16 bits) { return (__m512bh)bits.v; }
static inline Bf32 no_pairs() { return (__m512bh)_mm512_setzero_si512(); }
static inline Bf32 set1_pair(const uint16_t *p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return (__m512bh)_mm512_set1_epi32(pair);
}
// Pairs of one of a and one of b; undo_interleave puts what became of them in the order of a and b.
static inline void interleave(Bf32 a, Bf32 b, Bf32 &first, Bf32 &second) {
    first = (__m512bh)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b);
    second = (__m512bh)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b);
}
static inline void undo_interleave(F16 &first, F16 &second) {
    __m512d a = _mm512_castps_pd(first.v), b = _mm512_castps_pd(second.v);
    first.v = _mm512_castpd_ps(_mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b));
    second.v = _mm512_castpd_ps(_mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b));
}
// The nearest 16 numbers in bf16; what is too small for a normal one becomes 0.
static inline void put_bf16(uint16_t *p, F16 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), (__m256i)_mm512_cvtneps_pbh(x.v));
}
static inline F16 nearest_bf16(F16 x) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x.v)), 16))};
}
#endif
static inline I16 zero_int() { return {_mm512_setzero_si512()}; }
static inline I16 set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
static inline I16 sub_int(I16 a, I16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline I16 add_int(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline F16 to_float(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
static inline I16 round_int(F16 a) { return {_mm512_cvtps_epi32(a.v)}; }
static inline void store_int8(int8_t *p, I16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(a.v));
}
static inline F16 bytes_to_float(const uint8_t *p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))))};
}
static inline F16 int8_to_float(const int8_t *p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))))};
}
// 2 ** n for whole n from -126 to 127
static inline F16 exp2_int(F16 n) {
    __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23);
    return {_mm512_castsi512_ps(bits)};
}
static inline F16 round16(F16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline F16 zero_below(F16 x, F16 limit, F16 value) {  // value where x >= limit, else 0; NaN keeps value
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), value.v)};
}
static inline bool has_nan(F16 x) { return _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q) != 0; }
static inline float reduce(F16 x) {
    return reduce8(_mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1)));
}
static inline float reduce_max(F16 x) {
    return reduce_max8(_mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1)));
}
static inline int32_t reduce_int(I16 x) {
    return reduce_int8(_mm256_add_epi32(_mm512_castsi512_si256(x.v), _mm512_extracti64x4_epi64(x.v, 1)));
}

static inline B64 load_bytes(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline void store_bytes(uint8_t *p, B64 x) { _mm512_store_si512(p, x); }  // p at a multiple of 64
static inline B64 set1_byte(int32_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
static inline B64 four_bytes(I16 x) { return _mm512_mullo_epi32(x.v, _mm512_set1_epi32(0x01010101)); }  // each below 256
static inline B64 sub_bytes(B64 a, B64 b) { return _mm512_sub_epi8(a, b); }
static inline B64 low_nibbles(B64 w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
static inline B64 high_nibbles(B64 w) { return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(15)); }
// acc[row] += sum over four columns of w[row, column] * a[column]; w unsigned, a signed
static inline I16 dot_nibbles(I16 acc, B64 w, const int8_t *a) {
    int32_t four;
    __builtin_memcpy(&four, a, 4);
    return {_mm512_dpbusd_epi32(acc.v, w, _mm512_set1_epi32(four))};
}
static inline I16 dot_bytes(I16 acc, B64 w, const int8_t *a) { return dot_nibbles(acc, w, a); }

// lanes i of sixteen vectors become vector i
static inline void transpose16(F16 *rows) {
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
        t[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    __m512 u[16];
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; i++) {
        __m512 a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88), b = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
        __m512 c = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88), d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
        rows[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
        rows[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
        rows[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
        rows[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

// Sixteen 32-bit words at the bottom of 64 bits each; what is above them does not count. Lane order: see store_quads.
struct Q16 {
    __m512i a, b;
};
static inline Q16 set1_quad(uint32_t x) { return {_mm512_set1_epi64(x), _mm512_set1_epi64(x)}; }
static inline Q16 quads_from(uint32_t first) {
    __m512i start = _mm512_set1_epi64(first);
    return {_mm512_add_epi64(start, _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7)),
            _mm512_add_epi64(start, _mm512_setr_epi64(8, 12, 9, 13, 10, 14, 11, 15))};
}
static inline Q16 mul_quad(Q16 x, uint32_t factor) {  // all 64 bits of the product
    __m512i y = _mm512_set1_epi64(factor);
    return {_mm512_mul_epu32(x.a, y), _mm512_mul_epu32(x.b, y)};
}
static inline Q16 xor_high(Q16 x, Q16 y, uint32_t key) {  // high word of x, low word of y, key
    __m512i k = _mm512_set1_epi64(key);
    return {_mm512_ternarylogic_epi64(_mm512_srli_epi64(x.a, 32), y.a, k, 0x96),
            _mm512_ternarylogic_epi64(_mm512_srli_epi64(x.b, 32), y.b, k, 0x96)};
}
static inline __m512i pair_words(__m512i low, __m512i high) {
    return _mm512_mask_blend_epi32(0xaaaa, low, _mm512_slli_epi64(high, 32));
}
static inline void store_eight(uint32_t *p, __m512i first, __m512i second) {  // pairs of words 0 and 1, 2 and 3
    _mm512_storeu_si512(p, _mm512_unpacklo_epi64(first, second));
    _mm512_storeu_si512(p + 16, _mm512_unpackhi_epi64(first, second));
}
// The words of a counter one behind the other, the counters in the order of quads_from.
static inline void store_quads(uint32_t *p, Q16 c0, Q16 c1, Q16 c2, Q16 c3) {
    store_eight(p, pair_words(c0.a, c1.a), pair_words(c2.a, c3.a));
    store_eight(p + 32, pair_words(c0.b, c1.b), pair_words(c2.b, c3.b));
}
static inline I16 load_shifted(const uint32_t *p) { return {_mm512_srli_epi32(_mm512_loadu_si512(p), 8)}; }
static inline F16 bits_to_float(F16 x) { return {_mm512_cvtepi32_ps(_mm512_castps_si512(x.v))}; }
static inline uint64_t not_below(F16 x, F16 limit) { return _mm512_cmp_ps_mask(x.v, limit.v, _CMP_GE_OQ); }
static inline F16 choose_below(F16 x, F16 limit, F16 below, F16 other) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), other.v, below.v)};
}
// sum + value where x < limit, else sum
static inline F16 add_below(F16 sum, F16 x, F16 limit, F16 value) {
    return {_mm512_mask_add_ps(sum.v, _mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), sum.v, value.v)};
}
