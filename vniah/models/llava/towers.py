"""The vision towers of LLaVA checkpoints, CLIP and SigLIP: they encode a frame as patches.

    CLIP     frame padded to a square in the tower's mean colour (Zhang et al. 2024, section 3.2);
             the configured layer, without the class token
    SigLIP   frame scaled to a square, whatever its shape; the last layer but one, whatever is
             configured; there is no class token

The code of LLaVA-NeXT (``llava/model/multimodal_encoder/siglip_encoder.py``) throws SigLIP's last
layer and its pooling head away when it loads a tower, so its checkpoints hold neither.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

try:
    # The variants that compute with Pillow: as in the published runs, and equal on every machine.
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
    from transformers import SiglipImageProcessorPil as SiglipImageProcessor
except ImportError:  # transformers before it had two
    from transformers import CLIPImageProcessor, SiglipImageProcessor

from vniah.errors import ModelError, quoted
from vniah.models.checkpoints import reported
from vniah.models.configs import read_config
from vniah.models.contents import require_preprocessing, tower_folder
from vniah.models.padding import pad_to_square
from vniah.models.preprocessing import as_pictures, require_small_pictures

# The sizes of the published towers, so that a checkpoint that only names one can be loaded offline.
_KNOWN_CLIP: Mapping[str, Mapping[str, Any]] = {
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
_KNOWN_SIGLIP: Mapping[str, Mapping[str, Any]] = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}

_ENCODER_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Tower:
    """A vision tower with its preprocessing. Make one with `build_tower`.

    Attributes:
        module: the transformers vision model; ``build_tower`` leaves it without weights.
        processor: the transformers image processor.
        feature_layer: which of the hidden states are the features; for SigLIP the last ones.
        is_siglip: its family: SigLIP, else CLIP.
    """

    module: Any
    processor: Any
    feature_layer: int
    is_siglip: bool

    @property
    def image_size(self) -> int:
        """Side of the pictures that it reads, in pixels."""
        return int(self.module.config.image_size)

    @property
    def side(self) -> int:
        """Patches in a row of its grid."""
        config = self.module.config
        return int(config.image_size // config.patch_size)

    @property
    def hidden_size(self) -> int:
        """Size of a patch's features."""
        return int(self.module.config.hidden_size)

    @property
    def description(self) -> str:
        """What the patches depend on besides the weights; part of a cache's identity."""
        shape = "resize to square" if self.is_siglip else "pad to square"
        return f"{shape}, {self.module.config.image_size} px, layer {self.feature_layer}"

    def patches(self, frames: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
        """The features of all patches: ``[num_frames, side * side, hidden_size]``.

        Args:
            frames: RGB uint8 ``[height, width, 3]``, of any sizes.
            dtype: of the module's weights.
        """
        pixels = self._pixels(frames).to(self.module.device, dtype)
        if self.is_siglip:
            # Not by the model's forward, which normalises what its last layer gives.
            body = getattr(self.module, "vision_model", self.module)
            features: Tensor = body.encoder(inputs_embeds=body.embeddings(pixels))[0]
            return features
        states = self.module(pixel_values=pixels, output_hidden_states=True).hidden_states
        without_class: Tensor = states[self.feature_layer][:, 1:]
        return without_class

    def pictures(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The frames as the tower gets them, scaled and padded: RGB uint8 ``[side, side, 3]``."""
        return as_pictures(self._pixels(frames), self.processor)

    def _pixels(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Normalized pixels, ``[num_frames, 3, image_size, image_size]``."""
        images = [Image.fromarray(frame) for frame in frames]
        if not self.is_siglip:
            images = [pad_to_square(image, self.processor.image_mean) for image in images]
        pixels: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels

    def rename(self, name: str) -> str | None:
        """The name in `module` for a tensor's name in the checkpoint's tower; None to skip it.

        Args:
            name: such as ``"vision_model.encoder.layers.0.mlp.fc1.weight"``.
        """
        if name.endswith("embeddings.position_ids"):
            return None  # older transformers stored this buffer
        own = name.removeprefix("vision_model.")  # transformers 5 dropped this level
        if self.is_siglip:
            layer = _ENCODER_LAYER.match(own)
            is_last = layer and int(layer[1]) == self.module.config.num_hidden_layers
            if is_last or own.startswith("head."):
                return None  # a tower that was saved whole
        return own

    def finish(self, device: torch.device) -> None:
        """Sets the buffer that no checkpoint holds; called when the weights are loaded."""
        embeddings = getattr(self.module, "vision_model", self.module).embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


def build_tower(raw: Mapping[str, Any], folder: Path) -> Tower:
    """The tower that a checkpoint names: one in a folder inside it, or a published one.

    Args:
        raw: the content of the checkpoint's config.json.
        folder: the checkpoint's folder.

    Raises:
        ModelError: the tower is not known, or its files cannot be read.
    """
    name = raw.get("mm_vision_tower")
    if not name:
        raise ModelError(f"{folder}/config.json names no mm_vision_tower: it is a text model")
    inside = tower_folder(folder, name)
    if inside is not None:
        is_siglip = _holds_siglip(inside)
        config, processor = _read_tower(inside, is_siglip)
    elif name in _KNOWN_CLIP:
        is_siglip, config = False, CLIPVisionConfig(**_KNOWN_CLIP[name])
        size = config.image_size
        processor = CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
    elif name in _KNOWN_SIGLIP:
        is_siglip, config = True, SiglipVisionConfig(**_KNOWN_SIGLIP[name])
        size = config.image_size
        processor = SiglipImageProcessor(size={"height": size, "width": size})
    else:
        raise ModelError(
            f"{folder}/config.json names the vision tower {quoted(name, 80)}; vniah knows "
            f"{', '.join((*_KNOWN_CLIP, *_KNOWN_SIGLIP))} and towers whose config.json lies in "
            "the checkpoint"
        )
    if is_siglip:
        return _build_siglip(config, processor, inside or folder)
    layer = _find_feature_layer(raw, folder, num_layers=config.num_hidden_layers)
    with torch.device("meta"):
        return Tower(CLIPVisionModel(config), processor, layer, is_siglip=False)


def _build_siglip(config: Any, processor: Any, folder: Path) -> Tower:
    """A SigLIP tower without the last of the layers that its configuration describes."""
    if config.num_hidden_layers < 2:
        raise ModelError(
            f"{folder} describes a SigLIP tower of {config.num_hidden_layers} layer; its last "
            "layer is not used, so it needs two"
        )
    size, side = processor.size, config.image_size
    if (size["height"], size["width"]) != (side, side):
        raise ModelError(
            f"{folder} describes a SigLIP tower for pictures of {side} px, and preprocessing to "
            f"{size['height']} x {size['width']} px"
        )
    config.num_hidden_layers -= 1
    config.vision_use_head = False
    with torch.device("meta"):
        return Tower(SiglipVisionModel(config), processor, -1, is_siglip=True)


def _holds_siglip(folder: Path) -> bool:
    """True if a tower's folder holds SigLIP; its config.json may describe vision and text."""
    return read_config(folder).get("model_type") in ("siglip", "siglip_vision_model")


def _read_tower(folder: Path, is_siglip: bool) -> tuple[Any, Any]:
    """The configuration and the image processor in a tower's folder."""
    config_class = SiglipVisionConfig if is_siglip else CLIPVisionConfig
    processor_class = SiglipImageProcessor if is_siglip else CLIPImageProcessor
    require_preprocessing(folder)
    with reported(folder, "the vision tower in"):
        config = config_class.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        processor = processor_class.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    require_small_pictures(str(folder), processor)
    return config, processor


def _find_feature_layer(raw: Mapping[str, Any], folder: Path, *, num_layers: int) -> int:
    """The index of the hidden states that are the features, usually -2."""
    layer: int = raw.get("mm_vision_select_layer", -2)
    if not -num_layers <= layer <= num_layers:
        raise ModelError(
            f"{folder}/config.json takes layer {layer} of a vision tower that has {num_layers}"
        )
    return layer
