#include "kernels/packed_linear.h"

#include <cstring>

#include "bind/bind.h"

namespace ironcliw {
namespace {

constexpr int64_t kMost = int64_t{1} << 28;  // rows and columns, so that no product of sizes overflows

Format checked_format(const char* op, int64_t number, int64_t rows, int64_t columns) {
  IRONCLIW_CHECK(is_format(number), op, "format must be one of FORMATS; it is ", number);
  const Format format = static_cast<Format>(number);
  IRONCLIW_CHECK(rows >= 0 && rows < kMost, op, "rows must be 0 to 2^28; it is ", rows);
  IRONCLIW_CHECK(columns >= 0 && columns < kMost, op, "columns must be 0 to 2^28; it is ", columns);
  const int64_t unit = columns_multiple(format);
  IRONCLIW_CHECK(columns % unit == 0, op, "columns must be a multiple of ", unit, " for format ", number, "; it is ", columns);
  return format;
}

void check_bytes(const char* op, const char* name, const Tensor& t, int64_t wanted) {
  check_dtype(op, name, t, ScalarType::Byte);
  check_dim(op, name, t, 1);
  check_size(op, name, t, 0, wanted);
}

Tensor pack_weight(const Tensor& source, int64_t number, int64_t rows, int64_t columns) {
  constexpr auto op = "pack_weight";
  const Format format = checked_format(op, number, rows, columns);
  const int64_t row_bytes = source_row_bytes(format, columns);
  check_bytes(op, "source", source, rows * row_bytes);
  const Tensor bytes = dense(source);
  Tensor packed = torch::stable::new_empty(bytes, {packed_bytes(format, rows, columns)});
  const int64_t group = packed_bytes(format, kGroup, columns), groups = (rows + kGroup - 1) / kGroup;
  aten_threads().parallel(groups, 1 + 65536 / (1 + group), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kGroup, last = end * kGroup < rows ? end * kGroup : rows;
    pack(format, data<uint8_t>(bytes) + first * row_bytes, last - first, columns, mutable_data<uint8_t>(packed) + begin * group);
  });
  return packed;
}

struct Product {
  const PackedLinearKernels& kernels;
  PackedMatrix w;
  const float* x;
  int64_t rows;
  float* out;
  int64_t out_stride;

  // Rows at a time whose activations stay in the second level cache while the weights pass.
  int64_t rows_at_once(int64_t row_bytes) const {
    const int64_t count = 786432 / (1 + row_bytes) / 8 * 8;
    return count < 32 ? 32 : count;
  }
  // Groups of 16 outputs that are worth a thread.
  int64_t grain() const { return 1 + 131072 / (1 + kGroup * w.columns * rows); }

  void floats() const {
    const int64_t step = rows_at_once(4 * w.columns);
    aten_threads().parallel(w.groups(), grain(), [&](int64_t begin, int64_t end) {
      for (int64_t row = 0; row < rows; row += step)
        kernels.multiply_float(w, x + row * w.columns, w.columns, rows - row < step ? rows - row : step, begin, end,
            out + row * out_stride, out_stride);
    });
  }
  void quantized(const QuantizedRows& inputs, int planes) const {
    aten_threads().parallel(rows, 1 + 32768 / (1 + w.columns), [&](int64_t begin, int64_t end) {
      kernels.quantize(x + begin * w.columns, w.columns, end - begin, w.columns, quantized_from(inputs, begin));
    });
    const int64_t step = rows_at_once(planes * w.columns);
    aten_threads().parallel(w.groups(), grain(), [&](int64_t begin, int64_t end) {
      for (int64_t row = 0; row < rows; row += step)
        kernels.multiply_quantized(w, quantized_from(inputs, row), rows - row < step ? rows - row : step, begin, end,
            out + row * out_stride, out_stride);
    });
  }
};

// Whole groups were written: leave out what lies behind the last output.
Tensor without_padding(const Tensor& padded, int64_t rows, int64_t outputs, int64_t stride) {
  Tensor out = torch::stable::new_empty(padded, {rows, outputs});
  for (int64_t m = 0; m < rows; ++m) std::memcpy(mutable_data<float>(out) + m * outputs, data<float>(padded) + m * stride,
      static_cast<size_t>(outputs) * 4);
  return out;
}

Tensor packed_linear_op(const Tensor& x, const Tensor& packed, int64_t number, int64_t outputs, int64_t planes) {
  constexpr auto op = "packed_linear";
  check_dtype(op, "x", x, ScalarType::Float);
  check_dim(op, "x", x, 2);
  const int64_t rows = x.size(0), columns = x.size(1);
  const Format format = checked_format(op, number, outputs, columns);
  IRONCLIW_CHECK(rows < kMost, op, "x must have fewer than 2^28 rows; its shape is ", shape_text(x));
  IRONCLIW_CHECK(planes == 1 || planes == 2, op, "planes must be 1 or 2; it is ", planes);
  check_bytes(op, "packed", packed, packed_bytes(format, outputs, columns));
  const Tensor xs = dense(x), weights = dense(packed);
  IRONCLIW_CHECK(reinterpret_cast<uintptr_t>(data<uint8_t>(weights)) % 4 == 0, op, "packed must start at a multiple of 4 bytes");
  const PackedMatrix w{data<uint8_t>(weights), outputs, columns, format};
  const int64_t stride = w.groups() * kGroup;
  Tensor out = torch::stable::new_empty(xs, {rows, stride});
  const Product product{packed_linear(), w, data<float>(xs), rows, mutable_data<float>(out), stride};
  if (!is_quantized(format)) {
    product.floats();
  } else {
    Tensor memory = torch::stable::new_empty(weights, {quantized_bytes(rows, columns, static_cast<int>(planes))});
    product.quantized(place_quantized(mutable_data<uint8_t>(memory), rows, columns, static_cast<int>(planes), steps_for(format)), static_cast<int>(planes));
  }
  return stride == outputs ? out : without_padding(out, rows, outputs, stride);
}

const Binding binding([](Implementations& m) {
  m.impl("pack_weight", TORCH_BOX(&pack_weight));
  m.impl("packed_linear", TORCH_BOX(&packed_linear_op));
});

}  // namespace
}  // namespace ironcliw
