// The words of a text as curate/words.py defines them, read from UTF-8, each as a 64-bit hash of its characters.
#include <cstdint>

constexpr uint64_t START = 0x9E3779B97F4A7C15, STEP = 0xD6E8FEB86659FD93, BASE = 0xA24BAED4963EE407;
constexpr uint8_t PART = 0x1e;  // ends a part of a document (see near_duplicates.py); no word either way

static inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * STEP;
    x = (x ^ (x >> 29)) * STEP;
    return x ^ (x >> 32);
}

// What is a whole thing of `count` words, not a run within one.
static inline uint64_t whole(uint64_t polynomial, uint64_t count) { return mixed(polynomial ^ (count * START)); }

// A character's entry, as words.py packs it.
static inline uint32_t own(uint32_t entry) { return entry & 3; }
static inline uint32_t kind(uint32_t entry) { return (entry >> 2) & 3; }
static inline uint32_t order(uint32_t entry) { return (entry >> 4) & 255; }
static inline uint32_t target(uint32_t entry) { return entry >> 12; }
enum { GAP, LETTER, SINGLE };                  // what a character is to words
enum { ITSELF, ANOTHER, SEVERAL, IN_CONTEXT };  // what it becomes: NFKC, lower case

struct Characters {
    const uint32_t* entries;    // 0x110000 of them
    const uint32_t* sequences;  // SEVERAL: a count and as many characters
    uint8_t ascii[256];         // the lower-case letter or digit; 0 for a gap, 255 for what is not ASCII

    Characters(const uint32_t* entries, const uint32_t* sequences) : entries(entries), sequences(sequences) {
        for (int c = 0; c < 256; c++) {
            bool upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
            ascii[c] = c > 127 ? 255 : upper ? c + 32 : lower || digit ? c : 0;
        }
    }
};

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

// Calls word(hash) for every word of [at, end), and part() at every PART. False where a character's form depends on its
// neighbours: such a text must be brought to NFKC and lower case first, and read with `done`.
template <class Reader>
static bool read(const uint8_t* at, const uint8_t* end, const Characters& characters, bool done, Reader& reader) {
    uint64_t hash = START;
    uint32_t before = 0;  // the order of the combining mark before
    bool inside = false;
    auto leave = [&] {
        if (inside) reader.word(mixed(hash));
        hash = START, inside = false;
    };
    auto take = [&](uint32_t c, uint32_t what) {
        if (what == LETTER) {
            hash = (hash ^ c) * STEP, inside = true;
        } else {
            leave();
            if (what == SINGLE) reader.word(mixed((START ^ c) * STEP));
        }
    };
    while (at < end) {
        uint8_t ascii = characters.ascii[*at];
        if (ascii != 255) {
            if (ascii) {
                hash = (hash ^ ascii) * STEP, inside = true;
            } else {
                leave();
                if (*at == PART) reader.part();
            }
            at++, before = 0;
            continue;
        }
        uint32_t c = character(at, end), entry = characters.entries[c];
        if (done) {
            take(c, own(entry));
            continue;
        }
        if (kind(entry) == ITSELF) {
            uint32_t now = order(entry);
            if (now && now < before) return false;
            take(c, own(entry));
        } else if (kind(entry) == ANOTHER) {
            take(target(entry), own(characters.entries[target(entry)]));
        } else if (kind(entry) == SEVERAL) {
            const uint32_t* sequence = characters.sequences + target(entry);
            for (uint32_t i = 1; i <= sequence[0]; i++) take(sequence[i], own(characters.entries[sequence[i]]));
        } else {
            return false;
        }
        before = order(entry);
    }
    leave();
    reader.part();
    return true;
}
