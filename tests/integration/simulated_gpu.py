"""A GPU for machines that have none: whoever mixes devices is found out.

A tensor "on the GPU" says so and keeps its numbers on the CPU, where all is computed. Before that, each operation is checked as
CUDA checks it: tensors of both devices in one operation are an error (but for CPU tensors without dimensions, CPU indices and
copies), so are numbers drawn on the GPU by a generator of the CPU, and ``numpy()``. What this cannot show: the GPU's own kernels,
their speed, memory and half precision.

The device is torch's private one, under the name ``gpu``; it stays registered until the process ends.
"""

from __future__ import annotations

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
#: can this torch register a device from Python?
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
DEVICE = "gpu:0"
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXED = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")


class OnGPU(torch.Tensor):
    """``held``, a CPU tensor, as if it were on the GPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=torch.device(DEVICE)
        )

    def __init__(self, held):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def __repr__(self):
        return f"OnGPU({self.held})"

    def tolist(self):
        return self.held.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert a GPU's tensor to numpy: use Tensor.cpu() first")

    __array__ = numpy


class _Everywhere(TorchDispatchMode):
    """Operations without a tensor of the GPU, too: they may make one."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _run(operation, args, kwargs):
    given = [x for x in _leaves((args, kwargs.values())) if isinstance(x, (torch.Tensor, torch.Generator))]
    device = kwargs.get("device")
    here = not any(isinstance(x, OnGPU) for x in given)
    if here and (device is None or device.type != "gpu"):
        return operation(*args, **kwargs)
    if operation not in MOVES:
        _check(operation, args, given, here)
    if device is not None:
        here = device.type != "gpu"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    kwargs.pop("pin_memory", None)
    if operation is aten._efficientzerotensor.default:  # it holds nothing
        operation = aten.zeros.default
    out = operation(*_mapped(_held, args), **{name: _mapped(_held, value) for name, value in kwargs.items()})
    known = {id(_held(x)): x for x in given}

    def labelled(value):
        if not isinstance(value, torch.Tensor):
            return value
        same = known.get(id(value))  # of an operation in place
        if same is not None:
            assert same.shape == _held(same).shape, f"{operation} changes a shape in place, which is not simulated"
            return same
        return value if here else OnGPU(value)

    return _mapped(labelled, out)


def _leaves(values):
    for value in values:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") or isinstance(value, torch.Tensor):
            yield value
        else:
            yield from _leaves(value)


def _mapped(function, value):
    return type(value)(_mapped(function, v) for v in value) if isinstance(value, (list, tuple)) else function(value)


def _held(value):
    return value.held if isinstance(value, OnGPU) else value


def _check(operation, args, given, here) -> None:
    if any(isinstance(x, torch.Generator) for x in given):
        raise RuntimeError(f"{operation}: expected a generator of the GPU, found one of the CPU")
    name = operation.name().partition("::")[2].partition(".")[0]
    if name in INDEXED:
        if not isinstance(args[0], OnGPU) and any(isinstance(index, OnGPU) for index in args[1]):
            raise RuntimeError(f"{operation}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        given = _leaves((args[0:1], args[2:]))
    if not here and any(isinstance(x, torch.Tensor) and not isinstance(x, OnGPU) and x.dim() > 0 for x in given):
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found both {DEVICE} and cpu")


class _Module(backend_registration._DummyBackendModule if AVAILABLE else object):
    """What torch asks of a device's module beside that."""

    @staticmethod
    def get_amp_supported_dtype():
        return [torch.float16, torch.bfloat16]


def register() -> None:
    """From now on ``gpu:0`` is a device."""
    backend_registration._setup_privateuseone_for_python_backend("gpu", _Module())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is seen as a copy to the device
    torch.Tensor.pin_memory = lambda self, *_: self
    _Everywhere().__enter__()


def move(module: torch.nn.Module) -> None:
    """Puts the module's parameters and buffers on the GPU; what is shared stays shared, which ``Module.to`` cannot see to here."""
    moved: dict = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                moved.setdefault(p, torch.nn.Parameter(p.detach().to(DEVICE), p.requires_grad))
                part._parameters[name] = moved[p]
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = b.to(DEVICE)


def train_there() -> None:
    """From now on fairseq's trainer takes this GPU, which has been registered, for one of its own."""
    from fairseq import utils
    from fairseq.trainer import Trainer

    begin, prepare = Trainer.__init__, Trainer._prepare_sample

    def __init__(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        self.device = torch.device(DEVICE)
        move(self._model)
        move(self._criterion)

    def _prepare_sample(self, sample, is_dummy=False):
        sample, is_dummy = prepare(self, sample, is_dummy)
        return utils.move_to_cuda(sample, torch.device(DEVICE)), is_dummy

    Trainer.__init__, Trainer._prepare_sample = __init__, _prepare_sample
    torch.cuda.current_device = lambda: torch.device(DEVICE).index
