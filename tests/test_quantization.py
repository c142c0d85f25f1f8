"""Layers in 8 and 4 bits, with the library itself where it is installed."""

import json
import sys
from operator import attrgetter

import pytest
import torch
from decoder_models import DecoderStandIn, largest_difference, plain, plain_sweep, run, sweep_of
from families import build
from test_prefill import build_decoder
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from vniah.checks.model import check_model
from vniah.engines import equivalence
from vniah.errors import InputError, MissingDependencyError, ModelError, RunMismatchError
from vniah.forward.costs import DecoderShape
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_folder, load_model
from vniah.models.quantization import quantize_layers, rounds_rows
from vniah.needles import load_needles
from vniah.options import LoadOptions
from vniah.sweep.run import run_sweep

LOAD_IN = ["8bit", "4bit"]
# Of a logit of about 10: what 8 bits of a row change when its values differ in their last bit.
MOST = {"8bit": 0.1, "4bit": 1e-4}


@pytest.fixture
def library():
    return pytest.importorskip("bitsandbytes")


def build_quantized(load_in, dtype=torch.float32):
    decoder = build_decoder("qwen2", dtype=dtype)
    for part in (decoder.model.embed_tokens, decoder.model.layers, decoder.model.norm):
        part.to(dtype)
    decoder.lm_head.to(dtype)
    quantize_layers(decoder.model.layers, load_in, dtype=dtype, device=torch.device("cpu"))
    return decoder


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("load_in", LOAD_IN)
def test_walk_equals_the_quantized_decoders_own_forward(load_in):
    model = DecoderStandIn(build_quantized(load_in))
    sequences = sweep_of(model)
    expected = plain(model, sequences)
    for way in ({"share": False}, {"max_suffix_tokens": 0}, {"max_suffix_tokens": 20}):
        found = run(model, sequences, chunk_size=64, **way)
        assert largest_difference(found, expected) < MOST[load_in]
    full = plain_sweep("qwen2")
    change = max(float((a - b).abs().max()) for a, b in zip(full, expected, strict=True))
    assert change > 1e-3, "something was rounded"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("load_in", LOAD_IN)
def test_only_the_matrices_of_the_layers_are_rounded(library, checkpoint, load_in, dtype):
    plain_model = load_model(checkpoint, device="cpu", dtype=dtype)
    model = load_model(checkpoint, device="cpu", dtype=dtype, load_in=load_in)
    kind = {"8bit": library.nn.Linear8bitLt, "4bit": library.nn.Linear4bit}[load_in]
    layers = [m for layer in model.decoder.model.layers for m in layer.modules()]
    linear = [m for m in layers if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 14 and all(type(m) is kind for m in linear)
    for name, tensor in plain_model.decoder.state_dict().items():
        if not name.endswith("proj.weight"):
            assert torch.equal(model.decoder.state_dict()[name], tensor)
    assert type(model.decoder.lm_head) is torch.nn.Linear
    model.read_encoder()
    plain_model.read_encoder()
    for part in attrgetter("_reader.tower.module"), attrgetter("_projector"):
        one, other = part(model).state_dict(), part(plain_model).state_dict()
        assert one.keys() == other.keys()
        assert all(map(torch.equal, one.values(), other.values()))
    assert model.dtype == getattr(torch, dtype)
    assert rounds_rows(model.decoder.model.layers) == (load_in == "8bit")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("load_in", LOAD_IN)
def test_reference_model_in_few_bits_passes_the_check(load_in, dtype, caplog):
    model = load_model("reference-long", device="cpu", dtype=dtype, load_in=load_in)
    report = check_model(model, load_needles("cards"))
    assert report.passed, report.lines
    assert not [r for r in caplog.records if r.name.startswith("bitsandbytes")]


@pytest.mark.usefixtures("library")
def test_family_in_8_bits_passes_the_check_that_wrong_positions_fail(tmp_path, monkeypatch):
    """Chunks round other rows together than the plain forward does, which no kernel changes."""
    tiny = build("qwen2_vl")
    folder = tiny.save(tmp_path / "checkpoint")
    options = LoadOptions(frame_size=tiny.frame_size, load_in="8bit")
    model = load_folder(folder, name="tiny", options=options)
    needles = load_needles("counterfactual")
    report = check_model(model, needles, cache=tmp_path / "cache")
    assert report.passed, report.lines
    run = equivalence._run

    def run_at_wrong_positions(model, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(
                model,
                "position_ids",
                lambda sequence: torch.arange(sequence.num_tokens(model.frame_shape[-2])),
            )
            return run(model, *arguments)

    monkeypatch.setattr(equivalence, "_run", run_at_wrong_positions)
    assert not check_model(model, needles, cache=tmp_path / "cache").passed


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("load_in", "bytes_of_a_weight"), [("8bit", 1), ("4bit", 0.5)])
def test_shape_counts_bits_and_scales(load_in, bytes_of_a_weight):
    full, few = (
        DecoderShape.of(decoder) for decoder in (build_decoder("qwen2"), build_quantized(load_in))
    )
    assert few.linear_weights == full.linear_weights
    assert (few.itemsize, few.head_dim) == (full.itemsize, full.head_dim)
    saved = full.weight_bytes - few.weight_bytes
    assert 0.85 < saved / (full.linear_weights * (4 - bytes_of_a_weight)) < 1


@pytest.mark.usefixtures("library")
def test_run_says_in_how_many_bits_and_goes_on_with_no_other(
    checkpoint, image_folder, needle_folder, tmp_path
):
    material = open_haystack(image_folder), load_needles(needle_folder), Grid.of([2, 5], [0, 1])
    model = load_model(checkpoint, device="cpu", load_in="4bit")
    run_sweep(model, *material, output=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["model"]["load_in"] == "4bit"
    full = load_model(checkpoint, device="cpu")
    assert "load_in" not in full.settings
    with pytest.raises(RunMismatchError, match="load_in"):
        run_sweep(full, *material, output=tmp_path)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("load_in", LOAD_IN)
def test_transformers_own_loading_gives_the_same_layers(load_in, tmp_path):
    pytest.importorskip("accelerate")
    build_decoder("qwen2").save_pretrained(tmp_path)
    config = BitsAndBytesConfig(
        load_in_8bit=load_in == "8bit",
        load_in_4bit=load_in == "4bit",
        llm_int8_skip_modules=["lm_head"],
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    ).eval()
    for module in loaded.modules():  # see vniah.models.quantization
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    own = build_quantized(load_in)
    assert type(loaded.lm_head) is torch.nn.Linear
    for one, other in zip(own.model.layers, loaded.model.layers, strict=True):
        assert torch.equal(one.mlp.up_proj.weight, other.mlp.up_proj.weight)
    models = [DecoderStandIn(own), DecoderStandIn(loaded)]
    found = [plain(model, sweep_of(model)[:3]) for model in models]
    assert largest_difference(*found) < MOST[load_in]


@pytest.mark.parametrize("load_in", LOAD_IN)
def test_library_that_is_missing_is_named(load_in, checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = rf"--load-in {load_in} needs the package 'bitsandbytes'.*vniah\[quantized\]"
    with pytest.raises(MissingDependencyError, match=message):
        load_model(checkpoint, device="cpu", load_in=load_in)


@pytest.mark.usefixtures("library")
def test_device_that_the_library_cannot_use_is_one_line(monkeypatch):
    decoder = build_decoder("qwen2")
    layer = decoder.model.layers[0]

    def refuse(device):
        raise RuntimeError("no kernel here\nsecond line")

    monkeypatch.setattr(layer, "to", refuse)
    with pytest.raises(ModelError, match=r"layers in 4bit on cpu: no kernel here$"):
        quantize_layers([layer], "4bit", dtype=torch.float32, device=torch.device("cpu"))


def test_bits_that_cannot_be_meant_are_refused(checkpoint):
    with pytest.raises(InputError, match="load_in must be one of 8bit, 4bit, got '3bit'"):
        load_model(checkpoint, load_in="3bit")
    with pytest.raises(InputError, match="offload always and load_in 4bit cannot be combined"):
        load_model(checkpoint, load_in="4bit", offload="always")
