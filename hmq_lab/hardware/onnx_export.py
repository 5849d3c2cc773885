"""A selected network as ONNX: QuantizeLinear, Clip and DequantizeLinear with power-of-two scales.

>>> export(network, "model.onnx")                           # b bits in int8, clipped to b bits
>>> export(network, "model.onnx", native=True)              # 4 and 2 bits in the types of that name

`torch.onnx.export` writes the network's own operations, from its graph in evaluation. The three
things that it has no operation for are custom ones here, which stand in the graph until
`_Quantizers` writes them as ONNX: a block, a weight of integers, and a bias of integers (int32)
where hardware mode rounded it.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from hmq_lab.budget import original
from hmq_lab.data.files import replacing
from hmq_lab.graph.operations import ADAPTIVE_MEAN, SPLITS, argument, aten
from hmq_lab.graph.tracing import first_line, in_mode, quiet
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.packing import pack_bits
from hmq_lab.network import BiasRounding, attribute_of, blocks, check_attached, fixed_blocks
from hmq_lab.quantizer import Scheme, codes

OPSET = 18  # of the int8 form
# {bits: signed type, unsigned type, first opset that has them}.
NATIVE = {
    4: ("INT4", "UINT4", 21),
    2: ("INT2", "UINT2", 25),
}
DOMAIN = "hmq_lab"


def export(model: nn.Module, path: Path | str, *, native: bool = False) -> onnx.ModelProto:
    """Write an attached network with fixed schemes as an ONNX file, checked, with inferred shapes;
    returns the model.

    Args:
        model: input "x" (N, C, H, W) float32, output "logits", any N.
        path: of the file.
        native: tensors of 3 and 4 bits are carried by (U)INT4, of 1 and 2 bits by (U)INT2, which
            need opset 21 and 25; otherwise all are int8 or uint8 with a Clip to b bits.

    Returns:
        The model as it is in the file.

    Raises:
        ValueError: naming a tensor without a selected scheme or of more than 8 bits, or an
            operation without a rule.
    """
    # The form holds integers of up to 8 bits, from fixed schemes.
    for name, block in fixed_blocks(model).items():
        bits = block.scheme.bits
        if bits > 8:
            raise ValueError(f"{name}: bits must be from 1 to 8 in this ONNX form, got {bits}")

    # The graph of evaluation, first by torch and then with our own nodes.
    with in_mode(model, training=False), torch.no_grad():
        module, tensors = _with_custom_operations(model)
        found = _by_torch(module, check_attached(model).image)
    found = _Quantizers(found, tensors, native).run()
    # Check the whole, and write the file in one step.
    onnx.checker.check_model(found, full_check=True)
    found = onnx.shape_inference.infer_shapes(found, strict_mode=True, data_prop=True)
    with replacing(Path(path)) as temporary:
        onnx.save(found, temporary)
    return found


# -------------------------------------------------------------------------------- custom operations


@torch.library.custom_op(f"{DOMAIN}::quantize", mutates_args=())
def _quantize(x: Tensor, index: int) -> Tensor:
    """A block; index: of `_Module.tensors`."""
    return x.clone()


@torch.library.custom_op(f"{DOMAIN}::integers", mutates_args=())
def _integers(x: Tensor, index: int) -> Tensor:
    """A weight or bias of integers."""
    return x.clone()


_quantize.register_fake(lambda x, index: torch.empty_like(x))
_integers.register_fake(lambda x, index: torch.empty_like(x))


@dataclass
class _Tensor:
    """What the index of a custom operation stands for.

    codes: of a weight or bias; None for a block. scheme: None for a bias.
    """

    name: str
    scheme: Scheme | None
    codes: Tensor | None = None
    step: float = 1.0


def _with_custom_operations(model: nn.Module) -> tuple[fx.GraphModule, list[_Tensor]]:
    """The network's graph in evaluation as a module, with custom operations for what ONNX has other
    ones for; and what their indices stand for.
    """
    # A new graph, with a map from the old nodes to the new ones.
    attached, found = check_attached(model), blocks(model)
    module, graph = nn.Module(), fx.Graph()
    tensors: list[_Tensor] = []
    values: dict[fx.Node, fx.Node] = {}
    for node in attached.graph.nodes:
        sources = [values[source] for source in node.all_input_nodes if source in values]
        # The inputs and the output of the file.
        if node.op == "output":
            graph.output(values[attached.output])
        elif node.op == "placeholder":
            values[node] = graph.placeholder("x")
        elif node.op == "get_attr":
            # Weights and biases become integers where they are quantized.
            values[node] = _held(model, module, graph, str(node.target), tensors)
        elif node.meta["kind"] == "block":
            # A block becomes one custom operation.
            name = node.meta["name"]
            tensors.append(_Tensor(name, found[name].scheme))
            values[node] = _last(graph, _quantize, sources[0], tensors)
        elif _is_global_mean(node):
            # ONNX's means round in another way.
            values[node] = _exact_mean(graph, node, sources[0])
        elif _is_part(node):
            values[node] = _slice(graph, node, values)
        else:
            values[node] = graph.node_copy(node, values.__getitem__)
    # A split whose parts are slices has no reader left.
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph), tensors


def _last(graph: fx.Graph, operation, x: fx.Node, tensors: list[_Tensor]) -> fx.Node:
    """A call of a custom operation for the last one of `tensors`."""
    return graph.call_function(operation._opoverload, (x, len(tensors) - 1))


def _held(
    model: nn.Module, module: nn.Module, graph: fx.Graph, name: str, tensors: list[_Tensor]
) -> fx.Node:
    """A parameter or buffer of the network: as integers where it is quantized, or else as it is."""
    # The float value is held under a short name, which no tensor of the ONNX file has.
    value = attribute_of(model, name).detach().cpu()
    short = "held_" + name.replace(".", "_").replace("/", "_")
    module.register_buffer(short, value.float() if value.is_floating_point() else value)
    read = graph.get_attr(short)

    # A quantized weight is given by its codes, a rounded bias by its own.
    block = blocks(model, "weight").get(name)
    if block is not None:
        scheme = block.scheme
        integers = codes(original(model, name).detach().cpu(), scheme)
        tensors.append(_Tensor(name, scheme, integers, scheme.step))
        return _last(graph, _integers, read, tensors)
    path, _, attribute = name.rpartition(".")
    chains: Any = getattr(model.get_submodule(path), "parametrizations", {})
    if attribute not in chains or not isinstance(chains[attribute][0], BiasRounding):
        return read
    # A bias beyond int32 stays float.
    exponent = sum(int(block.step_exponent()) for block in chains[attribute][0].blocks)
    scaled = torch.ldexp(value.double(), torch.tensor(-exponent, dtype=torch.float64))
    if scaled.abs().max() >= 2**31:
        return read
    tensors.append(_Tensor(name, None, scaled.long(), math.ldexp(1.0, exponent)))
    return _last(graph, _integers, read, tensors)


def _is_global_mean(node: fx.Node) -> bool:
    """Whether a node averages whole planes."""
    if aten(node) == "mean":
        return len(node.args) > 1
    return aten(node) in ADAPTIVE_MEAN and all(size == 1 for size in node.meta["shape"][2:])


def _exact_mean(graph: fx.Graph, node: fx.Node, x: fx.Node) -> fx.Node:
    """A mean as a sum and a division: exact, then rounded once, as the simulation is. (ONNX's own
    means differ.)
    """
    # The axes are given, or they are all the spatial ones.
    shape = node.all_input_nodes[0].meta["shape"]
    axes, keep = list(range(2, len(shape))), True
    if aten(node) == "mean":
        axes, keep = argument(node, "dim"), bool(argument(node, "keepdim"))
        axes = [axes] if isinstance(axes, int) else list(axes)

    # The count is a plain number: the size of the image is fixed.
    count = math.prod(shape[axis] for axis in axes)
    total = graph.call_function(torch.ops.aten.sum.dim_IntList, (x, axes, keep))
    return graph.call_function(torch.ops.aten.div.Tensor, (total, count))


def _is_part(node: fx.Node) -> bool:
    """Whether a node is one of the parts that an operation splits a tensor into."""
    return node.target is operator.getitem and aten(node.all_input_nodes[0]) in SPLITS


def _slice(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node]) -> fx.Node:
    """A part as a slice. (torch writes a sequence of ONNX, which onnxruntime refuses where the parts
    have unequal sizes.)
    """
    # The parts lie one behind the other along one axis.
    split: Any
    index: Any
    split, index = node.args
    axis = argument(split, "dim")
    sizes = [shape[axis] for shape in split.meta["shape"]]
    start = sum(sizes[:index])
    where = (axis, start, start + sizes[index])
    return graph.call_function(torch.ops.aten.slice.Tensor, (values[split.args[0]], *where))


# ----------------------------------------------------------------------------------------- by torch


def _by_torch(module: nn.Module, size: tuple[int, ...]) -> onnx.ModelProto:
    """What torch.onnx.export makes of a module that takes images of a size, with a node of our own
    domain for each custom operation.
    """
    # The exporter learns our two operations.
    quantize, integers = _onnx_operation("Quantize"), _onnx_operation("Integers")
    table: dict[Callable, Callable] = {
        _quantize._opoverload: lambda x, index: quantize(x, index=index),
        _integers._opoverload: lambda x, index: integers(x, index=index),
    }

    # Two zero images give the shapes; the batch may have any size.
    image = torch.zeros(2, *size)
    dynamic = ({0: torch.export.Dim("N", min=1)},)
    with quiet():
        try:
            exported = torch.export.export(module, (image,), dynamic_shapes=dynamic, strict=False)
            program = torch.onnx.export(
                exported,
                custom_translation_table=table,
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                input_names=["x"],
                output_names=["logits"],
                verbose=False,
            )
        except Exception as error:
            # The first cause says what is missing; the rest is the exporter's own story.
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            why = "torch.onnx.export has no rule for an operation of this network"
            raise ValueError(f"{why}: {first_line(cause)}") from error
    assert program is not None
    return program.model_proto


def _onnx_operation(name: str):
    """An operation (x, index) of our own domain, as onnxscript knows operations."""
    import onnxscript

    # The schema: one float tensor in, one out, and an index.
    schemas = onnx.defs.OpSchema
    index = schemas.Attribute("index", schemas.AttrType.INT, "which tensor", required=True)
    schema = schemas(
        name,
        DOMAIN,
        1,
        "",
        inputs=[schemas.FormalParameter("x", "T")],
        outputs=[schemas.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[index],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), name, schema)


# --------------------------------------------------------------------------------------- quantizers


class _Quantizers:
    """Writes the nodes of our own domain as ONNX has them, and gives tensors the names of
    `placements`.
    """

    def __init__(self, model: onnx.ModelProto, tensors: list[_Tensor], native: bool):
        self.model, self.tensors, self.native = model, tensors, native
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.names: dict[str, str] = {}  # of tensors: as torch wrote them, and now
        self.opset = OPSET

    def run(self) -> onnx.ModelProto:
        # Rewrite our own nodes one by one; all others stay.
        graph = self.model.graph
        for node in graph.node:
            if node.domain != DOMAIN:
                self.nodes.append(node)
                continue
            source = self.names.get(node.input[0], node.input[0])
            tensor = self.tensors[node.attribute[0].i]
            write = self.quantize if node.op_type == "Quantize" else self.weight
            self.names[node.output[0]] = write(source, tensor)
        # An output keeps the name that it has in the file.
        for output in graph.output:
            if output.name in self.names:
                self.add("Identity", [output.name], output.name)
        # Every reader reads the new names.
        for node in self.nodes:
            for position, name in enumerate(node.input):
                node.input[position] = self.names.get(name, name)

        # Put together again: without what only the replaced nodes read.
        read = {name for node in self.nodes for name in node.input}
        kept = [initializer for initializer in graph.initializer if initializer.name in read]
        held = [*kept, *self.initializers.values()]
        name = type(self).__name__
        whole = helper.make_graph(self.nodes, name, graph.input, graph.output, held)
        opset = helper.make_opsetid("", self.opset)
        version = helper.find_min_ir_version_for([opset])
        return helper.make_model(
            whole, opset_imports=[opset], producer_name="hmq_lab", ir_version=version
        )

    def quantize(self, x: str, tensor: _Tensor) -> str:
        """Quantize, clip to b bits, dequantize. There is no Clip on 4 and 2 bits: floats are
        clipped before.
        """
        # The type that carries the codes, their range, and the step.
        name, scheme = tensor.name, tensor.scheme
        assert scheme is not None
        kind, carried = self.carrier(scheme)
        scale = self.number(scheme.step)
        # Narrow types have no Clip of their own: cut before quantizing.
        if carried < 8 and scheme.bits < carried:
            ends = [self.number(end * scheme.step) for end in scheme.integers]
            x = self.add("Clip", [x, *ends], f"{name} clipped")
        integers = self.add("QuantizeLinear", [x, scale, self.zero(kind)], f"{name} {kind}")
        # In int8 the codes are cut after quantizing.
        if carried == 8 and scheme.bits < 8:
            ends = [self.integer(end, kind) for end in scheme.integers]
            integers = self.add("Clip", [integers, *ends], f"{name} {scheme.bits} bits")
        return self.add("DequantizeLinear", [integers, scale, self.zero(kind)], f"{name} quantized")

    def weight(self, x: str, tensor: _Tensor) -> str:
        """An initializer of integers and its step; int32 for a bias."""
        # A bias has no scheme, and no zero point.
        name, scheme, values = tensor.name, tensor.scheme, tensor.codes
        assert values is not None
        kind = "INT32" if scheme is None else self.carrier(scheme)[0]
        integers = self.integers(values, kind, f"{name} {kind}")
        zero = [] if scheme is None else [self.zero(kind)]
        return self.add("DequantizeLinear", [integers, self.number(tensor.step), *zero], name)

    def add(self, operation: str, inputs: list[str], output: str) -> str:
        node = helper.make_node(operation, inputs, [output], name=f"{output} {operation}")
        self.nodes.append(node)
        return output

    def number(self, value: float) -> str:
        name = f"{value:g}"
        held = numpy_helper.from_array(np.asarray(np.float32(value)), name)
        self.initializers.setdefault(name, held)
        return name

    def integer(self, value: int, kind: str) -> str:
        return self.integers(torch.tensor(value), kind, f"{value} {kind}")

    def zero(self, kind: str) -> str:
        return self.integer(0, kind)

    def carrier(self, scheme: Scheme) -> tuple[str, int]:
        """The name of the ONNX type that carries a scheme's integers, and its bits."""
        # The narrowest type that holds the bits, where such types are wanted.
        bits = next((b for b in (2, 4) if self.native and scheme.bits <= b), 8)
        if bits == 8:
            return ("INT8" if scheme.signed else "UINT8"), 8
        signed, unsigned, opset = NATIVE[bits]
        self.opset = max(self.opset, opset)
        return (signed if scheme.signed else unsigned), bits

    def integers(self, values: Tensor, kind: str, name: str) -> str:
        """An initializer of integers; several of 4 or 2 bits share a byte, the first in its lowest
        bits.
        """
        # Types below one byte are packed, the others are plain arrays.
        carried = int(kind.removeprefix("U").removeprefix("INT"))
        if carried < 8:
            raw = pack_bits(values, carried).numpy().tobytes()
        else:
            raw = values.numpy().astype(kind.lower()).tobytes()
        data_type = getattr(TensorProto, kind)
        self.initializers[name] = helper.make_tensor(
            name, data_type, tuple(values.shape), raw, raw=True
        )
        return name


def session(path: Path | str, optimized: bool = True):
    """An onnxruntime session of a file, on the CPU.

    Args:
        path: of the ONNX file.
        optimized: as it is by default, which fuses operations into integer kernels; without, every
            node of the file runs as it is.

    Returns:
        The `InferenceSession`.
    """
    # Imported here: writing a file does not need it.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # One thread a session where torch has one.
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(model: nn.Module, path: Path | str, batches: Iterable[tuple[Tensor, Tensor]]) -> dict:
    """Count where onnxruntime, on the CPU, and the float32 simulation differ over batches of
    (images, classes).

    >>> compare(network, "model.onnx", data.test.batches(100))

    differ: images with a logit that differs, without onnxruntime's optimizations; `unexplained` of
    these have no sum beyond 2^24 in the integer network (None where there is no integer network).
    predictions_differ: of these sessions.
    default_*: the same for a session as it is by default, which fuses operations into integer
    kernels.

    Args:
        model: an attached network with fixed schemes.
        path: of the ONNX file that `export` wrote.
        batches: pairs of float32 images (N, C, H, W) and classes (N,).

    Returns:
        Counts, largest differences and percents, by name.

    Raises:
        ValueError: where there are no images.
    """
    # The integer network explains differences, where there is one.
    try:
        network = IntegerNetwork.from_selected(model)
    except ValueError:  # the paper's mode, or an operation that integers have no rule for
        network = None

    # Two sessions: one without optimizations, one as it is by default.
    sessions = {"": session(path, optimized=False), "default_": session(path)}
    found: Counter[str] = Counter()
    largest = dict.fromkeys(sessions, 0.0)
    with in_mode(model, training=False), torch.no_grad():
        for x, y in batches:
            # All compare with the float32 simulation.
            expected = model(x)
            found["images"] += len(x)
            for which, running in sessions.items():
                got = torch.from_numpy(running.run(["logits"], {"x": x.numpy()})[0])
                differ = (got != expected).any(1)
                difference = float((got - expected).abs().max())
                largest[which] = max(largest[which], difference)
                # Counts of the session, under its prefix.
                classes = got.argmax(1)
                found[f"{which}differ"] += int(differ.sum())
                found[f"{which}predictions_differ"] += int((classes != expected.argmax(1)).sum())
                found[f"{which}right"] += int((classes == y).sum())
                # Below 2^24 float32 is exact: a difference there has no explanation.
                if network is not None and not which:
                    explained = network.beyond_float32(x) > 0
                    found["unexplained"] += int((differ & ~explained).sum())

    # Shares of nothing would be no numbers.
    images = found["images"]
    if not images:
        raise ValueError("there are no images to compare on")
    unexplained = None if network is None else found["unexplained"]
    result: dict = {"images": images, "unexplained": unexplained}
    # The same keys for both sessions.
    for which in sessions:
        for key in ("differ", "predictions_differ"):
            result[f"{which}{key}"] = found[f"{which}{key}"]
        result[f"{which}largest_difference"] = largest[which]
        result[f"{which}accuracy"] = 100 * found[f"{which}right"] / images
    return result
