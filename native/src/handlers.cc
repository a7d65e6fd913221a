// The kernels as foreign functions of XLA, on its own threads.
//
// Work is cut by the shapes alone, so that no bit depends on how many threads there are.
// Leading axes, of a sweep's settings say, may stand before the axes that are named.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "selection.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace gdsec {
namespace {

const Kernels& kernels() {
#ifdef X86_LEVELS
  static const Kernels& found =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma")
          ? update_v4
      : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? update_v3
                                                                        : update_base;
  return found;
#else
  return update_base;
#endif
}

const Gradients& gradients() {
#ifdef X86_LEVELS
  static const Gradients& found = &kernels() == &update_v4   ? gradient_v4
                                  : &kernels() == &update_v3 ? gradient_v3
                                                             : gradient_base;
  return found;
#else
  return gradient_base;
#endif
}

const Selects& selects() {
#ifdef X86_LEVELS
  static const Selects& found = &kernels() == &update_v4   ? select_v4
                                : &kernels() == &update_v3 ? select_v3
                                                           : select_base;
  return found;
#else
  return select_base;
#endif
}

// Numbers that are read in a few times what it takes to wake a thread.
constexpr int64_t WORTH = int64_t(1) << 16;

// task(i) for i < n, on the pool; the caller works, too, and never waits for a thread
// that has not begun: it may be one of the pool itself. `numbers` is how many all of
// them read.
template <typename F>
void parallel(ffi::ThreadPool& pool, int64_t n, int64_t numbers, const F& task) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    int64_t n;
    const F* task;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const int64_t helpers = std::min<int64_t>({pool.num_threads() - 1, n - 1, numbers / WORTH});
  if (helpers <= 0) {
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  auto shared = std::make_shared<Shared>();
  shared->n = n;
  shared->task = &task;
  auto work = [](Shared& s) {
    for (int64_t i; (i = s.next.fetch_add(1)) < s.n;) {
      (*s.task)(i);
      if (s.done.fetch_add(1) + 1 == s.n) {
        std::lock_guard<std::mutex> lock(s.mutex);
        s.all_done.notify_all();
      }
    }
  };
  for (int64_t t = 0; t < helpers; ++t) pool.Schedule([shared, work] { work(*shared); });
  work(*shared);
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == n; });
}

int64_t product(ffi::Span<const int64_t> dims, size_t from, size_t to) {
  int64_t size = 1;
  for (size_t i = from; i < to; ++i) size *= dims[i];
  return size;
}

int type_of(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F32: return F32;
    case ffi::DataType::F64: return F64;
    case ffi::DataType::BF16: return BF16;
    default: return -1;
  }
}

ffi::Error wrong(const char* what) { return ffi::Error::InvalidArgument(what); }

double number(const void* values, int type, int64_t i) {
  return type == F32 ? double(static_cast<const float*>(values)[i])
                     : static_cast<const double*>(values)[i];
}

char* shifted(void* base, int64_t entries, int64_t width) {
  return static_cast<char*>(base) + entries * width;
}
const char* shifted(const void* base, int64_t entries, int64_t width) {
  return static_cast<const char*>(base) + entries * width;
}

// ---- Which workers' gradients are finite: [.., M, D] to bool [.., M].

constexpr int64_t PART = int64_t(1) << 16;  // entries of a task

ffi::Error finite(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> out) {
  const auto dims = x.dimensions();
  const int type = type_of(x.element_type());
  if (dims.size() < 2 || (type != F32 && type != F64)) return wrong("finite: gradients");
  const int64_t rows = product(dims, 0, dims.size() - 1), length = dims[dims.size() - 1];
  const int64_t width = type == F32 ? 4 : 8;
  bool* fine = static_cast<bool*>(out->untyped_data());
  if (length == 0) {
    std::fill(fine, fine + rows, true);
    return ffi::Error::Success();
  }
  // Short rows go several to a task, long ones have several tasks.
  const int64_t parts = (length + PART - 1) / PART, group = std::max<int64_t>(1, PART / length);
  const int64_t groups = (rows + group - 1) / group;
  std::vector<std::atomic<bool>> bad(rows);
  for (auto& each : bad) each.store(false, std::memory_order_relaxed);
  parallel(pool, groups * parts, rows * length, [&](int64_t task) {
    const int64_t first = task / parts * group, part = task % parts * PART;
    for (int64_t row = first; row < std::min(rows, first + group); ++row) {
      const int64_t size = std::min(PART, length - part);
      if (!kernels().finite[type](shifted(x.untyped_data(), row * length + part, width), size))
        bad[row].store(true, std::memory_order_relaxed);
    }
  });
  for (int64_t row = 0; row < rows; ++row) fine[row] = !bad[row].load();
  return ffi::Error::Success();
}

// ---- The Euclidean norm of a - b, [.., D] to [..], without overflow.

ffi::Error change_norm(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b,
                       ffi::Result<ffi::AnyBuffer> out) {
  const auto dims = a.dimensions();
  const int type = type_of(a.element_type());
  if (dims.size() < 1 || (type != F32 && type != F64)) return wrong("change_norm: params");
  const int64_t length = dims[dims.size() - 1], rows = product(dims, 0, dims.size() - 1);
  const int64_t width = type == F32 ? 4 : 8, step = int64_t(1) << 14;
  const int64_t parts = std::max<int64_t>(1, (length + step - 1) / step);
  std::vector<double> scales(rows * parts), sums(rows * parts);
  parallel(pool, rows * parts, 2 * rows * length, [&](int64_t task) {
    const int64_t row = task / parts, from = task % parts * step;
    const int64_t size = std::max<int64_t>(0, std::min(step, length - from));
    const char* x = shifted(a.untyped_data(), row * length + from, width);
    const char* y = shifted(b.untyped_data(), row * length + from, width);
    const double most = kernels().largest[type](x, y, size);
    const double tiny = type == F32 ? 0x1p-126 : 0x1p-1022;
    int exponent = 0;
    std::frexp(most, &exponent);
    const bool usual = most >= tiny && std::isfinite(most);
    scales[task] = usual ? std::ldexp(1.0, std::min(exponent - 1, type == F32 ? 126 : 1022)) : 1.0;
    sums[task] = kernels().squares[type](x, y, scales[task], size);
  });
  for (int64_t row = 0; row < rows; ++row) {
    double scale = 0, sum = 0;
    for (int64_t p = 0; p < parts; ++p)
      if (sums[row * parts + p] != 0) scale = std::max(scale, scales[row * parts + p]);
    if (scale == 0) scale = 1;
    for (int64_t p = 0; p < parts; ++p) {
      const double own = scales[row * parts + p] / scale;
      if (sums[row * parts + p] != 0) sum += own * own * sums[row * parts + p];
    }
    const double norm = scale * std::sqrt(sum);
    if (type == F32)
      static_cast<float*>(out->untyped_data())[row] = float(norm);
    else
      static_cast<double*>(out->untyped_data())[row] = norm;
  }
  return ffi::Error::Success();
}

// ---- GD-SEC's update of all workers, in place; or that by the largest entries of each.

// Columns of a task: long stretches of memory are read faster, and their thresholds and
// sums stay in the cache; but there should be several tasks.
int64_t columns_of(int64_t length, int64_t width) {
  const int64_t most = (int64_t(1) << 18) / width, sixteenth = (length / 16 + 1023) / 1024 * 1024;
  return std::max<int64_t>(2048, std::min(most, sixteenth));
}

// Above which are the entries with a larger key, and up to the place `last` those with it.
template <typename G, typename E>
void thresholds(G* to, int64_t size, typename E::Key key, int64_t last) {
  // Subnormal numbers are not sent, see `threshold` in update.cc.
  const G least = std::numeric_limits<G>::min() - std::numeric_limits<G>::denorm_min();
  auto of = [&](typename E::Key bits) {
    G magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    return magnitude > least ? magnitude : least;
  };
  const int64_t kept = std::max<int64_t>(0, std::min(size, last + 1));
  std::fill(to, to + kept, key ? of(key - 1) : least);
  std::fill(to + kept, to + size, of(key));
}

constexpr int64_t GROUP = int64_t(1) << 17;  // entries of a task, at least, where D is small

ffi::Error update(ffi::ThreadPool pool, ffi::AnyBuffer gradients, ffi::AnyBuffer known_in,
                  ffi::AnyBuffer error_in, ffi::AnyBuffer params, ffi::AnyBuffer previous,
                  ffi::AnyBuffer xi, ffi::AnyBuffer beta, ffi::AnyBuffer computes,
                  ffi::AnyBuffer sends, ffi::AnyBuffer arrives, ffi::AnyBuffer keys,
                  ffi::AnyBuffer last, bool estimates, bool drops,
                  ffi::Result<ffi::AnyBuffer> known, ffi::Result<ffi::AnyBuffer> error,
                  ffi::Result<ffi::AnyBuffer> next, ffi::Result<ffi::AnyBuffer> total,
                  ffi::Result<ffi::AnyBuffer> entries, ffi::Result<ffi::AnyBuffer> lost) {
  const auto dims = gradients.dimensions();
  if (dims.size() < 2) return wrong("update: gradients have no [M, D]");
  const int type = type_of(gradients.element_type());
  const bool has_known = known_in.element_count() > 0, has_error = error_in.element_count() > 0;
  const int state = type_of((has_known ? known_in : error_in).element_type());
  if ((type != F32 && type != F64) || state < 0 || !kernels().update[type][state])
    return wrong("update: no kernel for these types");
  const auto apply = kernels().update[type][state];
  const int64_t length = dims[dims.size() - 1], num_workers = dims[dims.size() - 2];
  const int64_t settings = product(dims, 0, dims.size() - 2);
  const int64_t width = type == F32 ? 4 : 8, state_width = state == BF16 ? 2 : state == F32 ? 4 : 8;
  const bool largest = keys.element_count() > 0;  // the k of each worker
  if (largest && int64_t(keys.element_count()) != settings * num_workers) return wrong("update: keys");
  // What XLA could not give in place is brought there first.
  auto bring = [&](ffi::AnyBuffer from, ffi::Result<ffi::AnyBuffer>& to) {
    if (from.untyped_data() != to->untyped_data())
      std::memcpy(to->untyped_data(), from.untyped_data(), from.size_bytes());
  };
  bring(known_in, known);
  bring(error_in, error);
  const int64_t rows = settings * num_workers;
  std::vector<std::atomic<int32_t>> counts(rows);
  std::vector<std::atomic<bool>> bad(rows);
  for (int64_t i = 0; i < rows; ++i) counts[i].store(0), bad[i].store(false);
  const int64_t columns = columns_of(length, width);
  const int64_t stretches = std::max<int64_t>(1, (length + columns - 1) / columns);
  int64_t group = num_workers;  // of workers
  if (stretches == 1) group = std::min(num_workers, std::max<int64_t>(1, GROUP / std::max<int64_t>(1, length)));
  const int64_t groups = num_workers ? (num_workers + group - 1) / group : 1;
  // What is the previous parameters in the next round.
  auto follows = [&](int64_t place, int64_t size) {
    std::memcpy(shifted(next->untyped_data(), place, width),
                shifted(params.untyped_data(), place, width), size * width);
  };
  // A sum of its own for each group of workers.
  std::vector<char> parts(groups > 1 ? size_t(settings * groups * length * width) : 0);
  char* totals = groups > 1 ? parts.data() : static_cast<char*>(total->untyped_data());
  const bool* computing = static_cast<const bool*>(computes.untyped_data());
  const bool* sending = static_cast<const bool*>(sends.untyped_data());
  const bool* arriving = static_cast<const bool*>(arrives.untyped_data());
  parallel(pool, settings * groups * stretches, 3 * rows * length, [&](int64_t task) {
    const int64_t setting = task / (groups * stretches), g = task / stretches % groups;
    const int64_t from = task % stretches * columns;
    const int64_t size = std::min(columns, length - from);
    if (size <= 0) return;
    static thread_local std::vector<char> threshold;
    if (int64_t(threshold.size()) < size * width) threshold.resize(size * width);
    const int64_t place = setting * length + from;
    if (!largest) kernels().threshold[type](number(xi.untyped_data(), type, setting),
                              shifted(params.untyped_data(), place, width),
                              shifted(previous.untyped_data(), place, width), threshold.data(), size);
    if (groups == 1) follows(place, size);
    char* sum = totals + ((setting * groups + g) * length + from) * width;
    std::memset(sum, 0, size * width);
    for (int64_t m = g * group; m < std::min(num_workers, (g + 1) * group); ++m) {
      const int64_t row = setting * num_workers + m, entry = row * length + from;
      Segment segment;
      segment.gradient = shifted(gradients.untyped_data(), entry, width);
      segment.known = has_known ? shifted(known->untyped_data(), entry, state_width) : nullptr;
      segment.error = has_error ? shifted(error->untyped_data(), entry, state_width) : nullptr;
      segment.threshold = threshold.data();
      segment.total = sum;
      segment.size = size;
      segment.beta = number(beta.untyped_data(), type, setting);
      segment.sends = sending[row];
      segment.arrives = arriving[row];
      segment.estimates = estimates;
      segment.drops = drops;
      if (!computing[row]) {
        if (has_known && estimates) kernels().rest[type][state](sum, segment.known, size);
        continue;
      }
      if (largest) {
        const int64_t until = static_cast<const int32_t*>(last.untyped_data())[row] - from;
        auto fill = [&](auto* to, auto own) {
          using E = decltype(own);
          const auto* key = static_cast<const typename E::Key*>(keys.untyped_data());
          thresholds<std::remove_pointer_t<decltype(to)>, E>(to, size, key[row], until);
        };
        if (type == F32)
          fill(reinterpret_cast<float*>(threshold.data()), OfF32());
        else
          fill(reinterpret_cast<double*>(threshold.data()), OfF64());
      }
      const Said said = apply(segment);
      if (said.entries) counts[row].fetch_add(int32_t(said.entries), std::memory_order_relaxed);
      if (said.lost) bad[row].store(true, std::memory_order_relaxed);
    }
  });
  if (groups > 1) {
    parallel(pool, settings * stretches, settings * groups * length, [&](int64_t task) {
      const int64_t setting = task / stretches, from = task % stretches * columns;
      const int64_t size = std::min(length - from, columns);
      char* to = shifted(total->untyped_data(), setting * length + from, width);
      std::memset(to, 0, size * width);
      follows(setting * length + from, size);
      for (int64_t g = 0; g < groups; ++g)
        kernels().add[type](to, totals + ((setting * groups + g) * length + from) * width, size);
    });
  }
  for (int64_t i = 0; i < rows; ++i) {
    static_cast<int32_t*>(entries->untyped_data())[i] = counts[i].load();
    static_cast<bool*>(lost->untyped_data())[i] = bad[i].load();
  }
  return ffi::Error::Success();
}

// ---- Gradients of generalised linear models.

struct Model {
  int type;
  int64_t num_workers, number, length, padded;
  const void *targets, *weights, *params, *regularization;
  int loss;
  int64_t settings;
  void* out;
};

// X_m^T s of all workers of all settings, plus the penalty's part; rows_of says of which
// rows, `work` how much a worker's are: numbers that are read.
template <typename F>
ffi::Error gradient(ffi::ThreadPool& pool, const Model& model, int64_t work, bool twice,
                    const F& rows_of, void (*kernel)(const Rows&)) {
  const int64_t width = model.type == F32 ? 4 : 8, d = model.length, padded = model.padded;
  const int64_t most = std::max<int64_t>(1, model.number / 16);
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>({8, most, work / (4 * d + 4096)}));
  const int64_t size = (model.number + parts - 1) / parts;
  const int64_t sums = parts * (twice ? 2 : 1), workers = model.settings * model.num_workers;
  const bool own = sums > 1 || padded != d;  // whether sums have a place of their own
  std::vector<char> place(own ? size_t(workers * sums * padded * width) : 0);
  std::vector<char> params(padded != d ? size_t(model.settings * padded * width) : 0);
  if (padded != d)
    for (int64_t s = 0; s < model.settings; ++s)
      std::memcpy(params.data() + s * padded * width, shifted(model.params, s * d, width), d * width);
  const void* theta = padded != d ? params.data() : model.params;
  if (!own) std::memset(model.out, 0, size_t(workers * d * width));
  parallel(pool, workers * parts, workers * work, [&](int64_t task) {
    const int64_t row = task / parts, m = row % model.num_workers, s = row / model.num_workers;
    const int64_t first = task % parts * size, last = std::min(model.number, first + size);
    if (first >= last) return;
    Rows rows = rows_of(m, first);
    char* to = own ? place.data() + row * sums * padded * width + task % parts * (twice ? 2 : 1) * padded * width
                   : shifted(model.out, row * d, width);
    rows.targets = shifted(model.targets, m * model.number + first, width);
    rows.weights = shifted(model.weights, m * model.number + first, width);
    rows.params = shifted(theta, s * padded, width);
    rows.gradient = to;
    rows.spare = twice ? to + padded * width : nullptr;
    rows.number = last - first;
    rows.length = d;
    rows.loss = model.loss;
    kernel(rows);
  });
  const int64_t step = int64_t(1) << 14, stretches = (d + step - 1) / step;
  parallel(pool, workers * stretches, (sums + 1) * workers * d, [&](int64_t task) {
    const int64_t row = task / stretches, from = task % stretches * step;
    const int64_t n = std::min(step, d - from), m = row % model.num_workers, s = row / model.num_workers;
    auto end = [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      T* g = static_cast<T*>(model.out) + row * d + from;
      const T* t = static_cast<const T*>(model.params) + s * d + from;
      const T lambda = static_cast<const T*>(model.regularization)[m];
      if (own) {
        std::memset(g, 0, n * sizeof(T));
        for (int64_t p = 0; p < sums; ++p)
          kernels().add[model.type](g, reinterpret_cast<const T*>(place.data()) + (row * sums + p) * padded + from, n);
      }
      for (int64_t j = 0; j < n; ++j) g[j] += lambda * t[j];
    };
    model.type == F32 ? end(static_cast<float*>(nullptr)) : end(static_cast<double*>(nullptr));
  });
  return ffi::Error::Success();
}

// targets, weights [M, n], params [.., D], regularization [M], out [.., M, D].
bool model_of(Model& model, ffi::AnyBuffer targets, ffi::AnyBuffer weights, ffi::AnyBuffer params,
              ffi::AnyBuffer regularization, int64_t loss, ffi::Result<ffi::AnyBuffer>& out) {
  const auto rows = targets.dimensions(), theta = params.dimensions();
  model.type = type_of(params.element_type());
  if (rows.size() != 2 || theta.size() < 1 || (model.type != F32 && model.type != F64)) return false;
  model.num_workers = rows[0], model.number = rows[1];
  model.length = model.padded = theta[theta.size() - 1];
  model.settings = product(theta, 0, theta.size() - 1);
  model.targets = targets.untyped_data(), model.weights = weights.untyped_data();
  model.params = params.untyped_data(), model.regularization = regularization.untyped_data();
  model.loss = int(loss), model.out = out->untyped_data();
  return true;
}

ffi::Error dense(ffi::ThreadPool pool, ffi::AnyBuffer features, ffi::AnyBuffer targets,
                 ffi::AnyBuffer weights, ffi::AnyBuffer params, ffi::AnyBuffer regularization,
                 int64_t loss, ffi::Result<ffi::AnyBuffer> out) {
  Model model;
  if (!model_of(model, targets, weights, params, regularization, loss, out) ||
      type_of(features.element_type()) != model.type)
    return wrong("dense: arguments");
  const int64_t width = model.type == F32 ? 4 : 8;
  auto rows_of = [&](int64_t m, int64_t first) {
    Rows rows{};
    rows.features = shifted(features.untyped_data(), (m * model.number + first) * model.length, width);
    return rows;
  };
  return gradient(pool, model, model.number * model.length, false, rows_of,
                  gradients().dense[model.type]);
}

// starts int32 [M, n + 1], columns uint16 or int32 [M, Z], values [M, Z], or [M, 0] where
// all are one.
ffi::Error entries(ffi::ThreadPool pool, ffi::AnyBuffer starts, ffi::AnyBuffer columns,
                   ffi::AnyBuffer values, ffi::AnyBuffer targets, ffi::AnyBuffer weights,
                   ffi::AnyBuffer params, ffi::AnyBuffer regularization, int64_t loss,
                   ffi::Result<ffi::AnyBuffer> out) {
  Model model;
  if (!model_of(model, targets, weights, params, regularization, loss, out))
    return wrong("entries: arguments");
  const int64_t width = model.type == F32 ? 4 : 8, most = columns.dimensions()[1];
  const bool wide = columns.element_type() == ffi::DataType::S32;
  const bool ones = values.element_count() == 0;
  auto rows_of = [&](int64_t m, int64_t first) {
    Rows rows{};
    rows.starts = static_cast<const int32_t*>(starts.untyped_data()) + m * (model.number + 1) + first;
    rows.columns = shifted(columns.untyped_data(), m * most, wide ? 4 : 2);
    rows.values = ones ? nullptr : shifted(values.untyped_data(), m * most, width);
    return rows;
  };
  return gradient(pool, model, most, model.length <= 4096, rows_of,
                  gradients().entries[model.type][wide]);
}

// Of blocks of 8 columns: starts int32 [M, n + 1], columns uint16 [M, Z], values [M, Z, 8],
// numbers or codes of 8 bits, which times `scale` [M] are the numbers.
ffi::Error blocks(ffi::ThreadPool pool, ffi::AnyBuffer starts, ffi::AnyBuffer columns,
                  ffi::AnyBuffer values, ffi::AnyBuffer scale, ffi::AnyBuffer targets,
                  ffi::AnyBuffer weights, ffi::AnyBuffer params, ffi::AnyBuffer regularization,
                  int64_t loss, ffi::Result<ffi::AnyBuffer> out) {
  Model model;
  if (!model_of(model, targets, weights, params, regularization, loss, out))
    return wrong("blocks: arguments");
  model.padded = (model.length + 7) / 8 * 8;
  const bool codes = values.element_type() == ffi::DataType::U8;
  const int64_t width = codes ? 1 : model.type == F32 ? 4 : 8, most = columns.dimensions()[1];
  auto rows_of = [&](int64_t m, int64_t first) {
    Rows rows{};
    rows.starts = static_cast<const int32_t*>(starts.untyped_data()) + m * (model.number + 1) + first;
    rows.columns = shifted(columns.untyped_data(), m * most, 2);
    rows.values = shifted(values.untyped_data(), 8 * m * most, width);
    rows.scale = number(scale.untyped_data(), model.type, m);
    return rows;
  };
  return gradient(pool, model, 8 * most, false, rows_of, gradients().blocks[model.type][codes]);
}

// ---- The k-th largest magnitude: [.., D], to which as many are added, or [.., 0], to its key
// [..] and, int32 [..], the place of the last of the k largest entries that have it, or D where
// all entries with it are among them; and the largest key.

ffi::Error select(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer added, int64_t k,
                  ffi::Result<ffi::AnyBuffer> key, ffi::Result<ffi::AnyBuffer> last,
                  ffi::Result<ffi::AnyBuffer> largest) {
  const auto dims = x.dimensions();
  if (dims.size() < 1) return wrong("select: x has no [D]");
  const int64_t length = dims[dims.size() - 1], rows = product(dims, 0, dims.size() - 1);
  if (k < 1 || k > length || length >= int64_t(1) << 31) return wrong("select: k or D");
  const bool sums = added.element_count() > 0;
  const bool floats = type_of(x.element_type()) == F32 || type_of(x.element_type()) == F64;
  if (sums && (!floats || added.element_type() != x.element_type() ||
               added.element_count() != x.element_count()))
    return wrong("select: what is added");
  auto by = [&](auto keys, Entry entry) {
    using E = decltype(keys);
    const Selection<E> selection{selects().between[entry], length, k};
    auto tasks = [&](int64_t n, int64_t numbers, const auto& task) { parallel(pool, n, numbers, task); };
    selection.run(tasks, x.untyped_data(), sums ? added.untyped_data() : nullptr, rows,
                  key->untyped_data(), static_cast<int32_t*>(last->untyped_data()),
                  largest->untyped_data());
    return ffi::Error::Success();
  };
  switch (x.element_type()) {
    case ffi::DataType::F32: return by(OfF32(), ENTRY_F32);
    case ffi::DataType::F64: return by(OfF64(), ENTRY_F64);
    case ffi::DataType::BF16: return by(OfBf16(), ENTRY_BF16);
    case ffi::DataType::U32: return by(OfU32(), ENTRY_U32);
    default: return wrong("select: no kernel for this type");
  }
}

}  // namespace
}  // namespace gdsec

using Any = ffi::AnyBuffer;

extern "C" __attribute__((visibility("default"))) const int gdsec_arguments = 4;

#define EXPORT XLA_FFI_DEFINE_HANDLER_SYMBOL
#pragma GCC visibility push(default)
EXPORT(gdsec_finite, gdsec::finite,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Ret<Any>());
EXPORT(gdsec_change_norm, gdsec::change_norm,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<Any>().Ret<Any>());
EXPORT(gdsec_update, gdsec::update,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
           .Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>()
           .Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>()
           .Attr<bool>("estimates").Attr<bool>("drops")
           .Ret<Any>().Ret<Any>().Ret<Any>().Ret<Any>().Ret<Any>().Ret<Any>());
EXPORT(gdsec_dense, gdsec::dense,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
           .Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>()
           .Attr<int64_t>("loss").Ret<Any>());
EXPORT(gdsec_entries, gdsec::entries,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
           .Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>()
           .Attr<int64_t>("loss").Ret<Any>());
EXPORT(gdsec_blocks, gdsec::blocks,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
           .Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>()
           .Arg<Any>().Attr<int64_t>("loss").Ret<Any>());
EXPORT(gdsec_select, gdsec::select,
       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
           .Arg<Any>().Arg<Any>().Attr<int64_t>("k").Ret<Any>().Ret<Any>().Ret<Any>());
#pragma GCC visibility pop
