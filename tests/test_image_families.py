"""What is particular to single families that read images; `test_huggingface` holds for all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from families import Tiny, build, pictures
from image_families import build_aya_vision, build_gemma4, build_mistral3
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.engines.agreement import plain_logits
from vniah.engines.document_losses import check_losses, document_losses
from vniah.engines.documents import cut_documents, prompt_of_frames
from vniah.engines.inputs import DecoderInputs, decoder_logits
from vniah.engines.planning import make_plan
from vniah.errors import InputError, ModelError
from vniah.forward.runner import BranchRunner
from vniah.haystacks.text import open_text
from vniah.models.huggingface.templates import render
from vniah.models.loading import load_folder
from vniah.models.weights import read_rows
from vniah.options import LoadOptions
from vniah.protocol import FrameSegment

QUESTION, ANSWER = "What digit is on the red card?", "It is 7"
NUM_FRAMES = 4
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def quiet():
    """No progress bars and warnings of transformers among the tests' output."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def saved(tiny: Tiny, tmp_path: Path):
    folder = tiny.save(tmp_path / "checkpoint")
    return load(tiny, folder), folder


def load(tiny: Tiny, folder: Path):
    options = LoadOptions(frame_size=tiny.frame_size)
    return load_folder(folder, name=tiny.model_type, options=options)


def compose(model, num_frames: int = NUM_FRAMES):
    frames = [FrameSegment("haystack", index) for index in range(num_frames)]
    return model.compose(frames, QUESTION, ANSWER)


def encode(model, shown) -> torch.Tensor:
    return model.encode_frames([np.array(picture) for picture in shown])


@pytest.mark.parametrize(
    ("builder", "decoder"),
    [
        # These scale queries by their position, here from the 16th on.
        (build_mistral3, "ministral3"),
        (build_mistral3, "mistral4"),
        (build_aya_vision, "cohere"),
        (build_gemma4, "small"),
    ],
)
def test_other_decoders_of_a_family_equal_the_own_forward_on_pixels(builder, decoder, tmp_path):
    tiny = builder(decoder)
    model, _ = saved(tiny, tmp_path)
    shown = pictures(NUM_FRAMES, model.frame_size)
    cache = EmbeddingCache(tmp_path / "cache", {"model": model.name}, model.frame_shape)
    cache.append(encode(model, shown), [float(index) for index in range(NUM_FRAMES)], [])
    store = FrameStore({"haystack": (cache, 0)})
    sequences = [compose(model, num_frames) for num_frames in range(1, NUM_FRAMES + 1)]
    plan = make_plan(model, sequences, max_suffix_tokens=0)
    runner = BranchRunner(model.decoder, DecoderInputs(model, sequences, store), chunk_size=13)
    by_tree = {}
    for root in plan.branches:
        for reading in runner.run_all(root):
            by_tree |= dict.fromkeys(reading.sequences, reading.logits)
    for index, sequence in enumerate(sequences):
        own = tiny.own_logits(shown[: index + 1], QUESTION, sequence.answer_ids)
        for found in (
            model.answer_logits(sequence, store.read(sequence.frames)),
            plain_logits(model, sequence, store),
            decoder_logits(model, sequence, store),
            by_tree[index],
        ):
            assert (found - own).abs().max() < TOLERANCE
            assert torch.equal(found.argmax(-1), own.argmax(-1))


@pytest.mark.parametrize("scaling", ["none", "linear:2", "yarn:4"])
def test_queries_of_ministral3_are_scaled_as_before_with_another_rope(scaling, tmp_path):
    tiny = build_mistral3("ministral3")
    model, _ = saved(tiny, tmp_path)
    sequence, embeds = compose(model), encode(model, pictures(NUM_FRAMES, model.frame_size))
    model.override_rope(scaling=scaling)
    found = model.answer_logits(sequence, embeds)
    parameters = model._model.config.text_config.rope_parameters
    assert parameters["original_max_position_embeddings"] == 16
    assert parameters["llama_4_scaling_beta"] == 0.5
    parameters["llama_4_scaling_beta"] = 0.0
    assert (model.answer_logits(sequence, embeds) - found).abs().max() > 0.01


def test_rope_of_latent_attention_is_that_of_a_decoder_built_with_it(tmp_path):
    """Such a layer also scales its scores by the RoPE's parameters, once, when it is built."""
    tiny = build("kimi_k25")
    model, folder = saved(tiny, tmp_path)
    sequence, embeds = compose(model), encode(model, pictures(NUM_FRAMES, model.frame_size))
    before = model.answer_logits(sequence, embeds)
    scaling = {
        "rope_type": "yarn",
        "factor": 8.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.8,
        "original_max_position_embeddings": 4096,
    }
    model.override_rope(scaling=scaling)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["rope_parameters"] |= scaling
    path.write_text(json.dumps(config))
    built = load(tiny, folder).answer_logits(sequence, embeds)
    assert torch.equal(model.answer_logits(sequence, embeds), built)
    assert (built - before).abs().max() > 0.1
    model.override_rope()
    assert torch.equal(model.answer_logits(sequence, embeds), before)


def test_rope_that_transformers_builds_for_the_whole_head_of_mistral4_is_refused(tmp_path):
    """Without a scaling, transformers 5.23 forgets that only a part of a head is rotated."""
    model, _ = saved(build_mistral3("mistral4"), tmp_path)
    with pytest.raises(InputError, match="would rotate 24 dimensions of a head in place of 8"):
        model.override_rope(scaling="none")
    assert '"factor":8.0' in model.settings["rope_scaling"], "that of the checkpoint stays"


def test_lines_of_mistral3_end_with_rows_of_the_table(tmp_path):
    tiny = build("mistral3")
    model, folder = saved(tiny, tmp_path)
    height, width = model.frame_size[1] // 28, model.frame_size[0] // 28
    (frame,) = encode(model, pictures(1, model.frame_size))
    lines = frame.view(height, width + 1, -1)
    ids = tiny.tokenizer.convert_tokens_to_ids(["[IMG_BREAK]", "[IMG_END]"])
    table = tiny.model.get_input_embeddings().weight
    assert torch.equal(lines[:-1, -1], table[ids[0]].expand(height - 1, -1))
    assert torch.equal(lines[-1, -1], table[ids[1]])
    assert torch.equal(read_rows(folder, "embed_tokens.weight", ids), table[ids])
    with pytest.raises(ModelError, match=r"shape \[\d+, 64\], which has no row 5000"):
        read_rows(folder, "embed_tokens.weight", [5000])
    with pytest.raises(ModelError, match=r"holds 0 weights 'no\.weight', one is needed"):
        read_rows(folder, "no.weight", [0])


@pytest.mark.parametrize("model_type", ["aya_vision", "cohere2_vision"])
def test_logits_of_cohere_are_scaled_as_its_language_model_scales_them(model_type, tmp_path):
    """transformers leaves it out of the whole model; if it scales one day, this fails."""
    tiny = build(model_type)
    model, _ = saved(tiny, tmp_path)
    text_model = transformers.Cohere2ForCausalLM(tiny.model.config.text_config).eval()
    text_model.model = tiny.model.model.language_model
    text_model.lm_head = tiny.model.lm_head
    sequence = model.compose((), QUESTION, ANSWER)
    ids = [token for piece in sequence.pieces for token in piece.token_ids]
    whole = torch.tensor([[*ids, *sequence.answer_ids]])
    num_rows = len(sequence.answer_ids)
    with torch.inference_mode():
        scaled = text_model(input_ids=whole).logits[0, -num_rows - 1 : -1]
        unscaled = tiny.model(input_ids=whole).logits[0, -num_rows - 1 : -1]
    found = model.answer_logits(sequence, torch.zeros(0, *model.frame_shape))
    assert (found - scaled).abs().max() < TOLERANCE
    assert (2 * found - unscaled).abs().max() < TOLERANCE


def test_four_equal_frames_of_kimi_are_not_one(tmp_path):
    tiny = build("kimi_k25")
    model, _ = saved(tiny, tmp_path)
    shown = pictures(2, model.frame_size)
    groups = encode(model, shown)
    patches = model._patches([model._fit(frame) for frame in shown]).flatten(0, 1)
    grid = [[1, model.frame_size[1] // 14, model.frame_size[0] // 14]] * 2
    single = model._model.get_image_features(patches, torch.tensor(grid)).pooler_output
    assert (groups - torch.stack(list(single))).abs().max() > 0.1
    # The method for videos, which transformers 5.23 has, cuts the rows as if they were not pooled.
    with pytest.raises(RuntimeError, match="split_sizes"):
        model._model.get_video_features(
            patches.repeat(4, 1, 1, 1), torch.tensor([[4, *grid[0][1:]]] * 2)
        )


def test_llama4_fits_a_frame_into_the_corner_of_a_tile(tmp_path):
    model, _ = saved(build("llama4"), tmp_path)
    wide = np.full((30, 90, 3), 200, np.uint8)
    (picture,) = model.prepared_frames([wide])
    assert picture.shape == (56, 56, 3)
    assert (picture[:18] == 200).all() and not picture[18:].any()
    marked = wide.copy()
    marked[:, -9:] = 0
    one, other = model.encode_frames([wide, marked])
    assert (one - other).abs().max() > 0.1


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    tiny = build("ovis2")
    _, folder = saved(tiny, tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"visual_indicator_token_ids": [90, 91, 92, 93, 94]}))
    with pytest.raises(ModelError, match=r"names the visual indicators \[90, 91, 92, 93, 94\]"):
        load(tiny, folder)
    other = tiny_without(build("mistral3"), "[IMG_END]", tmp_path)
    with pytest.raises(ModelError, match=r"has no token '\[IMG_END\]'"):
        load_folder(other, name="tiny")


def tiny_without(tiny: Tiny, token: str, tmp_path: Path) -> Path:
    """A checkpoint whose tokenizer writes a token in another way."""
    folder = tiny.save(tmp_path / "without")
    for path in folder.glob("*token*.json"):
        path.write_text(path.read_text().replace(token, "<other>"))
    return folder


def test_template_that_writes_the_date_writes_the_same_one_every_day():
    tokenizer = build("mistral3").tokenizer
    chat = [{"role": "user", "content": "Which?"}]

    def written(template: str) -> str:
        return render(tokenizer, template + "{{ messages[0]['content'] }}", chat, asks=True)

    assert written("{{ strftime_now('%Y-%m-%d') }}, ") == "2025-01-01, Which?"
    assert (
        written("{%- set day = strftime_now('%d %b %Y') %}\n\n{{ day }}: ")
        == "\n01 Jan 2025: Which?"
    )
    assert written("\n  {% if strftime_now is defined %}It is {% endif %}") == "\nIt is Which?"


def test_processor_that_needs_torchvision_is_read_with_pillow(tmp_path):
    """The file names a class that cannot be imported here; its numbers are used."""
    tiny = build("cohere2_vision")
    model, folder = saved(tiny, tmp_path)
    written = json.loads((folder / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "Cohere2VisionImageProcessor"
    written["image_mean"] = [0.1, 0.2, 0.3]
    (folder / "preprocessor_config.json").write_text(json.dumps(written))
    changed = load(tiny, folder)
    assert list(changed._image_processor.image_mean) == [0.1, 0.2, 0.3]
    shown = pictures(1, model.frame_size)
    assert (encode(changed, shown) - encode(model, shown)).abs().max() > 0.1


def test_small_gemma4_reads_a_checkpoint_that_holds_keys_which_no_layer_has(tmp_path):
    """The authors store them; transformers leaves them out by their names."""
    tiny = build_gemma4("small")
    folder = tiny.save(tmp_path / "checkpoint")
    path = folder / "model.safetensors"
    weights = load_file(path)
    for part in ("k_proj", "v_proj", "k_norm"):
        weights[f"model.language_model.layers.4.self_attn.{part}.weight"] = torch.ones(32, 32)
    save_file(weights, path, metadata={"format": "pt"})
    model = load(tiny, folder)
    shown = pictures(NUM_FRAMES, model.frame_size)
    sequence = compose(model)
    rows = encode(model, shown)
    found = model.answer_logits(sequence, rows)
    own = tiny.own_logits(shown, QUESTION, sequence.answer_ids)
    assert (found - own).abs().max() < TOLERANCE
    options = LoadOptions(frame_size=tiny.frame_size)
    encoder = load_folder(folder, name=tiny.model_type, options=options, has_decoder=False)
    assert torch.equal(encode(encoder, shown), rows)


@pytest.mark.parametrize("kind", ["large", "small"])
def test_losses_after_frames_of_gemma4_equal_the_own_forward(kind, tmp_path):
    tiny = build_gemma4(kind)
    model, _ = saved(tiny, tmp_path)
    prompt = prompt_of_frames(model, NUM_FRAMES)
    num_tokens = prompt.num_tokens(model.frame_shape[-2]) + 40
    document = next(cut_documents(model, open_text(num_tokens=400), num_tokens, prompt=prompt))
    shown, ids = pictures(NUM_FRAMES, model.frame_size), document.sequence.answer_ids
    cache = EmbeddingCache(tmp_path / "cache", {"model": model.name}, model.frame_shape)
    cache.append(encode(model, shown), [float(index) for index in range(NUM_FRAMES)], [])
    store = FrameStore({"haystack": (cache, 0)})
    found = document_losses(model, document.sequence, store=store, chunk_size=50)
    own = cross_entropy(tiny.own_logits(shown, "", ids), torch.tensor(ids), reduction="none")
    assert (found - own).abs().max() < TOLERANCE
    check_losses(model, document, store=store)


def test_size_of_frames_of_gemma4_is_the_largest_that_its_videos_have(tmp_path):
    tiny = build("gemma4")
    model, folder = saved(tiny, tmp_path)
    assert load_folder(folder, name="tiny").frame_size == (8 * 24, 8 * 24)  # 64 of 70 tokens
    with pytest.raises(ModelError, match=r"of 240x192 pixels has 80 tokens, and .* of at most 70"):
        load_folder(folder, name="tiny", options=LoadOptions(frame_size=(240, 192)))
    settings = {"video_processor_type": "Gemma4VideoProcessor", "max_soft_tokens": 140}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    larger = load_folder(folder, name="tiny", options=LoadOptions(frame_size=(240, 192)))
    assert larger.frame_shape == (80, 64)
    assert tuple(encode(larger, pictures(1, (240, 192))).shape) == (1, 80, 64)
    # Places are filled up to the most tokens there may be; that changes no row.
    shown = pictures(1, model.frame_size)
    larger.frame_size = model.frame_size
    assert torch.allclose(encode(larger, shown), encode(model, shown), atol=1e-4)


def test_rope_of_gemma4_takes_another_base_and_no_scaling(tmp_path):
    model, _ = saved(build("gemma4"), tmp_path)
    sequence, embeds = compose(model), encode(model, pictures(NUM_FRAMES, model.frame_size))
    before = model.answer_logits(sequence, embeds)
    for scaling in ("none", "linear:2", "yarn:4"):
        with pytest.raises(InputError, match="it rotates a part of each head, and no scaling"):
            model.override_rope(scaling=scaling)
    model.override_rope(theta=100.0)
    assert (model.answer_logits(sequence, embeds) - before).abs().max() > 0.1
    model.override_rope()
    assert torch.equal(model.answer_logits(sequence, embeds), before)


def test_gemma4_without_its_marks_or_with_other_masks_is_refused(tmp_path):
    tiny = build("gemma4")
    folder = tiny.save(tmp_path / "checkpoint")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["boi_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has no boi_token, which this family writes around every"):
        load(tiny, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gemma4_unified"}))
    with pytest.raises(
        ModelError, match="'gemma4_unified', which vniah does not read: transformers"
    ):
        load(tiny, folder)
