"""Sweeps with a tiny real checkpoint: what is written, and how one goes on."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from vniah.errors import ModelError, ResultsError, RunMismatchError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import FrameSegment, TextSegment, TokenSequence
from vniah.results import load_results
from vniah.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("checked_once")

GRID = Grid.of([1, 7, 20], [0, 0.3, 1])


@pytest.fixture
def material(checkpoint, image_folder, needle_folder):
    model = load_model(checkpoint, device="cpu")
    return model, open_haystack(image_folder), load_needles(needle_folder)


def without_seconds(results):
    return [{**vars(sample), "seconds": None} for sample in results.samples]


def test_sweep_asks_every_needle_in_every_cell(material, tmp_path):
    seen = []
    results = run_sweep(
        *material, GRID, output=tmp_path / "run", on_progress=lambda *step: seen.append(step)
    )
    assert results.is_complete and len(results.samples) == 27
    assert {(s.num_frames, s.depth, s.fields["needle_index"]) for s in results.samples} == {
        (1, Fraction(0), 0),
        (1, Fraction(3, 10), 0),
        (1, Fraction(1), 1),
        (7, Fraction(0), 0),
        (7, Fraction(3, 10), 2),
        (7, Fraction(1), 7),
        (20, Fraction(0), 0),
        (20, Fraction(3, 10), 6),
        (20, Fraction(1), 20),
    }
    assert all(cell.num_samples == 3 for cell in results.cells)
    assert seen[-1] == ("sweep", 39, 39), "with nine without a needle and three without a video"


def test_samples_equal_the_models_own_forward_pass(material, tmp_path):
    """Every sample again: pixels in, one plain forward of the whole sequence, argmax out."""
    model, haystack, needles = material
    results = run_sweep(*material, GRID, output=tmp_path / "run")
    images = [frame.image for frame in haystack.frames()]
    pictures = {needle.needle_id: needle for needle in needles}
    for sample in results.samples:
        needle = pictures[sample.needle_id]
        frames = images[: sample.num_frames]
        frames.insert(sample.fields["needle_index"], np.asarray(needle.image))
        assert len(frames) == sample.num_frames + 1
        segments = [FrameSegment("any", k) for k in range(len(frames))]
        sequence = model.compose(segments, sample.question, sample.answer)
        opening, asked = sequence.segments[0], sequence.segments[-1]
        table = model.decoder.get_input_embeddings()
        embeds = torch.cat(
            [
                table(torch.tensor(opening.token_ids)),
                model.encode_frames(frames).flatten(0, 1),
                table(torch.tensor(asked.token_ids + sequence.answer_ids[:-1])),
            ]
        )
        with torch.inference_mode():
            logits = model.decoder(inputs_embeds=embeds[None], use_cache=False).logits[0]
        rows = logits[-len(sequence.answer_ids) :]
        answer = torch.tensor(sequence.answer_ids)
        logprob = rows.log_softmax(-1).gather(1, answer[:, None]).sum().item()
        assert sample.predicted_ids == tuple(rows.argmax(-1).tolist())
        assert sample.correct == (sample.predicted_ids == sequence.answer_ids)
        assert sample.logprob == pytest.approx(logprob, abs=1e-4)
        assert sample.prediction == model.decode(sample.predicted_ids)


def test_second_run_does_no_work(material, tmp_path):
    run_sweep(*material, GRID, output=tmp_path / "run")
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    seen = []
    results = run_sweep(
        *material, GRID, output=tmp_path / "run", on_progress=lambda *step: seen.append(step)
    )
    assert seen == []
    assert results.is_complete
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


@pytest.mark.parametrize("kept_bytes", [0, 1, 500, 3000, -1])
def test_run_cut_anywhere_goes_on_and_ends_the_same(material, tmp_path, kept_bytes):
    whole = run_sweep(*material, GRID, output=tmp_path / "whole")
    run_sweep(*material, GRID, output=tmp_path / "cut")
    path = tmp_path / "cut" / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    results = run_sweep(*material, GRID, output=tmp_path / "cut")
    assert without_seconds(results) == without_seconds(whole)
    assert without_seconds(load_results(tmp_path / "cut")) == without_seconds(whole)


def test_manifest_is_there_before_the_first_sample(material, tmp_path):
    model, haystack, needles = material

    def stop(stage, done, total):
        if (stage, done) == ("sweep", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(model, haystack, needles, GRID, output=tmp_path, on_progress=stop)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["model"]["name"] == "tiny"
    assert manifest["model"]["rope_theta"] == 5000.0
    assert manifest["haystack"]["sha256"] == haystack.sha256
    assert manifest["needles"] == {
        "name": "three",
        "sha256": needles.sha256,
        "ids": ["a", "b", "c"],
    }
    assert manifest["grid"] == {"frames": [1, 7, 20], "depths": [0.0, 0.3, 1.0]}
    assert manifest["environment"]["packages"]["torch"] == torch.__version__
    assert len(load_results(tmp_path).samples) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"grid": Grid.of([1, 7], [0, 1])}, "grid.depths"),
        ({"rope_theta": 1e6}, "model.rope_theta"),
        ({"needles": ["a", "b"]}, "needles.ids"),
        ({"dtype": "bfloat16"}, "model.dtype"),
    ],
)
def test_folder_of_another_run_is_refused_by_the_field(
    checkpoint, material, tmp_path, change, field
):
    model, haystack, needles = material
    run_sweep(model, haystack, needles, GRID, output=tmp_path)
    before = (tmp_path / "samples.jsonl").read_bytes()
    options = {k: v for k, v in change.items() if k in ("rope_theta", "dtype")}
    if options:
        model = load_model(checkpoint, device="cpu", **options)
    if "needles" in change:
        needles = needles.select(change["needles"])
    grid = change.get("grid", GRID)
    with pytest.raises(RunMismatchError, match=field):
        run_sweep(model, haystack, needles, grid, output=tmp_path)
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    results = run_sweep(model, haystack, needles, grid, output=tmp_path, overwrite=True)
    assert results.is_complete


class Moody:
    """A model that cannot do sequences of more than some frames."""

    name, revision, frame_shape = "moody", "1", (1, 2)
    limit = 8

    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1,))

    def answer_logits(self, sequence, embeds):
        if len(embeds) > self.limit:
            raise self.error
        return torch.tensor([[0.0, 1.0]])

    error = ModelError("the window is shorter than the sequence")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Moody.error, "the window is shorter than the sequence"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "out of memory: CUDA out of"),
        (MemoryError("no more"), "out of memory: no more"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"),
            "out of memory: DefaultCPUAllocator",
        ),
    ],
)
def test_sample_that_cannot_be_run_is_an_error_and_no_zero(
    image_folder, needle_folder, tmp_path, error, text
):
    model = Moody()
    model.error = error
    arguments = (model, open_haystack(image_folder), load_needles(needle_folder), GRID)
    results = run_sweep(*arguments, output=tmp_path)
    assert [cell.score for cell in results.cells] == [1.0] * 6 + [None] * 3
    assert results.average == 1.0
    failed = [sample for sample in results.samples if sample.error is not None]
    assert len(failed) == 9
    assert all(sample.correct is None and text in sample.error for sample in failed)

    model.limit = 100
    again = run_sweep(*arguments, output=tmp_path)
    assert [cell.score for cell in again.cells] == [1.0] * 9, "errors are tried again"


def test_bug_in_a_plug_in_is_not_hidden(image_folder, needle_folder, tmp_path):
    model = Moody()
    model.error = KeyError("typo")
    with pytest.raises(KeyError, match="typo"):
        run_sweep(
            model, open_haystack(image_folder), load_needles(needle_folder), GRID, output=tmp_path
        )


class Parrot:
    """A chat model that says how many pictures it saw."""

    name, revision = "parrot", "1"

    def answer(self, frames, question):
        assert all(frame.dtype == np.uint8 and frame.shape == (32, 32, 3) for frame in frames)
        return f" {len(frames)}. "


def test_chat_model_is_judged_by_its_words(image_folder, needle_folder, tmp_path):
    needles = load_needles(needle_folder)
    grid = Grid.of([6, 7], [0.5])
    results = run_sweep(Parrot(), open_haystack(image_folder), needles, grid, output=tmp_path)
    outcome = {(s.num_frames, s.needle_id): s.correct for s in results.samples}
    assert outcome[6, "a"] is True, "the answer is 7, and 6 frames with a needle are 7"
    assert outcome[7, "a"] is False
    assert {s.prediction for s in results.samples} == {" 7. ", " 8. "}


def test_chat_model_without_words_is_an_error(image_folder, needle_folder, tmp_path):
    model = Parrot()
    model.answer = lambda frames, question: None
    needles = load_needles(needle_folder)
    arguments = (model, open_haystack(image_folder), needles, Grid.of([6], [0.5]))
    results = run_sweep(*arguments, output=tmp_path)
    assert {s.error for s in results.samples} == {"answer of parrot gave NoneType, not text"}


def test_model_of_the_first_level_with_an_answer_method_is_no_chat_model(
    image_folder, needle_folder, tmp_path
):
    model = Moody()
    model.limit = 100
    model.answer = lambda frames, question: "words"
    arguments = (model, open_haystack(image_folder), load_needles(needle_folder), GRID)
    results = run_sweep(*arguments, output=tmp_path)
    assert results.average == 1.0
    assert results.manifest["protocol"]["criterion"].startswith("argmax")


def test_two_processes_cannot_write_one_run(material, tmp_path):
    def start_another(stage, done, total):
        if (stage, done) == ("sweep", 1):
            with pytest.raises(ResultsError, match="another process is writing"):
                run_sweep(*material, GRID, output=tmp_path)

    assert run_sweep(*material, GRID, output=tmp_path, on_progress=start_another).is_complete


def test_given_cache_holds_needles_too(material, tmp_path, own_cache):
    run_sweep(*material, GRID, output=tmp_path / "run", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").glob("frames-*")) != []
    assert list((tmp_path / "cache").glob("needles-*/frames-*")) != []
    assert list(own_cache.iterdir()) == []


def test_object_that_is_no_model_is_refused(image_folder, needle_folder, tmp_path):
    with pytest.raises(ModelError, match="str is not a model: it lacks name"):
        run_sweep(
            "LongVA",
            open_haystack(image_folder),
            load_needles(needle_folder),
            GRID,
            output=tmp_path,
        )
