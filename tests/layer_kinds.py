"""Small random decoders with all kinds of layers, and weights harsh enough that a fault shows."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
_HEADS = {**SIZES, "head_dim": 16}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DELTA = {
    **_HEADS,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_LATENT = {
    **SIZES,
    **_EXPERTS,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "first_k_dense_replace": 2,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
_MAMBA = {
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 16,
    "n_routed_experts": 4,
    "moe_shared_expert_intermediate_size": 16,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
_GEMMA4 = {
    **_HEADS,
    "vocab_size_per_layer_input": 97,
    "global_head_dim": 32,
    "sliding_window": 10,
    "final_logit_softcapping": 30.0,
}
# Each with config and model of transformers, its sizes, and what those of the window may be.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3",
        {**_HEADS, "sliding_window": 10, "query_pre_attn_scalar": 16, "layer_types": _MIXED},
    ),
    "gemma4": (
        "Gemma4",
        {
            **_GEMMA4,
            **_EXPERTS,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "use_bidirectional_attention": "vision",
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
        },
    ),
    "gemma4_small": (
        "Gemma4",
        {
            **_GEMMA4,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 3,
            "hidden_size_per_layer_input": 8,
            "use_double_wide_mlp": True,
        },
    ),
    "mistral": ("Mistral", {**_HEADS, "sliding_window": 7}),
    "gpt_oss": (
        "GptOss",
        {**_HEADS, "sliding_window": 7, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "cohere2": ("Cohere2", {**_HEADS, "sliding_window": 7, "layer_types": _MIXED}),
    "exaone4": ("Exaone4", {**_HEADS, "sliding_window": 7, "layer_types": _MIXED}),
    "llama4": (
        "Llama4",
        {
            **_HEADS,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "attention_chunk_size": 24,
            "floor_scale": 16,
        },
    ),
    "deepseek_v3": ("DeepseekV3", _LATENT),
    "mistral4": ("Mistral4", _LATENT),
    "ministral3": ("Ministral3", _HEADS),
    "qwen3_5": ("Qwen3_5", _DELTA),
    "qwen3_5_moe": (
        "Qwen3_5Moe",
        {**_DELTA, **_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    ),
    "nemotron_h": (
        "NemotronH",
        {
            **{name: size for name, size in _HEADS.items() if name != "num_hidden_layers"},
            **_MAMBA,
            **_EXPERTS,
            "layers_block_type": ["mamba", "moe", "attention", "mamba", "mlp"],
        },
    ),
    "lfm2": (
        "Lfm2",
        {**SIZES, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    ),
    "lfm3": (
        "Lfm3",
        {
            **_HEADS,
            "layer_types": ["conv", "sliding_attention", "conv", "full_attention"],
            "sliding_window": 12,
        },
    ),
}
THREE_ROWS = ("qwen3_5", "qwen3_5_moe")


# Where rounding grows fastest with the weights; another processor may round otherwise.
_LESS_HARSH = ("gpt_oss", "qwen3_5", "qwen3_5_moe")


def build_kind(name: str, *, std: float = 0.25, **changes: Any) -> Any:
    """A decoder of `DECODERS`; ``changes`` are of its config."""
    if name in _LESS_HARSH:
        std *= 0.6
    prefix, sizes = DECODERS[name]
    config_class: Callable[..., Any] | None = getattr(transformers, f"{prefix}TextConfig", None)
    config_class = config_class or getattr(transformers, f"{prefix}Config")
    torch.manual_seed(0)
    decoder = getattr(transformers, f"{prefix}ForCausalLM")(config_class(**{**sizes, **changes}))
    with torch.no_grad():
        for path, parameter in decoder.named_parameters():
            if "dt_bias" in path:
                parameter.uniform_(-2, 1)
            elif "A_log" in path:
                parameter.uniform_(-3, 0.5)
            elif parameter.ndim > 1 or "sinks" in path:
                parameter.normal_(0, std)
            elif "q_norm" in path and prefix == "Gemma4":
                parameter.fill_(0.25)  # its scores are not divided, and rounding grows with them
        for path, buffer in decoder.named_buffers():
            if "layer_scalar" in path:
                buffer.uniform_(0.5, 1.5)
    decoder.set_attn_implementation("eager")
    return decoder.eval()


def token_ids_of(decoder: Any, num_tokens: int) -> torch.Tensor | None:
    """Ids of tokens, for a decoder whose layers get something of them; else None."""
    if not getattr(decoder.config, "hidden_size_per_layer_input", 0):
        return None
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, SIZES["vocab_size"], (num_tokens,), generator=generator)


def positions_of(name: str, num_tokens: int) -> torch.Tensor:
    """0, 1, 2, ..., for M-RoPE three rows that differ."""
    one = torch.arange(num_tokens)
    return torch.stack([one, one // 2, one // 3]) if name in THREE_ROWS else one
