// Steps of a decoder layer as calls of their own, with the bits that they have inside of the one call of all layers.

#include "attend_phases.h"

namespace {

class RowsAttention : Attention {
   public:
    RowsAttention(const DecoderCall &call, const float *queries, float *out) : Attention(call, call.num_tokens <= kFewTokens) {
        projections = queries;
        row_len = c.heads * c.head_dim;
        attended = out;
    }

    void run() {
        Pool::shared().run(c.threads, [](void *self, int64_t) { static_cast<RowsAttention *>(self)->program(); }, this);
    }

   private:
    Phase phases[2];

    void program() {
        static thread_local AttendMemory memory;
        attend_all(c.layers[0], phases[0], memory, [](const AttendTask &) {});
        merge_parts(phases[1], memory);
    }
};

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

// Queries `[num_tokens, heads, head_dim]`, rotated where the call has no angles, over the cache of the first layer, which
// holds the keys and values of the new tokens already.
EXPORT void so_attend(const DecoderCall *call, const float *queries, float *out) { RowsAttention(*call, queries, out).run(); }

// x `[n, heads, head_dim]`, angles `[n, head_dim]`
EXPORT void so_rotate(const float *x, const float *cos, const float *sin, int64_t n, int64_t heads, int64_t head_dim, float *out) {
    for (int64_t i = 0; i < n * heads; i++) {
        int64_t angle = i / heads * head_dim;
        kernels().rotate(x + i * head_dim, cos + angle, sin + angle, head_dim, 1.0f, out + i * head_dim);
    }
}

// x `[n, heads, head_dim]` to slots of a cache laid out as the layers' are; its scales, one per head_dim of its numbers, or null
EXPORT void so_store(const float *x, const int64_t *slots, int64_t n, int64_t heads, int64_t head_dim, int64_t kind,
                     int64_t block_len, int64_t block_stride, int64_t head_stride, void *cache, float *scales) {
    int64_t width = kind == kCacheFloat32 ? 4 : kind == kCacheBFloat16 ? 2 : 1;
    for (int64_t i = 0; i < n; i++)
        for (int64_t head = 0; head < heads; head++) {
            int64_t place = slots[i] / block_len * block_stride + head * head_stride + slots[i] % block_len * head_dim;
            kernels().store_kv(x + (i * heads + head) * head_dim, head_dim, kind, static_cast<uint8_t *>(cache) + place * width,
                               scales ? scales + place / head_dim : nullptr);
        }
}

// x += added, and out its norm; all `[n, cols]`
EXPORT void so_add_rms_norm(float *x, const float *added, const float *weight, double eps, int64_t n, int64_t cols, float *out) {
    for (int64_t i = 0; i < n * cols; i++) x[i] += added[i];
    for (int64_t i = 0; i < n; i++) kernels().rms_norm(x + i * cols, weight, static_cast<float>(eps), cols, out + i * cols);
}
}
