// Calls every handler, and so every kernel, on arrays of many shapes: to be watched by the
// sanitizers, or valgrind. Says a sum of all bits of the results, which must not depend on
// the number of threads.
//
//     driver THREADS [short | overrun]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../src/handlers.cc"

namespace {

using ffi::AnyBuffer;
using ffi::DataType;
using Result = ffi::Result<AnyBuffer>;
using Dims = std::vector<int64_t>;

constexpr int64_t SIZES[] = {0, 1, 3, 7, 8, 9, 31, 32, 33, 2049, 4097};
constexpr int64_t LONG[] = {65536, 70001};  // of several tasks
constexpr int64_t M = 3;

uint64_t bits = 1469598103934665603u;  // of all results, FNV-1a

uint32_t generator() {  // Knuth's linear congruential one, MMIX
  static uint64_t state = 0;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return uint32_t(state >> 32);
}

double drawn() {
  const int64_t kind = generator() % 16;
  if (kind == 0) return 0.0;
  return (double(generator()) / 4294967296.0 - 0.5) * (kind == 1 ? 1e3 : 2.0);
}

template <typename T, typename F>
void fill(const AnyBuffer& x, const F& value) {
  T* to = static_cast<T*>(x.untyped_data());
  for (int64_t i = 0; i < x.element_count(); ++i) to[i] = T(value());
}

AnyBuffer filled(DataType type, Dims dims) {
  AnyBuffer x(type, std::move(dims));
  switch (type) {
    case DataType::F32: fill<float>(x, drawn); break;
    case DataType::F64: fill<double>(x, drawn); break;
    case DataType::BF16:  // half of a float32, 1 to 2, of either sign
      fill<uint16_t>(x, [] { return 0x3f80 + (generator() & 0x807f); });
      break;
    case DataType::PRED: fill<bool>(x, [] { return generator() % 4 != 0; }); break;
    case DataType::U8: fill<uint8_t>(x, [] { return generator() % 256; }); break;
    default: fill<uint32_t>(x, [] { return generator(); });
  }
  return x;
}

void see(ffi::Error error, std::vector<Result> results) {
  if (error.what()) {
    std::printf("refused: %s\n", error.what());
    std::exit(2);
  }
  for (auto& result : results) {
    const auto* bytes = static_cast<const unsigned char*>(result->untyped_data());
    for (int64_t i = 0; i < result->size_bytes(); ++i) bits = (bits ^ bytes[i]) * 1099511628211u;
  }
}

void of_vectors(ffi::ThreadPool pool, DataType type, int64_t size) {
  AnyBuffer x = filled(type, {2, M, size}), y = filled(type, {2, M, size});
  Result fine(AnyBuffer(DataType::PRED, {2, M}));
  see(gdsec::finite(pool, x, fine), {fine});
  Result norm(AnyBuffer(type, {2, M}));
  see(gdsec::change_norm(pool, x, y, norm), {norm});
}

void largest(ffi::ThreadPool pool, DataType type, int64_t size) {
  AnyBuffer x = filled(type, {2, size});
  const DataType keys = type == DataType::F64 ? DataType::F64 : DataType::U32;
  Result key(AnyBuffer(keys, {2})), last(AnyBuffer(DataType::S32, {2}));
  Result most(AnyBuffer(keys, {2}));
  const bool sums = type == DataType::F32 || type == DataType::F64;
  for (bool added : {false, sums})
    for (int64_t k : {int64_t(1), size / 100, size / 2, size})
      if (k > 0 && k <= size)
        see(gdsec::select(pool, x, filled(type, {2, added ? size : 0}), k, key, last, most),
            {key, last, most});
}

void update(ffi::ThreadPool pool, DataType type, DataType state, int64_t size, int kind) {
  const bool in_place = kind % 2, has_known = kind != 2, has_error = kind != 3;
  const Dims nothing = {2, M, 0}, all = {2, M, size};
  AnyBuffer known = filled(state, has_known ? all : nothing);
  AnyBuffer error = filled(state, has_error ? all : nothing);
  AnyBuffer params = filled(type, {2, size}), previous = filled(type, {2, size});
  auto result = [&](AnyBuffer& from) {
    const auto dims = from.dimensions();
    Dims same(dims.size());
    for (size_t i = 0; i < dims.size(); ++i) same[i] = dims[i];
    return in_place ? Result(from) : Result(AnyBuffer(from.element_type(), same));
  };
  Result new_known = result(known), new_error = result(error), next = result(previous);
  Result total(AnyBuffer(type, {2, size}));
  Result entries(AnyBuffer(DataType::S32, {2, M})), lost(AnyBuffer(DataType::PRED, {2, M}));
  const bool largest = kind == 2;
  AnyBuffer keys = filled(type, {2, largest ? M : 0});
  AnyBuffer last(DataType::S32, {2, largest ? M : 0});
  for (int64_t i = 0; i < last.element_count(); ++i)
    static_cast<int32_t*>(last.untyped_data())[i] = int32_t(generator() % (size + 1));
  see(gdsec::update(pool, filled(type, all), known, error, params, previous, filled(type, {2}),
                    filled(type, {2}), filled(DataType::PRED, {2, M}),
                    filled(DataType::PRED, {2, M}), filled(DataType::PRED, {2, M}), keys, last,
                    kind != 1,
                    kind < 2, new_known, new_error, next, total, entries, lost),
      {new_known, new_error, next, total, entries, lost});
}

// Rows with 0 to 4 numbers each, of `columns`.
struct Sparse {
  AnyBuffer starts, columns;
  int64_t most;
};

Sparse sparse(DataType type, int64_t number, int64_t columns) {
  const int64_t most = std::max<int64_t>(1, 4 * number);
  Sparse made{AnyBuffer(DataType::S32, {M, number + 1}), AnyBuffer(type, {M, most}), most};
  int32_t* start = static_cast<int32_t*>(made.starts.untyped_data());
  for (int64_t m = 0; m < M; ++m, start += number + 1) {
    start[0] = 0;
    for (int64_t i = 0; i < number; ++i)
      start[i + 1] = start[i] + (columns ? int32_t(generator() % 5) : 0);
  }
  auto column = [&] { return columns ? generator() % columns : 0; };
  if (type == DataType::U16)
    fill<uint16_t>(made.columns, column);
  else
    fill<int32_t>(made.columns, column);
  return made;
}

void gradients(ffi::ThreadPool pool, DataType type, int64_t number, int64_t size, int64_t loss) {
  AnyBuffer targets = filled(type, {M, number}), weights = filled(type, {M, number});
  AnyBuffer params = filled(type, {2, size}), lambda = filled(type, {M});
  Result out(AnyBuffer(type, {2, M, size}));
  see(gdsec::dense(pool, filled(type, {M, number, size}), targets, weights, params, lambda, loss,
                   out), {out});
  for (DataType kind : {DataType::U16, DataType::S32}) {
    Sparse rows = sparse(kind, number, size);
    for (bool ones : {false, true})
      see(gdsec::entries(pool, rows.starts, rows.columns,
                         filled(type, {M, ones ? 0 : rows.most}), targets, weights, params,
                         lambda, loss, out), {out});
  }
  Sparse rows = sparse(DataType::U16, number, (size + 7) / 8);
  for (DataType kind : {type, DataType::U8})
    see(gdsec::blocks(pool, rows.starts, rows.columns, filled(kind, {M, rows.most, 8}),
                      filled(type, {M}), targets, weights, params, lambda, loss, out), {out});
}

// An array that is said to have one entry more than it has.
void overrun(ffi::ThreadPool pool) {
  AnyBuffer x = filled(DataType::F32, {1000});
  x.claim({1001});
  Result key(AnyBuffer(DataType::U32, {})), last(AnyBuffer(DataType::S32, {}));
  see(gdsec::select(pool, x, filled(DataType::F32, {0}), 1001, key, last, key), {key, last});
}

}  // namespace

int main(int count, char** arguments) {
  const std::string how = count > 2 ? arguments[2] : "";
  const bool small = how == "short";
  ffi::Threads threads(count > 1 ? std::atoi(arguments[1]) : 1);
  ffi::ThreadPool pool(threads);
  if (how == "overrun") overrun(pool);
  const DataType F32 = DataType::F32, F64 = DataType::F64, BF16 = DataType::BF16;
  for (int64_t size : SIZES) {
    if (small && size > 100) continue;
    for (DataType type : {F32, F64}) {
      of_vectors(pool, type, size);
      for (DataType state : {F32, F64, BF16})
        for (int kind = 0; kind < 4; ++kind)
          if (type == F64 || state != F64) update(pool, type, state, size, kind);
    }
    for (DataType type : {F32, F64, BF16, DataType::U32}) largest(pool, type, size);
  }
  for (int64_t size : LONG) {
    if (small) continue;
    of_vectors(pool, F32, size);
    update(pool, F32, BF16, size, 1);
    largest(pool, F32, size);
  }
  for (DataType type : {F32, F64})
    for (int64_t number : {0, 1, 2, 63, 65})
      for (int64_t size : {0, 1, 7, 8, 9, 33})
        gradients(pool, type, number, size, number % 3);
  gradients(pool, F32, 300, small ? 30 : 300, 1);
  if (small) largest(pool, F32, 9000);
  std::printf("%016llx\n", static_cast<unsigned long long>(bits));
}
