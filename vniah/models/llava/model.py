"""LongVA, LLaVA-NeXT, LLaVA-OneVision and LLaVA-Video checkpoint folders, in the original layout.

Read on plain transformers classes: ``model_type`` llava_qwen, llava_mistral and llava_llama, with a
CLIP or a SigLIP tower (`vniah.models.llava.towers`) and a linear or GELU projector, in safetensors.
A frame goes through tower, projector and pooling, and gets the newlines that the checkpoint was
trained with (`vniah.models.llava.frame_layout`). With a CLIP tower and nothing configured that is
UniRes (Zhang et al. 2024, section 3.2): 576 patches of LongVA-7B's tower become 144 tokens.

Left out, for frames of a video: AnyRes, which is for single pictures, and the sentence that lists
the times of all frames (``add_time_instruction``), which the protocol's prompt does not have.

Where weights lie in the checkpoint:

    model.vision_tower.vision_tower.vision_model.*   the tower, fine-tuned: never the stock one
    model.mm_projector.{0,2,...}.{weight,bias}       Linear, GELU, Linear, ...
    model.image_newline                              one row, in "unpad" checkpoints
    model.embed_tokens, model.layers.*, ..., lm_head the decoder

A ``rope_scaling`` in config.json (or transformers 5's ``rope_parameters``) is what the decoder
gets, and the manifest names it. The published class of llava_qwen, that of LongVA, sets it to None
whatever config.json says, so checkpoints that it saved have none. Where somebody has written one
since, ``none`` as rope_scaling gives what that class would read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vniah.errors import ModelError, first_line
from vniah.forward.offload import keeps_in_host, offload_layers, require_host_room
from vniah.models.checkpoints import fingerprint, load_weights, read_config, stored_dtype
from vniah.models.llava.frame_layout import FrameLayout, build_projector, read_layout
from vniah.models.llava.prompts import choose_template, find_template, question_line
from vniah.models.llava.towers import Tower, build_tower
from vniah.models.quantization import quantize_layers
from vniah.models.rope import override_rope, rope_settings, stored_parameters
from vniah.models.vocabulary import append_rows, find_stop_ids, load_tokenizer
from vniah.options import LoadIn, Offload
from vniah.protocol import FrameSegment, TextSegment, TokenSequence

ADAPTER_VERSION = "1"  # part of every cache's identity: raise it when encoded frames change

_DECODERS: Mapping[str, tuple[type[Any], type[Any], str]] = {
    "llava_qwen": (Qwen2Config, Qwen2ForCausalLM, "qwen2"),
    "llava_mistral": (MistralConfig, MistralForCausalLM, "mistral"),
    "llava_llama": (LlamaConfig, LlamaForCausalLM, "vicuna"),
}
MODEL_TYPES = tuple(_DECODERS)
# Some checkpoints of this layout say "llava", as those of transformers' own layout do.
_TYPE_OF_ARCHITECTURE = {
    "LlavaQwenForCausalLM": "llava_qwen",
    "LlavaMistralForCausalLM": "llava_mistral",
    "LlavaLlamaForCausalLM": "llava_llama",
}

_TOWER_PREFIX = "model.vision_tower.vision_tower."
_PROJECTOR_PREFIX = "model.mm_projector."
_NEWLINE_NAME = "model.image_newline"
_UNUSED_PREFIXES = ("model.vision_resampler.",)
_NOT_FOR_THE_DECODER = frozenset(
    {
        "model_type",
        "architectures",
        "auto_map",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "rope_scaling",
        "rope_theta",
        "rope_parameters",
    }
)
_DECODER_FOREIGN_PREFIXES = (
    "mm_",
    "image_",
    "tune_",
    "freeze_",
    "unfreeze_",
    "use_mm",
    "tokenizer_",
    "vision_",
)


def llava_type(raw: Mapping[str, Any]) -> str | None:
    """Which of `MODEL_TYPES` a config.json describes; None where it is another kind of model."""
    model_type = raw.get("model_type")
    if model_type == "llava":
        architectures = raw.get("architectures") or [None]
        return _TYPE_OF_ARCHITECTURE.get(str(architectures[0]))
    return model_type if model_type in MODEL_TYPES else None


class LlavaModel:
    """A LongVA / LLaVA-NeXT checkpoint; satisfies `vniah.protocol.DecoderModel`.

    Make one with `load`.

    Attributes:
        name: hub id, folder or embedded name, e.g. ``"lmms-lab/LongVA-7B"``.
        revision: a hash over its files, or the hub's commit.
        frame_shape: ``(tokens, hidden size)`` of one frame, e.g. ``(144, 3584)``.
        decoder: the transformers causal language model.
        encoding: what else decides an encoded frame, for the cache's identity.
        stop_ids: tokens with which its answers end.
    """

    def __init__(
        self,
        *,
        name: str,
        revision: str,
        decoder: Any,
        tower: Tower,
        projector: nn.Module,
        layout: FrameLayout,
        newline: Tensor | None,
        tokenizer: Any,
        template: str,
        stop_ids: tuple[int, ...],
        load_in: LoadIn | None = None,
    ) -> None:
        self.name = name
        self.revision = revision
        self.decoder = decoder
        self._tower = tower
        self._projector = projector
        self._layout = layout
        self._newline = newline
        self._tokenizer = tokenizer
        self._template_name = template
        self._template = find_template(template)
        self._load_in = load_in
        self.frame_shape: tuple[int, ...] = (layout.num_rows, int(decoder.config.hidden_size))
        self.encoding = {
            "adapter": f"llava {ADAPTER_VERSION}",
            "preprocessing": f"{tower.description}, {layout.description}",
        }
        self._after_frames: tuple[TextSegment, ...] = ()
        if layout.newline == "one_token":
            self._after_frames = (TextSegment((_append_newline(decoder, newline, tokenizer),)),)
        self.stop_ids = stop_ids

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        rope_theta: float | None = None,
        rope_scaling: Mapping[str, Any] | str | None = None,
        template: str | None = None,
        offload: Offload = "auto",
        load_in: LoadIn | None = None,
    ) -> "LlavaModel":
        """The model in a checkpoint folder.

        Args:
            folder: where config.json, safetensors and tokenizer files lie.
            name: for titles and manifests.
            revision: what tells its versions apart; by default a hash over its files.
            dtype: of the weights; by default as stored.
            device: where it runs; by default the CPU.
            rope_theta: a RoPE base to use instead of the checkpoint's.
            rope_scaling: a RoPE scaling to use instead, as `vniah.models.rope.override_rope`.
            template: name of a prompt template; by default the one that the checkpoint's family
                was trained with.
            offload: as `vniah.models.loading.load_model`.
            load_in: as there.

        Raises:
            ModelError: something is missing or does not fit; the message names it.
            InputError: the RoPE that was asked for cannot be meant.
            MissingDependencyError: ``load_in`` needs bitsandbytes.
        """
        raw = read_config(folder)
        _refuse_unread(raw, folder)
        dtype = dtype or stored_dtype(folder)
        device = device or torch.device("cpu")
        config_class, model_class, usual_template = _DECODERS[llava_type(raw) or raw["model_type"]]
        with _reported(folder):
            tower = build_tower(raw, folder)
        layout = _find_layout(raw, folder, tower)
        with torch.device("meta"), _reported(folder):
            decoder = model_class(_decoder_config(raw, config_class))
            width = decoder.config.hidden_size
            projector = build_projector(raw, folder, tower.hidden_size, width)
            newline = nn.ParameterDict()
            if layout.has_newline:
                newline["row"] = nn.Parameter(torch.empty(width))
        override_rope(decoder.model, theta=rope_theta, scaling=rope_scaling)
        parts = {
            "decoder": decoder,
            "tower": tower.module,
            "projector": projector,
            "newline": newline,
        }
        is_offloaded = load_in is None and keeps_in_host(offload, parts.values(), device, dtype)
        if is_offloaded:
            require_host_room(decoder.model.layers, dtype)
        load_weights(
            folder,
            parts,
            rename=partial(_rename, tower=tower, has_newline=layout.has_newline),
            dtype=dtype,
            device=device,
            optional=frozenset({"decoder.lm_head.weight", "newline.row"}),
            stays_in_host=_is_layer if is_offloaded or load_in else lambda part, name: False,
        )
        _refuse_lack_of_newline(newline, layout, folder)
        _finish_decoder(decoder, raw, folder, device)
        tower.finish(device)
        if is_offloaded:
            offload_layers(decoder.model, device)
        elif load_in is not None:
            quantize_layers(decoder.model.layers, load_in, dtype=dtype, device=device)
        tokenizer = load_tokenizer(folder, config=_config_for_tokenizer(raw))
        return cls(
            name=name,
            revision=revision or fingerprint(folder),
            decoder=decoder,
            tower=tower,
            projector=projector,
            layout=layout,
            newline=newline["row"] if layout.has_newline else None,
            tokenizer=tokenizer,
            template=choose_template(template, usual_template, tokenizer),
            stop_ids=find_stop_ids(folder, tokenizer, raw, _generation_config(folder)),
            load_in=load_in,
        )

    @property
    def settings(self) -> dict[str, str | float]:
        """What else decides the logits, for the manifest."""
        own: dict[str, str] = {}
        if self._layout.has_newline:
            own["newline_position"] = self._layout.newline
        if self._load_in is not None:
            own["load_in"] = self._load_in
        return {
            "prompt_template": self._template_name,
            **rope_settings(self.decoder.model),
            **own,
        }

    def override_rope(
        self, theta: float | None = None, scaling: Mapping[str, Any] | str | None = None
    ) -> None:
        """Another RoPE from now on; what is not given is the checkpoint's again."""
        override_rope(self.decoder.model, theta=theta, scaling=scaling)

    def __repr__(self) -> str:
        place = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"<LlavaModel {self.name}, {place}, {self.frame_shape[-2]} tokens a frame>"

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and cached frames."""
        return next(self._projector.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self._projector.parameters()).device

    @torch.inference_mode()
    def encode_frames(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Frames as the decoder reads them, ``[num_frames, *frame_shape]``.

        Args:
            frames: RGB uint8 ``[height, width, 3]``, of any sizes.
        """
        patches = self._projector(self._tower.patches(frames, self.dtype))
        return self._layout.rows(patches, self._newline)

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """Opening, frames, question and closing of the prompt template; the answer's tokens."""
        opening = TextSegment(self._tokenize(self._template.opening))
        asked = self._tokenize(question_line(question)) + self._tokenize(self._template.closing)
        ending = self._after_frames if frames else ()
        return TokenSequence(
            (opening, *frames, *ending, TextSegment(asked)), self._tokenize(answer)
        )

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """0, 1, 2, ...: ``[num_tokens]``."""
        return torch.arange(sequence.num_tokens(self.frame_shape[0]), device=self.device)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(token_ids))).strip()

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def _refuse_unread(raw: Mapping[str, Any], folder: Path) -> None:
    """Names what this adapter would read wrongly."""
    expected: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
        "mm_vision_select_feature": ("patch", ("patch",)),
        "mm_resampler_type": (None, (None, "spatial_pool")),
        "add_faster_video": (False, (False, None)),
        "s2": (False, (False, None)),
        "mm_use_im_start_end": (False, (False, None)),
        "mm_use_im_patch_token": (False, (False, None)),
        "quantization_config": (None, (None,)),
    }
    for key, (default, readable) in expected.items():
        if raw.get(key, default) not in readable:
            raise ModelError(
                f"{folder}/config.json has {key} = {raw[key]!r}; this adapter reads {readable[0]!r}"
            )


def _find_layout(raw: Mapping[str, Any], folder: Path, tower: Tower) -> FrameLayout:
    """Pooling and newlines of a frame.

    A missing field means what the published V-NIAH runs did with CLIP towers: average pooling and
    no newline. With SigLIP it means what the code of LLaVA-NeXT does: a newline after all frames,
    and no pooling that would be the usual one.
    """
    return read_layout(
        raw,
        folder,
        side=tower.side,
        usual_mode=None if tower.is_siglip else "average",
        usual_newline="one_token" if tower.is_siglip else "no_token",
    )


def _generation_config(folder: Path) -> dict[str, Any]:
    """How the checkpoint's authors have it generate; empty where they do not say."""
    name = "generation_config.json"
    return read_config(folder, name) if (folder / name).is_file() else {}


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Turns what transformers says of impossible sizes into one line."""
    try:
        yield
    except (ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(f"{folder}/config.json describes no model: {first_line(error)}") from error


def _decoder_config(raw: Mapping[str, Any], config_class: type[Any]) -> Any:
    """The decoder's configuration, out of the checkpoint's flat one."""
    values = {
        key: value
        for key, value in raw.items()
        if key not in _NOT_FOR_THE_DECODER and not key.startswith(_DECODER_FOREIGN_PREFIXES)
    }
    if config_class is MistralConfig:
        values["sliding_window"] = None  # these checkpoints were trained and published without
    config = config_class(**values)
    config.rope_parameters = stored_parameters(config, raw)
    return config


def _finish_decoder(
    decoder: Any, raw: Mapping[str, Any], folder: Path, device: torch.device
) -> None:
    """Ties the head, and computes the RoPE frequencies that no checkpoint holds, in fp32."""
    if decoder.lm_head.weight.is_meta:
        if not raw.get("tie_word_embeddings", False):
            raise ModelError(f"{folder} lacks the weight 'lm_head.weight'")
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    body = decoder.model
    body.rotary_emb = type(body.rotary_emb)(decoder.config).to(device)
    assert body.rotary_emb.inv_freq.dtype == torch.float32
    leftover = [n for n, t in decoder.named_buffers() if t.is_meta]
    assert not leftover, f"buffers without values: {leftover}"


def _refuse_lack_of_newline(newline: nn.ParameterDict, layout: FrameLayout, folder: Path) -> None:
    """Raises `ModelError` where the newline row is read and the checkpoint has none."""
    if any(row.is_meta for row in newline.values()):
        raise ModelError(
            f"{folder} lacks the weight {_NEWLINE_NAME!r}, which mm_newline_position = "
            f"{layout.newline!r} needs"
        )


def _append_newline(decoder: Any, newline: Tensor | None, tokenizer: Any) -> int:
    """Puts the newline row at the end of the decoder's table; gives its token id."""
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


def _rename(name: str, *, tower: Tower, has_newline: bool) -> tuple[str, str] | None:
    """A tensor's name in the checkpoint -> (part, name in the transformers class)."""
    if name == _NEWLINE_NAME:
        return ("newline", "row") if has_newline else None
    if name.startswith(_UNUSED_PREFIXES) or name.endswith("rotary_emb.inv_freq"):
        return None
    if name.startswith(_TOWER_PREFIX):
        own = tower.rename(name.removeprefix(_TOWER_PREFIX))
        return None if own is None else ("tower", own)
    if name.startswith(_PROJECTOR_PREFIX):
        return "projector", name.removeprefix(_PROJECTOR_PREFIX)
    return "decoder", name


def _is_layer(part: str, name: str) -> bool:
    """Whether a weight belongs to one of the decoder's layers."""
    return part == "decoder" and name.startswith("model.layers.")


def _config_for_tokenizer(raw: Mapping[str, Any]) -> Any:
    """What the tokenizer is to take for config.json; None for that itself.

    It would read config.json as that of no known model, and stumble over a RoPE of no model.
    """
    if not (raw.get("rope_scaling") or raw.get("rope_parameters")):
        return None
    return PreTrainedConfig.from_dict({k: v for k, v in raw.items() if not k.startswith("rope_")})
