// Gradients of generalised linear models: X^T (w phi'(X theta, y)), X read once.
// Compiled for each level of the processor.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace gdsec {
namespace {

constexpr int64_t MOST_ROWS = 64;  // whose slopes are computed together

// exp, to about 1 ulp, of numbers where it is normal: beyond them it stays at the ends.
inline double exp_of(double x) {
  x = x > 708.0 ? 708.0 : x;
  x = x < -708.0 ? -708.0 : x;
  const double shift = 0x1.8p52;
  const double shifted = x * 0x1.71547652b82fep+0 + shift;
  const double k = shifted - shift;
  double r = x - k * 0x1.62e42fefa0000p-1;
  r = r - k * 0x1.cf79abc9e3b3ap-40;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  int64_t power, bits;
  std::memcpy(&power, &shifted, 8);
  std::memcpy(&bits, &p, 8);
  bits = int64_t(uint64_t(bits) + (uint64_t(power) << 52));
  std::memcpy(&p, &bits, 8);
  return p;
}

inline float exp_of(float x) {
  x = x > 87.0f ? 87.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shift = 0x1.8p23f;
  const float shifted = x * 0x1.715476p+0f + shift;
  const float k = shifted - shift;
  float r = x - k * 0x1.62e400p-1f;
  r = r - k * 0x1.7f7d1cp-20f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t power, bits;
  std::memcpy(&power, &shifted, 4);
  std::memcpy(&bits, &p, 4);
  bits = int32_t(uint32_t(bits) + (uint32_t(power) << 23));
  std::memcpy(&p, &bits, 4);
  return p;
}

// w phi'(z, y)
template <typename T>
void slopes(int loss, int64_t n, const T* __restrict z, const T* __restrict y,
            const T* __restrict w, T* __restrict s) {
  const T one = T(1);
  if (loss == SQUARE) {
    for (int64_t i = 0; i < n; ++i) s[i] = w[i] * (z[i] - y[i]);
  } else if (loss == LOGISTIC) {
    for (int64_t i = 0; i < n; ++i) s[i] = -w[i] * y[i] / (one + exp_of(y[i] * z[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const T p = one / (one + exp_of(-z[i]));
      s[i] = w[i] * (p - y[i]) * p * (one - p);
    }
  }
}

template <typename T>
struct Block {  // of rows: what is between X theta and X^T s
  T z[MOST_ROWS], s[MOST_ROWS];
  const T* targets;
  const T* weights;
  int loss;

  explicit Block(const Rows& rows)
      : targets(static_cast<const T*>(rows.targets)),
        weights(static_cast<const T*>(rows.weights)),
        loss(rows.loss) {}
  void slope(int64_t first, int64_t n) {
    slopes<T>(loss, n, z, targets + first, weights + first, s);
  }
};

// Numbers side by side in a register.
template <typename T>
struct Lanes {
  static constexpr int number = LANE_BYTES / int(sizeof(T));
  typedef T V __attribute__((vector_size(LANE_BYTES)));

  static V load(const T* from) {
    V x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  static void store(T* to, V x) { std::memcpy(to, &x, sizeof(x)); }
};

template <typename T, int NUMBER>
inline T sum_of(const T* lanes) {
  if constexpr (NUMBER == 1) {
    return lanes[0];
  } else {
    T half[NUMBER / 2];
    for (int i = 0; i < NUMBER / 2; ++i) half[i] = lanes[i] + lanes[i + NUMBER / 2];
    return sum_of<T, NUMBER / 2>(half);
  }
}

// A row is whole registers and, where something is left over, the last one's worth of it
// once more, of which the entries that were had already count nothing.
template <typename T>
struct Row {
  using L = Lanes<T>;
  using V = typename L::V;
  const T* params;
  int64_t length, whole;
  V params_end = {}, gradient_end = {};
  int64_t rest, from;  // where the end begins

  Row(const T* params, int64_t length)
      : params(params),
        length(length),
        whole(length / L::number * L::number),
        rest(length - whole),
        from(length - L::number) {
    if (rest == 0) return;
    for (int i = L::number - int(rest); i < L::number; ++i) params_end[i] = params[from + i];
  }

  // x . params, of several rows.
  template <int N>
  void products(const T* x, T* z) const {
    V sums[N] = {};
    for (int64_t j = 0; j < whole; j += L::number) {
      const V t = L::load(params + j);
      for (int n = 0; n < N; ++n) sums[n] += L::load(x + n * length + j) * t;
    }
    if (rest)
      for (int n = 0; n < N; ++n) sums[n] += L::load(x + n * length + from) * params_end;
    for (int n = 0; n < N; ++n) {
      T lanes[L::number];
      std::memcpy(lanes, &sums[n], sizeof(V));
      z[n] = sum_of<T, L::number>(lanes);
    }
  }

  // gradient += s x, of several rows.
  template <int N>
  void add(const T* x, const T* s, T* __restrict gradient) {
    auto part = [&](int64_t j) {
      V sum = s[0] * L::load(x + j);
      for (int n = 1; n < N; ++n) sum += s[n] * L::load(x + n * length + j);
      return sum;
    };
    for (int64_t j = 0; j < whole; j += L::number)
      L::store(gradient + j, L::load(gradient + j) + part(j));
    if (rest) gradient_end += part(from);
  }

  void end(T* gradient) const {
    for (int i = L::number - int(rest); rest && i < L::number; ++i)
      gradient[from + i] += gradient_end[i];
  }
};

template <typename T>
void dense(const Rows& rows) {
  const int64_t d = rows.length;
  const T* params = static_cast<const T*>(rows.params);
  const T* features = static_cast<const T*>(rows.features);
  T* g = static_cast<T*>(rows.gradient);
  Block<T> block(rows);
  // Rows that are read a second time from the cache.
  int64_t size = (int64_t(1) << 16) / (d * int64_t(sizeof(T)) + 1) / 4 * 4;
  size = std::max<int64_t>(4, std::min(size, MOST_ROWS));
  if (d < Lanes<T>::number) {
    for (int64_t first = 0; first < rows.number; first += size) {
      const int64_t n = std::min(size, rows.number - first);
      const T* x = features + first * d;
      for (int64_t i = 0; i < n; ++i) {
        block.z[i] = 0;
        for (int64_t j = 0; j < d; ++j) block.z[i] += x[i * d + j] * params[j];
      }
      block.slope(first, n);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < d; ++j) g[j] += block.s[i] * x[i * d + j];
    }
    return;
  }
  Row<T> row(params, d);
  for (int64_t first = 0; first < rows.number; first += size) {
    const int64_t n = std::min(size, rows.number - first);
    const T* x = features + first * d;
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) row.template products<4>(x + i * d, block.z + i);
    for (; i < n; ++i) row.template products<1>(x + i * d, block.z + i);
    block.slope(first, n);
    for (i = 0; i + 4 <= n; i += 4) row.template add<4>(x + i * d, block.s + i, g);
    for (; i < n; ++i) row.template add<1>(x + i * d, block.s + i, g);
  }
  row.end(g);
}

template <typename T, typename I, bool ONES>
void entries_of(const Rows& rows) {
  const I* __restrict column = static_cast<const I*>(rows.columns);
  const T* __restrict values = static_cast<const T*>(rows.values);
  const T* __restrict params = static_cast<const T*>(rows.params);
  T* g = static_cast<T*>(rows.gradient);
  T* other = rows.spare ? static_cast<T*>(rows.spare) : g;
  const int32_t* starts = rows.starts;
  Block<T> block(rows);
  auto value = [&](int64_t p) { return ONES ? T(1) : values[p]; };
  for (int64_t first = 0; first < rows.number; first += MOST_ROWS) {
    const int64_t n = std::min(MOST_ROWS, rows.number - first);
    const int32_t* start = starts + first;
    for (int64_t i = 0; i < n; ++i) {
      T a = 0, b = 0, c = 0, d = 0;
      int64_t p = start[i];
      const int64_t end = start[i + 1];
      for (; p + 4 <= end; p += 4) {
        a += value(p) * params[column[p]], b += value(p + 1) * params[column[p + 1]];
        c += value(p + 2) * params[column[p + 2]], d += value(p + 3) * params[column[p + 3]];
      }
      for (; p < end; ++p) a += value(p) * params[column[p]];
      block.z[i] = (a + b) + (c + d);
    }
    block.slope(first, n);
    // Two rows side by side, for additions to one entry wait for each other.
    for (int64_t i = 0; i < n; i += 2) {
      const bool two = i + 1 < n;
      const T s = block.s[i], t = two ? block.s[i + 1] : T(0);
      int64_t p = start[i], q = start[i + 1];
      const int64_t p_end = q, q_end = two ? start[i + 2] : q;
      const int64_t both = std::min(p_end - p, q_end - q);
      for (int64_t j = 0; j < both; ++j) {
        g[column[p + j]] += s * value(p + j);
        other[column[q + j]] += t * value(q + j);
      }
      for (p += both; p < p_end; ++p) g[column[p]] += s * value(p);
      for (q += both; q < q_end; ++q) other[column[q]] += t * value(q);
    }
  }
}

template <typename T, typename I>
void entries(const Rows& rows) {
  rows.values ? entries_of<T, I, false>(rows) : entries_of<T, I, true>(rows);
}

// Eight neighbouring columns, in as many registers as they take: wider vectors than a
// register are compiled entry by entry.
template <typename T>
struct Eight {
  static constexpr int bytes = int(8 * sizeof(T));
  static constexpr int parts = bytes > LANE_BYTES ? bytes / LANE_BYTES : 1;
  static constexpr int lanes = 8 / parts;
  typedef T V __attribute__((vector_size(lanes * sizeof(T))));
  V part[parts];

  static Eight load(const T* from) {
    Eight x;
    std::memcpy(&x, from, bytes);
    return x;
  }
  void store(T* to) const { std::memcpy(to, this, bytes); }
  void add_product(const Eight& a, const Eight& b) {
    for (int i = 0; i < parts; ++i) part[i] += a.part[i] * b.part[i];
  }
  void add_scaled(T a, const Eight& b) {
    for (int i = 0; i < parts; ++i) part[i] += a * b.part[i];
  }
  T sum() const {
    V all = part[0];
    for (int i = 1; i < parts; ++i) all += part[i];
    T total = 0;
    for (int i = 0; i < lanes; ++i) total += all[i];
    return total;
  }
};

template <typename T>
inline Eight<T> of_codes(const uint8_t* codes) {
  Eight<T> x;
#ifdef __AVX2__
  int64_t eight;
  std::memcpy(&eight, codes, 8);
  const __m256i numbers = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(eight));
  if constexpr (sizeof(T) == 4) {
    x.part[0] = (typename Eight<T>::V)_mm256_cvtepi32_ps(numbers);
  } else {
#ifdef __AVX512F__
    x.part[0] = (typename Eight<T>::V)_mm512_cvtepi32_pd(numbers);
#else
    x.part[0] = (typename Eight<T>::V)_mm256_cvtepi32_pd(_mm256_castsi256_si128(numbers));
    x.part[1] = (typename Eight<T>::V)_mm256_cvtepi32_pd(_mm256_extracti128_si256(numbers, 1));
#endif
  }
#else
  T numbers[8];
  for (int i = 0; i < 8; ++i) numbers[i] = T(codes[i]);
  std::memcpy(&x, numbers, sizeof(numbers));
#endif
  return x;
}

template <typename T, bool CODES>
void blocks(const Rows& rows) {
  using E = Eight<T>;
  const uint16_t* __restrict column = static_cast<const uint16_t*>(rows.columns);
  const T* __restrict params = static_cast<const T*>(rows.params);
  T* __restrict g = static_cast<T*>(rows.gradient);
  const T scale = CODES ? T(rows.scale) : T(1);
  Block<T> block(rows);
  auto value = [&](int64_t p) {
    if constexpr (CODES)
      return of_codes<T>(static_cast<const uint8_t*>(rows.values) + 8 * p);
    else
      return E::load(static_cast<const T*>(rows.values) + 8 * p);
  };
  auto theta = [&](int64_t p) { return E::load(params + 8 * int64_t(column[p])); };
  for (int64_t first = 0; first < rows.number; first += MOST_ROWS) {
    const int64_t n = std::min(MOST_ROWS, rows.number - first);
    const int32_t* start = rows.starts + first;
    for (int64_t i = 0; i < n; ++i) {
      E a = {}, b = {}, c = {}, d = {};
      int64_t p = start[i];
      const int64_t end = start[i + 1];
      for (; p + 4 <= end; p += 4) {
        a.add_product(value(p), theta(p));
        b.add_product(value(p + 1), theta(p + 1));
        c.add_product(value(p + 2), theta(p + 2));
        d.add_product(value(p + 3), theta(p + 3));
      }
      for (; p < end; ++p) a.add_product(value(p), theta(p));
      a.add_scaled(T(1), b);
      c.add_scaled(T(1), d);
      a.add_scaled(T(1), c);
      block.z[i] = scale * a.sum();
    }
    block.slope(first, n);
    for (int64_t i = 0; i < n; ++i) {
      const T s = scale * block.s[i];
      for (int64_t p = start[i]; p < start[i + 1]; ++p) {
        T* to = g + 8 * int64_t(column[p]);
        E sum = E::load(to);
        sum.add_scaled(s, value(p));
        sum.store(to);
      }
    }
  }
}

}  // namespace

#define TABLE_(level) gradient_##level
#define TABLE(level) TABLE_(level)
extern const Gradients TABLE(LEVEL);
const Gradients TABLE(LEVEL) = {
    {dense<float>, dense<double>},
    {{entries<float, uint16_t>, entries<float, int32_t>},
     {entries<double, uint16_t>, entries<double, int32_t>}},
    {{blocks<float, false>, blocks<float, true>},
     {blocks<double, false>, blocks<double, true>}},
};

}  // namespace gdsec
