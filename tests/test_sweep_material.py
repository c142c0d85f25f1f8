"""What runs are made of is looked for before the first one is measured."""

from pathlib import Path

import pytest
from PIL import Image
from videos import at_rate, write_video

from vniah.cli import main
from vniah.cli.arguments import build_parser
from vniah.cli.arguments.parser import commands
from vniah.cli.arguments.settings import ONLY_GIVEN, Settings
from vniah.cli.sweeps.config import read_config
from vniah.cli.sweeps.material import require_material
from vniah.errors import InputError, ModelError
from vniah.models.loading import require_folder

pytestmark = pytest.mark.usefixtures("quick_pictures")

MISSING = {
    "folders": ('haystack = ["images", "more"]', "images is a folder among several paths"),
    "no film": ('haystack = "nofilm.mp4"', "there is no file nofilm.mp4"),
    "no film among two": ('haystack = ["film.mp4", "b.mp4"]', "there is no file b.mp4"),
    "same film": ('haystack = ["film.mp4", "film.mp4"]', "are the same film"),
    "no video": ('haystack = "notes.mp4"', "notes.mp4"),
    "no images": ('haystack = "empty"', "the folder empty holds no images"),
    "sampling": ('haystack = "images"\nsampling = "longva"', "'longva' is for videos"),
    "stream": ('haystack = "film.mp4"\nstream = 3', "film.mp4 has no video stream 3"),
    "rate": ('haystack = "images"\nassume-fps = 25', "are for videos, not for a folder"),
    "generated": ('sampling = "longva"', "are for your own videos and pages: add --haystack"),
    "text": ('haystack = "images"\ntask = "niah"\ntokens = 64', "images has no .txt file"),
    "no text": ('haystack = "nowhere"\ntask = "niah"\ntokens = 64', "there is no folder nowhere"),
    "two texts": ('haystack = ["a", "b"]\ntask = "niah"\ntokens = 64', "a text haystack is one"),
    "needles": ('needles = "./nowhere"', "there is no needle set './nowhere'"),
    "task": ('task = "vniahh"', "there is no task 'vniahh'"),
    "task option": ('task-option = "colour=red"', "colour"),
    "controls": ('controls = "blnd"', "there is no control 'blnd'"),
    "model": ('model = "./nowhere/model"', "there is no model './nowhere/model'"),
    "model file": ('model = "notes.mp4"', "there is no model 'notes.mp4'"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Films, images and texts; the runs of a sweep take one each."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("images", "more", "empty", "checkpoints", "texts"):
        (folder / name).mkdir()
    for name in ("images", "more"):
        Image.new("RGB", (8, 8), (90, 90, 90)).save(folder / name / "0.png")
    (folder / "texts" / "a.txt").write_text("It rained. It snowed.")
    (folder / "notes.mp4").write_text("not a film")
    write_video(folder / "film.mp4", at_rate(4, 12))
    return folder


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def load_nothing():
    raise AssertionError("no model is to be loaded")


@pytest.fixture(scope="module")
def settings():
    run = next(parser for parser in commands(build_parser()) if parser.prog.endswith(" run"))
    return Settings(run, left_out=ONLY_GIVEN)


def write_sweep(text, *, names_model=True):
    """The file of a sweep whose first run has all that it takes, and the second has not."""
    key = text.partition(" ")[0]
    axis = {"model": "models", "haystack": "haystacks", "sampling": "haystacks"}.get(key, "tasks")
    own = "" if key == "needles" else 'needles = "cards"\n'
    model = 'model = "test_sweep_material:load_nothing"\n' * names_model
    shared, good = (own, model) if axis == "models" else (own + model, "")
    path = Path("sweep.toml")
    path.write_text(f"{shared}[{axis}.good]\n{good}[{axis}.bad]\n{text}\n")
    return path


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.usefixtures("in_folder")
def test_what_is_not_there_is_refused_with_the_name_of_the_run(name, settings):
    text, message = MISSING[name]
    plan = read_config(write_sweep(text), settings, {}).plan(Path("out"))
    with pytest.raises(InputError, match=r"sweep\.toml, .*bad.*: ") as refused:
        require_material(plan)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("folders", ["run"]),
        ("no film", ["run"]),
        ("model", ["run"]),
        ("no film", ["estimate"]),
        ("task option", ["estimate"]),
        ("no film", ["watch", "checkpoints", "--once"]),
    ],
)
def test_nothing_is_measured_nor_estimated_then(name, command, in_folder, capsys):
    text, message = MISSING[name]
    path = write_sweep(text, names_model=command[0] != "watch")
    assert main([*command, "--config", str(path)]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert message in line and "sweep.toml, " in line and output.out == ""
    assert not (in_folder / "results").exists()


@pytest.mark.usefixtures("in_folder")
def test_models_that_are_no_folders_are_left_to_the_one_that_loads_them():
    for name in (
        "reference-long",
        "smollm2",
        "owner/name",
        "openai:http://a/b#c",
        "a.b:c",
        "texts",
    ):
        require_folder(name)
    for name in ("./owner/name", "/nowhere", "~/nowhere", "a/b/c", "notes.mp4"):
        with pytest.raises(ModelError, match=f"there is no model '{name}'"):
            require_folder(name)


@pytest.mark.usefixtures("in_folder")
def test_a_film_of_the_command_line_is_looked_for_before_the_model_is_loaded(capsys):
    command = ["run", "--model", "test_sweep_material:load_nothing", "--needles", "cards"]
    assert main([*command, "--haystack", "nofilm.mp4"]) == 2
    assert "there is no file nofilm.mp4" in capsys.readouterr().err
    assert main([*command, "--haystack", "film.mp4"]) == 2
    assert "no model is to be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("haystack", ["pydoc", "texts"])
@pytest.mark.usefixtures("in_folder")
def test_texts_are_no_films(haystack, capsys):
    watched = ["watch", "checkpoints", "--once", "--interval", "0.01", "--task", "niah"]
    assert main([*watched, "--tokens", "64", "--haystack", haystack, "--output", "text"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("there is no checkpoint in checkpoints")
    )
