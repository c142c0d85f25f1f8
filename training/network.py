"""The three parts of the reference model as plain transformers and torch modules."""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from training.recipe import RECIPE
from training.tokens import END, PAD, vocabulary


def make_tower() -> CLIPVisionModel:
    """The vision tower, untrained."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=RECIPE.width,
            intermediate_size=RECIPE.mlp_width,
            num_hidden_layers=RECIPE.tower_layers,
            num_attention_heads=RECIPE.num_heads,
            image_size=RECIPE.image_side,
            patch_size=RECIPE.patch_side,
            projection_dim=64,
            hidden_act="gelu",
        )
    )


def patch_features(tower: CLIPVisionModel, pictures: Tensor) -> Tensor:
    """Last hidden states without the class token: uint8 [n, side, side, 3] to [n, 16, width]."""
    pixels = (pictures.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def make_projector() -> nn.Sequential:
    """Two layers with GELU; indices as in LLaVA's ``mm_projector``."""
    width = RECIPE.width
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


def project(projector: nn.Module, features: Tensor) -> Tensor:
    """UniRes: projects every patch, then averages 2 x 2: [..., 16, width] to [..., 4, width]."""
    projected = projector(features)
    *batch, patches, width = projected.shape
    half = int(patches**0.5) // 2
    grid = projected.reshape(*batch, half, 2, half, 2, width)
    return grid.mean((-4, -2)).reshape(*batch, half * half, width)


def make_language_model() -> Qwen2ForCausalLM:
    """The decoder, untrained."""
    words = vocabulary()
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=RECIPE.width,
        intermediate_size=RECIPE.mlp_width,
        num_hidden_layers=RECIPE.language_layers,
        num_attention_heads=RECIPE.num_heads,
        num_key_value_heads=RECIPE.num_heads,
        max_position_embeddings=RECIPE.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": RECIPE.rope_theta},
        tie_word_embeddings=True,
        initializer_range=RECIPE.language_init_std,
        use_cache=False,
        bos_token_id=words.index(PAD),
        eos_token_id=words.index(END),
        pad_token_id=words.index(PAD),
    )
    return Qwen2ForCausalLM(config)


def read(model: Qwen2ForCausalLM, opening: Tensor, frames: Tensor, conversation: Tensor) -> Tensor:
    """Hidden states of the conversation, [batch, length, width].

    Args:
        model: the decoder.
        opening: ids of the text before the frames, [opening_length].
        frames: projected frames, [batch, num_frames, 4, width].
        conversation: ids of the text after them, [batch, length].
    """
    embed = model.model.embed_tokens
    before = embed(opening).expand(frames.shape[0], -1, -1)
    embeds = torch.cat([before, frames.flatten(1, 2), embed(conversation)], dim=1)
    hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    return hidden[:, -conversation.shape[1] :]
