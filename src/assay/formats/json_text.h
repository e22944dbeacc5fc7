// What the readers and writers of JSON texts here look for in UTF-8.
#pragma once
#include <cstdint>
#include <cstring>

// Of eight bytes, the top bits of those that do not stand as they are in a JSON text: control characters, quotes, backslashes,
// and bytes above 127 where these are `wide`. The lowest of them is right, one above it may not be.
static inline uint64_t odd(const uint8_t* text, bool wide) {
    const uint64_t ones = 0x0101010101010101, tops = ones * 128;
    uint64_t x;
    memcpy(&x, text, 8);  // little-endian machines only
    uint64_t quote = x ^ ones * '"', slash = x ^ ones * '\\';
    uint64_t found = ((x - ones * 32) & ~x) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash);
    return (wide ? found | x : found) & tops;
}

// How many bytes the white space takes (Python's `str.isspace`) with which a text begins; 0 where it begins with none.
static inline int space(const uint8_t* at, const uint8_t* end) {
    if (at == end) return 0;
    uint8_t c = *at;
    if (c < 128) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    if (c == 0xc2 && end - at > 1) return at[1] == 0x85 || at[1] == 0xa0 ? 2 : 0;
    if (end - at < 3) return 0;
    if (c == 0xe1) return at[1] == 0x9a && at[2] == 0x80 ? 3 : 0;
    if (c == 0xe3) return at[1] == 0x80 && at[2] == 0x80 ? 3 : 0;
    if (c != 0xe2) return 0;
    if (at[1] == 0x81) return at[2] == 0x9f ? 3 : 0;
    bool some = at[2] <= 0x8a || at[2] == 0xa8 || at[2] == 0xa9 || at[2] == 0xaf;
    return at[1] == 0x80 && some ? 3 : 0;
}
