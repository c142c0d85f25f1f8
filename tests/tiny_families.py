"""What all tiny random families have in common: their form, tokenizers, pictures and sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
MARKS = ("<|im_start|>", "<|im_end|>")

# As the families write a turn; only what matters here of each template.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}VIDEO{% elif c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = ["What digit is on the red card? It is 7. You are a helpful assistant Frame1: seconds"]

# What is common to a family's own inputs: model, tokenizer, processor, pictures, text.
Own = Callable[["Tiny", Sequence[Image.Image], str], dict[str, Any]]


@dataclass(frozen=True)
class Tiny:
    """A family at a tiny size.

    Attributes:
        model_type: as in config.json.
        model: random weights, fp32.
        tokenizer: byte-level, with the family's special tokens.
        image_processor: the family's own.
        template: its chat template.
        own_inputs: called with this, pictures and the rendered text; what the family's own
            processor gives for them.
        frame_size: width and height, where any will do.
        is_video: what the message holds for the frames.
        is_harsh: its random weights are so large that a small mistake changes logits a lot.
    """

    model_type: str
    model: Any
    tokenizer: Any
    image_processor: Any
    template: str
    own_inputs: Own
    frame_size: tuple[int, int] | None = None
    is_video: bool = True
    is_harsh: bool = False

    def save(self, folder: Path) -> Path:
        """A checkpoint folder as `save_pretrained` writes it."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(self.template)
        return folder

    def render(self, num_frames: int, question: str) -> str:
        """The chat template's text."""
        shown = [{"type": "video"}] if self.is_video else [{"type": "image"}] * num_frames
        content = [*shown, {"type": "text", "text": question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )

    @torch.inference_mode()
    def own_logits(
        self, pictures: Sequence[Image.Image], question: str, answer_ids: Sequence[int]
    ) -> Tensor:
        """Logits that predict an answer, by the family's own processor and forward on pixels."""
        inputs = self.own_inputs(self, pictures, self.render(len(pictures), question))
        answer = torch.tensor([list(answer_ids)])
        ids = torch.cat([inputs["input_ids"], answer], 1)
        inputs = {**inputs, "input_ids": ids}
        for key, value in (("mm_token_type_ids", 0), ("token_type_ids", 0), ("attention_mask", 1)):
            if key in inputs:
                inputs[key] = torch.cat([inputs[key], torch.full_like(answer, value)], 1)
        positions = inputs.pop("find_positions", None)
        if positions is not None:
            inputs["position_ids"] = positions(ids)
        logits = self.model(**inputs).logits
        inner = getattr(self.model, "model", None)
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None  # state of the last call
        return logits[0, -len(answer_ids) - 1 : -1].float()


def pictures(num_frames: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Pictures of noise, coarse enough to survive scaling; ``size`` is width and height."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (num_frames, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in coarse]


def build_tokenizer(tokens: Sequence[str], **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with special tokens; ``named`` gives some of them names."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *MARKS, *tokens]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
        additional_special_tokens=[*MARKS, *tokens],
    )


def bare(processor_class: Any, tokenizer: Any, **attributes: Any) -> Any:
    """A processor without its video processor, which needs torchvision: for the text it writes."""
    processor = object.__new__(processor_class)
    processor.tokenizer = tokenizer
    for name, value in attributes.items():
        setattr(processor, name, value)
    return processor


def tokenize(tiny: Tiny, text: str) -> Tensor:
    begins = text.startswith(tiny.tokenizer.bos_token)
    ids = tiny.tokenizer(text, add_special_tokens=not begins)["input_ids"]
    return torch.tensor([ids])
