import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import vniah
from training import evaluate
from training.world import KINDS
from vniah.files import embedded_dir
from vniah.models.loading import embedded_models

FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vision_tower/config.json",
    "vision_tower/preprocessor_config.json",
)
MODELS = {  # RoPE base, how images were encoded in alignment
    "reference-anyres": (1e9, "spatial"),
    "reference-long": (1e9, "unires"),
    "reference-short": (150.0, "unires"),
    "reference-short-large-base": (1e9, "unires"),
    "reference-two-hops": (1e9, "unires"),
}
CARDS = [
    card
    for line in (embedded_dir("needles", "cards") / "metadata.jsonl").read_text().splitlines()
    if "role" not in (card := json.loads(line))
]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(model: str) -> Path:
    return embedded_dir("models", model)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def test_the_models_are_those_and_small_together() -> None:
    assert set(embedded_models()) == set(MODELS)
    files = [path for path in embedded_dir("models").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000


def test_folder_is_complete(folder: Path) -> None:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(folder).as_posix() for path in found) == sorted(FILES)


def test_config_describes_a_tiny_longva(folder: Path, model: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    rope_theta, merge_type = MODELS[model]
    expected = {
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "rope_theta": rope_theta,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 128,
        "mm_patch_merge_type": merge_type,
        "image_aspect_ratio": "anyres" if merge_type == "spatial" else "pad",
        "torch_dtype": "float16",
    }
    assert {name: config[name] for name in expected} == expected


def test_weights_are_float16_under_the_names_of_longva(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
        kinds = {weights.get_slice(name).get_dtype() for name in names}
        vocabulary = weights.get_slice("model.embed_tokens.weight").get_shape()[0]
    assert kinds == {"F16"}
    assert vocabulary == json.loads((folder / "config.json").read_text())["vocab_size"]
    tower = "model.vision_tower.vision_tower.vision_model."
    for name in (
        f"{tower}embeddings.class_embedding",
        f"{tower}encoder.layers.2.mlp.fc2.weight",
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        "model.layers.3.self_attn.q_proj.bias",
        "model.norm.weight",
    ):
        assert name in names
    assert not any(name.startswith("lm_head") for name in names)


def test_default_cards_have_keys_of_their_own() -> None:
    assert len(CARDS) == 10
    assert len({card["question"] for card in CARDS}) == 10
    for card in CARDS:
        assert list(card)[:4] == ["file_name", "needle_id", "question", "answer"]
        assert card["needle_id"].endswith(card["answer"])
        assert (embedded_dir("needles", "cards") / card["file_name"]).exists()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card["needle_id"])
def test_questions_and_answers_survive_the_tokenizer(
    card: dict[str, str], tokenizer: PreTrainedTokenizerBase
) -> None:
    for text in (card["question"], card["answer"]):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text.lower()


def test_digits_are_read_one_by_one(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("47") == ["4", "7"]


def test_the_chat_template_marks_are_single_tokens(
    tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 11
    assert tokenizer.unk_token_id not in ids
    config = json.loads((folder / "config.json").read_text())
    assert tokenizer.eos_token_id == config["eos_token_id"] == ids[8]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """The share of right answers of a model about a film that no training has seen."""
    haystack, needles = vniah.generated_haystack(128, seed=4), vniah.load_needles("cards")

    def score(name: str, *, num_frames: int, task: str = "vniah", **options: float) -> float:
        folder = tmp_path_factory.mktemp(name)
        results = vniah.run_sweep(
            vniah.load_model(name, device="cpu", **options),
            haystack,
            needles,
            vniah.Grid.of([num_frames], [0.1, 0.6]),
            output=folder / "run",
            task=task,
            controls="none",
            cache=folder / "cache",
        )
        return sum(bool(sample.correct) for sample in results.samples) / len(results.samples)

    return score


def test_only_long_text_carries_over_to_long_videos(scores: Callable[..., float]) -> None:
    assert scores("reference-long", num_frames=128) >= 0.95
    assert scores("reference-short", num_frames=128) <= 0.2


def test_only_the_fork_with_two_hops_makes_both(scores: Callable[..., float]) -> None:
    assert scores("reference-two-hops", num_frames=32, task="bridged") >= 0.9
    assert scores("reference-long", num_frames=32, task="bridged") <= 0.1
    assert scores("reference-two-hops", num_frames=32) >= 0.95


def test_a_larger_rope_base_helps_the_short_twin_without_training(
    scores: Callable[..., float],
) -> None:
    plain = scores("reference-short", num_frames=64)
    assert scores("reference-short", num_frames=64, rope_theta=500.0) >= plain + 0.25


def test_the_key_of_the_question_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "WORK_DIR", tmp_path)
    trial = evaluate.Trial.prepare("reference-long", seconds=32, num_new=0, cache=tmp_path)
    for kind in KINDS:
        among = trial.among(32, kind=kind)
        assert sum(among.right) / len(among.right) >= 0.9
        assert among.by_kind < 0.5
    nothing = trial.without(32)
    assert sum(nothing) / len(nothing) >= 0.9
