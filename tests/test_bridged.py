"""The task bridged: bridges of needle sets, and what the task shows and asks."""

import json

import pytest
from needle_sets import numbered_needles, picture

from vniah.errors import NeedleError, TaskError
from vniah.grid import Grid
from vniah.needles import Bridge, NeedleSet, load_needles
from vniah.protocol import HAYSTACK, Frames, needle_source
from vniah.scoring import LogitsScore, Reading
from vniah.tasks import load_task


def samples_of(frames, depths, *, needles=None, **options):
    needles = needles or numbered_needles(8)
    return list(load_task("bridged", options).samples(Grid.parse(frames, depths), needles, None))


def indices_of(sample):
    """For each picture that is shown, the number of haystack frames before it."""
    found, before = {}, 0
    for frame in Frames(sample.shown):
        if frame.source == HAYSTACK:
            assert frame.index == before
            before += 1
        else:
            assert frame.source not in found
            found[frame.source] = before
    assert before == sample.cell.num_frames
    return found


def test_each_bridge_is_asked_forward_and_backward():
    found = samples_of("40", "0,1", distance="5", others="0,1")
    assert [one.sample_id for one in found[:8]] == [
        f"40/0/n{k}/5-{direction}-o0"
        for k in range(0, 8, 2)
        for direction in ("forward", "backward")
    ]
    assert len(found) == 2 * 4 * 2 * 2
    one = found[0]
    assert one.question == "Which number is on the card that card 0 names?"
    assert one.candidates == ("1", "one")


def test_both_pictures_stand_where_the_fields_say_and_others_are_whole_bridges():
    for one in samples_of("30,41", "0,0.3,1", distance="4,10%", others="0,2"):
        shown, fields = indices_of(one), one.fields
        own = dict(zip(fields["needle_ids"], fields["needle_indices"], strict=True))
        other = dict(zip(fields["other_ids"], fields["other_indices"], strict=True))
        assert shown == {needle_source(name): place for name, place in (own | other).items()}
        first, second = fields["needle_indices"]
        assert second - first == (4 if fields["distance"] == 4 else one.cell.num_frames // 10)
        assert first == one.cell.depth * (one.cell.num_frames - (second - first)) // 1
        asked = int(fields["needle_id"][1:])
        pair = [f"n{asked}", f"n{asked + 1}"]
        assert fields["needle_ids"] == (pair if fields["direction"] == "forward" else pair[::-1])
        numbers = sorted(int(name[1:]) for name in other)
        assert len(numbers) == 2 * fields["num_others"] and asked not in numbers
        assert all(b == a + 1 for a, b in zip(numbers[::2], numbers[1::2], strict=True))


def test_others_are_the_same_in_a_selection_of_the_needles():
    whole = {one.sample_id: one for one in samples_of("40", "0.5", others="2")}
    part = samples_of("40", "0.5", others="2", needles=numbered_needles(8).select(["n4", "n3"]))
    assert part and all(whole[one.sample_id] == one for one in part)


def test_right_is_what_the_other_picture_shows():
    task = load_task("bridged")
    one = samples_of("40", "0")[0]
    readings = [
        Reading(0.1, (k,), LogitsScore((k,), right, -1.0, 1 if right else 2, 0.5), str(k))
        for k, right in enumerate((False, True))
    ]
    score = task.score(one, readings)
    assert score.correct and score.variant == "one"


def test_cards_have_a_bridge_from_each_sign():
    cards = load_needles("cards")
    found = samples_of("40", "0.5", needles=cards, direction="forward")
    assert [(one.question, one.answer, one.fields["needle_ids"]) for one in found] == [
        (
            "Read the digit on the card colored as the sign with a star",
            "3",
            ["sign-star-blue", "card-blue-3"],
        ),
        (
            "Read the digit on the card colored as the sign with a triangle",
            "5",
            ["sign-triangle-green", "card-green-5"],
        ),
        (
            "Read the digit on the card colored as the sign with a cross",
            "2",
            ["sign-cross-orange", "card-orange-2"],
        ),
    ]
    for needle in cards:
        if needle.bridge is not None:  # the sign's answer is the card's key, its digit the answer
            assert needle.bridge.to == f"card-{needle.answer}-{needle.bridge.answer}"


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"has_bridges": False},
            {},
            "no needle of numbered has a 'bridge', a question of two hops",
        ),
        (
            {"count": 4},
            {},
            "others=2 asks for so many other bridges beside that of n0, and numb.* 1",
        ),
        ({}, {"distance": "50"}, "2 pictures of the task bridged that stand 50 haystack frames"),
        ({}, {"direction": "up"}, "option direction must be one of forward, backward, got 'up'"),
        ({}, {"others": "-1"}, "option others must be whole numbers from 0"),
    ],
)
def test_what_cannot_be_asked_is_one_line(changes, options, message):
    with pytest.raises(TaskError, match=message):
        samples_of("40", "0", needles=numbered_needles(**{"count": 8, **changes}), **options)


# --- bridges of needle sets ----------------------------------------------------------------------


def write_set(folder, bridge, others=None):
    folder.mkdir()
    rows = [
        {"needle_id": "a", "question": "?", "answer": "blue", "bridge": bridge},
        {"needle_id": "b", "role": "distractor", **(others or {})},
    ]
    for number, row in enumerate(rows):
        row["file_name"] = f"{row['needle_id']}.png"
        picture(number).save(folder / row["file_name"])
    lines = [json.dumps({key: v for key, v in row.items() if v is not None}) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


BRIDGE = {"to": "b", "question": "And on the other?", "answer": "3"}


def test_bridge_is_read_from_metadata(tmp_path):
    needles = load_needles(write_set(tmp_path / "set", {**BRIDGE, "accepted": ["three"]}))
    assert needles.needles[0].bridge == Bridge("b", "And on the other?", "3", None, ("three",))
    assert needles.needles[0].bridge.answers == ("3", "three")
    plain = load_needles(write_set(tmp_path / "plain", None))
    assert plain.needles[0].bridge is None and plain.declared_sha256 is None
    assert plain.sha256 == needles.sha256, "the task vniah asks no bridge"
    other = load_needles(write_set(tmp_path / "other", {**BRIDGE, "answer": "4"}))
    hashes = [one.declared_sha256 for one in (needles, other, plain)]
    assert len(set(hashes)) == 3


def test_bridge_is_read_from_csv(tmp_path):
    folder = write_set(tmp_path / "set", None)
    (folder / "metadata.jsonl").unlink()
    bridge = json.dumps(BRIDGE).replace('"', '""')
    (folder / "metadata.csv").write_text(
        "file_name,needle_id,question,answer,role,bridge\n"
        f'a.png,a,?,blue,,"{bridge}"\n'
        "b.png,b,,,distractor,\n"
    )
    assert load_needles(folder).needles[0].bridge == Bridge("b", "And on the other?", "3")


@pytest.mark.parametrize(
    ("bridge", "others", "message"),
    [
        ({**BRIDGE, "to": "c"}, {}, "line 1: the bridge leads to 'c', which is not in this set"),
        ({**BRIDGE, "to": "a"}, {}, "line 1: the bridge of the needle 'a' leads to 'a' itself"),
        ({**BRIDGE, "answer": " "}, {}, "line 1: the answer is empty"),
        ({"to": "b", "question": "?"}, {}, "line 1: .*answer"),
        ("b", {}, "line 1: .*bridge"),
        ({**BRIDGE, "choices": ["1", "2"]}, {}, "line 1: the answer '3' is not among the choices"),
        (None, {"bridge": {**BRIDGE, "to": "a"}}, "line 2: .*has no 'bridge'"),
    ],
)
def test_invalid_bridge_is_one_line(tmp_path, bridge, others, message):
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(write_set(tmp_path / "set", bridge, others))
    assert "\n" not in str(caught.value)


def test_set_with_a_bridge_to_nowhere_is_refused():
    needles = numbered_needles(2, distractors=0).needles
    with pytest.raises(
        NeedleError, match="bridge of the needle 'n0' leads to 'n1', which the needle"
    ):
        NeedleSet("half", "half", needles[:1])
