// The ids of pairs of conversations of text: BLAKE2b (128 bits, as hex digits) of their JSON, as records.py defines them.
#include <cstdint>
#include <cstdlib>
#include <cstring>

static const uint64_t START[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                  0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
static const uint8_t ORDER[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};
static const char HEX[] = "0123456789abcdef";

static inline uint64_t turned(uint64_t x, int by) { return x >> by | x << (64 - by); }

static inline __attribute__((always_inline)) void mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x, uint64_t y) {
    a += b + x, d = turned(d ^ a, 32), c += d, b = turned(b ^ c, 24);
    a += b + y, d = turned(d ^ a, 16), c += d, b = turned(b ^ c, 63);
}

// RFC 7693, without a key and with a digest of 16 bytes.
struct Blake2b {
    uint64_t state[8], length = 0;
    uint8_t held[128];
    long filled = 0;

    Blake2b() {
        memcpy(state, START, sizeof state);
        state[0] ^= 0x01010000 ^ 16;
    }
    __attribute__((noinline)) void block(const uint8_t* data, bool last) {
        uint64_t m[16], v[16];
        memcpy(m, data, 128);  // little-endian machines only
        memcpy(v, state, 64), memcpy(v + 8, START, 64);
        v[12] ^= length;
        if (last) v[14] = ~v[14];
#pragma GCC unroll 12
        for (int r = 0; r < 12; r++) {
            const uint8_t* s = ORDER[r];
            mix(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]), mix(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
            mix(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]), mix(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
            mix(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]), mix(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
            mix(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]), mix(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
        }
        for (int i = 0; i < 8; i++) state[i] ^= v[i] ^ v[i + 8];
    }
    __attribute__((noinline)) void add(const void* bytes, long count) {
        const uint8_t* at = (const uint8_t*)bytes;
        while (count) {
            if (filled == 128) length += 128, block(held, false), filled = 0;
            if (!filled)
                for (; count > 128; at += 128, count -= 128) length += 128, block(at, false);
            long part = count < 128 - filled ? count : 128 - filled;
            memcpy(held + filled, at, part);
            filled += part, at += part, count -= part;
        }
    }
    void hex(char* to) {
        length += filled;
        memset(held + filled, 0, 128 - filled);
        block(held, true);
        const uint8_t* digest = (const uint8_t*)state;
        for (int i = 0; i < 16; i++) to[2 * i] = HEX[digest[i] >> 4], to[2 * i + 1] = HEX[digest[i] & 15];
    }
    // A text within quotes, as JSON writes it.
    void add_text(const uint8_t* at, long count) {
        const uint8_t *from = at, *end = at + count;
        add("\"", 1);
        while (at < end) {
            if (end - at >= 32) {
                uint8_t special = 0;
                for (int i = 0; i < 32; i++) special |= (at[i] < 32) | (at[i] == '"') | (at[i] == '\\');
                if (!special) {
                    at += 32;
                    continue;
                }
            }
            for (const uint8_t* stop = end - at < 32 ? end : at + 32; at < stop; at++) {
                uint8_t c = *at;
                if (c >= 32 && c != '"' && c != '\\') continue;
                add(from, at - from);
                from = at + 1;
                const char* known = strchr("\"\"\\\\\nn\rr\tt\bb\ff", c);
                char escaped[6] = {'\\', 'u', '0', '0', HEX[c >> 4], HEX[c & 15]};
                if (c && known) escaped[1] = known[1];
                add(escaped, c && known ? 2 : 6);
            }
        }
        add(from, end - from);
        add("\"", 1);
    }
};

// Lists of messages, end to end, as Arrow keeps them.
struct Lists {
    const int32_t *at, *role_at, *text_at;
    const uint8_t *roles, *texts;

    const uint8_t* text(long i) const { return texts + text_at[i]; }
    long length(long i) const { return text_at[i + 1] - text_at[i]; }
    bool user(long i) const { return role_at[i + 1] - role_at[i] == 4 && !memcmp(roles + role_at[i], "user", 4); }

    void id(long list, char* to) const {
        Blake2b made;
        for (long i = at[list]; i < at[list + 1]; i++) {
            made.add(i == at[list] ? "[[\"" : ",[\"", 3);
            made.add(roles + role_at[i], role_at[i + 1] - role_at[i]);
            made.add("\",", 2);
            made.add_text(text(i), length(i));
            made.add("]", 1);
        }
        made.add(at[list] == at[list + 1] ? "[]" : "]", at[list] == at[list + 1] ? 2 : 1);
        made.hex(to);
    }
};

// How many bytes of white space (Python's `str.isspace`) stand here, 0 for none.
static inline int space(const uint8_t* at, const uint8_t* end) {
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

// A text's words with one space between each two; returns their length.
static long words(const uint8_t* at, long count, uint8_t* to) {
    const uint8_t* end = at + count;
    long made = 0;
    while (at < end) {
        int gap = space(at, end);
        if (!gap) to[made++] = *at++;
        else if (at += gap, made && to[made - 1] != ' ') to[made++] = ' ';
    }
    return made && to[made - 1] == ' ' ? made - 1 : made;
}

extern "C" {

// Of `count` prompts, and two answers to each: the ids (32 hex digits each) of prompts, questions, answers (the lesser of each
// two first) and pairs, and whether the two answers of each changed places.
void pair_ids(long count, const int32_t* prompts, const int32_t* prompt_roles, const uint8_t* prompt_role, const int32_t* prompt_texts,
              const uint8_t* prompt_text, const int32_t* answers, const int32_t* answer_roles, const uint8_t* answer_role,
              const int32_t* answer_texts, const uint8_t* answer_text, char* prompt_ids, char* question_ids, char* answer_ids,
              char* ids, uint8_t* swapped) {
    Lists asked{prompts, prompt_roles, prompt_texts, prompt_role, prompt_text};
    Lists said{answers, answer_roles, answer_texts, answer_role, answer_text};
    int longest = 1;
    for (long i = prompts[0]; i < prompts[count]; i++) longest = longest > asked.length(i) ? longest : asked.length(i);
    uint8_t* question = (uint8_t*)malloc(longest);
    for (long i = 0; i < count; i++) {
        char *prompt = prompt_ids + 32 * i, *first = answer_ids + 64 * i, *second = first + 32;
        asked.id(i, prompt);
        said.id(2 * i, first), said.id(2 * i + 1, second);
        swapped[i] = memcmp(first, second, 32) > 0;
        if (swapped[i]) {
            char held[32];
            memcpy(held, first, 32), memcpy(first, second, 32), memcpy(second, held, 32);
        }
        long at = prompts[i], end = prompts[i + 1];
        while (at < end && !asked.user(at)) at++;
        if (at == end) at = prompts[i];
        long length = at < end ? words(asked.text(at), asked.length(at), question) : 0;
        bool same = end - prompts[i] == 1 && asked.user(at) && length == asked.length(at) &&
                    !memcmp(question, asked.text(at), length);
        if (same) {
            memcpy(question_ids + 32 * i, prompt, 32);
        } else {
            Blake2b made;
            made.add("[[\"user\",", 9);
            made.add_text(question, length);
            made.add("]]", 2);
            made.hex(question_ids + 32 * i);
        }
        Blake2b made;
        made.add("[\"", 2), made.add(prompt, 32);
        made.add("\",\"", 3), made.add(first, 32);
        made.add("\",\"", 3), made.add(second, 32);
        made.add("\"]", 2);
        made.hex(ids + 32 * i);
    }
    free(question);
}

}  // extern "C"
