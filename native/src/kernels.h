// What the kernels of all levels of the processor share: no header of XLA's.
#pragma once

#include <cstdint>

namespace gdsec {

// What a worker does with some components of a round of GD-SEC.
struct Segment {
  const void* gradient;     // g, in the message's type
  void* known;              // h, in the state's type, or null: replaced
  void* error;              // e, the same
  const void* threshold;    // in the message's type
  void* total;              // in the message's type: added to
  int64_t size;
  double beta;
  bool sends, arrives;
  bool estimates;           // whether h is added to the total
  bool drops;               // whether what is not finite is left out
};

struct Said {
  int64_t entries;  // not zero
  bool lost;        // whether some were not finite
};

enum Type { F32 = 0, F64 = 1, BF16 = 2 };

enum Loss { SQUARE = 0, LOGISTIC = 1, SIGMOID_SQUARE = 2 };

// Some rows of a worker's features, one after the other.
struct Rows {
  const void* features;     // dense: [n, D]
  const void* targets;      // [n]
  const void* weights;      // [n]
  const void* params;       // [D], or [8 ceil(D / 8)] for blocks
  void* gradient;           // the same: added to
  void* spare;              // the same, of zeros, or null: added to
  int64_t number, length;   // n, D
  int loss;
  // Sparse: entries of row i from starts[i] to starts[i + 1].
  const int32_t* starts;
  const void* columns;      // uint16 or int32, of entries or of blocks of 8
  const void* values;       // of entries or blocks, null: all are one
  double scale;             // of codes
};

// Of a vector's entries, by keys that grow with their magnitudes (keys.h).
enum Entry { ENTRY_F32 = 0, ENTRY_F64 = 1, ENTRY_BF16 = 2, ENTRY_U32 = 3 };

struct Range {  // of keys, ends included
  int64_t low, high;
};

struct Ranked {  // how many entries are above a range, at its upper end, inside, at the lower
  int64_t above, at_high, inside, at_low;
  int64_t largest;  // of all keys
};

struct Kernels {
  // By message and state type; null where there is none.
  Said (*update[2][3])(const Segment&);
  // total += h, of a worker that rests.
  void (*rest[2][3])(void* total, const void* known, int64_t size);
  bool (*finite[2])(const void* x, int64_t size);
  void (*threshold[2])(double xi, const void* params, const void* previous, void* out,
                       int64_t size);
  void (*add[2])(void* total, const void* part, int64_t size);
  // The largest magnitude, and the sum of the squares over scale, of a difference.
  double (*largest[2])(const void* a, const void* b, int64_t size);
  double (*squares[2])(const void* a, const void* b, double scale, int64_t size);
};

struct Gradients {
  void (*dense[2])(const Rows&);
  void (*entries[2][2])(const Rows&);  // by type, and whether columns are int32
  void (*blocks[2][2])(const Rows&);   // by type, and whether values are codes
};

struct Selects {
  // By the type of the entries: counts them, and writes the keys inside, in their order,
  // to where there is room for `size`.
  Ranked (*between[4])(const void* x, int64_t size, Range range, void* inside);
};

#define DECLARE(level)                     \
  extern const Kernels update_##level;     \
  extern const Gradients gradient_##level; \
  extern const Selects select_##level;
DECLARE(base)
DECLARE(v3)
DECLARE(v4)
#undef DECLARE

}  // namespace gdsec
