"""A tiny language model of several hops, for tests: `python -m training.chains [FILE]`.

Its texts say who holds which number, and who copies whom; the question is what somebody holds:

    Rain falls. Ann holds 3. Snow melts. Bob copies Ann. Cleo copies Bob.   What does Cleo hold?  3

Each sentence is one token, so that two layers are enough for three hops, but not for a question
that makes them one after the other: in the first layer "Bob copies Ann" has to take Ann's number,
which the question finds there in the second. Where states of the haystack are computed without the
needle in sight (`vniah.forward.splices`) it has not, which is what the tests are about.

Embeddings of names begin as sums of a vector for each name and its role, and numbers with those
that the answers are read by (as "a start that looks back" in training/README.md): so it takes
1,200 steps, some three minutes of one core. From a random start it did not learn a second hop in
700 steps.
"""

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from vniah.files import atomic_path, hash_text
from vniah.haystacks.text import TextHaystack
from vniah.needles import Needle, NeedleSet
from vniah.protocol import TextSegment, TokenSequence
from vniah.tasks.niah import CLOSING, OPENING

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hugo")
NUMBERS = "01234567"
FILLERS = (
    *("Rain falls.", "Snow melts.", "Birds sing.", "Doors close.", "Lamps glow.", "Bells ring."),
    *("Ships sail.", "Roads bend.", "Clocks tick.", "Leaves turn.", "Dogs bark.", "Fires burn."),
)
UNKNOWN = "<unknown>"
WEIGHTS = Path("tests", "data", "chains.safetensors")

RELAY_DISTANCE = 16
"""In a haystack: sentences from one in which somebody copies another to the next such one."""

STEPS, RATE, SEED = 1200, 2e-3, 0
_TOKENS = 4096  # of a step
_WIDTH = 64
_PIECE = re.compile(rf"{re.escape(OPENING)}|{re.escape(CLOSING)}|\s*[A-Z][^.?]*[.?]|\s*\S+")


def holds(name: str, number: str) -> str:
    """The sentence that gives somebody a number."""
    return f"{name} holds {number}."


def copies(name: str, other: str) -> str:
    """The sentence that gives somebody the number of another."""
    return f"{name} copies {other}."


def asks(name: str) -> str:
    """The question that the number follows."""
    return f"What does {name} hold?"


VOCABULARY = {
    piece.strip(): number
    for number, piece in enumerate(
        (
            *(OPENING, CLOSING),
            *(holds(name, number) for name in NAMES for number in NUMBERS),
            *(copies(name, other) for name in NAMES for other in NAMES if name != other),
            *map(asks, NAMES),
            *NUMBERS,
            *FILLERS,
            UNKNOWN,
        )
    )
}
"""The number of each token."""


class ChainReader:
    """The model as `vniah.protocol.LanguageModel`.

    Args:
        decoder: of `make_decoder`.
    """

    name, revision = "chains", "1"

    def __init__(self, decoder: LlamaForCausalLM) -> None:
        self.decoder = decoder

    @classmethod
    def load(cls, path: Path) -> "ChainReader":
        """With the weights in a file."""
        decoder = make_decoder()
        decoder.load_state_dict({name: one.float() for name, one in load_file(path).items()})
        return cls(decoder.eval())

    def compose_text(self, text: str, answer: str) -> TokenSequence:
        """As `vniah.protocol.LanguageModel.compose_text`; each token is a segment."""
        found = [
            VOCABULARY.get(piece.strip(), VOCABULARY[UNKNOWN]) for piece in _PIECE.findall(text)
        ]
        return TokenSequence(
            tuple(TextSegment((number,)) for number in found), (VOCABULARY[answer],)
        )

    def token_ends(self, text: str) -> list[int]:
        """As `vniah.protocol.LanguageModel.token_ends`."""
        return [match.end() for match in _PIECE.finditer(text)]

    def position_ids(self, sequence: TokenSequence) -> torch.Tensor:
        """As `vniah.protocol.HasDecoder.position_ids`."""
        return torch.arange(sequence.num_tokens(1))


def make_decoder() -> LlamaForCausalLM:
    """Two layers, untrained."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=_WIDTH // 2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        initializer_range=0.08,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def write_text(
    random: random.Random, num_sentences: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """A text in sentences, and for two questions who is asked for and the number.

    Two chains of three names are in it. Behind each needle somebody copies its name.
    """
    text = [random.choice(FILLERS) for _ in range(num_sentences)]
    free = random.sample(range(num_sentences), num_sentences)
    names = random.sample(NAMES, 6)
    chains = []
    for first, second, third in (names[:3], names[3:]):
        number = random.choice(NUMBERS)
        needle, relay = sorted(random.sample(free, 2))
        free = [place for place in free if place not in (needle, relay)]
        text[needle], text[relay] = holds(first, number), copies(second, first)
        for _ in range(random.randrange(3)):
            text[free.pop()] = copies(second, first)
        for _ in range(random.randrange(1, 3)):
            text[free.pop()] = copies(third, second)
        chains.append(((first, second, third), number))
    asked = [random.choice(chains) for _ in range(2)]
    return text, [(random.choice(members), number) for members, number in asked]


def chained_text(num_sentences: int) -> TextHaystack:
    """A haystack in which Bob copies Ann again and again, and Cleo Bob; and where Dan has a 5."""
    text = [FILLERS[(7 * k + k // 12) % 12] for k in range(num_sentences)]
    places = {
        RELAY_DISTANCE - 1: copies("Bob", "Ann"),
        RELAY_DISTANCE // 2: copies("Cleo", "Bob"),
        3: holds("Dan", "5"),
        6: copies("Eve", "Dan"),
        9: copies("Finn", "Eve"),
    }
    for place, sentence in places.items():
        for k in range(place, num_sentences, RELAY_DISTANCE):
            text[k] = sentence
    body = " ".join(text)
    return TextHaystack("chains", "text", hash_text(body), body)


def chained_needles(name: str) -> NeedleSet:
    """Numbers that Ann holds; the question is what somebody holds."""
    found = tuple(
        Needle(
            needle_id=f"{name.lower()}-{number}",
            question=asks(name),
            answer=number,
            choices=None,
            image=None,
            text=f" {holds('Ann', number)}",
        )
        for number in "0123467"
    )
    return NeedleSet(f"chains-{name.lower()}", f"chains-{name.lower()}", found)


def read(pieces: Sequence[str]) -> list[int]:
    """The tokens of a text that is given in pieces."""
    return [VOCABULARY[piece.strip()] for piece in pieces]


@torch.no_grad()
def begin_with_sums(decoder: LlamaForCausalLM) -> None:
    """Gives sentences embeddings that are sums of those of their parts."""
    holder, copied = (torch.randn(len(NAMES), _WIDTH) / 2 for _ in range(2))
    number = torch.randn(len(NUMBERS), _WIDTH) / 2
    kinds = torch.randn(3, _WIDTH) * 0.3
    weight, head = decoder.model.embed_tokens.weight, decoder.lm_head.weight
    for row, name in enumerate(NAMES):
        weight[VOCABULARY[asks(name)]] = copied[row] + kinds[0]
        for column, value in enumerate(NUMBERS):
            weight[VOCABULARY[holds(name, value)]] = holder[row] + number[column] + kinds[1]
        for column, other in enumerate(NAMES):
            if name != other:
                weight[VOCABULARY[copies(name, other)]] = holder[row] + copied[column] + kinds[2]
    for column, value in enumerate(NUMBERS):
        head[VOCABULARY[value]] = number[column] / 5


def train(steps: int, *, seed: int = SEED) -> LlamaForCausalLM:
    """A trained decoder."""
    torch.manual_seed(seed)
    source, decoder = random.Random(seed), make_decoder()
    begin_with_sums(decoder)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    shares = []
    for step in range(steps):
        length = source.choice((20, 24, 32) if 3 * step < 2 * steps else (20, 32, 48, 96))
        rows = []
        for _ in range(_TOKENS // length):
            text, asked = write_text(source, length)
            ends = [piece for name, number in asked for piece in (asks(name), number)]
            rows.append(read([OPENING, *text, CLOSING, *ends]))
        tokens = torch.tensor(rows)
        logits = decoder(input_ids=tokens[:, :-1]).logits[:, [-3, -1]].flatten(0, 1)
        answers = tokens[:, [-3, -1]].flatten()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100, 5 * (steps - step) / steps)
        optimizer.zero_grad()
        functional.cross_entropy(logits, answers).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        shares.append(float((logits.argmax(-1) == answers).float().mean()))
        if step % 100 == 99:
            print(f"step {step + 1:,}: {sum(shares[-100:]) / 100:.3f} of the answers are right")
    return decoder.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the model, and writes its weights in half precision."""
    parser = argparse.ArgumentParser(prog="python -m training.chains", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=WEIGHTS, metavar="FILE")
    path = parser.parse_args(arguments).path
    torch.set_num_threads(1)
    decoder = train(STEPS)
    with atomic_path(path) as unfinished:
        save_file({k: v.half().contiguous() for k, v in decoder.state_dict().items()}, unfinished)


if __name__ == "__main__":
    main()
