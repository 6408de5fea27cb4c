// Adapters of an encoder, as the operator takes them, checked.
#pragma once

#include <optional>

#include "bind/encoder.h"

namespace ironcliw {

class AdaptersOfTexts {
 public:
  // Each adapter is one tensor of bytes, of each layer and part with ranks A and then B. What the adapters
  // are of must outlive this.
  AdaptersOfTexts(const char* op, const EncoderModel& model, const std::vector<Tensor>& adapters, const std::vector<Tensor>& ranks, const Tensor& of_text, int64_t texts) : op_(op), model_(model) {
    IRONCLIW_CHECK(ranks.size() == adapters.size(), op, "adapter_ranks must be one for each of ", adapters.size(), " adapters; they are ", ranks.size());
    for (size_t i = 0; i < adapters.size(); ++i) read(i, adapters[i], ranks[i]);
    check_texts(of_text, adapters.size(), adapters.empty() ? 0 : texts);
    if (adapters.empty()) return;
    numbers_ = dense(of_text);
    for (size_t i = 0; i < changes_.size(); i += kEncoderParts * static_cast<size_t>(model.count)) {
      const int64_t columns = encoder_columns(changes_.data() + i, model.count);
      most_ = most_ < columns ? columns : most_;
    }
  }

  // Of the texts from this one on.
  EncoderAdapters from(int64_t text) const { return {changes_.data(), most_, numbers_ ? data<int32_t>(*numbers_) + text : nullptr}; }

 private:
  void check_texts(const Tensor& of_text, size_t adapters, int64_t texts) const {
    check_dtype(op_, "text_adapters", of_text, ScalarType::Int);
    check_dim(op_, "text_adapters", of_text, 1);
    check_size(op_, "text_adapters", of_text, 0, texts);
    const Tensor numbers = dense(of_text);
    for (int64_t i = 0; i < texts; ++i) {
      const int64_t number = data<int32_t>(numbers)[i];
      IRONCLIW_CHECK(number >= -1 && number < static_cast<int64_t>(adapters), op_, "text_adapters must be from -1 to ", static_cast<int64_t>(adapters) - 1, "; element ", i, " is ", number);
    }
  }

  void read(size_t index, const Tensor& bytes, const Tensor& given) {
    const std::string at = "[" + std::to_string(index) + "]", name = "adapters" + at, of_ranks = "adapter_ranks" + at;
    check_dtype(op_, of_ranks.c_str(), given, ScalarType::Long);
    check_dim(op_, of_ranks.c_str(), given, 2);
    check_size(op_, of_ranks.c_str(), given, 0, model_.count);
    check_size(op_, of_ranks.c_str(), given, 1, kEncoderParts);
    check_dtype(op_, name.c_str(), bytes, ScalarType::Byte);
    check_dim(op_, name.c_str(), bytes, 1);
    IRONCLIW_CHECK(bytes.is_contiguous(), op_, name, " must be contiguous; its shape is ", shape_text(bytes));
    const Tensor ranks = dense(given);
    const uint8_t* next = data<uint8_t>(bytes);
    int64_t held = 0;
    const auto take = [&](int64_t outputs, int64_t inputs) {
      const uint8_t* taken = next + held;
      held += encoder_packed_bytes(kept(), outputs, inputs);
      return taken;
    };
    for (int64_t i = 0; i < model_.count * kEncoderParts; ++i) {
      const int64_t rank = data<int64_t>(ranks)[i], part = i % kEncoderParts;
      IRONCLIW_CHECK(rank >= 0 && rank <= kEncoderRanks, op_, of_ranks, " must be from 0 to ", kEncoderRanks, "; of layer ", i / kEncoderParts, " number ", part, " is ", rank);
      const int64_t width = model_.width, outputs = part == 4 ? model_.inner : encoder_lead(part, width) + width, inputs = part == 5 ? model_.inner : width;
      EncoderLowRank change{nullptr, nullptr, rank};
      if (rank > 0) change.a = take(rank, inputs), change.b = take(outputs, rank);
      changes_.push_back(change);
    }
    check_size(op_, name.c_str(), bytes, 0, held);
  }

  EncoderNumber kept() const { return model_.number == EncoderNumber::int8 ? EncoderNumber::bf16 : model_.number; }

  const char* op_;
  const EncoderModel& model_;
  std::vector<EncoderLowRank> changes_;
  std::optional<Tensor> numbers_;
  int64_t most_ = 0;
};

}  // namespace ironcliw
