// Exact comparison of the shingles of two documents, and the groups of those that are alike.
#include <unistd.h>

#include <algorithm>
#include <cstdint>

extern "C" {

// sets[ends[i - 1], ends[i]) = the `sizes[i]` hashes that lie starts[i] on in the file. 0 where it does not hold them.
int gathered(int file, const int64_t* starts, const int64_t* sizes, long count, uint64_t* sets) {
    for (long i = 0; i < count; i++) {
        char* to = (char*)sets;
        int64_t left = sizes[i] * 8, at = starts[i] * 8;
        while (left) {
            ssize_t got = pread(file, to, left, at);
            if (got <= 0) return 0;
            to += got, at += got, left -= got;
        }
        sets += sizes[i];
    }
    return 1;
}

// jaccards[i] of the sets one[i] and other[i], which lie sets[offsets[k], offsets[k + 1]), sorted.
void compared(const uint64_t* sets, const int64_t* offsets, const int64_t* one, const int64_t* other, long count,
              double* jaccards) {
    for (long i = 0; i < count; i++) {
        const uint64_t *a = sets + offsets[one[i]], *a_end = sets + offsets[one[i] + 1];
        const uint64_t *b = sets + offsets[other[i]], *b_end = sets + offsets[other[i] + 1];
        int64_t all = (a_end - a) + (b_end - b), shared = 0;
        while (a < a_end && b < b_end) {
            uint64_t x = *a, y = *b;
            shared += x == y;
            a += x <= y;
            b += y <= x;
        }
        jaccards[i] = all ? (double)shared / (all - shared) : 0.;
    }
}

// Joins one[i] and other[i]; a group's root is its smallest member.
void joined(int64_t* parents, const int64_t* one, const int64_t* other, long count) {
    auto root = [&](int64_t x) {
        while (parents[x] != x) x = parents[x] = parents[parents[x]];
        return x;
    };
    for (long i = 0; i < count; i++) {
        int64_t a = root(one[i]), b = root(other[i]);
        parents[std::max(a, b)] = std::min(a, b);
    }
}

}  // extern "C"
