"""Checkpoints of LLaVA-NeXT, OneVision and LLaVA-Video against their rules, worked out by hand.

The reference shares nothing with the adapter: it takes the tensors out of the safetensors file,
computes the tower with plain functions, pools patch by patch, and puts the input together as one
list of rows for the saved decoder's own forward pass.
"""

import json
from math import ceil

import numpy as np
import pytest
import torch
from checkpoints import SIGLIP_SIZE, build_tokenizer, change_config, write_checkpoint
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPImageProcessorPil as CLIPImageProcessor
from transformers import SiglipImageProcessorPil as SiglipImageProcessor

from vniah.checks.model import check_model
from vniah.cli import main
from vniah.embeddings.encode import EncodedFrames
from vniah.engines.agreement import plain_logits
from vniah.engines.inputs import DecoderInputs, compose_candidates
from vniah.engines.planning import make_plan
from vniah.errors import ModelError
from vniah.forward.runner import BranchRunner
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.families import llava_type
from vniah.models.llava.frame_layout import FrameLayout
from vniah.models.llava.model import LlavaModel
from vniah.models.llava.towers import build_tower
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import FrameSegment, TextSegment
from vniah.tasks.vniah import VisualNeedle

MODES = ("average", "max", "bilinear")
POSITIONS = ("grid", "frame", "one_token", "no_token")
TOWER = "model.vision_tower.vision_tower.vision_model."
NEAR = 1e-4

# The fields of a LLaVA-Video config.json that Qwen2 does not know.
VIDEO_FIELDS = {
    "add_faster_video": False,
    "add_time_instruction": True,
    "faster_token_stride": 10,
    "force_sample": True,
    "image_aspect_ratio": "anyres_max_9",
    "image_crop_resolution": None,
    "image_grid_pinpoints": [[384, 384], [384, 768]],
    "image_token_index": 151646,
    "mm_hidden_size": 24,
    "mm_newline_position": "grid",
    "mm_projector_lr": None,
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_tower_lr": 2e-06,
    "pos_skipping_range": 4096,
    "rope_scaling": None,
    "sliding_window": 131072,
    "use_mm_proj": True,
    "use_pos_skipping": False,
    "use_sliding_window": False,
    "vision_tower_pretrained": None,
}


def write_video_checkpoint(folder, mode="bilinear", position="grid", **changes):
    """A tiny checkpoint with a SigLIP tower."""
    layout = {"mm_spatial_pool_mode": mode, "mm_newline_position": position, "has_newline": True}
    return write_checkpoint(folder, family="siglip", **{**layout, **changes})


def frames_of(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes]


def siglip_by_hand(weights, frame) -> torch.Tensor:
    """What the last layer but one gives, ``[25, 24]``: the file holds no further layer."""
    size = (SIGLIP_SIZE, SIGLIP_SIZE)
    scaled = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    pixels = torch.tensor(scaled).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    tower = {k.removeprefix(TOWER): w for k, w in weights.items() if k.startswith(TOWER)}

    def linear(name, x):
        return functional.linear(x, tower[f"{name}.weight"], tower[f"{name}.bias"])

    def norm(name, x):
        parameters = tower[f"{name}.weight"], tower[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], *parameters, eps=1e-6)

    embedding = "embeddings.patch_embedding"
    kernel, bias = tower[f"{embedding}.weight"], tower[f"{embedding}.bias"]
    x = functional.conv2d(pixels, kernel, bias, stride=8)[0].flatten(1).T
    x = x + tower["embeddings.position_embedding.weight"]
    layer = 0
    while f"encoder.layers.{layer}.mlp.fc1.weight" in tower:
        place = f"encoder.layers.{layer}"
        y = norm(f"{place}.layer_norm1", x)
        q, k, v = (linear(f"{place}.self_attn.{p}_proj", y).view(-1, 2, 12) for p in "qkv")
        shares = torch.einsum("ihd,jhd->hij", q, k).div(12**0.5).softmax(-1)
        mixed = torch.einsum("hij,jhd->ihd", shares, v).flatten(1)
        x = x + linear(f"{place}.self_attn.out_proj", mixed)
        y = linear(f"{place}.mlp.fc1", norm(f"{place}.layer_norm2", x))
        x = x + linear(f"{place}.mlp.fc2", functional.gelu(y, approximate="tanh"))
        layer += 1
    assert layer == 2
    return x


def project_by_hand(weights, patches) -> torch.Tensor:
    prefix = "model.mm_projector."
    steps = sorted({int(k.split(".")[2]) for k in weights if k.startswith(prefix)})
    for step in steps:
        patches = functional.gelu(patches) if step else patches
        matrix, bias = weights[f"{prefix}{step}.weight"], weights[f"{prefix}{step}.bias"]
        patches = patches @ matrix.T + bias
    return patches


def pool_by_hand(grid, mode, stride) -> list[list[torch.Tensor]]:
    """``[side, side, hidden]`` -> rows of pooled patches."""
    side = len(grid)
    if mode == "bilinear":
        count = ceil(side / stride)
        places = []
        for k in range(count):
            exact = max((k + 0.5) * side / count - 0.5, 0.0)
            low = int(exact)
            places.append((low, min(low + 1, side - 1), exact - low))
        return [
            [
                (1 - s) * ((1 - t) * grid[top, left] + t * grid[top, right])
                + s * ((1 - t) * grid[bottom, left] + t * grid[bottom, right])
                for left, right, t in places
            ]
            for top, bottom, s in places
        ]
    starts = range(0, side - stride + 1, stride)
    rows = []
    for i in starts:
        blocks = [grid[i : i + stride, j : j + stride].flatten(0, 1) for j in starts]
        rows.append([b.mean(0) if mode == "average" else b.max(0).values for b in blocks])
    return rows


def rows_by_hand(weights, frame, mode, position, stride=2) -> list[torch.Tensor]:
    """The rows of one frame, with the newlines that belong to it."""
    patches = project_by_hand(weights, siglip_by_hand(weights, frame))
    newline = weights.get("model.image_newline")
    rows = []
    for row in pool_by_hand(patches.view(5, 5, -1), mode, stride):
        rows += row
        if position == "grid":
            rows.append(newline)
    return [*rows, newline] if position == "frame" else rows


def logits_by_hand(weights, decoder, frames, question, answer, position) -> torch.Tensor:
    """The rows of logits that predict the answer, by the saved decoder's own forward pass.

    Args:
        weights: of the checkpoint.
        decoder: runs the pass.
        frames: the rows of each, as `rows_by_hand` gives them.
        question: of the prompt.
        answer: follows it.
        position: of the newline.
    """
    tokenizer = build_tokenizer()
    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\n"
        f"{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    before, after = (
        tokenizer.encode(text, add_special_tokens=False) for text in prompt.split("<image>")
    )
    answer_ids = tokenizer.encode(answer, add_special_tokens=False)
    table = weights["model.embed_tokens.weight"]
    rows = list(table[before])
    for of_frame in frames:
        rows += of_frame
    if position == "one_token":
        rows.append(weights["model.image_newline"])
    rows += [*table[after], *table[answer_ids[:-1]]]
    with torch.inference_mode():
        logits = decoder(inputs_embeds=torch.stack(rows)[None], use_cache=False).logits[0]
    return logits[-len(answer_ids) :]


def logits_by_passes(model, sequences, store, *, share) -> list[torch.Tensor]:
    plan = make_plan(model, sequences, share=share, max_suffix_tokens=0)
    assert not plan.refused and plan.note is None
    assert share == (plan.cost.num_tokens < plan.cost_alone.num_tokens)
    runner = BranchRunner(
        model.decoder,
        DecoderInputs(model, sequences, store),
        chunk_size=23,
    )
    found = {}
    for root in plan.branches:
        for reading in runner.run_all(root):
            found |= dict.fromkeys(reading.sequences, reading.logits)
    return [found[index] for index in range(len(sequences))]


def assert_near(found, expected):
    assert (found - expected).abs().max() < NEAR
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mode", MODES)
def test_rows_of_a_frame_equal_the_rules_by_hand(tmp_path, mode, position, stride):
    write_video_checkpoint(tmp_path, mode, position, mm_spatial_pool_stride=stride)
    model = LlavaModel.load(tmp_path, name="tiny")
    frames = frames_of((44, 44), (20, 61), (90, 37))

    encoded = model.encode_frames(frames)

    weights = load_file(tmp_path / "model.safetensors")
    expected = torch.stack(
        [torch.stack(rows_by_hand(weights, frame, mode, position, stride)) for frame in frames]
    )
    assert encoded.shape == expected.shape == (3, *model.frame_shape)
    torch.testing.assert_close(encoded, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mode", MODES)
def test_logits_equal_the_rules_by_hand(tmp_path, image_folder, needle_folder, mode, position):
    """Pixels in, logits out: through the caches, by plain forward, by the prefill, by the tree."""
    parts = write_video_checkpoint(tmp_path, mode, position)
    model = load_model(tmp_path, device="cpu")
    haystack, needles = open_haystack(image_folder), load_needles(needle_folder)
    store = EncodedFrames.of(model, haystack, needles, 7).store
    samples = list(VisualNeedle().samples(Grid.of([3, 7], [0, 0.5, 1]), needles, haystack))
    assert len(samples) == 6 * len(needles)
    sequences = [compose_candidates(model, sample)[0] for sample in samples]
    alone = logits_by_passes(model, sequences, store, share=False)
    shared = logits_by_passes(model, sequences, store, share=True)

    weights = load_file(tmp_path / "model.safetensors")

    def by_hand(picture):
        return rows_by_hand(weights, picture, mode, position)

    frames = [by_hand(frame.image) for frame in haystack.frames(stop=7)]
    needle_rows = {needle.needle_id: by_hand(np.asarray(needle.image)) for needle in needles}
    needle_of = {needle.needle_id: needle for needle in needles}
    for index, sample in enumerate(samples):
        needle, cell = needle_of[sample.fields["needle_id"]], sample.cell
        shown = frames[: cell.num_frames]
        shown.insert(cell.needle_index, needle_rows[needle.needle_id])
        expected = logits_by_hand(
            weights, parts["decoder"], shown, needle.question, needle.answer, position
        )
        assert_near(alone[index], expected)
        assert_near(shared[index], expected)
        assert_near(plain_logits(model, sequences[index], store), expected)


@pytest.mark.parametrize("model_type", ["llava_qwen", "llava_mistral", "llava_llama"])
def test_forward_pass_holds_for_every_decoder_with_a_newline_after_all_frames(
    tmp_path, needle_folder, model_type
):
    write_video_checkpoint(tmp_path, position="one_token", model_type=model_type)
    report = check_model(load_model(tmp_path, device="cpu"), load_needles(needle_folder))
    assert report.passed and "tokens of the check were shared" in report.lines[-2]


def test_features_are_those_before_the_last_layer_of_the_whole_tower(tmp_path):
    parts = write_video_checkpoint(tmp_path)
    model = LlavaModel.load(tmp_path, name="x")
    model.read_encoder()
    tower = model._reader.tower
    frames = frames_of((44, 44), (30, 50))
    pixels = SiglipImageProcessor(size={"height": SIGLIP_SIZE, "width": SIGLIP_SIZE})(
        images=[Image.fromarray(frame) for frame in frames], return_tensors="pt"
    )
    with torch.inference_mode():
        found = tower.patches(frames, torch.float32)
        states = parts["tower"](**pixels, output_hidden_states=True).hidden_states
    assert len(states) == 4
    torch.testing.assert_close(found, states[-2], rtol=0, atol=1e-5)


def test_tower_that_was_saved_whole_is_read_alike(tmp_path):
    write_video_checkpoint(tmp_path / "a")
    write_video_checkpoint(tmp_path / "b", has_whole_tower=True)
    one, other = (LlavaModel.load(tmp_path / name, name="x") for name in "ab")
    frames = frames_of((44, 44))
    assert torch.equal(one.encode_frames(frames), other.encode_frames(frames))
    assert sum(p.numel() for p in one._reader.tower.module.parameters()) == sum(
        p.numel() for p in other._reader.tower.module.parameters()
    )


def test_tower_folder_may_describe_vision_and_text(tmp_path):
    write_video_checkpoint(tmp_path)
    frames = frames_of((44, 44))
    expected = LlavaModel.load(tmp_path, name="x").encode_frames(frames)
    path = tmp_path / "vision_tower" / "config.json"
    vision = json.loads(path.read_text())
    path.write_text(json.dumps({"model_type": "siglip", "vision_config": vision}))
    assert torch.equal(LlavaModel.load(tmp_path, name="x").encode_frames(frames), expected)


def test_published_siglip_tower_is_known_by_its_name(tmp_path):
    tower = build_tower({"mm_vision_tower": "google/siglip-so400m-patch14-384"}, tmp_path)
    assert (tower.side, tower.hidden_size, tower.is_siglip) == (27, 1152, True)
    assert len(tower.module.encoder.layers) == 26
    assert tower.module.device.type == "meta"
    assert (tower.processor.size["height"], tower.processor.size["width"]) == (384, 384)


@pytest.mark.parametrize(
    ("mode", "position", "num_rows"),
    [
        ("bilinear", "grid", 14 * 15),
        ("bilinear", "frame", 197),
        ("bilinear", "one_token", 196),
        ("bilinear", "no_token", 196),
        ("average", "no_token", 169),
        ("average", "grid", 13 * 14),
        ("max", "frame", 170),
    ],
)
def test_a_frame_of_the_published_sizes_has_so_many_rows(mode, position, num_rows):
    layout = FrameLayout(27, mode, 2, position)
    assert layout.num_rows == num_rows
    rows = layout.rows(torch.zeros(1, 27 * 27, 2), torch.zeros(2))
    assert rows.shape == (1, num_rows, 2)


def test_a_stride_of_one_pools_nothing():
    patches = torch.randn(2, 25, 3, generator=torch.Generator().manual_seed(0))
    for mode in MODES:
        assert torch.equal(FrameLayout(5, mode, 1).rows(patches, None), patches)


def test_newline_after_all_frames_is_a_token_of_its_own(tmp_path):
    write_video_checkpoint(tmp_path, position="one_token", tied=True)
    model = LlavaModel.load(tmp_path, name="x")
    vocabulary = model.decoder.config.vocab_size
    frames = [FrameSegment("x", index) for index in range(3)]
    opening, *shown, newline, asked = model.compose(frames, "find it ?", "7").segments
    assert shown == frames
    assert newline == TextSegment((vocabulary,))
    assert isinstance(opening, TextSegment) and isinstance(asked, TextSegment)
    row = model.decoder.get_input_embeddings()(torch.tensor(newline.token_ids))[0]
    assert torch.equal(row, load_file(tmp_path / "model.safetensors")["model.image_newline"])
    assert model.decoder.lm_head.weight.shape == (vocabulary, 32)
    assert model.decoder(inputs_embeds=row[None, None]).logits.shape[-1] == vocabulary


def test_without_frames_there_is_no_newline(tmp_path):
    write_video_checkpoint(tmp_path, position="one_token")
    model = LlavaModel.load(tmp_path, name="x")
    assert len(model.compose([], "find it ?", "7").segments) == 2


@pytest.mark.parametrize(
    ("changes", "position", "num_rows"),
    [
        ({}, "one_token", 9),
        ({"mm_newline_position": None}, "one_token", 9),
        ({"mm_newline_position": "no_token"}, None, 9),
        ({"mm_newline_position": "grid", "mm_patch_merge_type": "flat"}, None, 9),
        ({"mm_newline_position": "grid", "mm_patch_merge_type": "spatial"}, "grid", 12),
        ({"mm_patch_merge_type": "spatial"}, None, 9),
        ({"mm_patch_merge_type": None}, None, 9),
    ],
)
def test_newline_follows_position_and_merge_type(tmp_path, changes, position, num_rows):
    write_checkpoint(
        tmp_path,
        family="siglip",
        has_newline=True,
        **{"mm_spatial_pool_mode": "bilinear"} | changes,
    )
    model = LlavaModel.load(tmp_path, name="x")
    assert model.settings.get("newline_position") == position
    assert model.frame_shape == (num_rows, 32)
    ends = model.compose([FrameSegment("x", 0)], "?", "7").segments[2:-1]
    assert len(ends) == (position == "one_token")


def test_clip_checkpoint_without_the_fields_is_read_as_the_published_runs_did(tmp_path):
    write_checkpoint(tmp_path, has_newline=True, mm_patch_merge_type="spatial_unpad")
    model = LlavaModel.load(tmp_path, name="x")
    assert model.frame_shape == (4, 32)
    assert model.encoding == {
        "adapter": "llava 1",
        "preprocessing": "pad to square, 32 px, layer -2, 2x2 average pooling",
    }
    assert model.settings == {"prompt_template": "qwen2", "rope_theta": 5000.0}


def test_clip_checkpoint_may_have_newlines_and_another_pooling(tmp_path):
    layout = {"mm_patch_merge_type": "spatial_unpad", "mm_spatial_pool_mode": "max"}
    write_checkpoint(tmp_path / "a", has_newline=True, **layout, mm_newline_position="grid")
    write_checkpoint(tmp_path / "b", has_newline=True, **layout)
    frames = frames_of((32, 32), (20, 40))
    with_newlines, without = (
        LlavaModel.load(tmp_path / name, name="x").encode_frames(frames) for name in "ab"
    )
    newline = load_file(tmp_path / "a" / "model.safetensors")["model.image_newline"]
    assert with_newlines.shape == (2, 6, 32)
    assert torch.equal(with_newlines[:, [0, 1, 3, 4]], without)
    assert torch.equal(with_newlines[:, [2, 5]], newline.expand(2, 2, -1))


@pytest.mark.parametrize(
    ("mode", "position", "text"),
    [
        ("bilinear", "grid", "2x2 bilinear pooling, newline after each row"),
        ("max", "frame", "2x2 max pooling, newline at the end"),
        ("average", "one_token", "2x2 average pooling"),
    ],
)
def test_what_decides_a_frame_is_part_of_the_caches_identity(tmp_path, mode, position, text):
    write_video_checkpoint(tmp_path, mode, position)
    model = LlavaModel.load(tmp_path, name="x")
    assert model.encoding["preprocessing"] == f"resize to square, 44 px, layer -1, {text}"


@pytest.mark.parametrize("num_projections", [1, 3])
def test_projectors_of_other_depths_are_read(tmp_path, num_projections):
    write_video_checkpoint(tmp_path, num_projections=num_projections)
    frames = frames_of((44, 44))
    found = LlavaModel.load(tmp_path, name="x").encode_frames(frames)[0]
    weights = load_file(tmp_path / "model.safetensors")
    expected = torch.stack(rows_by_hand(weights, frames[0], "bilinear", "grid"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_linear_projector_is_read(tmp_path):
    """It is one matrix, whose name in the file has no number."""
    from safetensors.torch import save_file

    write_video_checkpoint(tmp_path, num_projections=1)
    frames = frames_of((44, 44))
    expected = LlavaModel.load(tmp_path, name="x").encode_frames(frames)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file({k.replace("projector.0.", "projector."): w for k, w in weights.items()}, path)
    change_config(tmp_path, mm_projector_type="linear")
    assert torch.equal(LlavaModel.load(tmp_path, name="x").encode_frames(frames), expected)


def test_fields_of_a_published_video_checkpoint_are_accepted(tmp_path):
    parts = write_checkpoint(tmp_path, family="siglip", has_newline=True, **VIDEO_FIELDS)
    model = load_model(tmp_path, device="cpu")
    assert model.frame_shape == (12, 32)
    assert model.decoder.config.sliding_window is None
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.equal(model.decoder(ids).logits, parts["decoder"](ids).logits)


@pytest.mark.parametrize(
    ("architecture", "decoder"),
    [
        ("LlavaQwenForCausalLM", "qwen2"),
        ("LlavaMistralForCausalLM", "mistral"),
        ("LlavaLlamaForCausalLM", "llama"),
    ],
)
def test_type_llava_is_told_by_the_architecture(tmp_path, architecture, decoder):
    own = {"qwen2": "llava_qwen", "mistral": "llava_mistral", "llama": "llava_llama"}[decoder]
    write_video_checkpoint(tmp_path, model_type=own)
    change_config(tmp_path, model_type="llava", architectures=[architecture])
    assert load_model(tmp_path, device="cpu").decoder.config.model_type == decoder


@pytest.mark.parametrize("architectures", [["LlavaForConditionalGeneration"], [], None])
def test_type_llava_of_another_layout_is_another_model(architectures):
    assert llava_type({"model_type": "llava", "architectures": architectures}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mm_spatial_pool_mode": None},
            "mm_spatial_pool_mode = None; .* reads 'average'",
        ),
        ({"mm_spatial_pool_mode": "conv"}, "mm_spatial_pool_mode = 'conv'"),
        ({"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride = 0; it must be a number from 1"),
        ({"mm_spatial_pool_stride": 6}, "mm_spatial_pool_stride = 6; it must be .* 1 to 5,"),
        ({"mm_spatial_pool_stride": 1.5}, r"mm_spatial_pool_stride must be a whole .* got 1\.5"),
        ({"mm_newline_position": "row"}, "mm_newline_position = 'row'; vniah reads 'grid'"),
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type = 'perceiver'"),
        ({"mm_projector_type": "pooler"}, "mm_projector_type = 'pooler'; .* 'mlp2x_gelu'"),
        ({"mm_projector_type": "mlp0x_gelu"}, "mm_projector_type = 'mlp0x_gelu'"),
        ({"mm_projector_type": "mlp3x_gelu"}, "lacks the weight 'projector.4.bias'"),
        ({"add_faster_video": True}, "add_faster_video = True"),
        ({"s2": True}, "s2 = True"),
        ({"hidden_size": 64}, "config.json makes it"),
        (
            {"mm_vision_tower": "google/siglip2-base-patch16-224"},
            "names the vision tower 'google/siglip2-base-patch16-224'; .* openai/clip.* "
            "google/siglip-so400m-patch14-384 and towers",
        ),
        ({"mm_vision_tower": "google/siglip-so400m-patch14-384"}, "its config.json makes it"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path, changes, message):
    write_video_checkpoint(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=message) as refusal:
        load_model(tmp_path, device="cpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("position", ["grid", "frame", "one_token"])
def test_newline_that_the_checkpoint_lacks_is_named(tmp_path, position):
    write_video_checkpoint(tmp_path, position=position, has_newline=False)
    message = f"lacks the weight 'model.image_newline', which mm_newline_position = '{position}'"
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "vision_tower(/config.json cannot| has no config.json)"),
        ("config.json", None, "vision_tower(/config.json cannot| has no config.json)"),
        ("preprocessor_config.json", None, "the vision tower in .* cannot be loaded"),
        (
            "preprocessor_config.json",
            json.dumps({"size": {"height": 30, "width": 30}}),
            "a SigLIP tower for pictures of 44 px, and preprocessing to 30 x 30 px",
        ),
    ],
)
def test_tower_folder_that_cannot_be_used_is_refused(tmp_path, file, content, message):
    write_video_checkpoint(tmp_path)
    path = tmp_path / "vision_tower" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=message) as refusal:
        load_model(tmp_path, device="cpu")
    assert "\n" not in str(refusal.value)


def test_siglip_tower_of_a_single_layer_is_refused(tmp_path):
    write_video_checkpoint(tmp_path)
    path = tmp_path / "vision_tower" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(ModelError, match="a SigLIP tower of 1 layer"):
        load_model(tmp_path, device="cpu")


def test_tokenizer_whose_ids_reach_the_newline_is_refused(tmp_path):
    from safetensors.torch import save_file

    write_video_checkpoint(tmp_path, position="one_token")
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:-2].clone()
    save_file(weights, path)
    change_config(tmp_path, vocab_size=len(weights["lm_head.weight"]))
    with pytest.raises(ModelError, match=r"gives token ids up to 38, .* embeddings for 0 to 36"):
        load_model(tmp_path, device="cpu")


def test_frames_are_resized_and_not_padded_with_siglip_only(tmp_path):
    """A picture that is half as high is the same to SigLIP, and another one to CLIP."""
    write_video_checkpoint(tmp_path / "siglip")
    write_checkpoint(tmp_path / "clip")
    whole = np.full((44, 44, 3), 90, np.uint8)
    siglip, clip = (LlavaModel.load(tmp_path / name, name="x") for name in ("siglip", "clip"))
    assert isinstance(clip._reader.tower.processor, CLIPImageProcessor)
    one, half = siglip.encode_frames([whole, whole[:22]])
    assert torch.allclose(one, half, atol=1e-5)
    one, half = clip.encode_frames([whole, whole[:22]])
    assert not torch.allclose(one, half, atol=1e-2)


@pytest.mark.usefixtures("quick_pictures")
def test_commands_run_on_a_siglip_checkpoint(tmp_path, image_folder, capsys):
    write_video_checkpoint(tmp_path / "model", position="one_token")
    model = ["--model", str(tmp_path / "model"), "--device", "cpu"]
    assert main(["check", *model, "--needles", "counterfactual"]) == 0
    assert "the forward pass gives what the model gives" in capsys.readouterr().out
    grid = ["--haystack", str(image_folder), "--frames", "2,4", "--depths", "0:1:0.5"]
    out = tmp_path / "run"
    assert main(["run", *model, *grid, "--needles", "counterfactual", "--output", str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["newline_position"] == "one_token"
    assert manifest["model"]["tokens_per_frame"] == 9
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    controls = {"no-needle", "option-rotation", "blind", "other-needle"}
    assert {sample["control"] for sample in samples} == {None, *controls}
    assert not any(sample["error"] for sample in samples)
