// The k-th largest key of each row, of the sums of two perhaps, where the last of the k
// entries that have it is, and the largest key.
//
// A sample guesses a narrow range of keys. One pass counts the entries above it and takes
// out those inside, and a radix select among these finds the key; where the guess was
// wrong, what the counts leave is searched. What is found does not depend on the sample.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "keys.h"

namespace gdsec {
namespace {

constexpr int64_t SELECT_PART = int64_t(1) << 16;   // entries of a task
constexpr int64_t SELECT_BLOCK = int64_t(1) << 12;  // entries that are searched at once
constexpr int64_t SAMPLE = int64_t(1) << 14;        // at most; of a row's every 32nd
constexpr double DEVIATIONS = 4;                    // of the rank, which the range is wide

// The k-th largest of n keys, 1 <= k <= n, by up to 11 bits a pass; moves them about.
template <typename K>
K kth_largest(K* keys, int64_t n, int64_t k) {
  using U = std::make_unsigned_t<K>;
  constexpr int most = 11;
  int64_t counts[1 << most];
  while (true) {
    K low = keys[0], high = keys[0];
    for (int64_t i = 1; i < n; ++i) {
      low = std::min(low, keys[i]);
      high = std::max(high, keys[i]);
    }
    const U range = U(high) - U(low);
    if (range == 0) return low;
    const int width = 64 - __builtin_clzll(range);
    const int bits = std::min({most, width, 64 - __builtin_clzll(uint64_t(n))});
    const int shift = width - bits;
    auto bin = [&](K key) { return (U(key) - U(low)) >> shift; };
    std::fill(counts, counts + (int64_t(1) << bits), 0);
    for (int64_t i = 0; i < n; ++i) ++counts[bin(keys[i])];
    U found = (U(1) << bits) - 1;
    for (; counts[found] < k; --found) k -= counts[found];
    int64_t left = 0;
    for (int64_t i = 0; i < n; ++i)
      if (bin(keys[i]) == found) keys[left++] = keys[i];
    n = left;
  }
}

template <typename E>
struct Selection {
  using K = typename E::Key;
  using Bits = typename E::Bits;
  struct Part {  // of a row
    Ranked counts;
    std::vector<K> keys;  // inside the range
  };
  using Number = typename E::Number;
  struct Row {
    const Bits* entries;
    const Number* added;  // to them; or null

    K key(int64_t i) const {
      Bits bits = entries[i];
      if (added) sums(i, 1, &bits);
      return E::of(K(bits));
    }
    void sums(int64_t from, int64_t size, Bits* to) const {
      if constexpr (sizeof(Bits) == sizeof(Number)) {
        for (int64_t i = 0; i < size; ++i) {
          Number number;
          std::memcpy(&number, entries + from + i, sizeof(number));
          number += added[from + i];
          std::memcpy(to + i, &number, sizeof(number));
        }
      }
    }
  };
  Ranked (*between)(const void*, int64_t, Range, void*);
  int64_t length, k;

  // That the k-th largest key is in, most probably.
  Range guessed(const Row& row) const {
    const int64_t size = std::min(SAMPLE, length / 32), stride = size ? length / size : 0;
    Range range{E::least, E::most};
    if (size < 256) return range;
    std::vector<K> sample(size);
    // One entry of every stretch, where in it by a hash, so that nothing repeats with it.
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t within = (uint32_t(i) * 2654435769u) >> 8;
      sample[i] = row.key(i * stride + within % stride);
    }
    const double share = double(k) / double(length), rank = share * double(size);
    const double off = DEVIATIONS * (std::sqrt(rank * (1 - share)) + 1);
    const int64_t first = int64_t(rank - off), last = int64_t(rank + off);
    if (last < size) {
      std::nth_element(sample.begin(), sample.end() - 1 - last, sample.end());
      range.low = sample[size - 1 - last];
    }
    if (first >= 0 && rank >= off) {
      std::nth_element(sample.begin(), sample.end() - 1 - first, sample.end());
      range.high = sample[size - 1 - first];
    }
    return range;
  }

  // Of a part of a row.
  void take(Part& part, const Row& row, int64_t first, Range range) const {
    K keys[SELECT_BLOCK];
    Bits sums[SELECT_BLOCK];
    part.counts = {0, 0, 0, 0, std::numeric_limits<K>::min()};
    part.keys.clear();
    const int64_t end = std::min(length, first + SELECT_PART);
    for (int64_t from = first; from < end; from += SELECT_BLOCK) {
      const int64_t size = std::min(SELECT_BLOCK, end - from);
      if (row.added) row.sums(from, size, sums);
      add(part.counts, between(row.added ? sums : row.entries + from, size, range, keys));
      part.keys.insert(part.keys.end(), keys, keys + (part.counts.inside - int64_t(part.keys.size())));
    }
  }

  static void add(Ranked& all, const Ranked& own) {
    all.above += own.above;
    all.at_high += own.at_high;
    all.inside += own.inside;
    all.at_low += own.at_low;
    all.largest = std::max(all.largest, own.largest);
  }

  struct Found {
    K key;
    int32_t last;
    K largest;
  };

  // Of a row whose parts hold what a range leaves.
  Found found(Part* parts, const Row& row, Range range) const {
    const int64_t number = (length + SELECT_PART - 1) / SELECT_PART;
    Ranked all;
    while (true) {
      all = {0, 0, 0, 0, std::numeric_limits<K>::min()};
      for (int64_t p = 0; p < number; ++p) add(all, parts[p].counts);
      const bool higher = k <= all.above;
      if (!higher && k <= all.above + all.at_high + all.inside + all.at_low) break;
      range = higher ? Range{range.high, E::most} : Range{E::least, range.low};
      for (int64_t p = 0; p < number; ++p) take(parts[p], row, p * SELECT_PART, range);
    }
    K key = K(range.high);
    int64_t before = all.above;  // how many are larger than the key
    auto equal = [&](const Part& part) {
      if (key == K(range.high)) return part.counts.at_high;
      if (key == K(range.low)) return part.counts.at_low;
      return int64_t(std::count(part.keys.begin(), part.keys.end(), key));
    };
    if (k > all.above + all.at_high + all.inside) {
      key = K(range.low);
      before = all.above + all.at_high + all.inside;
    } else if (k > all.above + all.at_high) {
      std::vector<K> keys;
      keys.reserve(all.inside);
      for (int64_t p = 0; p < number; ++p)
        keys.insert(keys.end(), parts[p].keys.begin(), parts[p].keys.end());
      before += all.at_high;
      key = kth_largest(keys.data(), all.inside, k - before);
      for (int64_t p = 0; p < number; ++p)
        for (const K other : parts[p].keys) before += other > key;
    }
    int64_t ties = k - before, every = 0;
    for (int64_t p = 0; p < number; ++p) every += equal(parts[p]);
    const K largest = K(all.largest);
    if (ties == every) return {key, int32_t(length), largest};
    for (int64_t p = 0;; ties -= equal(parts[p++])) {
      if (equal(parts[p]) < ties) continue;
      for (int64_t i = p * SELECT_PART;; ++i)
        if (row.key(i) == key && --ties == 0) return {key, int32_t(i), largest};
    }
  }

  // Tasks are handed to parallel(n, how many numbers they read, task).
  template <typename Parallel>
  void run(const Parallel& parallel, const void* entries, const void* added, int64_t rows,
           void* keys, int32_t* last, void* largest) const {
    auto row_of = [&](int64_t row) {
      const auto* sum = static_cast<const Number*>(added);
      return Row{static_cast<const Bits*>(entries) + row * length, sum ? sum + row * length : sum};
    };
    auto say = [&](int64_t row, Found made) {
      static_cast<K*>(keys)[row] = E::shown(made.key);
      static_cast<K*>(largest)[row] = E::shown(made.largest);
      last[row] = made.last;
    };
    const int64_t parts = (length + SELECT_PART - 1) / SELECT_PART;
    if (parts == 1) {
      parallel(rows, rows * length, [&](int64_t row) {
        Part all;
        const Range range = guessed(row_of(row));
        take(all, row_of(row), 0, range);
        say(row, found(&all, row_of(row), range));
      });
      return;
    }
    std::vector<Range> ranges(rows);
    std::vector<Part> taken(rows * parts);
    parallel(rows, rows * SAMPLE * 8, [&](int64_t row) { ranges[row] = guessed(row_of(row)); });
    parallel(rows * parts, rows * length, [&](int64_t task) {
      const int64_t row = task / parts;
      take(taken[task], row_of(row), task % parts * SELECT_PART, ranges[row]);
    });
    parallel(rows, rows * length / 8, [&](int64_t row) {
      say(row, found(&taken[row * parts], row_of(row), ranges[row]));
    });
  }
};

}  // namespace
}  // namespace gdsec
