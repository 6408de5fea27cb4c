"""Small random classifiers and their tokenizers, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

WORDS = "turn on the lights please this example is about music travel weather and play a song"
LABELS = ["music", "travel", "weather", "the lights"]
TEXTS = ["turn on the lights", "play a song please, and then another song about the weather"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 1,
}


def small_tokenizer(kind: str) -> t.PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on the spot, with the pair template of an architecture."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    double = kind in {"bart", "roberta"}
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>" if double else "<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = ["input_ids", "attention_mask"]
    if kind in {"bert", "deberta"}:
        names.append("token_type_ids")
    return t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=48,
        model_input_names=names,
    )


def small_classifier(kind: str, labels: dict[int, str]) -> Any:
    """A random classifier, in evaluation mode."""
    torch.manual_seed(0)
    named = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    sizes = {**SIZES, **named, "max_position_embeddings": 48}
    models: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**sizes)),
        "roberta": lambda: t.RobertaForSequenceClassification(
            t.RobertaConfig(**{**sizes, "max_position_embeddings": 50, "type_vocab_size": 1})
        ),
        "distilbert": lambda: t.DistilBertForSequenceClassification(
            t.DistilBertConfig(
                **named,
                vocab_size=300,
                dim=32,
                hidden_dim=64,
                n_layers=2,
                n_heads=4,
                pad_token_id=1,
                max_position_embeddings=48,
            )
        ),
        "deberta": lambda: t.DebertaV2ForSequenceClassification(
            t.DebertaV2Config(
                **sizes, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0
            )
        ),
        "bart": lambda: t.BartForSequenceClassification(
            t.BartConfig(
                **named,
                vocab_size=300,
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=48,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=2,
            )
        ),
    }
    model = models[kind]().eval()
    # the initial weights are so small that every label would get the same score
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def save_classifier(folder: Path, kind: str, labels: dict[int, str] = NLI) -> Path:
    """Write a model folder and return it."""
    small_classifier(kind, labels).save_pretrained(folder)
    small_tokenizer(kind).save_pretrained(folder)
    return folder
