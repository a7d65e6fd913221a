// Numbers side by side in a register of the level that is compiled. Every level has its
// own of these: none is seen by the linker.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace gdsec {
namespace {

// Of a register, which the build says: wider vectors are compiled entry by entry.
constexpr int WIDTH = LANE_BYTES;

// Numbers side by side, and what is as wide.
template <typename G>
struct Lanes {
  static constexpr int64_t number = WIDTH / sizeof(G);
  using Int = std::conditional_t<sizeof(G) == 4, int32_t, int64_t>;
  typedef G V __attribute__((vector_size(WIDTH)));
  typedef Int Mask __attribute__((vector_size(WIDTH)));
};

template <typename To, typename From>
inline To bits_of(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof(y));
  return y;
}

// So many entries of memory as lanes, with zeros behind the end; and back.
template <typename V, typename T>
inline V load(const T* from, int64_t size) {
  V x = {};
  if (size * int64_t(sizeof(T)) >= int64_t(sizeof(V)))
    std::memcpy(&x, from, sizeof(V));
  else
    std::memcpy(&x, from, size * sizeof(T));
  return x;
}

template <typename V, typename T>
inline V load(const T* from) {
  V x;
  std::memcpy(&x, from, sizeof(V));
  return x;
}

template <typename V, typename T>
inline void store(T* to, V x) {
  std::memcpy(to, &x, sizeof(V));
}

template <typename V, typename T>
inline void store(T* to, V x, int64_t size) {
  if (size * int64_t(sizeof(T)) >= int64_t(sizeof(V)))
    std::memcpy(to, &x, sizeof(V));
  else
    std::memcpy(to, &x, size * sizeof(T));
}

// Whether a lane of a mask is set.
template <typename Mask>
inline bool some_lane(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  int64_t words[sizeof(Mask) / 8], any = 0;
  std::memcpy(words, &mask, sizeof(mask));
  for (int64_t word : words) any |= word;
  return any != 0;
#endif
}

}  // namespace
}  // namespace gdsec
