"""The attention mass of watched tokens against a plain softmax: the model's own attention."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vniah.errors import ModelError
from vniah.forward.kinds.base import LayerMemory
from vniah.forward.kinds.choosing import kinds_of, open_cache
from vniah.forward.kv_cache import Layout, Span
from vniah.forward.prefill import prefill
from vniah.forward.suffixes import WATCHES_NOTHING, SuffixRows, Watched

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 2,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CHUNKED = {
    "layer_types": ["chunked_attention", "full_attention"],
    "attention_chunk_size": 32,
    "intermediate_size_mlp": 48,
    "num_local_experts": 2,
    "no_rope_layers": [1, 0],
    "floor_scale": 16,
    "attn_temperature_tuning": True,
}
BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
DECODERS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"use_sliding_window": False}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 24}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"sliding_window": 20, **BOTH}),
    "sinks": (GptOssConfig, GptOssForCausalLM, {"sliding_window": 20, **BOTH, **EXPERTS}),
    "latent": (DeepseekV3Config, DeepseekV3ForCausalLM, LATENT),
    "chunked": (Llama4TextConfig, Llama4ForCausalLM, CHUNKED),
    "recurrent": (Lfm2Config, Lfm2ForCausalLM, LINEAR),
}
PAST, STOP, LENGTH, ROWS = 40, 70, 83, 3  # tokens of an earlier pass, with the main rows, in all
WATCHED = {
    "past": [Span(11, 19)],
    "main": [Span(45, 53)],
    "suffix": [Span(72, 76)],
    "across all borders": [Span(36, 74)],
    "up to the rows that are read": [Span(70, 83)],
    "at the edge of a window": [Span(57, 66)],
    "two spans": [Span(3, 5), Span(66, 71)],
    "all tokens": [Span(0, 83)],
}


def build(name):
    config_class, model_class, own = DECODERS[name]
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **own}, attn_implementation="eager")
    decoder = model_class(config).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(0, 0.3)
    return decoder


def embeddings(num_tokens=LENGTH):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_tokens, SIZES["hidden_size"], generator=generator)


def plain_mass(decoder, embeds, spans, num_rows=ROWS, **given):
    """From the model's own attention weights, ``[layers, heads, rows]``; NaN without attention."""
    with torch.inference_mode():
        found = decoder(
            inputs_embeds=embeds[None], use_cache=False, output_attentions=True, **given
        )
    weights = iter(found.attentions)
    masses = []
    for kind in kinds_of(decoder.model):
        if kind.heads is None:
            masses.append(torch.full((SIZES["num_attention_heads"], num_rows), torch.nan))
        else:
            rows = next(weights)[0, :, -num_rows:]
            masses.append(sum(rows[..., slice(*span)].sum(-1) for span in spans))
    return torch.stack(masses)


def watch(decoder, embeds, suffixes, *, past=PAST, stop=STOP, images=(), chunk_size=17):
    """The mass of each suffix, where the tokens before ``past`` were another pass."""
    caches, positions = [], torch.arange(len(embeds))
    if past:
        layout = Layout.whole(0, past)
        caches = [open_cache(decoder.model, layout, ends=[past], like=embeds, kv_location="device")]
        prefill(decoder, embeds[:past].clone(), positions[:past], [], cache=caches[0])
    found = {}
    logits = prefill(
        decoder,
        embeds[past:stop].clone(),
        positions[past:stop],
        suffixes,
        past=caches,
        images=images,
        chunk_size=chunk_size,
        on_watched=found.__setitem__,
    )
    assert len(logits) == len(suffixes)
    assert all(len(mass) == 1 for mass in found.values())
    return {number: mass[0] for number, mass in found.items()}


def suffix(embeds, start, spans, *, stop=LENGTH, num_rows=ROWS):
    rows, positions = embeds[start:stop].clone(), torch.arange(start, stop)
    return SuffixRows(
        (Span(0, start),), rows, positions, 1, watched=Watched((tuple(spans),), num_rows)
    )


@pytest.mark.parametrize("name", DECODERS)
def test_mass_is_that_of_the_models_own_attention_weights(name):
    decoder, embeds = build(name), embeddings()
    for where, spans in WATCHED.items():
        expected = plain_mass(decoder, embeds, spans)
        for past, stop in ((PAST, STOP), (0, STOP), (0, LENGTH - ROWS)):
            mass = watch(decoder, embeds, [suffix(embeds, stop, spans)], past=past, stop=stop)[0]
            torch.testing.assert_close(
                mass, expected, atol=1e-5, rtol=1e-4, equal_nan=True, msg=f"{where}, {past}, {stop}"
            )


def test_layers_differ_in_what_they_see():
    embeds = embeddings()
    far = [suffix(embeds, STOP, WATCHED["past"])]
    mass = {name: watch(build(name), embeds, far)[0] for name in DECODERS}
    assert (mass["mistral"] == 0).all()  # a window of 24 tokens begins behind them
    assert (mass["gemma3"][0] == 0).all() and (mass["gemma3"][1] > 0).all()
    assert (mass["chunked"][0] == 0).all() and (mass["chunked"][1] > 0).all()
    assert mass["recurrent"][0].isnan().all() and (mass["recurrent"][1] > 0).all()
    everything = watch(build("sinks"), embeds, [suffix(embeds, STOP, WATCHED["all tokens"])])[0]
    assert (everything < 1).all()  # the rest is the sink's


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "latent", "recurrent"])
def test_suffixes_of_one_pass_are_as_each_by_itself(name):
    decoder, embeds = build(name), embeddings()
    many = [
        replace(suffix(embeds, 50, []), watched=WATCHES_NOTHING),
        suffix(embeds, 60, WATCHED["main"], stop=66, num_rows=2),
        suffix(embeds, 60, WATCHED["past"], stop=66, num_rows=1),
        suffix(embeds, 60, [Span(45, 53), Span(62, 64)], stop=71),
        suffix(embeds, STOP, WATCHED["main"]),
    ]
    found = watch(decoder, embeds, many)
    assert sorted(found) == [1, 2, 3, 4]
    for number, mass in found.items():
        one = many[number]
        stop = one.start + len(one.hidden)
        expected = plain_mass(decoder, embeds[:stop], *one.watched.groups, one.watched.num_rows)
        torch.testing.assert_close(mass, expected, atol=1e-5, rtol=1e-4, equal_nan=True)
        alone = watch(decoder, embeds, [one], past=0, stop=one.start)[0]
        torch.testing.assert_close(mass, alone, atol=1e-6, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "latent"])
def test_mass_is_the_same_however_few_scores_are_held_at_once(name, monkeypatch):
    decoder, embeds = build(name), embeddings()
    asked = [suffix(embeds, STOP, WATCHED[where]) for where in ("across all borders", "all tokens")]
    expected = watch(decoder, embeds, asked)
    for most in (1, 4 * ROWS * 7, 4 * ROWS * 40):
        monkeypatch.setattr("vniah.forward.watching._MOST_SCORES", most)
        for number, mass in watch(decoder, embeds, asked).items():
            torch.testing.assert_close(mass, expected[number], atol=1e-6, rtol=1e-5)


def test_groups_of_tokens_have_masses_of_their_own():
    decoder, embeds = build("gemma3"), embeddings()
    groups = (tuple(WATCHED["past"]), tuple(WATCHED["across all borders"]), ())
    one = replace(suffix(embeds, STOP, []), watched=Watched(groups, ROWS))
    two = replace(suffix(embeds, STOP, []), watched=Watched(groups[1:2], 2))
    found = {}
    prefill(
        decoder,
        embeds[:STOP].clone(),
        torch.arange(STOP),
        [one, two],
        on_watched=found.__setitem__,
    )
    expected = torch.stack([plain_mass(decoder, embeds, spans) for spans in groups[:2]])
    torch.testing.assert_close(found[0][:2], expected, atol=1e-5, rtol=1e-4)
    assert (found[0][2] == 0).all()
    torch.testing.assert_close(found[1], expected[1:, ..., 1:], atol=1e-5, rtol=1e-4)


def test_images_that_see_themselves_change_the_mass():
    decoder, embeds = build("gemma3"), embeddings()
    images = [Span(8, 14), Span(44, 54)]
    tokens = torch.arange(LENGTH)
    together = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    for image in images:
        together[slice(*image), slice(*image)] = True
    causal = tokens[:, None] >= tokens
    near = tokens[:, None] - tokens < 20
    seen = {"full_attention": causal | together, "sliding_attention": (causal & near) | together}
    masks = {
        name: torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~mask, torch.finfo(torch.float32).min)
        for name, mask in seen.items()
    }
    for spans in ([images[0]], [images[1]], [Span(44, 47)], [Span(50, 71)]):
        expected = plain_mass(decoder, embeds, spans, attention_mask=masks)
        asked = [suffix(embeds, STOP, spans)]
        mass = watch(decoder, embeds, asked, images=images, past=0)[0]
        torch.testing.assert_close(mass, expected, atol=1e-5, rtol=1e-4)
        unaware = watch(decoder, embeds, asked, past=0)[0]
        assert (unaware - expected).abs().max() > 1e-3


def test_logits_are_the_same_to_the_bit_when_attention_is_watched():
    decoder, embeds = build("gemma3"), embeddings()
    positions = torch.arange(STOP)
    asked = [suffix(embeds, STOP, WATCHED["main"])]
    (one,) = prefill(decoder, embeds[:STOP].clone(), positions, asked, on_watched=lambda *_: None)
    (other,) = prefill(decoder, embeds[:STOP].clone(), positions, asked)
    assert torch.equal(one, other)


def test_half_precision_gives_the_mass_of_its_own_scores():
    decoder, embeds = build("qwen2").to(torch.bfloat16), embeddings().to(torch.bfloat16)
    spans = WATCHED["main"]
    mass = watch(decoder, embeds, [suffix(embeds, STOP, spans)])[0]
    expected = plain_mass(decoder, embeds, spans).float()
    assert mass.dtype == torch.float32
    assert (mass - expected).abs().max() < 0.05  # the plain weights are rounded, and so are hiddens


def test_a_memory_that_does_not_give_its_keys_is_refused():
    with pytest.raises(ModelError, match="leave out --trace-attention"):
        LayerMemory.keys_between(object(), 0, 1)  # type: ignore[arg-type]
