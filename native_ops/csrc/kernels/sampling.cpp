#include "kernels/sampling.h"

#include <cmath>

#include "kernels/sampling_order.h"
#include "simd/simd.h"

IRONCLIW_BEGIN

namespace {

constexpr double kGreedyBelow = 1e-5;  // such temperatures divide float32 logits beyond their range

// The weight of the contract, term by term: its bits are a promise.
IRONCLIW_INLINE Floats weight(Floats x, float most, float temperature) {
  Floats below = x - broadcast(most);
  if (temperature != 1.0f) below = below / broadcast(temperature);
  const Floats bounded = at_least(below, -87.0f);
  const Floats n = round(bounded * broadcast(1.44269504f));
  Floats r = bounded - n * broadcast(0.693359375f);
  r = r + n * broadcast(2.12194440e-4f);
  Floats p = broadcast(1.0f / 720.0f);
  p = p * r + broadcast(1.0f / 120.0f);
  p = p * r + broadcast(1.0f / 24.0f);
  p = p * r + broadcast(1.0f / 6.0f);
  p = p * r + broadcast(0.5f);
  p = p * r + broadcast(1.0f);
  p = p * r + broadcast(1.0f);
  return where_not_negative(below + broadcast(87.0f), scale_by_power(p, n), zero());
}

typedef float Eight __attribute__((vector_size(32)));
typedef double EightDoubles __attribute__((vector_size(64)));

IRONCLIW_INLINE void add_doubles(EightDoubles& low, EightDoubles& high, Floats x) {
  float lanes[16];
  store(lanes, x);
  Eight halves[2];
  std::memcpy(halves, lanes, sizeof lanes);
  low += __builtin_convertvector(halves[0], EightDoubles);
  high += __builtin_convertvector(halves[1], EightDoubles);
}

double sum_of_weights(const float* row, int64_t begin, int64_t end, float most, float temperature) {
  EightDoubles low = {}, high = {};
  for (int64_t i = begin; i < end; i += 16) add_doubles(low, high, weight(values_at(row, i, end, kNone), most, temperature));
  low += high;
  return ((low[0] + low[4]) + (low[1] + low[5])) + ((low[2] + low[6]) + (low[3] + low[7]));
}

// Sums of the weights of each block; gives the sum of all.
double sums_of_blocks(const float* row, const Maxima& maxima, float temperature, double* sums) {
  double total = 0;
  for (int64_t b = 0; b < maxima.blocks; ++b) {
    sums[b] = sum_of_weights(row, b * maxima.block, maxima.end(b), maxima.largest, temperature);
    total += sums[b];
  }
  return total;
}

double total_weight(const float* row, const Maxima& maxima, float temperature) {
  double sums[kBlocks];
  return sums_of_blocks(row, maxima, temperature, sums);
}

// Without top_k and top_p: the first id at which the cumulative weights pass the number's share.
int64_t draw_from_all(const float* row, const Maxima& maxima, float temperature, double number) {
  double sums[kBlocks];
  const double share = number * sums_of_blocks(row, maxima, temperature, sums);
  double before = 0;
  int64_t block = 0;
  for (; block < maxima.blocks && before + sums[block] <= share; ++block) before += sums[block];
  if (block == maxima.blocks) {  // the product was rounded up to the sum of all
    do --block;
    while (sums[block] == 0);
    before = 0;
  }
  int64_t last = 0;
  for (int64_t i = block * maxima.block, end = maxima.end(block); i < end; i += 16) {
    float weights[16];
    store(weights, weight(values_at(row, i, end, kNone), maxima.largest, temperature));
    for (int64_t lane = 0; lane < 16 && i + lane < end; ++lane) {
      if (weights[lane] == 0) continue;
      last = i + lane;
      before += static_cast<double>(weights[lane]);
      if (before > share) return last;
    }
  }
  return last;
}

void weights_of(Ordered candidates, float most, float temperature, float* weights) {
  for (int64_t i = 0; i < candidates.count; i += 16) {
    const int count = candidates.count - i < 16 ? static_cast<int>(candidates.count - i) : 16;
    float lanes[16] = {};
    for (int lane = 0; lane < count; ++lane) lanes[lane] = value_of(candidates.keys[i + lane]);
    store_first(weights + i, weight(load(lanes), most, temperature), count);
  }
}

double sum_of(const float* weights, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += static_cast<double>(weights[i]);
  return total;
}

// How many of the first weights it takes, after what weighs `before`, to hold `share`; `before` grows.
int64_t nucleus(const float* weights, int64_t count, double share, double& before) {
  int64_t end = 0;
  while (end < count && (before == 0 || before < share)) before += static_cast<double>(weights[end++]);
  return end;
}

// The first index at which the cumulative weights pass `wanted`, or the last one with any weight.
int64_t find(const float* weights, int64_t count, double before, double wanted) {
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (weights[i] == 0) continue;
    last = i;
    before += static_cast<double>(weights[i]);
    if (before > wanted) break;
  }
  return last;
}

int64_t draw_from_ordered(Ordered candidates, const float* weights, double share, double number) {
  double kept = 0;
  const int64_t end = nucleus(weights, candidates.count, share, kept);
  return id_of(candidates.keys[find(weights, end, 0, number * kept)]);
}

int64_t draw_from_top_k(const float* row, const Maxima& maxima, const SampleRow& ask, const SampleScratch& scratch) {
  const Ordered candidates = ordered_largest(row, maxima, ask.top_k, scratch.keys, scratch.spare);
  weights_of(candidates, maxima.largest, static_cast<float>(ask.temperature), scratch.weights);
  const double share = sum_of(scratch.weights, candidates.count) * ask.top_p;
  return draw_from_ordered(candidates, scratch.weights, share, ask.number);
}

// Many candidates in bins, likely ones first, of which two at most are sorted: that in which the
// nucleus ends, and that in which the draw does.
struct Bins {
  static constexpr int kCount = 1024;
  float most, per_unit;  // bins per unit of logit
  double mass[kCount];

  int of(float value) const {
    const float bin = (most - value) * per_unit;
    return bin < kCount - 1 ? static_cast<int>(bin) : kCount - 1;
  }
};

// The candidates of one bin, sorted, and their weights.
Ordered sorted_bin(const Bins& bins, int bin, Ordered candidates, float temperature, const SampleScratch& scratch) {
  int64_t count = 0;
  for (int64_t i = 0; i < candidates.count; ++i) {
    if (bins.of(value_of(candidates.keys[i])) == bin) scratch.spare[count++] = candidates.keys[i];
  }
  const Ordered sorted = {sort_keys(scratch.spare, scratch.spare + count, count, 32), count};
  weights_of(sorted, bins.most, temperature, scratch.weights);
  return sorted;
}

int64_t draw_from_bins(Bins& bins, Ordered candidates, const SampleRow& ask, double share, const SampleScratch& scratch) {
  const float temperature = static_cast<float>(ask.temperature);
  float* const weights = scratch.weights;
  for (double& mass : bins.mass) mass = 0;
  for (int64_t i = 0; i < candidates.count; ++i) bins.mass[bins.of(value_of(candidates.keys[i]))] += static_cast<double>(weights[i]);
  int last = 0;
  double before = 0, passed = 0;
  for (int bin = 0; bin < Bins::kCount && (passed == 0 || passed < share); ++bin) {
    if (bins.mass[bin] == 0) continue;
    last = bin;
    before = passed;
    passed += bins.mass[bin];
  }
  const Ordered border = sorted_bin(bins, last, candidates, temperature, scratch);
  double kept = before;
  const int64_t end = nucleus(weights, border.count, share, kept);
  const double wanted = ask.number * kept;
  if (wanted >= before) return id_of(border.keys[find(weights, end, before, wanted)]);
  int bin = 0;
  for (passed = 0; passed + bins.mass[bin] <= wanted; ++bin) passed += bins.mass[bin];
  const Ordered inner = sorted_bin(bins, bin, candidates, temperature, scratch);
  return id_of(inner.keys[find(weights, inner.count, passed, wanted)]);
}

int64_t draw_from_top_p(const float* row, const Maxima& maxima, const SampleRow& ask, const SampleScratch& scratch) {
  const float temperature = static_cast<float>(ask.temperature), most = maxima.largest;
  const double total = total_weight(row, maxima, temperature), share = total * ask.top_p;
  // Values further below the largest weigh no more than total - share together, so that those above
  // hold the share; nearly always those half as far do.
  const double far = ask.temperature * std::log(static_cast<double>(maxima.width) / (total - share));
  for (const double distance : {0.5 * far, far}) {
    const int64_t count = gather_above(row, maxima, static_cast<float>(most - distance), scratch.keys);
    weights_of({scratch.keys, count}, most, temperature, scratch.weights);
    if (!(sum_of(scratch.weights, count) >= share)) continue;
    if (count > 1024) {
      Bins bins;
      bins.most = most;
      bins.per_unit = static_cast<float>(Bins::kCount / std::fmin(distance, 87 * ask.temperature));
      return draw_from_bins(bins, {scratch.keys, count}, ask, share, scratch);
    }
    const Ordered candidates = {sort_keys(scratch.keys, scratch.spare, count, 32), count};
    weights_of(candidates, most, temperature, scratch.weights);
    return draw_from_ordered(candidates, scratch.weights, share, ask.number);
  }
  // the sums were rounded apart
  const int64_t count = gather_above(row, maxima, kNone, scratch.keys);
  const Ordered candidates = {sort_keys(scratch.keys, scratch.spare, count, 32), count};
  weights_of(candidates, most, temperature, scratch.weights);
  return draw_from_ordered(candidates, scratch.weights, share, ask.number);
}

// Calls with each id once, in rising order, and how often it is there.
template <class F> void for_each_id(const int32_t* ids, int64_t count, const SampleScratch& scratch, F&& call) {
  for (int64_t i = 0; i < count; ++i) scratch.keys[i] = static_cast<uint32_t>(ids[i]);
  const uint64_t* sorted = sort_keys(scratch.keys, scratch.spare, count, 0);
  for (int64_t i = 0, next; i < count; i = next) {
    for (next = i + 1; next < count && sorted[next] == sorted[i]; ++next) {}
    call(static_cast<int64_t>(sorted[i]), next - i);
  }
}

// The row with bias and penalties in the scratch; the row itself where there are none.
const float* penalised(const float* logits, int64_t width, const SampleRow& ask, const SampleScratch& scratch) {
  const bool counted = ask.presence != 0 || ask.frequency != 0;
  if (ask.bias_count == 0 && !counted && ask.repetition == 1) return logits;
  float* const row = scratch.row;
  std::memcpy(row, logits, sizeof(float) * static_cast<size_t>(width));
  for (int64_t i = 0; i < ask.bias_count; ++i) row[ask.bias_ids[i]] += ask.bias_values[i];
  if (ask.repetition != 1) {
    const float penalty = static_cast<float>(ask.repetition);
    for_each_id(ask.history, ask.history_count, scratch, [=](int64_t id, int64_t) { row[id] = row[id] < 0 ? row[id] * penalty : row[id] / penalty; });
  }
  if (counted) {
    for_each_id(ask.history + ask.answer_at, ask.history_count - ask.answer_at, scratch,
                [&](int64_t id, int64_t count) { row[id] -= static_cast<float>(ask.frequency * static_cast<double>(count) + ask.presence); });
  }
  return row;
}

SampleResult sample(const float* logits, int64_t width, const SampleRow& ask, const SampleScratch& scratch, int64_t* top_ids) {
  Maxima maxima;
  find_maxima(logits, width, maxima);
  SampleResult result = {-1, __builtin_nan("")};
  if (!std::isfinite(maxima.largest)) return result;
  if (ask.top_count >= 0) result.normaliser = static_cast<double>(maxima.largest) + std::log(total_weight(logits, maxima, 1.0f));
  if (ask.top_count > 0) {
    const int64_t count = ask.top_count < width ? ask.top_count : width;
    const Ordered likeliest = ordered_largest(logits, maxima, count, scratch.keys, scratch.spare);
    for (int64_t i = 0; i < count; ++i) top_ids[i] = id_of(likeliest.keys[i]);
  }
  const float* row = penalised(logits, width, ask, scratch);
  if (row != logits) {
    find_maxima(row, width, maxima);
    if (!std::isfinite(maxima.largest)) return result;
  }
  if (ask.temperature < kGreedyBelow) result.token = first_largest(row, maxima);
  else if (ask.top_k > 0 && ask.top_k < width) result.token = draw_from_top_k(row, maxima, ask, scratch);
  else if (ask.top_p < 1) result.token = draw_from_top_p(row, maxima, ask, scratch);
  else result.token = draw_from_all(row, maxima, static_cast<float>(ask.temperature), ask.number);
  return result;
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const SamplingKernels IRONCLIW_TABLE(sampling);
const SamplingKernels IRONCLIW_TABLE(sampling) = {IRONCLIW_LEVEL::sample};
}  // namespace ironcliw
