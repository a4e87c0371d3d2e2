"""A classifier as an ONNX graph, written operation by operation from what JAX traces.

Arrays of four dimensions are [N, H, W, C] in JAX and kept as [N, C, H, W] in the graph, which is what ONNX's
convolutions take; so every operation on them has its axes renamed, and nothing is transposed but the input.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export as jax_export
from onnx import TensorProto, helper, numpy_helper

from resnext_jax import ops
from resnext_jax.errors import BadInput
from resnext_jax.inference.program import Operation, Value, trace

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes in use today read

Rule = Callable[["Graph", Operation], str]

# The JAX axis at each place of a kept array, by its dimensions; others are kept as they are.
KEPT = {4: (0, 3, 1, 2)}


def to_onnx(logits: Callable[[jax.Array], jax.Array], image_size: int, metadata: dict[str, Any]) -> bytes:
    """Serialise a classifier.

    Args:
        logits: uint8 [N, S, S, 3] to float32 [N, K]; made of the operations in `RULES`.
        image_size: S.
        metadata: JSON values that the file holds beside the graph.

    Raises:
        BadInput: an operation without a rule.
    """
    (count,) = jax_export.symbolic_shape("n")
    shape = (count, image_size, image_size, 3)
    program = trace(logits, jax.ShapeDtypeStruct(shape, jnp.uint8))
    graph = Graph(Counter(value for operation in program.operations for value in operation.inputs))
    [images], [result] = program.inputs, program.outputs
    graph.names[images] = graph.add("Transpose", ["images"], perm=KEPT[4])
    for operation in program.operations:
        if operation.name not in RULES:
            raise BadInput(f"ONNX: JAX's operation {operation.name!r} has no rule in export_onnx.py")
        graph.names[operation.outputs[0]] = RULES[operation.name](graph, operation)
    graph.add("Softmax", [graph.name(result)], axis=1, output="probabilities")
    _, classes = result.shape
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            metadata.get("model", "classifier"),
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ("N", *shape[1:]))],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ("N", classes))],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="resnext-jax",
    )
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in metadata.items()}
    helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Graph:
    """An ONNX graph that grows.

    Args:
        uses: how often each value is an input of an operation.
    """

    def __init__(self, uses: Counter[Value]):
        self.uses = uses
        self.names: dict[Value, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._producers: dict[str, onnx.NodeProto] = {}

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node; gives its output's name."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [output], name=output, **attributes)
        self.nodes.append(node)
        self._producers[output] = node
        return output

    def constant(self, array: np.ndarray | np.generic) -> str:
        """Store an array as it is; gives its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def name(self, value: Value) -> str:
        """What a value is called, [N, C, H, W] if it has four dimensions."""
        if value not in self.names:
            array = np.asarray(value.constant)
            self.names[value] = self.constant(array.transpose(order(value)))
        return self.names[value]

    def unbiased_conv(self, value: Value) -> onnx.NodeProto | None:
        """The convolution without a bias that makes a value which is used once."""
        node = self._producers.get(self.names.get(value, ""))
        is_one = node is not None and node.op_type == "Conv" and len(node.input) == 2
        return node if is_one and self.uses[value] == 1 else None


def order(value: Value) -> tuple[int, ...]:
    """The JAX axis at each place of an array as it is kept."""
    return KEPT.get(len(value.shape), tuple(range(len(value.shape))))


def axes(value: Value, jax_axes: Sequence[int]) -> list[int]:
    """Where axes are in an array as it is kept."""
    return [order(value).index(axis) for axis in jax_axes]


def _elementwise(kind: str) -> Rule:
    return lambda graph, operation: graph.add(kind, [graph.name(v) for v in operation.inputs])


def _same(graph: Graph, operation: Operation) -> str:
    return graph.name(operation.inputs[0])


def _add(graph: Graph, operation: Operation) -> str:
    for value, other in (operation.inputs, operation.inputs[::-1]):
        conv, bias = graph.unbiased_conv(value), other.constant
        if conv is not None and bias is not None and np.shape(bias) == (1, 1, 1, value.shape[3]):
            conv.input.append(graph.constant(np.ravel(bias)))
            return graph.name(value)
    return _elementwise("Add")(graph, operation)


def _max(graph: Graph, operation: Operation) -> str:
    value, least = operation.inputs
    if least.constant is not None and least.shape == () and least.constant == 0:
        return graph.add("Relu", [graph.name(value)])
    return _elementwise("Max")(graph, operation)


def _conv(graph: Graph, operation: Operation) -> str:
    images, kernel = operation.inputs
    if "spec" in operation.params:
        spec = operation.params["spec"]
        strides, padding, dilation, groups = spec.strides, spec.padding, spec.dilation, spec.groups
    else:
        p = operation.params
        layout = jax.lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ops.DIMENSION_NUMBERS)
        if p["dimension_numbers"] != layout or p["batch_group_count"] != 1 or set(p["lhs_dilation"]) != {1}:
            raise BadInput(f"ONNX: a convolution of another kind than [N, H, W, C] with a plain window: {p}")
        strides, padding, dilation, groups = (
            p[name] for name in ("window_strides", "padding", "rhs_dilation", "feature_group_count")
        )
    if kernel.constant is None:
        raise BadInput("ONNX: a convolution whose kernel is computed from the images")
    weights = graph.constant(np.asarray(kernel.constant).transpose(3, 2, 0, 1))
    window = {"strides": strides, "pads": _pads(padding), "dilations": dilation, "group": groups}
    return graph.add("Conv", [graph.name(images), weights], **window)


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in padding] + [high for _, high in padding]


def _max_pool(graph: Graph, operation: Operation) -> str:
    p = operation.params
    window = {"kernel_shape": p["window_shape"], "strides": p["strides"], "pads": _pads(p["padding"])}
    return graph.add("MaxPool", [graph.name(operation.inputs[0])], **window)


def _window(kind: str) -> Rule:
    """Sum or maximum over windows of height and width."""

    def rule(graph: Graph, operation: Operation) -> str:
        [value], p = operation.inputs, operation.params
        (n, *shape, c), padding = p["window_dimensions"], p["padding"]
        dilations = {*p["base_dilation"], *p["window_dilation"]}
        if len(value.shape) != 4 or (n, c) != (1, 1) or dilations != {1} or any(padding[0] + padding[3]):
            raise BadInput(f"ONNX: a window over more than height and width: {p}")
        window = {"kernel_shape": shape, "strides": p["window_strides"][1:3], "pads": _pads(padding[1:3])}
        if kind == "MaxPool":
            return graph.add(kind, [graph.name(value)], **window)
        mean = graph.add("AveragePool", [graph.name(value)], count_include_pad=1, **window)
        return graph.add("Mul", [mean, graph.constant(np.float32(np.prod(shape)))])

    return rule


def _reduce(kind: str) -> Rule:
    def rule(graph: Graph, operation: Operation) -> str:
        [value] = operation.inputs
        removed = operation.params["axes"]
        places = axes(value, removed)
        if kind == "ReduceSum":
            reduced = graph.add(kind, [graph.name(value), graph.constant(np.array(places))], keepdims=0)
        else:
            reduced = graph.add(kind, [graph.name(value)], axes=places, keepdims=0)
        return _arranged(graph, reduced, _left(value, removed), operation.outputs[0])

    return rule


def _squeeze(graph: Graph, operation: Operation) -> str:
    [value] = operation.inputs
    removed = operation.params["dimensions"]
    name = graph.add("Squeeze", [graph.name(value), graph.constant(np.array(axes(value, removed)))])
    return _arranged(graph, name, _left(value, removed), operation.outputs[0])


def _left(value: Value, removed: Sequence[int]) -> list[int]:
    """The axes that are left after others were removed, as they are arranged, counted anew."""
    left = [axis for axis in order(value) if axis not in removed]
    return [sorted(left).index(axis) for axis in left]


def _arranged(graph: Graph, name: str, arrangement: Sequence[int], result: Value) -> str:
    """Transpose what has the result's axes in this arrangement to how it is kept, unless it is already."""
    perm = [list(arrangement).index(axis) for axis in order(result)]
    return name if perm == sorted(perm) else graph.add("Transpose", [name], perm=perm)


def _plain(graph: Graph, value: Value) -> str:
    """A value with its axes as in JAX."""
    perm = np.argsort(order(value)).tolist()
    name = graph.name(value)
    return name if perm == sorted(perm) else graph.add("Transpose", [name], perm=perm)


def _broadcast(graph: Graph, operation: Operation) -> str:
    [value], [result] = operation.inputs, operation.outputs
    places = operation.params["broadcast_dimensions"]
    added = [axis for axis in range(len(result.shape)) if axis not in places]
    name = graph.add("Unsqueeze", [_plain(graph, value), graph.constant(np.array(added))]) if added else None
    name = _arranged(graph, name or _plain(graph, value), range(len(result.shape)), result)
    before = [1 if axis in added else value.shape[places.index(axis)] for axis in order(result)]
    after = [result.shape[axis] for axis in order(result)]
    if before == after:
        return name
    # 1 leaves a size as it is; also one that is not known, as elementwise operations repeat by themselves.
    pairs = zip(before, after, strict=True)
    shape = [new if new != old and isinstance(new, int) else 1 for old, new in pairs]
    return graph.add("Expand", [name, graph.constant(np.array(shape, np.int64))])


def _reshape(graph: Graph, operation: Operation) -> str:
    [value], [result] = operation.inputs, operation.outputs
    shape = [size if isinstance(size, int) else -1 for size in result.shape]
    name = graph.add("Reshape", [_plain(graph, value), graph.constant(np.array(shape, np.int64))])
    return _arranged(graph, name, range(len(shape)), result)


def _transpose(graph: Graph, operation: Operation) -> str:
    [value], [result] = operation.inputs, operation.outputs
    name = graph.add("Transpose", [_plain(graph, value)], perm=operation.params["permutation"])
    return _arranged(graph, name, range(len(result.shape)), result)


def _dot(graph: Graph, operation: Operation) -> str:
    left, right = operation.inputs
    if operation.params["dimension_numbers"] != (((1,), (0,)), ((), ())):
        raise BadInput(f"ONNX: a product that is none of two matrices: {operation.params}")
    return graph.add("MatMul", [graph.name(left), graph.name(right)])


def _cast(graph: Graph, operation: Operation) -> str:
    [value], [result] = operation.inputs, operation.outputs
    if value.dtype == result.dtype:
        return graph.name(value)
    return graph.add("Cast", [graph.name(value)], to=helper.np_dtype_to_tensor_dtype(result.dtype))


def _slice(graph: Graph, operation: Operation) -> str:
    [value], p = operation.inputs, operation.params
    strides = p["strides"] or (1,) * len(value.shape)
    cut = [
        (axis, start, stop, step)
        for axis, (start, stop, step) in enumerate(
            zip(p["start_indices"], p["limit_indices"], strides, strict=True)
        )
        if (start, step) != (0, 1) or stop != value.shape[axis]
    ]
    if not cut:
        return graph.name(value)
    along, starts, stops, steps = zip(*cut, strict=True)
    return _sliced(graph, value, along, starts, stops, steps)


def _reverse(graph: Graph, operation: Operation) -> str:
    [value], along = operation.inputs, operation.params["dimensions"]
    ends = [-(2**31)] * len(along)  # before the first
    return _sliced(graph, value, along, [-1] * len(along), ends, [-1] * len(along))


def _sliced(graph: Graph, value: Value, along: Sequence[int], *bounds: Sequence[int]) -> str:
    starts, stops, steps = (graph.constant(np.array(numbers, np.int64)) for numbers in bounds)
    places = graph.constant(np.array(axes(value, along), np.int64))
    return graph.add("Slice", [graph.name(value), starts, stops, places, steps])


def _concatenate(graph: Graph, operation: Operation) -> str:
    [axis] = axes(operation.outputs[0], [operation.params["dimension"]])
    return graph.add("Concat", [graph.name(v) for v in operation.inputs], axis=axis)


def _stack(graph: Graph, operation: Operation) -> str:
    [result], axis = operation.outputs, operation.params["axis"]
    place = graph.constant(np.array([axis]))
    parts = [graph.add("Unsqueeze", [_plain(graph, value), place]) for value in operation.inputs]
    return _arranged(graph, graph.add("Concat", parts, axis=axis), range(len(result.shape)), result)


def _pad(graph: Graph, operation: Operation) -> str:
    value, fill = operation.inputs
    config = [operation.params["padding_config"][axis] for axis in order(value)]
    if any(inner for *_, inner in config) or fill.constant is None:
        raise BadInput(f"ONNX: padding between pixels: {config}")
    pads = graph.constant(np.array(_pads([(low, high) for low, high, _ in config]), np.int64))
    return graph.add("Pad", [graph.name(value), pads, graph.constant(np.asarray(fill.constant))])


def _power(graph: Graph, operation: Operation) -> str:
    [value] = operation.inputs
    return graph.add("Pow", [graph.name(value), graph.constant(np.float32(operation.params["y"]))])


def _square(graph: Graph, operation: Operation) -> str:
    name = graph.name(operation.inputs[0])
    return graph.add("Mul", [name, name])


def _rsqrt(graph: Graph, operation: Operation) -> str:
    return graph.add("Reciprocal", [graph.add("Sqrt", [graph.name(operation.inputs[0])])])


def _erfc(graph: Graph, operation: Operation) -> str:
    erf = graph.add("Erf", [graph.name(operation.inputs[0])])
    return graph.add("Sub", [graph.constant(np.float32(1)), erf])


def _clamp(graph: Graph, operation: Operation) -> str:
    low, value, high = (graph.name(v) for v in operation.inputs)
    return graph.add("Min", [graph.add("Max", [value, low]), high])


def _select(graph: Graph, operation: Operation) -> str:
    which, *cases = (graph.name(v) for v in operation.inputs)
    if len(cases) != 2 or operation.inputs[0].dtype != bool:
        raise BadInput(f"ONNX: a choice among {len(cases)} cases")
    return graph.add("Where", [which, cases[1], cases[0]])


RULES: dict[str, Rule] = {
    "add": _add,
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "convert_element_type": _cast,
    "copy": _same,
    "div": _elementwise("Div"),
    "dot_general": _dot,
    "erf": _elementwise("Erf"),
    "erfc": _erfc,
    "exp": _elementwise("Exp"),
    "ge": _elementwise("GreaterOrEqual"),
    "grouped_conv": _conv,
    "gt": _elementwise("Greater"),
    "integer_pow": _power,
    "le": _elementwise("LessOrEqual"),
    "log": _elementwise("Log"),
    "logistic": _elementwise("Sigmoid"),
    "lt": _elementwise("Less"),
    "max": _max,
    "max_pool": _max_pool,
    "min": _elementwise("Min"),
    "mul": _elementwise("Mul"),
    "neg": _elementwise("Neg"),
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _window("MaxPool"),
    "reduce_window_sum": _window("AveragePool"),
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "sqrt": _elementwise("Sqrt"),
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": _elementwise("Sub"),
    "tanh": _elementwise("Tanh"),
    "transpose": _transpose,
}
