"""A small model of natural language inference, trained on the spot: which label is a text about?

Some 100,000 weights, words for tokens. It stands in for bart-large-mnli, whose 1.6 GB no test
fetches, and is right for the texts that it was trained on, as a cascade's last step should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ironcliw.schemas.decisions import DEFAULT_TEMPLATE

CLASSES = {0: "contradiction", 1: "neutral", 2: "entailment"}
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
_STEPS, _BATCH, _RATE = 800, 64, 3e-3


def make_nli(folder: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """Train on texts and their labels, and save as transformers does.

    Args:
        folder: To write.
        rows: Text and label; of each text the other labels are contradicted.
    """
    labels = sorted({label for _, label in rows})
    hypotheses = {label: DEFAULT_TEMPLATE.replace("{}", label) for label in labels}
    tokenizer = _tokenizer([text for text, _ in rows] + list(hypotheses.values()))
    pairs = [
        (text, hypotheses[each], 2 if each == label else 0)
        for text, label in rows
        for each in labels
    ]
    torch.manual_seed(0)
    # batches too small for threads, which would wait for each other on a busy machine
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
        initializer_range=0.3,  # of the usual 0.02 it would learn for minutes
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=CLASSES,
        label2id={name: at for at, name in CLASSES.items()},
    )
    model: Any = transformers.BertForSequenceClassification(config)
    _train(model, tokenizer, pairs)
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str]) -> Any:
    normalizer = normalizers.BertNormalizer()
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for t in texts for word, _ in split.pre_tokenize_str(t.lower())})
    known = SPECIAL | {word: at for at, word in enumerate(words, len(SPECIAL))}
    made = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, split
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _train(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str, int]]) -> None:
    given = tokenizer([a for a, _, _ in pairs], [b for _, b, _ in pairs], padding=True)
    tensors = {name: torch.tensor(each) for name, each in given.items()}
    wanted = torch.tensor([each for _, _, each in pairs])
    # a text has one label, and three that it has not
    weight = torch.tensor([1.0, 1.0, 3.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 20, _STEPS)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(_STEPS):
        rows = torch.randint(len(pairs), (_BATCH,), generator=generator)
        logits = model(**{name: each[rows] for name, each in tensors.items()}).logits
        torch.nn.functional.cross_entropy(logits, wanted[rows], weight=weight).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
