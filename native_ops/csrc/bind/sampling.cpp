#include "kernels/sampling.h"

#include <cmath>
#include <memory>
#include <tuple>

#include "bind/bind.h"

namespace ironcliw {
namespace {

constexpr auto kSample = "sample_tokens";

Tensor checked(const char* name, const Tensor& t, ScalarType type, int64_t dim, int64_t size) {
  check_dtype(kSample, name, t, type);
  check_dim(kSample, name, t, dim);
  if (size >= 0) check_size(kSample, name, t, 0, size);
  return dense(t);
}

// Lists of a row's own lie one after another; `starts` says where each begins, and where the last ends.
const int64_t* checked_starts(const char* name, const Tensor& starts, int64_t rows, int64_t total) {
  const int64_t* at = data<int64_t>(starts);
  for (int64_t i = 0; i < rows; ++i) IRONCLIW_CHECK(at[i] >= 0 && at[i] <= at[i + 1], kSample, name, " must rise from 0; it is ", at[i], " before ", at[i + 1]);
  IRONCLIW_CHECK(at[0] == 0 && at[rows] == total, kSample, name, " must go from 0 to ", total, "; it goes from ", at[0], " to ", at[rows]);
  return at;
}

void check_ids(const char* name, const Tensor& ids, int64_t width) {
  const int32_t* at = data<int32_t>(ids);
  for (int64_t i = 0; i < ids.size(0); ++i) IRONCLIW_CHECK(at[i] >= 0 && at[i] < width, kSample, name, " must hold ids below ", width, "; one is ", at[i]);
}

void check_row(const SampleRow& row) {
  IRONCLIW_CHECK(row.number >= 0 && row.number < 1, kSample, "numbers must be in [0, 1); one is ", row.number);
  IRONCLIW_CHECK(row.temperature >= 0 && std::isfinite(row.temperature), kSample, "temperatures must be finite and not negative; one is ", row.temperature);
  IRONCLIW_CHECK(row.top_p >= 0 && row.top_p <= 1, kSample, "top_p must be in [0, 1]; one is ", row.top_p);
  IRONCLIW_CHECK(row.top_k >= 0, kSample, "top_k must not be negative; one is ", row.top_k);
  IRONCLIW_CHECK(row.repetition > 0 && std::isfinite(row.repetition), kSample, "repetition penalties must be finite and above 0; one is ", row.repetition);
  IRONCLIW_CHECK(std::isfinite(row.presence) && std::isfinite(row.frequency), kSample, "penalties must be finite; a row has ", row.presence, " and ", row.frequency);
  IRONCLIW_CHECK(row.answer_at >= 0 && row.answer_at <= row.history_count, kSample, "answer_starts must lie within the row's history of ", row.history_count, "; one is ", row.answer_at);
}

// Kept from call to call: fresh pages for a vocabulary cost as much as the row does.
struct Workspace {
  int64_t size = 0, width = 0;
  std::unique_ptr<float[]> row, weights;
  std::unique_ptr<uint64_t[]> keys, spare;

  SampleScratch grown(int64_t wanted, int64_t wanted_width) {
    if (wanted_width > width) {
      row.reset(new float[static_cast<size_t>(wanted_width)]);
      width = wanted_width;
    }
    if (wanted > size) {
      const auto count = static_cast<size_t>(wanted);
      weights.reset(new float[count]);
      keys.reset(new uint64_t[count]);
      spare.reset(new uint64_t[2 * count]);
      size = wanted;
    }
    return {row.get(), keys.get(), spare.get(), weights.get()};
  }
};

std::tuple<Tensor, Tensor, Tensor> sample_tokens(
    const Tensor& logits, const Tensor& numbers, const Tensor& temperatures, const Tensor& top_p, const Tensor& top_k, const Tensor& penalties, const Tensor& history,
    const Tensor& history_starts, const Tensor& answer_starts, const Tensor& bias_ids, const Tensor& bias_values, const Tensor& bias_starts, const Tensor& top_counts, int64_t top_width) {
  check_dtype(kSample, "logits", logits, ScalarType::Float);
  check_dim(kSample, "logits", logits, 2);
  const int64_t rows = logits.size(0), width = logits.size(1);
  IRONCLIW_CHECK(width > 0 && width < (int64_t{1} << 31), kSample, "logits must have 1 to 2^31 - 1 columns; the shape is ", shape_text(logits));
  IRONCLIW_CHECK(top_width >= 0, kSample, "top_width must not be negative; it is ", top_width);
  const Tensor values = dense(logits);
  const Tensor draws = checked("numbers", numbers, ScalarType::Double, 1, rows), heat = checked("temperatures", temperatures, ScalarType::Double, 1, rows);
  const Tensor nuclei = checked("top_p", top_p, ScalarType::Double, 1, rows), tops = checked("top_k", top_k, ScalarType::Long, 1, rows);
  const Tensor off = checked("penalties", penalties, ScalarType::Double, 2, rows);
  check_size(kSample, "penalties", off, 1, 3);
  const Tensor seen = checked("history", history, ScalarType::Int, 1, -1), seen_at = checked("history_starts", history_starts, ScalarType::Long, 1, rows + 1);
  const Tensor answer_at = checked("answer_starts", answer_starts, ScalarType::Long, 1, rows);
  const Tensor biased = checked("bias_ids", bias_ids, ScalarType::Int, 1, -1), bias = checked("bias_values", bias_values, ScalarType::Float, 1, biased.size(0));
  const Tensor biased_at = checked("bias_starts", bias_starts, ScalarType::Long, 1, rows + 1), counts = checked("top_counts", top_counts, ScalarType::Long, 1, rows);
  const int64_t* seen_from = checked_starts("history_starts", seen_at, rows, seen.size(0));
  const int64_t* biased_from = checked_starts("bias_starts", biased_at, rows, biased.size(0));
  check_ids("history", seen, width);
  check_ids("bias_ids", biased, width);
  const auto row_at = [&](int64_t r) {
    const double* penalty = data<double>(off) + 3 * r;
    return SampleRow{data<double>(draws)[r], data<double>(heat)[r], data<double>(nuclei)[r], data<int64_t>(tops)[r], penalty[0], penalty[1], penalty[2],
                     data<int32_t>(seen) + seen_from[r], seen_from[r + 1] - seen_from[r], data<int64_t>(answer_at)[r],
                     data<int32_t>(biased) + biased_from[r], data<float>(bias) + biased_from[r], biased_from[r + 1] - biased_from[r], data<int64_t>(counts)[r]};
  };
  bool light = true;  // rows that are read once and no more
  for (int64_t r = 0; r < rows; ++r) {
    const SampleRow row = row_at(r);
    check_row(row);
    light = light && row.temperature == 0 && row.top_count < 0;
    IRONCLIW_CHECK(row.top_count >= -1 && row.top_count <= top_width, kSample, "top_counts must be from -1 to top_width = ", top_width, "; one is ", row.top_count);
  }

  Tensor tokens = torch::stable::new_empty(draws, {rows}, ScalarType::Long);
  Tensor normalisers = torch::stable::new_empty(draws, {rows});
  Tensor top_ids = torch::stable::fill_(torch::stable::new_empty(tokens, {rows, top_width}), -1);
  // a thread of its own from about 0.2 ms on: waiting for one costs more where the core is busy
  const int64_t grain = 1 + (int64_t{1} << (light ? 20 : 18)) / width;
  aten_threads().parallel(rows, grain, [&](int64_t begin, int64_t end) {
    thread_local Workspace workspace;
    for (int64_t r = begin; r < end; ++r) {
      const SampleRow row = row_at(r);
      const bool plain = row.top_k == 0 && row.top_p >= 1 && row.top_count <= 0 && row.bias_count == 0 && row.repetition == 1 && row.presence == 0 && row.frequency == 0;
      const SampleScratch scratch = plain ? SampleScratch{} : workspace.grown(sample_scratch(width, row.history_count), width);
      const SampleResult result = sampling().sample(data<float>(values) + r * width, width, row, scratch, mutable_data<int64_t>(top_ids) + r * top_width);
      mutable_data<int64_t>(tokens)[r] = result.token;
      mutable_data<double>(normalisers)[r] = result.normaliser;
    }
  });
  return {tokens, normalisers, top_ids};
}

const Binding binding([](Implementations& m) { m.impl("sample_tokens", TORCH_BOX(&sample_tokens)); });

}  // namespace
}  // namespace ironcliw
