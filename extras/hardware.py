"""What a run computes on, and in which precision.

    device = pick_device("auto")
    precision, why = choose_precision("auto", device)       # "bfloat16", "this GPU computes it"

Nothing here imports PyTorch before it is needed, so that a wrong argument is refused at once.
"""

import os
import re
from pathlib import Path

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def pick_device(device="auto"):
    """The torch.device to train on; "auto": CUDA if it can be used, else Apple's MPS, else the CPU.

    Raises ValueError where the requested device is missing or cannot be used.
    """
    import torch

    if device not in DEVICES:
        raise ValueError(f"device is {device!r}: choose one of {', '.join(DEVICES)}")
    has_cuda = torch.cuda.is_available()
    trouble = kernel_trouble() if has_cuda else "PyTorch finds no NVIDIA GPU: take 'auto'"
    if device == "cuda" and trouble:
        raise ValueError(f"device is 'cuda', but {trouble}")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device is 'mps', but PyTorch finds no Apple GPU: take 'auto'")
    if device != "auto":
        return torch.device(device)
    if has_cuda and not trouble:
        return torch.device("cuda")
    if has_cuda:
        print(f"the GPU is not used: {trouble}")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def kernel_trouble():
    """Why this PyTorch cannot compute on the GPU, or None.

    Its wheels for CUDA 13 have no kernels for GPUs below compute capability 7.5.
    """
    import torch

    major, minor = torch.cuda.get_device_capability()
    architectures = torch.cuda.get_arch_list()
    for name in architectures:
        kind, _, digits = name.rstrip("af").partition("_")
        if kind not in ("sm", "compute"):
            return None  # AMD's names, which this function does not know
        version = int(digits[:-1]), int(digits[-1])
        # sm_75 runs on 7.5 to 7.9; compute_75 is compiled anew for any GPU from 7.5 on
        if (kind == "sm" and version[0] == major and version[1] <= minor) or (
            kind == "compute" and version <= (major, minor)
        ):
            return None
    if not architectures:
        return None
    return (
        f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this PyTorch "
        f"has kernels for {', '.join(architectures)}: install PyTorch for an older CUDA (12.6)"
    )


def memory_format(device):
    """The layout of weights and images that suits a device.

    Channels last is the fastest on CUDA and CPUs. On Apple's GPU, the gradients of BatchNorm and
    MaxPool are wrong with it (pytorch#175189, #175190).
    """
    import torch

    kind = torch.device(device).type
    return torch.channels_last if kind in ("cuda", "cpu") else torch.contiguous_format


def device_name(device, processes=1):
    """For display: "NVIDIA H200", "2 × Tesla T4", "Apple MPS", "AMD EPYC, 2 threads"."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        name = torch.cuda.get_device_name(device)
    elif kind == "mps":
        name = "Apple MPS"
    else:
        threads = torch.get_num_threads()
        name = f"{cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"
    return f"{processes} × {name}" if processes > 1 else name


def cpu_name():
    found = re.search(r"model name\s*:\s*(.+)", cpu_info())
    return " ".join(found[1].split()) if found else "CPU"


def cpu_info():
    """What Linux says of the processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""


def cpu_has_bfloat16():
    """Does the processor compute in bfloat16 (AVX512_BF16 or AMX)?

    Without such instructions it is up to 16 times slower (pytorch#183815).
    """
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.14 on
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpu_info()))


def possible_precisions(device):
    """({precisions that a device computes well}, the best of them, why it is the best)."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        # torch.cuda.is_bf16_supported() says yes on a T4 too, where bfloat16 is emulated and slow
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return {"float32", "float16", "bfloat16"}, "bfloat16", "this GPU computes it"
        return {"float32", "float16"}, "float16", "this GPU has no bfloat16"
    if kind == "cpu" and cpu_has_bfloat16():
        why = "this processor computes it, twice as fast"
        return {"float32", "bfloat16"}, "bfloat16", why
    return {"float32"}, "float32", "bfloat16 would be slower here"


def choose_precision(precision, device, before=None):
    """The precision of a run, as the name of a torch dtype, and why, in a few words.

    "auto" is bfloat16 on CUDA from compute capability 8.0 on, else float16; on a CPU bfloat16 where
    the processor computes it; float32 elsewhere. A run that goes on keeps its precision `before`
    where the device can.

    Raises ValueError for float16 on a CPU, and for bfloat16 on a GPU that has none.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}")
    possible, best, why = possible_precisions(device)
    kind = torch.device(device).type
    if precision == "float16" and kind == "cpu":
        raise ValueError("precision is 'float16' on a CPU, where it is slow and inexact: take auto")
    if precision == "bfloat16" and kind == "cuda" and "bfloat16" not in possible:
        raise ValueError(
            "precision is 'bfloat16' on a GPU older than compute capability 8.0, which has no "
            "convolutions in it and is a hundred times slower: take auto"
        )
    if precision != "auto":
        return precision, "as asked for"
    if before is None:
        return best, why
    if before in possible:
        return before, "as before the interruption"
    return best, f"{why}; before the interruption it was {before}"


def set_deterministic(deterministic):
    """The same result to the last bit, run after run; or (False) cuDNN's fastest algorithms."""
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # ours is never read before written
    torch.backends.cudnn.benchmark = not deterministic
    # float32 means float32: from Ampere on, cuDNN would round convolutions to TF32
    torch.backends.cudnn.allow_tf32 = False
