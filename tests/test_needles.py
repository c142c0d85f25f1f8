import csv
import io
import json
import os
import random
import subprocess
import sys
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vniah import errors
from vniah.errors import ModelError, NeedleError
from vniah.files import embedded_dir
from vniah.models.loading import load_model
from vniah.needles import Needle, NeedleSet, load_needles
from vniah.needles.loading import EMBEDDED_SETS
from vniah.needles.pictures import read_picture

LETTERED = {
    "question": "Which?\nA. Cat\nB. Dog\nAnswer with the option's letter.",
    "choices": ["Cat", "Dog"],
    "answer": "B",
}


def picture(seed: int, size: tuple[int, int] = (12, 9)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def line(name: str, **changes: object) -> dict[str, object]:
    record = {"file_name": f"{name}.png", "needle_id": name, "question": f"Where is {name}?"}
    return {**record, "answer": "here", **changes}


def write_set(folder: Path, records: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, record in enumerate(records):
        path = folder / str(record.get("file_name") or "unnamed.png")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(seed).save(path)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def needle(name: str = "a", **changes: object) -> Needle:
    made = Needle(needle_id=name, question="q", answer="x", choices=None, image=picture(0))
    return replace(made, **changes)


# --- what a set is ---


def test_load_gives_every_record_in_the_order_of_the_lines(tmp_path: Path) -> None:
    records = [line("zebra"), line("ant", **LETTERED), line("m.1-x_2", choices=None)]
    loaded = load_needles(write_set(tmp_path / "mine", records))
    assert (loaded.name, loaded.source) == ("mine", str(tmp_path / "mine"))
    assert loaded.ids == ("zebra", "ant", "m.1-x_2")
    assert [n.choices for n in loaded] == [None, ("Cat", "Dog"), None]
    assert [n.answer for n in loaded] == ["here", "B", "here"]
    for seed, found in enumerate(loaded):
        assert np.array_equal(np.asarray(found.image), np.asarray(picture(seed)))


def test_question_is_kept_verbatim_and_answer_is_stripped(tmp_path: Path) -> None:
    question = "\n  Où?\u2028A. x \n"
    (loaded,) = load_needles(write_set(tmp_path, [line("a", question=question, answer=" B\n")]))
    assert (loaded.question, loaded.answer) == (question, "B")


def test_answers_that_arrow_would_turn_into_times_stay_text(tmp_path: Path) -> None:
    records = [line("a", answer="2024-05-01"), line("b", answer="2024-05-02")]
    assert [n.answer for n in load_needles(write_set(tmp_path, records))] == [
        "2024-05-01",
        "2024-05-02",
    ]


def test_two_questions_about_one_picture_are_two_needles(tmp_path: Path) -> None:
    records = [line("a"), line("b", file_name="a.png", answer="there")]
    loaded = load_needles(write_set(tmp_path, records))
    assert loaded.needles[0].image_sha256 == loaded.needles[1].image_sha256
    assert loaded.needles[0] != loaded.needles[1]


@pytest.mark.parametrize(
    ("answer", "choices"),
    [
        ("A", ["Cat", "Dog"]),
        ("Dog", ["Cat", "Dog"]),
        ("A", ["A. Cat", "B. Dog"]),
        ("B. Dog", ["A. Cat", "B. Dog"]),
        ("D", ["(C) Cat", "(D) Dog"]),
        ("here", []),
    ],
)
def test_answer_is_accepted_as_option_or_as_letter(
    tmp_path: Path, answer: str, choices: list[str]
) -> None:
    (loaded,) = load_needles(write_set(tmp_path, [line("a", answer=answer, choices=choices)]))
    assert loaded.choices == (tuple(choices) or None)


@pytest.mark.parametrize("name", ["train [1] test", ".hidden", "x*y?", "test"])
def test_folder_names_and_stray_files_do_no_harm(tmp_path: Path, name: str) -> None:
    records = [
        line("train", file_name="train/a.png"),
        line("b", file_name="te[s]t.png"),
        line("val"),
    ]
    folder = write_set(tmp_path / name, records)
    (folder / "stray.png").write_text("not a picture, and not listed")
    (folder / "README.md").write_text("notes")
    assert load_needles(folder).ids == ("train", "b", "val")


def test_blank_lines_and_linked_pictures_are_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", [line("a"), line("b")])
    (folder / "a.png").rename(tmp_path / "elsewhere.bin")
    (folder / "a.png").symlink_to(tmp_path / "elsewhere.bin")
    text = (folder / "metadata.jsonl").read_text().replace("\n", "\n\n  \n")
    (folder / "metadata.jsonl").write_text(text)
    assert load_needles(folder).ids == ("a", "b")


def test_changed_folder_is_never_served_as_it_was(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a")])
    before = load_needles(folder)
    stamp = (folder / "a.png").stat()
    picture(7).save(folder / "a.png")
    os.utime(folder / "a.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = load_needles(folder)
    assert before.needles[0].image_sha256 != after.needles[0].image_sha256
    assert before.sha256 != after.sha256


def test_loading_twice_gives_equal_sets(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a"), line("b", **LETTERED)])
    assert load_needles(folder) == load_needles(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"needle_id": "b"},
        {"question": "other"},
        {"answer": "other"},
        {"choices": ("x", "y")},
        {"accepted": ("y",)},
        {"image": picture(1)},
        {"image": picture(0).transpose(Image.Transpose.ROTATE_90)},
    ],
)
def test_sha256_changes_with_every_part(changes: dict[str, object]) -> None:
    plain = NeedleSet("n", "s", (needle(),))
    assert NeedleSet("n", "s", (needle(**changes),)).sha256 != plain.sha256
    assert NeedleSet("other", "elsewhere", (needle(),)).sha256 == plain.sha256


def test_sets_without_accepted_answers_keep_the_sha256_that_they_had() -> None:
    with_one = needle("b", accepted=("X",))
    assert NeedleSet("n", "s", (needle(),)).sha256 == (
        "02436cbe1c26c60c5974586ab9d5349b06ae3e9e20ec3441ef5b2a91e6cf5eb2"
    )
    assert load_needles("cards").sha256 == (
        "60b4017f30cee999ad53ad033905fcb6f7f1644ded72f0d928c50cb8820803cd"
    )
    orders = [
        NeedleSet("n", "s", (needle(), needle("b", accepted=a))).sha256
        for a in (("y", "z"), ("z", "y"))
    ]
    assert len({*orders, NeedleSet("n", "s", (needle(), with_one)).sha256}) == 3


def test_accepted_answers_are_read_beside_rows_without_any(tmp_path: Path) -> None:
    records = [
        line("a"),
        line("b", answer="Yellow", accepted=[" yellow", "Yellow."]),
        line("c", **LETTERED, accepted=["Dog", "B. Dog"]),
        line("d", accepted=None),
        line("e", accepted=[]),
    ]
    loaded = load_needles(write_set(tmp_path, records))
    assert [n.accepted for n in loaded] == [(), ("yellow", "Yellow."), ("Dog", "B. Dog"), (), ()]
    assert loaded.needles[1].answers == ("Yellow", "yellow", "Yellow.")


def test_select_keeps_the_order_asked_for() -> None:
    whole = NeedleSet("n", "s", tuple(needle(name) for name in "abc"))
    part = whole.select(["c", "a"])
    assert (part.ids, len(part), part.name) == (("c", "a"), 2, "n")
    assert part.sha256 != whole.sha256
    assert whole.select("abc") == whole


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "z"], r"'n' has no needle 'z'; it has a, b\."),
        (["a", "a"], "needle_id 'a' twice"),
        ([], "holds no needle"),
    ],
)
def test_select_refuses_what_is_not_there(ids: list[str], message: str) -> None:
    with pytest.raises(NeedleError, match=message):
        NeedleSet("n", "s", (needle("a"), needle("b"))).select(ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": picture(0).convert("L")}, "mode 'L'"),
        ({"answer": " x"}, "white space around it"),
        ({"accepted": ("X ",)}, "the accepted answer 'X ' has white space around it"),
        ({"accepted": ("x",)}, "the answer 'x' is given twice"),
        ({"needle_id": "a/b"}, "'a/b' cannot be part of a sample's id"),
        ({"needle_id": "caf\u00e9"}, r"cannot be part .*; use ASCII letters \(a to z, A to Z\)"),
    ],
)
def test_needle_made_in_python_is_checked_too(changes: dict[str, object], message: str) -> None:
    with pytest.raises(NeedleError, match=message):
        needle(**changes)


# --- pictures ---


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a", file_name="a.jpg")])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(folder / "a.jpg", exif=exif)
    assert load_needles(folder).needles[0].image.size == (10, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    folder = write_set(tmp_path, [line("a", file_name="a.tiff")])
    picture(0).convert(mode).save(folder / "a.tiff")
    expected = picture(0).convert(mode).convert("RGB")
    assert np.array_equal(load_needles(folder).needles[0].image, expected)


def test_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a")])
    palette = picture(0).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(folder / "a.png", transparency=bytes(range(200)))
    assert load_needles(folder).needles[0].image.mode == "RGB"


def test_picture_identity_is_of_pixels_not_of_the_file(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a"), line("b", file_name="b.bmp")])
    picture(0).save(folder / "b.bmp")
    first, second = load_needles(folder)
    assert first.image_sha256 == second.image_sha256


# --- what is refused, with its line ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": None}, r"line 2 has no 'file_name'"),
        ({"needle_id": None}, r"line 2 has no 'needle_id'"),
        ({"question": None}, r"line 2 has no 'question'"),
        ({"answer": None}, r"line 2 has no 'answer'"),
        ({"answer": 200}, r"line 2: answer must be text or null, got 200"),
        ({"answer": ""}, r"line 2: the answer is empty: got ''"),
        ({"answer": " \t"}, r"line 2: the answer is empty"),
        ({"question": "\n"}, r"line 2: the question is empty: got '\\n'"),
        ({"needle_id": "a"}, r"line 2: needle_id 'a' is taken by metadata.jsonl line 1"),
        ({"needle_id": "b c"}, r"line 2: needle_id 'b c' cannot be part of a sample's id"),
        ({"needle_id": "../b"}, r"line 2: needle_id '\.\./b' cannot be part of a sample's id"),
        ({"needle_id": ""}, r"line 2: needle_id '' cannot"),
        ({"choices": ["x", "y"]}, r"line 2: the answer 'here' is not among .*\(A, B\)"),
        ({"choices": ["A. x", "B. y"], "answer": "C"}, r"line 2: the answer 'C' is not among"),
        ({"choices": ["C. x", "D. y"], "answer": "A"}, r"'A' is not among .*\(C, D\)"),
        ({"choices": ["x", "x"], "answer": "x"}, r"line 2: the choices \['x', 'x'\] are no"),
        ({"choices": ["here"]}, r"line 2: the choices \['here'\] are not a choice"),
        ({"choices": ["here", " "]}, r"line 2: the choices .* are not a choice"),
        ({"choices": "here"}, r"line 2: choices must be a list or null, got 'here'"),
        ({"choices": [1, 2]}, r"line 2: choices\[0\] must be text, got 1"),
        ({"accepted": "x"}, r"line 2: accepted must be a list or null, got 'x'"),
        ({"accepted": ["x", " "]}, r"line 2: the accepted answer is empty: got ''"),
        ({"accepted": ["x", "x"]}, r"line 2: the answer 'x' is given twice; 'accepted' lists"),
        ({"accepted": ["here "]}, r"line 2: the answer 'here' is given twice"),
        (
            {"choices": ["x", "y"], "answer": "A", "accepted": ["x", "B"]},
            r"line 2: the accepted answer 'B' does not name the option that the answer 'A' names",
        ),
        (
            {"choices": ["x", "y"], "answer": "A", "accepted": ["the first"]},
            r"line 2: the accepted answer 'the first' does not name the option",
        ),
        ({"file_name": "../b.png"}, r"line 2: 'file_name' must stay inside .*'\.\./b.png'"),
    ],
)
def test_wrong_record_is_refused_with_its_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = write_set(tmp_path / "set", [line("a"), line("b", **changes)])
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        ("\n{oops\n", r"metadata.jsonl line 2 cannot be read as JSON"),
        ('["a"]\n', r"line 1: the content must be an object in braces, got \['a'\]"),
        ("{}", r"line 1 has no 'file_name'"),
        ('{"file_name": "no.png"}', r"line 1: 'file_name': there is no picture 'no.png' in"),
        ('{"file_name": "."}', r"line 1: 'file_name': there is no picture '.' in"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(NeedleError, match=message):
        load_needles(tmp_path)


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(NeedleError, match="cannot be read as UTF-8 text"):
        load_needles(tmp_path)


def test_text_named_png_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a"), line("b")])
    (folder / "b.png").write_text("no pixels here")
    with pytest.raises(NeedleError, match=r"line 2: the picture 'b.png' cannot be read: cannot id"):
        load_needles(folder)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp"])
def test_truncated_picture_is_refused_with_its_line(tmp_path: Path, suffix: str) -> None:
    folder = write_set(tmp_path, [line("a"), line("b", file_name=f"b{suffix}")])
    path = folder / f"b{suffix}"
    picture(1, (120, 90)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(NeedleError, match=rf"line 2: the picture 'b{suffix}' cannot be read"):
        load_needles(folder)


def test_sixteen_bit_picture_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a")])
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(folder / "a.png")
    with pytest.raises(NeedleError, match=r"line 1: .* mode 'I.*', which clip in RGB"):
        load_needles(folder)


def test_columns_that_are_no_imagefolder_are_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a", extra=1), line("b", extra="one")])
    with pytest.raises(NeedleError, match="is no imagefolder to datasets: ") as caught:
        load_needles(folder)
    assert "\n" not in str(caught.value)


# --- the published layout ---


def write_published(folder: Path, records: object) -> Path:
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate(["one.png", "two.jpg"]):
        picture(seed).save(folder / "images" / name)
    (folder / "dataset.json").write_text(json.dumps(records, indent=4))
    return folder


def test_published_folder_gives_prompts_verbatim_and_counts_ids(tmp_path: Path) -> None:
    records = [
        {"path": "two.jpg", "prompt": "\nFind it.\nA. x\nB. y", "answer": "B"},
        {"path": "one.png", "prompt": "\nWhich?", "answer": "Yellow"},
    ]
    loaded = load_needles(write_published(tmp_path / "published", records))
    assert loaded.ids == ("0", "1")
    assert [n.question for n in loaded] == ["\nFind it.\nA. x\nB. y", "\nWhich?"]
    assert [n.answer for n in loaded] == ["B", "Yellow"]
    assert np.array_equal(loaded.needles[1].image, picture(0))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"path": "one.png"}, "dataset.json: the content must be a list, got"),
        ([], "has no rows"),
        ([{"path": "one.png", "answer": "x"}], "dataset.json entry 1 has no 'prompt'"),
        (
            [{"path": "no.png", "prompt": "q", "answer": "x"}],
            "entry 1: 'path': there is no pict",
        ),
        ([{"path": "../dataset.json", "prompt": "q", "answer": "x"}], "must stay inside"),
        (["one.png"], "entry 1: the content must be an object in braces, got 'one.png'"),
    ],
)
def test_wrong_published_folder_is_refused(tmp_path: Path, records: object, message: str) -> None:
    with pytest.raises(NeedleError, match=message):
        load_needles(write_published(tmp_path / "published", records))


# --- which set is meant ---


@pytest.mark.parametrize("source", ["no-such-set", "a/b/c", "./cards", Path("owner/name")])
def test_unknown_set_is_refused_without_the_network(source: str | Path) -> None:
    with pytest.raises(NeedleError, match=r"no needle set .*; give a folder .* counterfactual"):
        load_needles(source)


def test_folder_without_a_set_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NeedleError, match=r"neither metadata\.jsonl .* nor dataset\.json"):
        load_needles(tmp_path)


def test_file_is_refused_for_a_folder(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a")])
    with pytest.raises(NeedleError, match="is a file; give the folder"):
        load_needles(folder / "metadata.jsonl")


def test_embedded_set_comes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "counterfactual", [line("mine")])
    monkeypatch.chdir(tmp_path)
    assert len(load_needles("counterfactual")) == 5
    assert load_needles("./counterfactual").ids == ("mine",)


def test_counterfactual_is_fit_for_real_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_needles("counterfactual")
    assert (loaded.name, loaded.source, len(loaded)) == ("counterfactual", "counterfactual", 5)
    for found in loaded:
        assert min(found.image.size) >= 448
        assert found.question.startswith("Find the frame ")
        for letter, choice in zip("ABCD", found.choices or (), strict=False):
            assert f"\n{letter}. {choice}\n" in found.question
    assert [len(found.choices or ()) for found in loaded] == [0, 4, 4, 4, 0]
    assert [found.answer for found in loaded] == ["Blue", "C", "B", "D", "730"]


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_embedded_sets_are_imagefolders_to_datasets(name: str) -> None:
    """An embedded set is not tried again whenever it is loaded; as a folder it is."""
    embedded, folder = load_needles(name), load_needles(embedded_dir("needles", name))
    assert folder.sha256 == embedded.sha256 and folder.ids == embedded.ids


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    sys.exit("the network was touched")
socket.getaddrinfo = socket.socket.connect = refuse
from vniah import errors
from vniah.errors import ModelError, NeedleError
from vniah.files import embedded_dir
from vniah.needles import load_needles
assert not {"torch", "datasets", "matplotlib"} & set(sys.modules)
assert load_needles("counterfactual").ids[0] == "stop-sign"
assert "datasets" not in sys.modules  # what comes with vniah is not tried again
try:
    load_needles("lmms-lab/v_niah_needles")
except NeedleError as error:
    print(error)
"""


def test_embedded_set_loads_quietly_and_hub_fails_in_one_line_when_offline(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 1
    assert "there is no folder 'lmms-lab/v_niah_needles'" in ran.stdout
    assert "could not be read from the Hugging Face hub" in ran.stdout


def test_folders_are_read_without_the_network_when_online(tmp_path: Path) -> None:
    program = OFFLINE.split("try:")[0]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# --- the hub: the answer of load_dataset, a real Dataset, stands in for the network ---


def serve(monkeypatch: pytest.MonkeyPatch, columns: dict[str, list[object]]) -> None:
    dataset = datasets.Dataset.from_dict(columns)
    if "image" in columns:
        dataset = dataset.cast_column("image", datasets.Image())

    def load_dataset(hub_id: str, *, split: str) -> datasets.Dataset:
        assert (hub_id, split) == ("owner/name", "validation")
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_hub_set_takes_ids_choices_and_numbers_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = {
        "image": [picture(0), picture(1)],
        "question": ["q0", "q1"],
        "answer": [200, 730],
        "id": [17, 4],
        "choices": [["200", "300"], None],
    }
    serve(monkeypatch, columns)
    loaded = load_needles("owner/name", split="validation")
    assert (loaded.name, loaded.source, loaded.ids) == ("owner/name", "owner/name", ("17", "4"))
    assert [n.answer for n in loaded] == ["200", "730"]
    assert [n.choices for n in loaded] == [("200", "300"), None]
    assert np.array_equal(loaded.needles[1].image, picture(1))


def test_hub_set_without_ids_equals_the_published_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, {"image": [picture(0)], "question": ["\nq"], "answer": ["B"]})
    published = [{"path": "one.png", "prompt": "\nq", "answer": "B"}]
    folder = load_needles(write_published(tmp_path / "published", published))
    assert load_needles("owner/name", split="validation").sha256 == folder.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, r"it needs the columns image .* and has question, answer\."),
        ({"answer": None}, r"and has image, question\."),
        ({"answer": [" "]}, r"owner/name row 0: the answer is empty"),
        ({"answer": [1.5]}, r"owner/name row 0: answer must be text or null, got 1\.5"),
        ({"image": [{"bytes": b"no", "path": None}]}, r"row 0: the picture cannot be read"),
        ({"image": [None]}, r"owner/name row 0 has no picture"),
    ],
)
def test_wrong_hub_set_is_refused_with_its_row(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, list[object] | None], message: str
) -> None:
    columns = {"image": [picture(0)], "question": ["q"], "answer": ["x"], **changes}
    serve(monkeypatch, {key: values for key, values in columns.items() if values is not None})
    with pytest.raises(NeedleError, match=message):
        load_needles("owner/name", split="validation")


def test_pictures_of_a_hub_set_may_lie_in_archives_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(0).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "inner/a.png")
    paths = [str(tmp_path / "a.png"), f"zip://inner/a.png::{tmp_path}/b.zip"]
    images = [{"bytes": None, "path": path} for path in paths]
    serve(monkeypatch, {"image": images, "question": ["q", "q"], "answer": ["x", "x"]})
    for found in load_needles("owner/name", split="validation"):
        assert np.array_equal(found.image, picture(0))


@pytest.mark.parametrize("path", ["no.png", "zip://a.png::/no.zip", "nothing://x"])
def test_picture_of_a_hub_set_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    image = {"bytes": None, "path": path}
    serve(monkeypatch, {"image": [image], "question": ["q"], "answer": ["x"]})
    with pytest.raises(NeedleError, match=r"row 0: the picture .* cannot be read"):
        load_needles("owner/name", split="validation")


def test_animated_picture_of_a_hub_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    picture(1).save(made, "gif", save_all=True, append_images=[picture(2)])
    image = {"bytes": made.getvalue(), "path": None}
    serve(monkeypatch, {"image": [image], "question": ["q"], "answer": ["x"]})
    with pytest.raises(NeedleError, match="row 0: the picture is animated"):
        load_needles("owner/name", split="validation")


def test_progress_bars_of_datasets_are_left_as_they_were(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a")])
    datasets.enable_progress_bars()
    load_needles(folder)
    assert not datasets.are_progress_bars_disabled()


# --- metadata as CSV and Parquet ---


def write_table(folder: Path, suffix: str, columns: dict[str, list[object]]) -> Path:
    """A set whose metadata are a table; lists are written as JSON in CSV."""
    for seed, name in enumerate(dict.fromkeys(columns["file_name"])):
        picture(seed).save(folder / str(name))
    if suffix == "parquet":
        pq.write_table(pa.table(columns), folder / "metadata.parquet")
        return folder
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([json.dumps(v) if isinstance(v, list) else v for v in row])
    return folder


TABLE: dict[str, list[object]] = {
    "file_name": ["b.png", "a.png"],
    "needle_id": ["one", "two"],
    "question": ['Which, "exactly"?\nOne word.', "Which?"],
    "answer": ["007", "B"],
    "choices": [None, ["Cat, black", "Dog"]],
    "accepted": [["7"], None],
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_metadata_as_a_table_is_the_same_set(tmp_path: Path, suffix: str) -> None:
    one, other = tmp_path / "table", tmp_path / "lines"
    one.mkdir()
    records = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    loaded = load_needles(write_table(one, suffix, TABLE))
    assert loaded.ids == ("one", "two")
    assert loaded.sha256 == load_needles(write_set(other, records)).sha256


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_may_hold_numbers_and_ids_and_an_image_column(tmp_path: Path, suffix: str) -> None:
    columns = {
        "file_name": ["a.png"],
        "id": [4],
        "question": ["q"],
        "answer": [730],
        "image": ["x"],
        "weight": [0.5],
    }
    (found,) = load_needles(write_table(tmp_path, suffix, columns))
    assert (found.needle_id, found.answer, found.choices) == ("4", "730", None)


def test_lines_come_before_tables_in_one_folder(tmp_path: Path) -> None:
    write_table(tmp_path, "csv", TABLE)
    write_set(tmp_path, [line("mine")])
    assert load_needles(tmp_path).ids == ("mine",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("file_name,needle_id,question,answer\n", "has no rows"),
        (
            "file_name,needle_id,question,answer\na.png,a,q\n",
            "row 2 has 3 cells, and the first",
        ),
        ('file_name,needle_id,question,answer\na.png,a,"q\n', r"row \d is not CSV"),
        ("file_name,answer,question,answer\n", "row 1: the column 'answer' is given twice"),
        (
            "needle_id,question,answer\na,q,x\n",
            "row 1 must name the columns, one of them 'file_name'",
        ),
        ("file_name,needle_id,question,answer\na.png,a,q,\n", "row 2 has no 'answer'"),
        (
            "file_name,needle_id,question,answer,choices\na.png,a,q,A,Cat|Dog\n",
            "row 2: 'choices' cannot be read as JSON",
        ),
        (
            'file_name,needle_id,question,answer,choices\na.png,a,q,A,"[1, 2]"\n',
            r"row 2: choices\[0\] must be text, got 1",
        ),
    ],
)
def test_wrong_csv_is_refused_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": [7.5, 8.5]}, "parquet row 1: answer must be text or null, got 7.5"),
        ({"answer": [b"7", b"8"]}, "parquet row 1: answer must be text or null"),
        ({"choices": ["A", "B"]}, "parquet row 1: choices must be a list or null, got 'A'"),
        (
            {"needle_id": ["a", "a"]},
            "parquet row 2: needle_id 'a' is taken by metadata.parquet",
        ),
    ],
)
def test_wrong_parquet_is_refused_with_its_row(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(NeedleError, match=message):
        load_needles(write_table(tmp_path, "parquet", {**TABLE, **columns}))


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
    with pytest.raises(NeedleError, match=r"cannot be read as Parquet: ") as caught:
        load_needles(tmp_path)
    assert "\n" not in str(caught.value)


# --- names of pictures ---


@pytest.mark.parametrize("columns", [{"image": "x"}, {"image": 1}, {"image_file_name": "a.png"}])
def test_column_that_datasets_would_make_itself_is_allowed(
    tmp_path: Path, columns: dict[str, object]
) -> None:
    assert load_needles(write_set(tmp_path, [line("a", **columns)])).ids == ("a",)


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_are_found_however_they_are_normalized(
    tmp_path: Path, written: str, on_disk: str
) -> None:
    name = "caf\u00e9/\u00dcn\u00ef.png"
    folder = write_set(tmp_path, [line("a", file_name=unicodedata.normalize(on_disk, name))])
    record = line("a", file_name=unicodedata.normalize(written, name))
    (folder / "metadata.jsonl").write_text(json.dumps(record))
    (found,) = load_needles(folder)
    assert np.array_equal(found.image, picture(0))


@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_names_that_differ_in_normalization_only_are_refused(tmp_path: Path, written: str) -> None:
    for seed, form in enumerate(("NFC", "NFD")):
        picture(seed).save(tmp_path / unicodedata.normalize(form, "\u00e9.png"))
    record = line("a", file_name=unicodedata.normalize(written, "\u00e9.png"))
    (tmp_path / "metadata.jsonl").write_text(json.dumps(record))
    with pytest.raises(NeedleError, match=r"line 1: .* means 2 pictures .* rename one of them"):
        load_needles(tmp_path)


@pytest.mark.parametrize(
    "name", ["a" * 200_000, "a" * 300, "\u00e9" * 3000, "a\0.png", "\ud800.png", "/etc/passwd", "."]
)
def test_name_that_no_picture_has_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line("a", file_name=name)))
    with pytest.raises(NeedleError, match=r"metadata\.jsonl line 1: 'file_name'") as caught:
        load_needles(tmp_path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["a.png", "missing.png", "/dev/zero"])
def test_link_to_no_file_is_no_picture(tmp_path: Path, target: str) -> None:
    (tmp_path / "a.png").symlink_to(target)
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line("a")))
    with pytest.raises(NeedleError, match=r"line 1: 'file_name': there is no picture 'a.png'"):
        load_needles(tmp_path)


# --- pictures that are no needle, texts that cannot be asked ---


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tiff"])
def test_animated_picture_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    folder = write_set(tmp_path, [line("a"), line("b", file_name=f"b{suffix}")])
    picture(1).save(folder / f"b{suffix}", save_all=True, append_images=[picture(2), picture(3)])
    with pytest.raises(NeedleError, match=rf"line 2: the picture 'b{suffix}' is animated"):
        load_needles(folder)


def test_photograph_with_a_preview_behind_it_is_one_picture(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [line("a", file_name="a.jpg")])
    picture(1).save(folder / "a.jpg", format="MPO", save_all=True, append_images=[picture(2)])
    assert load_needles(folder).needles[0].image.size == picture(1).size


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_picture_of_too_many_pixels_is_refused_by_name(tmp_path: Path, side: int) -> None:
    folder = write_set(tmp_path, [line("a")])
    Image.new("1", (side, side)).save(folder / "a.png")
    with pytest.raises(NeedleError, match=r"line 1: the picture 'a.png' has more than 89,478,485"):
        load_needles(folder)


@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "tiff", "bmp", "jpeg"])
def test_damaged_picture_is_one_line(suffix: str) -> None:
    made, rng = io.BytesIO(), random.Random(suffix)
    picture(0, (40, 30)).save(made, suffix)
    for _ in range(60):
        content = bytearray(made.getvalue())
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            assert read_picture(bytes(content), where="row 3").mode == "RGB"
        except NeedleError as error:
            assert str(error).startswith("row 3: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "\u200b\ufeff"}, "line 1: the answer is empty"),
        ({"question": "\u200b\n\u00ad"}, "line 1: the question is empty"),
        ({"choices": ["\u2060", "x"], "answer": "x"}, "are not a choice"),
        ({"choices": ["Cat", "cat"], "answer": "A"}, r"'Cat' may mean 'cat'; word one of them"),
        ({"choices": ["fox", "A fox"], "answer": "A fox"}, r"'fox' may mean 'A fox'"),
        ({"choices": ["7", "\uff17"], "answer": "7"}, "cannot be told apart in generated text"),
        (
            {"choices": ["\u00e9", "e"], "answer": "e\u0301"},
            r"the answer .e\\u0301. looks like the option .\\xe9.",
        ),
        ({"choices": ["B", "A"], "answer": "B"}, "'B' may mean 'A'"),
        ({"question": "q\ud800"}, r"the question 'q\\ud800' holds half of a character"),
        ({"answer": "\udc00"}, r"the answer '\\udc00' holds half of a character"),
        ({"choices": ["\ud800", "x"], "answer": "x"}, "the option .* holds half of a character"),
        ({"needle_id": "a" * 201}, "cannot be part of a sample's id; .* at most 200"),
        ({"question": "a" * 100_001}, "the question has 100,001 characters, and 100,000 are"),
        ({"answer": "a" * 10_001}, "the answer has 10,001 characters, and 10,000 are allowed"),
        ({"choices": [str(n) for n in range(1001)], "answer": "5"}, "choices must be a list of le"),
    ],
)
def test_text_that_cannot_be_asked_or_scored_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = write_set(tmp_path, [line("a", **changes)])
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(folder)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_hidden_characters_of_answers_are_removed(tmp_path: Path) -> None:
    record = line("a", answer="\ufeff7\u200b0 ", accepted=["seven\u00adty"], question="\ufeffq")
    (found,) = load_needles(write_set(tmp_path, [record]))
    assert (found.answer, found.accepted, found.question) == ("70", ("seventy",), "\ufeffq")
    with pytest.raises(NeedleError, match="characters that nobody sees; remove them"):
        needle(answer="7\u200b")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('"x": ' + "9" * 5000, "line 1 cannot be read as JSON: "),
        ('"x": ' + "[" * 1000 + "]" * 1000, "line 1 is nested too deeply"),
        ('"needle_id": "b"', "the key 'needle_id' is given twice"),
        ('"x": NaN', "NaN is not a number of JSON"),
        ('"x": 1e999', "a number is too large"),
    ],
)
def test_json_that_no_reader_agrees_on_is_refused(tmp_path: Path, more: str, message: str) -> None:
    folder = write_set(tmp_path, [line("a")])
    (folder / "metadata.jsonl").write_text(json.dumps(line("a"))[:-1] + f", {more}}}")
    with pytest.raises(NeedleError, match=message) as caught:
        load_needles(folder)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["metadata.jsonl", "metadata.csv", "metadata.parquet", "dataset.json"]
)
def test_metadata_of_a_terabyte_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(10**12)  # sparse: it takes no place on the disk
    with pytest.raises(
        NeedleError, match=r"is larger than 67,108,864 bytes|cannot be read as Parq"
    ):
        load_needles(tmp_path)


@pytest.mark.parametrize(
    "name_columns", [lambda t: t.replace(",", ";"), lambda t: t.replace(",", "\t"), str.upper]
)
def test_a_table_without_the_column_of_pictures_shows_its_first_row(tmp_path, name_columns):
    first = name_columns("file_name,needle_id,question,answer")
    (tmp_path / "metadata.csv").write_text(f"{first}\na.png,a,Which?,7\n")
    with pytest.raises(NeedleError, match=r"metadata\.csv row 1 must name the columns, .* got"):
        load_needles(tmp_path)


@pytest.mark.parametrize(
    ("error", "variables"),
    [
        (ImportError("Using SOCKS proxy, but 'socksio' is not installed"), {"ALL_PROXY": "s://p"}),
        (TypeError("Request URL is missing a protocol."), {"HF_ENDPOINT": "http://me:secret@x"}),
        (RuntimeError("out of order"), {"HTTPS_PROXY": "junk", "https_proxy": "me:secret@x"}),
    ],
)
def test_whatever_keeps_the_hub_away_is_one_line_with_its_variables(monkeypatch, error, variables):
    def fail(*_, **__):
        raise error

    for name in errors._OF_THE_HUB:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("datasets.load_dataset", fail)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    said = f"{str(error).rstrip('.')} (with {', '.join(variables)} set)"
    with pytest.raises(NeedleError) as of_needles:
        load_needles("nobody/nothing")
    with pytest.raises(ModelError) as of_model:
        load_model("nobody/nothing")
    for caught in (of_needles, of_model):
        assert said in str(caught.value) and "secret" not in str(caught.value)
