"""The device and the precision of a run are those that the machine computes well."""

import pytest
import torch

from extras import hardware
from extras.hardware import choose_precision, pick_device


def machine(monkeypatch, cuda=None, architectures=(), mps=False):
    """Pretend to have a GPU of compute capability `cuda`, and PyTorch's kernels for some."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: cuda)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla P100")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_cuda_comes_before_mps_before_cpu_and_what_is_asked_for_must_be_there(monkeypatch):
    machine(monkeypatch, cuda=(8, 0), architectures=["sm_80"], mps=True)
    assert [pick_device(name).type for name in hardware.DEVICES] == ["cuda", "cpu", "cuda", "mps"]
    machine(monkeypatch, mps=True)
    assert pick_device().type == "mps"
    machine(monkeypatch)
    assert pick_device().type == "cpu"
    for name in ("cuda", "mps", "tpu"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            pick_device(name)


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((6, 0), ["sm_75", "sm_80", "sm_120"], False),  # Kaggle's P100 and wheels for CUDA 13
        ((7, 0), ["sm_75", "sm_80", "compute_120"], False),
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 9), ["sm_75", "sm_80"], True),  # machine code runs on later minor versions
        ((8, 0), ["sm_86"], False),  # … not on earlier ones
        ((9, 0), ["sm_80"], False),  # … nor on another major version
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((10, 0), ["sm_100"], True),
        ((12, 0), ["sm_80", "compute_80"], True),  # compiled anew for any later GPU
        ((6, 0), ["compute_75"], False),
        ((9, 0), ["gfx90a", "gfx942"], True),  # AMD's names
        ((9, 0), [], True),  # nothing is known
    ],
)
def test_a_gpu_without_kernels_is_not_taken(monkeypatch, capsys, capability, architectures, runs):
    machine(monkeypatch, capability, architectures)
    assert pick_device().type == ("cuda" if runs else "cpu")
    said = capsys.readouterr().out
    if runs:
        assert pick_device("cuda").type == "cuda"
        assert said == ""
    else:
        assert "Tesla P100" in said
        with pytest.raises(ValueError, match="Tesla P100"):
            pick_device("cuda")


@pytest.mark.parametrize(
    ("device", "able", "auto", "possible"),
    [
        ("cpu", True, "bfloat16", {"float32", "bfloat16"}),
        ("cpu", False, "float32", {"float32"}),
        ("cuda", (7, 5), "float16", {"float32", "float16"}),  # T4, where bfloat16 is emulated
        ("cuda", (8, 0), "bfloat16", {"float32", "float16", "bfloat16"}),
        ("cuda", (8, 9), "bfloat16", {"float32", "float16", "bfloat16"}),  # L4
        ("mps", None, "float32", {"float32"}),
    ],
)
def test_auto_takes_the_best_precision_and_keeps_the_one_before_where_it_can(
    monkeypatch, device, able, auto, possible
):
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: able)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: able)
    assert choose_precision("auto", device)[0] == auto
    for before in ("float32", "bfloat16", "float16"):
        chosen, why = choose_precision("auto", device, before)
        assert chosen == (before if before in possible else auto)
        assert before in possible or before in why  # a change is said
    with pytest.raises(ValueError, match="'half'"):
        choose_precision("half", device)


def test_a_precision_that_the_device_is_many_times_slower_in_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for precision, device in (("float16", "cpu"), ("bfloat16", "cuda")):
        with pytest.raises(ValueError, match=f"'{precision}'"):
            choose_precision(precision, device)
    assert choose_precision("float16", "cuda")[0] == "float16"
    assert choose_precision("bfloat16", "cpu")[0] == "bfloat16"


@pytest.mark.parametrize(
    "flags", ["avx512_bf16", "avx2 amx_bf16", "avx512_bf16x avx512_fp16", "amx_int8", ""]
)
def test_the_processor_is_asked_for_bfloat16(monkeypatch, flags):
    able = bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
    known = dict.fromkeys(flags.split(), True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert hardware.cpu_has_bfloat16() is able
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # before torch 2.14
    monkeypatch.setattr(hardware, "cpu_info", lambda: flags and f"flags\t\t: fpu {flags} vme\n")
    assert hardware.cpu_has_bfloat16() is able


def test_devices_have_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(hardware, "cpu_info", lambda: "model name\t: AMD  EPYC 9B14\n")
    assert hardware.device_name("cuda", 2) == "2 × Tesla T4"
    assert hardware.device_name("mps") == "Apple MPS"
    assert hardware.device_name("cpu") == "AMD EPYC 9B14, 1 thread"


def test_float32_means_float32_and_deterministic_does_not_fill_memory(monkeypatch):
    """From Ampere on, cuDNN would round the inputs of convolutions to TF32, ten bits."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        hardware.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
    finally:
        hardware.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
