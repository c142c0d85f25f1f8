"""Every transformers family against its own forward on pixels and its own processor's prompt."""

import gc
import json
import re
import shutil
import weakref
from collections.abc import Callable
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import spoil_weights
from families import BUILDERS, Tiny, build, pictures
from PIL import Image
from safetensors.torch import load_file, save_file
from text_models import LANGUAGE_MODELS
from torch.nn.functional import cross_entropy

from vniah.checks.model import check_model
from vniah.cli import main
from vniah.embeddings.batches import identity_of
from vniah.embeddings.cache import EmbeddingCache, FrameStore
from vniah.engines.agreement import plain_logits
from vniah.engines.document_losses import check_losses, document_losses
from vniah.engines.documents import cut_documents, prompt_of_frames
from vniah.engines.inputs import DecoderInputs, decoder_logits, require_reader
from vniah.engines.planning import make_plan
from vniah.errors import CheckError, InputError, ModelError
from vniah.forward.kinds.choosing import kinds_of, require_can_splice
from vniah.forward.runner import BranchRunner
from vniah.haystacks.text import open_text
from vniah.models.families import FAMILIES, LLAVA_TYPES
from vniah.models.huggingface.base import TransformersDecoderModel, TransformersModel
from vniah.models.huggingface.positions import frames_as_video
from vniah.models.huggingface.text import TextModel
from vniah.models.llava.model import LlavaModel
from vniah.models.loading import load_folder, load_model
from vniah.needles import load_needles
from vniah.options import LoadOptions
from vniah.protocol import DecoderModel, FrameSegment, LanguageModel, TextSegment, TokenSequence
from vniah.sweep.perplexity import require_frames

NUM_FRAMES = 6
QUESTION = "What digit is on the red card?"
ANSWER = "It is 7"
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No progress bars and warnings of transformers among the tests' output."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], tuple[Tiny, Path]]:
    """Gives a tiny model and its checkpoint, as written by save_pretrained, which stays as it is.

    A test that changes files copies them with `own_copy`.
    """

    @cache
    def save(model_type: str) -> tuple[Tiny, Path]:
        tiny = build(model_type)
        return tiny, tiny.save(tmp_path_factory.mktemp(model_type) / "checkpoint")

    return save


@pytest.fixture(scope="module", params=BUILDERS)
def family(request, saved):
    """A tiny checkpoint, as written by save_pretrained and loaded again, and its folder."""
    tiny, model = load_saved(saved, request.param)
    return tiny, model, saved(request.param)[1]


def load_saved(saved, model_type: str, **options) -> tuple[Tiny, TransformersModel]:
    tiny, folder = saved(model_type)
    loading = LoadOptions(frame_size=tiny.frame_size, **options)
    return tiny, load_folder(folder, name=model_type, options=loading)


def own_copy(saved, model_type: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved(model_type)[1], tmp_path / "checkpoint"))


def encoded(model, shown, folder: Path) -> FrameStore:
    """Haystack and needle, each through a cache on disk, frames in batches of two and one."""
    places = {}
    for source, frames in (("haystack", shown[:-1]), ("needle", shown[-1:])):
        cache = EmbeddingCache(folder / source, {"model": model.name}, model.frame_shape)
        for first in range(0, len(frames), 2):
            some = [np.array(frame) for frame in frames[first : first + 2]]
            rows = model.encode_frames(some)
            cache.append(rows, [float(first + i) for i in range(len(some))], [])
        places[source] = (cache, 0)
    return FrameStore(places)


def insert(needle_index: int, shown):
    """Segments and pictures with the needle, the last of ``shown``, among the others."""
    frames = [FrameSegment("haystack", index) for index in range(len(shown) - 1)]
    frames.insert(needle_index, FrameSegment("needle", 0))
    return frames, [*shown[: len(shown) - 1][:needle_index], shown[-1], *shown[needle_index:-1]]


def tree_logits(model, sequences, store) -> list[torch.Tensor]:
    """By one tree with shared prefixes."""
    plan = make_plan(model, sequences, max_suffix_tokens=0)
    runner = BranchRunner(
        model.decoder,
        DecoderInputs(model, sequences, store),
        chunk_size=13,
    )
    logits = {}
    for root in plan.branches:
        for reading in runner.run_all(root):
            assert reading.error is None
            logits |= dict.fromkeys(reading.sequences, reading.logits)
    return [logits[index] for index in range(len(sequences))]


def test_table_names_every_family_that_is_tested():
    of_text = {name for name, row in FAMILIES.items() if row.import_class() is TextModel}
    assert of_text == set(LANGUAGE_MODELS)
    assert set(FAMILIES) == {*BUILDERS, *LLAVA_TYPES, *of_text}


@pytest.mark.parametrize("row", FAMILIES.values(), ids=FAMILIES)
def test_row_of_the_table_agrees_with_its_class(row):
    model_class = row.import_class()
    if row.model_type in LLAVA_TYPES:
        assert model_class is LlavaModel
        return
    if model_class is TextModel:
        assert row.has_decoder and row.sharing == "tree"
        return
    assert issubclass(model_class, TransformersModel)
    assert issubclass(model_class, TransformersDecoderModel) == row.has_decoder
    assert (row.sharing == "none") == (not row.has_decoder)


# What the table calls the kinds of layer that the forward pass names.
_KINDS = {
    "full attention": "full",
    "sliding window": "sliding",
    "chunks": "chunked",
    "latent attention": "latent",
    "gated delta rule": "gated delta",
}


def test_row_of_the_table_names_the_kinds_of_layer(family):
    tiny, model, _ = family
    row, kinds = FAMILIES[tiny.model_type], kinds_of(model.decoder.model)
    found = {_KINDS[re.split(",| of ", kind.name)[0]] for kind in kinds}
    assert found == set(row.layers.partition(";")[0].split(", "))
    sees_images = any("images see themselves" in kind.name for kind in kinds)
    assert sees_images == ("images see themselves" in row.layers)
    assert row.runs_in_ring == all(kind.runs_in_ring for kind in kinds)
    if row.one_pass:
        require_can_splice(model.decoder)
    else:
        with pytest.raises(ModelError, match="share the tree"):
            require_can_splice(model.decoder)


def test_logits_equal_the_own_forward_on_pixels_at_every_depth(family, tmp_path):
    tiny, model, _ = family
    shown = pictures(NUM_FRAMES + 1, model.frame_size)
    store = encoded(model, shown, tmp_path)
    for needle_index in range(NUM_FRAMES + 1):
        frames, seen = insert(needle_index, shown)
        sequence = model.compose(frames, QUESTION, ANSWER)
        own = tiny.own_logits(seen, QUESTION, sequence.answer_ids)
        found = [model.answer_logits(sequence, store.read(sequence.frames))]
        if isinstance(model, DecoderModel):
            found += [plain_logits(model, sequence, store), decoder_logits(model, sequence, store)]
        for logits in found:
            assert (logits - own).abs().max() < TOLERANCE
            assert torch.equal(logits.argmax(-1), own.argmax(-1))
        assert own.abs().max() > 1  # weights large enough to tell things apart


def test_losses_of_a_text_after_frames_equal_the_own_forward_on_pixels(
    family, tmp_path, monkeypatch
):
    tiny, model, _ = family
    if not isinstance(model, LanguageModel):
        with pytest.raises(InputError, match="has no decoder that reads text alone"):
            require_frames(model, NUM_FRAMES, 500)
        return
    shown = pictures(NUM_FRAMES + 1, model.frame_size)
    store = encoded(model, shown, tmp_path)
    prompt = prompt_of_frames(model, NUM_FRAMES)
    num_tokens = prompt.num_tokens(model.frame_shape[-2]) + 40
    document = next(cut_documents(model, open_text(num_tokens=400), num_tokens, prompt=prompt))
    ids = document.sequence.answer_ids
    found = document_losses(model, document.sequence, store=store, chunk_size=50)
    own = cross_entropy(tiny.own_logits(shown[:-1], "", ids), torch.tensor(ids), reduction="none")
    assert len(ids) == 40 and (found - own).abs().max() < TOLERANCE
    assert own.std() > 0.1  # tokens can be told apart
    if len(model.frame_shape) == 3:  # the check reads all that frames add to the decoder's layers
        assert check_losses(model, document, store=store)["frames"] == 4
        monkeypatch.setattr("vniah.engines.document_losses._deepstack_of", lambda *_: None)
        with pytest.raises(CheckError, match="other losses in vniah's forward pass"):
            check_losses(model, document, store=store)


def test_each_half_works_without_the_weights_of_the_other(family, tmp_path):
    tiny, model, folder = family
    shown = pictures(2, model.frame_size)
    store = encoded(model, shown, tmp_path)
    sequence = model.compose(insert(1, shown)[0], QUESTION, ANSWER)
    pixels, names = [np.array(shown[0])], {"name": model.name, "revision": model.revision}
    options = LoadOptions(frame_size=tiny.frame_size)

    spoilt = Path(shutil.copytree(folder, tmp_path / "no encoder"))
    spoil_weights(spoilt, is_of_encoder)
    alone = load_folder(spoilt, options=options, **names)
    assert identity_of(alone, {}) == identity_of(model, {})
    if isinstance(model, DecoderModel):
        found = decoder_logits(alone, sequence, store)
        assert torch.equal(found, decoder_logits(model, sequence, store))
    else:
        embeds = store.read(sequence.frames)
        assert torch.equal(
            alone.answer_logits(sequence, embeds), model.answer_logits(sequence, embeds)
        )
    assert not alone.encoder_is_read
    is_unread = {name: weight.is_meta for name, weight in alone._model.named_parameters()}
    assert {is_of_encoder(name) for name, is_meta in is_unread.items() if is_meta} == {True}

    spoilt = Path(shutil.copytree(folder, tmp_path / "no decoder"))
    spoil_weights(spoilt, lambda name: not is_of_encoder(name) and not is_of_rows(tiny, name))
    encoder = load_folder(spoilt, options=options, has_decoder=False, **names)
    assert identity_of(encoder, {}) == identity_of(model, {})
    assert torch.equal(encoder.encode_frames(pixels), model.encode_frames(pixels))


def test_halves_of_a_checkpoint_without_the_prefix_of_its_weights_are_found(saved, tmp_path):
    """As the model without its head is saved, whose weights transformers completes by a prefix."""
    tiny, folder = saved("qwen3_vl")[0], own_copy(saved, "qwen3_vl", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("model."): weight for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_folder(folder, name="tiny", options=LoadOptions(frame_size=tiny.frame_size))
    assert not model.encoder_is_read
    model.read_encoder()
    stored = dict(tiny.model.named_parameters())
    for name, weight in model._model.named_parameters():
        assert torch.equal(weight, stored[name])


def is_of_encoder(name: str) -> bool:
    """By the names of weights in a checkpoint."""
    parts = ("vision", "visual", "video_tower", "image_tower", "projector", "connector", "audio")
    return any(part in name for part in (*parts, "model.merger"))


def is_of_rows(tiny: Tiny, name: str) -> bool:
    """Rows of frames that no tower gives: newlines, and the tokens that end lines."""
    return "newline" in name or (tiny.model_type == "mistral3" and "embed_tokens" in name)


def test_text_alone_equals_the_own_forward(family):
    tiny, model, _ = family
    if not isinstance(model, LanguageModel):
        assert not FAMILIES[tiny.model_type].has_decoder
        with pytest.raises(InputError, match="no decoder that reads text alone"):
            require_reader(model)
        return
    sequence = model.compose_text("It is 7. You are a helpful assistant. " * 5, ANSWER)
    num_read = len(sequence.answer_ids)
    texts = [segment.token_ids for segment in sequence.segments]
    ids = torch.tensor([[*chain.from_iterable(texts), *sequence.answer_ids]])
    with torch.inference_mode():
        own = tiny.model(input_ids=ids).logits[0, -num_read - 1 : -1] * tiny.logit_scale
    inner = getattr(tiny.model, "model", None)
    if hasattr(inner, "rope_deltas"):
        inner.rope_deltas = None
    no_frames = FrameStore({})
    for logits in (
        model.answer_logits(sequence, torch.empty(0, *model.frame_shape)),
        plain_logits(model, sequence, no_frames),
        decoder_logits(model, sequence, no_frames),
    ):
        assert (logits - own).abs().max() < TOLERANCE
        assert torch.equal(logits.argmax(-1), own.argmax(-1))
    with pytest.raises(ModelError, match=f"holds '{re.escape(model.placeholder)}', which stands"):
        model.compose_text(f"It is {model.placeholder} 7", ANSWER)


def test_tree_equals_the_own_forward_on_pixels(family, tmp_path):
    tiny, model, _ = family
    if not isinstance(model, DecoderModel):
        assert not FAMILIES[tiny.model_type].has_decoder
        return
    shown = pictures(NUM_FRAMES + 1, model.frame_size)
    store = encoded(model, shown, tmp_path)
    cells = [insert(index, shown) for index in (0, 2, 5, 6)]
    cells += [(frames[:5], seen[:5]) for frames, seen in cells[1:3]]
    sequences = [model.compose(frames, QUESTION, ANSWER) for frames, _ in cells]
    for (_, seen), sequence, logits in zip(
        cells, sequences, tree_logits(model, sequences, store), strict=True
    ):
        own = tiny.own_logits(seen, QUESTION, sequence.answer_ids)
        assert (logits - own).abs().max() < TOLERANCE


def test_question_without_frames_is_that_of_the_own_template_in_words(family):
    """As the control blind asks it: no mark of a video, and the logits of the own forward."""
    tiny, model, _ = family
    sequence = model.compose((), QUESTION, ANSWER)
    assert not sequence.frames
    text = tiny.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        chat_template=model._prompt._template,
        tokenize=False,
        add_generation_prompt=True,
    )
    begins = text.startswith(tiny.tokenizer.bos_token)
    ids = tiny.tokenizer(text, add_special_tokens=not begins)["input_ids"]
    assert [token for piece in sequence.pieces for token in piece.token_ids] == ids
    assert model.decode(sequence.answer_ids) == ANSWER
    whole = torch.tensor([[*ids, *sequence.answer_ids]])
    types = {"token_type_ids": torch.zeros_like(whole)} if tiny.model_type == "gemma3" else {}
    with torch.inference_mode():
        own = tiny.model(input_ids=whole, **types).logits
    own = own[0, -len(sequence.answer_ids) - 1 : -1].float() * tiny.logit_scale
    no_rows = torch.zeros(0, *model.frame_shape)
    found = [model.answer_logits(sequence, no_rows)]
    if isinstance(model, DecoderModel):
        store = FrameStore({})
        found += [plain_logits(model, sequence, store), decoder_logits(model, sequence, store)]
        found += tree_logits(model, [sequence], store)
    for logits in found:
        assert (logits - own).abs().max() < TOLERANCE


def test_work_is_shared_where_the_prompt_allows_it(family):
    tiny, model, _ = family
    if not isinstance(model, DecoderModel):
        return
    frames = [FrameSegment("haystack", index) for index in range(30)]
    sequences = [model.compose(frames[:n], QUESTION, ANSWER) for n in (10, 20, 30)]
    plan = make_plan(model, sequences)
    assert plan.note is None
    is_shared = plan.cost.num_tokens < plan.cost_alone.num_tokens
    assert is_shared == (tiny.model_type != "smolvlm")  # which states the number of frames first


def test_frames_of_any_size_have_the_frame_shape(family):
    _, model, _ = family
    frames = [np.array(pictures(1, size)[0]) for size in ((40, 90), (200, 30), (64, 64), (7, 5))]
    assert tuple(model.encode_frames(frames).shape) == (4, *model.frame_shape)
    alone = torch.cat([model.encode_frames([frame]) for frame in frames])
    assert torch.allclose(model.encode_frames(frames), alone, atol=1e-4)


def test_frames_are_shown_as_the_tower_gets_them(family):
    """A picture of one colour keeps it; it may have borders, where it is padded."""
    _, model, _ = family
    frame = np.full((40, 30, 3), (200, 40, 90), np.uint8)
    for picture in model.prepared_frames([frame, frame]):
        assert picture.dtype == np.uint8 and picture.ndim == 3
        height, width, _ = picture.shape
        assert np.abs(picture[height // 2, width // 2].astype(int) - frame[0, 0]).max() <= 1


def test_prompt_is_spelled_with_special_tokens(family):
    _, model, _ = family
    sequence = model.compose([FrameSegment("haystack", 0)], QUESTION, ANSWER)
    texts = [s.token_ids for s in sequence.segments if isinstance(s, TextSegment)]
    spelled = "".join(map(model.spell, texts))
    assert QUESTION in spelled
    assert len(spelled) > len("".join(map(model.decode, texts)))


def test_answer_decodes_to_the_answer(family):
    _, model, _ = family
    sequence = model.compose([FrameSegment("haystack", 0)], QUESTION, ANSWER)
    assert model.decode(sequence.answer_ids) == ANSWER


def test_answer_begins_with_the_white_space_of_the_template(saved):
    """ "Assistant: It", so the model would say " It": "It" alone is never its argmax."""
    _, model = load_saved(saved, "idefics3")
    ids = model.compose([FrameSegment("haystack", 0)], QUESTION, ANSWER).answer_ids
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved("idefics3")[1])
    assert tokenizer.decode(list(ids)) == f" {ANSWER}"
    assert model.stop_ids == (1,)


@pytest.mark.parametrize("seconds", [40, 1000])
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_question_comes_after_the_video(model_type, seconds, saved):
    _, model = load_saved(saved, model_type)
    frames = [FrameSegment("haystack", index) for index in range(seconds)]
    sequence = model.compose(frames, QUESTION, ANSWER)
    positions = model.position_ids(sequence)
    asked = len(sequence.inputs[-2].token_ids) + len(sequence.inputs[-1].token_ids)
    video, question = positions[:, :-asked], positions[:, -asked:]
    assert question.min() > video.max()
    assert torch.equal(question[0], question[1]) and torch.equal(question[0], question[2])
    assert torch.equal(question[0].diff(), torch.ones(asked - 1, dtype=torch.long))


def test_positions_of_a_video_are_those_of_the_authors():
    """transformers 4.57.3: 40 groups of 4 x 4 from position 4 in steps of 2; text from 83."""
    opening, asked = TextSegment((0, 1, 2, 3)), TextSegment((4, 5))
    frames = tuple(FrameSegment("haystack", index) for index in range(40))
    sequence = TokenSequence((opening, *frames, asked), (6,))
    positions = frames_as_video(sequence, (4, 4), interval=2)
    assert positions[0, 4:-2].unique().tolist() == list(range(4, 84, 2))
    assert positions[1:, 4:-2].amax() == 7
    assert positions[:, -2:].tolist() == [[83, 84]] * 3


def test_positions_follow_the_grid_where_the_video_is_short():
    sequence = TokenSequence((FrameSegment("haystack", 0), TextSegment((1, 2))), (3,))
    assert frames_as_video(sequence, (2, 5), interval=1).tolist() == [
        [0] * 10 + [5, 6],
        [0] * 5 + [1] * 5 + [5, 6],
        [0, 1, 2, 3, 4] * 2 + [5, 6],
    ]


def test_deep_rows_of_qwen3_are_part_of_the_frame(saved, tmp_path):
    _, model = load_saved(saved, "qwen3_vl")
    assert model.frame_shape == (4, 6, 64)
    shown = pictures(3, model.frame_size)
    store = encoded(model, shown, tmp_path)
    sequence = model.compose(insert(1, shown)[0], QUESTION, ANSWER)
    whole = decoder_logits(model, sequence, store)

    class WithoutDeep(FrameStore):
        def read_runs(self, frames, *, most=256, part=None):
            for run in store.read_runs(frames, most=most, part=part):
                yield run if part in (None, 0) else torch.zeros_like(run)

    assert (decoder_logits(model, sequence, WithoutDeep({})) - whole).abs().max() > 0.1


def test_newline_row_is_read_after_the_last_frame(saved):
    tiny, model = load_saved(saved, "llava_onevision")
    sequence = model.compose([FrameSegment("haystack", 0)], QUESTION, ANSWER)
    newline = sequence.segments[2]
    assert isinstance(newline, TextSegment)
    rows = model.decoder.model.embed_tokens(torch.tensor(newline.token_ids))
    assert torch.equal(rows[0], tiny.model.model.image_newline)
    assert model.decoder.lm_head.weight.shape[0] == len(tiny.tokenizer)


def test_clip_families_lose_no_side_of_a_frame(saved):
    """Their processors crop what is wider than high; a needle's text may stand there."""
    _, model = load_saved(saved, "llava")
    wide = np.zeros((60, 240, 3), np.uint8)
    marked = wide.copy()
    marked[:, :30] = 255
    one, other = model.encode_frames([wide, marked])
    assert (one - other).abs().max() > 0.1


def test_qwen_scales_frames_to_fit_and_pads_them(saved):
    _, model = load_saved(saved, "qwen2_vl")
    fitted = model._fit(Image.new("RGB", (400, 100), (255, 0, 0)))
    assert fitted.size == (84, 56)
    pixels = np.array(fitted)
    assert (pixels[28, 42] == (255, 0, 0)).all()
    assert (pixels[2, 42] == [int(255 * m) for m in model._image_processor.image_mean]).all()


def test_frame_size_must_fit_the_patches(saved):
    _, folder = saved("qwen2_vl")
    with pytest.raises(ModelError, match=r"of 28 pixels .* got 100x56; the nearest is 112x56"):
        load_folder(folder, name="tiny", options=LoadOptions(frame_size=(100, 56)))


def test_frame_size_is_refused_where_there_is_one_only(saved):
    _, folder = saved("llava")
    with pytest.raises(ModelError, match="frames of one size only"):
        load_folder(folder, name="tiny", options=LoadOptions(frame_size=(56, 56)))
    with pytest.raises(InputError, match="prompt_template is for checkpoints of llava_qwen"):
        load_model(folder, prompt_template="vicuna")


def test_rounding_to_bfloat16_stays_within_its_precision(saved, tmp_path):
    _, model = load_saved(saved, "qwen3_vl", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    shown = pictures(4, model.frame_size)
    store = encoded(model, shown, tmp_path)
    sequence = model.compose(insert(2, shown)[0], QUESTION, ANSWER)
    plain, prefilled = plain_logits(model, sequence, store), decoder_logits(model, sequence, store)
    assert (plain - prefilled).abs().max() < 0.08 * plain.abs().max()


def test_check_of_experts_in_bfloat16_allows_for_rows_that_go_to_another_one(saved, tmp_path):
    """Rounding sends rows elsewhere where two are nearly as good; wrong positions still fail."""
    _, model = load_saved(saved, "qwen3_vl_moe", dtype="bfloat16")
    needles = load_needles("cards")
    assert check_model(model, needles, cache=tmp_path / "cache").passed
    right = model.position_ids
    model.position_ids = lambda sequence: 3 * right(sequence)[:1].expand(3, -1)
    assert not check_model(model, needles, cache=tmp_path / "cache").passed


def test_question_with_a_placeholder_is_refused(saved):
    _, model = load_saved(saved, "llava")
    with pytest.raises(ModelError, match="2 places for 1 frames"):
        model.compose([FrameSegment("haystack", 0)], "Is <image> a token?", "Yes")


def test_video_llava_reads_its_own_image_processor(saved):
    _, model = load_saved(saved, "video_llava")
    assert model.frame_shape == (17, 64)  # 4 x 4 patches and the class token


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer files"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda f: (f / "chat_template.jinja").write_text("{{ x.y }}"), "chat template cannot"),
        (lambda f: (f / "chat_template.jinja").write_text("a"), "0 places for"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"no \*.safetensors weights \(pytorch_model.bin is a pickle",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 64), "cannot be"),
        (lambda f: change_config(f, model_type="wav2vec2"), "has model_type 'wav2vec2'; supported"),
        (
            lambda f: change_config(f, model_type="molmo2"),
            "has model_type 'molmo2', which vniah does not read: all frames of a prompt attend to",
        ),
        (lambda f: change_config(f, model_type=["llava"]), "model_type must be text, got"),
        (lambda f: change_text_config(f, intermediate_size=80), "mismatched keys: .*down_proj"),
        (lambda f: change_text_config(f, num_hidden_layers=5), "missing keys"),
        (
            lambda f: change_config(f, text_config=None),
            r"describes [\d,]+ weights, its safetensors hold [\d,]+: config.json lacks the "
            "sizes of a part",
        ),
        (
            lambda f: change_config(f, quantization_config={"quant_method": "fp8"}),
            "has a quantization_config: its weights are quantized, which",
        ),
        (lambda f: change_text_config(f, num_hidden_layers=3), r"does not count: .*layers\.3\."),
        (lambda f: change_text_config(f, num_hidden_layers="x"), "num_hidden_layers"),
        (lambda f: change_crop(f, 98), "the vision tower in .* cannot be loaded: Input image size"),
        (lambda f: write_generation(f, eos_token_id="x"), "eos_token_id must be a whole number"),
    ],
)
def test_spoilt_folder_is_one_line(spoil, message, saved, tmp_path, capsys):
    folder = own_copy(saved, "llava", tmp_path)
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        load_model(folder).read_encoder()
    assert main(["check", "--model", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vniah: error: ") and error.count("\n") == 1


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_text_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    if thinker := config.get("thinker_config"):
        thinker["text_config"] |= changes
        change_config(folder, thinker_config=thinker)
    else:
        change_config(folder, text_config=config["text_config"] | changes)


def change_crop(folder: Path, side: int) -> None:
    path = folder / "preprocessor_config.json"
    crop = {"crop_size": {"height": side, "width": side}}
    path.write_text(json.dumps(json.loads(path.read_text()) | crop))


def write_generation(folder: Path, **values) -> None:
    (folder / "generation_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("model_type", sorted(BUILDERS.keys() - {"gemma3"}))
def test_layers_that_the_configuration_does_not_count_are_refused(model_type, saved, tmp_path):
    """transformers would leave them out, and a sweep would measure a model of fewer layers."""
    folder = own_copy(saved, model_type, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    text_config = config.get("thinker_config", config)["text_config"]
    fewer = {"num_hidden_layers": 3}
    if layer_types := text_config.get("layer_types"):
        fewer["layer_types"] = layer_types[:3]
    if of_layers := text_config.get("per_layer_config"):
        fewer["per_layer_config"] = {key: of_layers[key] for key in of_layers if int(key) < 3}
    change_text_config(folder, **fewer)
    with pytest.raises(ModelError, match=r"its config.json does not count: .*layers\.3\."):
        load_folder(folder, name="tiny")


def test_missing_weight_is_named(saved, tmp_path):
    folder = own_copy(saved, "internvl", tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = sorted(tensors)[-1]
    save_file({k: v for k, v in tensors.items() if k != gone}, path, metadata={"format": "pt"})
    model = load_folder(folder, name="tiny")
    with pytest.raises(ModelError, match=r"missing keys: .*vision_tower"):
        model.read_encoder()


def test_wrong_hub_id_is_one_line(capsys):
    assert main(["check", "--model", "no-such-owner/no-such-model"]) == 2
    error = capsys.readouterr().err
    assert "no folder here, and the hub does not give it" in error and error.count("\n") == 1


# A video on the tree, one whose frames add to deeper layers, and images that see themselves.
WHOLE_RUNS = ("llava_onevision", "qwen3_vl", "gemma3")


@pytest.mark.usefixtures("film", "quick_pictures")
@pytest.mark.parametrize("family", WHOLE_RUNS, indirect=True)
def test_check_and_run_from_the_command_line(family, tmp_path, capsys):
    tiny, _, folder = family
    options = ["--model", str(folder), "--cache", str(tmp_path / "cache")]
    if tiny.frame_size:
        options += ["--frame-size", f"{tiny.frame_size[0]}x{tiny.frame_size[1]}"]
    assert main(["check", *options]) == 0
    shown = capsys.readouterr().out
    assert "gives what the model gives" in shown
    assert "answer_logits: logits differ by" in shown  # by the whole model's own forward
    note = FAMILIES[tiny.model_type].note
    assert f"note: {note}" in shown if note else "note: " not in shown
    output = tmp_path / "run"
    grid = ["--frames", "2,4", "--depths", "0,1", "--output", str(output)]
    assert main(["run", *options, *grid]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 20 + 10 + 36 + 5 + 8, "in cells, and four controls"
    assert all(sample["error"] is None for sample in samples)
    assert manifest["model"]["frame_unit"] == FAMILIES[tiny.model_type].frame_unit
    shutil.rmtree(output)


def test_weights_are_gone_with_the_last_reference_to_the_model(saved):
    _, model = load_saved(saved, "qwen3_vl")
    model.compose([FrameSegment("haystack", 0)], "Which?", "Yes")
    body = weakref.ref(model.decoder.model)
    gc.collect()
    gc.disable()
    try:
        del model, _
        assert body() is None
    finally:
        gc.enable()
