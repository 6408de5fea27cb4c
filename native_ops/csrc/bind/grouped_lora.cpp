#include "kernels/grouped_lora.h"

#include <algorithm>

#include "bind/bind.h"

namespace ironcliw {
namespace {

constexpr auto kLora = "grouped_lora";

Tensor checked(const char* name, const Tensor& t, ScalarType type, int64_t size) {
  check_dtype(kLora, name, t, type);
  check_dim(kLora, name, t, 1);
  check_size(kLora, name, t, 0, size);
  return dense(t);
}

// One group for each adapter that has rows, with the rows in rising order in `order`.
std::vector<LoraGroup> groups_of(const Tensor& adapter, const Tensor& ranks, const Tensor& scales, std::vector<int64_t>& order) {
  const int64_t rows = adapter.size(0), adapters = ranks.size(0);
  const int64_t* of_row = data<int64_t>(adapter);
  std::vector<int64_t> starts(static_cast<size_t>(adapters) + 1, 0);
  for (int64_t m = 0; m < rows; ++m) {
    IRONCLIW_CHECK(of_row[m] >= -1 && of_row[m] < adapters, kLora, "adapter must hold ids from -1 to ", adapters - 1, "; one is ", of_row[m]);
    if (of_row[m] >= 0) ++starts[static_cast<size_t>(of_row[m]) + 1];
  }
  for (size_t a = 0; a < static_cast<size_t>(adapters); ++a) starts[a + 1] += starts[a];
  order.resize(static_cast<size_t>(rows));
  std::vector<int64_t> next = starts;
  for (int64_t m = 0; m < rows; ++m) {
    if (of_row[m] >= 0) order[static_cast<size_t>(next[static_cast<size_t>(of_row[m])]++)] = m;
  }
  std::vector<LoraGroup> groups;
  for (int64_t a = 0; a < adapters; ++a) {
    const int64_t start = starts[static_cast<size_t>(a)], count = starts[static_cast<size_t>(a) + 1] - start;
    if (count) groups.push_back({a, data<int64_t>(ranks)[a], data<float>(scales)[a], order.data() + start, count});
  }
  return groups;
}

// Calls body(group, begin, end) for pieces of [0, size_of(group)) of each group, on all threads.
template <class Size, class F> void each_piece(const std::vector<LoraGroup>& groups, int64_t piece, int64_t grain, Size&& size_of, F&& body) {
  std::vector<int64_t> ends;
  int64_t total = 0;
  for (const LoraGroup& group : groups) ends.push_back(total += (size_of(group) + piece - 1) / piece);
  aten_threads().parallel(total, grain, [&](int64_t begin, int64_t end) {
    size_t g = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
    for (int64_t at = begin; at < end; ++g) {
      const int64_t start = g ? ends[g - 1] : 0, stop = std::min(end, ends[g]);
      body(groups[g], (at - start) * piece, std::min(size_of(groups[g]), (stop - start) * piece));
      at = stop;
    }
  });
}

void grouped_lora(const Tensor& x, Tensor y, const Tensor& a_weights, const Tensor& b_weights, const Tensor& ranks, const Tensor& scales, const Tensor& adapter) {
  check_dtype(kLora, "x", x, ScalarType::Float);
  check_dtype(kLora, "y", y, ScalarType::Float);
  check_dim(kLora, "x", x, 2);
  check_dim(kLora, "y", y, 2);
  check_dim(kLora, "a_weights", a_weights, 3);
  check_dim(kLora, "b_weights", b_weights, 3);
  const ScalarType type = a_weights.scalar_type();
  IRONCLIW_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, kLora, "a_weights must be float32 or bfloat16; it is ", dtype_name(type));
  check_dtype(kLora, "b_weights", b_weights, type);
  const int64_t rows = x.size(0), inputs = x.size(1), outputs = y.size(1), adapters = a_weights.size(0), most = a_weights.size(1);
  check_size(kLora, "y", y, 0, rows);
  IRONCLIW_CHECK(y.is_contiguous(), kLora, "y must be contiguous, since it is changed; its shape is ", shape_text(y));
  check_size(kLora, "a_weights", a_weights, 2, inputs);
  check_size(kLora, "b_weights", b_weights, 0, adapters);
  check_size(kLora, "b_weights", b_weights, 1, outputs);
  check_size(kLora, "b_weights", b_weights, 2, most);
  const Tensor sizes = checked("ranks", ranks, ScalarType::Long, adapters), factors = checked("scales", scales, ScalarType::Float, adapters);
  const Tensor ids = checked("adapter", adapter, ScalarType::Long, rows);
  for (int64_t a = 0; a < adapters; ++a) {
    const int64_t rank = data<int64_t>(sizes)[a];
    IRONCLIW_CHECK(rank >= 0 && rank <= most, kLora, "ranks must be from 0 to ", most, "; one is ", rank);
  }
  std::vector<int64_t> order;
  const std::vector<LoraGroup> groups = groups_of(ids, sizes, factors, order);
  if (groups.empty()) return;

  const Tensor from = dense(x), downs = dense(a_weights);
  Tensor hidden = torch::stable::new_empty(from, {rows, most});
  const LoraBatch batch = {data<float>(from), mutable_data<float>(y), mutable_data<float>(hidden), downs.const_data_ptr(), b_weights.const_data_ptr(),
                           b_weights.stride(0), b_weights.stride(1), b_weights.stride(2), inputs, outputs, most};
  const bool brief = type == ScalarType::BFloat16;
  const auto& kernels = lora_groups();
  // a piece is worth a thread from about 2^19 products on: with less, waiting for it costs more,
  // the most where another process has the core
  const int64_t mean = 1 + rows / static_cast<int64_t>(groups.size()), worth = 1 << 19;
  each_piece(groups, 4, 1 + worth / (4 * mean * (inputs + 1)), [](const LoraGroup& g) { return g.ranks; },
             [&](const LoraGroup& g, int64_t begin, int64_t end) { (brief ? kernels.down_bf16 : kernels.down)(batch, g, begin, end); });
  each_piece(groups, 64, 1 + worth / (64 * mean * (most + 1)), [=](const LoraGroup& g) { return g.ranks ? outputs : 0; },
             [&](const LoraGroup& g, int64_t begin, int64_t end) { (brief ? kernels.up_bf16 : kernels.up)(batch, g, begin, end); });
}

const Binding binding([](Implementations& m) { m.impl("grouped_lora", TORCH_BOX(&grouped_lora)); });

}  // namespace
}  // namespace ironcliw
