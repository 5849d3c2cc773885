"""The networks torchvision lacks, and one door to these and to torchvision's.

>>> import torch
>>> from hmq_lab import models
>>> net = models.build("resnet20")
>>> sum(p.numel() for p in net.parameters())
269722
>>> models.build("mobilenet_v2", num_classes=1000).classifier[1]  # of torchvision
Linear(in_features=1280, out_features=1000, bias=True)
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NETWORKS", "CifarResNet", "MobileNetV1", "build", "is_for_small_images", "names"]


def build(
    name: str, classes: int | None = None, *, num_classes: int | None = None, **options: Any
) -> nn.Module:
    """The network of that name, freshly initialized from torch's global random numbers.

    >>> import torch
    >>> build("resnet8", classes=5, width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])

    Args:
        name: one of `names()`.
        classes: outputs of the last layer, 10 if None.
        num_classes: the same, by torchvision's word.
        options: keywords of the network: `width`, `stem_stride` and `channels` of a CifarResNet,
            `norm` of MobileNetV1, those of the function in torchvision.models.

    Raises:
        ValueError: the name is unknown; the message names near ones.
    """
    # The number of outputs, under one of its two names.
    if classes is not None and num_classes is not None:
        raise ValueError(
            f"classes and num_classes are the same: give one, got {classes!r} and {num_classes!r}"
        )
    outputs: Any = num_classes if classes is None else classes
    outputs = 10 if outputs is None else outputs
    if (
        isinstance(outputs, bool)
        or not isinstance(outputs, int)
        or not 1 <= outputs <= MOST_CLASSES
    ):
        raise ValueError(
            f"classes must be a whole number from 1 to {MOST_CLASSES}, got {outputs!r}"
        )
    # Our own networks, then torchvision's.
    if name in NETWORKS:
        return NETWORKS[name](classes=outputs, **options)
    if name in _torchvision_names():
        from torchvision.models import get_model

        return get_model(name, num_classes=outputs, **{**_NO_EXTRAS.get(name, {}), **options})
    # A name with a typing error.
    near = difflib.get_close_matches(str(name), names(), n=4, cutoff=0.5)
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else f"there are {', '.join(NETWORKS)} and torchvision's."
    )
    raise ValueError(f"there is no network {name!r}: {hint} hmq_lab.models.names() lists them all")


def names() -> list[str]:
    """Every name that `build` knows, our own first.

    >>> names()[:3], "efficientnet_b0" in names()
    (['tiny_resnet8', 'resnet8', 'resnet20'], True)
    """
    return [*NETWORKS, *(n for n in _torchvision_names() if n not in NETWORKS)]


def is_for_small_images(name: str) -> bool:
    """Whether a network is made for images of 32 pixels a side and ten classes, not for ImageNet.

    >>> is_for_small_images("resnet20"), is_for_small_images("mobilenet_v2")
    (True, False)
    """
    return name in NETWORKS and name != "mobilenet_v1"


def _torchvision_names() -> list[str]:
    from torchvision import models  # a second to import, and only these two functions need it

    return models.list_models(module=models)


class CifarResNet(nn.Module):
    """A residual network for 32x32 images: a convolution, stages of blocks, mean, linear layer.

    >>> import torch
    >>> net = CifarResNet(blocks=(3, 3, 3))  # ResNet-20: 6 * 3 + 2 layers
    >>> net.layer3(net.layer2(net.layer1(torch.zeros(1, 16, 32, 32)))).shape
    torch.Size([1, 64, 8, 8])

    Args:
        blocks: how many in each stage; every stage after the first has twice the planes and half
            the pixels.
        width: planes of the first stage.
        classes: outputs of the last layer.
        stem_stride: 2 halves the image at once, a quarter of the work.
        projection: shortcuts that change the shape are 1x1 convolutions (option B) instead of
            padding (option A).
        channels: of an image, 3 for RGB, 1 for grey.

    Source: He et al., Deep Residual Learning, section 4.2; keys as in
    akamaster/pytorch_resnet_cifar10.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 3, 3),
        width: int = 16,
        classes: int = 10,
        stem_stride: int = 1,
        projection: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        self.conv1 = _conv(channels, width, stride=stem_stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

        # The stages, and the planes that each gives to the next.
        self.stages = len(blocks)
        # Every stage after the first has twice the planes and half the pixels.
        planes = width
        for s, count in enumerate(blocks):
            first = BasicBlock(planes, width * 2**s, 1 if s == 0 else 2, projection)
            planes = width * 2**s
            rest = [BasicBlock(planes, planes, 1, projection) for _ in range(count - 1)]
            self.add_module(f"layer{s + 1}", nn.Sequential(first, *rest))

        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(planes, classes)
        # The initial weights of the paper.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, 32, 32)
        x = self.relu(self.bn1(self.conv1(x)))  # (B, width, 32, 32)
        for s in range(self.stages):
            x = getattr(self, f"layer{s + 1}")(x)  # (B, width * 2^s, 32 / 2^s, 32 / 2^s)
        return self.linear(self.pool(x).flatten(1))  # (B, classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool):
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        # The input has to have the shape of the output to be added to it.
        self.shortcut: nn.Module
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = nn.Sequential(
                _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )
        else:
            self.shortcut = PadShortcut(outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class PadShortcut(nn.Module):
    """A shortcut without weights (option A): every second pixel, and zeros in missing planes.

    Half of the zeros stand before the planes, half behind them.

    >>> import torch
    >>> PadShortcut(missing=16)(torch.ones(1, 16, 32, 32)).mean(dim=(0, 2, 3))[6:10]
    tensor([0., 0., 1., 1.])

    Args:
        missing: planes to add.
    """

    def __init__(self, missing: int):
        super().__init__()
        self.sides = (missing // 2, missing - missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *self.sides))


class MobileNetV1(nn.Module):
    """Thirteen pairs of a depthwise and a pointwise convolution.

    >>> net = MobileNetV1(classes=1000)
    >>> weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    >>> len(weights), sum(w.numel() for w in weights)
    (28, 4209088)

    Weights as TensorFlow has them know 1,001 classes, the first of them the background: label k is
    output k + 1.

    Args:
        classes: outputs of the last layer.
        norm: False is convolutions with biases and no batch norm, for weights into which it was
            folded.

    Source: Howard et al., MobileNets, table 1, with ReLU6 as in the TensorFlow models.
    """

    PLANES = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # after each pair

    def __init__(self, classes: int = 1000, norm: bool = True):
        super().__init__()
        # The first convolution, then pairs: 3x3 in each plane, 1x1 over the planes.
        layers = [_conv(3, 32, stride=2, bias=not norm)]
        planes = 32
        for k, outputs in enumerate(self.PLANES):
            stride = 2 if k in (1, 3, 5, 11) else 1
            layers.append(_conv(planes, planes, stride=stride, groups=planes, bias=not norm))
            layers.append(_conv(planes, outputs, kernel=1, bias=not norm))
            planes = outputs
        self.layers = nn.ModuleList(layers)

        # What follows each convolution.
        made = [nn.BatchNorm2d(layer.out_channels) if norm else nn.Identity() for layer in layers]
        self.norms = nn.ModuleList(made)
        self.relus = nn.ModuleList([nn.ReLU6() for _ in layers])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(planes, classes)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def unfold(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors without batch norm as this network's: each norm only adds the bias."""
        if "norms.0.weight" in tensors or not isinstance(self.norms[0], nn.BatchNorm2d):
            return tensors
        found = dict(tensors)
        for k, norm in enumerate(self.norms):
            assert isinstance(norm, nn.BatchNorm2d)
            bias = found.pop(f"layers.{k}.bias", None)
            if bias is None:
                continue
            # With variance 1 - eps and scale 1 the norm divides by 1.
            one, zero = torch.ones_like(bias), torch.zeros_like(bias)
            parts = {
                "weight": one,
                "bias": bias,
                "running_mean": zero,
                "running_var": one - norm.eps,
            }
            found |= {f"norms.{k}.{part}": t for part, t in parts.items()}
        return found

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, 224, 224)
        for layer, norm, relu in zip(self.layers, self.norms, self.relus, strict=True):
            x = relu(norm(layer(x)))
        return self.fc(self.pool(x).flatten(1))  # (B, 1024, 7, 7) -> (B, classes)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    # for the built-in images: 20,000 weights, and a tenth of resnet8's work
    "tiny_resnet8": functools.partial(CifarResNet, (1, 1, 1), width=8, stem_stride=2),
    **{f"resnet{6 * n + 2}": functools.partial(CifarResNet, (n, n, n)) for n in (1, 3, 5, 7, 9)},
    "cifar_resnet18": functools.partial(CifarResNet, (2, 2, 2, 2), width=64, projection=True),
    "mobilenet_v1": MobileNetV1,
}
MOST_CLASSES = 100_000  # more would be an error of a file, and ask for gigabytes
_NO_EXTRAS = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}  # one output
