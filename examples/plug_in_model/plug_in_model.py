"""A model of one's own for vniah: LLaVA-1.5 on transformers, at each of the three levels."""

from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vniah.protocol import FrameSegment, TextSegment, TokenSequence


class Plain:
    """The first level: encodes frames, writes the prompt, and runs its own forward pass."""

    name, revision = "tiny LLaVA", "seed 0"

    def __init__(self, dtype="float32", device="cpu"):
        self.model, self.processor = load(dtype, device)
        self.dtype, self.device = self.model.dtype, self.model.device
        vision, text = self.model.config.vision_config, self.model.config.text_config
        self.frame_shape = ((vision.image_size // vision.patch_size) ** 2, text.hidden_size)

    @torch.inference_mode()
    def encode_frames(self, frames):
        """RGB uint8 pictures of any sizes -> ``[len(frames), *frame_shape]``."""
        pixels = self.processor.image_processor(images=list(frames), return_tensors="pt")
        pixels = pixels["pixel_values"].to(self.device, self.dtype)
        return torch.stack(tuple(self.model.get_image_features(pixels).pooler_output))

    def compose(self, frames, question, answer):
        """The chat template's text, cut where the pictures are; the answer's tokens."""
        before, *others = prompt(self.processor, len(frames), question).split("<image>")
        segments = [TextSegment(self.tokens(before))]
        for frame, text in zip(frames, others, strict=True):
            segments += [frame, TextSegment(self.tokens(text))]
        return TokenSequence(tuple(segments), self.tokens(answer))

    @torch.inference_mode()
    def answer_logits(self, sequence, embeds):
        """Reads ``sequence.inputs``; the last rows predict the answer, one token each."""
        table, pictures = self.model.get_input_embeddings(), iter(embeds.to(self.device))
        rows = [
            next(pictures)
            if isinstance(segment, FrameSegment)
            else table(torch.tensor(segment.token_ids, device=self.device, dtype=torch.long))
            for segment in sequence.inputs
        ]
        keep = len(sequence.answer_ids)
        return self.model(inputs_embeds=torch.cat(rows)[None], logits_to_keep=keep).logits[0]

    def tokens(self, text):
        """Its token ids, with nothing added."""
        return tuple(self.processor.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids):
        """Optional: puts predictions into words."""
        return self.processor.tokenizer.decode(list(token_ids))


class WithDecoder(Plain):
    """The second level: vniah runs the decoder layer by layer, and shares work among cells."""

    def __init__(self, dtype="float32", device="cpu"):
        super().__init__(dtype, device)
        parts = self.model.model.language_model, self.model.lm_head
        self.decoder = SimpleNamespace(model=parts[0], lm_head=parts[1])

    def position_ids(self, sequence):
        """One position for each row that is read."""
        return torch.arange(sequence.num_tokens(self.frame_shape[0]))


class Chat:
    """The third level: only answers in words."""

    name, revision = "tiny LLaVA in words", "seed 0"

    def __init__(self, dtype="float32", device="cpu"):
        self.model, self.processor = load(dtype, device)

    @torch.inference_mode()
    def answer(self, frames, question):
        """What it says of some pictures."""
        text = prompt(self.processor, len(frames), question)
        inputs = self.processor(images=list(frames), text=text, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        said = tokens[0, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(said, skip_special_tokens=True)


def prompt(processor, num_frames, question):
    """The conversation as the model was trained to read it, with ``<image>`` for each frame."""
    content = [{"type": "image"}] * num_frames + [{"type": "text", "text": question}]
    chat = [{"role": "user", "content": content}]
    return processor.apply_chat_template(chat, add_generation_prompt=True)


def load(dtype, device):
    """A model and its processor: this one is tiny and random.

    A real one is two lines::

        model = LlavaForConditionalGeneration.from_pretrained(PATH, dtype=dtype).to(device).eval()
        processor = AutoProcessor.from_pretrained(PATH)
    """
    tokenizer = build_tokenizer()
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "intermediate_size": 32}
    text = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": len(tokenizer)}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, num_hidden_layers=3, num_attention_heads=2),
        text_config=LlamaConfig(**text, num_hidden_layers=2, num_attention_heads=4),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration._from_config(config, dtype=getattr(torch, dtype))
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return model.to(device).eval(), processor


TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else '\n' + part['text'] }}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build_tokenizer():
    """Bytes as tokens, and the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return fast
