"""The depthwise kernel computes torch's convolution: in Triton's interpreter, and on a GPU with its gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from roadmap.model.depthwise import Depthwise
from roadmap.train.precision import tf32

SHAPES = [(2, 40, 9, 11, 7), (3, 5, 8, 4, 3), (1, 33, 7, 7, 7), (2, 3, 1, 1, 7), (1, 8, 5, 16, 5), (2, 96, 14, 14, 7)]
INTERPRETED = """
import torch
from roadmap.model.depthwise_kernel import convolve
for images, channels, height, width, size in {shapes}:
    x = torch.randn(images, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels, 1, size, size), torch.randn(channels)
    for given in (bias, None):
        wide = None if given is None else given.double()
        expected = torch.nn.functional.conv2d(x.double(), weight.double(), wide, padding=size // 2, groups=channels)
        torch.testing.assert_close(convolve(x, weight, given).double(), expected, rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which torch brings on Linux")
def test_the_kernel_is_a_depthwise_convolution():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    code = INTERPRETED.format(shapes=SHAPES)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout == "equal\n", done.stderr


def test_on_a_cpu_the_layer_is_torchs_own():
    ours, plain = Depthwise(8, 8, 7, padding=3, groups=8), nn.Conv2d(8, 8, 7, padding=3, groups=8)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 9)
    assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (4, 2), (7, 7)])
def test_taps_that_meet_padding_alone_are_left_out_without_a_trace_in_any_number(size, stride):
    ours, plain = (layer(8, 8, 7, stride, padding=3, groups=8) for layer in (Depthwise, nn.Conv2d))
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(4, 8, *size).contiguous(memory_format=torch.channels_last)
    for found, expected in zip(outputs_and_gradients(ours, x.clone()), outputs_and_gradients(plain, x.clone()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    larger = torch.randn(4, 8, 9, 9)
    for made in (torch.jit.trace(ours, x), torch.jit.script(ours)):  # at one size, for all of them
        torch.testing.assert_close(made(larger), plain(larger))


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_a_gpu_computes_the_convolution_and_its_gradients(precision, tolerance, compiled):
    tf32(False)  # in the weights' gradient, which is cuDNN's
    for images, channels, height, width, size in SHAPES if not compiled else SHAPES[-1:]:
        layer = Depthwise(channels, channels, size, padding=size // 2, groups=channels)
        x = torch.randn(images, channels, height, width)
        expected = outputs_and_gradients(layer.double(), x.double())
        layer = layer.float().to("cuda", memory_format=torch.channels_last)
        if compiled:
            layer.compile()
        given = x.to("cuda", memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
            found = outputs_and_gradients(layer, given)
        for one, other in zip(found, expected, strict=True):
            assert (one.cpu().double() - other).norm() <= tolerance * other.norm()


def outputs_and_gradients(layer, x):
    x.requires_grad_()
    layer.zero_grad()
    result = layer(x)
    (result.double() * torch.linspace(-1, 1, result.numel(), device=x.device).view_as(result)).sum().backward()
    return [value.detach().clone() for value in (result, x.grad, layer.weight.grad, layer.bias.grad)]
