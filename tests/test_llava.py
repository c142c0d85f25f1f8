"""The LongVA / LLaVA-NeXT adapter against the same modules run by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
from checkpoints import ROPE_THETA, change_config, write_checkpoint
from PIL import Image
from transformers import CLIPImageProcessorPil as CLIPImageProcessor

from vniah.engines.inputs import DecoderInputs
from vniah.errors import InputError, ModelError
from vniah.models.llava.model import LlavaModel
from vniah.models.loading import load_model
from vniah.options import LoadOptions
from vniah.protocol import DecoderModel, FrameSegment, TextSegment, VisionLanguageModel

PINNED_PROMPTS = {
    "qwen2": "a8fc451e655a25d8",
    "yi": "6e894a79b1d3ca1f",
    "mistral": "2d7b97cce6624575",
    "vicuna": "e4809bbde919ea76",
    "llama3": "7b4f0878f88db5bf",
}


def frames_of(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes]


def load_as(folder, **options) -> LlavaModel:
    return LlavaModel.load(folder, name="x", options=LoadOptions(**options))


def features_by_hand(parts, folder, frames) -> torch.Tensor:
    """Pad, tower, projector and pooling, one frame after the other and spelt out."""
    processor = CLIPImageProcessor.from_pretrained(folder / "vision_tower")
    features = []
    for frame in frames:
        height, width = frame.shape[:2]
        side = max(height, width)
        square = np.empty((side, side, 3), np.uint8)
        square[:] = [int(255 * mean) for mean in processor.image_mean]
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = frame
        pixels = processor(images=Image.fromarray(square), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            states = parts["tower"](pixel_values=pixels, output_hidden_states=True).hidden_states
            patches = parts["projector"](states[-2][0, 1:])
        tokens = []
        for row in (0, 2):
            for column in (0, 2):
                block = [(row + i) * 4 + column + j for i in (0, 1) for j in (0, 1)]
                tokens.append(patches[block].mean(0))
        features.append(torch.stack(tokens))
    return torch.stack(features)


@pytest.mark.parametrize("model_type", ["llava_qwen", "llava_mistral", "llava_llama"])
def test_encoded_frames_equal_the_pipeline_by_hand(tmp_path, model_type):
    parts = write_checkpoint(tmp_path, model_type)
    model = LlavaModel.load(tmp_path, name="tiny")
    frames = frames_of((32, 32), (20, 44), (48, 30))

    encoded = model.encode_frames(frames)

    assert model.frame_shape == (4, 32)
    assert encoded.shape == (3, 4, 32)
    torch.testing.assert_close(
        encoded, features_by_hand(parts, tmp_path, frames), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("model_type", ["llava_qwen", "llava_mistral", "llava_llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_loaded_decoder_equals_the_saved_one(tmp_path, model_type, tied):
    parts = write_checkpoint(tmp_path, model_type, tied=tied, num_shards=3)
    model = LlavaModel.load(tmp_path, name="tiny")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected = parts["decoder"](input_ids=ids).logits
        assert torch.equal(model.decoder(input_ids=ids).logits, expected)


def test_it_is_a_decoder_model_and_no_answer_logits_model(tmp_path):
    write_checkpoint(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert isinstance(model, DecoderModel)
    assert not isinstance(model, VisionLanguageModel)


def test_composed_sequence_has_the_published_order(tmp_path):
    write_checkpoint(tmp_path)
    model = LlavaModel.load(tmp_path, name="tiny")
    frames = [FrameSegment("haystack/x", i) for i in range(3)]
    sequence = model.compose(frames, "find the red card", "7")
    opening, *middle, asked = sequence.segments
    assert middle == frames
    assert isinstance(opening, TextSegment) and isinstance(asked, TextSegment)
    assert model.decode(opening.token_ids).startswith("<|im_start|> system")
    assert model.decode(asked.token_ids) == "find the red card <|im_end|> <|im_start|> assistant"
    assert model.decode(sequence.answer_ids) == "7"


def test_compose_is_prefix_stable(tmp_path):
    write_checkpoint(tmp_path)
    model = LlavaModel.load(tmp_path, name="tiny")
    frames = [FrameSegment("haystack/x", i) for i in range(5)]
    short = model.compose(frames[:3], "what is on it ?", "yes")
    long = model.compose(frames, "what is on it ?", "yes")
    assert long.segments[:4] == short.segments[:4]


def test_weights_keep_their_dtype_and_rope_stays_in_fp32(tmp_path):
    write_checkpoint(tmp_path, dtype=torch.float16)
    model = LlavaModel.load(tmp_path, name="tiny")
    assert model.dtype == torch.float16
    assert {p.dtype for p in model.decoder.parameters()} == {torch.float16}
    assert model.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    assert load_as(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_default_dtype_on_the_cpu_is_fp32(tmp_path):
    write_checkpoint(tmp_path, dtype=torch.float16)
    assert load_model(tmp_path, device="cpu").dtype == torch.float32
    assert load_model(tmp_path, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_answers_end_with_the_tokens_that_the_checkpoint_names(tmp_path):
    write_checkpoint(tmp_path)
    assert LlavaModel.load(tmp_path, name="tiny").stop_ids == ()
    change_config(tmp_path, eos_token_id=3)
    assert LlavaModel.load(tmp_path, name="tiny").stop_ids == (3,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [11, 3, 1]}')
    assert LlavaModel.load(tmp_path, name="tiny").stop_ids == (1, 3, 11)
    tokenizer = tmp_path / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "eos_token": "no"}))
    assert LlavaModel.load(tmp_path, name="tiny").stop_ids == (1, 3, 11, 33)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config.json cannot be read as JSON"):
        LlavaModel.load(tmp_path, name="tiny")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(ModelError, match=r"eos_token_id must be a whole .* got 'x'"):
        LlavaModel.load(tmp_path, name="tiny")


def test_rope_theta_of_the_checkpoint_is_used_unless_another_is_given(tmp_path):
    write_checkpoint(tmp_path)
    head_dim = 8
    exponents = torch.arange(0, head_dim, 2).float() / head_dim
    stored = load_model(tmp_path, device="cpu")
    raised = load_model(tmp_path, device="cpu", rope_theta=1e6)
    torch.testing.assert_close(stored.decoder.model.rotary_emb.inv_freq, 1 / ROPE_THETA**exponents)
    torch.testing.assert_close(raised.decoder.model.rotary_emb.inv_freq, 1 / 1e6**exponents)
    assert raised.settings["rope_theta"] == 1e6
    assert raised.revision == stored.revision


SCALINGS = [
    {"type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.get("rope_type", "linear"))
@pytest.mark.parametrize("form", ["rope_scaling", "rope_parameters", "override"])
def test_rope_scaling_is_read_from_either_form_and_overridden(tmp_path, scaling, form):
    parts = write_checkpoint(tmp_path, "llava_llama", max_position_embeddings=8)
    options = {"rope_scaling": scaling} if form == "override" else {}
    if form != "override":
        change_config(tmp_path, **{form: scaling})
    model = load_model(tmp_path, device="cpu", **options)
    config = parts["decoder"].config
    config.max_position_embeddings = 8
    kind = {"rope_type": scaling.get("type"), **scaling}
    config.rope_parameters = {**kind, "rope_theta": ROPE_THETA}
    expected = type(parts["decoder"])(config).eval()
    expected.load_state_dict(parts["decoder"].state_dict())
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(model.decoder(input_ids=ids).logits, expected(input_ids=ids).logits)
    assert f'"rope_type":"{kind["rope_type"]}"' in model.settings["rope_scaling"]


def test_scaling_of_a_checkpoint_is_switched_off_as_the_published_class_does(tmp_path):
    parts = write_checkpoint(tmp_path, rope_scaling={"type": "linear", "factor": 4})
    model = load_model(tmp_path, device="cpu", rope_scaling="none")
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        expected = parts["decoder"](input_ids=ids).logits
        assert torch.equal(model.decoder(input_ids=ids).logits, expected)
    assert model.settings == {"prompt_template": "qwen2", "rope_theta": ROPE_THETA}


def test_overridden_in_place_equals_loaded_anew(tmp_path):
    write_checkpoint(tmp_path)
    model = load_model(tmp_path, device="cpu")
    own, ids = dict(model.settings), torch.arange(20)[None]
    for options in ({"rope_theta": 1e6}, {"rope_scaling": "yarn:4"}, {}):
        anew = load_model(tmp_path, device="cpu", **options)
        model.override_rope(options.get("rope_theta"), options.get("rope_scaling"))
        with torch.inference_mode():
            logits = [m.decoder(input_ids=ids).logits for m in (model, anew)]
        assert torch.equal(*logits)
        assert model.settings == anew.settings
    assert model.settings == own


def test_embedded_sequence_is_text_table_and_frames_in_order(tmp_path):
    write_checkpoint(tmp_path)
    model = LlavaModel.load(tmp_path, name="tiny")
    encoded = model.encode_frames(frames_of((32, 32), (32, 32), (32, 32)))

    class Store:
        def read_runs(self, frames, **_):
            for frame in frames:
                yield encoded[frame.index][None]

    order = [2, 0, 1]
    sequence = model.compose([FrameSegment("x", i) for i in order], "find it ?", "4 7")
    hidden = DecoderInputs(model, [], Store()).embed(
        sequence.inputs, 0, sequence.num_tokens(model.frame_shape[0])
    )
    table = model.decoder.get_input_embeddings()
    opening, asked = sequence.segments[0], sequence.segments[-1]
    expected = torch.cat(
        [
            table(torch.tensor(opening.token_ids)),
            encoded[order].flatten(0, 1),
            table(torch.tensor((*asked.token_ids, sequence.answer_ids[0]))),
        ]
    )
    assert torch.equal(hidden, expected)
    assert model.position_ids(sequence).tolist() == list(range(len(expected)))


def test_revision_follows_the_weights_not_the_place(tmp_path):
    write_checkpoint(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_checkpoint(tmp_path / "c", seed=1)
    revisions = [LlavaModel.load(tmp_path / name, name="x").revision for name in "abc"]
    assert revisions[0] == revisions[1] != revisions[2]


def test_published_tower_is_known_without_its_config(tmp_path):
    write_checkpoint(tmp_path, mm_vision_tower="openai/clip-vit-large-patch14-336")
    # the weights are those of a tiny tower, so the shapes tell that the published one was built
    with pytest.raises(ModelError, match=r"config.json makes it \[\d*,? ?1024"):
        LlavaModel.load(tmp_path, name="x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen9_vl"}, "model_type 'qwen9_vl'; supported are llava_qwen"),
        ({"mm_projector_type": "mlp2x_res2x_gelu"}, "mm_projector_type = 'mlp2x_res2x_gelu'"),
        ({"mm_projector_type": "linear"}, "which the model does not have"),
        ({"mm_spatial_pool_mode": "conv"}, "mm_spatial_pool_mode = 'conv'"),
        ({"mm_vision_tower": None}, "names no mm_vision_tower"),
        ({"mm_vision_select_layer": -9}, "takes layer -9 of a vision tower that has 3"),
        ({"mm_vision_select_layer": "x"}, "select_layer must be a whole number, got 'x'"),
        ({"rope_scaling": {"type": "su", "factor": 4}}, "cannot be used: rope_scaling must be"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8}}, "Missing required keys"),
        ({"rope_theta": 0.5}, "rope_theta must be a number above 1, got 0.5"),
        ({"quantization_config": {"bits": 4}}, "has a quantization_config: its weights are"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end = True"),
        ({"vocab_size": "a"}, "vocab_size must be a whole number or null, got 'a'"),
        ({"hidden_act": "nope"}, "the model that config.json describes in .* cannot be loaded"),
        ({"mm_vision_tower": "someone/tower"}, "names the vision tower 'someone/tower'"),
        ({"hidden_size": 64}, "config.json makes it"),
        ({"num_hidden_layers": 3}, "lacks the weight 'decoder.model.layers.2"),
        ({"num_hidden_layers": 1}, "which the model does not have"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path, changes, message):
    write_checkpoint(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, device="cpu")


def test_missing_files_are_named(tmp_path):
    write_checkpoint(tmp_path, num_shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002.safetensors"):
        load_model(tmp_path)
    for path in tmp_path.glob("model*"):
        path.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle"):
        load_model(tmp_path)


def test_missing_tokenizer_is_named(tmp_path):
    write_checkpoint(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer files"):
        load_model(tmp_path)


def test_truncated_weights_are_named(tmp_path):
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read as safetensors"):
        load_model(tmp_path)


def test_config_that_is_not_json_is_named(tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json cannot be read as JSON"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rope_theta": 0.5}, "rope_theta must be a number above 1"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number above 1"),
        ({"rope_scaling": "yarn:0.5"}, "factor of rope_scaling must be at least 1, got 0.5"),
        ({"rope_scaling": {"rope_type": "linear", "beta_fast": 2}}, "Missing required keys"),
        ({"dtype": "int8"}, "dtype must be one of float32"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(tmp_path, arguments, message):
    write_checkpoint(tmp_path)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path, **arguments)


def metaspace_tokenizer(words: str, *, adds_bos: bool = True):
    """A tokenizer that behaves like Llama's: spaces become pieces, and BOS is put in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *sorted(set(words) | {"▁"})]
    tokenizer = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split("", "isolated")]
    )
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_a_tokenizer_that_adds_bos_adds_it_once(tmp_path):
    write_checkpoint(tmp_path, "llava_llama")
    tokenizer = metaspace_tokenizer("abcdefghijklmnopqrstuvwxyzACUSERINT:,.?'\n7")
    tokenizer.save_pretrained(tmp_path)
    sequence = LlavaModel.load(tmp_path, name="x").compose((), "what is it ?", "7")
    ids = [i for segment in sequence.segments for i in segment.token_ids]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.bos_token_id not in sequence.answer_ids


def test_template_that_the_tokenizer_cuts_into_pieces_is_refused(tmp_path):
    write_checkpoint(tmp_path, "llava_llama")
    with pytest.raises(
        ModelError, match=r"'llama3' holds '<\|begin_of_text\|>', which is no token"
    ):
        load_as(tmp_path, prompt_template="llama3")
    with pytest.raises(ModelError, match="there is no prompt template 'gpt'"):
        load_as(tmp_path, prompt_template="gpt")


def test_llama3_is_known_by_its_tokenizer(tmp_path):
    from vniah.models.llava.prompts import choose_template

    class Llama3Tokenizer:
        unk_token_id = None

        def get_vocab(self):
            return {"<|start_header_id|>": 0}

        def encode(self, text, *, add_special_tokens):
            return [0]

    assert choose_template(None, "vicuna", Llama3Tokenizer()) == "llama3"
    assert choose_template("vicuna", "vicuna", Llama3Tokenizer()) == "vicuna"


def test_published_prompts_are_pinned():
    """Sha256 of the texts with which the published runs were made."""
    import hashlib

    from vniah.models.llava.prompts import PROMPT_TEMPLATES

    digests = {
        name: hashlib.sha256(f"{t.opening}|{t.closing}".encode()).hexdigest()[:16]
        for name, t in PROMPT_TEMPLATES.items()
    }
    assert digests == PINNED_PROMPTS


def test_mistral_checkpoints_are_read_without_their_window(tmp_path):
    write_checkpoint(tmp_path, "llava_mistral", sliding_window=4)
    assert LlavaModel.load(tmp_path, name="x").decoder.config.sliding_window is None


def test_revision_ignores_what_a_run_writes_beside_the_weights(tmp_path):
    write_checkpoint(tmp_path)
    before = LlavaModel.load(tmp_path, name="x").revision
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    assert LlavaModel.load(tmp_path, name="x").revision == before
    (tmp_path / "merges.txt").write_text("a b")
    assert LlavaModel.load(tmp_path, name="x").revision != before
