"""Pickles read as data: nothing that they name is imported, and only given functions are called."""

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, Protocol, cast


class ByteStream(Protocol):
    """What pickles are read from."""

    def read(self, n: int = -1, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Refused(Exception):
    """A pickle names something that it may not: the message is the dotted name, nothing was run."""


class Damaged(Exception):
    """Not a pickle, or one whose parts do not fit."""


class Call:
    """What a dotted name in a pickle stands for, if the pickle may call it.

    Args:
        function: takes values of the pickle; it must be safe whatever they are.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function


class Stateful:
    """A value that the pickle may complete after it made it."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


# Opcodes whose argument is the value itself.
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_LITERALS = _NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PLAIN_KEYS = (str, int, float, bytes, type(None))
_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    struct.error,
    RecursionError,
    MemoryError,
)


def read_pickle(stream: ByteStream, names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle that a stream is at; the stream is left behind it.

    Sets become lists, and entries of dictionaries whose key is not plain are left out: hashing a tuple of
    tuples could take for ever.

    Args:
        stream: whose `read(n)` takes no memory for what is not there, such as a `BytesIO` or an `mmap`.
        names: what dotted names in the pickle stand for: a `Call`, or any other value as it is.
        persistent: what a persistent id stands for.

    Raises:
        Refused: a name that is not among `names`.
        Damaged: no pickle.
    """
    machine = _Machine(names, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            machine.step(opcode.name, argument)
        return machine.stack[-1]
    except _ERRORS as error:
        raise Damaged(str(error)) from None


class _Machine:
    """The stack machine of the pickle format, with the part of its opcodes that plain values need."""

    def __init__(self, names: Mapping[str, Any], persistent: Callable[[Any], Any]):
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            stack.append(_EMPTY[opcode]())
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            items = tuple(stack[-count:])
            if len(items) != count:
                raise IndexError("too few values")
            stack[-count:] = [items]
        elif (method := getattr(self, f"_{opcode.lower()}", None)) is not None:
            method(argument)
        else:
            raise ValueError(f"{opcode} is not expected here")

    def _proto(self, _: Any) -> None: ...

    _frame = _stop = _proto

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _items(self) -> list[Any]:
        """The values above the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def _pop(self, _: Any) -> None:
        self.stack.pop() if self.stack else self._items()

    def _pop_mark(self, _: Any) -> None:
        self._items()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        self._push(tuple(self._items()))

    def _list(self, _: Any) -> None:
        self._push(list(self._items()))

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        items = self._items()
        self._push({})
        self._set(items)

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        items = self._items()
        self._top(list).extend(items)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._items())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, _PLAIN_KEYS):
                target[key] = value

    def _global(self, name: str) -> None:
        dotted = name.replace(" ", ".", 1)
        if dotted not in self.names:
            raise Refused(dotted)
        self._push(self.names[dotted])

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self._global(f"{module} {name}")

    def _inst(self, name: str) -> None:
        raise Refused(name.replace(" ", ".", 1))

    def _reduce(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Call) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self._push(called.function(*arguments))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stateful):
            target.set_state(state)
        elif not isinstance(target, dict):  # of a dictionary: attributes, such as a state dict's _metadata
            raise ValueError("a state of what has none")

    def _binpersid(self, _: Any) -> None:
        self._push(self.persistent(self.stack.pop()))

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _top(self, kind: type) -> Any:
        top = self.stack[-1]
        if not isinstance(top, kind):
            raise TypeError(f"a {type(top).__name__} where a {kind.__name__} belongs")
        return top
