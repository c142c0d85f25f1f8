"""RoPE overrides against decoders that were built from a configuration with these parameters."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from test_prefill import FAMILIES as WALK_FAMILIES
from test_prefill import SIZES
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.glm4v.configuration_glm4v import Glm4vTextConfig
from transformers.models.glm4v.modeling_glm4v import Glm4vTextModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from vniah.errors import InputError, ModelError
from vniah.forward.decoders import SUPPORTED_MODEL_TYPES
from vniah.forward.prefill import answer_logits
from vniah.models.rope import override_rope, rope_settings, stored_parameters
from vniah.options.rope import read_scaling

NUM_TOKENS = 90
ORIGINAL_LENGTH = 64  # shorter than the sequence, so that kinds that look at it change something
SECTIONS = {"mrope_section": [2, 3, 3]}


def with_head(text_model):
    """A text model that has no head of its own, with one."""

    class TextModelWithHead(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config
            self.model = text_model(config)
            self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

        def forward(self, **inputs):
            return SimpleNamespace(logits=self.lm_head(self.model(**inputs).last_hidden_state))

    return TextModelWithHead


FAMILIES = {
    name: (config_class, model_class, {k: v for k, v in own.items() if k != "rope_parameters"})
    for name, (config_class, model_class, own) in WALK_FAMILIES.items()
} | {
    "qwen2_5_vl": (Qwen2_5_VLTextConfig, with_head(Qwen2_5_VLTextModel), {}),
    "qwen3_vl": (Qwen3VLTextConfig, with_head(Qwen3VLTextModel), {"head_dim": 16}),
    "glm4v": (Glm4vTextConfig, with_head(Glm4vTextModel), {"pad_token_id": 0}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"head_dim": 16, "sliding_window": 4096}),
}
# What belongs to the decoder: it stays, whatever is overridden.
OF_THE_DECODER = {
    "qwen2_vl": SECTIONS,
    "qwen2_5_vl": SECTIONS,
    "qwen3_vl": {**SECTIONS, "mrope_interleaved": True},
    "glm4v": {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5},
}
LOCAL = {"rope_type": "default", "rope_theta": 100.0}

LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL_LENGTH}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_LENGTH,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
OVERRIDES = {
    "theta": (3e6, None),
    "linear": (None, LINEAR),
    "yarn": (None, YARN),
    "yarn and theta": (500.0, YARN),
    "llama3": (None, LLAMA3),
    "dynamic": (None, DYNAMIC),
    "none": (None, {"rope_type": "default"}),
}


def rope_parameters(family, theta, scaling):
    """As a config.json of transformers 5 would have them."""
    own = {
        "rope_type": "default",
        "rope_theta": theta or 1e4,
        **OF_THE_DECODER.get(family, {}),
        **(scaling or {}),
    }
    return {"full_attention": own, "sliding_attention": dict(LOCAL)} if family == "gemma3" else own


def build(family, *, theta=None, scaling=None):
    config_class, model_class, own = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class(
        **{**SIZES, **own, "max_position_embeddings": ORIGINAL_LENGTH},
        rope_parameters=rope_parameters(family, theta, scaling),
    )
    if family == "gemma3":
        config.layer_types = ["sliding_attention", "full_attention", "full_attention"]
    decoder = model_class(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15, generator=generator)
    return decoder


def inputs(num_tokens=NUM_TOKENS):
    return torch.randn(num_tokens, SIZES["hidden_size"], generator=torch.Generator().manual_seed(2))


def plain(decoder, num_tokens=NUM_TOKENS):
    with torch.inference_mode():
        embeds = inputs(num_tokens)[None]
        return decoder(inputs_embeds=embeds, use_cache=False).logits[0, -3:]


def prefilled(decoder):
    hidden = inputs()
    return answer_logits(decoder, hidden, torch.arange(len(hidden)), num_rows=3, chunk_size=32)


def cases():
    for family in FAMILIES:
        for name, override in OVERRIDES.items():
            if (family, name) != ("gemma3", "dynamic"):
                yield pytest.param(family, *override, id=f"{family}-{name}")


@pytest.mark.parametrize(("family", "theta", "scaling"), list(cases()))
def test_overridden_decoder_is_the_one_built_with_these_parameters(family, theta, scaling):
    decoder, expected = build(family), build(family, theta=theta, scaling=scaling)
    override_rope(decoder.model, theta=theta, scaling=scaling)
    assert torch.equal(plain(decoder), plain(expected))
    rotary = decoder.model.rotary_emb
    assert type(rotary) is type(expected.model.rotary_emb)
    assert all(b.dtype == torch.float32 for b in rotary.buffers())
    if decoder.model.config.model_type in SUPPORTED_MODEL_TYPES:
        logits = prefilled(decoder)
        assert torch.equal(logits, prefilled(expected))
        assert (logits - plain(expected)).abs().max() < 1e-4


# Every override of one family, and one override of every family.
CHANGES = {("llama", name) for name in OVERRIDES if name not in ("none", "dynamic")}
CHANGES |= {(family, "yarn and theta") for family in FAMILIES}


@pytest.mark.parametrize(("family", "name"), sorted(CHANGES))
def test_every_override_changes_the_logits(family, name):
    decoder = build(family)
    before = plain(decoder)
    override_rope(decoder.model, theta=OVERRIDES[name][0], scaling=OVERRIDES[name][1])
    assert (plain(decoder) - before).abs().max() > 1e-3


def test_dynamic_changes_what_is_longer_than_the_training_only():
    decoder = build("qwen2")
    short, long = plain(decoder, ORIGINAL_LENGTH), plain(decoder)
    override_rope(decoder.model, scaling="dynamic:2")
    assert torch.equal(plain(decoder, ORIGINAL_LENGTH), short)
    assert (plain(decoder) - long).abs().max() > 1e-3


def test_attention_factor_of_yarn_is_in():
    decoder, without = build("llama"), build("llama")
    override_rope(decoder.model, scaling=YARN)
    override_rope(without.model, scaling={**YARN, "attention_factor": 1})
    assert decoder.model.rotary_emb.attention_scaling == pytest.approx(1.1386, abs=1e-4)
    assert (prefilled(decoder) - prefilled(without)).abs().max() > 1e-3


def test_layers_with_a_window_keep_their_rope():
    body = build("gemma3").model
    before = body.rotary_emb.sliding_attention_inv_freq.clone()
    override_rope(body, theta=1e9, scaling="linear:8")
    assert torch.equal(body.rotary_emb.sliding_attention_inv_freq, before)
    assert body.config.rope_parameters["sliding_attention"] == LOCAL
    assert rope_settings(body)["rope_theta"] == 1e9


def test_what_is_not_given_is_as_it_was_loaded():
    decoder = build("qwen2", theta=500.0, scaling=LINEAR)
    own = plain(decoder)
    override_rope(decoder.model, theta=1e6, scaling=YARN)
    override_rope(decoder.model, theta=1e6)
    assert torch.equal(plain(decoder), plain(build("qwen2", theta=1e6, scaling=LINEAR)))
    override_rope(decoder.model, scaling="none")
    assert torch.equal(plain(decoder), plain(build("qwen2", theta=500.0)))
    override_rope(decoder.model)
    assert torch.equal(plain(decoder), own)


@pytest.mark.parametrize("family", ["qwen2_vl", "glm4v"])
def test_what_belongs_to_the_decoder_stays(family):
    body = build(family).model
    override_rope(body, scaling="yarn:4")
    found = body.config.rope_parameters
    assert {key: found[key] for key in OF_THE_DECODER[family]} == OF_THE_DECODER[family]
    override_rope(body, scaling={**YARN, "mrope_section": found["mrope_section"]})
    with pytest.raises(InputError, match=r"has mrope_section = \[1, 2, 5\], but this decoder was"):
        override_rope(body, scaling={**YARN, "mrope_section": [1, 2, 5]})


def test_length_that_the_decoder_was_trained_for_comes_from_its_configuration():
    body = build("llama").model
    override_rope(body, scaling="yarn:4")
    assert body.config.rope_parameters["original_max_position_embeddings"] == ORIGINAL_LENGTH
    scaled = build("llama", scaling={**LLAMA3, "original_max_position_embeddings": 32}).model
    for _ in range(2):  # also behind an override that has none
        override_rope(scaled, scaling="yarn:4")
        assert scaled.config.rope_parameters["original_max_position_embeddings"] == 32
        override_rope(scaled, scaling="none")


def test_factor_need_not_be_that_of_the_configurations_length():
    body = build("llama").model
    override_rope(body, scaling={**YARN, "original_max_position_embeddings": 16})
    assert body.rotary_emb.rope_type == "yarn"


def test_longrope_equals_the_decoder_built_with_it():
    factors = [1.0 + k / 10 for k in range(8)], [2.0 + k for k in range(8)]
    scaling = {"rope_type": "longrope", "short_factor": factors[0], "long_factor": factors[1]}
    scaling["original_max_position_embeddings"] = 32
    decoder, expected = build("llama"), build("llama", scaling=scaling)
    override_rope(decoder.model, scaling=scaling)
    assert torch.equal(plain(decoder), plain(expected))
    assert torch.equal(prefilled(decoder), prefilled(expected))


def test_half_precision_keeps_its_angles_in_fp32():
    decoder = build("qwen3")
    for part in (decoder.model.embed_tokens, decoder.model.layers, decoder.lm_head):
        part.to(torch.bfloat16)
    override_rope(decoder.model, theta=1e9, scaling="yarn:4")
    assert decoder.model.rotary_emb.inv_freq.dtype == torch.float32


def test_body_on_the_meta_device_stays_there():
    with torch.device("meta"):
        decoder = FAMILIES["llama"][1](FAMILIES["llama"][0](**SIZES))
    override_rope(decoder.model, theta=1e6, scaling="yarn:4")
    assert decoder.model.rotary_emb.inv_freq.is_meta


WRONG = [
    ({"theta": 1}, "rope_theta must be a number above 1, got 1"),
    ({"theta": float("nan")}, "rope_theta must be a number above 1, got nan"),
    ({"theta": float("inf")}, "rope_theta must be a number above 1, got inf"),
    ({"scaling": "su:4"}, "must be of a kind default, linear, dynamic, yarn, .*, got 'su'"),
    ({"scaling": {"rope_type": "linear"}}, "Missing required keys .*factor"),
    ({"scaling": {**LINEAR, "beta_fast": 32}}, "Unrecognized keys .*beta_fast"),
    ({"scaling": {**YARN, "colour": "red"}}, "Unrecognized keys .*colour"),
    ({"scaling": {**YARN, "beta_fast": 1, "beta_slow": 2}}, "beta_fast field must be greater"),
    ({"scaling": {**YARN, "partial_rotary_factor": 0.5}}, "_factor = 0.5, but .* with None; leave"),
    ({"scaling": "llama3:8"}, "Missing required keys"),
    ({"scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor field must be greater"),
    ({"scaling": "longrope:4"}, "Missing required keys"),
    (
        {"scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
        "short_factor field must have length 8",
    ),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_override_that_cannot_be_meant_is_one_line_and_changes_nothing(override, message):
    decoder = build("llama")
    before, parameters = plain(decoder), copy.deepcopy(decoder.config.rope_parameters)
    for _ in range(2):  # transformers says some things once only
        with pytest.raises(InputError, match=message) as caught:
            override_rope(decoder.model, **override)
        assert "\n" not in str(caught.value)
    assert decoder.config.rope_parameters == parameters
    assert torch.equal(plain(decoder), before)


def test_warnings_of_transformers_are_not_printed(caplog):
    with pytest.raises(InputError):
        override_rope(build("llama").model, scaling={**LINEAR, "beta_fast": 32})
    assert not caplog.records


def test_yarn_without_a_length_to_start_from_is_refused():
    config = SimpleNamespace(rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    body = SimpleNamespace(config=config, rotary_emb=object())
    with pytest.raises(InputError, match="'yarn' needs original_max_position_embeddings"):
        override_rope(body, scaling="yarn:4")


def test_length_that_transformers_would_not_take_is_refused():
    body = build("llama").model
    body.config.original_max_position_embeddings = 48
    with pytest.raises(InputError, match="uses that of the configuration, 48; leave it out"):
        override_rope(body, scaling=YARN)
    override_rope(body, scaling="yarn:4")
    assert body.config.rope_parameters["original_max_position_embeddings"] == 48


def test_rope_that_cannot_be_built_is_refused_and_the_old_one_kept():
    body = build("qwen2").model
    body.config.head_dim = 2  # of which dynamic makes a division by zero
    rotary = body.rotary_emb
    with pytest.raises(InputError, match="transformers cannot make this RoPE for qwen2"):
        override_rope(body, scaling="dynamic:2")
    assert body.rotary_emb is rotary
    assert body.config.rope_parameters["rope_type"] == "default"


def test_dynamic_is_refused_where_layers_have_ropes_of_their_own():
    with pytest.raises(InputError, match="'dynamic' cannot be given to gemma3_text"):
        override_rope(build("gemma3").model, scaling="dynamic:2")


def test_decoder_without_rope_is_refused():
    body = SimpleNamespace(config=SimpleNamespace(model_type="gpt2"))
    with pytest.raises(ModelError, match="has no RoPE that can be changed"):
        override_rope(body, theta=1e6)


def test_decoder_without_a_rope_for_full_attention_is_refused():
    parameters = {"sliding_attention": dict(LOCAL)}
    body = SimpleNamespace(config=SimpleNamespace(rope_parameters=parameters), rotary_emb=object())
    with pytest.raises(ModelError, match="RoPEs for sliding_attention, but none for full_attenti"):
        override_rope(body, theta=1e6)


def test_settings_name_a_scaling_only_where_there_is_one():
    body = build("qwen2_vl").model
    assert rope_settings(body) == {"rope_theta": 1e4}
    override_rope(body, theta=500)
    assert rope_settings(body) == {"rope_theta": 500.0}
    override_rope(body, scaling="yarn:4")
    assert rope_settings(body) == {
        "rope_theta": 1e4,
        "rope_scaling": '{"factor":4.0,"original_max_position_embeddings":64,"rope_type":"yarn"}',
    }
    override_rope(body, scaling="none")
    assert rope_settings(body) == {"rope_theta": 1e4}


def test_settings_are_the_same_for_a_whole_factor_and_a_decimal_one():
    body = build("llama", scaling={"rope_type": "linear", "factor": 2}).model
    assert rope_settings(body)["rope_scaling"] == '{"factor":2.0,"rope_type":"linear"}'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, {"rope_type": "default", "rope_theta": 1e4}),
        ({"rope_theta": 500}, {"rope_type": "default", "rope_theta": 500.0}),
        ({"rope_theta": 500, "rope_scaling": None}, {"rope_type": "default", "rope_theta": 500.0}),
        (
            {"rope_theta": 500, "rope_scaling": {"type": "linear", "factor": 4}},
            {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        ),
        ({"rope_parameters": {**YARN, "rope_theta": 7.0}}, {**YARN, "rope_theta": 7.0}),
        ({"rope_parameters": {"rope_theta": 7.0}}, {"rope_type": "default", "rope_theta": 7.0}),
    ],
)
def test_stored_parameters_are_those_of_either_form(raw, expected):
    assert stored_parameters(build("llama").config, raw) == expected


def test_reading_a_scaling_is_the_same_for_text_and_mapping():
    assert read_scaling(json.dumps(YARN)) == read_scaling(YARN) == YARN
