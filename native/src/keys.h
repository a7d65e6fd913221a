// Integers that grow with the magnitudes of entries, as gdsec_jax.worker._counting.keys_of
// says; signed, for those are compared in one instruction.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

namespace gdsec {
namespace {

template <typename K, typename Stored, int SHIFT, bool FLOATS>
struct Keys {
  using Key = K;
  using Bits = Stored;  // as it stands in memory
  using Number = std::conditional_t<sizeof(K) == 4, float, double>;
  static constexpr Key least = FLOATS ? 0 : std::numeric_limits<K>::min();
  static constexpr Key most = std::numeric_limits<K>::max();

  // Of bits as wide as a key, one or a register of them.
  template <typename V>
  static V of(V bits) {
    if constexpr (FLOATS)
      return (bits & (most >> SHIFT)) << SHIFT;
    else
      return bits ^ std::numeric_limits<K>::min();
  }
  // The key as gdsec_jax has it, unsigned.
  static Key shown(Key key) { return FLOATS ? key : key ^ std::numeric_limits<K>::min(); }
};

using OfF32 = Keys<int32_t, int32_t, 0, true>;
using OfF64 = Keys<int64_t, int64_t, 0, true>;
using OfBf16 = Keys<int32_t, int16_t, 16, true>;  // those of float32
using OfU32 = Keys<int32_t, int32_t, 0, false>;

}  // namespace
}  // namespace gdsec
