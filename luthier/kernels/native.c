/* Training kernels in float32 for CPUs, called through ctypes with plain pointers.
 *
 * Vectors are those of the compiler (GCC and Clang: vector_size), as wide as the machine's, so that one source serves
 * AVX-512, AVX2, SSE and NEON. No fast-math: each result is the same at every optimisation level and for every number of
 * threads, because every output is the work of one task, which adds in a fixed order.
 *
 * Rows are contiguous; n is the number of rows, d their width. Pointers need no alignment.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int ivec __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec all(float x) { vec v; for (int i = 0; i < LANES; i++) v[i] = x; return v; }
INLINE float sum(vec v) { float s = 0; for (int i = 0; i < LANES; i++) s += v[i]; return s; }

/* e^x by x = k ln 2 + r, |r| <= ln 2 / 2, and the polynomial of Cephes' expf: within 2 units in the last place. Below
 * -87 it is 0 or next to it, above 88 it stays finite. */
INLINE vec vexp(vec x) {
    x = x < all(-87.0f) ? all(-87.0f) : x;
    x = x > all(88.0f) ? all(88.0f) : x;
    const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to whole numbers */
    vec k = (x * all(1.44269504088896341f) + magic) - magic;
    vec r = x - k * all(0.693359375f) - k * all(-2.12194440e-4f);
    vec y = all(1.9875691500e-4f);
    y = y * r + all(1.3981999507e-3f);
    y = y * r + all(8.3334519073e-3f);
    y = y * r + all(4.1665795894e-2f);
    y = y * r + all(1.6666665459e-1f);
    y = y * r + all(5.0000001201e-1f);
    y = y * r * r + r + all(1.0f);
    ivec power = (__builtin_convertvector(k, ivec) + 127) << 23;
    vec scale;
    memcpy(&scale, &power, sizeof scale);
    return y * scale;
}

/* ---- RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467): y = x / sqrt(mean(x^2) + eps) * (offset + weight) --------
 * d is a multiple of LANES; `scales` [n] keeps 1 / sqrt(...). */

void rms_norm(float *y, float *scales, const float *x, const float *weight, float offset, float eps, long n, long d,
              int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < n; row++) {
        const float *a = x + row * d;
        vec squares = all(0), more = all(0);
        long i = 0;
        for (; i + 2 * LANES <= d; i += 2 * LANES) {
            vec u = load(a + i), v = load(a + i + LANES);
            squares += u * u;
            more += v * v;
        }
        for (; i < d; i += LANES) squares += load(a + i) * load(a + i);
        float scale = 1.0f / sqrtf(sum(squares + more) / (float)d + eps);
        scales[row] = scale;
        for (i = 0; i < d; i += LANES) store(y + row * d + i, load(a + i) * all(scale) * (all(offset) + load(weight + i)));
    }
}

/* dx = scale * (g w - x scale^2 mean(g w x)) */
void rms_norm_backward(float *dx, const float *g, const float *x, const float *weight, const float *scales, float offset,
                       long n, long d, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < n; row++) {
        const float *a = x + row * d, *b = g + row * d;
        vec products = all(0);
        for (long i = 0; i < d; i += LANES) products += load(b + i) * (all(offset) + load(weight + i)) * load(a + i);
        float scale = scales[row], mean = sum(products) / (float)d * scale * scale;
        for (long i = 0; i < d; i += LANES)
            store(dx + row * d + i,
                  all(scale) * (load(b + i) * (all(offset) + load(weight + i)) - load(a + i) * all(mean)));
    }
}

/* ---- gated activations (Shazeer 2020, arXiv:2002.05202): y = a(gate) * up -------------------------------------------
 * a(x) = x / (1 + e^-u(x)); u(x) = x is SiLU, u(x) = 2 sqrt(2 / pi) (x + 0.044715 x^3) the tanh form of GELU. n numbers. */

#define CUBE 0.044715f
#define SLOPE 1.5957691216057308f /* 2 sqrt(2 / pi) */

INLINE vec inner(vec x, int gelu) { return gelu ? all(SLOPE) * (x + all(CUBE) * x * x * x) : x; }
INLINE vec inner_slope(vec x, int gelu) { return gelu ? all(SLOPE) * (all(1) + all(3 * CUBE) * x * x) : all(1); }
INLINE vec sigmoid(vec x) { return all(1) / (all(1) + vexp(-x)); }

void gated(float *y, const float *gate, const float *up, long n, int gelu, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long block = 0; block < n / LANES; block++) {
        vec x = load(gate + block * LANES);
        store(y + block * LANES, x * sigmoid(inner(x, gelu)) * load(up + block * LANES));
    }
}

void gated_backward(float *dgate, float *dup, const float *g, const float *gate, const float *up, long n, int gelu,
                    int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long block = 0; block < n / LANES; block++) {
        long i = block * LANES;
        vec x = load(gate + i), slope = load(g + i), s = sigmoid(inner(x, gelu));
        store(dup + i, slope * x * s);
        store(dgate + i, slope * load(up + i) * (s + x * s * (all(1) - s) * inner_slope(x, gelu)));
    }
}
