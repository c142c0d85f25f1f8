"""The prefill against each decoder's own forward pass."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLTextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from vniah.errors import ModelError
from vniah.forward.kinds.choosing import open_cache
from vniah.forward.kv_cache import Layout, Span
from vniah.forward.prefill import answer_logits, prefill
from vniah.forward.suffixes import SuffixRows

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32, "num_key_value_heads": 1}),
}


class TextModelWithHead(torch.nn.Module):
    """What a multimodal model's parts make up: a text model that has no head of its own."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Qwen2VLTextModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, **inputs):
        return SimpleNamespace(logits=self.lm_head(self.model(**inputs).last_hidden_state))


FAMILIES["qwen2_vl"] = (
    Qwen2VLTextConfig,
    TextModelWithHead,
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
)


def build_decoder(family: str, **changes):
    config_class, model_class, own = FAMILIES[family]
    torch.manual_seed(0)
    decoder = model_class(config_class(**{**SIZES, **own, **changes})).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return decoder


def embeddings(num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, 64, generator=torch.Generator().manual_seed(num_tokens))


def plain_logits(decoder, embeds, num_rows):
    with torch.inference_mode():
        return decoder(inputs_embeds=embeds[None], use_cache=False).logits[0, -num_rows:]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("num_tokens", "num_rows", "chunk_size"),
    [
        (300, 3, 100),  # the chunks divide what is before the answer
        (300, 3, 99),
        (300, 3, 128),
        (300, 3, 1000),
        (300, 300, 64),  # all rows are read
        (257, 1, 256),
        (64, 5, 1),
        (2, 1, 2048),
        (1, 1, 1),
    ],
)
def test_walk_equals_the_plain_forward(family, num_tokens, num_rows, chunk_size):
    decoder = build_decoder(family)
    embeds = embeddings(num_tokens)
    expected = plain_logits(decoder, embeds, num_rows)
    logits = answer_logits(
        decoder, embeds.clone(), torch.arange(num_tokens), num_rows=num_rows, chunk_size=chunk_size
    )
    assert logits.shape == (num_rows, 97)
    assert (logits - expected).abs().max() < 1e-4
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("rope_type", ["dynamic", "linear"])
def test_walk_equals_the_plain_forward_where_rope_is_scaled(rope_type):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0}
    decoder = build_decoder("llama", rope_parameters=rope, max_position_embeddings=64)
    embeds = embeddings(200)
    expected = plain_logits(decoder, embeds, 2)
    logits = answer_logits(decoder, embeds.clone(), torch.arange(200), num_rows=2, chunk_size=50)
    assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("block", [1, 7, 64, 199, 1000])
@pytest.mark.parametrize("rope_type", ["default", "dynamic", "longrope"])
def test_angles_in_blocks_are_those_of_the_whole(rope_type, block, monkeypatch):
    """Some kinds of RoPE look at the last position of all, not at the last of a block."""
    monkeypatch.setattr("vniah.forward.rotation.ROPE_BLOCK", block)
    rope = {"rope_type": rope_type, "rope_theta": 1e4}
    if rope_type == "dynamic":
        rope["factor"] = 4.0
    elif rope_type == "longrope":
        factors = [1.0 + k / 10 for k in range(8)], [2.0 + k for k in range(8)]
        rope |= {"short_factor": factors[0], "long_factor": factors[1]}
        rope |= {"original_max_position_embeddings": 64}
    decoder = build_decoder("llama", rope_parameters=rope, max_position_embeddings=64)
    embeds = embeddings(200)
    expected = plain_logits(decoder, embeds, 2)
    logits = answer_logits(decoder, embeds.clone(), torch.arange(200), num_rows=2, chunk_size=50)
    assert (logits - expected).abs().max() < 1e-4


def test_walk_uses_the_positions_that_are_given():
    decoder = build_decoder("qwen2")
    embeds, positions = embeddings(80), torch.arange(80) * 3 + 5
    # without a mask transformers takes gaps in the positions for packed sequences
    with torch.inference_mode():
        expected = decoder(
            inputs_embeds=embeds[None],
            position_ids=positions[None],
            attention_mask=torch.ones(1, 80),
            use_cache=False,
        ).logits[0, -2:]
    logits = answer_logits(decoder, embeds.clone(), positions, num_rows=2, chunk_size=32)
    assert (logits - expected).abs().max() < 1e-4


def test_walk_in_bf16_is_as_near_to_fp32_as_the_plain_forward():
    decoder = build_decoder("qwen2")
    embeds = embeddings(200)
    exact = plain_logits(decoder, embeds, 20)
    half = build_decoder("qwen2", dtype=torch.bfloat16)
    half.model.layers.to(torch.bfloat16)
    half.model.norm.to(torch.bfloat16)
    half.lm_head.to(torch.bfloat16)
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    plain = plain_logits(half, embeds.bfloat16(), 20).float()
    prefilled = answer_logits(
        half, embeds.bfloat16(), torch.arange(200), num_rows=20, chunk_size=64
    )
    assert (prefilled - exact).abs().mean() < 1.5 * (plain - exact).abs().mean()


def test_attention_of_the_decoder_is_as_before_afterwards():
    decoder = build_decoder("qwen2")
    earlier = decoder.config._attn_implementation
    before = plain_logits(decoder, embeddings(20), 2)
    answer_logits(decoder, embeddings(20), torch.arange(20), num_rows=2)
    assert decoder.config._attn_implementation == earlier
    assert torch.equal(plain_logits(decoder, embeddings(20), 2), before)


def test_attention_is_put_back_after_an_error():
    decoder = build_decoder("qwen2")
    earlier = decoder.config._attn_implementation
    with pytest.raises(RuntimeError):
        answer_logits(decoder, torch.randn(8, 63), torch.arange(8), num_rows=1)
    assert decoder.config._attn_implementation == earlier


def test_qwen_config_with_an_unused_window_is_read():
    decoder = build_decoder("qwen2", sliding_window=16, use_sliding_window=False)
    expected = plain_logits(decoder, embeddings(60), 1)
    logits = answer_logits(decoder, embeddings(60), torch.arange(60), num_rows=1, chunk_size=20)
    assert (logits - expected).abs().max() < 1e-4


def test_layers_with_a_configuration_of_their_own_are_walked_too():
    decoder = build_decoder("qwen2")
    for layer in decoder.model.layers:
        layer.self_attn.config = copy.deepcopy(decoder.config)
    expected = plain_logits(decoder, embeddings(40), 2)
    logits = answer_logits(decoder, embeddings(40), torch.arange(40), num_rows=2, chunk_size=8)
    assert (logits - expected).abs().max() < 1e-4
    assert all(x.self_attn.config._attn_implementation == "sdpa" for x in decoder.model.layers)


def test_layer_that_attends_past_the_walk_is_refused():
    decoder = build_decoder("qwen2")

    def attends_alone(hidden_states, **_):
        return hidden_states, None

    decoder.model.layers[1].self_attn.forward = attends_alone
    with pytest.raises(
        ModelError, match="layer 1 of the decoder computes attention in a way of its own"
    ):
        answer_logits(decoder, embeddings(40), torch.arange(40), num_rows=2, chunk_size=8)


def test_scale_of_the_layer_is_used():
    decoder = build_decoder("qwen2")
    for layer in decoder.model.layers:
        layer.self_attn.scaling = 0.7
    expected = plain_logits(decoder, embeddings(40), 2)
    logits = answer_logits(decoder, embeddings(40), torch.arange(40), num_rows=2, chunk_size=8)
    assert (logits - expected).abs().max() < 1e-4


def test_two_threads_walk_one_after_the_other():
    decoder = build_decoder("qwen2")
    expected = plain_logits(decoder, embeddings(60), 2)

    def once(_):
        return answer_logits(decoder, embeddings(60), torch.arange(60), num_rows=2, chunk_size=16)

    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(once, range(24)):
            assert (logits - expected).abs().max() < 1e-4
    assert decoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("shape", [(3, 8), (7,), (1, 8)])
def test_positions_of_another_shape_are_refused(shape):
    with pytest.raises(ModelError, match="one position for each of 8 tokens"):
        answer_logits(
            build_decoder("qwen2"), embeddings(8), torch.zeros(shape, dtype=int), num_rows=1
        )


def test_decoder_in_training_mode_is_refused():
    with pytest.raises(ModelError, match="in training mode"):
        answer_logits(build_decoder("qwen2").train(), embeddings(8), torch.arange(8), num_rows=1)


def test_decoder_that_does_more_than_its_layers_is_refused():
    decoder = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16)).eval()
    with pytest.raises(ModelError, match="got model_type 'gemma2'"):
        answer_logits(decoder, embeddings(8), torch.arange(8), num_rows=1)


def allocated_bytes(action, trace_path) -> int:
    """The most bytes that tensors took at once during ``action``, above what was there before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        action()
    profiler.export_chrome_trace(str(trace_path))
    events = json.loads(trace_path.read_text())["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    ]
    alive = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        alive += change
        peak = max(peak, alive)
    return peak


def test_memory_grows_by_one_hidden_buffer_and_one_layers_keys_and_values(tmp_path):
    decoder = build_decoder("qwen2", num_hidden_layers=4)
    peaks = {}
    for num_tokens in (2048, 6144):
        hidden = embeddings(num_tokens)
        peaks[num_tokens] = allocated_bytes(
            lambda hidden=hidden: answer_logits(
                decoder, hidden, torch.arange(len(hidden)), num_rows=2, chunk_size=128
            ),
            tmp_path / "trace.json",
        )
    slope = (peaks[6144] - peaks[2048]) / 4096
    hidden_bytes, key_value_bytes = 64 * 4, 2 * 2 * 16 * 4
    # the hidden buffer is the caller's; cosines, sines and position ids come on top
    assert slope <= 1.5 * (hidden_bytes + key_value_bytes)
    assert slope >= key_value_bytes, "the measurement misses the buffers"


def three_rows(num_tokens: int) -> torch.Tensor:
    """Positions as of an image of 3 x 3 tokens, again and again."""
    index = torch.arange(num_tokens)
    start = index // 9
    return torch.stack([start, start + index // 3 % 3, start + index % 3])


def plain_logits_at(decoder, embeds, positions, num_rows):
    """With a mask of ones, which keeps transformers from taking the positions for packed ones."""
    shaped = positions[None] if positions.ndim == 1 else positions[:, None]
    with torch.inference_mode():
        return decoder(
            inputs_embeds=embeds[None],
            position_ids=shaped,
            attention_mask=torch.ones(1, len(embeds)),
            use_cache=False,
        ).logits[0, -num_rows:]


def test_three_rows_of_positions():
    decoder = build_decoder("qwen2_vl")
    embeds, positions = embeddings(100), three_rows(100)
    expected = plain_logits_at(decoder, embeds, positions, 3)
    logits = answer_logits(decoder, embeds.clone(), positions, num_rows=3, chunk_size=30)
    assert (logits - expected).abs().max() < 1e-4


def store_for(decoder, stop, place="device", directory=None, ends=None):
    return open_cache(
        decoder.model,
        Layout.whole(0, stop),
        ends=(stop,) if ends is None else ends,
        like=decoder.lm_head.weight,
        kv_location=place,
        directory=directory,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("place", "keep_until", "attach"),
    [("device", 1, 1), ("host", 60, 37), ("disk", 60, 60), ("disk", 100, 64)],
)
def test_pass_that_goes_on_from_another_equals_the_plain_forward(
    family, place, keep_until, attach, tmp_path
):
    """Trunk of 100 tokens, a branch of 71 off it, suffixes of both; chunks divide nothing."""
    decoder = build_decoder(family)
    positions = three_rows(300) if family == "qwen2_vl" else torch.arange(300)
    trunk, branch, end = embeddings(100), embeddings(71), embeddings(9)
    kept = store_for(decoder, keep_until, place, tmp_path)

    def suffixes(starts):
        return [
            SuffixRows((Span(0, at),), end.clone(), positions[..., at : at + 9], n)
            for at, n in starts.items()
        ]

    trunk_logits = prefill(
        decoder,
        trunk.clone(),
        positions[..., :100],
        suffixes({0: 9, 50: 2, 100: 1}),
        cache=kept,
        chunk_size=32,
    )
    behind = {attach: 2, attach + 1: 9, attach + 40: 1, attach + 71: 3}
    branch_logits = prefill(
        decoder,
        branch.clone(),
        positions[..., attach : attach + 71],
        suffixes(behind),
        past=[kept.until(attach)],
        chunk_size=20,
    )
    for (at, n), logits in zip({0: 9, 50: 2, 100: 1}.items(), trunk_logits, strict=True):
        whole = torch.cat([trunk[:at], end])
        expected = plain_logits_at(decoder, whole, positions[..., : len(whole)], n)
        assert (logits - expected).abs().max() < 1e-4
    for (at, n), logits in zip(behind.items(), branch_logits, strict=True):
        whole = torch.cat([trunk[:attach], branch[: at - attach], end])
        expected = plain_logits_at(decoder, whole, positions[..., : len(whole)], n)
        assert (logits - expected).abs().max() < 1e-4
    assert list(tmp_path.iterdir()) == [], "the file on disk has no name that could stay"


def test_suffixes_of_many_lengths_go_in_groups():
    decoder = build_decoder("qwen2")
    main, positions = embeddings(90), torch.arange(200)
    sizes = [(0, 5), (10, 5), (10, 7), (10, 30), (33, 1), (90, 2), (90, 2)]
    ends = [embeddings(size) for _, size in sizes]
    read = prefill(
        decoder,
        main.clone(),
        positions[:90],
        [
            SuffixRows((Span(0, at),), e.clone(), positions[at : at + n], n)
            for (at, n), e in zip(sizes, ends, strict=True)
        ],
        chunk_size=16,
    )
    for (at, n), end, logits in zip(sizes, ends, read, strict=True):
        expected = plain_logits(decoder, torch.cat([main[:at], end]), n)
        assert (logits - expected).abs().max() < 1e-4


def suffixes_at(*starts):
    return [SuffixRows((Span(0, at),), embeddings(5), torch.arange(at, at + 5), 1) for at in starts]


@pytest.mark.parametrize("spans", [((10, 5),), ((0, 91),), ((5, 9), (8, 12)), ((5, 9), (0, 3))])
def test_spans_out_of_order_or_of_the_pass_are_no_input(spans):
    seen = tuple(Span(*span) for span in spans)
    suffix = SuffixRows(seen, embeddings(5), torch.arange(90, 95), 1)
    with pytest.raises(AssertionError):
        prefill(build_decoder("qwen2"), embeddings(90), torch.arange(90), [suffix])


def test_two_suffixes_are_no_input_where_rope_depends_on_the_length():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    decoder = build_decoder("llama", rope_parameters=rope, max_position_embeddings=64)
    prefill(decoder, embeddings(90), torch.arange(90), suffixes_at(90))
    with pytest.raises(AssertionError):
        prefill(decoder, embeddings(90), torch.arange(90), suffixes_at(50, 90))


def test_dynamic_rope_does_not_remember_a_longer_sequence():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    decoder = build_decoder("llama", rope_parameters=rope, max_position_embeddings=64)
    expected = plain_logits(decoder, embeddings(100), 2)
    answer_logits(decoder, embeddings(300), torch.arange(300), num_rows=2)
    logits = answer_logits(decoder, embeddings(100), torch.arange(100), num_rows=2)
    assert (logits - expected).abs().max() < 1e-4


def test_decoder_that_looks_ahead_is_refused():
    decoder = build_decoder("llama")
    decoder.model.layers[1].self_attn.is_causal = False
    with pytest.raises(ModelError, match="attends in both directions"):
        answer_logits(decoder, embeddings(8), torch.arange(8), num_rows=1)
