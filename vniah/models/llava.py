"""LongVA and LLaVA-NeXT checkpoint folders on plain transformers classes.

Read: ``model_type`` llava_qwen, llava_mistral and llava_llama with a CLIP tower and a two-layer
GELU projector, in safetensors. A frame is encoded as UniRes does it (Zhang et al. 2024, section
3.2): pad to a square, CLIP features of the configured layer without the class token, projector,
2x2 average pooling; 576 patches of LongVA-7B's tower become 144 tokens.

Where weights lie in the checkpoint:

    model.vision_tower.vision_tower.vision_model.*   the CLIP tower, fine-tuned: never the stock one
    model.mm_projector.{0,2}.{weight,bias}           Linear, GELU, Linear
    model.embed_tokens, model.layers.*, ..., lm_head the decoder
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    logging,
)

try:
    # The one that computes with Pillow, as the published runs did, and alike on every machine.
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:  # transformers before it had two
    from transformers import CLIPImageProcessor

from vniah.errors import ModelError, first_line
from vniah.models.checkpoints import fingerprint, load_weights, read_config, stored_dtype
from vniah.models.prompts import choose_template, find_template, question_line
from vniah.models.protocol import FrameSegment, TextSegment, TokenSequence

ADAPTER_VERSION = "1"  # part of every cache's identity: raise it when encoded frames change

_DECODERS: Mapping[str, tuple[type[Any], type[Any], str]] = {
    "llava_qwen": (Qwen2Config, Qwen2ForCausalLM, "qwen2"),
    "llava_mistral": (MistralConfig, MistralForCausalLM, "mistral"),
    "llava_llama": (LlamaConfig, LlamaForCausalLM, "vicuna"),
}
MODEL_TYPES = tuple(_DECODERS)

_TOWER_PREFIX = "model.vision_tower.vision_tower."
_PROJECTOR_PREFIX = "model.mm_projector."
# image_newline is there in "unpad" checkpoints; video frames do not use it.
_UNUSED_PREFIXES = ("model.image_newline", "model.vision_resampler.")
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
_POOLING = 2

# The published tower's shape, so that a checkpoint that names it needs nothing but itself.
_KNOWN_TOWERS: Mapping[str, Mapping[str, Any]] = {
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
}


class LlavaModel:
    """A LongVA / LLaVA-NeXT checkpoint; satisfies `vniah.models.protocol.DecoderModel`.

    Make one with `load`.

    Attributes:
        name: hub id, folder or embedded name, e.g. ``"lmms-lab/LongVA-7B"``.
        revision: a hash over its files, or the hub's commit.
        frame_shape: ``(tokens, hidden size)`` of one frame, e.g. ``(144, 3584)``.
        decoder: the transformers causal language model.
        encoding: what else decides an encoded frame, for the cache's identity.
        settings: what else decides the logits, for the manifest.
        stop_ids: tokens with which its answers end.
    """

    def __init__(
        self,
        *,
        name: str,
        revision: str,
        decoder: Any,
        tower: Any,
        projector: nn.Sequential,
        processor: Any,
        tokenizer: Any,
        template: str,
        feature_layer: int,
        stop_ids: tuple[int, ...],
    ) -> None:
        self.name = name
        self.revision = revision
        self.decoder = decoder
        self._tower = tower
        self._projector = projector
        self._processor = processor
        self._tokenizer = tokenizer
        self._template = find_template(template)
        self._feature_layer = feature_layer
        side = tower.config.image_size // tower.config.patch_size
        self.frame_shape: tuple[int, ...] = (
            (side // _POOLING) ** 2,
            int(decoder.config.hidden_size),
        )
        self.encoding = {
            "adapter": f"llava {ADAPTER_VERSION}",
            "preprocessing": f"pad to square, {tower.config.image_size} px, "
            f"layer {feature_layer}, {_POOLING}x{_POOLING} average pooling",
        }
        self.settings = {
            "prompt_template": template,
            "rope_theta": float(decoder.config.rope_parameters["rope_theta"]),
        }
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
        template: str | None = None,
    ) -> "LlavaModel":
        """The model in a checkpoint folder.

        Args:
            folder: where config.json, safetensors and tokenizer files lie.
            name: for titles and manifests.
            revision: what tells its versions apart; by default a hash over its files.
            dtype: of the weights; by default as stored.
            device: where it runs; by default the CPU.
            rope_theta: a RoPE base to use instead of the checkpoint's.
            template: name of a prompt template; by default the one that the checkpoint's family
                was trained with.

        Raises:
            ModelError: something is missing or does not fit; the message names it.
        """
        raw = read_config(folder)
        _refuse_unread(raw, folder)
        dtype = dtype or stored_dtype(folder)
        device = device or torch.device("cpu")
        config_class, model_class, usual_template = _DECODERS[raw["model_type"]]
        tower_config, processor = _load_tower_config(raw, folder)
        feature_layer = _find_feature_layer(raw, folder, num_layers=tower_config.num_hidden_layers)
        with torch.device("meta"), _reported(folder):
            decoder = model_class(_decoder_config(raw, config_class, rope_theta))
            tower = CLIPVisionModel(tower_config)
            width = decoder.config.hidden_size
            projector = nn.Sequential(
                nn.Linear(tower_config.hidden_size, width), nn.GELU(), nn.Linear(width, width)
            )
        load_weights(
            folder,
            {"decoder": decoder, "tower": tower, "projector": projector},
            rename=_rename,
            dtype=dtype,
            device=device,
            optional=frozenset({"decoder.lm_head.weight"}),
        )
        _finish_decoder(decoder, raw, folder, device)
        tokenizer = _load_tokenizer(folder)
        embeddings = (getattr(tower, "vision_model", tower)).embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
        return cls(
            name=name,
            revision=revision or fingerprint(folder),
            decoder=decoder,
            tower=tower,
            projector=projector,
            processor=processor,
            tokenizer=tokenizer,
            template=choose_template(template, usual_template, tokenizer),
            feature_layer=feature_layer,
            stop_ids=_find_stop_ids(raw, folder, tokenizer),
        )

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
        squares = [self._pad_to_square(frame) for frame in frames]
        pixels = self._processor(images=squares, return_tensors="pt")["pixel_values"]
        output = self._tower(
            pixel_values=pixels.to(self.device, self.dtype), output_hidden_states=True
        )
        patches = self._projector(output.hidden_states[self._feature_layer][:, 1:])
        side = int(patches.shape[1] ** 0.5)
        grid = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        pooled = nn.functional.avg_pool2d(grid, _POOLING)
        return pooled.flatten(2).transpose(1, 2).contiguous()

    def compose(self, frames: Sequence[FrameSegment], question: str, answer: str) -> TokenSequence:
        """Opening, frames, question and closing of the prompt template; the answer's tokens."""
        opening = TextSegment(self._tokenize(self._template.opening))
        asked = self._tokenize(question_line(question)) + self._tokenize(self._template.closing)
        return TokenSequence((opening, *frames, TextSegment(asked)), self._tokenize(answer))

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """0, 1, 2, ...: ``[num_tokens]``."""
        return torch.arange(sequence.num_tokens(self.frame_shape[0]), device=self.device)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(token_ids))).strip()

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _pad_to_square(self, frame: np.ndarray) -> Image.Image:
        """The frame in the middle of a square of the tower's mean colour."""
        height, width = frame.shape[:2]
        image = Image.fromarray(frame)
        if height == width:
            return image
        side = max(height, width)
        mean = tuple(int(255 * channel) for channel in self._processor.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        return square


def _refuse_unread(raw: Mapping[str, Any], folder: Path) -> None:
    """Names what this adapter would read wrongly."""
    expected: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
        "mm_projector_type": ("mlp2x_gelu", ("mlp2x_gelu",)),
        "mm_vision_select_feature": ("patch", ("patch",)),
        "mm_resampler_type": (None, (None, "spatial_pool")),
        "mm_spatial_pool_mode": ("average", ("average", None)),
        "mm_spatial_pool_stride": (_POOLING, (_POOLING, None)),
        "mm_use_im_start_end": (False, (False, None)),
        "mm_use_im_patch_token": (False, (False, None)),
        "quantization_config": (None, (None,)),
        "rope_scaling": (None, (None,)),
    }
    for key, (default, readable) in expected.items():
        if raw.get(key, default) not in readable:
            raise ModelError(
                f"{folder}/config.json has {key} = {raw[key]!r}; this adapter reads {readable[0]!r}"
            )
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"{folder}/config.json scales RoPE by {rope['rope_type']!r}; this adapter reads the "
            "default kind only"
        )
    if not raw.get("mm_vision_tower"):
        raise ModelError(f"{folder}/config.json names no mm_vision_tower: it is a text model")


def _find_stop_ids(raw: Mapping[str, Any], folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end an answer: those of the configurations, and the tokenizer's."""
    found, name = [tokenizer.eos_token_id], "generation_config.json"
    for config in (raw, read_config(folder, name) if (folder / name).is_file() else {}):
        ids = config.get("eos_token_id")
        found += ids if isinstance(ids, list) else [ids]
    if unknown := [token for token in found if not isinstance(token, int | None)]:
        raise ModelError(f"{folder} has eos_token_id = {unknown[0]!r}; it must be a number")
    return tuple(sorted({token for token in found if token is not None}))


def _load_tower_config(raw: Mapping[str, Any], folder: Path) -> tuple[Any, Any]:
    """The tower's shape and its preprocessing: from a folder in the checkpoint, or by its name."""
    tower = str(raw["mm_vision_tower"])
    inside = folder / tower
    if inside.is_dir():
        config = CLIPVisionConfig.from_pretrained(inside)
        return config, CLIPImageProcessor.from_pretrained(inside)
    if tower not in _KNOWN_TOWERS:
        raise ModelError(
            f"{folder}/config.json names the vision tower {tower!r}; this adapter knows "
            f"{', '.join(_KNOWN_TOWERS)} and towers whose config.json lies in the checkpoint"
        )
    config = CLIPVisionConfig(**_KNOWN_TOWERS[tower])
    size = config.image_size
    processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    return config, processor


def _find_feature_layer(raw: Mapping[str, Any], folder: Path, *, num_layers: int) -> int:
    """Which of the tower's hidden states are the features, usually -2."""
    layer = raw.get("mm_vision_select_layer", -2)
    if type(layer) is not int:
        raise ModelError(
            f"{folder}/config.json has mm_vision_select_layer = {layer!r}; it must be a number"
        )
    if not -num_layers <= layer <= num_layers:
        raise ModelError(
            f"{folder}/config.json takes layer {layer} of a vision tower that has {num_layers}"
        )
    return layer


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Turns what transformers says of impossible sizes into one line."""
    try:
        yield
    except (ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(f"{folder}/config.json describes no model: {first_line(error)}") from error


def _decoder_config(
    raw: Mapping[str, Any], config_class: type[Any], rope_theta: float | None
) -> Any:
    """The decoder's configuration, out of the checkpoint's flat one."""
    values = {
        key: value
        for key, value in raw.items()
        if key not in _NOT_FOR_THE_DECODER and not key.startswith(_DECODER_FOREIGN_PREFIXES)
    }
    if config_class is MistralConfig:
        values["sliding_window"] = None  # these checkpoints were trained and published without
    config = config_class(**values)
    stored = raw.get("rope_theta") or (raw.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    config.rope_parameters = {"rope_type": "default", "rope_theta": float(rope_theta or stored)}
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


def _rename(name: str) -> tuple[str, str] | None:
    """A tensor's name in the checkpoint -> (part, name in the transformers class)."""
    if name.startswith(_UNUSED_PREFIXES):
        return None
    if name.startswith(_TOWER_PREFIX):
        own = name.removeprefix(_TOWER_PREFIX)
        if own.endswith("embeddings.position_ids"):
            return None  # older transformers stored this buffer
        # transformers 5 dropped the vision_model level
        return "tower", own.removeprefix("vision_model.")
    if name.startswith(_PROJECTOR_PREFIX):
        return "projector", name.removeprefix(_PROJECTOR_PREFIX)
    if name.endswith("rotary_emb.inv_freq"):
        return None
    return "decoder", name


def _load_tokenizer(folder: Path) -> Any:
    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder} has no tokenizer files (tokenizer.json and the like)")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that it does not know the model_type
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(error)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
