// The entries of a vector whose keys are in a range; compiled for each level of the
// processor.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels.h"
#include "keys.h"
#include "lanes.h"

namespace gdsec {
namespace {

template <typename E>
inline typename Lanes<typename E::Key>::V keys_at(const typename E::Bits* x) {
  using V = typename Lanes<typename E::Key>::V;
  if constexpr (sizeof(typename E::Bits) == sizeof(typename E::Key)) {
    return E::of(load<V>(x));
  } else {
    typedef typename E::Bits Narrow __attribute__((vector_size(WIDTH / 2)));
    return E::of(__builtin_convertvector(load<Narrow>(x), V));
  }
}

template <typename E>
Ranked between(const void* entries, int64_t size, Range range, void* inside) {
  using K = typename E::Key;
  using V = typename Lanes<K>::V;
  const auto* x = static_cast<const typename E::Bits*>(entries);
  K* out = static_cast<K*>(inside);
  const K low = K(range.low), high = K(range.high);
  const bool apart = low < high;
  constexpr int64_t step = Lanes<K>::number;
  V above = {}, at_high = {}, at_low = {}, largest = V{} + std::numeric_limits<K>::min();
  int64_t number = 0, j = 0;
  for (; j + step <= size; j += step) {
    const V key = keys_at<E>(x + j), in = (key > low) & (key < high);
    above -= key > high;
    at_high -= key == high;
    at_low -= key == low;
    largest = key > largest ? key : largest;
    if (!some_lane(in)) continue;
    for (int64_t lane = 0; lane < step; ++lane) {
      out[number] = key[lane];
      number -= in[lane];
    }
  }
  Ranked found{0, 0, 0, 0, std::numeric_limits<K>::min()};
  for (int64_t lane = 0; lane < step; ++lane) {
    found.largest = std::max<int64_t>(found.largest, largest[lane]);
    found.above += above[lane];
    found.at_high += at_high[lane];
    found.at_low += at_low[lane];
  }
  for (; j < size; ++j) {
    const K key = E::of(K(x[j]));
    found.largest = std::max<int64_t>(found.largest, key);
    found.above += key > high;
    found.at_high += key == high;
    found.at_low += key == low;
    out[number] = key;
    number += key > low && key < high;
  }
  found.inside = number;
  if (!apart) found.at_low = 0;  // they are counted already
  return found;
}

}  // namespace

#define TABLE_(level) select_##level
#define TABLE(level) TABLE_(level)
extern const Selects TABLE(LEVEL);
const Selects TABLE(LEVEL) = {
    {between<OfF32>, between<OfF64>, between<OfBf16>, between<OfU32>},
};

}  // namespace gdsec
