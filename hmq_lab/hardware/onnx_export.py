"""A selected network as ONNX: QuantizeLinear, Clip and DequantizeLinear with power-of-two scales.

>>> export(network, "model.onnx")                           # b bits in int8, clipped to b bits
>>> export(network, "model.onnx", native=True)              # 4 and 2 bits in the types of that name

The graph is the network's own in evaluation, one or a few ONNX nodes for each operation, tensors under the names of
`placements`. A weight is an initializer of integers and a DequantizeLinear; so is a bias that was rounded (int32).
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from hmq_lab.block import HMQ
from hmq_lab.data.files import replacing
from hmq_lab.graph.naming import numbered
from hmq_lab.graph.rules import kinds, label
from hmq_lab.graph.tracing import in_mode
from hmq_lab.hardware.folding import BiasRounding
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.onnx_rules import Rules
from hmq_lab.hardware.packing import pack_bits
from hmq_lab.network import blocks, check_attached, placements
from hmq_lab.quantizer import Scheme, codes

OPSET = 18  # of the int8 form
NATIVE = {4: ("INT4", "UINT4", 21), 2: ("INT2", "UINT2", 25)}  # carrier bits: signed, unsigned, first opset


def export(model: nn.Module, path: Path | str, *, native: bool = False) -> onnx.ModelProto:
    """Write an attached network with fixed schemes as an ONNX file, checked, with inferred shapes; returns the model.

    native: tensors of 3 and 4 bits are carried by (U)INT4, of 1 and 2 bits by (U)INT2, which need opset 21 and 25;
    otherwise all are int8 or uint8 with a Clip to b bits. Input "x" (N, C, H, W) float32, output "logits", any N.
    Raises ValueError naming a tensor without a selected scheme or of more than 8 bits, or an operation without a rule.
    """
    check_attached(model)
    for name, block in blocks(model).items():
        if not block.is_fixed:
            raise ValueError(f"{name} has no selected scheme yet: end the search, or call its block's fix()")
        if block.scheme.bits > 8:
            raise ValueError(f"{name}: bits must be from 1 to 8 in this ONNX form, got {block.scheme.bits}")
    with in_mode(model, training=False), torch.no_grad():
        found = _Writer(model, native).run()
    onnx.checker.check_model(found, full_check=True)
    found = onnx.shape_inference.infer_shapes(found, strict_mode=True, data_prop=True)
    with replacing(Path(path)) as temporary:
        onnx.save(found, temporary)
    return found


class _Writer(Rules):
    """Goes through the network's graph and writes ONNX nodes; `of` knows the ONNX name of each value."""

    def __init__(self, model: nn.Module, native: bool):
        self.model, self.graph, self.modules = model, model.hmq.graph, dict(model.named_modules())
        self.kind, self.names, self.native = kinds(model, self.graph), numbered(self.graph), native
        picture = next(p for p in placements(model) if p.reason.startswith("input picture"))
        self.picture, self.dtype_device = picture.shape, next(model.parameters())
        self.shapes = self.run_once()
        self.nodes, self.initializers, self.of, self.opset, self.constants = [], {}, {}, OPSET, {}
        self.rules = {
            "linear": self.linear, "norm": self.norm, "non-linearity": self.non_linearity, "sum": self.binary,
            "product": self.binary, "scale": self.binary, "mean": self.mean, "concatenation": self.concatenation,
            "pass": self.move,
        }  # fmt: skip

    def run_once(self) -> dict[fx.Node, object]:
        """The shape of each tensor, and the value of everything that is none, for two pictures."""
        found = {}

        class Shapes(fx.Interpreter):
            def run_node(self, node):
                value = super().run_node(node)
                found[node] = tuple(value.shape) if isinstance(value, Tensor) else value
                return value

        like = self.dtype_device
        Shapes(self.model, graph=self.graph).run(torch.zeros(2, *self.picture, dtype=like.dtype, device=like.device))
        return found

    def run(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            kind = self.kind[node]
            if node.op == "placeholder":
                self.of[node] = "x"
            elif node.op == "output":
                break
            elif node.op == "get_attr":
                self.of[node] = self.constant(operator.attrgetter(node.target)(self.model), self.names[node])
            elif isinstance(self.module(node), HMQ):
                self.of[node] = self.quantize(self.of[node.args[0]], self.module(node).scheme, self.name(node))
            elif kind != "number":
                if kind not in self.rules:
                    raise self.no_rule(node)
                self.of[node] = self.rules[kind](node)
        if not isinstance(node.args[0], fx.Node):
            raise ValueError("the network returns several tensors: the ONNX form has one output")
        self.add("Identity", [self.of[node.args[0]]], "logits")
        batch = "N"
        graph = helper.make_graph(
            self.nodes, type(self.model).__name__,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *self.picture])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, *self.shapes[node.args[0]][1:]])],
            list(self.initializers.values()),
        )  # fmt: skip
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], producer_name="hmq_lab",
                                 ir_version=helper.find_min_ir_version_for([opset]))  # fmt: skip

    # what the rules ask

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(node.target) if node.op == "call_module" else None

    def name(self, node: fx.Node) -> str:
        return f"{self.names[node.args[0]]} quantized" if isinstance(self.module(node), HMQ) else self.names[node]

    def no_rule(self, node: fx.Node, what: str = "") -> ValueError:
        return ValueError(f"{self.names[node]}: {label(node, self.modules)}{what} has no rule in the ONNX export")

    def add(self, operation: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [output], name=f"{output} {operation}", **attributes))
        return output

    def constant(self, value, name: str) -> str:
        """An initializer; numbers without a name of their own are kept once."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value), f"{value:g}")

    def whole(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), f"[{','.join(map(str, values))}]")

    # quantization

    def carrier(self, scheme: Scheme) -> tuple[str, int]:
        """The name of the ONNX type that carries a scheme's integers, and its bits."""
        bits = next((b for b in (2, 4) if self.native and scheme.bits <= b), 8)
        if bits == 8:
            return ("INT8" if scheme.signed else "UINT8"), 8
        signed, unsigned, opset = NATIVE[bits]
        self.opset = max(self.opset, opset)
        return (signed if scheme.signed else unsigned), bits

    def integers(self, values: Tensor, kind: str, name: str) -> str:
        """An initializer of integers; several of 4 or 2 bits share a byte, the first in its lowest bits."""
        carried = int(kind.removeprefix("U").removeprefix("INT"))
        if carried < 8:
            raw = pack_bits(values, carried).numpy().tobytes()
        else:
            raw = values.numpy().astype(kind.lower()).tobytes()
        data_type = getattr(TensorProto, kind)
        self.initializers[name] = helper.make_tensor(name, data_type, tuple(values.shape), raw, raw=True)
        return name

    def zero(self, kind: str) -> str:
        return self.integers(torch.tensor(0), kind, f"0 {kind}")

    def quantize(self, x: str, scheme: Scheme, name: str) -> str:
        """Quantize, clip to b bits, dequantize. There is no Clip on 4 and 2 bits: floats are clipped before."""
        (kind, carried), (low, high), scale = self.carrier(scheme), scheme.integers, self.number(scheme.step)
        if carried < 8 and scheme.bits < carried:
            ends = [self.number(end * scheme.step) for end in (low, high)]
            x = self.add("Clip", [x, *ends], f"{name} clipped")
        integers = self.add("QuantizeLinear", [x, scale, self.zero(kind)], f"{name} {kind}")
        if carried == 8 and scheme.bits < 8:
            ends = [self.integers(torch.tensor(end), kind, f"{end} {kind}") for end in (low, high)]
            integers = self.add("Clip", [integers, *ends], f"{name} {scheme.bits} bits")
        return self.add("DequantizeLinear", [integers, scale, self.zero(kind)], name)

    def weight(self, module: nn.Module, name: str) -> str:
        chain = getattr(module, "parametrizations", {})
        if "weight" not in chain:
            return self.constant(module.weight.float(), name)
        scheme = chain.weight[0].scheme
        kind, _ = self.carrier(scheme)
        integers = self.integers(codes(chain.weight.original.detach().cpu(), scheme), kind, f"{name} {kind}")
        return self.add("DequantizeLinear", [integers, self.number(scheme.step), self.zero(kind)], name)

    def bias(self, module: nn.Module, name: str) -> list[str]:
        """[] without a bias; int32 in units of step_w * step_x where hardware mode rounded it."""
        if module.bias is None:
            return []
        chain = getattr(module, "parametrizations", {})
        if "bias" not in chain or not isinstance(chain.bias[0], BiasRounding):
            return [self.constant(module.bias.float(), name)]
        exponent = sum(int(block.step_exponent()) for block in chain.bias[0].blocks)
        scaled = torch.ldexp(module.bias.detach().cpu().double(), torch.tensor(-exponent, dtype=torch.float64))
        if scaled.abs().max() >= 2**31:
            return [self.constant(module.bias.float(), name)]
        integers = self.integers(scaled.long(), "INT32", f"{name} INT32")
        return [self.add("DequantizeLinear", [integers, self.number(math.ldexp(1.0, exponent))], name)]


def compare(model: nn.Module, path: Path | str, batches: Iterable[tuple[Tensor, Tensor]]) -> dict:
    """Count where onnxruntime, on the CPU, and the float32 simulation differ over batches of (pictures, classes).

    >>> compare(network, "model.onnx", data.test.batches(100))

    differ: pictures with a logit that differs, without onnxruntime's optimizations; `unexplained` of these have no sum
    beyond 2^24 in the integer network (None where there is no integer network). predictions_differ: of these sessions.
    default_*: the same for a session as it is by default, which fuses operations into integer kernels.
    """
    import onnxruntime

    def session(optimized: bool):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    try:
        network = IntegerNetwork.from_selected(model)
    except ValueError:  # the paper's mode, or an operation that integers have no rule for
        network = None
    sessions = {"": session(False), "default_": session(True)}
    found, largest = Counter(), dict.fromkeys(sessions, 0.0)
    with in_mode(model, training=False), torch.no_grad():
        for x, y in batches:
            expected = model(x)
            for which, running in sessions.items():
                got = torch.from_numpy(running.run(["logits"], {"x": x.numpy()})[0])
                differ = (got != expected).any(1)
                largest[which] = max(largest[which], float((got - expected).abs().max()))
                found[f"{which}differ"] += int(differ.sum())
                found[f"{which}predictions_differ"] += int((got.argmax(1) != expected.argmax(1)).sum())
                found[f"{which}right"] += int((got.argmax(1) == y).sum())
                if network is not None and not which:
                    found["unexplained"] += int((differ & (network.beyond_float32(x) == 0)).sum())
            found["pictures"] += len(x)
    if not found["pictures"]:
        raise ValueError("there are no pictures to compare on")
    result = {"pictures": found["pictures"], "unexplained": None if network is None else found["unexplained"]}
    for which in sessions:
        result |= {f"{which}{key}": found[f"{which}{key}"] for key in ("differ", "predictions_differ")}
        result[f"{which}largest_difference"] = largest[which]
        result[f"{which}accuracy"] = 100 * found[f"{which}right"] / found["pictures"]
    return result
