"""The example of somebody else's package: installed, named on the command line, and run."""

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from runs import draw_quickly

from vniah.cli import main
from vniah.haystacks.haystack import generated_haystack
from vniah.protocol import ChatModel, DecoderModel, FrameSegment, VisionLanguageModel
from vniah.results import load_results

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "plug_in_model"
CLASSES = ("Plain", "WithDecoder", "Chat")


@cache
def import_example():
    """Its module, from where it lies."""
    spec = importlib.util.spec_from_file_location("plug_in_model", EXAMPLE / "plug_in_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the package, as pip installs it."""
    folder = tmp_path_factory.mktemp("plug_in")
    source = shutil.copytree(EXAMPLE, folder / "source")  # pip builds in it
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "installed"), str(source)], check=True)
    shutil.rmtree(source)
    return folder / "installed"


@pytest.fixture(scope="module")
def printed(installed, drawn_film, tmp_path_factory):
    """What check and run print for each class, and the folder of the runs."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(drawn_film, folder / "cache")

    def ask(*arguments):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert main(arguments) == 0
        return output.getvalue()

    grid = ("--frames", "2,4", "--depths", "0,1")
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(installed)
        patch.setenv("VNIAH_CACHE", str(folder / "cache"))
        draw_quickly(patch)
        for name in CLASSES:
            model = ("--model", f"plug_in_model:{name}")
            said[name] = ask("check", *model), ask("run", *model, *grid, "--output", name)
    assert Path(sys.modules.pop("plug_in_model").__file__).parent == installed
    return folder, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Plain", "tiny LLaVA runs its own forward pass"),
        ("WithDecoder", "the forward pass gives what the model gives"),
        ("Chat", "tiny LLaVA in words answers in words"),
    ],
)
def test_installed_package_is_checked_and_run(printed, name, line):
    folder, said = printed
    check, run = said[name]
    first, *others = check.splitlines()
    assert first.startswith("conformance: ") and first.endswith(" things examined, none wrong")
    assert any(other.startswith(line) for other in others)
    assert "over 4 cells" in run
    results = load_results(folder / name)
    assert results.is_complete and len(results.samples) == 4 * 5
    assert all(sample.error is None for sample in results.samples)


@pytest.mark.slow
def test_check_compares_the_decoder_with_the_logits_of_the_first_level(printed):
    lines = printed[1]["WithDecoder"][0].splitlines()
    assert [line.split(":")[0] for line in lines[1:6]] == [
        "prefill",
        "tree",
        "suffixes",
        "answer_logits",
        "sharing",
    ]


@pytest.mark.slow
def test_first_and_second_level_give_the_same_samples(printed):
    folder, _ = printed
    plain, shared = (
        {(s.num_frames, s.depth, s.needle_id): s for s in load_results(folder / name).samples}
        for name in ("Plain", "WithDecoder")
    )
    assert plain.keys() == shared.keys() and len(plain) == 20
    for key, sample in plain.items():
        assert sample.predicted_ids == shared[key].predicted_ids
        assert sample.logprob == pytest.approx(shared[key].logprob, abs=1e-4)
    assert len({sample.logprob for sample in plain.values()}) == 20, "and not all are alike"
    passes = load_results(folder / "WithDecoder").manifest["environment"]["forward"]["passes"]
    assert passes < 20, "work was shared"


def test_classes_are_models_of_their_levels():
    example = import_example()
    assert isinstance(example.Plain(), VisionLanguageModel)
    assert isinstance(example.WithDecoder(), DecoderModel)
    assert isinstance(example.Chat(), ChatModel)
    assert not isinstance(example.Plain(), DecoderModel)


@pytest.mark.usefixtures("film")
def test_logits_are_those_of_the_whole_model_reading_pictures_and_text():
    """What the user's own transformers code would compute, through the processor."""
    example = import_example()
    model = example.Plain()
    frames = [frame.image for frame in generated_haystack(3).frames(stop=3)]
    sequence = model.compose([FrameSegment("any", k) for k in range(3)], "What is it?", "a dog")
    text = example.prompt(model.processor, 3, "What is it?") + "a do"
    assert text == "USER: <image><image><image>\nWhat is it? ASSISTANT:a do"
    inputs = model.processor(images=frames, text=text, return_tensors="pt")
    with torch.inference_mode():
        plain = model.model(**inputs).logits[0, -5:]
    logits = model.answer_logits(sequence, model.encode_frames(frames))
    assert inputs["input_ids"].shape[1] == sequence.num_tokens(model.frame_shape[0])
    assert (logits - plain).abs().max() < 1e-5


def test_weights_are_the_same_every_time_and_no_seed_is_left_behind():
    example = import_example()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = example.Plain(), example.Plain()
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
