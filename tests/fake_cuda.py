"""A GPU that is not there: tensors with the device `cuda`, shapes and dtypes but no values, on a machine without one.

torch's fake tensors raise where devices are mixed and where a value is asked for. What they let pass is refused here:
copies between host and device that a GPU is waited for, not being of pinned memory, and single numbers on the host. The
backward pass is walked in Python: torch's own engine asks the driver.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from roadmap.data.device import dataset, fused

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
EMPTY = torch.empty
_device_constructors()  # torch keeps this list: made below, it would lack torch.empty, and `torch.device("meta")` hold no more
COPIES = {aten._to_copy.default, aten.copy_.default}


class Waited(AssertionError):
    """A GPU would be waited for here."""


class Mixed(AssertionError):
    """Tensors of two devices meet; what holds one number is let pass by torch's fake tensors, and not by every kernel."""


def devices(*arguments):
    return {value.device for value in tree_leaves(arguments) if isinstance(value, torch.Tensor)}


class Watch(TorchDispatchMode):
    """Inside `with watch.closely()`, notes every operator with what it is given and gives, and refuses what waits.

    Where `answers` is a number, a question for places (`nonzero`, a mask as an index, overlaps to leave out) gets so many, and
    `reads` counts the function that asked, or copied: nothing that waits raises.
    """

    def __init__(self):
        super().__init__()
        self.calls = []  # (operator, arguments, result)
        self.close = False
        self.answers = None
        self.reads = Counter()

    @contextmanager
    def closely(self):
        self.close = True
        yield
        self.close = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs) if self.answers is None else self._answered(func, args, kwargs)
        if self.close:
            if func in COPIES:
                source = args[1] if func == aten.copy_.default else args[0]
                self._refuse_waiting(source, result, kwargs.get("non_blocking", args[2:3] == (True,)))
            elif len(devices(args, kwargs)) > 1 and not _puts_a_number(func, args):
                raise Mixed(f"{func} of tensors on {devices(args, kwargs)}")
            self.calls.append((func, args, result))
        return result

    def _answered(self, func, args, kwargs):
        if func == aten.nonzero.default or func.name() == "torchvision::nms":
            found = min(self.answers, len(args[0]))
            self.reads[_asking()] += 1
            return args[0].new_empty((found, args[0].dim()) if func == aten.nonzero.default else found, dtype=torch.int64)
        if func == aten.index.Tensor and any(map(_masks, args[1])):
            self.reads[_asking()] += 1
            places = [
                [index.new_empty(self.answers, dtype=torch.int64)] * index.dim() if _masks(index) else [index]
                for index in args[1]
            ]
            args = args[0], list(chain.from_iterable(places))
        return func(*args, **kwargs)

    def _refuse_waiting(self, source, result, non_blocking):
        host = source if source.device.type == "cpu" else result
        if source.device.type != result.device.type and not (non_blocking and getattr(host, "pinned", False)):
            if self.answers is None:
                raise Waited(f"a copy from {source.device} to {result.device} that is not of pinned memory, or not non_blocking")
            self.reads[_asking()] += 1


def _masks(index):
    return index is not None and index.dtype == torch.bool


def _asking():
    """The function of torchvision's or ours that runs."""
    frame = sys._getframe()
    while not frame.f_globals.get("__name__", "").startswith(("torchvision.", "roadmap.")):
        frame = frame.f_back
    return frame.f_code.co_qualname.split(".<locals>")[0]


def backward(loss):
    """What `Tensor.backward` does: gradients into the leaves, each on the device and of the dtype of what it belongs to."""
    pending = {loss.grad_fn: {0: torch.ones_like(loss)}}
    with torch.no_grad():
        for node in _from_the_loss_back(loss.grad_fn):
            given = pending.pop(node, {})
            gradients = [_fitted(given.get(i), forward) for i, forward in enumerate(node._input_metadata)]
            if hasattr(node, "variable"):
                _accumulate(node.variable, *gradients)
                continue
            results = getattr(node, "apply", node)(*gradients)  # of an operator of our own, or of torch's
            results = results if isinstance(results, tuple) else (results,)
            assert not any(gradient is not None for gradient in results[len(node.next_functions) :])  # of what is no tensor
            for (following, i), gradient in zip(node.next_functions, results, strict=False):
                if following is not None and gradient is not None:
                    sums = pending.setdefault(following, {})
                    sums[i] = sums[i] + gradient if i in sums else gradient


def _accumulate(leaf, gradient):
    """As it comes: torch's own would copy a gradient to the strides of its leaf."""
    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _from_the_loss_back(root):
    """The nodes of the graph, each after all that its gradient comes from."""
    order, seen, stack = [], {root}, [(root, iter(root.next_functions))]
    while stack:
        _, following = stack[-1]
        child = next((child for child, _ in following if child is not None and child not in seen), None)
        if child is None:
            order.append(stack.pop()[0])
        else:
            seen.add(child)
            stack.append((child, iter(child.next_functions)))
    return reversed(order)


def _fitted(gradient, forward):
    """The engine lets no gradient change its device; it adds up what was broadcast, and changes the dtype."""
    if gradient is None:
        return None
    assert gradient.device == forward.device
    return gradient.sum_to_size(tuple(forward.shape)).to(forward.dtype)


def _copied(tensor, _):
    """torch's own `__deepcopy__` follows a pointer that a fake tensor does not have, and the process crashes later."""
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


def _pinned(tensor):
    tensor.pinned = True
    return tensor


def _empty(*shape, pin_memory=False, **options):
    return _pinned(EMPTY(*shape, **options)) if pin_memory else EMPTY(*shape, **options)


def _launched(name, grid, *tensors, **constants):
    """In place of a kernel: it has tensors of the device alone."""
    if devices(tensors) != {CUDA}:
        raise Mixed(f"the kernel {name} with tensors on {devices(tensors)}")


def _puts_a_number(func, args):
    """`x[places] = 1`, whose number torch before 2.15 leaves on the host: the kernel takes it as it is."""
    return func == aten.index_put_.default and devices(args[:2]) == {CUDA} and args[2].dim() == 0


class _Idle:
    """A stream, an event or a generator of a device that does nothing."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name):
        return lambda *_: None


@contextmanager
def pretended_gpu(kernels=True):
    """Inside, torch has a GPU of 80 GiB that computes nothing; yields the `Watch`. Augmentation is by kernels, or plain."""
    watch = Watch()
    with ExitStack() as stack:
        for target, name, value in (
            (torch.cuda, "Stream", _Idle),
            (torch.cuda, "Event", _Idle),
            (torch.cuda, "current_stream", _Idle),
            (torch.cuda, "stream", nullcontext),
            (torch.cuda, "manual_seed", lambda _: None),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30)),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.Tensor, "record_stream", lambda *_: None),
            (torch.Tensor, "pin_memory", _pinned),
            (torch.Tensor, "backward", backward),
            (torch, "empty", _empty),
            (torch, "Generator", _Idle),
            (torch.utils, "weakref", SimpleNamespace(getweakrefs=lambda _: [])),  # fake tensors' own forbid to move a module
            (nn.init, "trunc_normal_", lambda tensor, **_: tensor),  # looks at values, on the host
            (fused, "usable", lambda tensor: kernels and tensor.is_cuda),
            (fused, "launch", _launched),
            (dataset, "_threaded", lambda function, items: [function(item) for item in items]),  # fake tensors know one thread
        ):
            stack.enter_context(patch.object(target, name, value))
        stack.enter_context(patch.object(FakeTensor, "__deepcopy__", _copied, create=True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(watch)
