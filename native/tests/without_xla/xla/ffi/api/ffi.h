// What the handlers need of XLA's header of this name, on std::thread: with it they run,
// and are watched by tools, without XLA.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace xla::ffi {

enum class DataType { PRED, U8, U16, S32, U32, BF16, F32, F64 };

inline int64_t width_of(DataType type) {
  switch (type) {
    case DataType::PRED: case DataType::U8: return 1;
    case DataType::U16: case DataType::BF16: return 2;
    case DataType::F64: return 8;
    default: return 4;
  }
}

template <typename T>
class Span {
 public:
  explicit Span(const std::vector<int64_t>& values) : values_(&values) {}
  size_t size() const { return values_->size(); }
  T& operator[](size_t i) const { return (*values_)[i]; }

 private:
  const std::vector<int64_t>* values_;
};

// An array in memory of its very size, so that an access beyond it is seen.
class AnyBuffer {
 public:
  AnyBuffer(DataType type, std::vector<int64_t> dims)
      : type_(type), dims_(std::move(dims)), data_(new char[size_bytes()], [](char* x) { delete[] x; }) {}
  DataType element_type() const { return type_; }
  Span<const int64_t> dimensions() const { return Span<const int64_t>(dims_); }
  int64_t element_count() const {
    int64_t count = 1;
    for (int64_t size : dims_) count *= size;
    return count;
  }
  int64_t size_bytes() const { return element_count() * width_of(type_); }
  void* untyped_data() const { return data_.get(); }
  void claim(std::vector<int64_t> dims) { dims_ = std::move(dims); }

 private:
  DataType type_;
  std::vector<int64_t> dims_;
  std::shared_ptr<char> data_;
};

template <typename T>
class Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  T* operator->() { return &value_; }
  T& operator*() { return value_; }

 private:
  T value_;
};

class Error {
 public:
  static Error Success() { return Error(nullptr); }
  static Error InvalidArgument(const char* what) { return Error(what); }
  const char* what() const { return what_; }

 private:
  explicit Error(const char* what) : what_(what) {}
  const char* what_;
};

class Threads {
 public:
  explicit Threads(int number) {
    for (int i = 0; i < number; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done_ = true;
    }
    some_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  void add(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    some_.notify_one();
  }
  int64_t number() const { return int64_t(threads_.size()); }

 private:
  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      some_.wait(lock, [this] { return done_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::vector<std::thread> threads_;
  std::deque<std::function<void()>> tasks_;
  std::mutex mutex_;
  std::condition_variable some_;
  bool done_ = false;
};

class ThreadPool {
 public:
  explicit ThreadPool(Threads& threads) : threads_(&threads) {}
  int64_t num_threads() const { return threads_->number(); }
  template <typename F>
  void Schedule(F&& task) {
    threads_->add(std::forward<F>(task));
  }

 private:
  Threads* threads_;
};

}  // namespace xla::ffi

#define XLA_FFI_DEFINE_HANDLER_SYMBOL(...)
