"""The influence from the student's own backward pass (``--meta-gradient backward`` and ``ghost``): no second pass over the batch.

Where a parameter p is used by an operation y = f(x, p) that is linear in p, the change of y in direction v_p is f(x, v_p), and
what the training's own backward pass brings to y is delta = d (sum_i s_i l_i) / d y. So::

    s_i c_i = sum over all uses of all parameters, over the entries of y that belong to example i, of delta f(x, v_p)

s_i is the gradient that reaches l_i: w_i times whatever the training loop scales its loss with. It is read from the losses
themselves, so none of those factors need be known here. It costs one product f(x, v_p) a use, together about one forward pass.

``backward`` keeps x and delta of every use until v is known, after the step: exact, for the memory of these. ``ghost`` takes the
products while the backward pass comes by and keeps nothing; v must be known before the step, so it is an older one.

The uses are seen by a ``TorchFunctionMode`` during the forward pass, whichever module makes them (fairseq's attention hands its
raw weights to one function of torch, shared embeddings are used in three places); tensor hooks on their outputs read delta.
Neither changes a number of the student's.

With v in bfloat16 the products with whole matrices are made in it, and what ``backward`` keeps is kept in it. On processors that
multiply it natively they then cost a quarter; the memory is halved.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from types import FunctionType
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Product = Callable[[Tensor, Tensor], Tensor]

#: with ``backward`` and ``ghost``, no weight is smaller: an example's influence is read from its own share of the gradient
SMALLEST_WEIGHT = 1e-6

#: function -> (tangent of a tensor or None, the function's arguments) -> (delta, x) -> delta f(x, v), the last axes summed or not;
#: tangents are there when the product is taken, not before; x is the function's first argument
_RULES: dict[Callable, Callable[..., Product]] = {}


class NotCovered(Exception):
    """A parameter is used in a way that has no rule."""


def rule(*functions):
    """Decorator: how the product delta f(x, v) is taken for these functions, which are linear in their parameters."""

    def add(make):
        for function in functions:
            _RULES[function] = make
        return make

    return add


def _narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In ``dtype``, where that takes fewer bits."""
    return tensor.to(dtype) if dtype.itemsize < tensor.dtype.itemsize else tensor


def _narrower(x, v):
    """Both in the type of fewer bits."""
    return _narrow(x, v.dtype), _narrow(v, x.dtype)


@rule(F.linear)
def _linear(v, input, weight, bias=None):
    """y = x W^T + b; the product is taken on the narrower side of W."""

    def product(delta, x):
        v_weight, v_bias, out = v(weight), v(bias), 0
        if v_weight is not None:
            if weight.shape[0] > weight.shape[1]:
                delta_, v_weight = _narrower(delta, v_weight)
                out = torch.linalg.vecdot((delta_ @ v_weight).to(delta), x.to(delta))
            else:
                out = torch.linalg.vecdot(delta, F.linear(*_narrower(x.to(delta), v_weight)).to(delta))
        if v_bias is not None:
            out = out + delta @ v_bias.to(delta)
        return out

    return product


@rule(F.embedding)
def _embedding(v, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None or scale_grad_by_freq:
        raise NotCovered
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]

    def product(delta, x):
        out = torch.linalg.vecdot(delta, F.embedding(x, v(weight)).to(delta))
        return out if padding_idx is None else out.masked_fill(x == padding_idx, 0)  # that row has no gradient

    return product


@rule(F.layer_norm)
def _layer_norm(v, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    def product(delta, x):
        v_weight, v_bias = v(weight), v(bias)
        if v_weight is None:
            v_weight = torch.zeros_like(v_bias)
        return delta * F.layer_norm(x, normalized_shape, v_weight.to(x), None if v_bias is None else v_bias.to(x), eps)

    return product


@rule(F.conv1d, F.conv2d)
def _convolution(v, input, weight, bias=None, *args, **kwargs):
    def product(delta, x):
        v_weight, v_bias = v(weight), v(bias)
        if v_weight is None:
            return delta * v_bias.to(delta).view(-1, *[1] * (weight.dim() - 2))
        convolve = {3: F.conv1d, 4: F.conv2d}[weight.dim()]
        x_, v_weight = _narrower(x, v_weight)
        return delta * convolve(x_, v_weight, None if v_bias is None else v_bias.to(x_), *args, **kwargs).to(delta)

    return product


#: functions of one parameter (or a list of them) that are linear and draw nothing: their results are tracked like parameters
_DERIVED = {
    torch.cat, torch.stack, torch.chunk, torch.split, torch.transpose, torch.t, torch.clone, torch.reshape,
    torch.unsqueeze, torch.squeeze, torch.flatten, torch.permute,
    Tensor.chunk, Tensor.split, Tensor.transpose, Tensor.t, Tensor.clone, Tensor.reshape, Tensor.view, Tensor.contiguous,
    Tensor.unsqueeze, Tensor.squeeze, Tensor.flatten, Tensor.unflatten, Tensor.permute, Tensor.expand, Tensor.__getitem__,
    Tensor.to, Tensor.type, Tensor.type_as, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16,
    Tensor.T.__get__,  # type: ignore[attr-defined]
}  # fmt: skip


@functools.cache
def _body(function: FunctionType) -> FunctionType:
    """A function of ``torch.nn.functional`` without its question whether somebody watches: the calls inside are then seen."""
    unwatched = {**function.__globals__, "has_torch_function": lambda tensors: False}
    body = FunctionType(function.__code__, unwatched, function.__name__, function.__defaults__, function.__closure__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body


@dataclass(frozen=True)
class _Axis:
    """Where the N examples are counted: an axis of size N, or of a multiple of it, the examples being its slow or its fast part."""

    axis: int
    fast: bool

    def unfolded(self, tensor: Tensor, n: int) -> Tensor:
        """The tensor with the examples in front: ``[N, ...]``."""
        tensor = tensor.movedim(self.axis, 0)
        if tensor.shape[0] == n:
            return tensor
        if self.fast:
            return tensor.unflatten(0, (-1, n)).movedim(1, 0)
        return tensor.unflatten(0, (n, -1))


@dataclass
class _Input:
    """x of some uses, which share it: detached, until it is kept in fewer bits."""

    tensor: Tensor

    def narrow(self, dtype: torch.dtype) -> None:
        if self.tensor.is_floating_point():
            self.tensor = _narrow(self.tensor, dtype)


class _Use:
    """One use of parameters: ``product`` until it is taken, its ``input``, ``deltas`` that wait, and where the examples are."""

    def __init__(self, key: tuple, product: Product, input: _Input, shape: torch.Size, axis: _Axis | None):
        self.key, self.product, self.input, self.shape, self.axis = key, product, input, shape, axis
        self.deltas: list[Tensor] = []

    def take(self, delta: Tensor) -> Tensor:
        return self.product(delta.reshape(self.shape), self.input.tensor)

    def __str__(self):
        return f"{self.key[1]} in {self.key[0]}"


@dataclass
class _AxisProbe:
    """The gradient of one loss goes by the uses.

    Attributes:
        others: all examples but that one ``[N]``.
        axes: use -> where its examples may be; what the gradient contradicts is taken out.
        met: uses that the gradient came by.
        told: those for which it was not all zero.
    """

    others: Tensor
    axes: dict[_Use, list[_Axis]]
    met: set[_Use] = field(default_factory=set)
    told: set[_Use] = field(default_factory=set)

    def look(self, use: _Use, delta: Tensor) -> None:
        if use not in self.axes:
            return
        self.met.add(use)
        if delta.any():
            self.told.add(use)
            delta, n = delta.reshape(use.shape), len(self.others)
            self.axes[use] = [a for a in self.axes[use] if not a.unfolded(delta, n)[self.others].any()]


class Ghost(TorchFunctionMode):
    """One forward pass that is watched, and what its backward pass tells.

    Use::

        ghost = Ghost(names, parameters, axes, vector)
        with ghost:
            losses, _ = student.losses(batch)
        ghost.attach(losses)
        (weights * losses).sum().backward()
        c = ghost.influence()                 # or, without a vector above, ghost.influence(vector)

    Args:
        names, parameters: the student's that the hypergradient goes through; v is zero for all others.
        axes: what earlier passes learnt of the axis of the examples; is added to.
        vector: v, one tensor a parameter; None: not known yet, what is needed is kept until :meth:`influence` is given it.
        dtype: of v; None: as it is given.

    Attributes:
        problems: uses that no rule covers, in words; the influence means nothing where there is one.
        seen: ids of the parameters whose use was seen.
    """

    def __init__(
        self,
        names: list[str],
        parameters: list[nn.Parameter],
        axes: dict,
        vector: list[Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.parameters, self.vector, self.axes, self.dtype = parameters, vector, axes, dtype
        # the tensors are held: an id is unique among living objects only
        self.tracked = {id(p): p for p in parameters}
        self.tangents: dict[int, Tensor] = {}
        self.labels = {id(p): n for n, p in zip(names, parameters)}
        self.origins = {id(p): frozenset([id(p)]) for p in parameters}  # of a tensor made from parameters: theirs
        self.uses: list[_Use] = []
        self.inputs: dict[int, tuple[Tensor, _Input]] = {}  # of the forward pass; the tensors are held for their ids
        self.problems: list[str] = []
        self._derivations: list[Callable[[], None]] = []
        self.seen: set[int] = set()
        self._occurrences: Counter = Counter()
        self._probe: _AxisProbe | None = None
        self._total: Tensor | None = None
        self._seed: Tensor | None = None

    # ---- the forward pass ---------------------------------------------------

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            with self:
                return _body(function)(*args, **kwargs)
        result = function(*args, **kwargs)
        used = [t for t in _tensors(args, kwargs) if id(t) in self.tracked]
        if used and torch.is_grad_enabled():
            self._saw(function, args, kwargs, result, used)
        return result

    def _saw(self, function, args, kwargs, result, used):
        outputs = [t for t in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(t, Tensor)]
        if not any(t.requires_grad for t in outputs):
            return  # a shape, a mask, a detached copy
        try:
            if function in _DERIVED:
                self._derive(function, args, kwargs, outputs, used)
            elif function in _RULES:
                product = _RULES[function](self._tangent, *args, **kwargs)
                input = args[0] if args else kwargs["input"]
                if id(input) in self.tracked:
                    raise NotCovered
                self._watch(function, product, input, result, used)
            else:
                raise NotCovered
        except NotCovered:
            labels = ", ".join(sorted({self.labels[id(t)] for t in used}))
            self.problems.append(f"{labels} in {getattr(function, '__name__', function)}")
        for t in used:
            self.seen |= self.origins[id(t)]

    def _tangent(self, tensor) -> Tensor | None:
        return self.tangents.get(id(tensor))

    def _derive(self, function, args, kwargs, outputs, used):
        first = args[0]
        parts = list(first) if isinstance(first, (tuple, list)) else [first]
        if not any(id(t) in self.tracked for t in parts):
            return  # x.type_as(p): p gives no more than its type
        if any(t.requires_grad and not t.is_leaf and id(t) not in self.tracked for t in parts):
            raise NotCovered  # glued to activations; other parameters have direction zero
        if any(id(t) in self.tracked for t in outputs):  # `to` may give the parameter itself
            return
        label = ", ".join(dict.fromkeys(self.labels[id(t)] for t in used))
        origins = frozenset().union(*(self.origins[id(t)] for t in used))
        for output in outputs:
            self.tracked[id(output)] = output
            self.labels[id(output)], self.origins[id(output)] = label, origins

        def derive():
            tangents = [torch.zeros_like(t) if self._tangent(t) is None else self._tangent(t) for t in parts]
            results = function(tangents if isinstance(first, (tuple, list)) else tangents[0], *args[1:], **kwargs)
            results = results if isinstance(results, (tuple, list)) else (results,)
            self.tangents.update((id(output), tangent) for output, tangent in zip(outputs, results))

        self._derivations.append(derive)

    def _watch(self, function, product, input, output, used):
        what = (getattr(function, "__name__", str(function)), *(self.labels[id(t)] for t in used))
        self._occurrences[what] += 1
        key = (*what, self._occurrences[what])
        _, kept = self.inputs.setdefault(id(input), (input, _Input(input.detach())))
        use = _Use(key, product, kept, output.shape, self.axes.get(key))
        self.uses.append(use)
        # an operation in place on a view, as `q *= scaling`, cuts the view's own hook off, not that of its base
        base = output._base if output._is_view() and output._base.requires_grad else output
        if base.numel() != output.numel() or not (base.is_contiguous() and output.is_contiguous()):
            raise NotCovered
        base.register_hook(functools.partial(self._read, use))

    # ---- between ------------------------------------------------------------

    def attach(self, losses: Tensor) -> None:
        """Tells the losses l_i of the pass ``[N]``, attached, before anything is made of them."""
        n = len(losses)
        self.inputs.clear()
        self._total = torch.zeros(n, dtype=_wide(losses.dtype), device=losses.device)
        if self.vector is not None:
            self._set(self.vector)
        if n > 1:
            for use in self.uses:
                if use.axis is not None and (use.axis.axis >= len(use.shape) or use.shape[use.axis.axis] % n):
                    self.problems.append(f"{use} (the axis of the examples is another one than before)")
            unknown = [use for use in self.uses if use.axis is None]
            if unknown and not self.problems:
                self._find_axes(losses, unknown)
        if self.problems:
            self._release()
        elif losses.requires_grad:
            losses.register_hook(self._saw_seed)

    def _find_axes(self, losses, unknown):
        """Where are the examples? There, and nowhere else, the gradient of one loss is zero but for one entry.

        A size alone does not tell: a sentence may be as long as the batch. It costs one backward pass in all of a training,
        seldom a few; the gradients of the uses are looked at as they come by, for together they would be as large as the pass.
        """
        n = len(losses)
        open_ = {use: [_Axis(a, fast) for a, size in enumerate(use.shape) if size and size % n == 0
                       for fast in ((False, True) if size > n else (False,))] for use in unknown}  # fmt: skip
        for row in range(min(n, 8)):
            self._probe = _AxisProbe(torch.arange(n, device=losses.device) != row, open_)
            torch.autograd.grad(losses[row], self.parameters, retain_graph=True, allow_unused=True)
            for use in set(open_) - self._probe.met:  # no loss depends on it
                del open_[use]
            for use in [use for use, axes in open_.items() if len(axes) == 1 and use in self._probe.told]:
                (use.axis,) = open_.pop(use)
                self.axes[use.key] = use.axis
            if not open_ or not all(open_.values()):
                break
        self._probe = None
        for use, axes in open_.items():
            why = "cannot be told" if axes else "is none: it mixes the examples"
            self.problems.append(f"{use} (the axis of the examples {why})")

    # ---- the backward pass --------------------------------------------------

    def _saw_seed(self, gradient):
        if self._probe is None:
            self._seed = gradient.detach().to(self._total)

    def _read(self, use, delta):
        if self._probe is not None:
            self._probe.look(use, delta)
            return
        if use.product is None or self._total is None or self.problems:
            return
        if self.vector is None:
            if self.dtype is not None:
                use.input.narrow(self.dtype)
                delta = _narrow(delta, self.dtype)
            use.deltas.append(delta)
        else:
            self._take(use, delta)
            use.product = use.input = None

    @torch.no_grad()
    def _take(self, use, delta):
        n = len(self._total)
        product = use.take(delta)
        if n > 1:
            product = use.axis.unfolded(product, n)
        self._total += product.reshape(n, -1).sum(1, dtype=self._total.dtype)

    @torch.no_grad()
    def _set(self, vector):
        self.tangents = {id(p): v.to(self.dtype or v.dtype) for p, v in zip(self.parameters, vector)}
        for derive in self._derivations:
            derive()

    def _release(self):
        self.uses.clear(), self.inputs.clear(), self._derivations.clear(), self.tracked.clear(), self.tangents.clear()

    def influence(self, vector: list[Tensor] | None = None) -> Tensor:
        """c_i ``[N]``, nats, detached; zero where no gradient reached the loss. Nothing is kept afterwards.

        Args:
            vector: v, where it was not given at first.
        """
        if vector is not None:
            self._set(vector)
            self._total.zero_()
            for use in self.uses:
                for delta in use.deltas:
                    self._take(use, delta)
        self._release()
        if self._seed is None:
            return torch.zeros_like(self._total)
        return torch.where(self._seed == 0, 0, self._total / torch.where(self._seed == 0, 1, self._seed))

    def along(self) -> Tensor:
        """sum_i s_i c_i, a scalar: the gradient that the backward pass left in the parameters, times v."""
        return self._total.sum()


def _tensors(args, kwargs):
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (t for t in value if isinstance(t, Tensor))


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
