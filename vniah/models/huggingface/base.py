"""What all checkpoints in the layout of transformers have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self
from weakref import proxy

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vniah.errors import InputError, ModelError
from vniah.models.contents import require_supported
from vniah.models.families import FAMILIES, LLAVA_TYPES, Family
from vniah.models.huggingface.folder import FamilyParts, read_parts
from vniah.models.huggingface.prompt import Prompt
from vniah.models.plain_text import ReadsText
from vniah.models.preprocessing import as_pictures, encode_blank, require_small_pictures
from vniah.models.rope import override_rope, rope_settings
from vniah.models.vocabulary import spell
from vniah.models.weights import weights_settings
from vniah.options import LOAD_DEFAULTS, LoadOptions
from vniah.protocol import Frames, FrameSegment, FrameSpan, TextSegment, TokenSequence

ADAPTER_VERSION = "1"  # part of every cache's identity: raise it when encoded frames change


class TransformersModel:
    """A checkpoint in the layout of transformers; subclasses define what differs by family.

    Attributes:
        name: hub id or folder.
        revision: a hash over its files, or the hub's commit.
        frame_shape: of one cached frame; the last two are tokens and hidden size.
        encoding: what else an encoded frame depends on, for the cache's identity.
        stop_ids: tokens that end an answer.
        generation_note: what of its generation_config.json greedy decoding does not apply.

    Class attributes of a family:
        model_class: its class in transformers.
        takes_frame_size: True if its vision tower reads frames of any size.
        placeholder: the token that stands for a row of a frame.
        template_token: what the chat template writes for a video, or for one image.
        is_video: True if the template gets all frames as one video, False if as images.
        pillow_processor: an image processor of transformers that does with Pillow what the family's
            own does only with torchvision, to frames that are not cut; None if its own has both.
    """

    model_class: ClassVar[str]
    takes_frame_size: ClassVar[bool] = False
    placeholder: str
    template_token: str
    is_video: ClassVar[bool] = True
    pillow_processor: ClassVar[str | None] = None

    def __init__(self, parts: FamilyParts) -> None:
        self.name = parts.name
        self.revision = parts.revision
        self._model = parts.model
        self._tokenizer = parts.tokenizer
        self._image_processor = parts.image_processor
        own = proxy(self)  # a cycle of references would keep the weights in memory
        self._prompt = Prompt(
            parts.tokenizer,
            self._own_template(parts.template),
            content=lambda num_frames: own._content(num_frames),
            expand=lambda text, frames: own._expand(text, frames),
            placeholder=self.placeholder,
        )
        if parts.frame_size is not None and not self.takes_frame_size:
            raise ModelError(
                f"{type(self).__name__} reads frames of one size only; leave frame_size out"
            )
        self.frame_size = parts.frame_size or self._usual_size()
        self._check_size()
        self._require_placeholder()
        if not self.takes_frame_size:
            require_small_pictures(parts.name, parts.image_processor)
        self._encoder = parts.encoder
        shape = None if parts.encoder is None else self._described_shape()
        if shape is None:
            shape = tuple(encode_blank(parts.name, self.encode_frames).shape[1:])
        self.frame_shape: tuple[int, ...] = shape
        self.encoding: Mapping[str, str] = {
            "adapter": f"{type(self).__name__} {ADAPTER_VERSION}",
            "preprocessing": self._preprocessing(),
        }
        self._tokens_with_text = self._count_with_text()  # raises if the template cannot be used
        self._load_in = parts.load_in
        self._adapter = parts.adapter
        self.generation_note = parts.generation_note
        self.stop_ids = parts.stop_ids

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
    ) -> Self:
        """The model in a checkpoint folder, as `vniah.models.loading.load_folder` finds its class.

        Args:
            folder: holds config.json, safetensors, tokenizer and preprocessor files.
            name: for titles and manifests.
            revision: tells versions of the weights apart; by default a hash over the files.
            options: how it is loaded; here no dtype means as stored, and no device the CPU.
            adapter: the folder of an adapter to merge into the weights.
            has_decoder: False leaves the decoder without weights; such a model only encodes frames.

        Raises:
            ModelError: something is missing or does not fit; the message names it.
            InputError: an option is not for this family.
            MissingDependencyError: ``load_in`` or the prompt needs another package.
        """
        cls.require_options(options, name)
        require_supported(folder, name)
        parts = read_parts(
            folder,
            name,
            revision,
            options,
            class_name=cls.model_class,
            find_body=cls.find_body,
            pillow_processor=cls.pillow_processor,
            adapter=adapter,
            has_decoder=has_decoder,
        )
        model = cls(parts)
        if options.rope_theta is not None or options.rope_scaling is not None:
            model.override_rope(options.rope_theta, options.rope_scaling)
        return model

    @staticmethod
    def require_options(options: LoadOptions, name: str) -> None:
        """Raises `InputError` for an option that is for other checkpoints."""
        if options.prompt_template is not None:
            raise InputError(
                f"prompt_template is for checkpoints of {', '.join(LLAVA_TYPES)}; {name} has a "
                "chat template of its own: leave prompt_template out"
            )

    @property
    def family(self) -> Family:
        """As `vniah.models.families.HasFamily`."""
        return FAMILIES[self._model.config.model_type]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else the logits depend on, for the manifest."""
        return {
            "frame_unit": self.family.frame_unit,
            "tokens_per_frame_with_text": self._tokens_with_text,
            **rope_settings(self.find_body(self._model)),
            **weights_settings(self._load_in, self._adapter),
        }

    def override_rope(
        self, theta: float | None = None, scaling: Mapping[str, Any] | str | None = None
    ) -> None:
        """Changes the RoPE; base or scaling, if not given, is the checkpoint's again."""
        override_rope(self.find_body(self._model), theta=theta, scaling=scaling)

    def __repr__(self) -> str:
        place = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return (
            f"<{type(self).__name__} {self.name}, {place}, {self.frame_shape[-2]} tokens a frame>"
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and cached frames."""
        dtype: torch.dtype = self._head.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        weight: Tensor = self._head.weight
        if weight.is_meta:  # only frames are encoded
            weight = next(weight for weight in self._model.parameters() if not weight.is_meta)
        return weight.device

    @torch.inference_mode()
    def encode_frames(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames as the decoder reads them, ``[num_frames, *frame_shape]``.

        Args:
            frames: RGB uint8 ``[height, width, 3]``, of any sizes.
        """
        self.read_encoder()
        return self._encode([self._fit(Image.fromarray(frame)) for frame in frames])

    @property
    def encoder_is_read(self) -> bool:
        """True if the weights of what encodes frames have been read."""
        return self._encoder is None or self._encoder.is_read

    def read_encoder(self) -> None:
        """As `vniah.models.deferred.ReadsEncoderLater.read_encoder`."""
        if self._encoder is not None:
            self._encoder.read(lambda: encode_blank(self.name, self.encode_frames))

    def prepared_frames(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The frames as the vision tower gets them, RGB uint8 ``[height, width, 3]`` each."""
        return self._pictures([self._fit(Image.fromarray(frame)) for frame in frames])

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """The chat template's prompt around the frames; the answer's tokens.

        Without frames it is that of a question in words alone, with no mark of a video.
        """
        shown = Frames.of(frames)
        segments: list[TextSegment | FrameSpan] = [*self._prompt.put_before(shown)]
        if shown:
            segments += [TextSegment(ids) for ids in self._after_frames() if ids]
        segments.append(self._prompt.after(len(shown), question))
        return TokenSequence(tuple(segments), self._prompt.answer(len(shown), question, answer))

    @torch.inference_mode()
    def answer_logits(self, sequence: TokenSequence, embeds: Tensor) -> Tensor:
        """The logits of the whole model's own forward, which inserts the frames itself.

        Args:
            sequence: what `compose` gave.
            embeds: its frames in reading order, ``[num_frames, *frame_shape]``.

        Returns:
            ``[len(answer_ids), vocabulary]``.
        """
        mark, of_frame = self._mark, self._frame_ids()
        rows = [
            of_frame if isinstance(segment, FrameSegment) else torch.tensor(segment.token_ids)
            for segment in sequence.inputs
        ]
        ids = torch.cat(rows)[None].to(self.device)
        ids[ids >= self._head.out_features] = mark  # rows that are not of the vocabulary
        of_frames: dict[str, Any] = {}
        if len(embeds):
            rows_of_frames = self._encoder_outputs(embeds.to(self.device, self.dtype))
            of_frames["mm_encoder_outputs"] = rows_of_frames
            of_frames |= self._own_arguments(sequence, ids == mark)
        num_rows = len(sequence.answer_ids)
        logits: Tensor = self._model(
            input_ids=ids, logits_to_keep=num_rows, use_cache=False, **of_frames
        ).logits[0, -num_rows:]  # VideoLLaMA3 gives all rows, whatever is to be kept
        inner: Any = getattr(self._model, "model", None)
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None  # else it shifts the positions of a later call
        return logits * self._logit_scale()

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def spell(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens as it stands in a prompt, with special tokens and white space."""
        return spell(self._tokenizer, token_ids)

    # Methods that a family may override.

    @staticmethod
    def find_body(model: Any) -> Any:
        """The decoder without its head."""
        return model.model.language_model

    def _described_shape(self) -> tuple[int, ...] | None:
        """The shape of an encoded frame as the configuration describes it.

        None if only an encoded frame tells it; then one is encoded when the model is loaded.
        """
        num_tokens = self._described_tokens()
        width = int(self._head.in_features)
        return None if num_tokens is None else (num_tokens, width)

    def _described_tokens(self) -> int | None:
        """The tokens of an encoded frame as the configuration describes them; None as above."""
        return None

    def _encode(self, frames: Sequence[Image.Image]) -> Tensor:
        """Fitted frames through tower and projector, ``[num_frames, *frame_shape]``."""
        pixels = self._pixels(frames).to(self.device, self.dtype)
        features: Tensor = self._model.get_image_features(pixels).pooler_output
        return features

    def _pixels(self, frames: Sequence[Image.Image]) -> Tensor:
        """What the image processor makes of fitted frames, ``[num_frames, 3, height, width]``."""
        raise NotImplementedError

    def _pictures(self, frames: Sequence[Image.Image]) -> list[np.ndarray]:
        """What the vision tower gets of fitted frames, as pictures."""
        return as_pictures(self._pixels(frames), self._image_processor)

    def _fit(self, frame: Image.Image) -> Image.Image:
        """The frame as it is given to the image processor."""
        return frame

    def _usual_size(self) -> tuple[int, int]:
        """Width and height in pixels of the pictures that the tower reads."""
        size = self._model.config.vision_config.image_size
        return (size, size) if isinstance(size, int) else (int(size[1]), int(size[0]))

    def _check_size(self) -> None:
        """Raises `ModelError` for a frame size that the tower cannot read."""

    def _require_placeholder(self) -> None:
        """Raises `ModelError` if config.json and tokenizer disagree which token frames replace."""
        config = self._model.config
        ids = (getattr(config, f"{kind}_token_id", None) for kind in ("image", "video"))
        known = {token for token in ids if token is not None}
        found = self._tokenizer.convert_tokens_to_ids(self.placeholder)
        if known and found not in known:
            raise ModelError(
                f"{self.name} has {self.placeholder!r} as token {found}, and config.json says that "
                f"frames stand at {' or '.join(map(str, sorted(known)))}; its tokenizer and its "
                "weights are of different checkpoints"
            )

    def _preprocessing(self) -> str:
        """How a frame is prepared for the tower, for the cache's identity."""
        return f"{self.frame_size[0]}x{self.frame_size[1]} px"

    def _own_template(self, template: str) -> str:
        """The chat template to use, given that of the checkpoint."""
        return template

    def _content(self, num_frames: int) -> Sequence[Mapping[str, str]]:
        """The entries of a chat message that stand for the frames."""
        return [{"type": "video"}] if self.is_video else [{"type": "image"}] * num_frames

    def _expand(self, text: str, frames: range) -> str:
        """The template's text with one placeholder for each of some frames."""
        if self.is_video:
            return text.replace(self.template_token, self._video_text(frames), 1)
        return text.replace(self.template_token, self._image_text())

    def _video_text(self, frames: range) -> str:
        """What the processor writes for these frames of a video, one placeholder for each."""
        return self.placeholder * len(frames)

    def _image_text(self) -> str:
        """What the processor writes for an image, with one placeholder."""
        return self.placeholder

    def _after_frames(self) -> Sequence[tuple[int, ...]]:
        """Token ids after the last frame that the tokenizer does not give."""
        return ()

    def _count_with_text(self) -> float:
        """Tokens of a frame with the text around it, averaged over 32 frames."""
        texts = self._prompt.before(33)[1:]
        return self.frame_shape[-2] + sum(len(text.token_ids) for text in texts) / len(texts)

    @property
    def _head(self) -> Any:
        """The matrix that makes logits of the decoder's last rows."""
        return self._model.get_output_embeddings()

    @property
    def _mark(self) -> int:
        """The token that stands for a row of a frame."""
        return int(self._tokenizer.convert_tokens_to_ids(self.placeholder))

    def _frame_ids(self) -> Tensor:
        """The tokens of a frame as the family's own processor writes them, ``[tokens]``."""
        return torch.full((self.frame_shape[-2],), self._mark)

    def _encoder_outputs(self, embeds: Tensor) -> Mapping[str, Any]:
        """Encoded frames as the model's own forward takes them."""
        rows = BaseModelOutputWithPooling(pooler_output=[embeds.flatten(0, 1)])
        return {"video" if self.is_video else "image": rows}

    def _logit_scale(self) -> float:
        """By what the logits are multiplied that transformers' class of the whole model gives."""
        return 1.0

    def _own_arguments(self, sequence: TokenSequence, is_frame: Tensor) -> Mapping[str, Any]:
        """Further arguments of its forward; ``is_frame`` marks the rows of frames, ``[1, T]``."""
        return {}

    def _embed_into(self, sequence: TokenSequence, embeds: Tensor) -> Tensor:
        """Input rows of a whole sequence, ``[1, num_tokens, hidden size]``."""
        table, frames = self._model.get_input_embeddings(), iter(embeds)
        rows = [
            next(frames).to(self.device, self.dtype)
            if isinstance(segment, FrameSegment)
            else table(torch.tensor(segment.token_ids, device=self.device))
            for segment in sequence.inputs
        ]
        return torch.cat(rows)[None]


class TransformersDecoderModel(ReadsText, TransformersModel):
    """A family whose decoder vniah runs layer by layer, on frames or on text alone.

    With its `answer_logits` ``vniah check`` compares prompt, positions and the text around frames
    with those of the whole model.

    Attributes:
        decoder: has two parts, ``model`` and ``lm_head``.
    """

    has_causal_positions = True

    def __init__(self, parts: FamilyParts) -> None:
        self.decoder: Any = SimpleNamespace(
            model=self.find_body(parts.model), lm_head=parts.model.get_output_embeddings()
        )
        super().__init__(parts)
        self._frame_token = self.placeholder

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """0, 1, 2, ...: ``[num_tokens]``; a family with M-RoPE gives ``[3, num_tokens]``."""
        return torch.arange(sequence.num_tokens(self.frame_shape[-2]))

    @torch.inference_mode()
    def answer_logits(self, sequence: TokenSequence, embeds: Tensor) -> Tensor:
        """As `TransformersModel.answer_logits`."""
        self.read_encoder()  # some families take the device of their inputs from the tower
        return super().answer_logits(sequence, embeds)
