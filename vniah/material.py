"""What the questions of a sweep are made of: cached frames, and sequences of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vniah.embeddings import EmbeddingCache, FrameStore
from vniah.haystacks import Haystack
from vniah.models.protocol import EncodingModel, FrameSegment, TokenSequence
from vniah.needles import NeedleSet
from vniah.sequences import compose_answers
from vniah.tasks.visual import Question

# Frames of a haystack that is made of a needle set's own pictures, at least.
_SHORTEST = 16


@dataclass(frozen=True)
class Material:
    """What the questions of a sweep are made of: cached frames, by name.

    Attributes:
        store: where all frames lie.
        frames: the haystack's.
        needles: one frame for each needle, by its id.
    """

    store: FrameStore
    frames: Sequence[FrameSegment]
    needles: Mapping[str, FrameSegment]

    @classmethod
    def of(
        cls,
        haystack: Haystack,
        needles: NeedleSet,
        num_frames: int,
        haystack_cache: EmbeddingCache,
        needle_cache: EmbeddingCache,
    ) -> "Material":
        """The first ``num_frames`` frames of a haystack, and a needle set, from their caches."""
        source = f"haystack/{haystack.sha256[:12]}"
        of_needles = {
            n.needle_id: FrameSegment(f"needles/{needles.name}/{n.needle_id}", 0) for n in needles
        }
        places = {source: (haystack_cache, 0)} | {
            segment.source: (needle_cache, index)
            for index, segment in enumerate(of_needles.values())
        }
        frames = [FrameSegment(source, index) for index in range(num_frames)]
        return cls(FrameStore(places), frames, of_needles)

    @classmethod
    def of_needles(cls, needles: NeedleSet, cache: EmbeddingCache) -> "Material":
        """A needle set's own pictures, again and again, as a haystack."""
        source = f"needles/{needles.name}"
        frames = [FrameSegment(source, index) for index in range(len(needles))]
        of_needles = {n.needle_id: frame for n, frame in zip(needles, frames, strict=True)}
        repeats = -(-_SHORTEST // len(needles))
        return cls(FrameStore({source: (cache, 0)}), frames * repeats, of_needles)

    def compose(self, model: EncodingModel, question: Question) -> TokenSequence:
        """What the model reads for a question, with its first answer."""
        return self.compose_all(model, question)[0]

    def compose_all(self, model: EncodingModel, question: Question) -> tuple[TokenSequence, ...]:
        """The same with each of its accepted answers."""
        needle = question.needle
        shown = question.insert(self.frames, self.needles[needle.needle_id])
        return compose_answers(model, shown, needle)
