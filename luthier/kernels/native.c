/* Training kernels in float32 for CPUs, called through ctypes with plain pointers.
 *
 * Vectors are those of the compiler (GCC and Clang: vector_size), as wide as the machine's, so that one source serves
 * AVX-512, AVX2, SSE and NEON. No fast-math: each result is the same at every optimisation level and for every number of
 * threads, because every output is the work of one task, which adds in a fixed order.
 *
 * Rows are contiguous; n is the number of rows, d their width. Pointers need no alignment.
 */
#include <math.h>
#include <omp.h>
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

/* a where the mask is set, else b */
INLINE vec pick(ivec mask, vec a, vec b) {
    ivec u, v;
    memcpy(&u, &a, sizeof u);
    memcpy(&v, &b, sizeof v);
    u = (u & mask) | (v & ~mask);
    memcpy(&a, &u, sizeof a);
    return a;
}

/* e^x by x = k ln 2 + r, |r| <= ln 2 / 2, and the polynomial of Cephes' expf: within 2 units in the last place. Below
 * -87 it is 0 or next to it, above 88 it stays finite. */
INLINE vec vexp(vec x) {
    x = pick(x < all(-87.0f), all(-87.0f), x);
    x = pick(x > all(88.0f), all(88.0f), x);
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

INLINE vec inner(vec x, long gelu) { return gelu ? all(SLOPE) * (x + all(CUBE) * x * x * x) : x; }
INLINE vec inner_slope(vec x, long gelu) { return gelu ? all(SLOPE) * (all(1) + all(3 * CUBE) * x * x) : all(1); }
INLINE vec sigmoid(vec x) { return all(1) / (all(1) + vexp(-x)); }

void gated(float *y, const float *gate, const float *up, long n, long gelu, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long block = 0; block < n / LANES; block++) {
        vec x = load(gate + block * LANES);
        store(y + block * LANES, x * sigmoid(inner(x, gelu)) * load(up + block * LANES));
    }
}

void gated_backward(float *dgate, float *dup, const float *g, const float *gate, const float *up, long n, long gelu,
                    int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long block = 0; block < n / LANES; block++) {
        long i = block * LANES;
        vec x = load(gate + i), slope = load(g + i), s = sigmoid(inner(x, gelu));
        store(dup + i, slope * x * s);
        store(dgate + i, slope * load(up + i) * (s + x * s * (all(1) - s) * inner_slope(x, gelu)));
    }
}

/* ---- attention over pieces (Dao et al. 2022, arXiv:2205.14135: in tiles, the scores are never held) ------------------
 *
 * A piece is a run of queries and the keys that they may see: all of its ancestors' and its own, listed as places in the
 * row. Query i of `length` stands at place keys - length + i of that list; it sees what stands there and before, at
 * most `window` of it (0: all). Heads share keys in groups of `heads / kv_heads`.
 *
 * q, k, v, o and their slopes are [T, heads, d] with d contiguous; `*_row` and `*_head` are strides in numbers. o, dq, dk
 * and dv are contiguous, the latter three zeros at the beginning; `lse` [heads, T] keeps the log of the sum of exponents.
 * d is a multiple of 2 * LANES. `pieces` [n, 5]: first query, length, first of its keys in `places`, keys, tree; pieces of
 * one tree (which share keys) are one task, since their slopes of keys add up. `work` [threads, room] is for each thread
 * 4 numbers for each number of the longest list of keys (in whole tiles), and one for each query of a group of heads.
 */
#define KEYS 64 /* keys of a tile: a multiple of 2 * LANES */
#define ROWS 48 /* queries of a tile */
#define BLOCK 6 /* rows of a product that are held in registers, two vectors each */
#define NEVER (-1e30f)

/* e^x of what cannot be above 0: large scores are rounded once in a product and once in what is taken off them */
INLINE vec share(vec x) { return vexp(pick(x > all(0), all(0), x)); }

long lanes(int threads) { (void)threads; return LANES; }

/* c [rows, 2 vectors] (+)= a [rows, depth] b [depth, 2 vectors]; a is read with strides of its own, so also transposed */
#define PRODUCT(R)                                                                                                     \
    INLINE void product##R(float *c, long c_row, const float *a, long a_row, long a_column, const float *b, long b_row, \
                           long depth, int add) {                                                                     \
        vec left[R], right[R];                                                                                         \
        for (int r = 0; r < R; r++) {                                                                                  \
            left[r] = add ? load(c + r * c_row) : all(0);                                                             \
            right[r] = add ? load(c + r * c_row + LANES) : all(0);                                                    \
        }                                                                                                              \
        for (long k = 0; k < depth; k++) {                                                                             \
            vec u = load(b + k * b_row), w = load(b + k * b_row + LANES);                                              \
            for (int r = 0; r < R; r++) {                                                                              \
                float x = a[r * a_row + k * a_column];                                                                 \
                left[r] += x * u;                                                                                      \
                right[r] += x * w;                                                                                     \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < R; r++) {                                                                                  \
            store(c + r * c_row, left[r]);                                                                             \
            store(c + r * c_row + LANES, right[r]);                                                                    \
        }                                                                                                              \
    }
PRODUCT(1)
PRODUCT(2)
PRODUCT(3)
PRODUCT(4)
PRODUCT(5)
PRODUCT(6)

/* c [m, n] (+)= a [m, depth] b [depth, n] */
static void product(float *c, long c_row, const float *a, long a_row, long a_column, const float *b, long b_row, long m,
                    long n, long depth, int add) {
    for (long j = 0; j < n; j += 2 * LANES) {
        long i = 0;
        for (; i + BLOCK <= m; i += BLOCK)
            product6(c + i * c_row + j, c_row, a + i * a_row, a_row, a_column, b + j, b_row, depth, add);
        float *rest = c + i * c_row + j;
        const float *last = a + i * a_row;
        switch (m - i) {
        case 1: product1(rest, c_row, last, a_row, a_column, b + j, b_row, depth, add); break;
        case 2: product2(rest, c_row, last, a_row, a_column, b + j, b_row, depth, add); break;
        case 3: product3(rest, c_row, last, a_row, a_column, b + j, b_row, depth, add); break;
        case 4: product4(rest, c_row, last, a_row, a_column, b + j, b_row, depth, add); break;
        case 5: product5(rest, c_row, last, a_row, a_column, b + j, b_row, depth, add); break;
        }
    }
}

/* The keys of a piece, padded with zeros to whole tiles: rows [keys, d], and per tile its transpose [d, KEYS] */
static void gather(float *rows, float *turned, const float *x, long x_row, const long *places, long keys, long d) {
    for (long c = 0; c < (keys + KEYS - 1) / KEYS * KEYS; c++) {
        float *row = rows + c * d, *column = turned + c / KEYS * KEYS * d + c % KEYS;
        if (c < keys) memcpy(row, x + places[c] * x_row, d * sizeof *row);
        else memset(row, 0, d * sizeof *row);
        for (long i = 0; i < d; i++) column[i * KEYS] = row[i];
    }
}

typedef struct {
    long first, length, keys, window;
} range;

/* Which keys of a tile a query sees: from *low to *high, none where they are equal */
INLINE void seen(const range *piece, long query, long tile, long *low, long *high) {
    long end = piece->keys - piece->length + query + 1;
    long begin = piece->window && end > piece->window ? end - piece->window : 0;
    *low = begin - tile < 0 ? 0 : begin - tile > KEYS ? KEYS : begin - tile;
    *high = end - tile < 0 ? 0 : end - tile > KEYS ? KEYS : end - tile;
    if (*low > *high) *low = *high;
}

/* Whether any of `rows` queries from the first sees any key of a tile */
INLINE int visible(const range *piece, long query, long rows, long tile) {
    long low, high;
    seen(piece, query + rows - 1, tile, &low, &high);
    if (low < high) return 1;
    seen(piece, query, tile, &low, &high);
    return low < high;
}

void attend(float *o, float *lse, const float *q, const float *k, const float *v, const long *pieces, const long *places,
            long count, long tokens, long heads, long kv_heads, long d, long window, long q_row, long q_head, long k_row,
            long k_head, long v_row, long v_head, float *work, long room, float scale, int threads) {
    const long group = heads / kv_heads;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(dynamic)
    for (long p = 0; p < count; p++)
        for (long shared = 0; shared < kv_heads; shared++) {
            const long *piece = pieces + 5 * p, *place = places + piece[2];
            range here = {piece[0], piece[1], piece[3], window};
            long padded = (here.keys + KEYS - 1) / KEYS * KEYS;
            float *keys = work + omp_get_thread_num() * room, *turned = keys + padded * d, *values = turned + padded * d;
            gather(keys, turned, k + shared * k_head, k_row, place, here.keys, d);
            for (long c = 0; c < here.keys; c++)
                memcpy(values + c * d, v + shared * v_head + place[c] * v_row, d * sizeof *values);
            memset(values + here.keys * d, 0, (padded - here.keys) * d * sizeof *values);
            for (long head = shared * group; head < (shared + 1) * group; head++)
                for (long query = 0; query < here.length; query += ROWS) {
                    long rows = here.length - query < ROWS ? here.length - query : ROWS;
                    float scores[ROWS * KEYS], most[ROWS], total[ROWS];
                    float *out = o + (here.first + query) * heads * d + head * d;
                    for (long r = 0; r < rows; r++) {
                        most[r] = NEVER;
                        total[r] = 0;
                        memset(out + r * heads * d, 0, d * sizeof *out);
                    }
                    for (long tile = 0; tile < here.keys; tile += KEYS) {
                        if (!visible(&here, query, rows, tile)) continue;
                        product(scores, KEYS, q + (here.first + query) * q_row + head * q_head, q_row, 1,
                                turned + tile * d, KEYS, rows, KEYS, d, 0);
                        for (long r = 0; r < rows; r++) {
                            float *row = scores + r * KEYS, top = most[r];
                            long low, high;
                            seen(&here, query + r, tile, &low, &high);
                            for (long c = 0; c < low; c++) row[c] = NEVER;
                            for (long c = high; c < KEYS; c++) row[c] = NEVER;
                            vec largest = load(row);
                            for (long c = LANES; c < KEYS; c += LANES) largest = pick(load(row + c) > largest, load(row + c), largest);
                            for (int i = 0; i < LANES; i++) top = largest[i] * scale > top ? largest[i] * scale : top;
                            vec added = all(0);
                            for (long c = 0; c < KEYS; c += LANES) {
                                vec x = load(row + c), e = share(x * scale - top);
                                e = pick(x <= all(NEVER), all(0), e);
                                store(row + c, e);
                                added += e;
                            }
                            float fade = expf(most[r] - top);
                            total[r] = total[r] * fade + sum(added);
                            most[r] = top;
                            if (fade != 1.0f)
                                for (long i = 0; i < d; i += LANES)
                                    store(out + r * heads * d + i, load(out + r * heads * d + i) * fade);
                        }
                        product(out, heads * d, scores, KEYS, 1, values + tile * d, d, rows, d, KEYS, 1);
                    }
                    for (long r = 0; r < rows; r++) {
                        for (long i = 0; i < d; i += LANES)
                            store(out + r * heads * d + i, load(out + r * heads * d + i) / total[r]);
                        lse[head * tokens + here.first + query + r] = most[r] + logf(total[r]);
                    }
                }
        }
}

/* One piece under one head of keys: p = e^(s - lse), dv += p^T do, ds = p (do v^T - delta), dq += ds k, dk += ds^T q */
static void piece_backward(float *dq, float *dk, float *dv, const float *g, const float *o, const float *lse,
                           const float *q, const float *k, const float *v, const long *place, range here, long shared,
                           long tokens, long heads, long kv_heads, long d, long q_row, long q_head, long k_row,
                           long k_head, long v_row, long v_head, float *work, float scale) {
    const long group = heads / kv_heads, padded = (here.keys + KEYS - 1) / KEYS * KEYS, row = heads * d;
    float *keys = work, *turned_keys = keys + padded * d;
    float *values = turned_keys + padded * d, *turned_values = values + padded * d, *delta = turned_values + padded * d;
    gather(keys, turned_keys, k + shared * k_head, k_row, place, here.keys, d);
    gather(values, turned_values, v + shared * v_head, v_row, place, here.keys, d);
    for (long member = 0; member < group; member++)
        for (long r = 0; r < here.length; r++) {
            long at = (here.first + r) * row + (shared * group + member) * d;
            vec products = all(0);
            for (long i = 0; i < d; i += LANES) products += load(g + at + i) * load(o + at + i);
            delta[member * here.length + r] = sum(products);
        }
    for (long tile = 0; tile < here.keys; tile += KEYS) {
        float of_keys[KEYS * d], of_values[KEYS * d], weights[ROWS * KEYS], slopes[ROWS * KEYS];
        memset(of_keys, 0, sizeof of_keys);
        memset(of_values, 0, sizeof of_values);
        for (long member = 0; member < group; member++)
            for (long query = 0, head = shared * group + member; query < here.length; query += ROWS) {
                long rows = here.length - query < ROWS ? here.length - query : ROWS, first = here.first + query;
                if (!visible(&here, query, rows, tile)) continue;
                const float *asked = q + first * q_row + head * q_head, *slope = g + first * row + head * d;
                product(weights, KEYS, asked, q_row, 1, turned_keys + tile * d, KEYS, rows, KEYS, d, 0);
                product(slopes, KEYS, slope, row, 1, turned_values + tile * d, KEYS, rows, KEYS, d, 0);
                for (long r = 0; r < rows; r++) {
                    float *w = weights + r * KEYS, *s = slopes + r * KEYS, known = lse[head * tokens + first + r];
                    float mean = delta[member * here.length + query + r];
                    long low, high;
                    seen(&here, query + r, tile, &low, &high);
                    for (long c = 0; c < KEYS; c += LANES) {
                        vec p = share(load(w + c) * scale - known);
                        store(w + c, p);
                        store(s + c, p * (load(s + c) - mean) * scale);
                    }
                    for (long c = 0; c < low; c++) w[c] = s[c] = 0;
                    for (long c = high; c < KEYS; c++) w[c] = s[c] = 0;
                }
                product(of_values, d, weights, 1, KEYS, slope, row, KEYS, d, rows, 1);
                product(of_keys, d, slopes, 1, KEYS, asked, q_row, KEYS, d, rows, 1);
                product(dq + first * row + head * d, row, slopes, KEYS, 1, keys + tile * d, d, rows, d, KEYS, 1);
            }
        for (long c = 0; c < KEYS && tile + c < here.keys; c++)
            for (long i = 0, at = (place[tile + c] * kv_heads + shared) * d; i < d; i += LANES) {
                store(dk + at + i, load(dk + at + i) + load(of_keys + c * d + i));
                store(dv + at + i, load(dv + at + i) + load(of_values + c * d + i));
            }
    }
}

void attend_backward(float *dq, float *dk, float *dv, const float *g, const float *o, const float *lse, const float *q,
                     const float *k, const float *v, const long *pieces, const long *places, long count, long trees,
                     long tokens, long heads, long kv_heads, long d, long window, long q_row, long q_head, long k_row,
                     long k_head, long v_row, long v_head, float *work, long room, float scale, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(dynamic)
    for (long tree = 0; tree < trees; tree++)
        for (long shared = 0; shared < kv_heads; shared++)
            for (long p = 0; p < count; p++) {
                const long *piece = pieces + 5 * p;
                range here = {piece[0], piece[1], piece[3], window};
                if (piece[4] == tree)
                    piece_backward(dq, dk, dv, g, o, lse, q, k, v, places + piece[2], here, shared, tokens, heads, kv_heads,
                                   d, q_row, q_head, k_row, k_head, v_row, v_head, work + omp_get_thread_num() * room, scale);
            }
}
