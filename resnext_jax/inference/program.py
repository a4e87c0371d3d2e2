"""A traced function as a flat list of operations, to be analysed or written in another format."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from resnext_jax.ops import PARTS

# Primitives that call another program, and what they call it by.
_CALLED = ("jaxpr", "call_jaxpr")


@dataclass(frozen=True, eq=False)
class Value:
    """What an operation takes or gives; two are equal only if they are the same.

    Args:
        shape: of the array; sizes that are not known until it runs are symbolic.
        dtype: of the array.
        constant: the array, if it does not depend on the program's inputs.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    constant: np.ndarray | None = None


@dataclass(frozen=True)
class Operation:
    """One primitive of JAX.

    Args:
        name: of the primitive.
        inputs: its operands.
        outputs: its results.
        params: its parameters.
    """

    name: str
    inputs: list[Value]
    outputs: list[Value]
    params: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A function's operations in order, with those of the functions that it calls in their places."""

    inputs: list[Value]
    operations: list[Operation] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)


def trace(function: Callable[..., Any], *arguments: Any) -> Program:
    """The operations that a function's results depend on; what does not depend on its arguments is computed.

    Args:
        function: of arrays, in trees or alone.
        arguments: anything that has shapes and dtypes; the program's inputs are their leaves.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    program = Program([_value(v.aval) for v in closed.jaxpr.invars])
    program.outputs[:] = _inline(closed, program.inputs, program.operations)
    program.operations[:] = _needed(program)
    return program


def _needed(program: Program) -> list[Operation]:
    """The operations without those whose results nothing uses, such as `jnp.pad` leaves behind."""
    used, kept = set(program.outputs), []
    for operation in reversed(program.operations):
        if used.intersection(operation.outputs):
            used.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


def _value(aval: Any, constant: Any = None) -> Value:
    return Value(aval.shape, aval.dtype, constant)


def _literal(literal: Literal) -> Value:
    aval: Any = literal.aval
    return _value(aval, np.asarray(literal.val, aval.dtype))


def _inline(closed: ClosedJaxpr, inputs: Sequence[Value], operations: list[Operation]) -> list[Value]:
    """Append the operations of one (called) program to the list; gives its results."""
    jaxpr = closed.jaxpr
    constants = (_value(v.aval, np.asarray(c)) for v, c in zip(jaxpr.constvars, closed.consts, strict=True))
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

    def read(atoms: Sequence[Any]) -> list[Value]:
        return [_literal(atom) if isinstance(atom, Literal) else known[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        operands = read(eqn.invars)
        if eqn.primitive.name == "concatenate":  # `jnp.pad` joins arrays without elements, too
            operands = [v for v in operands if 0 not in v.shape] or operands
        called = next((eqn.params[name] for name in _CALLED if name in eqn.params), None)
        if eqn.primitive.name in PARTS:
            in_parts = partial(PARTS[eqn.primitive.name], **eqn.params)
            called = jax.make_jaxpr(in_parts)(*(v.aval for v in eqn.invars))
        if called is not None:
            results = _inline(called, operands, operations)
        elif eqn.primitive.name == "concatenate" and len(operands) == 1:
            results = operands
        elif _is_constant(operands, eqn.outvars):
            found = eqn.primitive.bind(*(v.constant for v in operands), **eqn.params)
            found = found if eqn.primitive.multiple_results else [found]
            results = [_value(v.aval, np.asarray(c)) for v, c in zip(eqn.outvars, found, strict=True)]
        else:
            results = [_value(v.aval) for v in eqn.outvars]
            operations.append(Operation(eqn.primitive.name, operands, results, eqn.params))
        known |= zip(eqn.outvars, results, strict=True)
    return read(jaxpr.outvars)


def _is_constant(operands: Sequence[Value], results: Sequence[Any]) -> bool:
    sizes: Iterator[Any] = (size for v in results for size in v.aval.shape)
    return all(v.constant is not None for v in operands) and all(isinstance(size, int) for size in sizes)
