"""The README and the pages are true: Python runs, the plug-in class works, commands parse."""

import argparse
import ast
import importlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from vniah.cli.arguments import build_parser
from vniah.haystacks.haystack import generated_haystack
from vniah.protocol import FrameSegment, VisionLanguageModel
from vniah.results import load_results

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(languages: str, text: str = README) -> list[str]:
    """The fenced blocks of some languages; fences are taken in pairs."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for name, content in fenced if name in (languages.split() or [""])]


def commands() -> list[str]:
    """The commands of vniah in all pages, also those of scripts for jobs."""
    lines = [
        line.split(" #")[0].strip()
        for path in (ROOT / "README.md", *PAGES)
        for block in blocks("sh bash console yaml", path.read_text(encoding="utf-8"))
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [re.search(r"(?:^|-m |run: |\$ )vniah (.*)", line) for line in lines]
    return sorted({match[1] for match in found if match})


def test_readme_names_the_two_commands_and_stays_short():
    assert "make demo" in README and "make test" in README
    assert len(README.splitlines()) <= 180


@pytest.fixture(scope="module")
def parser():
    return build_parser()


@pytest.mark.parametrize("command", commands())
def test_command_of_the_pages_parses(command, parser):
    options = parser.parse_args(shlex.split(command))
    assert callable(options.command)


# Options of other programs that pages name.
FOREIGN = {"--limit-mm-per-prompt", "--ntasks", "--requeue"}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser and of its commands."""
    found = {text for action in parser._actions for text in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
    return found


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_options_that_pages_name_exist(path, parser):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`(?:vniah )?(?:[a-z]+ )?(--[a-z][a-z-]*)", text)
    assert set(named) - FOREIGN <= options_of(parser)


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_code_of_pages_is_python_and_imports_what_there_is(path):
    for block in blocks("python", path.read_text(encoding="utf-8")):
        try:
            tree = ast.parse(block)
        except IndentationError:  # the inside of a class, as the page says
            tree = ast.parse(f"class Part:\n    def __init__(self):\n{block}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vniah":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), block
    for block in blocks("json", path.read_text(encoding="utf-8")):
        assert json.loads(block)
    for block in blocks("jsonl", path.read_text(encoding="utf-8")):
        assert all(map(json.loads, block.splitlines()))


def test_commands_of_the_pages_are_found():
    assert len(commands()) > 20
    assert any(command.startswith("run --context-parallel") for command in commands())


@pytest.mark.usefixtures("film")
def test_python_of_the_readme_prints_what_it_says(tmp_path, monkeypatch, capsys):
    example, printed = blocks("python")[0], blocks("")[0]
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    lines = [list(map(float, line.split())) for line in capsys.readouterr().out.splitlines()]
    expected = [list(map(float, line.split())) for line in printed.splitlines()]
    assert [(n, depth, count) for n, depth, _, count in lines] == [
        (n, depth, count) for n, depth, _, count in expected
    ]
    for (_, _, score, _), (_, _, printed_score, _) in zip(lines, expected, strict=True):
        assert score == pytest.approx(printed_score, abs=0.2), "other machines round otherwise"
    assert (tmp_path / "results" / "first" / "heatmap.png").stat().st_size > 10_000


@pytest.mark.usefixtures("film", "quick_pictures")
def test_the_example_draws_four_heatmaps_and_goes_on_with_what_is_there(
    tmp_path, monkeypatch, capsys
):
    script = ROOT / "examples" / "long_context_transfer.py"
    options = ["--frames", "8,64", "--depths", "0.1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    printed = []
    for _ in range(2):
        runpy.run_path(str(script), run_name="__main__")
        printed.append(capsys.readouterr().out)
    first, second = printed
    assert first == second
    assert first.splitlines()[-1] == str(tmp_path / "heatmaps.png")
    assert (tmp_path / "heatmaps.png").stat().st_size > 5_000
    scores = {
        path.parent.name: [
            sum(sample.correct for sample in samples) / len(samples)
            for samples in by_length(load_results(path.parent))
        ]
        for path in tmp_path.glob("*/manifest.json")
    }
    assert len(scores) == 4
    assert min(short_video for short_video, _ in scores.values()) >= 0.7
    assert scores["reference-long"][1] - scores["reference-short"][1] >= 0.7


def by_length(results):
    lengths = sorted({sample.num_frames for sample in results.samples})
    return [
        [sample for sample in results.samples if sample.num_frames == length] for length in lengths
    ]


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory) -> Path:
    """A tiny random LLaVA-1.5 checkpoint, with a processor and a tokenizer."""
    from checkpoints import WORDS, build_tokenizer

    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ).to_dict(),
        text_config=LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=len(WORDS) + 1,
        ).to_dict(),
        image_token_index=len(WORDS),
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens("<image>")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    LlavaProcessor(processor, tokenizer, patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plug_in(llava_folder):
    """The class of the README, as a module would hold it."""
    (source,) = (block for block in blocks("python") if block.startswith("# my_model.py"))
    names = {}
    exec(source, names)
    return names["Llava"]


def random_frames(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(count)]


def test_plug_in_of_the_readme_equals_the_models_own_forward(plug_in, llava_folder):
    model = plug_in(llava_folder)
    assert isinstance(model, VisionLanguageModel)
    frames = random_frames(3)
    segments = [FrameSegment("any", k) for k in range(3)]
    sequence = model.compose(segments, "what is on it ?", "4 2")
    embeds = model.encode_frames(frames)
    assert embeds.shape == (3, *model.frame_shape) == (3, 16, 32)

    opening, asked = sequence.segments[0], sequence.segments[-1]
    image_token = model.model.config.image_token_id
    ids = [*opening.token_ids, *[image_token] * 48, *asked.token_ids, sequence.answer_ids[0]]
    pixels = model.processor.image_processor(images=frames, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        plain = model.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, -2:]
    logits = model.answer_logits(sequence, embeds)
    assert (logits - plain).abs().max() < 1e-4
    assert torch.equal(logits.argmax(-1), plain.argmax(-1))


def test_second_level_of_the_page_equals_the_first(plug_in, llava_folder):
    from vniah.engines.inputs import decoder_logits

    addition = next(block for block in blocks("python", MODELS) if "self.decoder" in block)
    constructor, method = addition.split("\n\n")
    body = "\n".join(line[8:] for line in constructor.splitlines())
    names = {"torch": torch}
    exec("\n".join(line[4:] for line in method.splitlines()), names)
    model = plug_in(llava_folder)
    exec(body, {"self": model, "SimpleNamespace": SimpleNamespace})
    model.position_ids = lambda sequence: names["position_ids"](model, sequence)
    segments = [FrameSegment("any", k) for k in range(3)]
    sequence = model.compose(segments, "what is on it ?", "4 2")
    embeds = model.encode_frames(random_frames(3))

    class Store:
        def read_runs(self, frames, **_):
            yield embeds

    plain = model.answer_logits(sequence, embeds)
    walked = decoder_logits(model, sequence, Store())
    assert (walked - plain).abs().max() < 1e-4


@pytest.mark.usefixtures("film")
def test_generated_haystack_is_the_one_on_record():
    record = json.loads((ROOT / "haystacks" / "generated.json").read_text())
    identity = generated_haystack(1).identity()
    assert identity["sha256"] == record["sha256"]
    assert json.loads(identity["recipe"]) == record["recipe"]
