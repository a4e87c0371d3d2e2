"""Reading optimised HLO: what a compiler made of a program, without running it.

Only what the figures need is parsed: computations, the instructions in them, their shapes, the cycles that
the TPU compiler estimates, and the bytes that a GPU kernel reads and writes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "u64": 8, "s64": 8}
# Names for values, not work.
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Args:
        name: of the value.
        shape: type and dimensions, as HLO writes them; of tuples, all.
        opcode: what is done.
        operands: names of the values that it takes.
        text: the whole line.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    text: str

    def attribute(self, pattern: str) -> str | None:
        """First capture of a regular expression in the line."""
        found = re.search(pattern, self.text)
        return found[1] if found else None

    @property
    def called(self) -> str | None:
        """Name of the computation that a fusion calls."""
        return self.attribute(r"calls=%?([\w.\-]+)")

    @property
    def source(self) -> str:
        """Path of the JAX operation behind it, "" if the compiler does not say."""
        return self.attribute(r'op_name="([^"]*)"') or ""


class Program:
    """Optimised HLO.

    Args:
        text: of `compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if not line.startswith(" ") and (head := _HEAD.match(line)):
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                name, shape, opcode, arguments = found.groups()
                operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
                current.append(Instruction(name, shape, opcode, operands, line))

    def executed(self, computation: str | None = None, times: int = 1) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that runs, and how often: the entry's, and those of its loops."""
        for instruction in self.computations[computation or self.entry]:
            if instruction.opcode == "while":
                count = instruction.attribute(r'known_trip_count":\{"n":"(\d+)"') or "1"
                body = instruction.attribute(r"body=%?([\w.\-]+)")
                yield from self.executed(body, times * int(count))
            elif instruction.opcode not in FREE:
                yield instruction, times

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instruction, and those of the computations that it calls, at any depth."""
        yield instruction
        for inner in self.computations.get(instruction.called or "", ()):
            yield from self.inside(inner)


def convolution_kind(program: Program, instruction: Instruction) -> str | None:
    """ "grouped" or "dense" if a convolution runs in it, else None.

    The TPU compiler gives a grouped convolution a third window dimension, over the groups.
    """
    kind = None
    for inner in program.inside(instruction):
        if inner.opcode == "convolution" or "__cudnn$conv" in inner.text:
            # A product of matrices inside vmap is a convolution to the compiler too: augmentation.
            if "vmap()/dot_general" in inner.text:
                continue
            window = inner.attribute(r"window=\{size=([0-9x]+)") or ""
            groups = inner.attribute(r"(?:feature|batch)_group_count=(\d+)")
            if groups is not None or len(window.split("x")) == 3:
                return "grouped"
            kind = "dense"
    return kind


def tpu_cycles(instruction: Instruction) -> int | None:
    """Cycles that the TPU compiler estimates for an instruction; None if it gives none."""
    cycles = instruction.attribute(r'estimated_cycles":"(\d+)"')
    return None if cycles is None else int(cycles)


def without_estimate(program: Program) -> Counter[str]:
    """By opcode, bytes of the results of what the TPU compiler gives no cycles for.

    Copies that run beside other instructions (their starts and ends) are not among them, nor are scalars.
    """
    missing: Counter[str] = Counter()
    for instruction, times in program.executed():
        beside = instruction.opcode.endswith(("-start", "-done"))
        named = '"ConcatBitcast"' in instruction.text  # the parts of a copy, as one value
        if tpu_cycles(instruction) is None and not (beside or named or "[]" in instruction.shape):
            missing[instruction.opcode] += times * _bytes(instruction.shape)
    return missing


def tpu_seconds(program: Program, hertz: float) -> tuple[Counter[str], list[tuple[float, str, Instruction]]]:
    """Seconds that the TPU compiler estimates: by kind of operation; of each instruction, longest first."""
    by_kind: Counter[str] = Counter()
    rows = []
    for instruction, times in program.executed():
        if (cycles := tpu_cycles(instruction)) is None:
            continue
        kind = convolution_kind(program, instruction)
        kind = kind or ("copy" if _moves_only(program, instruction) else "other")
        seconds = cycles * times / hertz
        by_kind[kind] += seconds
        rows.append((seconds, kind, instruction))
    return by_kind, sorted(rows, key=lambda row: -row[0])


def moved_bytes(program: Program) -> tuple[Counter[str], list[tuple[float, str, Instruction]]]:
    """Bytes that a GPU's kernels read and write, by kind, and of each instruction, most first."""
    shapes = {i.name: i.shape for i in program.computations[program.entry]}
    by_kind: Counter[str] = Counter()
    rows = []
    for instruction, times in program.executed():
        arrays = [shapes[name] for name in instruction.operands if not shapes.get(name, "(").startswith("(")]
        moved = times * sum(map(_bytes, (instruction.shape, *arrays)))
        kind = _gpu_kind(program, instruction)
        by_kind[kind] += moved
        rows.append((float(moved), kind, instruction))
    return by_kind, sorted(rows, key=lambda row: -row[0])


def _gpu_kind(program: Program, instruction: Instruction) -> str:
    if kind := convolution_kind(program, instruction):
        return kind
    if instruction.opcode == "custom-call":
        return instruction.attribute(r'custom_call_target="([^"]+)"') or "custom-call"
    if instruction.opcode != "fusion":
        return instruction.opcode
    opcodes = {inner.opcode for inner in program.inside(instruction)}
    what = next((name for name in ("dot", "reduce", "transpose") if name in opcodes), "loop")
    return f"fusion: {what}"


def _moves_only(program: Program, instruction: Instruction) -> bool:
    moving = {"copy", "transpose", "reshape", "bitcast", "slice", "concatenate", "pad", "fusion", "convert"}
    return {inner.opcode for inner in program.inside(instruction)} - FREE <= moving


def _bytes(shape: str) -> int:
    total = 0
    for kind, dimensions in re.findall(r"(\w+)\[([0-9,]*)\]", shape):
        count = 1
        for size in filter(None, dimensions.split(",")):
            count *= int(size)
        total += count * BYTES.get(kind, 0)
    return total
