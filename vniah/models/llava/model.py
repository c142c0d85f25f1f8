"""LongVA, LLaVA-NeXT, LLaVA-OneVision and LLaVA-Video checkpoint folders, in the original layout.

Read on plain transformers classes: ``model_type`` llava_qwen, llava_mistral and llava_llama, with a
CLIP or a SigLIP tower (`vniah.models.llava.towers`) and a linear or GELU projector, in safetensors.
A frame goes through tower, projector and pooling, and gets the newlines that the checkpoint was
trained with (`vniah.models.llava.frame_layout`). With a CLIP tower and nothing configured that is
UniRes (Zhang et al. 2024, section 3.2): 576 patches of LongVA-7B's tower become 144 tokens.

With the option ``images`` every picture is read as the checkpoint reads images instead: as grids of
the tower's size, by UniRes or AnyRes (`vniah.models.llava.grids`), for pages and other pictures
that hold more than one grid shows.

Not used: the sentence that lists the times of all frames (``add_time_instruction``), which the
published prompt does not have.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vniah.errors import InputError, ModelError
from vniah.models.adapters import adapter_record
from vniah.models.configs import read_beside, read_config
from vniah.models.contents import fingerprint, generation_note, require_supported
from vniah.models.deferred import DeferredWeights
from vniah.models.llava.checkpoint import (
    build_parts,
    config_for_tokenizer,
    load_parts,
    require_readable,
    usual_template,
)
from vniah.models.llava.frame_reader import PictureReader
from vniah.models.llava.prompts import choose_template, find_template, question_line
from vniah.models.plain_text import ReadsText
from vniah.models.preprocessing import encode_blank
from vniah.models.rope import override_rope, rope_settings
from vniah.models.vocabulary import append_rows, find_stop_ids, load_tokenizer, spell
from vniah.models.weights import weights_settings
from vniah.options import LOAD_DEFAULTS, LoadIn, LoadOptions
from vniah.protocol import Frames, FrameSegment, TextSegment, TokenSequence

ADAPTER_VERSION = "1"  # part of every cache's identity: raise it when encoded frames change
_NUM_TEXTS = 1 << 12  # texts whose tokens are kept


class LlavaModel(ReadsText):
    """A LongVA / LLaVA-NeXT checkpoint.

    It satisfies `vniah.protocol.DecoderModel`, and `vniah.protocol.LanguageModel` for text alone.

    Make one with `load`.

    Attributes:
        name: hub id, folder or embedded name, e.g. ``"lmms-lab/LongVA-7B"``.
        revision: a hash over its files, or the hub's commit.
        frame_shape: ``(tokens, hidden size)`` of one frame, e.g. ``(144, 3584)``.
        decoder: the transformers causal language model.
        encoding: what else an encoded frame depends on, for the cache's identity.
        stop_ids: tokens that end an answer.
        generation_note: what of its generation_config.json greedy decoding does not apply.
    """

    has_causal_positions = True

    def __init__(
        self,
        *,
        name: str,
        revision: str,
        decoder: Any,
        projector: nn.Module,
        encoder: DeferredWeights,
        reader: PictureReader,
        newline: Tensor | None,
        tokenizer: Any,
        template: str,
        stop_ids: tuple[int, ...],
        load_in: LoadIn | None = None,
        adapter: str | None = None,
        generation_note: str | None = None,
    ) -> None:
        self.name = name
        self.revision = revision
        self.decoder = decoder
        self._projector = projector
        self._encoder = encoder
        self._reader = reader
        self._newline = newline
        self._tokenizer = tokenizer
        self._template_name = template
        self._template = find_template(template)
        self._load_in = load_in
        self._adapter = adapter
        self.generation_note = generation_note
        self.frame_shape: tuple[int, ...] = (reader.num_rows, int(decoder.config.hidden_size))
        self.encoding = {
            "adapter": f"llava {ADAPTER_VERSION}",
            "preprocessing": reader.description,
        }
        self._after_frames: tuple[TextSegment, ...] = ()
        if reader.ends_frames:
            self._after_frames = (TextSegment((_append_newline(decoder, newline, tokenizer),)),)
        self.stop_ids = stop_ids
        # A sweep asks the same few questions in thousands of cells.
        self._tokenize = lru_cache(maxsize=_NUM_TEXTS)(partial(_encode_text, tokenizer))
        self._text = lru_cache(maxsize=_NUM_TEXTS)(TextSegment)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str | None = None,
        options: LoadOptions = LOAD_DEFAULTS,
        adapter: Path | None = None,
        has_decoder: bool = True,
    ) -> "LlavaModel":
        """The model in a checkpoint folder.

        Args:
            folder: holds config.json, safetensors and tokenizer files.
            name: for titles and manifests.
            revision: tells versions of the weights apart; by default a hash over the files.
            options: how it is loaded; here no dtype means as stored, and no device the CPU.
            adapter: the folder of an adapter to merge into the decoder's weights.
            has_decoder: False leaves the decoder without weights; such a model only encodes frames.

        Raises:
            ModelError: something is missing or does not fit; the message names it.
            InputError: an option is not valid for this checkpoint.
            MissingDependencyError: ``load_in`` needs bitsandbytes.
        """
        if options.frame_size is not None and options.images == "frames":
            raise InputError(
                f"frame_size is for vision towers that read any size; that of {name} does not: "
                "leave it out, or read pictures as grids (--images grids)"
            )
        raw = read_config(folder)
        require_readable(raw, folder)
        require_supported(folder, name)
        parts = build_parts(raw, folder, options)
        override_rope(parts.decoder.model, theta=options.rope_theta, scaling=options.rope_scaling)
        encoder = load_parts(parts, raw, folder, options, adapter, has_decoder=has_decoder)
        tokenizer = load_tokenizer(folder, config=config_for_tokenizer(raw))
        template = choose_template(options.prompt_template, usual_template(raw), tokenizer)
        model = cls(
            name=name,
            revision=revision or fingerprint(folder),
            decoder=parts.decoder,
            projector=parts.projector,
            encoder=encoder,
            reader=parts.reader,
            newline=parts.newline["row"] if parts.reader.has_newline else None,
            tokenizer=tokenizer,
            template=template,
            stop_ids=find_stop_ids(tokenizer, raw, read_beside(folder, "generation_config.json")),
            load_in=options.load_in,
            adapter=None if adapter is None else adapter_record(adapter),
            generation_note=generation_note(folder),
        )
        model.compose((), "?", "0")  # raises if the tokenizer cannot be used
        return model

    @property
    def settings(self) -> dict[str, str | float]:
        """What else the logits depend on, for the manifest."""
        return {
            "prompt_template": self._template_name,
            **rope_settings(self.decoder.model),
            **self._reader.settings,
            **weights_settings(self._load_in, self._adapter),
        }

    def override_rope(
        self, theta: float | None = None, scaling: Mapping[str, Any] | str | None = None
    ) -> None:
        """Changes the RoPE; base or scaling, if not given, is the checkpoint's again."""
        override_rope(self.decoder.model, theta=theta, scaling=scaling)

    def __repr__(self) -> str:
        place = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"<LlavaModel {self.name}, {place}, {self.frame_shape[-2]} tokens a frame>"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and cached frames."""
        return self._weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._weight.device

    @property
    def _weight(self) -> Tensor:
        """A weight that has been read: of the projector where the decoder is never read."""
        head: Tensor = self.decoder.lm_head.weight
        return next(self._projector.parameters()) if head.is_meta else head

    @torch.inference_mode()
    def encode_frames(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames as the decoder reads them, ``[num_frames, *frame_shape]``.

        Args:
            frames: RGB uint8 ``[height, width, 3]``, of any sizes.
        """
        self.read_encoder()
        return self._reader.rows(frames, self._projector, self._newline, self.dtype)

    @property
    def encoder_is_read(self) -> bool:
        """True if the weights of tower and projector have been read."""
        return self._encoder.is_read

    def read_encoder(self) -> None:
        """As `vniah.models.deferred.ReadsEncoderLater.read_encoder`."""
        self._encoder.read(lambda: encode_blank(self.name, self.encode_frames))

    def prepared_frames(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The frames as the vision tower gets them, RGB uint8 ``[height, width, 3]`` each."""
        return self._reader.pictures(frames)

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """Opening, frames, question and closing of the prompt template; the answer's tokens."""
        shown = Frames.of(frames)
        ending = self._after_frames if shown else ()
        opening = self._text(self._tokenize(self._template.opening))
        asked = self._tokenize(question_line(question)) + self._tokenize(self._template.closing)
        return TokenSequence(
            (opening, *shown.spans, *ending, self._text(asked)), self._tokenize(answer)
        )

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """0, 1, 2, ...: ``[num_tokens]``."""
        return torch.arange(sequence.num_tokens(self.frame_shape[0]), device=self.device)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(token_ids))).strip()

    def spell(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens as it stands in a prompt, with special tokens and white space."""
        return spell(self._tokenizer, token_ids)


def _encode_text(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _append_newline(decoder: Any, newline: Tensor | None, tokenizer: Any) -> int:
    """Appends the newline row to the decoder's embedding table; returns its token id."""
    assert newline is not None
    table = decoder.get_input_embeddings()
    newline_id = int(table.num_embeddings)
    if (largest := max(tokenizer.get_vocab().values())) >= newline_id:
        raise ModelError(
            f"the tokenizer gives token ids up to {largest}, the decoder has embeddings for 0 to "
            f"{newline_id - 1}; the tokenizer files are of another checkpoint"
        )
    decoder.set_input_embeddings(append_rows(table, newline[None]))
    return newline_id
