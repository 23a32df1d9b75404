// Memory in huge pages. A pass over the weights touches each page once, and a quarter of a million small ones a gigabyte cost
// a quarter of the speed of reading: the processor looks their addresses up, in a virtual machine twice.

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace {

constexpr int64_t kHugePage = 2 << 20;

// Whether memory that has been touched lies in a huge page. Kernels before 6.1 do not say: what they gave is taken for one.
bool is_huge(uint8_t *page) {
    bool can_say = madvise(page, 0, MADV_COLLAPSE) == 0;
    return !can_say || madvise(page, kHugePage, MADV_COLLAPSE) == 0;
}

// The page at `at`, which `page` holds a copy of, is that copy. If the system fails half way, `at` may be a hole.
bool put_in_place(uint8_t *page, uint8_t *at, int protection) {
    if (mremap(page, kHugePage, kHugePage, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED) return true;
    constexpr int kHow = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    if (mmap(at, kHugePage, PROT_READ | PROT_WRITE, kHow, -1, 0) == MAP_FAILED) std::abort();  // weights are gone
    std::memcpy(at, page, kHugePage);
    mprotect(at, kHugePage, protection);
    return false;
}

// A huge page with what is at `at`, in its place. Nobody may write there meanwhile; who reads sees the one or the other.
bool replace(uint8_t *at, int protection) {
    void *fresh = mmap(nullptr, 2 * kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED) return false;
    auto *begin = static_cast<uint8_t *>(fresh), *end = begin + 2 * kHugePage;
    auto *page = begin + (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
    bool is_done = madvise(page, kHugePage, MADV_HUGEPAGE) == 0;
    if (is_done) {
        *page = *at;
        is_done = is_huge(page);
    }
    if (is_done) {
        std::memcpy(page, at, kHugePage);
        is_done = mprotect(page, kHugePage, protection) == 0 && put_in_place(page, at, protection);
    }
    if (page > begin) munmap(begin, static_cast<size_t>(page - begin));
    uint8_t *rest = is_done ? page + kHugePage : page;
    if (end > rest) munmap(rest, static_cast<size_t>(end - rest));
    return is_done;
}

}  // namespace
#endif

extern "C" {

// Puts whole huge pages of data in place of small ones. `protection` is that of a private mapping of a file, which is copied;
// -1 of the process's own memory, which the system can put together by itself. Returns how many bytes are in huge pages now,
// from the first whole one on; less than there are where the system has no more, or cannot.
__attribute__((visibility("default"))) int64_t so_huge_pages(uint8_t *data, int64_t num_bytes, int64_t protection) {
    int64_t done = 0;
#if defined(__linux__)
    uint8_t *at = data + (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
    for (; at + kHugePage <= data + num_bytes; at += kHugePage, done += kHugePage) {
        if (protection >= 0 ? !replace(at, static_cast<int>(protection)) : madvise(at, kHugePage, MADV_COLLAPSE) != 0) break;
    }
#else
    (void)data, (void)num_bytes, (void)protection;
#endif
    return done;
}
}
