"""What lies beside the weights of a checkpoint: applied, or refused by name; never passed over."""

import ast
import builtins
import json
import random
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import change_config, write_checkpoint
from families import build
from safetensors.torch import load_file, save_file

import vniah
from vniah.cli import main
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.errors import MissingDependencyError, ModelError, VniahError
from vniah.models.loading import load_model
from vniah.protocol import FrameSegment

LOADERS = {"from_pretrained", "from_config"}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of the original layout and one of transformers."""
    root = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(root / "original")
    return {"original": root / "original", "transformers": build("llava").save(root / "hf")}


@pytest.fixture(params=["original", "transformers"])
def folder(request, written, tmp_path) -> Path:
    return Path(shutil.copytree(written[request.param], tmp_path / "checkpoint"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, device="cpu").read_encoder()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, **values) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


# Code.


def loading_calls() -> list[tuple[str, ast.Call]]:
    """All calls in the package that have transformers read a folder, with their places."""
    return [
        (f"{path.name}:{node.lineno}", node)
        for path in sorted(Path(vniah.__file__).parent.rglob("*.py"))
        if any(loader in (text := path.read_text()) for loader in LOADERS)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LOADERS
    ]


def test_every_call_that_loads_a_folder_refuses_its_code():
    calls = loading_calls()
    assert len(calls) >= 6
    for place, call in calls:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        options = {"trust_remote_code": False}
        if call.func.attr != "from_config" or "local_files_only" in given:
            options["local_files_only"] = True  # a configuration itself is no folder
        for option, expected in options.items():
            value = given.get(option)
            assert isinstance(value, ast.Constant) and value.value is expected, (place, option)


def test_pickles_are_read_nowhere():
    for path in Path(vniah.__file__).parent.rglob("*.py"):
        assert not re.search(r"torch\.load\(|import (pickle|joblib|dill)", path.read_text()), path


@pytest.mark.parametrize(
    ("name", "auto_map"),
    [
        ("config.json", {"AutoConfig": "own.Config"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Tokenizer", None]}),
        ("processor_config.json", {"AutoProcessor": "own.Processor"}),
        ("preprocessor_config.json", {"AutoImageProcessor": "someone/repo--own.Processor"}),
        ("generation_config.json", {"AutoModel": "own.Model"}),
    ],
)
def test_code_of_a_checkpoint_is_never_run(folder, name, auto_map, monkeypatch):
    (folder / "own.py").write_text("raise SystemExit('the code of the checkpoint ran')")
    change(folder / name, auto_map=auto_map)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asks"))
    message = refusal(folder)
    assert f"{name} has an auto_map" in message and "package.module:factory" in message
    assert "own" in message and "own" not in sys.modules


def test_code_of_a_tower_is_never_run(written, tmp_path):
    folder = Path(shutil.copytree(written["original"], tmp_path / "checkpoint"))
    change(folder / "vision_tower" / "config.json", auto_map={"AutoConfig": "own.Config"})
    assert "vision_tower/config.json has an auto_map" in refusal(folder)


def test_tower_outside_the_folder_is_not_read(written, tmp_path):
    folder = Path(shutil.copytree(written["original"], tmp_path / "checkpoint"))
    shutil.move(folder / "vision_tower", tmp_path / "tower")
    for name in (str(tmp_path / "tower"), "../tower", ".", "a\0b"):
        change_config(folder, mm_vision_tower=name)
        assert "names the vision tower" in refusal(folder)


# Quantized weights.


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"compression_config": {"format": "pack-quantized"}},
        {"text_config": {"quantization_config": {"quant_method": "awq"}}},
    ],
)
def test_quantization_in_a_configuration_is_refused(folder, changes):
    change_config(folder, **changes)
    assert "its weights are quantized" in refusal(folder)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "qmodel.pt"])
def test_file_of_a_quantization_is_refused(folder, name):
    (folder / name).write_text("{}")
    assert f"has a {name}: its weights are quantized" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8, torch.int32])
def test_weights_that_are_no_plain_floats_are_refused_whatever_is_configured(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = weights[name].to(dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(folder)
    assert repr(name) in message and "quantized or damaged" in message


# Parts of other models.


@pytest.mark.parametrize("name", ["LLaVA-7b-delta-v0", "llava-delta", "LLaVA-13B-delta-v1-1"])
def test_delta_weights_are_refused_by_their_name(written, name, tmp_path):
    folder = Path(shutil.copytree(written["original"], tmp_path / name))
    assert "holds delta weights by its name" in refusal(folder)


def test_name_with_delta_inside_is_no_difference(written, tmp_path):
    folder = Path(shutil.copytree(written["original"], tmp_path / "deltanet-7b"))
    assert load_model(folder, device="cpu").name == "deltanet-7b"


def test_weights_trained_beside_an_adapter_are_refused(folder):
    (folder / "non_lora_trainables.bin").write_bytes(b"")
    assert "has a non_lora_trainables.bin" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["adapters.safetensors", "pytorch_lora_weights.safetensors", "model-delta.safetensors"],
)
def test_safetensors_that_change_the_weights_are_refused_by_name(folder, name):
    save_file({"a": torch.zeros(2)}, folder / name)
    assert f"has a {name}" in refusal(folder)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("layers.0.self_attn.o_proj.", "bias"),
        ("layers.0.self_attn.o_proj.", "lora_A.weight"),
        ("layers.0.mlp.fc1.", "weight_scale_inv"),
        ("lm_head.", "bias"),
    ],
)
def test_weights_that_the_model_has_no_place_for_are_refused(folder, module, name):
    path = folder / "model.safetensors"
    weights = load_file(path)
    first = next(key for key in weights if key.endswith(f"{module}weight"))
    weights[first.removesuffix("weight") + name] = torch.ones(2)
    save_file(weights, path, metadata={"format": "pt"})
    assert name in refusal(folder)


def test_left_over_modules_and_old_buffers_are_no_error(written, tmp_path):
    folder = Path(shutil.copytree(written["transformers"], tmp_path / "checkpoint"))
    path = folder / "model.safetensors"
    weights = load_file(path)
    layer = next(key for key in weights if ".layers.0.self_attn." in key).rpartition("self_attn")[0]
    weights[layer + "self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    weights["value_head.weight"] = torch.ones(2)
    save_file(weights, path, metadata={"format": "pt"})
    load_model(folder, device="cpu")


# One set of weights.


def test_two_sets_of_weights_are_refused(folder):
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "has two sets of weights" in refusal(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("model.fp16.safetensors", "other.safetensors"),
        ("a-00001-of-00002.safetensors", "b-00001-of-00002.safetensors"),
        ("consolidated.safetensors", "model-00001-of-00001.safetensors"),
    ],
)
def test_weights_without_an_index_must_be_one_set(folder, names):
    for name in names:
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    assert "more than one set of weights" in refusal(folder)


def test_missing_shard_is_counted_without_an_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    assert "has 1 of 3 files of weights" in refusal(folder)


def test_other_weights_beside_the_whole_are_not_read(folder):
    (folder / "model.fp16.safetensors").write_bytes(b"not read")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../model.safetensors", "which is no safetensors file of its folder"),
        ("pytorch_model.bin", "which is no safetensors file of its folder"),
        (3, "weight_map[...] must be text"),
        ("model-00009-of-00009.safetensors", "lacks model-00009-of-00009.safetensors"),
    ],
)
def test_index_that_names_no_file_of_the_folder_is_refused(folder, place, message):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {"a": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in refusal(folder)


def test_weight_that_is_stored_twice_or_elsewhere_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    first, last = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    (folder / "model.safetensors").rename(folder / first)
    name = sorted(weights)[0]
    save_file({name: weights[name]}, folder / last)
    index = {"weight_map": {**dict.fromkeys(weights, first), "surplus": last}}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert f"holds the weight {name!r} twice" in refusal(folder)
    save_file({"other": weights[name]}, folder / last)
    assert "says that 'surplus' is in" in refusal(folder)


def test_tied_head_that_has_weights_of_its_own_is_refused(folder):
    text = json.loads((folder / "config.json").read_text()).get("text_config")
    if text is not None:
        change_config(folder, text_config=text | {"tie_word_embeddings": True})
    change_config(folder, tie_word_embeddings=True)
    assert "tie_word_embeddings = True, but" in refusal(folder)


# Preprocessing, template, generation.


def test_processors_that_differ_are_refused(written, tmp_path):
    folder = Path(shutil.copytree(written["transformers"], tmp_path / "checkpoint"))
    own = json.loads((folder / "preprocessor_config.json").read_text())
    change(folder / "processor_config.json", image_processor=own)
    load_model(folder, device="cpu")
    change(folder / "processor_config.json", image_processor=own | {"image_mean": [0.1, 0.2, 0.3]})
    assert "preprocessor_config.json differ in image_mean" in refusal(folder)


def test_two_chat_templates_must_agree(written, tmp_path):
    folder = Path(shutil.copytree(written["transformers"], tmp_path / "checkpoint"))
    template = (folder / "chat_template.jinja").read_text()
    change(folder / "chat_template.json", chat_template=template)
    before = load_model(folder, device="cpu")
    change(folder / "tokenizer_config.json", chat_template="of the tokenizer, for texts")
    after = load_model(folder, device="cpu")
    shown = [FrameSegment("film", 0)]
    assert after.compose(shown, "is", "7") == before.compose(shown, "is", "7")
    assert after.revision != before.revision
    change(folder / "chat_template.json", chat_template=template + ".")
    assert "has two chat templates" in refusal(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 9**9**9**9 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ 'a'|center(9999999999) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% for a in b %}" * 40 + "{% endfor %}" * 40,
        "{{ 'a",
    ],
)
def test_hostile_template_is_one_line(written, template, tmp_path, monkeypatch):
    monkeypatch.setattr("vniah.models.huggingface.templates._MOST_STEPS", 200_000)
    folder = Path(shutil.copytree(written["transformers"], tmp_path / "checkpoint"))
    (folder / "chat_template.jinja").write_text(template)
    assert "chat template" in refusal(folder)
    assert sys.gettrace() is None or "coverage" in sys.modules


def test_template_that_takes_much_memory_is_stopped(written, tmp_path, monkeypatch):
    monkeypatch.setattr("vniah.models.huggingface.templates._MOST_BYTES", 2**26)
    folder = Path(shutil.copytree(written["transformers"], tmp_path / "checkpoint"))
    (folder / "chat_template.jinja").write_text(
        "{% set ns = namespace(x='aaaaaaaa') %}"
        "{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    )
    assert "GB of memory" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"repetition_penalty": 1.05}, "repetition_penalty = 1.05"),
        ({"suppress_tokens": [7, 8]}, "suppress_tokens = [7, 8]"),
        ({"min_new_tokens": 3, "forced_eos_token_id": 1}, "forced_eos_token_id = 1, min_new"),
        ({"temperature": 0.1, "top_p": 0.5, "do_sample": True, "repetition_penalty": 1.0}, None),
    ],
)
def test_generation_settings_that_are_not_applied_are_said(written, values, named, tmp_path):
    folder = Path(shutil.copytree(written["original"], tmp_path / "checkpoint"))
    change(folder / "generation_config.json", **values)
    model = load_model(folder, device="cpu")
    assert choose_engine(model, EngineOptions(scorer="argmax")).notes == []
    notes = choose_engine(model, EngineOptions(scorer="generate")).notes
    assert len(notes) == (named is not None)
    assert named is None or named in notes[0]


# Odd values and damaged bytes.

ODD_VALUES = [
    None, True, -1, 0, 7, 10**9, 10**18, 10**30, 0.5, 1e308, "", "x", "\ud800", "x" * 100_000,
    [], [[1]], {}, {"height": 10**9, "width": 10**9}, {"a": "\ud800"},
]  # fmt: skip


def places(value, so_far=()):
    """The ways to all values in an object or a list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for step, item in inner if isinstance(value, dict | list) else ():
        yield (*so_far, step)
        if isinstance(item, dict | list):
            yield from places(item, (*so_far, step))


def damage(folder: Path, generator: random.Random) -> None:
    """Puts an odd value or odd bytes into one file of a checkpoint folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = generator.choice(files)
    if path.suffix == ".json" and generator.random() < 0.7:
        content = json.loads(path.read_text())
        *way, last = generator.choice(list(places(content)))
        inner = content
        for step in way:
            inner = inner[step]
        inner[last] = generator.choice(ODD_VALUES)
        path.write_text(json.dumps(content))
        return
    content = bytearray(path.read_bytes())
    at = generator.randrange(min(len(content), 8000))
    odd = [b"", b"\xff", b"\0", b"[" * 1000, b'{"a":' * 1000, b"9" * 5000, b"\\ud800"]
    content[at : at + generator.choice([0, 1, 100])] = generator.choice(odd)
    path.write_bytes(content)


def use(folder: Path) -> None:
    """All that a command does with a checkpoint before it reads a film."""
    model = load_model(folder, device="cpu")
    sequence = model.compose([FrameSegment("film", 0)], "is ?", "7")
    model.decode(sequence.answer_ids)
    model.encode_frames([np.zeros((40, 24, 3), np.uint8)])
    json.dumps({**model.settings, **model.encoding})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(24))
def test_damaged_folder_is_used_or_refused_in_one_line(written, seed, tmp_path):
    kind = "transformers" if seed % 4 == 0 else "original"
    folder = Path(shutil.copytree(written[kind], tmp_path / "checkpoint"))
    damage(folder, random.Random(seed))
    started = time.process_time()
    try:
        use(folder)
    except VniahError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1500
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10_000_000),
        ("num_hidden_layers", 1000),
        ("hidden_size", 10**18),
        ("intermediate_size", 10**17),
        ("vocab_size", -1),
        ("head_dim", 0),
        ("num_attention_heads", 0),
        ("rope_theta", float("nan")),
        ("rope_theta", "\ud800"),
        ("max_position_embeddings", 10**18),
        ("tie_word_embeddings", "yes"),
        ("architectures", {"a": 1}),
    ],
)
def test_size_that_no_model_has_is_refused_before_anything_is_built(
    written, field, value, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_, **__: pytest.fail("it builds"))
    for kind, folder in written.items():
        copied = Path(shutil.copytree(folder, tmp_path / kind))
        text = json.loads((copied / "config.json").read_text()).get("text_config")
        if text is None or field == "architectures":
            change_config(copied, **{field: value})
        else:
            change_config(copied, text_config=text | {field: value})
        assert field in refusal(copied) or "NaN" in refusal(copied)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 1000 + "]" * 1000),
        ("config.json", '{"model_type": "llava", "model_type": "qwen2_vl"}'),
        ("tokenizer_config.json", '{"a":' * 1000 + "1" + "}" * 1000),
        ("tokenizer.json", '{"added_tokens": [{"id": 1, "content": "a", "\x1b[31m": true}]}'),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", "\xff"),
        ("tokenizer_config.json", '{"model_max_length": "x"}'),
        ("generation_config.json", '{"eos_token_id": [1, "2"]}'),
        ("generation_config.json", "9" * 5000),
    ],
)
def test_malformed_file_is_one_line(folder, name, content):
    (folder / name).write_text(content, encoding="latin-1")
    assert name in refusal(folder)


def test_mean_that_fits_no_picture_is_refused(written, tmp_path):
    for number, changes in enumerate(
        [{"image_mean": 0}, {"image_std": [0.0, 0.0, 0.0]}, {"crop_size": 10**9}, {"size": 10**6}]
    ):
        for kind, inner in (("original", "vision_tower"), ("transformers", ".")):
            folder = Path(shutil.copytree(written[kind], tmp_path / f"{kind}{number}"))
            change(folder / inner / "preprocessor_config.json", **changes)
            refusal(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "patch_embedding" in name)
    weights[name][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "numbers that are not finite" in refusal(folder)


def test_token_of_the_frames_is_that_of_the_weights(written, tmp_path):
    folder = Path(shutil.copytree(written["transformers"], tmp_path / "checkpoint"))
    change_config(folder, image_token_index=7)
    assert "config.json says that frames stand at 7" in refusal(folder)


# Adapters.


def write_adapter(base: Path, folder: Path, targets: str) -> torch.nn.Module:
    """Saves a LoRA for a checkpoint as peft does; returns the plain model with it merged."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model = load_model(base, device="cpu")
    module = getattr(model, "_model", None) or model.decoder
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets)
    config.base_model_name_or_path = str(base)
    adapted = peft.inject_adapter_in_model(config, module)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    state = peft.get_peft_model_state_dict(adapted)
    folder.mkdir(exist_ok=True)
    saved = {f"base_model.model.{k}": v.contiguous() for k, v in state.items()}
    save_file(saved, folder / "adapter_model.safetensors")
    config.save_pretrained(folder)
    return module


TARGETS = r"(?!.*(vision|tower)).*(q_proj|down_proj)"


def logits_of(model, tokens=range(3, 12)) -> torch.Tensor:
    body = model.decoder if hasattr(model, "decoder") else model
    ids = torch.tensor([list(tokens)])
    with torch.inference_mode():
        hidden = body.model(input_ids=ids, use_cache=False)[0]
        return body.lm_head(hidden)


def test_adapter_beside_the_weights_or_alone_is_applied(folder, tmp_path):
    plain = load_model(folder, device="cpu")
    expected = write_adapter(folder, tmp_path / "lora", TARGETS)
    if hasattr(expected, "model") and hasattr(expected.model, "language_model"):
        with torch.inference_mode():
            ids = torch.tensor([list(range(3, 12))])
            own = expected.lm_head(expected.model.language_model(input_ids=ids)[0])
    else:
        own = logits_of(expected)
    alone = load_model(tmp_path / "lora", device="cpu")
    for path in (tmp_path / "lora").iterdir():
        shutil.copy(path, folder)
    beside = load_model(folder, device="cpu")
    assert not torch.allclose(logits_of(plain), own, atol=0.1)
    for model in (alone, beside):
        torch.testing.assert_close(logits_of(model), own, atol=1e-4, rtol=1e-4)
        assert len(str(model.settings["adapter_weights"]).split()[-1]) == 16
    assert alone.name == "lora" and "adapter_weights" not in plain.settings
    assert len({plain.revision, alone.revision, beside.revision}) == 3
    names = [type(module).__name__ for module in beside.decoder.model.modules()]
    assert not any("lora" in name.lower() for name in names)


def test_adapter_that_changed_is_another_model(folder, tmp_path):
    write_adapter(folder, folder, TARGETS)
    before = load_model(folder, device="cpu")
    change(folder / "adapter_config.json", lora_alpha=12)
    after = load_model(folder, device="cpu")
    assert after.revision != before.revision
    assert not torch.allclose(logits_of(before), logits_of(after), atol=1e-3)


def test_adapter_without_peft_names_the_package(folder, monkeypatch):
    change(folder / "adapter_config.json", peft_type="LORA", r=2)
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    monkeypatch.setattr("vniah.models.adapters._has_peft", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vniah\[adapters\]'"):
        load_model(folder, device="cpu")
    assert main(["check", "--model", str(folder)]) == 2


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ({"peft_type": "LORA"}, {}, "but no adapter_model.safetensors"),
        ({"peft_type": "PREFIX_TUNING"}, {"a": 1}, "of the kind PREFIX_TUNING"),
        ({"layer_replication": [[0, 2], [1, 2]]}, {"a": 1}, "has a layer_replication"),
        ({"r": 10**9}, {"a": 1}, "r must be a whole number"),
        ({"r": "4"}, {"a": 1}, "r must be a whole number or null, got '4'"),
        ({"peft_type": "NOPE"}, {"a": 1}, "the adapter in .* cannot be loaded"),
        ({"peft_type": "LORA", "target_modules": ["nowhere"]}, {"a": 1}, "cannot be loaded"),
        ({"peft_type": "LORA", "target_modules": ["q_proj"], "r": 2}, {"a": 1}, "does not fit"),
        (None, {"a": 1}, "without adapter_config.json"),
    ],
)
def test_adapter_that_cannot_be_applied_is_refused(folder, config, weights, message):
    pytest.importorskip("peft")
    if config is not None:
        change(folder / "adapter_config.json", **config)
    if weights:
        save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_pickled_adapter_is_named(folder):
    change(folder / "adapter_config.json", peft_type="LORA")
    (folder / "adapter_model.bin").write_bytes(b"")
    assert "adapter_model.bin is a pickle, which vniah never loads" in refusal(folder)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, "names no base_model_name_or_path"),
        ("/nowhere/at all", "which is no folder here and no hub id"),
        ("a\0b", "which is no folder here and no hub id"),
    ],
)
def test_base_of_an_adapter_must_be_found(base, message, tmp_path, monkeypatch):
    monkeypatch.setattr("vniah.models.adapters._has_peft", lambda: True)
    change(tmp_path / "adapter_config.json", peft_type="LORA", base_model_name_or_path=base)
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert message in refusal(tmp_path)


def test_adapter_with_another_template_is_refused(written, tmp_path):
    folder = written["transformers"]
    write_adapter(folder, tmp_path, TARGETS)
    (tmp_path / "chat_template.jinja").write_text("another")
    assert "has a chat_template.jinja that its model in" in refusal(tmp_path)
