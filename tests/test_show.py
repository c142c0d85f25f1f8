"""Contact sheets: which frames are drawn, what is said of the prompt, and how a sample is found."""

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image
from runs import cell, make_run, make_sample

import vniah
from vniah.analysis.plot.typesetting import Fonts, own_settings, text_width
from vniah.cli import main
from vniah.errors import InputError, ModelError
from vniah.grid import Grid
from vniah.protocol import (
    HAYSTACK,
    Frames,
    FrameSegment,
    FrameSpan,
    TextSegment,
    TokenSequence,
    needle_source,
)
from vniah.show.facts import Facts
from vniah.show.frames import read_frames
from vniah.show.prompt import chat_prompt, composed_prompt
from vniah.show.sample import file_name, show_sample
from vniah.show.selection import find_sample, narrowed
from vniah.show.sheet import draw_sheet
from vniah.show.storyboard import Gap, Tile, make_storyboard
from vniah.tasks import Sample, recorded
from vniah.tasks.placement import insert

CARD = FrameSpan(needle_source("card"), 0, 1)
DOOR = FrameSpan(needle_source("door"), 0, 1)


def shown(num_frames, *insertions):
    return Frames.of(insert(num_frames, [(index, spans) for index, spans in insertions]))


def in_words(story):
    """Positions of tiles, and gaps as their numbers of frames below 0."""
    return [-item.num_frames if isinstance(item, Gap) else item.position for item in story]


@pytest.mark.parametrize(
    ("frames", "around", "expected"),
    [
        (shown(600, (120, [CARD])), 2, [0, 1, -116, 118, 119, 120, 121, 122, -476, 599, 600]),
        (shown(600, (0, [CARD])), 1, [0, 1, -597, 599, 600]),
        (shown(600, (600, [CARD])), 0, [0, 1, -597, 599, 600]),
        (shown(8, (4, [CARD])), 1, [0, 1, 2, 3, 4, 5, 6, 7, 8]),  # no gap of a single frame
        (shown(99, (50, [CARD] * 9)), 0, [0, 1, -48, 50, 51, -5, 57, 58, -47, 106, 107]),
        (shown(22), 2, [0, -2, 3, -2, 6, -2, 9, -2, 12, -2, 15, -2, 18, -2, 21]),
        (shown(1), 2, [0]),
        (shown(0, (0, [CARD])), 2, [0]),
        (Frames(()), 2, []),
    ],
)
def test_the_frames_that_are_drawn(frames, around, expected):
    assert in_words(make_storyboard(frames, around=around)) == expected


@pytest.mark.parametrize("around", [0, 2, 20])
@pytest.mark.parametrize("num_needles", [0, 1, 7, 200])
def test_tiles_and_gaps_are_all_frames_in_their_order(num_needles, around):
    frames = shown(1000, *((5 * k, [CARD if k % 2 else DOOR]) for k in range(num_needles)))
    position = num_inserted = num_tiles = 0
    for item in make_storyboard(frames, around=around):
        if isinstance(item, Tile):
            assert item.position == position
            assert FrameSegment(item.source, item.index) == frames[position]
            num_inserted += item.is_inserted
            num_tiles += 1
            position += 1
        else:
            assert item.num_frames > 1
            num_inserted += item.num_inserted
            position += item.num_frames
    assert (position, num_inserted) == (len(frames), num_needles)
    assert num_tiles <= 45


class Worded:
    """Composes a text of one token before every frame, and spells tokens as letters."""

    name, revision, frame_shape = "worded", "1", (3, 8)

    def __init__(self, times=True):
        self._times = times

    def encode_frames(self, frames):
        raise AssertionError("nothing is encoded")

    def answer_logits(self, sequence, embeds):
        raise AssertionError("nothing is answered")

    def compose(self, frames, question, answer):
        parts = [TextSegment((1, 2))]
        for number, frame in enumerate(frames):
            parts += [TextSegment((100 + number,)), frame] if self._times else [frame]
        return TokenSequence((*parts, TextSegment((3, 4, 5))), tuple(map(ord, answer)))

    def spell(self, token_ids):
        return "".join(f"[{token}]" for token in token_ids)


def sample_of(frames, **changes):
    sample = Sample("-/-/a", None, frames.spans, "which?\nsay it", ("7", "seven"))
    return replace(sample, **changes)


def composed(model, frames, answers=("7",)):
    return composed_prompt(model, [model.compose(frames, "", answer) for answer in answers])


def rows_by_hand(sequence, per_frame):
    """The source of every row of a prompt, one by one; empty for text."""
    rows = []
    for segment in sequence.segments:
        is_text = isinstance(segment, TextSegment)
        rows += [""] * len(segment.token_ids) if is_text else [segment.source] * per_frame
    return rows


@pytest.mark.parametrize("times", [True, False])
def test_places_and_counts_are_those_of_the_rows_one_by_one(times):
    frames = shown(12, (0, [CARD]), (5, [DOOR, CARD]), (12, [DOOR] * 3))
    model = Worded(times)
    prompt = composed(model, frames)
    rows = rows_by_hand(model.compose(frames, "", "7"), 3)
    assert prompt.num_tokens == len(rows)
    assert prompt.num_text_tokens == rows.count("")
    for place in prompt.places:
        inside = set(rows[place.start : place.stop])
        assert place.source in inside <= {place.source, ""}
    num_inserted = sum(row.startswith("needles") for row in rows)
    outside = list(rows)
    for place in prompt.places:
        outside[place.start : place.stop] = [HAYSTACK] * (place.stop - place.start)
    assert num_inserted == 6 * 3
    assert not any(row.startswith("needles") for row in outside)


def test_prompt_without_text_between_frames():
    prompt = composed(Worded(times=False), shown(600, (120, [CARD])), ("7", "no"))
    assert prompt.text.split("\n") == [
        "[1][2]",
        "<120 frames x 3 tokens: haystack 0-119>",
        "<1 frame x 3 tokens: needles/card>",
        "<480 frames x 3 tokens: haystack 120-599>",
        "[3][4][5]",
    ]
    assert prompt.candidate_ids == ((55,), (110, 111))
    assert prompt.note == ""


def test_prompt_with_a_text_before_every_frame():
    assert composed(Worded(), shown(6, (4, [CARD]))).text.split("\n") == [
        "[1][2][100]",
        "<1 frame x 3 tokens: haystack 0>",
        "... 2 frames of haystack, each with a text before it ...",
        "[103]",
        "<1 frame x 3 tokens: haystack 3>",
        "[104]",
        "<1 frame x 3 tokens: needles/card>",
        "[105]",
        "<1 frame x 3 tokens: haystack 4>",
        "[106]",
        "<1 frame x 3 tokens: haystack 5>",
        "[3][4][5]",
    ]


def test_prompt_of_models_that_spell_nothing():
    model = Worded(times=False)
    model.spell = None
    prompt = composed(model, shown(1))
    assert prompt.text.startswith("<2 tokens: 1 2>\n")
    assert prompt.note == "worded has neither spell() nor decode(), so token ids are shown"
    model.decode = lambda token_ids: "words"
    prompt = composed(model, shown(1))
    assert prompt.text.startswith("words\n<1 frame x 3 tokens: haystack 0>")
    assert "decode() of worded, which may leave special tokens out" in prompt.note
    model.decode = lambda token_ids: 7
    with pytest.raises(ModelError, match="decode of worded gave int, not text"):
        composed(model, shown(1))


def test_prompt_of_a_chat_model():
    prompt = chat_prompt(sample_of(shown(600, (120, [CARD]))))
    assert prompt.text == "<601 frames>\nwhich?\nsay it"
    assert prompt.num_tokens is None
    assert chat_prompt(sample_of(Frames(()))).text == "which?\nsay it"


@pytest.mark.parametrize(
    ("sample_id", "frames", "depths"),
    [
        ("600/0.2/red-7", (600,), {"1/5"}),
        ("600/1/3/red-7", (600,), {"1/3", "1"}),
        ("600/-/red-7/no-needle", (600,), {"1/2"}),
        ("-/-/red-7/blind", (32,), {"1/2"}),
        ("nonsense", (32,), {"1/2"}),
        ("600/7/red-7", (600,), {"1/2"}),
        ("0/0.2/red-7", (32,), {"1/2"}),
    ],
)
def test_a_plan_has_only_the_place_that_an_id_names(sample_id, frames, depths):
    found = narrowed(Grid.parse("32", "0.5"), sample_id)
    assert found.frames == frames
    assert {str(depth) for depth in found.depths} == depths


def test_an_unknown_sample_is_answered_with_the_nearest():
    samples = [sample_of(shown(1), sample_id=f"-/-/card-{name}") for name in ("red", "blue", "tea")]
    assert find_sample(samples) is samples[0]
    assert find_sample(samples, "-/-/card-blue") is samples[1]
    with pytest.raises(
        InputError, match=r"no sample '-/-/card-read'; the nearest are -/-/card-red"
    ):
        find_sample(samples, "-/-/card-read")
    with pytest.raises(InputError, match="no sample shows or asks about the needle 'door'"):
        find_sample(samples, needle_id="door")
    with_door = sample_of(shown(1, (0, [DOOR])))
    assert find_sample([*samples, with_door], needle_id="door") is with_door


def test_what_is_said_of_a_result():
    frames = shown(1)
    result = make_sample(cell(8, "0"), 0, False, logprob=-2.5, rank=3, margin=-1.25)
    facts = Facts(sample_of(frames), "vniah", result=result, run="results/r")
    assert facts.outcome == (
        "'3', wrong, rank 3 of the answer, log-probability -2.500, margin -1.250"
    )
    assert "result: '3', wrong" in facts.text
    assert replace(facts, result=None).outcome == "not run yet in results/r"
    failed = replace(facts, result=make_sample(cell(8, "0"), 0, "out of memory"))
    assert failed.outcome == "could not be run: out of memory"
    assert replace(facts, run=None, result=None).outcome == ""


def test_a_wrong_argmax_of_several_tokens_is_not_shown_as_a_text():
    mixed = {"prediction": "9493097", "logprob": -9.0, "predicted_ids": (9, 4, 9)}
    result = make_sample(cell(8, "0"), 0, False, **mixed)
    facts = Facts(sample_of(shown(1)), "niah", result=result, run="results/r")
    mark = "each token given the right ones before it"
    assert f"argmax '9493097', {mark}, wrong" in facts.outcome
    others = [
        {"correct": True},
        {"argmax_correct": False},  # the text was generated
        {"logprob": None},  # a chat model
        {"predicted_ids": (9,)},
        {"fields": {"num_options": 4}},
    ]
    for changes in others:
        assert mark not in replace(facts, result=replace(result, **changes)).outcome


def test_pages_have_numbers_and_no_seconds(tmp_path):
    sample = sample_of(shown(12, (6, [DOOR])))
    facts = Facts(sample, "vniah", unit="page")
    story = make_storyboard(Frames.of(sample.shown), around=1)
    tiles = [item for item in story if isinstance(item, Tile)]
    pictures = {tile: np.zeros((6, 11, 3), np.uint8) for tile in tiles}
    figure, _ = draw_sheet(facts, story, pictures)
    drawn = [text.get_text() for text in figure.findobj(Text)]
    assert "page 0" in drawn and any("haystack page" in text for text in drawn)
    assert not any(re.search(r"\d s\b|frame", text) for text in drawn)


def test_options_that_hold_commas_are_told_apart():
    options = ("red, blue", "blue, red")
    facts = Facts(replace(sample_of(shown(1)), choices=options), "order")
    assert facts.choices == "'red, blue', 'blue, red'"
    assert f"choices: {facts.choices}" in facts.text


def test_spans_that_are_shown_are_named_once():
    frames = shown(30, (3, [CARD] * 4), (9, [FrameSpan(needle_source("film"), 0, 5)]))
    assert Facts(sample_of(frames), "t").shown == (
        "39 frames: haystack 0-2, needles/card (4 times), haystack 3-8, needles/film 0-4, "
        "haystack 9-29"
    )
    assert Facts(sample_of(Frames(())), "t").shown == "nothing but the question"


def pictures_of(story, size=(4, 6)):
    return {item: np.zeros((*size, 3), np.uint8) for item in story if isinstance(item, Tile)}


def test_a_sheet_has_the_frames_and_all_texts():
    frames = shown(600, (120, [CARD]), (300, [DOOR]))
    story = make_storyboard(frames, around=1)
    sample = sample_of(frames, fields={"needle_id": "card"})
    model = Worded(times=False)
    facts = Facts(sample, "t", "as stored", "worded", composed(model, frames, ("7", "seven")))
    figure, axes = draw_sheet(facts, story, pictures_of(story))
    assert len(axes) == len(pictures_of(story)) == len(figure.axes)
    colors = [to_hex(ax.spines["left"].get_edgecolor()) for ax in axes]
    assert len(set(colors)) == 3  # the needle that is asked about, the other one, the haystack
    texts = [text.get_text() for text in figure.texts]
    for expected in ("-/-/a", "frame 120, asked", "card", "haystack 119 s", "which?", "say it"):
        assert expected in texts
    for line in facts.prompt.text.split("\n"):
        assert line in texts
    bottom = min(text.get_position()[1] for text in figure.texts)
    assert 0 < bottom < 0.2


@pytest.mark.parametrize("num_needles", [6, 10, 24])
def test_every_needle_has_a_colour_of_its_own(num_needles):
    names = [f"n{k}" for k in range(num_needles)]
    places = [(2 * k, [FrameSpan(needle_source(name), 0, 1)]) for k, name in enumerate(names)]
    frames = shown(2 * num_needles, *places)
    story = make_storyboard(frames, around=0, most=10**6)
    facts = Facts(sample_of(frames, fields={"needle_id": "n1"}), "t")
    figure, axes = draw_sheet(facts, story, pictures_of(story))
    colors = {to_hex(ax.spines["left"].get_edgecolor()) for ax in axes}
    assert len(colors) == num_needles + 1, "and that of the haystack"
    asked = [text.get_text() for text in figure.texts if text.get_text().endswith(", asked")]
    assert asked == ["frame 3, asked"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"needle_id": "card"}, "asked about: card; others: door"),
        ({"needle_ids": ["door", "card"]}, "asked about: door, card"),
        ({"needle_id": "door", "needle_ids": ["door", "card"]}, "asked about: door; others: card"),
        (
            {"needle_id": "card", "asked_needle_id": "moon"},
            "asked about: moon (not shown); others: card, door",
        ),
        ({"needle_ids": 7}, ""),
        ({}, ""),
    ],
)
def test_what_is_asked_about_and_what_is_only_shown(fields, expected):
    frames = shown(9, (2, [CARD]), (5, [DOOR]))
    facts = Facts(sample_of(frames, fields=fields), "t")
    assert facts.inserted == expected
    assert (expected in facts.text.split("\n")) is bool(expected)


def test_a_clip_is_labelled_with_its_seconds():
    frames = shown(60, (20, [FrameSpan(needle_source("film"), 0, 4)]), (40, [CARD]))
    story = make_storyboard(frames)
    figure, _ = draw_sheet(Facts(sample_of(frames), "t"), story, pictures_of(story))
    texts = [text.get_text() for text in figure.texts]
    assert "20-23 s" in texts and "44 s" in texts


def test_a_sheet_without_video_and_with_texts_that_are_hard_to_draw():
    question = "$x_1$ 红色 Какая " + "so on " * 80 + "x" * 400 + "\x1b[2J\n\n\u202e"
    facts = Facts(sample_of(Frames(()), question=question), "t", notes=("a note",))
    with own_settings():
        figure, axes = draw_sheet(facts, (), {})
        figure.canvas.draw()  # no warning of a missing character, which is an error in tests
        right = max(text.get_window_extent().x1 for text in figure.texts)
    assert axes == ()
    assert right <= 0.98 * figure.bbox.width
    drawn = "\n".join(text.get_text() for text in figure.texts)
    assert "No picture is shown" in drawn and r"\x1b[2J" in drawn and "$x_1$" in drawn


def test_lines_are_no_wider_than_they_may_be_and_lose_nothing():
    fonts = Fonts()
    style = fonts.style(9.0)
    text = "one two  three " * 30 + "w" * 300
    lines = fonts.wrap(text, 200.0, style, most=100)
    assert max(text_width(line, style) for line in lines) <= 200
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert fonts.wrap(text, 200.0, style, most=3)[-1].endswith(
        "more lines, which the command prints"
    )
    assert text_width(fonts.cut(text, 50.0, style), style) <= 50


def test_characters_without_a_font_are_escaped():
    fonts = Fonts(missing=frozenset("红"))
    assert fonts.writable("红 red") == r"\u7ea2 red"


class Halved(Worded):
    def prepared_frames(self, frames):
        return [frame[::2, ::2] for frame in frames]


def test_frames_are_drawn_as_the_model_gets_them(image_folder, needle_folder):
    haystack, needles = vniah.open_haystack(image_folder), vniah.load_needles(needle_folder)
    tiles = [Tile(3, HAYSTACK, 3), Tile(4, needle_source("a"), 0)]
    stored = read_frames(tiles, haystack, needles, None)
    found = read_frames(tiles, haystack, needles, Halved())
    own = np.array(Image.open(image_folder / "003.png"))
    assert np.array_equal(stored.pictures[tiles[0]], own)
    assert np.array_equal(found.pictures[tiles[0]], own[::2, ::2])
    assert found.pictures[tiles[1]].shape == (16, 16, 3)
    assert "as worded gets them" in found.caption and "16 x 16 px" in found.caption
    assert (
        "worded has no prepared_frames()" in read_frames(tiles, haystack, needles, Worded()).caption
    )
    wrong = Halved()
    wrong.prepared_frames = lambda frames: [frame / 2 for frame in frames]
    with pytest.raises(ModelError, match=r"prepared_frames of worded gave float64 \[32, 32, 3\]"):
        read_frames(tiles, haystack, needles, wrong)
    wrong.prepared_frames = lambda frames: frames[:1]
    with pytest.raises(ModelError, match="gave 1 pictures for 2 frames"):
        read_frames(tiles, haystack, needles, wrong)


def test_a_needle_that_is_drawn_into_a_frame(image_folder, needle_folder):
    haystack, needles = vniah.open_haystack(image_folder), vniah.load_needles(needle_folder)
    found = show_sample(
        None,
        haystack,
        needles,
        Grid.parse("30", "0.5"),
        needle_id="b",
        task_options={"needle_style": "blended", "needle_frames": "2"},
    )
    own = np.array(Image.open(image_folder / "014.png"))
    drawn = [np.array(ax.images[0].get_array()) for ax in found.axes]
    at = next(k for k, picture in enumerate(drawn) if np.array_equal(picture, own))
    assert np.array_equal(drawn[at + 1], drawn[at + 2])
    is_other = (drawn[at + 1] != own).any(-1)
    assert 0 < is_other.mean() < 0.2  # of its height and width at most two fifths
    texts = [text.get_text() for text in found.figure.texts]
    assert texts.count("b in 14 s") == 2
    assert "blended/b 14 (2 times)" in found.text


def test_a_sample_of_a_checkpoint(checkpoint, image_folder, needle_folder, tmp_path):
    model = vniah.load_model(str(checkpoint))
    haystack, needles = vniah.open_haystack(image_folder), vniah.load_needles(needle_folder)
    found = show_sample(model, haystack, needles, Grid.parse("8", "0"), "30/0.5/b")
    lines = found.text.split("\n")
    assert lines[0] == "sample: 30/0.5/b"
    assert "shown: 31 frames: haystack 0-14, needles/b, haystack 15-29" in lines
    assert any("<|im_start|>" in line for line in lines)  # decode() of other models may lose them
    per_frame = model.frame_shape[-2]
    assert f"  <15 frames x {per_frame} tokens: haystack 0-14>" in lines
    side = model.prepared_frames([np.zeros((20, 40, 3), np.uint8)])[0].shape[0]
    assert {ax.images[0].get_array().shape for ax in found.axes} == {(side, side, 3)}
    for name in ("a.png", "a.pdf", "a.svg"):
        assert found.save(tmp_path / name).stat().st_size > 1000
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"cannot be saved as 'a\.gif'"):
        found.save(tmp_path / "a.gif")


def test_a_picture_of_the_towers_size_is_prepared_without_a_change(checkpoint):
    model = vniah.load_model(str(checkpoint))
    side = model.prepared_frames([np.zeros((20, 40, 3), np.uint8)])[0].shape[0]
    frame = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    assert np.array_equal(model.prepared_frames([frame])[0], frame)


def test_a_sample_is_the_same_in_a_grid_that_lacks_its_cell(image_folder, needle_folder):
    haystack, needles = vniah.open_haystack(image_folder), vniah.load_needles(needle_folder)
    texts = {
        show_sample(None, haystack, needles, Grid.parse(frames, depths), "20/0.5/c").text
        for frames, depths in (("8", "0"), ("8,20", "0:1:0.25"))
    }
    assert len(texts) == 1


def test_names_of_files():
    assert file_name("600/0.2/red-7") == "600-0.2-red-7.png"
    assert len(file_name("600/0.2/" + "x" * 500)) < 140


@pytest.fixture(scope="module")
def run(checkpoint, image_folder, needle_folder, tmp_path_factory):
    """A run of one cell."""
    folder = tmp_path_factory.mktemp("shown") / "run"
    vniah.run_sweep(
        vniah.load_model(str(checkpoint)),
        vniah.open_haystack(image_folder),
        vniah.load_needles(needle_folder),
        Grid.parse("8", "0.5"),
        output=folder,
        progress=False,
    )
    return folder


def test_the_command_shows_a_sample_of_a_run(run, image_folder, needle_folder, capsys):
    own = ["--haystack", str(image_folder), "--needles", str(needle_folder)]
    assert main(["show", str(run), "8/-/c/no-needle", *own]) == 0
    out = capsys.readouterr().out
    assert "control no-needle, not part of the score" in out
    line = next(s for s in vniah.load_results(run).control_samples if "/c/" in s.sample_id)
    said = f"{line.prediction!r}, {'right' if line.correct else 'wrong'}"
    if line.has_conditioned_prediction:
        said = f"argmax {line.prediction!r}, each token given the right ones before it, wrong"
    assert f"result: {said}" in out
    assert "note: the model tiny of the run is not loaded; give --model" in out
    picture = run / "8---c-no-needle.png"
    assert f"picture: {picture}" in out and picture.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["8/0.5/d"], "there is no sample '8/0.5/d'; the nearest are 8/0.5/c, 8/0.5/b, 8/0.5/a"),
        (["16/0.5/a"], "there is no sample '16/0.5/a'; the nearest are 8/0.5/a"),
        (["8/0.5/a"], "holds the name of its needle set, 'three', and not where it lies: give"),
        (["8/0.5/a", "--needles", "cards"], "these are not the needles of"),
        (["8/0.5/a", "--needles", "NEEDLES"], "and not where it lies: give --haystack"),
        (["a", "b"], "show takes a run's folder and the id of one sample, got 3 names"),
    ],
)
def test_the_command_says_what_it_lacks(run, needle_folder, arguments, message, capsys):
    given = [str(needle_folder) if text == "NEEDLES" else text for text in arguments]
    assert main(["show", str(run), *given, "--no-model"]) == 2
    assert message in capsys.readouterr().err


def test_the_command_shows_a_sample_without_a_run(
    image_folder, needle_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    own = ["--haystack", str(image_folder), "--needles", str(needle_folder), "--no-model"]
    assert main(["show", "--needle", "b", "--frames", "12", *own]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sample: 12/0.5/b\n")
    assert (tmp_path / "12-0.5-b.png").is_file()
    assert "prompt" not in out


def test_the_command_takes_an_id_without_a_place(image_folder, needle_folder, tmp_path, capsys):
    own = ["--haystack", str(image_folder), "--needles", str(needle_folder), "--no-model"]
    output = str(tmp_path / "blind.png")
    assert main(["show", "-/-/b/blind", *own, "--output", output]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sample: -/-/b/blind\n")
    assert "shown: nothing but the question" in out and "frames: none are shown" in out


def test_what_a_run_was_made_of(image_folder, needle_folder):
    results = make_run()
    assert recorded.task_of(results) == ("vniah", {})
    with pytest.raises(InputError, match="of the task 'halves', which does not come with vniah"):
        recorded.task_of(make_run(task="halves"))
    with_settings = {"settings": {"distances": [1, 2], "needle_frames": 3}}
    assert recorded.task_of(make_run(task_details=with_settings))[1] == {
        "distances": "1,2",
        "needle_frames": "3",
    }
    haystack = vniah.open_haystack(image_folder)
    with pytest.raises(InputError, match=r"its kind is 'images', that of the run None"):
        recorded.haystack_of(results, haystack, 8)
    needles = vniah.load_needles(needle_folder)
    ids = {"needles": {"ids": ["b"], "name": "three", "sha256": "aa"}}
    with pytest.raises(InputError, match="the needle set three is not that of"):
        recorded.needles_of(make_run(**ids), needles)
    ids["needles"]["sha256"] = needles.select(["b"]).sha256
    assert recorded.needles_of(make_run(**ids), needles).ids == ("b",)
