"""What is known of a sweep before it runs: memory, operations and time of each way to run it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from vniah.embeddings.shown import frames_shown
from vniah.forward.costs import DecoderShape, Flops, PassBytes
from vniah.forward.devices import USABLE, free_bytes
from vniah.forward.kv_cache import KVLocation
from vniah.forward.memory import fit_chunk_size, fit_kv_location
from vniah.forward.prefix_tree import Branch, cost_of
from vniah.haystacks.library import VideoLibrary
from vniah.options import Share
from vniah.options.approximation import Approximation
from vniah.protocol import TokenSequence
from vniah.sweep.throughput import Rates
from vniah.tasks import Sample

NO_BYTES = PassBytes(0, 0, 0)
"""Of no pass at all."""


@dataclass(frozen=True)
class Memory:
    """The memory of the largest pass, in bytes, per rank.

    Attributes:
        weights: the decoder's weights on the device; they are loaded already.
        hidden: the rows between two layers, and what belongs to them.
        keys_values: the keys and values of one layer.
        chunk: the largest tensors of a chunk inside a layer.
        chunk_size: number of rows of a chunk.
        store: the keys and values of all layers that are stored for later passes.
        kv_location: where they will be stored.
        device: the device that computes.
        free: the free memory of the device, now, without what the weights will take of it.
        host_weights: weights of layers in host memory; 0 where all weights are on the device.
        gathered: layers that a pass gathers from several processes, if they share weights.
        missing: what of the weights is not on the device yet, as none were loaded.
    """

    weights: int
    hidden: int
    keys_values: int
    chunk: int
    chunk_size: int
    store: int
    kv_location: KVLocation
    device: str
    free: int
    host_weights: int = 0
    gathered: int = 0
    missing: int = 0

    @classmethod
    def of_tree(
        cls,
        shape: DecoderShape,
        branches: Sequence[Branch],
        sequences: Sequence[TokenSequence],
        device: torch.device,
        num_ranks: int = 1,
        *,
        missing: int = 0,
    ) -> "Memory":
        """That of the passes of a tree, or of a pass for each sequence; there may be none."""
        free = free_bytes(device) - missing
        usable = int(free * USABLE)
        chunk_size = fit_chunk_size(shape, branches, device, free=usable, num_ranks=num_ranks)
        largest = max(
            (
                shape.pass_parts(
                    branch,
                    chunk_size=chunk_size,
                    num_ranks=num_ranks,
                    num_read=sum(
                        len(sequences[suffix.sequences[0]].answer_ids) for suffix in branch.suffixes
                    ),
                )
                for root in branches
                for branch in root.passes()
            ),
            key=lambda parts: parts.total,
            default=NO_BYTES,
        )
        store = shape.kept_bytes(branches, num_ranks=num_ranks)
        return cls(
            weights=shape.weight_bytes,
            hidden=largest.hidden,
            keys_values=largest.keys_values,
            chunk=largest.chunk,
            chunk_size=min(chunk_size, max((branch.max_tokens for branch in branches), default=0)),
            store=store,
            kv_location=fit_kv_location(store, device, left=usable - largest.total),
            device=str(device),
            free=free,
            host_weights=shape.host_weight_bytes,
            gathered=shape.gathered_bytes,
            missing=missing,
        )

    @property
    def needed(self) -> int:
        """The memory needed on the device, besides the weights that stay there."""
        on_device = self.store if self.kv_location == "device" else 0
        return self.hidden + self.keys_values + self.chunk + self.gathered + on_device

    @property
    def fits(self) -> bool:
        """Whether it is at most the share of the free memory that a run may use."""
        return self.needed <= self.free * USABLE


@dataclass(frozen=True)
class Work:
    """The work of a sweep, per rank.

    Attributes:
        num_passes: number of forward passes.
        num_tokens: number of rows that go through the layers, on all ranks.
        flops: number of operations.
        seconds: how long the operations take at the measured rates; or how long it takes to fetch
            the layers' weights for every pass, if that is longer, as both happen at the same time.
    """

    num_passes: int
    num_tokens: int
    flops: Flops
    seconds: float

    @classmethod
    def at(
        cls, shape: DecoderShape, rates: Rates, flops: Flops, *, num_passes: int, num_tokens: int
    ) -> "Work":
        """Some operations at some rates."""
        computing = flops.linear / rates.linear + flops.attention / rates.attention
        fetching = num_passes * shape.host_weight_bytes / rates.fetching
        return cls(num_passes, num_tokens, flops, max(computing, fetching))

    @classmethod
    def of_tree(
        cls, shape: DecoderShape, branches: Sequence[Branch], rates: Rates, num_ranks: int = 1
    ) -> "Work":
        """That of the passes of a tree, or of a pass for each sequence."""
        return cls.at(
            shape,
            rates,
            shape.flops_of(branches, num_ranks=num_ranks),
            num_passes=sum(1 for root in branches for _ in root.passes()),
            num_tokens=cost_of(branches).num_tokens,
        )

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.num_passes + other.num_passes,
            self.num_tokens + other.num_tokens,
            self.flops + other.flops,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class OnePass:
    """A sweep whose needles share the states of the haystack, which is an approximation.

    Attributes:
        approximation: its window, and how many branches verify it.
        num_verified: number of samples of these branches, which are run exactly as well.
        unverified: the work of all samples without these.
        work: all of its work.
        memory: the memory of the pass with the most rows.
        exact: the memory of the samples that are run exactly.
    """

    approximation: Approximation
    num_verified: int
    unverified: Work
    work: Work
    memory: Memory
    exact: Memory

    @property
    def largest(self) -> Memory:
        """The memory of whatever takes more on the device."""
        return max(self.memory, self.exact, key=lambda memory: memory.needed)


@dataclass(frozen=True)
class ShownOfVideos:
    """What the samples of a question set show of its videos.

    Attributes:
        num_pictures: different pictures; each is encoded once.
        num_videos: the videos that they are of.
    """

    num_pictures: int
    num_videos: int

    @classmethod
    def of(cls, samples: Iterable[Sample], videos: VideoLibrary) -> "ShownOfVideos":
        """What some samples show."""
        frames = frames_shown(span for sample in samples for span in sample.shown)
        return cls(len(frames), len(videos.by_video(frames)))


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Attributes:
        model_name: the model's name.
        dtype: the dtype of its weights and of everything that is computed.
        num_samples: number of samples, controls included, but not those that only verify one pass.
        max_tokens: number of tokens of the longest sequence.
        tokens_per_frame: the average, with the text that the model puts around each frame; None for
            a task of text.
        num_ranks: number of processes that run a pass together.
        rates: the rates by which the times are computed.
        memory: the memory of the largest pass, with what is stored for later passes.
        memory_alone: the same where every sample runs by itself.
        shared: the work where common prefixes are computed once.
        alone: the work where every sample runs by itself.
        max_frames: by the number of such devices that run a pass together, how many haystack frames
            fit into their free memory; for a task of text how many tokens of a prompt.
        one_pass: the same sweep with haystack states that all needles share; None where that is
            impossible.
        notes: remarks, such as why nothing is shared.
        share: how it is to be run.
        shown: what is shown of the videos of a question set; None for other haystacks.
        weight_ranks: number of processes that share the weights of the layers.
    """

    model_name: str
    dtype: str
    num_samples: int
    max_tokens: int
    tokens_per_frame: float | None
    num_ranks: int
    rates: Rates
    memory: Memory
    memory_alone: Memory
    shared: Work
    alone: Work
    max_frames: dict[int, int]
    one_pass: OnePass | None
    notes: tuple[str, ...]
    share: Share = "tree"
    shown: ShownOfVideos | None = None
    weight_ranks: int = 1

    @property
    def work(self) -> Work:
        """The work of the way in which it is to be run."""
        if self.share == "one-pass":
            return self._asked.work
        return self.alone if self.share == "none" else self.shared

    @property
    def largest(self) -> Memory:
        """The memory of that way."""
        if self.share == "one-pass":
            return self._asked.largest
        return self.memory_alone if self.share == "none" else self.memory

    @property
    def num_run(self) -> int:
        """The number of samples of that way."""
        return self.num_samples + (self._asked.num_verified if self.share == "one-pass" else 0)

    @property
    def _asked(self) -> OnePass:
        assert self.one_pass is not None, "what is asked for and impossible is refused"
        return self.one_pass
