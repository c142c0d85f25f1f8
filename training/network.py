"""The three parts of a reference model as plain transformers and torch modules."""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from training.recipe import RECIPE
from training.tokens import END, PAD, vocabulary

_OFFSETS = (1, 2, 3, 4)  # as many as heads


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


def pool(features: Tensor) -> Tensor:
    """Averages 2 x 2 patches: [..., 16, width] to [..., 4, width]."""
    *batch, patches, width = features.shape
    half = int(patches**0.5) // 2
    grid = features.reshape(*batch, half, 2, half, 2, width)
    return grid.mean((-4, -2)).reshape(*batch, half * half, width)


def make_projector() -> nn.Sequential:
    """Two layers with GELU; indices as in LLaVA's ``mm_projector``."""
    width = RECIPE.width
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


def project(projector: nn.Module, features: Tensor) -> Tensor:
    """UniRes: projects every patch, then averages 2 x 2: [..., 16, width] to [..., 4, width]."""
    return pool(projector(features))


def flatten_across(grids: Tensor, *, columns: int) -> Tensor:
    """AnyRes: the rows of all grids of an image, one after the other.

    Args:
        grids: projected grids of every image, [batch, grids, 4, width], row by row.
        columns: how many grids lie side by side.

    Returns:
        [batch, grids * 4, width].
    """
    batch, count, tokens, width = grids.shape
    side = int(tokens**0.5)
    split = grids.reshape(batch, count // columns, columns, side, side, width)
    return split.transpose(2, 3).reshape(batch, count * tokens, width)


def make_language_model(rope_theta: float) -> Qwen2ForCausalLM:
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
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=True,
        initializer_range=RECIPE.language_init_std,
        use_cache=False,
        bos_token_id=words.index(PAD),
        eos_token_id=words.index(END),
        pad_token_id=words.index(PAD),
    )
    model = Qwen2ForCausalLM(config)
    _let_positions_decide(model)
    look_back(model, strength=RECIPE.look_back_strength)
    _compare_alike(model)
    return model


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM, *, strength: float, steepness: float = 0.0) -> None:
    """Makes each head of the first layer look at one of the last four tokens.

    Rotary position embedding lets the biases of queries and keys alone prefer one distance; which
    biases do so depends on its base.

    Args:
        model: its biases are changed in place.
        strength: how strongly a frequency prefers the distance.
        steepness: how much less slow frequencies count, as a power of the frequency. They are what
            a raised base changes: with 1, the heads go on looking at the same tokens.
    """
    config, attention = model.config, model.model.layers[0].self_attn
    width = RECIPE.width // RECIPE.num_heads
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(0, width, 2) / width)
    size = (strength * width**0.5 * frequencies**steepness) ** 0.5
    for head, offset in enumerate(_OFFSETS):
        rows = slice(head * width, (head + 1) * width)
        angle = offset * frequencies
        attention.q_proj.bias[rows] = torch.cat([size, torch.zeros_like(size)])
        attention.k_proj.bias[rows] = torch.cat([size * angle.cos(), size * angle.sin()])


@torch.no_grad()
def _let_positions_decide(model: Qwen2ForCausalLM) -> None:
    """What the first layer looks at starts out depending on distance, hardly on what stands there.

    All heads write to the same place: together with `look_back`, a token starts out knowing which
    words stand before it, in any order. Without this start the model answers from the kind of
    question for thousands of steps.
    """
    attention = model.model.layers[0].self_attn
    width = RECIPE.width // RECIPE.num_heads
    attention.q_proj.weight *= 0.1
    attention.k_proj.weight *= 0.1
    attention.v_proj.weight.copy_(attention.v_proj.weight[:width].repeat(RECIPE.num_heads, 1))
    attention.o_proj.weight.copy_(attention.o_proj.weight[:, :width].repeat(1, RECIPE.num_heads))


@torch.no_grad()
def _compare_alike(model: Qwen2ForCausalLM) -> None:
    """Later layers start with keys equal to queries: tokens look for tokens like themselves.

    After Trockman and Kolter (2023), "Mimetic Initialization of Self-Attention Layers".
    """
    for layer in model.model.layers[1:]:
        queries = layer.self_attn.q_proj.weight
        queries *= RECIPE.similarity_scale
        layer.self_attn.k_proj.weight.copy_(queries)
