// The words of a text as curate/words.py defines them, read from UTF-8, each as a 64-bit hash of its bytes.
#include <cstdint>
#include <cstring>
#include <vector>

constexpr uint64_t START = 0x9E3779B97F4A7C15, STEP = 0xD6E8FEB86659FD93, BASE = 0xA24BAED4963EE407;
constexpr uint8_t PART = 0x1e;  // between the parts of a document (see minhash.py); a gap between words

static inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * STEP;
    x = (x ^ (x >> 29)) * STEP;
    return x ^ (x >> 32);
}

// The hash of all words together; never that of a run.
static inline uint64_t whole(const uint64_t* words, long count) {
    uint64_t sum = 0;
    for (long i = 0; i < count; i++) sum = sum * BASE + words[i];
    return mixed(sum ^ (count * START));
}

// Appends to `to` the hash of every `n` words in a row: a polynomial of theirs.
static inline void runs(const uint64_t* words, long count, long n, std::vector<uint64_t>& to) {
    if (count < n) return;
    uint64_t power = 1, run = 0;
    for (long i = 0; i < n; i++) power *= BASE, run = run * BASE + words[i];
    to.push_back(run);
    for (long i = n; i < count; i++) to.push_back(run = run * BASE + (words[i] - power * words[i - n]));
}

// A character's entry, as words.py packs it.
static inline uint32_t own(uint32_t entry) { return entry & 3; }
static inline uint32_t kind(uint32_t entry) { return (entry >> 2) & 3; }
static inline uint32_t order(uint32_t entry) { return (entry >> 4) & 255; }
static inline uint32_t target(uint32_t entry) { return entry >> 12; }
enum { GAP, LETTER, SINGLE };                  // what a character is to words
enum { ITSELF, ANOTHER, SEVERAL, IN_CONTEXT };  // what it becomes: NFKC, lower case

constexpr long BLOCK = 32;
typedef uint8_t Block __attribute__((vector_size(BLOCK), aligned(1), may_alias));
typedef uint64_t Quarters __attribute__((vector_size(BLOCK), aligned(1), may_alias));

// Lower-case letters and digits of ASCII, and a space for all else.
static inline Block plain(Block c) {
    Block low = c | 32, letter = (Block)((low - 'a') < 26), digit = (Block)((c - '0') < 10);
    return (low & letter) | (c & digit) | (32 & ~(letter | digit));
}

// One character of more than one byte; `at` is moved behind it. Broken UTF-8 is a gap, byte by byte.
static inline uint32_t character(const uint8_t*& at, const uint8_t* end) {
    uint32_t first = *at++;
    int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - at < more) return 0;
    uint32_t c = first & (0x3f >> more);
    for (int i = 0; i < more; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (at[i] & 0x3f);
    }
    at += more;
    return c > 0x10ffff ? 0 : c;
}

class Words {
    const uint32_t* entries;    // 0x110000 of them
    const uint32_t* sequences;  // SEVERAL: a count and as many characters
    std::vector<uint8_t> form;  // the words, spaces between them
    uint8_t* to = nullptr;

    void put(uint32_t c) {
        uint32_t what = own(entries[c]);
        if (what != LETTER) *to++ = ' ';
        if (what == GAP) return;
        int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        *to++ = more ? ((0xff00 >> (more + 1)) & 0xff) | c >> (6 * more) : c;
        for (int i = more - 1; i >= 0; i--) *to++ = 0x80 | ((c >> (6 * i)) & 0x3f);
        if (what == SINGLE) *to++ = ' ';
    }

    // At least 3 bytes for every one that is left to read, and some: few characters become more (see `several`).
    void room(size_t left) {
        size_t used = to - form.data(), needed = used + 3 * left + 4 * BLOCK;
        if (form.size() < needed) form.resize(2 * needed);
        to = form.data() + used;
    }

    bool several(const uint32_t* sequence, size_t left) {
        size_t used = to - form.data();
        if (form.size() < used + 6 * sequence[0] + 3 * left + 4 * BLOCK) room(left + 2 * sequence[0]);
        for (uint32_t i = 1; i <= sequence[0]; i++) put(sequence[i]);
        return true;
    }

    // False where a character's form depends on its neighbours.
    bool bring(const uint8_t* at, const uint8_t* end, bool done) {
        uint32_t before = 0;  // the order of the combining mark before
        while (at < end) {
            if (end - at >= BLOCK) {
                Block block = *(const Block*)at;
                Quarters high = (Quarters)block & 0x8080808080808080;
                if (!(high[0] | high[1] | high[2] | high[3])) {
                    *(Block*)to = plain(block);
                    to += BLOCK, at += BLOCK, before = 0;
                    continue;
                }
            }
            for (const uint8_t* stop = at + BLOCK < end ? at + BLOCK : end; at < stop;) {
                if (*at < 0x80) {
                    uint8_t c = *at++, low = c | 32;
                    *to++ = (uint8_t)(low - 'a') < 26 ? low : (uint8_t)(c - '0') < 10 ? c : ' ';
                    before = 0;
                    continue;
                }
                uint32_t c = character(at, end), entry = entries[c];
                if (done || kind(entry) == ITSELF) {
                    if (!done && order(entry) && order(entry) < before) return false;
                    put(c);
                } else if (kind(entry) == ANOTHER) {
                    put(target(entry));
                } else if (kind(entry) == IN_CONTEXT || !several(sequences + target(entry), end - at)) {
                    return false;
                }
                before = order(entry);
            }
        }
        return true;
    }

    // The hash of a word: of its bytes, eight at a time, the last eight filled up with zeros.
    void hash(const uint8_t* at, const uint8_t* end) {
        constexpr uint64_t ONES = 0x0101010101010101;
        if ((long)hashes.size() < (end - at) / 2 + 2) hashes.resize(end - at + 2);
        uint64_t value = START, *word = hashes.data();
        while (at < end) {
            uint64_t eight;
            memcpy(&eight, at, 8);
            uint64_t other = eight ^ (ONES * ' '), space = (other - ONES) & ~other & (ONES * 0x80);
            if (!space) {
                value = mixed(value ^ eight), at += 8;
                continue;
            }
            int bits = __builtin_ctzll(space) & ~7;
            bool any = bits || value != START;
            *word = mixed(value ^ (eight & ((1ull << bits) - 1)));
            word += any, value = START;
            at += bits / 8 + 1;
        }
        count = word - hashes.data();
    }

   public:
    std::vector<uint64_t> hashes;
    long count = 0;  // of the words; `hashes` has room for more

    Words(const uint32_t* entries, const uint32_t* sequences) : entries(entries), sequences(sequences) {}

    // The words of [at, end) to `hashes`, `count` of them. False where the text must be brought to NFKC and lower case first (then: `done`).
    bool read(const uint8_t* at, const uint8_t* end, bool done) {
        to = form.data();
        room(end - at);
        if (!bring(at, end, done)) return false;
        *to++ = ' ';
        memset(to, ' ', 8);
        hash(form.data(), to);
        return true;
    }
};
