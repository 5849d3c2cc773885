"""Published results to set beside ours, as plain data: what each value counts, where it is from,
how exact it is.

>>> [(v.wcr, v.accuracy) for v in VALUES if v.method == "HMQ" and v.network == "EfficientNet-B0"]
[(3.99, 76.44), (7.94, 75.99), (11.97, 74.61), (14.69, 71.54)]

What is not known is None and stays so. Of the paper's table 1, the values of HAQ; of table 2, those
of HAWQ; and the accuracy of the float network of figure 3 are not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCES = {
    "plot": "read off a plot that the authors published, to half a pixel",
    "table": "from a table of a later paper",
    "run": "measured here, in the record of that name",
    "library": "measured beforehand on our machine with another library, one run",
}


@dataclass(frozen=True)
class Value:
    """An accuracy at a compression of the weights, published or ours.

    Args:
        data: "cifar10", "imagenet", or what a record names.
        network: its name.
        method: who found it: "HMQ", a rival, or "ours".
        wcr: 32 over the mean bits of a quantized weight.
        accuracy: top-1 in %, of the quantized network.
        source: a key of SOURCES: where accuracy and compression come from.
        activation_bits: bits of every activation.
        acr: compression of the largest activation, where that was the target.
        float_accuracy: top-1 in %, of the float network that it was made from.
        weights: elements that the compression counts.
        run: the name of a record of ours.
        target: the target of its weights.
        epochs: of its search and of its fine-tuning.
    """

    data: str
    network: str
    method: str
    wcr: float | None
    accuracy: float
    source: str
    activation_bits: int | None = None
    acr: float | None = None
    float_accuracy: float | None = None
    weights: int | None = None
    run: str | None = None
    target: float | None = None
    epochs: tuple[int, int] | None = None

    @property
    def size(self) -> float | None:
        """Of the counted weights, in millions of bytes; None where it is not known."""
        if self.weights is None or self.wcr is None:
            return None
        return 4e-6 * self.weights / self.wcr

    @property
    def distance(self) -> float | None:
        """Points above (or, negative, below) the own float network."""
        if self.float_accuracy is None:
            return None
        return round(self.accuracy - self.float_accuracy, 4)


# The paper's figure 3, all read off plots: activation bits, method, compression, accuracy.
CIFAR10 = """
8 HMQ     10.47 92.90
8 HMQ     11.15 92.85
8 HMQ     13.82 92.81
8 HMQ     14.09 92.79
8 HMQ     14.71 92.63
8 HMQ     17.31 92.50
8 HMQ     18.17 92.24
8 HMQ     19.12 92.11
8 HMQ     19.17 91.96
8 HMQ     19.27 91.92
8 HMQ     19.46 91.84
8 HMQ     19.80 91.56
8 DNAS    11.15 92.72
8 DNAS    16.60 92.00
8 UNIQ     8    91.50
8 UNIQ    16    90.88
8 LQ-Nets 10.65 92.00
8 LQ-Nets 15.84 91.80
4 HMQ      4.01 92.55
4 HMQ      8.09 92.54
4 HMQ     13.07 92.36
4 HMQ     14.84 92.26
4 HMQ     17.46 92.08
4 HMQ     19.68 90.77
4 HAWQ    13.10 92.22
4 UNIQ     8    89.49
4 UNIQ    16    88.10
"""

# Accuracy of the float networks.
FLOAT = {"ResNet-50": 76.15, "MobileNetV2": 71.88}  # of the other two no source says it

# ImageNet: network, method, compression of the weights and of the activations, accuracy, source.
IMAGENET = """
ResNet-50       HMQ 15.7  -    75.0  table
ResNet-50       HMQ 10.9  -    76.1  plot
ResNet-50       HMQ  9.0  -    76.3  table
ResNet-50       HMQ  -    8    75.45 table
MobileNetV1     HMQ 14.1  -    68.35 plot
MobileNetV1     HMQ 10.7  -    69.80 plot
MobileNetV1     HMQ  7.6  -    70.91 plot
MobileNetV2     HMQ 14.4  -    65.7  table
MobileNetV2     HMQ  7.7  -    71.4  table
MobileNetV2     HMQ  8    8    70.9  table
MobileNetV2     DQ   8.54 8.05 69.74 table
EfficientNet-B0 HMQ  3.99 -    76.44 plot
EfficientNet-B0 HMQ  7.94 -    75.99 plot
EfficientNet-B0 HMQ 11.97 -    74.61 plot
EfficientNet-B0 HMQ 14.69 -    71.54 plot
"""

# Elements of the weight tensors that are quantized and counted; the authors' ResNet-50 leaves its
# last.
WEIGHTS = {
    "MobileNetV1": 4_209_088,  # layer float, with 2,048,000 more
    "MobileNetV2": 3_469_760,
    "ResNet-50": 23_454_912,
    "EfficientNet-B0": 5_236_192,
}
RESNET50_LAST = 2_048_000

# Our ResNet-20 quantized without any training by Sony's Model Compression Toolkit 2.6.1: mixed
# precision after training; a threshold for each channel, which need not be a power of two. The
# first of the two took 48 seconds. They are no published values, so VALUES does not hold them.
WITHOUT_TRAINING = tuple(
    Value("cifar10", "ResNet-20", "MCT 2.6.1", wcr, accuracy, "library", 8, float_accuracy=91.73)
    for wcr, accuracy in ((8.0, 91.19), (10.5, 82.29))
)

# A narrow network of that class; which one exactly is not known.
CIFAR10_NETWORK = "class of ResNet-20"


def _on_cifar10(line: str) -> Value:
    bits, method, compression, accuracy = line.split()
    return Value(
        "cifar10",
        "ResNet-20" if method == "HAWQ" else CIFAR10_NETWORK,
        method,
        float(compression),
        float(accuracy),
        "plot",
        int(bits),
    )


def _on_imagenet(line: str) -> Value:
    network, method, compression, activations, accuracy, source = line.split()
    return Value(
        "imagenet",
        network,
        method,
        _number(compression),
        float(accuracy),
        source,
        acr=_number(activations),
        float_accuracy=FLOAT.get(network),
        weights=WEIGHTS[network],
    )


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)


# Every published value, one by one.
VALUES: tuple[Value, ...] = (
    *map(_on_cifar10, CIFAR10.strip().splitlines()),
    *map(_on_imagenet, IMAGENET.strip().splitlines()),
)


def select(**wanted) -> list[Value]:
    """Return the published values that have these fields.

    >>> select(data="imagenet", acr=8, network="MobileNetV2")[0].accuracy
    70.9

    Args:
        wanted: fields of a `Value`, and what they must be.

    Returns:
        The values, in the order of VALUES.
    """

    def fits(value: Value) -> bool:
        return all(getattr(value, name) == right for name, right in wanted.items())

    return [value for value in VALUES if fits(value)]
