"""Memory of the machine and of its devices: how much is free, and which of them are one."""

import psutil
import torch

USABLE = 0.9  # of what is free


def free_bytes(device: torch.device) -> int:
    """Memory that a pass may take now, on a device or, for the CPU, of the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    available = int(psutil.virtual_memory().available)
    if device.type == "mps":  # the machine's own memory, of which Metal takes a part only
        left = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return max(0, min(available, left))
    return available


def shares_host_memory(device: torch.device) -> bool:
    """Whether what lies on the device lies in the memory of the host."""
    return device.type in ("cpu", "mps")


def give_back_unused(device: torch.device) -> None:
    """Frees what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
