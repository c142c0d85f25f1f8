"""The chat templates: the text before the frames and after the question.

The texts are those of the published V-NIAH runs (LongVA repository,
``vision_niah/eval_vision_niah.py``). Each piece is tokenised by itself, without further special
tokens, and the question starts on a line of its own, as in the published runs.
"""

import re
from dataclasses import dataclass
from typing import Any

from vniah.errors import ModelError


@dataclass(frozen=True)
class PromptTemplate:
    """A chat with one user turn, in this order: opening, frames, question, closing, answer."""

    opening: str
    closing: str


PROMPT_TEMPLATES = {
    "qwen2": PromptTemplate(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "yi": PromptTemplate(
        "<|im_start|>system\nAnswer the questions.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "mistral": PromptTemplate("<s>[INST]", " [/INST]"),
    "vicuna": PromptTemplate(
        "<s>A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions. USER:",
        "ASSISTANT:",
    ),
    "llama3": PromptTemplate(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language "
        "and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}

_SPECIAL = re.compile(r"<\|\w+\|>|<s>")


def find_template(name: str) -> PromptTemplate:
    """The template with that name.

    Raises:
        ModelError: there is no such template.
    """
    if name not in PROMPT_TEMPLATES:
        raise ModelError(
            f"there is no prompt template {name!r}; known are {', '.join(PROMPT_TEMPLATES)}"
        )
    return PROMPT_TEMPLATES[name]


def choose_template(name: str | None, usual: str, tokenizer: Any) -> str:
    """The name of the template to use: the given one, else the one that fits the tokenizer.

    Args:
        name: the user's choice; None for the usual one, or llama3 if the tokenizer is of its kind.
        usual: the template with which the checkpoint's family was trained.
        tokenizer: of transformers.

    Raises:
        ModelError: a special token of the template is not a token of the tokenizer.
    """
    if name is None:
        known = tokenizer.get_vocab()
        name = "llama3" if usual == "vicuna" and "<|start_header_id|>" in known else usual
    template = find_template(name)
    for special in _SPECIAL.findall(template.opening + template.closing):
        ids = tokenizer.encode(special, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ModelError(
                f"the prompt template {name!r} holds {special!r}, which is no token of this "
                f"checkpoint; choose another one of {', '.join(PROMPT_TEMPLATES)}"
            )
    return name


def question_line(question: str) -> str:
    """The question with a line break before it."""
    return question if question.startswith("\n") else "\n" + question
