// GD-SEC's update of one worker, in place; compiled for each level of the processor.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels.h"

namespace gdsec {
namespace {

struct Bfloat16 {
  uint16_t bits;
};

// Of a state's type S, from and to the message's type G.
template <typename G, typename S>
inline G read(S x) {
  if constexpr (std::is_same_v<S, Bfloat16>) {
    uint32_t wide = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return G(value);
  } else {
    return G(x);
  }
}

template <typename S, typename G>
inline S write(G x) {
  if constexpr (std::is_same_v<S, Bfloat16>) {
    float value = float(x);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t even = bits + 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    uint32_t nan = (bits >> 16) | 0x40;
    return {uint16_t((bits & 0x7fffffff) > 0x7f800000 ? nan : even >> 16)};
  } else {
    return S(x);
  }
}

template <typename T>
inline bool is_finite(T x) {  // no branch, which a loop of vectors could not have
  return std::abs(x) <= std::numeric_limits<T>::max();
}

template <typename S>
constexpr double most() {
  if constexpr (std::is_same_v<S, Bfloat16>)
    return 0x1.fep127;
  else
    return double(std::numeric_limits<S>::max());
}

template <typename G, typename S, bool KNOWN, bool ERROR, bool DROPS>
Said components(const Segment& s) {
  const G* __restrict gradient = static_cast<const G*>(s.gradient);
  S* __restrict known = static_cast<S*>(s.known);
  S* __restrict error = static_cast<S*>(s.error);
  const G* __restrict threshold = static_cast<const G*>(s.threshold);
  G* __restrict total = static_cast<G*>(s.total);
  const G beta = G(s.beta), zero = G(0);
  const G tiny = std::numeric_limits<G>::min();
  const bool sends = s.sends, arrives = s.arrives, estimates = s.estimates;
  const bool heard = sends && arrives;
  // A state of fewer digits may be infinite where the message is not.
  constexpr bool NARROW = DROPS && most<S>() < double(std::numeric_limits<G>::max());
  // Counted in numbers as wide as the entries: no lane waits for another width.
  using Count = std::conditional_t<sizeof(G) == 4, int32_t, int64_t>;
  Count entries = 0, bad = 0;
  for (int64_t j = 0; j < s.size; ++j) {
    const G h = KNOWN ? read<G>(known[j]) : zero;
    const G e = ERROR ? read<G>(error[j]) : zero;
    G v = gradient[j];
    if (KNOWN) v = v - h;
    if (ERROR) v = v + e;
    G u = std::abs(v) <= threshold[j] ? zero : v;
    u = std::abs(u) < tiny ? zero : u;
    const G moves = arrives ? u : zero;
    const S h_next = KNOWN ? write<S>(h + beta * moves) : S();
    const S e_next = ERROR ? write<S>(v - moves) : S();
    bool good = true;
    if constexpr (DROPS) good = is_finite(u);
    if constexpr (NARROW) {
      if (KNOWN) good &= is_finite(read<G>(h_next)) | !is_finite(h);
      if (ERROR) good &= is_finite(read<G>(e_next)) | !is_finite(e);
    }
    if (KNOWN) known[j] = good ? h_next : known[j];
    if (ERROR) error[j] = good ? e_next : error[j];
    const G message = good ? u : zero;
    entries += Count(message != zero);
    bad += Count(!good);
    const G sent = heard ? message : zero;
    total[j] = total[j] + (KNOWN && estimates ? h + sent : sent);
  }
  return {sends ? int64_t(entries) : 0, bad > 0};
}

template <typename G, typename S>
Said update(const Segment& s) {
  const int kind = (s.known ? 4 : 0) + (s.error ? 2 : 0) + (s.drops ? 1 : 0);
  switch (kind) {
    case 0: return components<G, S, false, false, false>(s);
    case 1: return components<G, S, false, false, true>(s);
    case 2: return components<G, S, false, true, false>(s);
    case 3: return components<G, S, false, true, true>(s);
    case 4: return components<G, S, true, false, false>(s);
    case 5: return components<G, S, true, false, true>(s);
    case 6: return components<G, S, true, true, false>(s);
    default: return components<G, S, true, true, true>(s);
  }
}

template <typename G, typename S>
void rest(void* total, const void* known, int64_t size) {
  G* __restrict to = static_cast<G*>(total);
  const S* __restrict h = static_cast<const S*>(known);
  for (int64_t j = 0; j < size; ++j) to[j] += read<G>(h[j]);
}

template <typename T>
bool finite(const void* x, int64_t size) {
  const T* values = static_cast<const T*>(x);
  T zeros = T(0);  // 0 x is 0, or NaN where x is not finite
#pragma omp simd reduction(+ : zeros)
  for (int64_t j = 0; j < size; ++j) zeros += T(0) * values[j];
  return zeros == T(0);
}

template <typename T>
void threshold(double xi, const void* params, const void* previous, void* out, int64_t size) {
  const T* __restrict p = static_cast<const T*>(params);
  const T* __restrict q = static_cast<const T*>(previous);
  T* __restrict to = static_cast<T*>(out);
  const T scale = T(xi);
  for (int64_t j = 0; j < size; ++j) to[j] = scale * std::abs(p[j] - q[j]);
}

template <typename T>
void add(void* total, const void* part, int64_t size) {
  T* __restrict to = static_cast<T*>(total);
  const T* __restrict from = static_cast<const T*>(part);
  for (int64_t j = 0; j < size; ++j) to[j] += from[j];
}

template <typename T>
double largest(const void* a, const void* b, int64_t size) {
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  T most = 0, zeros = 0;  // a maximum may pass NaN by
#pragma omp simd reduction(max : most) reduction(+ : zeros)
  for (int64_t j = 0; j < size; ++j) {
    const T d = std::abs(x[j] - y[j]);
    most = most > d ? most : d;
    zeros += T(0) * d;
  }
  return zeros == T(0) ? double(most) : std::numeric_limits<double>::infinity();
}

template <typename T>
double squares(const void* a, const void* b, double scale, int64_t size) {
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  const T inverse = T(1 / scale);  // exact: a power of two
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < size; ++j) {
    const T d = (x[j] - y[j]) * inverse;
    sum += d * d;
  }
  return double(sum);
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
