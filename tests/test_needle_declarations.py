"""Distractors and locators, which needles declare: in every format, and in every selection."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vniah.errors import NeedleError
from vniah.needles import Distractor, Needle, NeedleSet, load_needles

RECORDS = [
    {"needle_id": "a", "question": "Where?", "answer": "here", "distractors": ["x", "b"]},
    {"needle_id": "b", "question": "When?", "answer": "now", "locator": " the second one "},
    {"needle_id": "x", "role": "distractor", "locator": "the red card"},
]


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def needle(name: str, seed: int = 0, **changes: object) -> Needle:
    return replace(Needle(name, "q", "x", None, picture(seed)), **changes)


def save_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, record in enumerate(RECORDS):
        picture(seed).save(folder / f"{record['needle_id']}.png")


def named(key: str = "file_name") -> list[dict[str, object]]:
    return [{key: f"{record['needle_id']}.png", **record} for record in RECORDS]


def write_lines(folder: Path, records: list[dict[str, object]]) -> Path:
    save_pictures(folder)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metadata.jsonl").write_text(text)
    return folder


def write_csv(folder: Path) -> None:
    save_pictures(folder)
    (folder / "metadata.csv").write_text(
        "file_name,needle_id,question,answer,distractors,locator,role\n"
        'a.png,a,Where?,here,"[""x"", ""b""]",,\n'
        "b.png,b,When?,now,,the second one,needle\n"
        "x.png,x,,,,the red card,distractor\n"
    )


def write_parquet(folder: Path) -> None:
    save_pictures(folder)
    pq.write_table(pa.Table.from_pylist(complete(named())), folder / "metadata.parquet")


def complete(records: list[dict[str, object]]) -> list[dict[str, object]]:
    """The records with all columns, as tables have them."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]


def write_published(folder: Path) -> None:
    save_pictures(folder / "images")
    records = [
        {"prompt" if key == "question" else key: value for key, value in record.items()}
        for record in named("path")
    ]
    (folder / "dataset.json").write_text(json.dumps(records))


def require_all(found: NeedleSet) -> None:
    assert found.ids == ("a", "b")
    assert [n.distractors for n in found] == [("x", "b"), ()]
    assert [n.locator for n in found] == [None, "the second one"]
    assert [(d.needle_id, d.locator) for d in found.distractors] == [("x", "the red card")]
    assert list(found.pictures) == ["a", "b", "x"]
    assert np.array_equal(found.pictures["x"].image, picture(2))


@pytest.mark.parametrize(
    "write",
    [lambda folder: write_lines(folder, named()), write_csv, write_parquet, write_published],
    ids=["jsonl", "csv", "parquet", "published"],
)
def test_declarations_are_read_from_every_format(tmp_path, write):
    write(tmp_path / "set")
    require_all(load_needles(tmp_path / "set"))


def serve(monkeypatch, records: list[dict[str, object]]) -> None:
    columns = {key: [record[key] for record in records] for key in records[0]}
    columns["image"] = [picture(seed) for seed in range(len(records))]
    found = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, *, split: found)


def test_declarations_are_read_from_the_hub(monkeypatch):
    serve(monkeypatch, complete(RECORDS))
    require_all(load_needles("owner/name"))


def test_distractors_of_the_hub_may_be_numbers_where_ids_are(monkeypatch):
    asked = {"question": "q", "answer": "x"}
    serve(monkeypatch, [{**asked, "distractors": [1]}, {**asked, "distractors": None}])
    assert load_needles("owner/name").needles[0].distractors == ("1",)


def test_the_sha256_is_of_what_is_asked_and_another_one_of_what_is_declared():
    plain = NeedleSet("n", "s", (needle("a"), needle("b", 1)))
    assert plain.declared_sha256 is None
    declared = NeedleSet("n", "s", (needle("a", distractors=("b",)), needle("b", 1)))
    located = NeedleSet("n", "s", (needle("a", locator="the card"), needle("b", 1)))
    other = NeedleSet(
        "n", "s", (needle("a", distractors=("x",)), needle("b", 1)), (Distractor("x", picture(2)),)
    )
    redrawn = replace(other, distractors=(Distractor("x", picture(3)),))
    sets = (plain, declared, located, other, redrawn)
    assert {one.sha256 for one in sets} == {plain.sha256}
    assert len({one.declared_sha256 for one in sets}) == 5


def test_a_selection_shows_what_the_whole_set_shows(tmp_path):
    whole = load_needles(write_lines(tmp_path, named()))
    for ids in (["a"], ["b", "a"]):
        chosen = whole.select(ids)
        assert chosen.ids == tuple(ids) and len(chosen) == len(ids)
        assert chosen.distractors == whole.distractors
        assert dict(chosen.pictures) == dict(whole.pictures)
        assert (
            chosen.sha256
            == NeedleSet("n", "s", chosen.needles, chosen.distractors, chosen.unselected).sha256
        )
    assert whole.select(["b", "a"]).select(["a"]).pictures == whole.pictures
    with pytest.raises(NeedleError, match="has no needle 'x'; it has a, b"):
        whole.select(["x"])
    with pytest.raises(NeedleError, match="has no needle 'b'; it has a"):
        whole.select(["a"]).select(["b"])


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (0, {"distractors": ["nobody"]}, "line 1: there is no distractor 'nobody' in this set"),
        (0, {"distractors": ["a"]}, "line 1: the needle 'a' names itself"),
        (0, {"distractors": ["x", "x"]}, "line 1: .* names the distractor 'x' twice"),
        (0, {"distractors": ["x y"]}, "line 1: needle_id 'x y' cannot be part"),
        (0, {"distractors": "x"}, "line 1: distractors must be .* got 'x'"),
        (1, {"locator": "the\ncard"}, r"line 2: the locator 'the\\ncard' must be one phrase"),
        (1, {"locator": "x" * 1001}, "line 2: the locator has 1,001 characters"),
        (1, {"locator": 7}, "line 2: locator must be text or null, got 7"),
        (2, {"role": "decoy"}, "line 3: 'role' must be 'needle' or 'distractor', .* got 'decoy'"),
        (2, {"distractors": ["a"]}, "line 3: a row with the role 'distractor' names no"),
        (2, {"needle_id": "a"}, "line 3: needle_id 'a' is taken by metadata.jsonl line 1"),
        (2, {"file_name": "a.png"}, "distractor 'x' of the needle 'a' shows the same picture"),
        (2, {"file_name": None}, "line 3 has no 'file_name'"),
    ],
)
def test_a_wrong_declaration_is_one_line(tmp_path, index, changes, message):
    records = named()
    records[index] = {**records[index], **changes}
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(write_lines(tmp_path, records))
    assert "\n" not in str(caught.value)


def test_a_set_of_distractors_alone_is_refused(tmp_path):
    with pytest.raises(NeedleError, match="holds no needle"):
        load_needles(write_lines(tmp_path, named()[2:]))


def test_a_set_made_in_python_is_checked_too():
    with pytest.raises(
        NeedleError, match="names the distractor 'x', which the needle set 'n' does"
    ):
        NeedleSet("n", "s", (needle("a", distractors=("x",)),))
    with pytest.raises(NeedleError, match="has needle_id 'a' twice"):
        NeedleSet("n", "s", (needle("a"),), (Distractor("a", picture(1)),))
    with pytest.raises(NeedleError, match="distractor 'x' has a picture of mode 'L'"):
        Distractor("x", picture(1).convert("L"))


@pytest.mark.parametrize("name", ["cards", "counterfactual"])
def test_embedded_sets_name_every_needle(name):
    needles = load_needles(name)
    for one in needles:
        assert one.locator is not None
        noun = one.locator.removeprefix("the ")
        assert noun in one.question


def test_cards_have_all_others_of_their_kind_as_distractors():
    cards = load_needles("cards")
    kinds = {name: name.partition("-")[0] for name in cards.pictures}
    for card in cards:
        alike = {n for n in kinds if kinds[n] == kinds[card.needle_id] and n != card.needle_id}
        assert set(card.distractors) == alike and len(alike) >= 5
    locators = [picture.locator for picture in cards.pictures.values()]
    assert len(set(locators)) == len(locators) == 20
    assert cards.needles[0].distractors[0] == "card-orange-2"  # the nearest colour to red


def test_counterfactual_has_a_distractor_for_each_needle_and_lists_all():
    needles = load_needles("counterfactual")
    first = [one.distractors[0] for one in needles]
    assert first == ["street-sign", "plain-clock", "street-bicycle", "forest-snowman", "sun-juice"]
    assert first == [one.needle_id for one in needles.distractors]
    assert all(set(one.distractors) == set(first) for one in needles)
    for one, distractor in zip(needles, needles.distractors, strict=True):
        assert distractor.locator is not None and distractor.locator not in one.question
        assert distractor.image.size == one.image.size


def test_a_manifest_names_what_is_declared_only_where_samples_may_depend_on_it():
    """Manifests of the task vniah stay what they were, so that its runs are taken up."""
    from vniah.grid import Grid
    from vniah.sweep.manifest import _needles_record
    from vniah.tasks.controls import plan_samples
    from vniah.tasks.vniah import VisualNeedle

    needles, grid = load_needles("cards"), Grid.parse("4", "0,1")
    plain = {"name": "cards", "sha256": needles.sha256, "ids": list(needles.ids)}
    declared = {**plain, "declared_sha256": needles.declared_sha256}
    samples = plan_samples(VisualNeedle(), grid, needles, None)
    assert _needles_record(needles, samples) == plain
    blended = plan_samples(VisualNeedle(3, "blended"), grid, needles, None)
    assert _needles_record(needles, blended) == plain
    asks = [*samples, replace(samples[3], question="At which second was the red card shown?")]
    assert _needles_record(needles, asks) == declared
    shows = [*samples, replace(samples[3], shown=samples[4].shown)]
    assert _needles_record(needles, shows) == declared
    nothing = NeedleSet("n", "s", (needle("a"),))
    assert "declared_sha256" not in _needles_record(nothing, asks)
