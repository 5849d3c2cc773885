"""Small classifiers of the families that people train on CIFAR, in the ways in which they are usually written.

Each has few channels, takes images of 32x32 pixels and gives ten logits. What makes a family hard to read is kept:
in-place operations, sizes read from tensors, channel shuffles, slices, paths that part and meet, gates, a swish by
hand, normalization before the convolution, a head that is a mean.
"""

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 10


def conv_norm(inputs, outputs, kernel=3, stride=1, groups=1):
    """A convolution without bias, and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


# ---------------------------------------------------------------- plain chains


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 24)
        self.fc2 = nn.Linear(24, 16)
        self.fc3 = nn.Linear(16, CLASSES)

    def forward(self, x):
        out = F.relu(self.conv1(x))
        out = F.max_pool2d(out, 2)
        out = F.relu(self.conv2(out))
        out = F.max_pool2d(out, 2)
        out = out.view(out.size(0), -1)
        out = F.relu(self.fc1(out))
        out = F.relu(self.fc2(out))
        return self.fc3(out)


class VGG(nn.Module):
    def __init__(self, plan=(8, "M", 12, "M", 16, 16, "M")):
        super().__init__()
        layers, channels = [], 3
        for width in plan:
            if width == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers += [
                nn.Conv2d(channels, width, kernel_size=3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(True),
            ]
            channels = width
        self.features = nn.Sequential(*layers, nn.AvgPool2d(kernel_size=1, stride=1))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(16 * 16, 24),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(24, CLASSES),
        )

    def forward(self, x):
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class NiN(nn.Module):
    """Network in network: 1x1 convolutions, and no fully connected layer."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Conv2d(3, 12, kernel_size=5, stride=1, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 10, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            nn.Dropout(0.5),
            nn.Conv2d(10, 12, kernel_size=3, stride=1, padding=1),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(kernel_size=2, stride=2),
            nn.Conv2d(12, CLASSES, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(kernel_size=8, stride=1, padding=0),
        )

    def forward(self, x):
        x = self.classifier(x)
        return x.view(x.size(0), CLASSES)


class Fire(nn.Module):
    def __init__(self, inputs, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.narrow = nn.Conv2d(squeeze, expand, 1)
        self.wide = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.narrow(x)), self.relu(self.wide(x))], 1)


class SqueezeNet(nn.Module):
    """The last operation is a mean over the image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fires = nn.Sequential(
            Fire(8, 4, 8), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 6, 8)
        )
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x):
        x = F.relu(self.stem(x), inplace=True)
        x = F.relu(self.head(self.fires(x)), inplace=True)
        return x.mean([2, 3])


class MobileNetV1(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 8), nn.ReLU())
        plan, layers, channels = ((8, 1), (16, 2), (16, 1), (24, 2)), [], 8
        for width, stride in plan:
            layers += [conv_norm(channels, channels, 3, stride, groups=channels), nn.ReLU()]
            layers += [conv_norm(channels, width, 1), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(24, CLASSES)

    def forward(self, x):
        out = self.layers(self.stem(x))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


# ---------------------------------------------------------------- residual networks


class BasicBlock(nn.Module):
    """A shortcut without parameters: every second pixel, and channels of zeros."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.more = (outputs - inputs) // 2

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more), "constant", 0)
        out += x
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(
            BasicBlock(8, 8, 1), BasicBlock(8, 12, 2), BasicBlock(12, 16, 2)
        )
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layers(out)
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


class PreActivation(nn.Module):
    """Normalization, ReLU, convolution; the first ReLU works in place on what the shortcut may read."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x), inplace=True)
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out += shortcut
        return out


class PreActResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.layers = nn.Sequential(
            PreActivation(8, 8, 1), PreActivation(8, 16, 2), PreActivation(16, 16, 1)
        )
        self.bn = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x):
        out = self.layers(self.conv1(x))
        out = F.relu(self.bn(out))
        out = F.avg_pool2d(out, 16)
        return self.linear(out.view(out.size(0), -1))


class InPlaceFirst(nn.Module):
    """x + body(x), where the body's first ReLU changes x itself: the sum reads the changed x."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(inplace=True),
            conv_norm(channels, channels),
            nn.ReLU(inplace=True),
            conv_norm(channels, channels),
        )

    def forward(self, x):
        return x + self.body(x)


class InPlaceResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.layers = nn.Sequential(
            InPlaceFirst(8), InPlaceFirst(8), conv_norm(8, 12, 3, 2), InPlaceFirst(12)
        )
        self.linear = nn.Linear(12, CLASSES)

    def forward(self, x):
        out = self.layers(self.stem(x)).relu_()
        return self.linear(out.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, drop=0.3):
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.drop = drop
        self.equal = inputs == outputs
        self.shortcut = None if self.equal else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        if not self.equal:
            x = self.relu1(self.bn1(x))
        else:
            out = self.relu1(self.bn1(x))
        out = self.relu2(self.bn2(self.conv1(out if self.equal else x)))
        if self.drop > 0:
            out = F.dropout(out, p=self.drop, training=self.training)
        out = self.conv2(out)
        return torch.add(x if self.equal else self.shortcut(x), out)


class WideResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3, stride=1, padding=1, bias=False)
        self.layers = nn.Sequential(WideBlock(8, 16, 1), WideBlock(16, 16, 1), WideBlock(16, 24, 2))
        self.bn, self.relu = nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, CLASSES)
        self.channels = 24

    def forward(self, x):
        out = self.layers(self.conv1(x))
        out = self.relu(self.bn(out))
        out = F.avg_pool2d(out, 16)
        out = out.view(-1, self.channels)
        return self.fc(out)


class Bottleneck(nn.Module):
    """A residual block with grouped convolutions; with a gate, squeeze-and-excite between 1x1 convolutions."""

    def __init__(self, inputs, width, groups, stride, gate=0):
        super().__init__()
        self.a, self.b = conv_norm(inputs, width, 1), conv_norm(width, width, 3, stride, groups)
        self.c = conv_norm(width, width, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = conv_norm(inputs, width, 1, stride)
        self.gate = gate
        if gate:
            self.pool = nn.AdaptiveAvgPool2d((1, 1))
            self.se1, self.se2 = (
                nn.Conv2d(width, gate, kernel_size=1),
                nn.Conv2d(gate, width, kernel_size=1),
            )

    def forward(self, x):
        out = F.relu(self.a(x))
        out = F.relu(self.b(out))
        if self.gate:
            weight = self.se2(F.relu(self.se1(self.pool(out)))).sigmoid()
            out = out * weight
        out = self.c(out)
        out += self.shortcut(x)
        return F.relu(out)


class ResNeXt(nn.Module):
    def __init__(self, gate=0):
        super().__init__()
        self.stem = conv_norm(3, 8)
        layers = (
            Bottleneck(8, 16, 4, 1, gate),
            Bottleneck(16, 16, 4, 1, gate),
            Bottleneck(16, 24, 4, 2, gate),
        )
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(24, CLASSES)

    def forward(self, x):
        out = self.layers(F.relu(self.stem(x)))
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.linear(out.view(out.size(0), -1))


class RegNet(ResNeXt):
    def __init__(self):
        super().__init__(gate=4)


# ---------------------------------------------------------------- paths that part and meet


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.bn1, self.conv1 = (
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 2 * growth, 1, bias=False),
        )
        self.bn2, self.conv2 = (
            nn.BatchNorm2d(2 * growth),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat([out, x], 1)


class Transition(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.bn, self.conv = (
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, kernel_size=1, bias=False),
        )

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3, padding=1, bias=False)
        self.layers = nn.Sequential(
            DenseLayer(8, 4), DenseLayer(12, 4), Transition(16, 8), DenseLayer(8, 4)
        )
        self.bn, self.linear = nn.BatchNorm2d(12), nn.Linear(12, CLASSES)

    def forward(self, x):
        out = self.layers(self.conv1(x))
        out = F.avg_pool2d(F.relu(self.bn(out)), 16)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class DualPath(nn.Module):
    """The first channels are a residual path, the others a dense one; both are slices of one tensor."""

    def __init__(self, last, inputs, outputs, dense, stride, first):
        super().__init__()
        self.outputs = outputs
        self.conv1, self.conv2 = (
            conv_norm(last, inputs, 1),
            conv_norm(inputs, inputs, 3, stride, groups=4),
        )
        self.conv3 = conv_norm(inputs, outputs + dense, 1)
        self.shortcut = nn.Sequential()
        if first:
            self.shortcut = conv_norm(last, outputs + dense, 1, stride)

    def forward(self, x):
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out))
        out = self.conv3(out)
        x = self.shortcut(x)
        d = self.outputs
        out = torch.cat([x[:, :d, :, :] + out[:, :d, :, :], x[:, d:, :, :], out[:, d:, :, :]], 1)
        return F.relu(out)


class DPN(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.layers = nn.Sequential(
            DualPath(8, 8, 12, 4, 1, True),
            DualPath(20, 8, 12, 4, 1, False),
            DualPath(24, 8, 16, 4, 2, True),
        )
        self.linear = nn.Linear(24, CLASSES)

    def forward(self, x):
        out = self.layers(F.relu(self.stem(x)))
        out = F.avg_pool2d(out, 16)
        return self.linear(out.view(out.size(0), -1))


class Inception(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.b1 = nn.Sequential(*self.part(inputs, width, 1))
        self.b2 = nn.Sequential(*self.part(inputs, 4, 1), *self.part(4, width, 3))
        self.b3 = nn.Sequential(*self.part(inputs, 4, 1), *self.part(4, width, 5))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *self.part(inputs, width, 1))

    @staticmethod
    def part(inputs, outputs, kernel):
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        return convolution, nn.BatchNorm2d(outputs), nn.ReLU(True)

    def forward(self, x):
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.a, self.pool, self.b = (
            Inception(8, 4),
            nn.MaxPool2d(3, stride=2, padding=1),
            Inception(16, 6),
        )
        self.average, self.linear = nn.AvgPool2d(8, stride=1), nn.Linear(24 * 9 * 9, CLASSES)

    def forward(self, x):
        out = self.b(self.pool(self.a(self.stem(x))))
        out = self.average(out)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class Tree(nn.Module):
    """Deep layer aggregation: a root joins two children, and the tree before them."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.left, self.right = (
            Bottleneck(inputs, outputs, 1, stride),
            Bottleneck(outputs, outputs, 1, 1),
        )
        self.root = conv_norm(2 * outputs, outputs, 1)

    def forward(self, x):
        first = self.left(x)
        second = self.right(first)
        joined = torch.cat([first, second], 1)
        return F.relu(self.root(joined))


class DLA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(conv_norm(3, 8), nn.ReLU(True))
        self.trees = nn.Sequential(Tree(8, 12, 1), Tree(12, 16, 2))
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x):
        out = self.trees(self.base(x))
        out = F.avg_pool2d(out, 16)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class Separable(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class XceptionBlock(nn.Module):
    """The body begins with a ReLU in place, so that the skip reads what the ReLU left; the sum is in place, too."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.skip = (
            conv_norm(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None
        )
        relu = nn.ReLU(inplace=True)
        layers = [relu, Separable(inputs, outputs), nn.BatchNorm2d(outputs)]
        layers += [relu, Separable(outputs, outputs), nn.BatchNorm2d(outputs)]
        if stride != 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.body = nn.Sequential(*layers)

    def forward(self, inputs):
        x = self.body(inputs)
        skip = inputs if self.skip is None else self.skip(inputs)
        x += skip
        return x


class Xception(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.blocks = nn.Sequential(
            XceptionBlock(8, 12, 2), XceptionBlock(12, 12, 1), XceptionBlock(12, 16, 2)
        )
        self.conv, self.bn = Separable(16, 24), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        x = x.view(x.size(0), -1)
        return self.fc(x)


class OneByOneBesideThree(nn.Module):
    """A 3x3 and a 1x1 convolution of the same input, summed, as in RepVGG and MobileOne."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.wide, self.narrow = (
            conv_norm(inputs, outputs, 3, stride),
            conv_norm(inputs, outputs, 1, stride),
        )
        self.norm = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x):
        same = 0 if self.norm is None else self.norm(x)
        return F.relu(self.wide(x) + self.narrow(x) + same)


class RepVGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(OneByOneBesideThree(3, 16, 2), OneByOneBesideThree(16, 16, 1))
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(self.layers(x), 1), start_dim=1))


# ---------------------------------------------------------------- channel shuffles


def shuffle(x, groups):
    """Channels of all groups in turn, by sizes that are read from the tensor."""
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


class ShuffleBottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride, groups):
        super().__init__()
        self.stride = stride
        middle, first = outputs // 2, 1 if inputs == 12 else groups
        self.groups = first
        self.conv1 = conv_norm(inputs, middle, 1, groups=first)
        self.conv2 = conv_norm(middle, middle, 3, stride, groups=middle)
        self.conv3 = conv_norm(middle, outputs, 1, groups=groups)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Sequential()

    def forward(self, x):
        out = F.relu(self.conv1(x))
        out = shuffle(out, self.groups)
        out = self.conv3(F.relu(self.conv2(out)))
        rest = self.shortcut(x)
        return F.relu(torch.cat([out, rest], 1)) if self.stride == 2 else F.relu(out + rest)


class ShuffleNetV1(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 12, 1)
        self.layers = nn.Sequential(
            ShuffleBottleneck(12, 12, 2, 2),
            ShuffleBottleneck(24, 24, 1, 2),
            ShuffleBottleneck(24, 24, 2, 2),
        )
        self.linear = nn.Linear(48, CLASSES)

    def forward(self, x):
        out = self.layers(F.relu(self.stem(x)))
        out = F.avg_pool2d(out, 8)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class ShuffleUnit(nn.Module):
    """Half of the channels go by; how many they are is read from the tensor."""

    def __init__(self, channels, ratio=0.5):
        super().__init__()
        self.ratio, width = ratio, int(channels * ratio)
        self.conv1, self.conv2 = (
            conv_norm(width, width, 1),
            conv_norm(width, width, 3, groups=width),
        )
        self.conv3 = conv_norm(width, width, 1)

    def forward(self, x):
        c = int(x.size(1) * self.ratio)
        rest, x = x[:, :c, :, :], x[:, c:, :, :]
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv3(self.conv2(out)))
        out = torch.cat([rest, out], 1)
        batch, channels, height, width = out.data.size()
        out = out.view(batch, 2, channels // 2, height, width)
        out = torch.transpose(out, 1, 2).contiguous()
        return out.view(batch, -1, height, width)


class ShuffleNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 12, 3, 2)
        self.layers = nn.Sequential(ShuffleUnit(12), ShuffleUnit(12))
        self.linear = nn.Linear(12, CLASSES)

    def forward(self, x):
        out = self.layers(F.relu(self.stem(x)))
        out = F.avg_pool2d(out, 16)
        out = out.view(out.size(0), -1)
        return self.linear(out)


# ---------------------------------------------------------------- bottlenecks and gates


class Inverted(nn.Module):
    """MobileNetV2: expand, depthwise, project; the projection has no non-linearity."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, width = stride, 3 * inputs
        self.conv1, self.conv2 = (
            conv_norm(inputs, width, 1),
            conv_norm(width, width, 3, stride, groups=width),
        )
        self.conv3 = conv_norm(width, outputs, 1)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != outputs:
            self.shortcut = conv_norm(inputs, outputs, 1)

    def forward(self, x):
        out = F.relu6(self.conv1(x))
        out = self.conv3(F.relu6(self.conv2(out)))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.layers = nn.Sequential(Inverted(8, 8, 1), Inverted(8, 12, 1), Inverted(12, 16, 2))
        self.last, self.linear = conv_norm(16, 24, 1), nn.Linear(24, CLASSES)

    def forward(self, x):
        out = self.layers(F.relu(self.stem(x)))
        out = F.relu(self.last(out))
        out = F.avg_pool2d(out, 16)
        return self.linear(out.view(out.size(0), -1))


class SqueezeAndExcite(nn.Module):
    """A residual block with a gate, whose mean is an average pool of a size that is read from the tensor."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.conv2 = conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
        self.fc1 = nn.Conv2d(outputs, max(1, outputs // 4), kernel_size=1)
        self.fc2 = nn.Conv2d(max(1, outputs // 4), outputs, kernel_size=1)

    def forward(self, x):
        out = self.conv2(F.relu(self.conv1(x)))
        w = F.avg_pool2d(out, out.size(2))
        w = F.relu(self.fc1(w))
        w = F.sigmoid(self.fc2(w))
        out = out * w
        out += self.shortcut(x)
        return F.relu(out)


class SENet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.layers = nn.Sequential(SqueezeAndExcite(8, 8, 1), SqueezeAndExcite(8, 16, 2))
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x):
        out = self.layers(F.relu(self.stem(x)))
        out = F.avg_pool2d(out, out.size(3))
        out = out.view(out.size(0), -1)
        return self.linear(out)


def swish(x):
    return x * x.sigmoid()


def drop_connect(x, ratio):
    """The whole branch of an image is dropped; the others grow; in place."""
    keep = 1.0 - ratio
    mask = torch.empty([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device)
    mask.bernoulli_(keep)
    x.div_(keep)
    x.mul_(mask)
    return x


class MBConv(nn.Module):
    def __init__(self, inputs, outputs, stride, drop=0.2):
        super().__init__()
        width = 2 * inputs
        self.conv1, self.conv2 = (
            conv_norm(inputs, width, 1),
            conv_norm(width, width, 3, stride, groups=width),
        )
        self.se1, self.se2 = nn.Conv2d(width, 4, kernel_size=1), nn.Conv2d(4, width, kernel_size=1)
        self.conv3 = conv_norm(width, outputs, 1)
        self.has_skip, self.drop = stride == 1 and inputs == outputs, drop

    def forward(self, x):
        out = swish(self.conv1(x))
        out = swish(self.conv2(out))
        gate = F.adaptive_avg_pool2d(out, (1, 1))
        gate = self.se2(swish(self.se1(gate))).sigmoid()
        out = self.conv3(out * gate)
        if self.has_skip:
            if self.training and self.drop > 0:
                out = drop_connect(out, self.drop)
            out = out + x
        return out


class EfficientNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.layers = nn.Sequential(MBConv(8, 8, 1), MBConv(8, 12, 2), MBConv(12, 12, 1))
        self.linear = nn.Linear(12, CLASSES)

    def forward(self, x):
        out = self.layers(swish(self.stem(x)))
        out = F.adaptive_avg_pool2d(out, 1)
        out = out.view(out.size(0), -1)
        if self.training:
            out = F.dropout(out, p=0.2)
        return self.linear(out)


NETWORKS = {
    "lenet": LeNet,
    "vgg": VGG,
    "nin": NiN,
    "squeezenet": SqueezeNet,
    "mobilenet_v1": MobileNetV1,
    "resnet": ResNet,
    "preactresnet": PreActResNet,
    "inplace_resnet": InPlaceResNet,
    "wide_resnet": WideResNet,
    "resnext": ResNeXt,
    "regnet": RegNet,
    "densenet": DenseNet,
    "dpn": DPN,
    "googlenet": GoogLeNet,
    "dla": DLA,
    "xception": Xception,
    "repvgg": RepVGG,
    "shufflenet_v1": ShuffleNetV1,
    "shufflenet_v2": ShuffleNetV2,
    "mobilenet_v2": MobileNetV2,
    "senet": SENet,
    "efficientnet": EfficientNet,
}


def build(name):
    """A network whose batch norms have seen images, as those of a trained network have."""
    torch.manual_seed(0)
    model = NETWORKS[name]().train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(8, 3, 32, 32))
    return model
