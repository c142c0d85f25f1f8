"""Tiny random language models with tokenizers of three kinds, trained on generated prose."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from layer_kinds import build_kind
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from vniah.haystacks.prose import write_prose
from vniah.models.loading import load_folder

Kind = Literal["bytes", "sentencepiece", "words", "unigram", "whole", "folded"]
# Language models whose layers are not all of full attention, by their names in `layer_kinds`.
_OF_KINDS = {
    **{name: name for name in ("cohere2", "deepseek_v3", "exaone4", "gpt_oss", "lfm2")},
    **{name: name for name in ("ministral3", "nemotron_h")},
    "gemma3_text": "gemma3",
    "qwen3_5_text": "qwen3_5",
}
LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3", *_OF_KINDS)
"""The values of ``model_type`` that are tested."""

KINDS: tuple[Kind, ...] = ("bytes", "sentencepiece", "words")
ALL_KINDS: tuple[Kind, ...] = (*KINDS, "unigram", "whole", "folded")

# As Llama 3 and Qwen cut text: line breaks belong to the punctuation before them, so that a
# tokenizer merges across the place where a needle begins.
_PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SIZE = 400
_TRAINING_TEXT = write_prose(6000) + (
    "\nThe special magic Singapore number is: 12.\n Then it was.\n\n" * 20
)


@cache
def tokenizer_of(kind: Kind) -> PreTrainedTokenizerFast:
    """A byte-level BPE, a BPE over whole texts with marks for spaces, or one of whole words.

    Further: a Unigram of words with a mark for the space before them, also before the first; a
    Unigram over whole texts, whose tokens may reach over the end of a sentence; and the first of
    these after a normalization that changes the number of characters, behind a BOS token.
    """
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=_SIZE,
            special_tokens=["</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "sentencepiece":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
        trainer = trainers.BpeTrainer(
            vocab_size=_SIZE, special_tokens=["</s>", "<unk>"], show_progress=False
        )
    elif kind in ("unigram", "whole", "folded"):
        tokenizer = Tokenizer(models.Unigram())
        if kind == "folded":
            space = normalizers.Replace(Regex(r"\s+"), " ")
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), space])
        if kind != "whole":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
            tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        else:
            tokenizer.decoder = decoders.Fuse()
        trainer = trainers.UnigramTrainer(
            vocab_size=_SIZE,
            special_tokens=["</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|\w+|[^\w\s]|\s"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(
            vocab_size=_SIZE, special_tokens=["</s>", "<unk>"], show_progress=False
        )
    # A BPE without pieces is trained on short texts: all pairs of a long one are counted at once.
    lines = _TRAINING_TEXT.split("\n\n")
    tokenizer.train_from_iterator([*lines, *"0123456789"], trainer)
    if kind == "folded":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="</s> $A", special_tokens=[("</s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        unk_token=None if kind == "bytes" else "<unk>",
        clean_up_tokenization_spaces=False,
    )


def save_language_model(
    folder: Path, kind: Kind = "bytes", *, seed: int = 0, model_type: str = "llama"
) -> Path:
    """A checkpoint folder with a random model of two layers."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(kind)
    if model_type in _OF_KINDS:
        ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        other = build_kind(_OF_KINDS[model_type], vocab_size=len(tokenizer), **ids)
        other.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=None,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_language_model(folder: Path, kind: Kind = "bytes") -> Any:
    """A random model of that kind of tokenizer, saved to a folder and loaded from it."""
    return load_folder(save_language_model(folder, kind), name=f"tiny-{kind}")
