"""A GPU that is not there: tensors say "cuda:0" while the CPU holds their data and does the work.

    with fake_gpu(monkeypatch) as pretend:
        model.to("cuda")(images)        # raises where the images are on the CPU
        pretend.waits                   # ["train.py:104 _local_scalar_dense", …]

Numbers are right to the last bit, mixed devices and waits for the GPU are seen. Not seen: time,
memory, CUDA's own kernels, data that are read before a copy in the background is done.
"""

import contextlib
import functools
import sys
from pathlib import Path

import torch
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
TO_CPU = torch.device("cpu:0")  # a copy to the CPU; autograd, which knows of no GPU, says "cpu"
READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount"}
ANSWERS = dict(is_available=True, device_count=1, current_device=0, is_bf16_supported=True)
ANSWERS |= dict(_lazy_init=None, set_device=None, set_rng_state=None, get_rng_state=None)
ANSWERS |= dict(get_device_name="no GPU", get_device_capability=(8, 0), get_arch_list=["sm_80"])
PACKAGES = torch.serialization._package_registry


class CudaTensor(torch.Tensor):
    """An ordinary tensor on the CPU that names another device when Python asks."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device, is_cuda = property(lambda self: GPU), property(lambda self: GPU.type == "cuda")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))

    @classmethod
    def of(cls, tensor):
        known = isinstance(tensor, cls)
        return tensor if known else cls._make_subclass(cls, tensor, tensor.requires_grad)

    def to(self, *args, copy=False, **kwargs):
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        options = dict(dtype=dtype or self.dtype, non_blocking=non_blocking)
        options["memory_format"] = layout or torch.preserve_format
        if device is None or device.type != "cpu":
            return super().to(copy=copy, **options)
        return torch.ops.aten._to_copy(self, device=TO_CPU, **options)

    cpu = functools.partialmethod(to, "cpu")

    def tolist(self):
        return self.cpu().tolist()

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")

    numpy = __array__

    def __deepcopy__(self, memo):
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        copy.__dict__.update(self.__dict__)  # "this is a parameter"
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol):  # saved as of "cuda:0": torch.load needs map_location
        self.untyped_storage().tag = "cuda:0"
        return torch.Tensor._make_subclass(torch.Tensor, self.detach()).__reduce_ex__(protocol)


class Pretend(TorchDispatchMode):
    """Every operation passes through here: a look at the devices, then the CPU does the work."""

    def wait(self, reason):
        frame = sys._getframe(1)
        while __file__ == frame.f_code.co_filename or "/torch/" in frame.f_code.co_filename:
            frame = frame.f_back
        self.waits.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {reason}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        if torch.is_inference_mode_enabled():  # operations that consist of others arrive whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        target, from_gpu = kwargs.get("device") or CPU, CudaTensor in types
        to_gpu = from_gpu or target.type != "cpu"
        if name == "_to_copy" and target != CPU:
            to_gpu = target.type != "cpu"
            if from_gpu != to_gpu and not kwargs.get("non_blocking"):
                self.wait(f"copy to {target.type}")
        elif from_gpu:
            self.look(func, name, args, kwargs)
        if "device" in kwargs:
            kwargs["device"] = CPU
        result = CudaTensor.__torch_dispatch__(func, types, args, kwargs)
        return tree_map_only(torch.Tensor, CudaTensor.of, result) if to_gpu else result

    def look(self, func, name, args, kwargs):  # note waits, and raise where devices mix
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_cpu = [tensor for tensor in tensors if not isinstance(tensor, CudaTensor)]
        strangers = [x for x in on_cpu if x.ndim or torch.Tag.pointwise not in func.tags]
        if name in READING or (name == "copy_" and on_cpu and args[2:] != (True,)):
            self.wait(name)
        if "index" in name and isinstance(args[1], list | tuple):  # [mask or index, …] (= value)
            if on_cpu or any(index is not None and index.dtype is torch.bool for index in args[1]):
                self.wait(f"{name} with a mask, or with an index or a number that lies on the CPU")
            strangers = [x for x in on_cpu if x.numel() > 1 and all(x is not i for i in args[1])]
        if strangers and name != "copy_":
            raise RuntimeError(f"{name}: expected all tensors on cuda:0, found one on cpu")


@contextlib.contextmanager
def fake_gpu(patch, **answers):
    """PyTorch with a GPU that is not there; `answers` go into the place of torch.cuda's own."""

    def with_number(known, *given):  # for the number of "cuda", PyTorch would ask CUDA itself
        a, k = tree_map_only((str, torch.device), lambda x: GPU if str(x) == GPU.type else x, given)
        return known(*a, **k)

    def group(lists, with_indices=False, known=Optimizer._group_tensors_by_device_and_dtype):
        return {(lists[0][0].device, key[1]): part for key, part in known(lists).items()}

    def autocast(self, device_type, *args, known=torch.autocast.__init__, **kwargs):
        known(self, "cpu", *args, **kwargs)

    for name, answer in {**ANSWERS, **answers}.items():
        patch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    for owner, name in ((torch.Tensor, "to"), (torch, "tensor"), (torch, "as_tensor")):
        known = getattr(owner, name)
        patch.setattr(owner, name, lambda *a, known=known, **k: with_number(known, a, k))
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor)
    patch.setattr(torch.autocast, "__init__", autocast)
    patch.setattr(Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(group))
    health = "_accelerator_graph_capture_health_check"
    patch.setattr(Optimizer, health, lambda optimizer: None, raising=False)
    tagger = (0, lambda storage: getattr(storage, "tag", None), lambda *_: None)
    patch.setattr(torch.serialization, "_package_registry", [tagger, *PACKAGES])
    patch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with Pretend() as pretend:
            pretend.waits = []
            yield pretend
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
