// Rows of JSON lines that hold a prompt and two responses of text, read straight into the buffers of Arrow's lists of messages.
// A row with anything in it that is not surely read here as `json` and `PlainRows` read it is left to them.
#include <vector>

#include "json_text.h"

enum Kind { IGNORED, PROMPT, ONE, OTHER, SAID };
enum Role { SYSTEM, USER, ASSISTANT };

struct Left {};  // thrown where a row is left

struct Turn {
    int role;
    const uint8_t* text;
    long length, chars;

    bool operator==(const Turn& t) const { return role == t.role && says(t); }
    bool says(const Turn& t) const { return length == t.length && !memcmp(text, t.text, length); }
    bool holds(const char* mark) const { return memmem(text, length, mark, strlen(mark)); }
};

// Texts, end to end: text i is [at[i], at[i + 1]).
struct Names {
    const uint8_t* text;
    const int32_t *at, *of;
    long count;

    long find(const uint8_t* name, long length) const {
        for (long i = 0; i < count; i++)
            if (at[i + 1] - at[i] == length && !memcmp(text + at[i], name, length)) return i;
        return -1;
    }
};

// How many bytes of white space stand at the start of a sound text.
static long blank(const uint8_t* text, long length) {
    const uint8_t *at = text, *end = text + length;
    while (int gap = space(at, end)) at += gap;
    return at - text;
}

struct Reader {
    const uint8_t *at, *end;
    uint8_t* free;  // where the next text goes
    Names names, roles;
    long longest;
    std::vector<Turn> turns[4];  // by kind
    std::vector<const uint8_t*> said;
    long shortest;  // bytes of a response that is a text

    uint8_t here() const {
        if (at == end) throw Left();
        return *at;
    }
    uint8_t next() {
        while (at < end && (*at == ' ' || *at == '\t' || *at == '\r')) at++;
        return here();
    }
    void take(char c) {
        if (next() != c) throw Left();
        at++;
    }
    bool more(char close) {  // after an item: whether another one follows
        uint8_t c = next();
        at++;
        if (c != ',' && c != close) throw Left();
        return c == ',';
    }
    long name(const Names& of) {  // -1 for one that is not known
        take('"');
        const uint8_t* from = at;
        while (here() != '"') {
            if (*at < 32 || *at == '\\') throw Left();
            at++;
        }
        return of.find(from, at++ - from);
    }
    unsigned hex() {
        unsigned value = 0;
        for (int i = 0; i < 4; i++, at++) {
            uint8_t c = here();
            if (c >= '0' && c <= '9') value = value * 16 + c - '0';
            else if ((c | 32) >= 'a' && (c | 32) <= 'f') value = value * 16 + (c | 32) - 'a' + 10;
            else throw Left();
        }
        return value;
    }
    void escape(uint8_t*& to) {
        at++;
        uint8_t c = here();
        at++;
        if (c != 'u') {
            static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
            const char* known = c ? strchr(from, c) : nullptr;
            if (!known) throw Left();
            *to++ = into[known - from];
            return;
        }
        unsigned v = hex();
        if (v >= 0xd800 && v < 0xdc00 && end - at > 6 && at[0] == '\\' && at[1] == 'u') {
            at += 2;
            unsigned low = hex();
            if (low < 0xdc00 || low > 0xdfff) throw Left();
            v = 0x10000 + ((v - 0xd800) << 10) + low - 0xdc00;
        } else if (!v || (v >= 0xd800 && v < 0xe000)) throw Left();
        if (v < 0x80) *to++ = v;
        else if (v < 0x800) *to++ = 0xc0 | v >> 6, *to++ = 0x80 | (v & 63);
        else if (v < 0x10000) *to++ = 0xe0 | v >> 12, *to++ = 0x80 | (v >> 6 & 63), *to++ = 0x80 | (v & 63);
        else *to++ = 0xf0 | v >> 18, *to++ = 0x80 | (v >> 12 & 63), *to++ = 0x80 | (v >> 6 & 63), *to++ = 0x80 | (v & 63);
    }
    void wide(uint8_t*& to) {  // a character of more than one byte
        uint8_t c = *at;
        int more = c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 0;
        if (!more || end - at <= more) throw Left();
        uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (at[1] < low || at[1] > high) throw Left();
        for (int i = 2; i <= more; i++)
            if ((at[i] & 0xc0) != 0x80) throw Left();
        for (int i = 0; i <= more; i++) *to++ = *at++;
    }
    Turn text() {
        take('"');
        uint8_t* to = free;
        long beyond = 0;  // bytes of characters after their first
        for (;;) {
            while (end - at >= 8) {
                uint64_t found = odd(at, true);
                int plain = found ? __builtin_ctzll(found) / 8 : 8;
                memcpy(to, at, 8), to += plain, at += plain;
                if (found) break;
            }
            uint8_t c = here();
            if (c == '"') break;
            if (c < 32) throw Left();
            uint8_t* from = to;
            if (c == '\\') escape(to);
            else if (c > 127) wide(to);
            else *to++ = c, at++;
            beyond += to - from - 1;
        }
        at++;
        return {USER, free, to - free, to - free - beyond};
    }
    void keep(Kind kind, Turn& turn) {
        free += turn.length;
        if (blank(turn.text, turn.length) == turn.length || turn.chars > longest) throw Left();
        if (turn.role != ASSISTANT && turn.holds("<image>")) throw Left();
        turns[kind].push_back(turn);
    }
    void message(Kind kind) {
        static const uint8_t fields[] = "rolecontentfromvalue";
        static const int32_t field_at[] = {0, 4, 11, 15, 20};
        const Names known{fields, field_at, nullptr, 4};
        Turn turn{-1, nullptr, 0, 0};
        int found = 0;
        take('{');
        do {
            long field = name(known);
            if (field < 0 || found & 1 << field) throw Left();
            found |= 1 << field;
            take(':');
            Turn value = text();
            if (field % 2 == 0) {
                for (long i = 0; i < value.length; i++)
                    if (free[i] >= 'A' && free[i] <= 'Z') free[i] |= 32;
                long role = roles.find(free, value.length);
                if (role < 0) throw Left();
                turn.role = roles.of[role];
            } else {
                turn.text = value.text, turn.length = value.length, turn.chars = value.chars;
                free += value.length;
            }
        } while (more('}'));
        if (found != 3 && found != 12) throw Left();
        free -= turn.length;  // `keep` steps over it
        keep(kind, turn);
    }
    void dialogue(Kind kind) {
        if (next() == '"') {
            Turn said = text();
            said.role = kind == PROMPT ? USER : ASSISTANT;
            if (kind != PROMPT && said.length < shortest) shortest = said.length;
            if (said.holds("<extra_id_1>")) throw Left();
            bool several = said.holds("Assistant:");
            keep(kind, said);
            uint8_t first = said.text[blank(said.text, said.length)];
            if (first == '[' || first == '{' || first == '<') throw Left();
            if (several) transcript(kind);
            return;
        }
        take('[');
        do message(kind);
        while (more(']'));
    }
    // `spoken`: the last text becomes turns, each after a speaker's mark with an empty line before it; it is left where it has none.
    void transcript(Kind kind) {
        const uint8_t *text = turns[kind].back().text, *stop = text + turns[kind].back().length, *from = text + blank(text, stop - text);
        if (turns[kind].back().holds("<image>")) throw Left();
        turns[kind].pop_back();
        int role = mark(from, stop);
        bool answered = role == ASSISTANT;
        for (const uint8_t* to = from; role >= 0; to++) {
            if (!(to = (const uint8_t*)memchr(to, '\n', stop - to))) to = stop;
            const uint8_t *gap = to + (to < stop ? blank(to, stop - to) : 0), *after = gap;
            int then = to == stop || (gap - to > 1 && gap[-1] == '\n') ? mark(after, stop) : -1;
            if (to < stop && then < 0) {
                to = gap - 1;
                continue;
            }
            add_turn(kind, role, from, to);
            answered |= then == ASSISTANT;
            from = after, to = after - 1, role = then;
        }
        if (!answered) throw Left();
        if (turns[kind].back().role == ASSISTANT && !turns[kind].back().length) turns[kind].pop_back();
        if (turns[kind].empty()) throw Left();
        for (auto& t : turns[kind])
            if (!t.length) throw Left();
    }
    // The role that a speaker's mark names ("## Human:"), after which `at` stands then; -1 where there is none.
    static int mark(const uint8_t*& at, const uint8_t* stop) {
        static const struct { const char* name; int role; } marks[] = {
            {"Human:", USER}, {"User:", USER}, {"Assistant:", ASSISTANT}, {"System:", SYSTEM}};
        const uint8_t* from = at;
        while (from < stop && *from == '#') from++;
        if (from > at && from < stop && *from == ' ') from++;
        for (auto& m : marks) {
            long length = strlen(m.name);
            if (stop - from >= length && !memcmp(from, m.name, length)) return at = from + length, m.role;
        }
        return -1;
    }
    void add_turn(Kind kind, int role, const uint8_t* from, const uint8_t* to) {  // without white space around it
        from += blank(from, to - from);
        while (to > from) {
            const uint8_t* last = to - 1;
            while ((*last & 0xc0) == 0x80) last--;
            if (blank(last, to - last) < to - last) break;
            to = last;
        }
        Turn made{role, from, to - from, 0};
        for (const uint8_t* p = from; p < to; p++) made.chars += (*p & 0xc0) != 0x80;
        turns[kind].push_back(made);
    }
    void number() {
        const uint8_t* from = at;
        auto digits = [&] {
            if (here() < '0' || *at > '9') throw Left();
            while (here() >= '0' && *at <= '9') at++;
        };
        if (*at == '-') at++;
        if (here() == '0') at++;
        else digits();
        if (here() == '.') at++, digits();
        if ((here() | 32) == 'e') {
            at++;
            if (here() == '+' || *at == '-') at++;
            digits();
        }
        if (at - from > 40) throw Left();
    }
    void skip(int depth) {  // a value that is not looked at; deeper than that, the row is left
        uint8_t c = next();
        if (c == '"') text();
        else if (c == '[' && depth) {
            at++;
            if (next() == ']') at++;
            else do skip(depth - 1);
                while (more(']'));
        } else {
            for (const char* word : {"null", "true", "false"})
                if (end - at > (long)strlen(word) && !memcmp(at, word, strlen(word))) {
                    at += strlen(word);
                    return;
                }
            number();
        }
    }
    // The fields of a row, each of those that are looked at once.
    void row(long fields_said, long needed) {
        for (auto& t : turns) t.clear();
        said.assign(2 * fields_said, nullptr);
        shortest = INT64_MAX;
        long seen = 0, found = 0, said_bytes = 0;
        take('{');
        do {
            long field = name(names);
            if (field < 0 || seen >> field & 1) throw Left();
            seen |= 1L << field;
            take(':');
            int kind = names.of[field];
            if (kind == IGNORED) {
                skip(0);
            } else if (kind >= SAID) {
                next();
                said[2 * (kind - SAID)] = at;
                skip(1);
                said[2 * (kind - SAID) + 1] = at;
                said_bytes += at - said[2 * (kind - SAID)];
                found++;
            } else {
                dialogue((Kind)kind);
                found++;
            }
        } while (more('}'));
        while (at < end && (*at == ' ' || *at == '\t' || *at == '\r')) at++;
        if (at != end || found != needed) throw Left();
        if (fields_said && shortest <= said_bytes) throw Left();  // a label can be the text of a response
    }
    // `PlainRows.taken`: `turns` become the prompt, and what follows it in each response.
    void settle() {
        auto &prompt = turns[PROMPT], &one = turns[ONE], &other = turns[OTHER];
        if (one.back().role != ASSISTANT || other.back().role != ASSISTANT) throw Left();
        size_t same = 0;
        while (same < one.size() && same < other.size() && one[same] == other[same]) same++;
        if (same == one.size() || same == other.size()) throw Left();
        std::vector<Turn> shared(one.begin(), one.begin() + same);
        if (one[0].role == ASSISTANT) {
            if (prompt.empty() || prompt.back().role == ASSISTANT || (!same && other[0].role != ASSISTANT)) throw Left();
            shared.insert(shared.begin(), prompt.begin(), prompt.end());
        } else {
            if (!same) throw Left();
            for (auto& p : prompt) {
                bool known = false;
                for (auto& s : shared) known |= s.says(p);
                if (!known) throw Left();
            }
        }
        bool asked = false;
        for (auto& t : shared) asked |= t.role == USER;
        if (!asked) throw Left();
        one.erase(one.begin(), one.begin() + same), other.erase(other.begin(), other.begin() + same);
        prompt = shared;
    }
};

// Lists of messages being made.
struct Lists {
    int32_t *counts, *text_at;
    uint8_t *roles, *texts;
    long messages;

    long add(const std::vector<Turn>& turns) {
        long chars = 0;
        *counts++ = turns.size();
        for (auto& t : turns) {
            memcpy(texts + text_at[messages], t.text, t.length);
            text_at[messages + 1] = text_at[messages] + t.length;
            roles[messages++] = t.role, chars += t.chars;
        }
        return chars;
    }
};

extern "C" {

// Read `size` bytes of lines. `names` (at most 62) are the fields that rows may have, each of a `Kind` (SAID and more: the first,
// the second, ... of `fields_said`); a row has all but those that are ignored. Made are `taken` (lines,), and of the rows taken
// their prompts, their responses (two a row), characters, and where in `data` what is said begins and ends. Returns their number.
long read_rows(long size, long longest, long fields_said, long needed, long names, long roles, const uint8_t* data, const uint8_t* name_text,
               const int32_t* name_at, const int32_t* name_kind, const uint8_t* role_text, const int32_t* role_at, const int32_t* role_of,
               uint8_t* taken, int32_t* prompt_counts, uint8_t* prompt_roles, int32_t* prompt_at, uint8_t* prompt_text, int32_t* answer_counts,
               uint8_t* answer_roles, int32_t* answer_at, uint8_t* answer_text, int64_t* chars, int64_t* said, uint8_t* scratch, int64_t* messages) {
    Lists asked{prompt_counts, prompt_at, prompt_roles, prompt_text, 0}, answered{answer_counts, answer_at, answer_roles, answer_text, 0};
    *prompt_at = *answer_at = 0;
    Reader reader{};
    reader.names = {name_text, name_at, name_kind, names}, reader.roles = {role_text, role_at, role_of, roles}, reader.longest = longest;
    long rows = 0;
    for (const uint8_t *at = data, *stop = data + size; at <= stop; at = reader.end + 1, taken++) {
        const uint8_t* end = (const uint8_t*)memchr(at, '\n', stop - at);
        reader.at = at, reader.end = end ? end : stop, reader.free = scratch;
        *taken = 0;
        if (at == reader.end || *at != '{') continue;
        try {
            reader.row(fields_said, needed);
            reader.settle();
        } catch (Left) {
            continue;
        }
        *taken = 1;
        chars[rows] = asked.add(reader.turns[PROMPT]) + answered.add(reader.turns[ONE]) + answered.add(reader.turns[OTHER]);
        for (long i = 0; i < 2 * fields_said; i++) said[2 * fields_said * rows + i] = reader.said[i] - data;
        rows++;
    }
    messages[0] = asked.messages, messages[1] = answered.messages;
    return rows;
}

}  // extern "C"
