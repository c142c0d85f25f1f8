"""What a model consists of: a change that stays is named, and what passes change is not."""

import types

import pytest
import torch
from decoder_models import DecoderStandIn, RandomFrames, ask
from layer_kinds import build_kind, positions_of
from test_prefill import build_decoder, embeddings
from transformers.models.qwen2 import modeling_qwen2

from vniah.engines.inputs import decoder_logits
from vniah.engines.model_state import ModelState, _of_tensor
from vniah.forward.prefill import answer_logits


@pytest.fixture
def model():
    return DecoderStandIn(build_decoder("qwen2"))


def patched_forward(model):
    """Positions above 100 are compressed: nothing changes for a short sequence."""
    rotary = model.decoder.model.rotary_emb
    own = rotary.forward
    rotary.forward = lambda x, position_ids: own(x, position_ids.clamp(max=100))


def patched_method(model):
    layer = model.decoder.model.layers[1]
    layer.forward = types.MethodType(type(layer).forward, layer)


def hook(model):
    model.decoder.model.layers[0].register_forward_hook(lambda *_: None)


def pre_hook(model):
    model.decoder.lm_head.register_forward_pre_hook(lambda *_: None)


def replaced_module(model):
    model.decoder.model.norm = torch.nn.Identity()


def added_module(model):
    model.decoder.model.layers[0].extra = torch.nn.Identity()


def removed_module(model):
    model.decoder.model.layers = model.decoder.model.layers[:1]


def one_number(model):
    model.decoder.model.embed_tokens.weight.data[90, 3] *= 1.01


def swapped_rows(model):
    weight = model.decoder.model.embed_tokens.weight.data
    weight[[90, 91]] = weight[[91, 90]]


def swapped_columns(model):
    weight = model.decoder.model.layers[0].mlp.down_proj.weight.data
    weight[:, [0, 1]] = weight[:, [1, 0]]


def opposite_signs(model):
    model.decoder.model.layers[1].self_attn.k_proj.weight.data.neg_()


def other_buffer(model):
    model.decoder.model.rotary_emb.inv_freq.mul_(1.5)


def other_number(model):
    model.decoder.model.layers[0].self_attn.scaling *= 2


def other_config(model):
    model.decoder.config.use_cache = False


def in_a_mode(model):
    model.decoder.model.layers[0].train()


def of_the_object(model):
    model.encode_frames = lambda frames: None


def of_its_numbers(model):
    model.frame_shape = (4, 64)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (patched_forward, "forward of the module model.rotary_emb is new"),
        (patched_method, "forward of the module model.layers.1 is new"),
        (hook, "_forward_hooks of the module model.layers.0 is another"),
        (pre_hook, "_forward_pre_hooks of the module lm_head is another"),
        (replaced_module, "the module model.norm is another"),
        (added_module, "the module model.layers.0.extra is new"),
        (removed_module, "the module model.layers is another"),
        (one_number, "the parameter model.embed_tokens.weight is another"),
        (swapped_rows, "the parameter model.embed_tokens.weight is another"),
        (swapped_columns, "the parameter model.layers.0.mlp.down_proj.weight is another"),
        (opposite_signs, "the parameter model.layers.1.self_attn.k_proj.weight is another"),
        (other_buffer, "the buffer model.rotary_emb.inv_freq is another"),
        (other_number, "scaling of the module model.layers.0.self_attn is another"),
        (other_config, "config of the module decoder is another"),
        (in_a_mode, "training of the module model.layers.0 is another"),
        (of_the_object, "the attribute encode_frames of the model is new"),
        (of_its_numbers, "the attribute frame_shape of the model is new"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stays_changed_is_named(model, change, named, dtype):
    model.decoder.to(dtype)
    before = ModelState.of(model)
    assert before.change_to(ModelState.of(model)) is None
    change(model)
    assert before.change_to(ModelState.of(model)) == named


def test_a_function_beside_the_classes_that_is_replaced_is_named(model, monkeypatch):
    before = ModelState.of(model)
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", lambda q, k, *_: (q, k))
    found = before.change_to(ModelState.of(model))
    assert found == (
        "apply_rotary_pos_emb of the Python module transformers.models.qwen2.modeling_qwen2 is "
        "another"
    )


def test_a_method_of_a_class_that_is_replaced_is_named(model, monkeypatch):
    before = ModelState.of(model)
    monkeypatch.setattr(modeling_qwen2.Qwen2MLP, "forward", lambda self, x: x)
    found = before.change_to(ModelState.of(model))
    assert found.startswith("forward of the class transformers.models.qwen2.modeling_qwen2.Qwen2M")


def test_what_is_put_back_is_the_same(model):
    before = ModelState.of(model)
    weight, norm = model.decoder.lm_head.weight, model.decoder.model.norm
    saved = weight.data.clone()
    weight.data *= 2
    model.decoder.model.norm = torch.nn.Identity()
    handle = norm.register_forward_hook(lambda *_: None)
    handle.remove()
    model.decoder.model.norm = norm
    weight.data.copy_(saved)
    assert before.change_to(ModelState.of(model)) is None


@pytest.mark.parametrize("rope", ["dynamic", "default"])
def test_what_a_pass_of_its_own_changes_is_no_change(rope):
    """Dynamic RoPE stretches its frequencies for a long sequence, and keeps them for later."""
    changes = {}
    if rope == "dynamic":
        changes = {
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
            "max_position_embeddings": 64,
        }
    model = DecoderStandIn(build_decoder("qwen2", **changes))
    short, long = ask(model, 4, None), ask(model, 60, None)
    decoder_logits(model, short, RandomFrames())
    before = ModelState.of(model)
    found = decoder_logits(model, long, RandomFrames())
    assert found.isfinite().all()
    decoder_logits(model, short, RandomFrames())
    assert before.change_to(ModelState.of(model)) is None


@pytest.mark.parametrize("name", ["gemma3", "gpt_oss", "qwen3_5", "nemotron_h", "deepseek_v3"])
def test_passes_of_layers_of_all_kinds_change_nothing(name):
    """In chunks of any size, and by the decoder's own forward with a cache."""
    model = types.SimpleNamespace(decoder=build_kind(name))
    width = model.decoder.config.hidden_size

    def run(num_tokens, chunk_size):
        rows, positions = embeddings(num_tokens)[:, :width].clone(), positions_of(name, num_tokens)
        how = {"num_rows": 3, "chunk_size": chunk_size}
        assert answer_logits(model.decoder, rows, positions, **how).isfinite().all()

    run(20, 100)
    before = ModelState.of(model)
    run(200, 17)
    with torch.inference_mode():
        model.decoder(inputs_embeds=embeddings(60)[None, :, :width], use_cache=True)
    assert before.change_to(ModelState.of(model)) is None
    model.decoder.lm_head.weight.data[0, 0] += 1
    assert before.change_to(ModelState.of(model)) is not None


def test_weights_made_of_other_tensors_are_summed():
    """As shards of several processes are, and weights of few bits."""
    inner = [torch.randn(4, 6), torch.arange(5)]
    one, same, other = (Made(*inner), Made(*(x.clone() for x in inner)), Made(*inner[::-1]))
    assert _of_tensor(one) == _of_tensor(same) != _of_tensor(other)
    inner[0][0, 0] += 1
    assert _of_tensor(one) != _of_tensor(same)


class Made:
    """What torch calls a traceable wrapper subclass has this method."""

    def __init__(self, values, scales):
        self.values, self.scales = values, scales

    def __tensor_flatten__(self):
        return ["values", "scales"], None
