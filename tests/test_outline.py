"""Models without their weights: what an estimate says of models larger than this machine."""

import json
from dataclasses import replace

import pytest
from families import build
from test_estimate_texts import without_machine
from text_models import save_language_model

import vniah.sweep.estimate
import vniah.sweep.estimated
from vniah.cli import main
from vniah.cli.display import format_estimate
from vniah.forward.costs import DecoderShape
from vniah.forward.offload import offloaded
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.models.loading import load_model
from vniah.models.outline import missing_bytes, open_outline, shape_on
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles
from vniah.options import LoadOptions
from vniah.sweep.estimate import estimate
from vniah.sweep.throughput import Rates

RATES = Rates(linear=3e14, attention=2e14)
GRID = Grid.parse("4,8", "0,1")
CARD = 80 * 10**9
HALF = LoadOptions(dtype="bfloat16")

# As in the config.json of the published checkpoints.
SIZES_OF_72B = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
SIZES_OF_235B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
}
# The numbers of a layer's weights, and of the embeddings, the head and the last norm.
LAYER_OF_72B = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 29568 + 8192 + 2 * 1024 + 2 * 8192
REST_OF_72B = 2 * 152064 * 8192 + 8192
LAYER_OF_235B = (
    2 * 4096 * 8192 + 2 * 4096 * 512 + 128 * (3 * 4096 * 1536 + 4096) + 2 * 128 + 2 * 4096
)
REST_OF_235B = 2 * 151936 * 4096 + 4096
PUBLISHED = {
    "Qwen2-72B": ("qwen2", SIZES_OF_72B, 80, LAYER_OF_72B, REST_OF_72B),
    "Qwen2.5-VL-72B": ("qwen2_5_vl", SIZES_OF_72B, 80, LAYER_OF_72B, REST_OF_72B),
    "Qwen3-VL-235B-A22B": ("qwen3_vl_moe", SIZES_OF_235B, 94, LAYER_OF_235B, REST_OF_235B),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders of the published models: configuration and tokenizer, and no weights."""
    folders = {}
    for name, (model_type, sizes, *_) in PUBLISHED.items():
        folder = tmp_path_factory.mktemp("published") / name
        if model_type == "qwen2":
            save_language_model(folder)
        else:
            build(model_type).save(folder)
        (folder / "model.safetensors").unlink()
        config = json.loads((folder / "config.json").read_text())
        text = config if model_type == "qwen2" else config["text_config"]
        text.pop("layer_types", None)
        if "num_local_experts" in text:  # as transformers 5 writes what is published as num_experts
            text["num_local_experts"] = sizes["num_experts"]
        text |= {key: value for key, value in sizes.items() if key != "tie_word_embeddings"}
        head_dim = sizes.get("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
        if "head_dim" in text:
            text["head_dim"] = head_dim
        if "mrope_section" in text.get("rope_parameters", {}):
            text["rope_parameters"]["mrope_section"] = [head_dim // 2 - 48, 24, 24]
        for part in (config, text):
            part["tie_word_embeddings"] = False
        if "vision_config" in config:
            config["vision_config"]["out_hidden_size"] = sizes["hidden_size"]
        (folder / "config.json").write_text(json.dumps(config))
        folders[name] = folder
    return folders


def estimate_of(model, num_ranks, **options):
    if PUBLISHED[model.name][0] == "qwen2":
        asked = {"task": "niah", "haystack": open_text(num_tokens=300)}
        return estimate(model, number_needles(2), Grid.parse("200,300", "0,1"), rates=RATES,
                        num_ranks=num_ranks, **asked, **options)  # fmt: skip
    return estimate(model, load_needles("cards"), GRID, rates=RATES, num_ranks=num_ranks, **options)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("num_ranks", [2, 8])
def test_each_card_holds_its_share_of_a_published_model(name, num_ranks, published, monkeypatch):
    for module in (vniah.sweep.estimate, vniah.sweep.estimated):
        monkeypatch.setattr(module, "free_bytes", lambda device: CARD)
    _, _, num_layers, layer, rest = PUBLISHED[name]
    model = open_outline(str(published[name]), HALF, num_ranks=num_ranks, is_measured=False)
    found = estimate_of(model, num_ranks)
    of_layers = 2 * num_layers * layer
    assert found.memory.weights == pytest.approx(of_layers / num_ranks + 2 * rest, rel=1e-4)
    assert found.memory.gathered == pytest.approx(3 * 2 * layer, rel=1e-3)
    assert (found.weight_ranks, found.memory.host_weights) == (num_ranks, 0)
    assert found.memory.free == pytest.approx(CARD - found.memory.weights, rel=1e-3)
    assert found.largest.fits == (num_ranks == 8)
    text = format_estimate(found)
    assert f"holds 1/{num_ranks} of the layers' weights, and all of the rest; sending" in text
    assert "layers that a pass gathers" in text and ", beside the weights" in text


def test_longest_video_by_the_number_of_cards(published, monkeypatch):
    """72 billion weights in bfloat16 are 145 GB: two cards of 80 GB hold them, and no pass."""
    for module in (vniah.sweep.estimate, vniah.sweep.estimated):
        monkeypatch.setattr(module, "free_bytes", lambda device: CARD)
    model = open_outline(str(published["Qwen2.5-VL-72B"]), HALF, num_ranks=8, is_measured=False)
    frames = estimate_of(model, 8).max_frames
    assert frames[1] == frames[2] == 0 < 2 * frames[4] < frames[8]
    whole = open_outline(str(published["Qwen2.5-VL-72B"]), HALF, is_measured=False)
    found = estimate_of(whole, 8)
    assert set(found.max_frames.values()) == {0} and not found.largest.fits
    assert found.memory.weights == 2 * (80 * LAYER_OF_72B + REST_OF_72B)
    text = format_estimate(found)
    assert "no room for the weights; take --offload always, or --shard-weights with" in text


def test_shares_in_host_memory_leave_the_card_to_the_pass(published):
    options = replace(HALF, offload="always")
    model = open_outline(
        str(published["Qwen3-VL-235B-A22B"]), options, num_ranks=4, is_measured=False
    )
    shape = DecoderShape.of(model.decoder)
    share = 2 * 94 * LAYER_OF_235B / 4
    assert shape.host_weight_bytes == pytest.approx(share, rel=1e-4)
    assert shape.weight_bytes == 2 * REST_OF_235B
    assert shape_on(model, 8).host_weight_bytes == pytest.approx(share / 2, rel=1e-4)
    assert missing_bytes(model, shape) == pytest.approx(shape.weight_bytes, rel=1e-6)


@pytest.mark.parametrize(
    "model_type", ["llava_onevision", "qwen2_5_vl", "qwen3_vl_moe", "internvl"]
)
def test_model_of_frames_without_weights_costs_what_the_whole_one_does(model_type, tmp_path):
    folder = build(model_type).save(tmp_path / "model")
    outline, whole = open_outline(str(folder), LoadOptions()), load_model(folder, device="cpu")
    assert outline.settings == whole.settings and outline.frame_shape == whole.frame_shape
    one, other = (
        estimate(model, load_needles("cards"), GRID, rates=RATES) for model in (outline, whole)
    )
    assert one.memory.missing > 0.5 * one.memory.weights and other.memory.missing == 0
    assert without_machine(one) == without_machine(other)


def test_what_an_outline_lacks_is_what_a_loaded_model_holds(tmp_path):
    folder = save_language_model(tmp_path / "model")
    whole = load_model(folder, device="cpu")
    for offload in ("never", "always"):
        options = LoadOptions(offload=offload)
        outline = open_outline(str(folder), options)
        shape = shape_on(outline, 1)
        assert missing_bytes(whole, DecoderShape.of(whole.decoder)) == 0
        rest = DecoderShape.of(whole.decoder).weight_bytes - sum(
            p.nbytes for p in whole.decoder.model.layers.parameters()
        )
        in_first = sum(p.nbytes for p in whole.decoder.model.layers[0].parameters())
        expected = rest if offload == "always" else shape.weight_bytes - in_first
        assert missing_bytes(outline, shape) == pytest.approx(expected, rel=0.01)
        assert (offloaded(outline.decoder.model) is None) == (offload == "never")


@pytest.mark.usefixtures("short_measurements")
def test_command_estimates_shares_without_starting_a_job(tmp_path, capsys):
    folder = build("qwen2_vl").save(tmp_path / "model")
    command = ["estimate", "--model", str(folder), "--device", "cpu", "--frames", "4"]
    command += ["--needles", "cards", "--context-parallel", "4"]
    assert main([*command, "--shard-weights"]) == 0
    assert "each of 4 processes holds 1/4 of the layers' weights" in capsys.readouterr().out
    assert main(command) == 0
    assert "gathers" not in capsys.readouterr().out
    command[2] = "reference-long"
    assert main([*command, "--shard-weights"]) == 2
    assert "has to be loaded to be estimated, and then a process has all" in capsys.readouterr().err
