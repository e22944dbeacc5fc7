// The ids of pairs of conversations of text: BLAKE2b (128 bits, as hex digits) of their JSON, as records.py defines them.
#include <vector>

#include "json_text.h"

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
static const int LANES = 4;
typedef uint64_t Lanes __attribute__((vector_size(8 * LANES)));  // the same word of as many texts

static inline Lanes turned(Lanes x, int by) { return x >> by | x << (64 - by); }

static inline __attribute__((always_inline)) void mix(Lanes& a, Lanes& b, Lanes& c, Lanes& d, Lanes x, Lanes y) {
    a += b + x, d = turned(d ^ a, 32), c += d, b = turned(b ^ c, 24);
    a += b + y, d = turned(d ^ a, 16), c += d, b = turned(b ^ c, 63);
}

// RFC 7693, without a key and with a digest of 16 bytes: a block of each of several texts at a time.
static __attribute__((noinline)) void block(Lanes state[8], const uint8_t* const text[LANES], Lanes length, Lanes last) {
    Lanes m[16], v[16];
    for (int i = 0; i < 16; i++)
        for (int lane = 0; lane < LANES; lane++) {
            uint64_t word;
            memcpy(&word, text[lane] + 8 * i, 8);
            m[i][lane] = word;
        }
    for (int i = 0; i < 8; i++) v[i] = state[i], v[i + 8] = Lanes{} + START[i];
    v[12] ^= length, v[14] ^= last;
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

// JSON texts, end to end, and where the id of each goes.
struct Texts {
    struct Text {
        long begin, end;
        char* id;
    };
    std::vector<uint8_t> bytes;
    std::vector<Text> texts;
    uint8_t* to = nullptr;

    // Begins a text of at most so many bytes.
    void begin(char* id, long most) {
        long used = texts.empty() ? 0 : texts.back().end;
        if ((long)bytes.size() < used + most + 8) bytes.resize(2 * (used + most) + 256);
        texts.push_back({used, used, id}), to = bytes.data() + used;
    }
    void end() { texts.back().end = to - bytes.data(); }
    void add(const void* from, long count) { memcpy(to, from, count), to += count; }
    // A text within quotes, as JSON writes it: six times as many bytes and two at most.
    void add_text(const uint8_t* at, long count) {
        const uint8_t* end = at + count;
        *to++ = '"';
        while (at < end) {
            if (end - at >= 8) {
                uint64_t found = odd(at, false);
                int plain = found ? __builtin_ctzll(found) / 8 : 8;
                memcpy(to, at, 8), to += plain, at += plain;
                if (!found) continue;
            }
            uint8_t c = *at++;
            const char* known = c < 32 || c == '"' || c == '\\' ? strchr("\"\"\\\\\nn\rr\tt\bb\ff", c) : nullptr;
            if (c >= 32 && !known) *to++ = c;
            else if (c && known) *to++ = '\\', *to++ = known[1];
            else add("\\u00", 4), *to++ = HEX[c >> 4], *to++ = HEX[c & 15];
        }
        *to++ = '"';
    }
    // Writes the ids of all texts, which are forgotten.
    void hash() {
        Lanes state[8], length{}, last{};
        uint8_t ends[LANES][128] = {};
        long at[LANES], of[LANES], next = 0, done = 0, count = texts.size();
        for (int i = 0; i < 8; i++) state[i] = Lanes{};
        for (int lane = 0; lane < LANES; lane++) of[lane] = -1;
        while (done < count) {
            const uint8_t* from[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                if (of[lane] < 0 && next < count) {
                    of[lane] = next, at[lane] = texts[next].begin, next++;
                    for (int i = 0; i < 8; i++) state[i][lane] = START[i];
                    state[0][lane] ^= 0x01010000 ^ 16;
                }
                from[lane] = ends[lane];
                if (of[lane] < 0) continue;
                const Text& text = texts[of[lane]];
                long left = text.end - at[lane];
                last[lane] = left <= 128 ? ~0ull : 0;
                if (left < 128) memset(ends[lane], 0, 128), memcpy(ends[lane], bytes.data() + at[lane], left);
                else from[lane] = bytes.data() + at[lane];
                at[lane] += left < 128 ? left : 128;
                length[lane] = at[lane] - text.begin;
            }
            block(state, from, length, last);
            for (int lane = 0; lane < LANES; lane++) {
                if (of[lane] < 0 || !last[lane]) continue;
                uint64_t two[] = {state[0][lane], state[1][lane]};
                const uint8_t* digest = (const uint8_t*)two;
                char* id = texts[of[lane]].id;
                for (int i = 0; i < 16; i++) id[2 * i] = HEX[digest[i] >> 4], id[2 * i + 1] = HEX[digest[i] & 15];
                of[lane] = -1, done++;
            }
        }
        texts.clear();
    }
};

// Lists of messages, end to end, as Arrow keeps them.
struct Lists {
    const int32_t *at, *role_at, *text_at;
    const uint8_t *roles, *texts;

    const uint8_t* text(long i) const { return texts + text_at[i]; }
    long length(long i) const { return text_at[i + 1] - text_at[i]; }
    bool user(long i) const { return role_at[i + 1] - role_at[i] == 4 && !memcmp(roles + role_at[i], "user", 4); }

    void write(long list, char* id, Texts& to) const {
        long begin = at[list], end = at[list + 1];
        to.begin(id, 6 * (text_at[end] - text_at[begin]) + role_at[end] - role_at[begin] + 10 * (end - begin) + 2);
        for (long i = begin; i < end; i++) {
            to.add(i == begin ? "[[\"" : ",[\"", 3);
            to.add(roles + role_at[i], role_at[i + 1] - role_at[i]);
            to.add("\",", 2);
            to.add_text(text(i), length(i));
            to.add("]", 1);
        }
        to.add(begin == end ? "[]" : "]", begin == end ? 2 : 1);
        to.end();
    }
};

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
    const Lists asked{prompts, prompt_roles, prompt_texts, prompt_role, prompt_text};
    const Lists said{answers, answer_roles, answer_texts, answer_role, answer_text};
    const long some = 64;  // so many pairs at a time, whose texts the processor still has at hand
    Texts texts;
    std::vector<uint8_t> question;
    for (long start = 0; start < count; start += some) {
        long stop = start + some < count ? start + some : count;
        bool same[some];
        for (long i = start; i < stop; i++) {
            asked.write(i, prompt_ids + 32 * i, texts);
            said.write(2 * i, answer_ids + 64 * i, texts), said.write(2 * i + 1, answer_ids + 64 * i + 32, texts);
            long at = prompts[i], end = prompts[i + 1];
            while (at < end && !asked.user(at)) at++;
            if (at == end) at = prompts[i];
            question.resize(at < end ? asked.length(at) + 1 : 1);
            long length = at < end ? words(asked.text(at), asked.length(at), question.data()) : 0;
            same[i - start] = end - prompts[i] == 1 && asked.user(at) && length == asked.length(at) &&
                              !memcmp(question.data(), asked.text(at), length);
            if (same[i - start]) continue;
            texts.begin(question_ids + 32 * i, 6 * length + 16);
            texts.add("[[\"user\",", 9), texts.add_text(question.data(), length), texts.add("]]", 2);
            texts.end();
        }
        texts.hash();
        for (long i = start; i < stop; i++) {
            char *prompt = prompt_ids + 32 * i, *first = answer_ids + 64 * i, *second = first + 32;
            if (same[i - start]) memcpy(question_ids + 32 * i, prompt, 32);
            swapped[i] = memcmp(first, second, 32) > 0;
            if (swapped[i]) {
                char held[32];
                memcpy(held, first, 32), memcpy(first, second, 32), memcpy(second, held, 32);
            }
            texts.begin(ids + 32 * i, 128);
            texts.add("[\"", 2), texts.add(prompt, 32);
            texts.add("\",\"", 3), texts.add(first, 32);
            texts.add("\",\"", 3), texts.add(second, 32);
            texts.add("\"]", 2);
            texts.end();
        }
        texts.hash();
    }
}

}  // extern "C"
