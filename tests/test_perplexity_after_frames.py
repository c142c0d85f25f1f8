"""Perplexity of texts that follow the frames of a video: losses, settings, labels, the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import WORDS, write_checkpoint
from jsonschema import Draft202012Validator
from matplotlib.figure import Figure
from PIL import Image
from test_llava import features_by_hand
from test_perplexity import PROSE, caption_of
from text_models import load_language_model
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cross_entropy

from vniah.analysis.perplexity import (
    perplexity_by_position,
    perplexity_labels,
    summarize_perplexity,
)
from vniah.analysis.perplexity_tables import format_perplexities, perplexity_rows
from vniah.analysis.plot import perplexity_curves
from vniah.cli import main
from vniah.engines.document_losses import document_losses
from vniah.engines.documents import cut_documents, prompt_of_frames
from vniah.errors import (
    HaystackTooShortError,
    InputError,
    ModelError,
    ResultsError,
    RunMismatchError,
)
from vniah.haystacks.haystack import open_haystack
from vniah.haystacks.text import TextHaystack
from vniah.models.loading import load_model
from vniah.protocol import DecoderModel, Frames, FrameSpan, TokenSequence
from vniah.results import format_schema
from vniah.results.perplexity import (
    DocumentLosses,
    PerplexityResults,
    _key_of,
    load_perplexity,
)
from vniah.sweep.perplexity import FramesBefore, measure_perplexity

NUM_FRAMES = 6
NUM_TEXT = 50  # tokens
TOLERANCE = 1e-4
KNOWN = TextHaystack("known", "text", "0", " ".join(WORDS[6:] * 20))


def frames_before(folder: Path, num_frames: int = NUM_FRAMES) -> FramesBefore:
    return FramesBefore(open_haystack(folder), num_frames)


def measured_after(model, folder: Path, output: Path, *, text=PROSE, num=1, num_frames=NUM_FRAMES):
    """Results of documents with `NUM_TEXT` tokens of text each, and the first of them."""
    prompt = prompt_of_frames(model, num_frames)
    num_tokens = prompt.num_tokens(model.frame_shape[-2]) + NUM_TEXT
    results = measure_perplexity(
        model,
        text,
        num_tokens=num_tokens,
        num_documents=num,
        frames=frames_before(folder, num_frames),
        output=output,
        progress=False,
    )
    return results, next(cut_documents(model, text, num_tokens, prompt=prompt))


def nats_of(logits: torch.Tensor, ids) -> np.ndarray:
    return cross_entropy(logits.float(), torch.tensor(ids), reduction="none").double().numpy()


@pytest.fixture(scope="module")
def reader(checkpoint):
    """A tiny LLaVA that knows some words."""
    return load_model(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def measured(reader, image_folder, tmp_path_factory):
    """Two documents after six frames."""
    output = tmp_path_factory.mktemp("measured") / "out"
    return measured_after(reader, image_folder, output, text=KNOWN, num=2)[0]


# --- losses --------------------------------------------------------------------------------------


# Those of all families of transformers are compared in tests/test_huggingface.py.


def test_losses_of_the_llava_layout_equal_its_modules_by_hand(tmp_path, image_folder):
    parts = write_checkpoint(tmp_path / "llava")
    model = load_model(tmp_path / "llava", device="cpu")
    results, document = measured_after(model, image_folder, tmp_path / "out", text=KNOWN)
    frames = [np.array(Image.open(image_folder / f"{n:03d}.png")) for n in range(NUM_FRAMES)]
    rows = features_by_hand(parts, tmp_path / "llava", frames)
    ids = document.sequence.answer_ids
    before, _, after = document.sequence.pieces
    table = parts["decoder"].get_input_embeddings()
    texts = [torch.tensor(one) for one in (before.token_ids, (*after.token_ids, *ids))]
    with torch.inference_mode():
        hidden = torch.cat([table(texts[0]), rows.flatten(0, 1), table(texts[1])])[None]
        logits = parts["decoder"](inputs_embeds=hidden).logits[0, -NUM_TEXT - 1 : -1]
    assert np.abs(results.documents[0].nats - nats_of(logits, ids)).max() < TOLERANCE


def test_losses_of_the_embedded_model_equal_its_decoder_on_fresh_frames(tmp_path, image_folder):
    model = load_model("reference-long", device="cpu")
    results, document = measured_after(model, image_folder, tmp_path / "out", text=KNOWN)
    ids, table = document.sequence.answer_ids, model.decoder.get_input_embeddings()
    frames = open_haystack(image_folder).frames(stop=NUM_FRAMES)
    before, _, after = document.sequence.pieces
    with torch.inference_mode():
        rows = [model.encode_frames([one.image]).flatten(0, 1) for one in frames]
        opening = table(torch.tensor(before.token_ids))
        rest = table(torch.tensor((*after.token_ids, *ids)))
        hidden = torch.cat([opening, *rows, rest])[None]
        logits = model.decoder(inputs_embeds=hidden).logits[0, -NUM_TEXT - 1 : -1]
    assert np.abs(results.documents[0].nats - nats_of(logits, ids)).max() < TOLERANCE
    # Frames are read: after others the same tokens have other losses.
    other = tmp_path / "frames"
    shutil.copytree(image_folder, other)
    Image.new("RGB", (32, 32), "red").save(other / "000.png")
    changed, _ = measured_after(model, other, tmp_path / "changed", text=KNOWN)
    assert np.abs(changed.documents[0].nats - results.documents[0].nats).max() > TOLERANCE


def test_frames_of_the_cache_are_read_without_the_vision_tower(checkpoint, image_folder, tmp_path):
    first, again = (load_model(checkpoint, device="cpu") for _ in range(2))
    one, _ = measured_after(first, image_folder, tmp_path / "one", text=KNOWN)
    other, _ = measured_after(again, image_folder, tmp_path / "other", text=KNOWN)
    assert first.encoder_is_read and not again.encoder_is_read
    assert np.array_equal(one.documents[0].nats, other.documents[0].nats)


# --- documents -----------------------------------------------------------------------------------


def test_a_text_after_frames_is_cut_as_alone(reader):
    prompt = prompt_of_frames(reader, 3)
    num_before = prompt.num_tokens(reader.frame_shape[-2])
    after = cut_documents(reader, KNOWN, num_before + 20, prompt=prompt)
    for one, alone in zip(after, cut_documents(reader, KNOWN, 20), strict=False):
        ids = (*alone.sequence.pieces[0].token_ids, *alone.sequence.answer_ids)
        assert one.sequence.answer_ids == ids, "behind a prompt the first token counts as well"
        assert (one.start, one.stop, one.first) == (alone.start, alone.stop, num_before)
        assert one.sequence.frames == Frames((FrameSpan("haystack", 0, 3),))
        if one.number == 2:
            break


def test_what_a_tokenizer_puts_before_every_text_is_not_put_behind_frames(checkpoint):
    model = load_model(checkpoint, device="cpu")
    prompt = prompt_of_frames(model, 1)
    num = prompt.num_tokens(model.frame_shape[-2]) + 9
    plain = next(cut_documents(model, KNOWN, num, prompt=prompt))
    special = ("<unk>", model._tokenizer.unk_token_id)
    model._tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<unk> <unk> $A", special_tokens=[special]
    )
    found = next(cut_documents(model, KNOWN, num, prompt=prompt))
    assert found.sequence == plain.sequence and found.stop == plain.stop
    assert next(cut_documents(model, KNOWN, 9)).first == 2


class DropsFrames:
    """A model that leaves out all frames but the first."""

    def __init__(self, model: DecoderModel) -> None:
        self._model = model
        self.name, self.frame_shape, self.decoder = model.name, model.frame_shape, model.decoder
        self.revision, self.encode_frames = model.revision, model.encode_frames
        self.compose_text, self.token_ends = model.compose_text, model.token_ends
        self.position_ids = model.position_ids

    def compose(self, frames, question: str, answer: str) -> TokenSequence:
        return self._model.compose(frames[:1], question, answer)


def test_a_prompt_without_all_frames_is_refused(reader):
    with pytest.raises(ModelError, match="gave a prompt with 1 frame for 3: every frame must be"):
        prompt_of_frames(DropsFrames(reader), 3)


def test_tokens_without_an_embedding_are_refused(reader):
    one = next(cut_documents(reader, KNOWN, 9))
    with pytest.raises(ModelError, match="gave the token id 99999; its decoder has embeddings"):
        document_losses(reader, one.sequence.with_answer((99_999,)))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "num_tokens", "kind", "message"),
    [
        (41, 500, HaystackTooShortError, "has 40 frames as images, but 41 were asked for"),
        (6, 30, InputError, r"6 frames and the prompt around them take \d+ tokens as .* no room"),
        (0, 500, InputError, "a text follows from 1 to 1,000,000 frames, got 0"),
        (6, 5000, HaystackTooShortError, r"has 0 documents of 4,9\d\d tokens of text as "),
    ],
)
def test_frames_and_texts_that_do_not_fit_are_refused_before_anything_is_written(
    reader, image_folder, tmp_path, num_frames, num_tokens, kind, message
):
    with pytest.raises(kind, match=message):
        measure_perplexity(
            reader,
            KNOWN,
            num_tokens=num_tokens,
            num_documents=1,
            frames=frames_before(image_folder, num_frames),
            output=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_a_language_model_without_eyes_is_refused(tmp_path, image_folder):
    model = load_language_model(tmp_path / "model")
    with pytest.raises(InputError, match="reads text and no frames: leave the frames"):
        measure_perplexity(model, PROSE, num_tokens=99, frames=frames_before(image_folder))


# --- folders -------------------------------------------------------------------------------------


def again(reader, measured, frames, *, num=2):
    return measure_perplexity(
        reader,
        KNOWN,
        num_tokens=measured.num_tokens,
        num_documents=num,
        frames=frames,
        output=measured.path,
        progress=False,
    )


def test_other_frames_need_another_folder(reader, measured, image_folder, tmp_path):
    with pytest.raises(RunMismatchError, match=r"frames.count = 6, this one has 5; choose another"):
        again(reader, measured, frames_before(image_folder, 5))
    with pytest.raises(RunMismatchError, match=r"frames.count = 6, this one has none; choose"):
        again(reader, measured, None)
    alone = tmp_path / "alone"
    alone.mkdir()
    content = json.loads((measured.path / "perplexity.json").read_bytes())
    del content["frames"]
    (alone / "perplexity.json").write_text(json.dumps(content))
    with pytest.raises(RunMismatchError, match=r"perplexity without frames.count, this one has 6;"):
        again(reader, replace(measured, path=alone), frames_before(image_folder))
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    Image.new("RGB", (32, 32)).save(other / "000.png")
    with pytest.raises(RunMismatchError, match=r"frames.haystack.sha256 = "):
        again(reader, measured, frames_before(other))


def test_the_same_frames_under_another_name_go_on(reader, measured, image_folder, tmp_path):
    folder = Path(shutil.copytree(measured.path, tmp_path / "copy"))
    film = replace(open_haystack(image_folder), name="renamed")
    copied = replace(measured, path=folder)
    found = again(reader, copied, FramesBefore(film, NUM_FRAMES), num=3)
    assert len(found.documents) == 3 and found.video_name == image_folder.name
    assert found.num_frames == NUM_FRAMES and found.frame_unit == "frame"


def test_all_documents_at_hand_need_neither_frames_nor_tower(checkpoint, measured, image_folder):
    model = load_model(checkpoint, device="cpu")
    film = open_haystack(image_folder)
    unread = replace(film, paths=())  # whose frames cannot be read
    found = again(model, measured, FramesBefore(unread, NUM_FRAMES))
    assert not model.encoder_is_read and len(found.documents) == 2


def test_texts_that_were_measured_alone_before_go_on(reader, tmp_path):
    """Their settings say nothing of frames, nor for which length a model with eyes was trained."""
    folder = tmp_path / "out"
    how = {"num_tokens": 20, "output": folder, "progress": False}
    first = measure_perplexity(reader, KNOWN, num_documents=1, **how)
    assert first.trained_tokens == 4096 and first.num_frames == 0
    content = json.loads((folder / "perplexity.json").read_bytes())
    del content["model"]["trained_tokens"]
    (folder / "perplexity.json").write_text(json.dumps(content))
    document = json.loads((folder / "document-0000.json").read_bytes())
    with pytest.raises(ResultsError, match="of another folder"):  # the key is of other settings
        load_perplexity(folder)
    document["settings"] = _key_of(content)
    (folder / "document-0000.json").write_text(json.dumps(document))
    assert len(measure_perplexity(reader, KNOWN, num_documents=2, **how).documents) == 2


def test_schemas_describe_frames_and_notes(measured):
    found = Draft202012Validator(format_schema("perplexity"))
    content = json.loads((measured.path / "perplexity.json").read_bytes())
    assert content["frames"]["count"] == NUM_FRAMES and found.is_valid(content)
    assert found.is_valid({**content, "notes": ["4 missing pictures"]})
    for wrong in ({"count": 0}, {"count": None}, {"haystack": {}}, {"unknown": 1}):
        assert not found.is_valid({**content, "frames": {**content["frames"], **wrong}})
    document = json.loads((measured.path / "document-0000.json").read_bytes())
    assert Draft202012Validator(format_schema("document")).is_valid(document)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0, "haystack": {"name": "x"}}, "count"),
        ({"count": 3}, "haystack"),
        ([], "frames"),
    ],
)
def test_damaged_settings_of_frames_are_refused(measured, tmp_path, capsys, wrong, message):
    folder = Path(shutil.copytree(measured.path, tmp_path / "copy"))
    content = json.loads((folder / "perplexity.json").read_bytes())
    (folder / "perplexity.json").write_text(json.dumps({**content, "frames": wrong}))
    assert main(["perplexity", "table", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and "put the file back" in line


# --- labels, tables, pictures --------------------------------------------------------------------


def made(num_frames=0, *, first=1, num=15, name="m", video="film", kind="video", **more):
    """Results of one document with as many tokens that count."""
    settings = {
        "model": {"name": name, "trained_tokens": more.pop("trained", 10_000)},
        "haystack": {"name": "text"},
        "num_tokens": first + num,
    }
    if num_frames:
        settings["frames"] = {"count": num_frames, "haystack": {"name": video, "kind": kind}}
    losses = DocumentLosses(0, 0, more.pop("stop", 99), first, np.full(num, 1.0))
    return PerplexityResults(Path(more.pop("path", "out")), {**settings, **more}, (losses,))


def test_labels_tell_series_with_frames_from_those_without():
    after = made(6, first=40)
    assert perplexity_labels([made()]) == ("m",)
    assert perplexity_labels([after]) == ("m, after 6 frames",)
    mixed = perplexity_labels([made(), after, made(1, kind="pdf")])
    assert mixed == ("m, text alone", "m, after 6 frames", "m, after 1 page")
    films = perplexity_labels([after, made(6, video="other")])
    assert films == ("m, after 6 frames of film", "m, after 6 frames of other")
    same = perplexity_labels([after, made(6, first=40, path="o")])
    assert same == ("m, after 6 frames in out", "m, after 6 frames in o")


def test_tables_say_what_documents_follow_and_which_damage_it_had():
    runs = [made(), made(6, first=40, notes=["film: 4 missing pictures"])]
    text = format_perplexities(runs, "text", 8)
    assert "m, text alone: perplexity 2.72 (1.0000 nats per token) over 1 document of 16" in text
    assert "of 55 tokens: 40 of a prompt with 6 frames of film, then 15 of text" in text
    assert "m, after 6 frames: film: 4 missing pictures" in text
    assert [row["num_frames"] for row in perplexity_rows(runs, 100)] == [0, 6]
    record = json.loads(format_perplexities(runs, "json"))["results"][1]
    assert record["num_frames"] == 6 and record["video"] == "film" and record["notes"]


def test_buckets_that_differ_by_where_a_text_begins_or_ends_share_a_line():
    runs = [made(num=63), made(6, first=43, num=18)]  # positions 1 to 63, and 43 to 60
    head, *lines = format_perplexities(runs, "markdown", 8).splitlines()
    cells = [[cell.strip() for cell in one.split("|")[1:-1]] for one in lines if " to " in one]
    rows = {row[0]: row[1:] for row in cells if row}
    assert "text alone" in head
    assert list(rows) == ["1 to 7", *(f"{k} to {k + 7}" for k in range(8, 64, 8))]
    assert {row for row, values in rows.items() if values == ["2.72", "2.72"]} == {
        *("40 to 47", "48 to 55", "56 to 63")
    }
    assert "has the mean over its own tokens there" in " ".join(lines)
    assert "its own tokens" not in format_perplexities(runs[:1], "text", 8)


def test_a_text_that_is_beyond_the_training_length_from_its_first_token_on():
    found = summarize_perplexity(made(6, first=40, trained=40))
    assert found[1:] == ["all of it is beyond the training length of 40 tokens"]
    assert (
        "up to the training length of 41" in summarize_perplexity(made(6, first=40, trained=41))[1]
    )


@pytest.mark.parametrize(
    ("first", "size", "buckets"),
    [
        (40, 8, [(40, 48), (48, 55)]),
        (44, 8, [(44, 48), (48, 59)]),  # nor would three at the end be enough
        (43, 8, [(43, 48), (48, 58)]),
        (42, 8, [(42, 48), (48, 57)]),
        (36, 8, [(36, 40), (40, 51)]),
        (38, 24, [(38, 53)]),
        (45, 8, [(45, 56), (56, 60)]),  # three tokens by themselves would be too few
        (47, 64, [(47, 62)]),
        (3, 4, [(3, 8), (8, 12), (12, 16), (16, 18)]),
    ],
)
def test_a_bucket_at_an_end_with_few_tokens_is_joined_with_its_neighbour(first, size, buckets):
    found = perplexity_by_position(made(6, first=first), size)
    assert [(one.start, one.stop) for one in found] == buckets
    assert sum(one.num_tokens for one in found) == 15


def test_tokens_of_frames_are_shaded_where_all_results_have_as_many():
    def shaded(*runs):
        ax = perplexity_curves(list(runs), Figure().subplots(), bucket=8)
        return [one.get_width() for one in ax.patches if one.get_x() == 0], caption_of(ax)

    after = made(6, first=40)
    widths, caption = shaded(after)
    assert widths == [40]
    assert "1 document of 55 tokens: 40 of a prompt with 6 frames of film, then 15 of te" in caption
    assert "shaded: the prompt before the text" in caption
    assert shaded(after, made(6, first=40, path="o"))[0] == [40]
    for other in (made(), made(8, first=50)):
        widths, caption = shaded(after, other)
        assert widths == [] and "shaded" not in caption
    assert shaded(made())[0] == []
    assert "4 missing" in shaded(made(6, first=40, notes=["4 missing pictures"]))[1]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (made(8, first=90, name="n"), None),  # the same text: only the frames take more tokens
        (made(8, first=90, name="n", stop=98), "differ"),
        (made(8, first=90, name="n", num=14), "may differ"),
        (made(name="n"), "may differ"),
        (made(), None),
    ],
)
def test_tokenizers_are_compared_by_the_texts_behind_frames(other, said):
    text = format_perplexities([made(6, first=40), other], "text", 8)
    assert (f"the tokenizers {said} between these" in text) == (said is not None)
    assert said is not None or "tokenizers" not in text


# --- the command ---------------------------------------------------------------------------------


def test_measure_with_frames(checkpoint, measured, image_folder, tmp_path, capsys, quick_pictures):
    (tmp_path / "known.txt").write_text(KNOWN.body)
    asked = ["perplexity", "measure", "--model", str(checkpoint), "--documents", "1", "--quiet"]
    asked += ["--haystack", str(tmp_path / "known.txt"), "--tokens", "90", "--video"]
    asked += [str(image_folder), "--cache", str(tmp_path / "cache"), "--output"]
    assert main([*asked, str(tmp_path / "out"), "--frames", "6"]) == 0
    printed = capsys.readouterr().out
    assert "tiny, after 6 frames: perplexity" in printed.replace(str(checkpoint), "tiny")
    assert list((tmp_path / "cache").glob("*.safetensors"))
    assert load_perplexity(tmp_path / "out").num_frames == 6
    # A folder goes on with the same frames only.
    assert main([*asked, str(measured.path), "--frames", "7"]) == 2
    assert "frames.count = 6, this one has 7" in capsys.readouterr().err


def test_a_generated_film_is_the_default(monkeypatch, capsys):
    found = []

    def measure(*_, frames, **__):
        found.append(frames)
        raise InputError("enough")

    monkeypatch.setattr("vniah.haystacks.haystack.draw_parts", lambda *_, **__: (Path("part"),))
    monkeypatch.setattr("vniah.sweep.perplexity.measure_perplexity", measure)
    asked = ["perplexity", "measure", "--model", "reference-long", "--tokens", "99"]
    assert main([*asked, "--frames", "3"]) == 2
    assert "on pydoc: 4 documents of 99 tokens, each after 3 frames of generated-" in (
        capsys.readouterr().out
    )
    assert found[0].haystack.kind == "generated" and found[0].num_frames == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "x.mp4"], "that follow frames: add --frames N"),
        (["--sampling", "longva"], "that follow frames: add --frames N"),
        (["--cache", "x"], "that follow frames: add --frames N"),
        (["--frames", "3", "--video", "nowhere.mp4"], "there is no file nowhere.mp4"),
        (["--frames", "3", "--dpi", "50"], "are for your own videos and pages: add --video"),
        (["--frames", "0"], "a text follows from 1 to 1,000,000 frames, got 0"),
        (["--frames", "25"], "leave no room for a text; give more tokens or fewer frames"),
        (["--frames", "1e7"], "must be at most 1,000,000"),
        (["--frames", "3", "--haystack", "film.mp4"], "the frames that it follows are those of"),
    ],
)
def test_frames_that_cannot_be_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["perplexity", "measure", "--model", "reference-long", "--tokens", "99"]
    assert main([*asked, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
