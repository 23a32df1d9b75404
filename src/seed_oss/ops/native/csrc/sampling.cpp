// Tokens drawn from rows of scores, and what filters keep of them. A row is a task; what it comes to depends neither on
// other rows nor on threads nor on the instruction set.

#include <algorithm>
#include <vector>

#include "rows.h"

namespace {

constexpr int64_t kMassBlock = 1024;  // entries whose mass is added up in single precision
constexpr int64_t kSample = 256;      // entries looked at to guess where a border is; as few are sorted
constexpr int64_t kMostGuesses = 24;

int64_t lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

// As the readable form has it (ops/noise.py), but for logarithms in double precision.
float gumbel(uint32_t word) {
    float uniform = std::fmin((static_cast<float>(word) + 0.5f) * 2.3283064365386963e-10f, 1.0f - 5.9604644775390625e-8f);
    float exponential = static_cast<float>(-std::log1p(-static_cast<double>(uniform)));
    return static_cast<float>(-std::log(static_cast<double>(exponential)));
}

struct Winner {
    float value;
    int64_t id;
    void meet(float other, int64_t other_id) {
        if (other < value || (other == value && other_id >= id)) return;
        value = other;
        id = other_id;
    }
};

// Of the entries from `first` on, at most kNoiseEntries.
void race(const float *x, int64_t cols, const Noise &noise, int64_t first, Winner &winner) {
    uint32_t words[kNoiseEntries];
    int64_t n = cols - first < kNoiseEntries ? cols - first : kNoiseEntries;
    uint64_t found = kernels().rivals(x + first, n, noise, first, winner.value, words);
    for (; found; found &= found - 1) {
        int64_t i = lowest_bit(found);
        winner.meet(x[first + i] + gumbel(words[i]), first + i);
    }
}

// The entry whose score and noise have the largest sum. It begins where the highest score is, so that most others are
// out of the race before a logarithm is taken.
int64_t draw(const float *x, int64_t cols, const Noise &noise) {
    int64_t highest = highest_id(x, cols);
    if (highest < 0 || std::isinf(x[highest])) return -1;
    Winner winner{-INFINITY, cols};
    race(x, cols, noise, highest / kNoiseEntries * kNoiseEntries, winner);
    for (int64_t first = 0; first < cols; first += kNoiseEntries) race(x, cols, noise, first, winner);
    return winner.id;
}

// Entries of a row with low <= x < high, in their order; ids is null for the whole row.
struct Part {
    const float *x, *w;
    const int64_t *ids;
    int64_t n;
    int64_t id(int64_t i) const { return ids ? ids[i] : i; }
};

struct Entries {
    std::vector<float> x, w;
    std::vector<int64_t> ids;
    int64_t count = 0;

    void take(const Part &from, float low, float high) {
        count = 0;
        for (int64_t first = 0; first < from.n; first += 64) {
            int64_t n = from.n - first < 64 ? from.n - first : 64;
            uint64_t found = kernels().between(from.x + first, n, low, high);
            if (count + 64 > static_cast<int64_t>(ids.size())) grow();
            for (; found; found &= found - 1, count++) {
                int64_t i = first + lowest_bit(found);
                size_t at = static_cast<size_t>(count);
                x[at] = from.x[i];
                w[at] = from.w[i];
                ids[at] = from.id(i);
            }
        }
    }
    void grow() {
        size_t size = 2 * ids.size() + 4096;
        x.resize(size);
        w.resize(size + 16);  // read by sixteens
        ids.resize(size);
    }
    Part view() const { return {x.data(), w.data(), ids.data(), count}; }
};

// Everything below it is removed: lower scores, and of equal ones lower ids.
struct Border {
    float score;
    int64_t id;
};

// Looks for the entry at which the mass from the lowest entry on exceeds a target.
class Search {
   public:
    Border find(const float *x, int64_t cols, float top, double share) {
        weights_.resize(static_cast<size_t>(cols + 16));
        double total = 0.0;
        for (int64_t first = 0; first < cols; first += kMassBlock)
            total += static_cast<double>(
                kernels().weigh(x + first, std::min(kMassBlock, cols - first), top, weights_.data() + first));
        target_ = share * total;
        top_ = top;
        below_ = 0.0;
        low_ = -INFINITY;
        high_ = std::nextafter(top, INFINITY);
        Part part{x, weights_.data(), nullptr, cols};
        for (int64_t i = 0; i < kMostGuesses && part.n > kSample && !is_single_score(); i++)
            part = narrow(part, entries_[i & 1]);
        return walk(part);
    }

   private:
    bool is_single_score() const { return std::nextafter(low_, INFINITY) >= high_; }

    // Limits around the guessed border, closer to each other where it is likely; they part equal scores from others.
    void guess(const Part &part, float *limits) {
        std::pair<float, float> sample[kSample];
        for (int64_t i = 0; i < kSample; i++) {
            int64_t at = i * part.n / kSample;
            sample[i] = {part.x[at], part.w[at]};
        }
        std::sort(sample, sample + kSample, [](auto &one, auto &other) { return one.first < other.first; });
        double scale = static_cast<double>(part.n) / static_cast<double>(kSample), mass = below_;
        int64_t at = 0;
        while (at < kSample - 1 && (mass += sample[at].second * scale) <= target_) at++;
        const int64_t offsets[kNumLimits] = {-32, -12, -4, 0, 0, 4, 12, 32};
        for (int64_t k = 0; k < kNumLimits; k++) {
            int64_t place = std::min(std::max(at + offsets[k], int64_t{0}), kSample - 1);
            limits[k] = k == 4 ? std::nextafter(limits[3], INFINITY) : sample[place].first;
            if (limits[k] > top_) limits[k] = top_;
            if (k && limits[k] < limits[k - 1]) limits[k] = limits[k - 1];
        }
    }

    // The entries between the two limits that the border is between.
    Part narrow(const Part &part, Entries &to) {
        float limits[kNumLimits], sums[kNumLimits];
        double masses[kNumLimits] = {};
        guess(part, limits);
        for (int64_t first = 0; first < part.n; first += kMassBlock) {
            kernels().masses_below(part.x + first, part.w + first, std::min(kMassBlock, part.n - first), limits, sums);
            for (int64_t k = 0; k < kNumLimits; k++) masses[k] += static_cast<double>(sums[k]);
        }
        int64_t k = 0;
        while (k < kNumLimits && below_ + masses[k] <= target_) k++;
        if (k < kNumLimits) high_ = std::min(high_, limits[k]);
        if (k) {
            low_ = std::max(low_, limits[k - 1]);
            below_ += masses[k - 1];
        }
        to.take(part, low_, high_);
        return to.view();
    }

    // One by one, the lowest first. The highest entry of the row always stays.
    Border walk(const Part &part) {
        order_.resize(static_cast<size_t>(part.n));
        for (int64_t i = 0; i < part.n; i++) order_[static_cast<size_t>(i)] = i;
        if (!is_single_score())
            std::stable_sort(order_.begin(), order_.end(), [&](int64_t i, int64_t j) { return part.x[i] < part.x[j]; });
        for (int64_t i : order_) {
            below_ += static_cast<double>(part.w[i]);
            if (below_ > target_) return {part.x[i], part.id(i)};
        }
        if (order_.empty() || part.x[order_.back()] < top_) return {high_, 0};
        return {top_, part.id(order_.back())};
    }

    std::vector<float> weights_;
    std::vector<int64_t> order_;
    Entries entries_[2];
    double target_ = 0.0, below_ = 0.0;  // mass of what is removed, at most and for certain
    float low_ = 0.0f, high_ = 0.0f;     // the border is between them
    float top_ = 0.0f;                   // the highest score
};

void top_p(const float *x, int64_t cols, float share, float fill, float *out) {
    static thread_local Search search;
    int64_t highest = highest_id(x, cols);
    Border border{-INFINITY, 0};  // without a number to go by everything stays
    if (highest >= 0 && !std::isinf(x[highest])) border = search.find(x, cols, x[highest], static_cast<double>(share));
    kernels().fill_below(x, border.id, std::nextafter(border.score, INFINITY), fill, out);
    kernels().fill_below(x + border.id, cols - border.id, border.score, fill, out + border.id);
}

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

// Row i is number first_row + i among those that share the key; out [count], -1 where no score is usable.
EXPORT void so_draw(const float *x, int64_t count, int64_t stride, int64_t cols, int64_t key_low, int64_t key_high,
                    int64_t token_index, int64_t first_row, int64_t *out, int64_t threads) {
    Rows rows{x, count, stride, cols};
    each_row(count, threads, [&](int64_t row) {
        Noise noise{{static_cast<uint32_t>(key_low), static_cast<uint32_t>(key_high)},
                    static_cast<uint32_t>(token_index),
                    static_cast<uint32_t>(first_row + row)};
        out[row] = draw(rows.row(row), cols, noise);
    });
}

// Removes the lowest entries whose mass together is at most `share`; out [count, cols]
EXPORT void so_top_p(const float *x, int64_t count, int64_t stride, int64_t cols, double share, double fill, float *out,
                     int64_t threads) {
    Rows rows{x, count, stride, cols};
    each_row(count, threads, [&](int64_t row) {
        top_p(rows.row(row), cols, static_cast<float>(share), static_cast<float>(fill), out + row * cols);
    });
}

// out [count, cols]: fill where x is below the row's limit, else x
EXPORT void so_fill_below(const float *x, int64_t count, int64_t stride, int64_t cols, const float *limits, double fill,
                          float *out, int64_t threads) {
    Rows rows{x, count, stride, cols};
    each_row(count, threads, [&](int64_t row) {
        kernels().fill_below(rows.row(row), cols, limits[row], static_cast<float>(fill), out + row * cols);
    });
}
}
