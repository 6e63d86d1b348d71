"""Where and in which precision to compute, resolved once."""

import contextlib

import torch

from retinue.tools.options import UsageError


def resolve_device(name: str | None) -> torch.device:
    """The named device, or the best there is. UsageError where the named one is not available."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={name}: {str(error).splitlines()[0]}; try device=cpu") from None
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """auto: bf16 on GPUs that have it, fp32 else (a CPU's bf16 is fast only with AMX or AVX-512 bf16)."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast, or nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
