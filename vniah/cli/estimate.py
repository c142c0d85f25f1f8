"""An estimate as text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vniah.sweep.estimate import Estimate, Work

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_estimate(found: "Estimate") -> str:
    """Everything that it says, in lines."""
    memory = found.memory
    per_rank = f", on each of {found.num_ranks} GPUs" if found.num_ranks > 1 else ""
    rows = [
        (f"weights of the decoder, {found.dtype}", memory.weights),
        *([("of its layers, in host memory", memory.host_weights)] if memory.host_weights else []),
        ("hidden rows", memory.hidden),
        ("keys and values of one layer", memory.keys_values),
        (f"chunk of {memory.chunk_size:,} rows", memory.chunk),
        (f"kept keys and values, on {memory.kv_location}", memory.store),
        ("needed besides the weights", memory.needed),
        (f"free on {memory.device}", memory.free),
    ]
    lines = [
        f"{found.model_name}: {found.num_samples:,} samples of up to {found.max_tokens:,} "
        f"tokens, {found.tokens_per_frame:g} per frame",
        "",
        f"memory{per_rank}",
        *(f"  {name:<34}{_scaled(value, 'B'):>10}" for name, value in rows),
        *([] if memory.fits else ["  it does not fit: measure fewer frames"]),
        "",
        f"work{per_rank}",
        f"  {'':<24}{'passes':>8}{'tokens':>14}{'linear':>14}{'attention':>14}{'at least':>10}",
        _work_line("common prefixes once", found.shared),
        _work_line("every one by itself", found.alone),
        f"  sharing saves a factor of {found.alone.flops.total / found.shared.flops.total:.2f} in "
        f"operations, {found.alone.seconds / found.shared.seconds:.2f} in time",
        f"  at {_scaled(found.rates.linear, 'FLOP/s')} in matrix products, "
        f"{_scaled(found.rates.attention, 'FLOP/s')} in attention, measured just now; "
        "encoding frames and all small operations come on top",
        *_about_fetching(found),
        "",
        "frames that fit into the free memory: "
        + ", ".join(_limit(*limit) for limit in found.max_frames.items()),
        *(f"note: {note}" for note in found.notes),
    ]
    return "\n".join(lines)


def _about_fetching(found: "Estimate") -> list[str]:
    if not found.memory.host_weights:
        return []
    return [
        f"  every pass fetches the layers' weights, at {_scaled(found.rates.fetching, 'B/s')}, "
        "while it computes: times are no less than that"
    ]


def _work_line(name: str, work: "Work") -> str:
    linear, attention = (
        _scaled(flops, "FLOP") for flops in (work.flops.linear, work.flops.attention)
    )
    return (
        f"  {name:<24}{work.num_passes:>8,}{work.num_tokens:>14,}{linear:>14}{attention:>14}"
        f"{_duration(work.seconds):>10}"
    )


def _limit(num_ranks: int, num_frames: int) -> str:
    return f"{num_frames:,}" + (f" on {num_ranks}" if num_ranks > 1 else " here")


def _scaled(value: float, unit: str) -> str:
    """Three digits and a prefix: ``"20.7 GB"``."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
