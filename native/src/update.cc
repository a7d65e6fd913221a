// GD-SEC's update of one worker, in place, and the sums and norms beside it; compiled for
// each level of the processor.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels.h"
#include "lanes.h"

namespace gdsec {
namespace {

struct Bfloat16 {
  uint16_t bits;
};

// As many as float32 or float64 has lanes.
typedef float HalfFloats __attribute__((vector_size(WIDTH / 2)));
typedef uint32_t HalfWords __attribute__((vector_size(WIDTH / 2)));
typedef uint32_t Words __attribute__((vector_size(WIDTH)));
typedef uint16_t QuarterShorts __attribute__((vector_size(WIDTH / 4)));
typedef uint16_t HalfShorts __attribute__((vector_size(WIDTH / 2)));

template <typename Unsigned, typename Floats>
inline Unsigned rounded(Floats x) {  // to the upper 16 bits, to nearest, ties to even
  const Unsigned bits = bits_of<Unsigned>(x);
  const Unsigned even = bits + 0x7fffu + ((bits >> 16) & 1u);
  return (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : even >> 16;
}

// Of a state's type S, from and to the message's type G.
template <typename G, typename S>
struct Cell;

template <typename G>
struct Cell<G, G> {
  using V = typename Lanes<G>::V;
  using Stored = V;
  static V wide(Stored x) { return x; }
  static Stored narrow(V x) { return x; }
};

template <>
struct Cell<double, float> {
  using V = Lanes<double>::V;
  using Stored = HalfFloats;
  static V wide(Stored x) { return __builtin_convertvector(x, V); }
  static Stored narrow(V x) { return __builtin_convertvector(x, HalfFloats); }
};

template <>
struct Cell<float, Bfloat16> {
  using V = Lanes<float>::V;
  using Stored = HalfShorts;
  static V wide(Stored x) {
    return bits_of<V>(__builtin_convertvector(x, Words) << 16);
  }
  static Stored narrow(V x) {
    return __builtin_convertvector(rounded<Words>(x), HalfShorts);
  }
};

template <>
struct Cell<double, Bfloat16> {
  using V = Lanes<double>::V;
  using Stored = QuarterShorts;
  static V wide(Stored x) {
    const HalfFloats floats = bits_of<HalfFloats>(__builtin_convertvector(x, HalfWords) << 16);
    return __builtin_convertvector(floats, V);
  }
  static Stored narrow(V x) {
    const HalfFloats floats = __builtin_convertvector(x, HalfFloats);
    return __builtin_convertvector(rounded<HalfWords>(floats), QuarterShorts);
  }
};

template <typename G>
inline typename Lanes<G>::V magnitude(typename Lanes<G>::V x) {
  using Mask = typename Lanes<G>::Mask;
  using Int = typename Lanes<G>::Int;
  return bits_of<typename Lanes<G>::V>(bits_of<Mask>(x) & std::numeric_limits<Int>::max());
}

template <typename G>
inline typename Lanes<G>::Mask is_finite(typename Lanes<G>::V x) {
  return magnitude<G>(x) <= std::numeric_limits<G>::max();
}

template <typename G, typename S, bool KNOWN, bool ERROR, bool DROPS, bool ESTIMATES, bool HEARD>
Said components(const Segment& s) {
  using V = typename Lanes<G>::V;
  using Mask = typename Lanes<G>::Mask;
  using State = Cell<G, S>;
  using Stored = typename State::Stored;
  const G* gradient = static_cast<const G*>(s.gradient);
  S* known = static_cast<S*>(s.known);
  S* error = static_cast<S*>(s.error);
  const G* threshold = static_cast<const G*>(s.threshold);
  G* total = static_cast<G*>(s.total);
  const V zero = {}, beta = zero + G(s.beta);
  const Mask arrives = s.arrives ? zero == zero : zero != zero;
  const Mask heard = s.sends && s.arrives ? zero == zero : zero != zero;
  // A state of fewer digits may be infinite where the message is not.
  constexpr bool NARROW = DROPS && !std::is_same_v<G, S>;
  Mask entries = {}, bad = {};
  auto some = [&](int64_t j, int64_t size) {
    const Stored h_old = KNOWN ? load<Stored>(known + j, size) : Stored{};
    const Stored e_old = ERROR ? load<Stored>(error + j, size) : Stored{};
    const V h = State::wide(h_old), e = State::wide(e_old);
    V v = load<V>(gradient + j, size);
    if (KNOWN) v = v - h;
    if (ERROR) v = v + e;
    V u = magnitude<G>(v) <= load<V>(threshold + j, size) ? zero : v;
    const V moves = arrives ? u : zero;
    Stored h_new = State::narrow(h + beta * moves), e_new = State::narrow(v - moves);
    V message = u;
    if constexpr (DROPS) {
      Mask good = is_finite<G>(u);
      if constexpr (NARROW) {
        if (KNOWN) good &= is_finite<G>(State::wide(h_new)) | ~is_finite<G>(h);
        if (ERROR) good &= is_finite<G>(State::wide(e_new)) | ~is_finite<G>(e);
        h_new = State::narrow(good ? State::wide(h_new) : h);
        e_new = State::narrow(good ? State::wide(e_new) : e);
      } else {
        h_new = good ? h_new : h;
        e_new = good ? e_new : e;
      }
      message = good ? u : zero;
      bad |= ~good;
    }
    if (KNOWN) store(known + j, h_new, size);
    if (ERROR) store(error + j, e_new, size);
    entries -= message != zero;
    const V sent = heard ? message : zero;
    const V before = load<V>(total + j, size);
    store(total + j, before + (ESTIMATES ? h + sent : sent), size);
  };
  // The same of a whole register whose messages are all heard, and finite.
  auto usual = [&](int64_t j) {
    const V h = KNOWN ? load<V>(known + j) : zero;
    V v = load<V>(gradient + j);
    if (KNOWN) v = v - h;
    if (ERROR) v = v + load<V>(error + j);
    const V size = magnitude<G>(v);
    const Mask unsent = size <= load<V>(threshold + j);
    if (DROPS && some_lane(~unsent & ~(size <= std::numeric_limits<G>::max()))) return false;
    const V u = unsent ? zero : v;
    if (KNOWN) store(known + j, h + beta * u);
    if (ERROR) store(error + j, v - u);
    entries = unsent ? entries : entries + 1;
    const V before = load<V>(total + j);
    store(total + j, before + (ESTIMATES ? h + u : u));
    return true;
  };
  constexpr int64_t step = Lanes<G>::number;
  int64_t j = 0;
  for (; j + step <= s.size; j += step) {
    if constexpr (HEARD && std::is_same_v<G, S>) {
      if (usual(j)) continue;
    }
    some(j, step);
  }
  if (j < s.size) some(j, s.size - j);
  int64_t number = 0, lost = 0;
  for (int64_t lane = 0; lane < step; ++lane) {
    number += entries[lane];
    lost |= int64_t(bad[lane]);
  }
  return {s.sends ? number : 0, lost != 0};
}

// Flags become template arguments one at a time, so that the loop has no branches.
template <typename G, typename S, bool... FOUND>
Said chosen(const Segment& s) {
  return components<G, S, FOUND...>(s);
}

template <typename G, typename S, bool... FOUND, typename... Rest>
Said chosen(const Segment& s, bool first, Rest... rest) {
  return first ? chosen<G, S, FOUND..., true>(s, rest...)
               : chosen<G, S, FOUND..., false>(s, rest...);
}

template <typename G, typename S>
Said update(const Segment& s) {
  return chosen<G, S>(s, s.known != nullptr, s.error != nullptr, s.drops,
                      s.known != nullptr && s.estimates, s.sends && s.arrives);
}

template <typename G, typename S>
void rest(void* total, const void* known, int64_t size) {
  using V = typename Lanes<G>::V;
  using Stored = typename Cell<G, S>::Stored;
  G* to = static_cast<G*>(total);
  const S* h = static_cast<const S*>(known);
  constexpr int64_t step = Lanes<G>::number;
  for (int64_t j = 0; j < size; j += step) {
    const V sum = load<V>(to + j, size - j) + Cell<G, S>::wide(load<Stored>(h + j, size - j));
    store(to + j, sum, size - j);
  }
}

template <typename G>
bool finite(const void* x, int64_t size) {
  using V = typename Lanes<G>::V;
  const G* values = static_cast<const G*>(x);
  constexpr int64_t step = Lanes<G>::number, line = 64 / sizeof(G), ahead = 1024 / sizeof(G);
  V a = {}, b = {}, c = {}, d = {};  // 0 x is 0, or NaN where x is not finite
  // Four quarters side by side: memory reads several pages faster than one.
  const int64_t quarter = size / 4 / line * line;
  const G *p = values, *q = p + quarter, *r = q + quarter, *t = r + quarter;
  for (int64_t i = 0; i < quarter; i += line) {
    for (const G* each : {p, q, r, t}) __builtin_prefetch(each + i + ahead, 0, 2);
    for (int64_t j = i; j < i + line; j += step) {
      a += G(0) * load<V>(p + j);
      b += G(0) * load<V>(q + j);
      c += G(0) * load<V>(r + j);
      d += G(0) * load<V>(t + j);
    }
  }
  for (int64_t j = 4 * quarter; j < size; j += step) a += G(0) * load<V>(values + j, size - j);
  a = (a + b) + (c + d);
  G zeros = 0;
  for (int64_t lane = 0; lane < step; ++lane) zeros += a[lane];
  return zeros == G(0);
}

template <typename T>
void threshold(double xi, const void* params, const void* previous, void* out, int64_t size) {
  const T* __restrict p = static_cast<const T*>(params);
  const T* __restrict q = static_cast<const T*>(previous);
  T* __restrict to = static_cast<T*>(out);
  const T scale = T(xi);
  // Subnormal numbers are not sent: they are below any threshold, as NaN is not.
  const T least = std::numeric_limits<T>::min() - std::numeric_limits<T>::denorm_min();
  for (int64_t j = 0; j < size; ++j) {
    const T threshold = scale * std::abs(p[j] - q[j]);
    to[j] = threshold > least ? threshold : least;
  }
}

template <typename T>
void add(void* total, const void* part, int64_t size) {
  T* __restrict to = static_cast<T*>(total);
  const T* __restrict from = static_cast<const T*>(part);
  for (int64_t j = 0; j < size; ++j) to[j] += from[j];
}

template <typename G>
double largest(const void* x, const void* y, int64_t size) {
  using V = typename Lanes<G>::V;
  const G *a = static_cast<const G*>(x), *b = static_cast<const G*>(y);
  constexpr int64_t step = Lanes<G>::number;
  V most = {}, zeros = {};  // a maximum may pass NaN by
  for (int64_t j = 0; j < size; j += step) {
    const V d = magnitude<G>(load<V>(a + j, size - j) - load<V>(b + j, size - j));
    most = most > d ? most : d;
    zeros += G(0) * d;
  }
  G found = 0, zero = 0;
  for (int64_t lane = 0; lane < step; ++lane) {
    found = std::max(found, most[lane]);
    zero += zeros[lane];
  }
  return zero == G(0) ? double(found) : std::numeric_limits<double>::infinity();
}

template <typename G>
double squares(const void* x, const void* y, double scale, int64_t size) {
  using V = typename Lanes<G>::V;
  const G *a = static_cast<const G*>(x), *b = static_cast<const G*>(y);
  constexpr int64_t step = Lanes<G>::number;
  const G inverse = G(1 / scale);  // exact: a power of two
  V sum = {};
  for (int64_t j = 0; j < size; j += step) {
    const V d = (load<V>(a + j, size - j) - load<V>(b + j, size - j)) * inverse;
    sum += d * d;
  }
  double total = 0;
  for (int64_t lane = 0; lane < step; ++lane) total += double(sum[lane]);
  return total;
}

}  // namespace

#define TABLE_(level) update_##level
#define TABLE(level) TABLE_(level)
extern const Kernels TABLE(LEVEL);
const Kernels TABLE(LEVEL) = {
    {{update<float, float>, nullptr, update<float, Bfloat16>},
     {update<double, float>, update<double, double>, update<double, Bfloat16>}},
    {{rest<float, float>, nullptr, rest<float, Bfloat16>},
     {rest<double, float>, rest<double, double>, rest<double, Bfloat16>}},
    {finite<float>, finite<double>},
    {threshold<float>, threshold<double>},
    {add<float>, add<double>},
    {largest<float>, largest<double>},
    {squares<float>, squares<double>},
};

}  // namespace gdsec
