// All layers of a decoder in one call. Phase after phase; every thread runs the same program and takes tasks.
//
//   few tokens    q k v | attend by chunks of keys | merge | o, added to x | gate up | down, added to x
//   many          norm | q k v | store keys and values | attend by tiles of queries | merge | quantize | o | norm | gate up | down
//
// Which one runs changes no bit of a token's result.

#include <memory>

#include "attend_phases.h"

namespace {

constexpr int64_t kPhasesPerLayer = 11;

struct Memory : AttendMemory {  // of one thread
    ActRows acts;
    Buffer<float> rows, low;
};

enum Which : int64_t { kQ, kK, kV, kO, kGate, kUp, kDown };  // weights of a layer

class Decoder : Attention {
   public:
    explicit Decoder(const DecoderCall &call)
        : Attention(call, call.num_tokens <= kFewTokens), few(n <= kFewTokens),
          merges_by_thread(few && plan.num_parts <= kRowsPerTask),
          phases(new Phase[static_cast<size_t>(call.num_layers * kPhasesPerLayer)]) {
        int64_t heads_dim = c.heads * c.head_dim;
        row_len = heads_dim + 2 * c.kv_heads * c.head_dim;
        projections = qkv.sized(n * row_len);
        attended = attended_rows.sized(n * heads_dim);
        if (!few) normed.sized(n * c.hidden);
        if (!few) shared_low.sized(3 * n * c.rank);
        reserve_acts();
    }

    void run() {
        Pool::shared().run(c.threads, [](void *self, int64_t) { static_cast<Decoder *>(self)->program(); }, this);
    }

   private:
    bool few;
    bool merges_by_thread;  // each thread for itself: that takes less time than to wait for each other
    std::unique_ptr<Phase[]> phases;
    Buffer<float> qkv, attended_rows, normed, gated;
    Buffer<float> shared_low;  // of up to three weights [n, rank]: what an adapter makes of the next products' rows
    ActRows shared_acts, gated_acts;  // of the product that is running, and of the next `down`

    void reserve_acts() {
        ActForm form = {0, false};
        int64_t widest = c.hidden > c.heads * c.head_dim ? c.hidden : c.heads * c.head_dim, num_at_once = 0;
        for (int64_t i = 0; i < c.num_layers; i++) {
            form = both(form, form_of(c.layers[i], kQ, kDown + 1));
            num_at_once += quantizes_at_once(c.layers[i].down);
        }
        if (num_at_once) gated_acts.reserve(n, c.intermediate, kBlockRows);
        if (num_at_once < c.num_layers && c.intermediate > widest) widest = c.intermediate;
        if (num_at_once < c.num_layers || c.rank) gated.sized(n * c.intermediate);
        if (!few) shared_acts.reserve(n, widest, form);
    }

    void program() {
        static thread_local Memory memory;
        for (int64_t i = 0; i < c.num_layers; i++) layer(c.layers[i], phases.get() + i * kPhasesPerLayer, memory);
    }

    void layer(const Layer &l, Phase *phase, Memory &memory) {
        norm_and_quantize(l, l.input_norm, kQ, kO, phase[0]);
        project(l, phase[1], memory);
        if (!few) store_all(l, phase[2]);
        attend_all(l, phase[3], memory, [&](const AttendTask &task) {
            if (few) store_chunk(l, task);
        });
        if (!merges_by_thread) merge_parts(phase[4], memory);
        add_attended(l, phase + 5, memory);
        norm_and_quantize(l, l.post_norm, kGate, kDown, phase[7]);
        gate_and_up(l, phase[8], memory);
        add_down(l, phase + 9, memory);
    }

    static const Weight &weight(const Layer &l, int64_t which) { return (&l.q)[which]; }

    // What weights begin <= which < end want together.
    static ActForm form_of(const Layer &l, int64_t begin, int64_t end) {
        ActForm result = {0, false};
        for (int64_t which = begin; which < end; which++) result = both(act_form(weight(l, which)), result);
        return result;
    }

    // The adapter

    // a * x of tokens t0 <= t < t1, for weights that share their input `rows`
    void shrink(const Layer &l, int64_t begin, int64_t end, const float *rows, int64_t t0, int64_t t1, float *low) const {
        for (int64_t which = begin; c.rank && which < end; which++, low += n * c.rank) {
            if (!l.low_ranks[which].a) continue;
            const Weight a{l.low_ranks[which].a, nullptr, c.rank, weight(l, which).cols, kFloat32, 0, 0, 0};
            const Acts acts{rows, nullptr, nullptr, nullptr, nullptr, a.cols, 0};
            float tile[kTokenTile * kBlockRows];
            for (int64_t t = t0; t < t1; t += kTokenTile)
                for (int64_t block = 0; block < num_blocks(a); block++) {
                    int64_t after = t + kTokenTile < t1 ? t + kTokenTile : t1;
                    kernels().product(a, block, acts, t, after, tile);
                    copy_rows(a, block, tile, t, after, low, c.rank);
                }
        }
    }

    void shrink_own(const Layer &l, int64_t begin, int64_t end, const float *rows, Memory &memory) const {
        if (few && c.rank) shrink(l, begin, end, rows, 0, n, memory.low.sized(3 * n * c.rank));
    }

    // tile += b * low; `slot` counts the weights from where `shrink` began
    void expand(const Layer &l, int64_t which, int64_t slot, int64_t block, int64_t t0, int64_t t1, const Memory &memory,
                float *tile) const {
        if (!c.rank || !l.low_ranks[which].b) return;
        const Weight b{l.low_ranks[which].b, nullptr, weight(l, which).rows, c.rank, kFloat32, 0, 0, 0};
        const float *low = (few ? memory.low.data() : shared_low.data()) + slot * n * c.rank;
        float own[kTokenTile * kBlockRows];
        kernels().product(b, block, {low, nullptr, nullptr, nullptr, nullptr, c.rank, 0}, t0, t1, own);
        int64_t rows = rows_in(b, block);
        for (int64_t t = 0; t < t1 - t0; t++)
            for (int64_t r = 0; r < rows; r++) tile[t * kBlockRows + r] += own[t * kBlockRows + r];
    }

    // run(first token, number of tokens), eight tokens to a task
    template <class Run>
    void each_tokens(Phase &phase, Run run) {
        run_phase(phase, ceil_div(n, 8), [&](int64_t task) {
            int64_t first = task * 8;
            run(first, n - first < 8 ? n - first : 8);
        });
    }

    // Many tokens: norm and quantization are a phase. Few: each thread does them for itself, in `own_acts`.
    void norm_and_quantize(const Layer &l, const float *weight, int64_t begin, int64_t end, Phase &phase) {
        if (few) return;
        const ActForm form = form_of(l, begin, end);
        each_tokens(phase, [&](int64_t first, int64_t count) {
            norm_rows(weight, first, count, normed.data());
            if (form) shared_acts.round(normed.data(), c.hidden, form, first, count);
            shrink(l, begin, end, normed.data(), first, first + count, shared_low.data());
        });
    }

    void norm_rows(const float *weight, int64_t first, int64_t count, float *out) {
        for (int64_t t = first; t < first + count; t++)
            kernels().rms_norm(c.x + t * c.hidden, weight, static_cast<float>(c.eps), c.hidden, out + t * c.hidden);
    }

    void own_acts(const Layer &l, const float *norm_weight, int64_t begin, int64_t end, ActForm form, Memory &memory) {
        if (!few) return;
        norm_rows(norm_weight, 0, n, memory.rows.sized(n * c.hidden));
        shrink_own(l, begin, end, memory.rows.data(), memory);
        if (!form) return;
        memory.acts.reserve(n, c.hidden, form);
        memory.acts.round(memory.rows.data(), c.hidden, form, 0, n);
    }

    Acts acts_of_hidden(int64_t group, const Memory &memory) const {
        return few ? memory.acts.view(memory.rows.data(), c.hidden, group) : shared_acts.view(normed.data(), c.hidden, group);
    }

    void project(const Layer &l, Phase &phase, Memory &memory) {
        const Weight *weights[3] = {&l.q, &l.k, &l.v};
        int64_t ends[3], at[3] = {0, l.q.rows, l.q.rows + l.k.rows};
        ends[0] = num_blocks(l.q);
        ends[1] = ends[0] + num_blocks(l.k);
        ends[2] = ends[1] + num_blocks(l.v);
        BlockTasks tasks(ends[2], n, c.threads);
        const ActForm form = form_of(l, kQ, kO);
        auto prologue = [&] { own_acts(l, l.input_norm, kQ, kO, form, memory); };
        run_phase(phase, tasks.count(), prologue, [&](int64_t task) {
            Acts acts = acts_of_hidden(form.group, memory);
            tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
                int which = block < ends[0] ? 0 : block < ends[1] ? 1 : 2;
                int64_t own_block = block - (which ? ends[which - 1] : 0);
                float tile[kTokenTile * kBlockRows];
                kernels().product(*weights[which], own_block, acts, t0, t1, tile);
                expand(l, which, which, own_block, t0, t1, memory, tile);
                copy_rows(*weights[which], own_block, tile, t0, t1, qkv.data() + at[which], row_len);
            });
        });
    }

    static int64_t rows_in(const Weight &w, int64_t block) {
        int64_t left = w.rows - block * kBlockRows;
        return left < kBlockRows ? left : kBlockRows;
    }

    static void copy_rows(const Weight &w, int64_t block, const float *tile, int64_t t0, int64_t t1, float *out, int64_t stride) {
        for (int64_t t = t0; t < t1; t++)
            copy_tile_row(tile + (t - t0) * kBlockRows, rows_in(w, block), out + t * stride + block * kBlockRows);
    }

    void add_attended(const Layer &l, Phase *phase, Memory &memory) {
        add_product(l, kO, attended, phase, memory, [&] {
            if (!merges_by_thread) return static_cast<const float *>(attended);
            float *own = memory.rows.sized(n * l.o.cols);
            for (const AttendTask &tile : plan.merges) merge_tile(tile, own, memory);
            return static_cast<const float *>(own);
        });
    }

    // The rest of a layer

    void add_product(const Layer &l, int64_t which, const float *rows, Phase *phase, Memory &memory) {
        add_product(l, which, rows, phase, memory, [&] { return rows; });
    }

    // x += w * rows; where tokens are few, each thread asks for its rows
    template <class OwnRows>
    void add_product(const Layer &l, int64_t which, const float *rows, Phase *phase, Memory &memory, OwnRows own_rows) {
        const Weight &w = weight(l, which);
        const ActForm form = act_form(w);
        if ((form || c.rank) && !few)
            each_tokens(phase[0], [&](int64_t first, int64_t count) {
                if (form) shared_acts.round(rows, w.cols, form, first, count);
                shrink(l, which, which + 1, rows, first, first + count, shared_low.data());
            });
        auto prologue = [&] {
            if (!few) return;
            rows = own_rows();
            shrink_own(l, which, which + 1, rows, memory);
            if (!form) return;
            memory.acts.reserve(n, w.cols, form);
            memory.acts.round(rows, w.cols, form, 0, n);
        };
        BlockTasks tasks(num_blocks(w), n, c.threads);
        run_phase(phase[1], tasks.count(), prologue, [&](int64_t task) {
            add_blocks(l, which, (few ? memory.acts : shared_acts).view(rows, w.cols, form.group), tasks, task, memory);
        });
    }

    void add_blocks(const Layer &l, int64_t which, const Acts &acts, const BlockTasks &tasks, int64_t task,
                    const Memory &memory) {
        const Weight &w = weight(l, which);
        tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
            float tile[kTokenTile * kBlockRows];
            kernels().product(w, block, acts, t0, t1, tile);
            expand(l, which, 0, block, t0, t1, memory, tile);
            int64_t rows = rows_in(w, block);
            for (int64_t t = t0; t < t1; t++)
                kernels().add_to(c.x + t * c.hidden + block * kBlockRows, tile + (t - t0) * kBlockRows, rows);
        });
    }

    // Blocks of 32 rows are groups of activations: then the next product's come out quantized.
    bool quantizes_at_once(const Weight &down) const { return act_form(down).group == kBlockRows; }

    void gate_and_up(const Layer &l, Phase &phase, Memory &memory) {
        bool at_once = quantizes_at_once(l.down);
        BlockTasks tasks(num_blocks(l.gate), n, c.threads);
        const ActForm form = form_of(l, kGate, kDown);
        auto prologue = [&] { own_acts(l, l.post_norm, kGate, kDown, form, memory); };
        run_phase(phase, tasks.count(), prologue, [&](int64_t task) {
            Acts acts = acts_of_hidden(form.group, memory);
            tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
                float gate[kTokenTile * kBlockRows], up[kTokenTile * kBlockRows];
                kernels().product(l.gate, block, acts, t0, t1, gate);
                kernels().product(l.up, block, acts, t0, t1, up);
                expand(l, kGate, 0, block, t0, t1, memory, gate);
                expand(l, kUp, 1, block, t0, t1, memory, up);
                kernels().silu_mul(gate, up, (t1 - t0) * kBlockRows);
                if (!at_once || c.rank) copy_rows(l.gate, block, gate, t0, t1, gated.data(), c.intermediate);
                if (at_once) gated_acts.quantize_group(gate, c.intermediate, kBlockRows, t0, t1 - t0, block);
            });
        });
    }

    void add_down(const Layer &l, Phase *phase, Memory &memory) {
        if (!quantizes_at_once(l.down)) return add_product(l, kDown, gated.data(), phase, memory);
        if (c.rank && !few)
            each_tokens(phase[0], [&](int64_t first, int64_t count) {
                shrink(l, kDown, kDown + 1, gated.data(), first, first + count, shared_low.data());
            });
        BlockTasks tasks(num_blocks(l.down), n, c.threads);
        Acts acts = gated_acts.view(nullptr, c.intermediate, kBlockRows);
        auto prologue = [&] { shrink_own(l, kDown, kDown + 1, gated.data(), memory); };
        run_phase(phase[1], tasks.count(), prologue,
                  [&](int64_t task) { add_blocks(l, kDown, acts, tasks, task, memory); });
    }
};

// Whether the sum of all entries is not a number, as it is with NaN, or with infinities of both signs.
bool has_no_sum(const float *x, int64_t cols) {
    float sums[16] = {};
    for (int64_t i = 0; i < cols; i++) sums[i % 16] += x[i];
    float sum = 0.0f;
    for (float part : sums) sum += part;
    return sum != sum;
}

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

int64_t so_embedding(const Weight *w, const int64_t *ids, int64_t n, float *out);
void so_rms_norm(const float *x, const float *weight, double eps, int64_t n, int64_t cols, float *out);
void so_linear(const Weight *w, const float *x, int64_t n, float *out, int64_t threads);
void so_argmax(const float *x, int64_t count, int64_t stride, int64_t cols, int64_t *out, int64_t threads);

EXPORT void so_decoder(const DecoderCall *call) { Decoder(*call).run(); }

// Returns how many ids are in range, from the first on; where that is not all of them, nothing is computed.
EXPORT int64_t so_step(const StepCall *call) {
    const DecoderCall &c = *call->decoder;
    int64_t known = so_embedding(&call->embedding, call->ids, c.num_tokens, c.x);
    if (known < c.num_tokens) return known;
    so_decoder(&c);
    so_rms_norm(c.x, call->norm, call->norm_eps, c.num_tokens, c.hidden, c.x);
    so_linear(&call->head, c.x, c.num_tokens, call->logits, c.threads);
    for (int64_t t = 0; call->is_lost && t < c.num_tokens; t++)
        call->is_lost[t] = has_no_sum(c.x + t * c.hidden, c.hidden);
    int64_t vocab = call->head.rows;
    if (call->best) so_argmax(call->logits, c.num_tokens, vocab, vocab, call->best, c.threads);
    return known;
}
}
