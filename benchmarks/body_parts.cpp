// Where the time of a compiled pass goes (src/assay/body_cpu.cpp), part by part, at the shapes of SmolLM2-135M, on one core:
//
//     g++ -O3 -march=native -fno-math-errno -fno-trapping-math -I src/assay benchmarks/body_parts.cpp -o /tmp/body_parts
//     taskset -c 1 /tmp/body_parts 
//
// A part's time is counted in that of a `vdpbf16ps` of 512 bits in registers (64 operations), measured just before and after
// it, so that a clock that changes says nothing. Other processes do: each call is short, and beside medians are the 10th
// percentiles.
#include <cstdio>
#include <cstdlib>
#include <random>

#include "body_cpu.cpp"

static double now() {
    unsigned core;
    _mm_lfence();
    double at = (double)__rdtscp(&core);
    _mm_lfence();
    return at;
}

__attribute__((noinline)) static void in_registers(long rounds) {  // 16 products a round, none waits for another
    __m512 sums[16] = {};
    __m512bh zero = (__m512bh)_mm512_setzero_si512();
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(sums[i]) : "v"(zero));
    }
}

// The time of a part in products, added up over its calls: of each the 10th percentile and the median.
struct Time {
    double fast = 0, median = 0;

    template <class Work>
    void add(long times, Work&& work) {
        std::vector<double> found;
        for (long n = 0; n < times; n++) {
            double a = now();
            in_registers(2000);
            double b = now();
            work(n);
            double c = now();
            in_registers(2000);
            found.push_back((c - b) / ((b - a + now() - c) / 64000));
        }
        std::sort(found.begin(), found.end());
        fast += found[times / 10], median += found[times / 2];
    }

    void say(const char* name, double rows, double needed = 0) const {
        std::printf("%-32s %8.0f %8.0f", name, fast / rows, median / rows);
        double all = 100 * needed * rows;
        if (needed) std::printf(" %8.0f   %5.1f %%  %5.1f %%", needed, all / fast, all / median);
        std::puts("");
    }
};

constexpr long H = 9, K = 3, D = 64, WIDTH = 576, INNER = 1536, SETS = 3, TIMES = 200;
static std::mt19937 draw(0);

static std::vector<half> halves(long n, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<half> made(n);
    for (auto& h : made) narrow_to(&h, _mm512_set1_ps(normal(draw)), 1);
    return made;
}

// 14 prompts with two answers each, of lengths as bench_score.py has them.
static std::vector<Job> pack() {
    std::lognormal_distribution<double> length(0, 0.7);
    auto some = [&](double median) { return std::clamp((long)(median * length(draw)), 8L, 600L); };
    std::vector<Job> jobs;
    long T = 0;
    auto next = [&](long rows, long prefix, long shared) { jobs.push_back({T, 0, rows, prefix, shared, T}), T += rows; };
    for (int i = 0; i < 14; i++) {
        long prompt = T, n = some(110);
        next(n, 0, 0);
        for (int k = 0; k < 2; k++) next(some(190), prompt, n);
    }
    return jobs;
}

// A product of blocks of ROWS rows of x (those of block b are at from(b)), a few panels a call, with one of SETS of weights.
template <class From, class Put>
static void part(const char* name, From&& from, long row, long depth, long columns, Put&& put) {
    static std::vector<half> panels;
    panels = halves(SETS * depth * columns, .05f);
    Time time;
    for (long first = 0, all = columns / PANEL; first < all; first += 12)
        time.add(TIMES, [&](long b) {
            product(from(b), row, ROWS, &panels[b % SETS * depth * columns], depth / 2, depth / 2, nullptr, first,
                    std::min(all, first + 12), put(b));
        });
    time.say(name, ROWS, depth * columns / 32.);
}

int main() {
    std::vector<Job> jobs = pack();
    const long T = jobs.back().first + jobs.back().rows, blocks = T / ROWS, wide = apart(WIDTH), deep = apart(INNER);
    Sizes z{1, H, K, D, WIDTH, INNER, D, apart_of(H * D), 1, 0, 1e-5f, 0.125f};
    auto keys = halves(T * K * D, 1), values = halves(T * K * D, 1), heads = halves(T * z.row, 1);
    auto rows = halves(ROWS * (wide + deep), 1);
    std::vector<float> x(T * WIDTH, 1), made(ROWS * 2 * WIDTH), norm(WIDTH, 1);
    half* gated = &rows[ROWS * wide];
    Layer layer{};
    layer.keys = keys.data(), layer.values = values.data();
    std::printf("%ld tokens; a token and layer, in products of 512 bits\n", T);
    std::printf("%-32s %8s %8s %8s   needed, of these\n", "", "10th", "median", "needed");
    auto near = [&](long) { return rows.data(); };
    auto far = [&](long b) { return &heads[b % blocks * ROWS * z.row]; };
    auto inner = [&](long) { return gated; };
    auto to_made = [&](long) { return Floats{made.data(), 2 * WIDTH, 2 * WIDTH}; };
    auto to_near = [&](long) { return Added{x.data(), WIDTH, WIDTH}; };
    auto to_far = [&](long b) { return Added{&x[b % blocks * ROWS * WIDTH], WIDTH, WIDTH}; };
    part("queries", near, wide, WIDTH, H * D, to_made);
    part("keys and values", near, wide, WIDTH, 2 * K * D, to_made);
    part("output, in and to memory", far, z.row, H * D, WIDTH, to_far);
    part("output, were both in the cache", near, wide, H * D, WIDTH, to_near);
    part("gate and up, and the gate", near, wide, WIDTH, 2 * INNER, [&](long) { return Gated{gated, deep, INNER}; });
    part("down, to memory", inner, deep, INNER, WIDTH, to_far);
    part("down, were it in the cache", inner, deep, INNER, WIDTH, to_near);
    Time norms, attention;
    norms.add(TIMES, [&](long b) {
        normalise(&x[b % blocks * ROWS * WIDTH], WIDTH, ROWS, norm.data(), WIDTH, 1e-5f, nullptr, rows.data(), wide);
    });
    norms.say("a norm", ROWS);
    double needed = 0;
    for (auto& j : jobs) {
        needed += 4. * H * D / 64 * j.rows * (j.shared + (j.rows + 1) / 2.);
        for (long k = 0; k < K; k++)
            attention.add(20, [&](long) { attend(layer, z, j, k, &heads[j.at * z.row]); });
    }
    attention.say("attention", T, needed / T);
}
