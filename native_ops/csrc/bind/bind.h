// What every binding file uses. A binding checks its arguments, makes the outputs and calls kernels;
// schemas, references and fakes are in Python (native_ops/operators.py), so that they are there
// without the binary too.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "threads.h"

namespace ironcliw {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Implementations = torch::stable::detail::StableLibrary;

// A file's operators: `static const Binding binding([](Implementations& m) { m.impl("x", TORCH_BOX(&x)); });`
struct Binding {
  using Register = void (*)(Implementations&);
  explicit Binding(Register f) { all().push_back(f); }
  static std::vector<Register>& all() {
    static std::vector<Register> list;
    return list;
  }
};

// ATen's pool.
inline const Threads& aten_threads() {
  static const Threads threads{
      [](int64_t count, int64_t grain, Threads::Body body, void* context) {
        torch::stable::parallel_for(0, count, grain, [=](int64_t begin, int64_t end) { body(context, begin, end); });
      },
      [] { return static_cast<int>(torch::stable::get_num_threads()); }};
  return threads;
}

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return "another type";
  }
}

inline std::string shape_text(const Tensor& t) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < t.dim(); ++i) text << (i ? ", " : "") << t.size(i);
  text << "]";
  return text.str();
}

// "ironcliw::op: x must ...; it is ..." as a Python RuntimeError.
#define IRONCLIW_CHECK(condition, op, ...)                                     \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::ostringstream text_;                                                \
      text_ << "ironcliw::" << op << ": ";                                     \
      ::ironcliw::append_all(text_, __VA_ARGS__);                              \
      throw std::runtime_error(text_.str());                                   \
    }                                                                          \
  } while (0)

template <class... Parts> void append_all(std::ostringstream& text, const Parts&... parts) { (text << ... << parts); }

inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType wanted) {
  IRONCLIW_CHECK(t.scalar_type() == wanted, op, name, " must be ", dtype_name(wanted), "; it is ", dtype_name(t.scalar_type()));
}
inline void check_dim(const char* op, const char* name, const Tensor& t, int64_t wanted) {
  IRONCLIW_CHECK(t.dim() == wanted, op, name, " must have ", wanted, " dimensions; its shape is ", shape_text(t));
}
inline void check_size(const char* op, const char* name, const Tensor& t, int64_t dim, int64_t wanted) {
  IRONCLIW_CHECK(t.size(dim) == wanted, op, name, " must have ", wanted, " in dimension ", dim, "; its shape is ", shape_text(t));
}
// The same values side by side; a copy where they are not yet.
inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

template <class T> const T* data(const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); }
template <class T> T* mutable_data(Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }

}  // namespace ironcliw
