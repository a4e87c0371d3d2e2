"""A table file as text, column by column."""

from __future__ import annotations

import codecs
import csv
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnext_jax.errors import BadInput, MissingPackage, listed

logger = logging.getLogger(__name__)

_YES, _NO = frozenset({"1", "1.0", "True", "true"}), frozenset({"0", "0.0", "False", "false"})


@dataclass(frozen=True)
class Cells:
    """The cells of a table.

    Args:
        file: where it was read from.
        cells: text of each cell, without white space around it, by column; "" for what is missing.
        lines: where each row stands in the file.
    """

    file: Path
    cells: dict[str, list[str]]
    lines: list[int]

    def where(self, rows: Sequence[int], column: str | None = None) -> str:
        """Some rows for a message, with what a column has there."""
        texts = [
            f"line {self.lines[row]}" + (f" ({self.cells[column][row]})" if column else "") for row in rows
        ]
        return listed(texts)

    def with_labels_of(self, columns: Sequence[str]) -> Cells:
        """The table with a column `label`: which of several columns of 0 and 1 has the 1.

        The table stays as it is if the columns hold anything else.

        Args:
            columns: those to look at.

        Raises:
            BadInput: a row has several 1, or none.
        """
        if len(columns) < 2 or any(not set(self.cells[name]) <= _YES | _NO for name in columns):
            return self
        labels = [
            [name for name in columns if self.cells[name][row] in _YES] for row in range(len(self.lines))
        ]
        if odd := [row for row, names in enumerate(labels) if len(names) != 1]:
            raise BadInput(
                f"{self.file}: columns {listed(columns)} hold 0 and 1 as classes do, but {len(odd)} rows "
                f"have several 1 or none: {self.where(odd)}; expected one 1 a row, or label_column"
            )
        logger.info("%s: its classes are the columns %s", self.file, listed(columns))
        return Cells(self.file, self.cells | {"label": [name for [name] in labels]}, self.lines)


def read_cells(file: Path) -> Cells:
    """Read a table: CSV (by commas, semicolons, tabs or bars), TSV or Parquet; its first row names columns.

    Raises:
        FileNotFoundError: there is no such file.
        BadInput: no such table, or no row in it.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such table")
    try:
        table = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_text(file)
    except (csv.Error, UnicodeError) as error:
        raise BadInput(f"{file}: not a table of text; save it as CSV in UTF-8 ({error})") from error
    if not table.lines:
        raise BadInput(
            f"{file}: no rows; expected a first row that names the columns, and a row for each image"
        )
    return table


def _read_text(file: Path) -> Cells:
    with file.open("rb") as stream:  # "Unicode text" of spreadsheets
        marked = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    with file.open(newline="", encoding="utf-16" if marked else "utf-8-sig") as stream:
        first = stream.readline()
        delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
            raise BadInput(f"{file}: two columns are called {listed(repeated)}; rename one")
        rows, lines = [], []
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise BadInput(
                    f"{file}, line {reader.line_num}: {len(row)} cells, but the first row names "
                    f"{len(header)} columns"
                )
            rows.append([cell.strip() for cell in row])
            lines.append(reader.line_num)
    columns = zip(header, zip(*rows, strict=True), strict=True) if rows else ()
    return Cells(file, {name: list(cells) for name, cells in columns if name}, lines)


def _read_parquet(file: Path) -> Cells:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingPackage(f"{file}: Parquet needs pyarrow ({error}): pip install pyarrow") from error
    try:
        schema = pq.read_schema(file)
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_boolean)
        kinds += (pa.types.is_integer, pa.types.is_floating)
        plain = [field.name for field in schema if any(kind(field.type) for kind in kinds)]
        table = pq.read_table(file, columns=plain)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{file}: not a Parquet file that can be read: {' '.join(str(error).split())}"
        ) from error

    def text(value: object) -> str:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return "" if missing else str(value).strip()

    cells = {name: [text(value) for value in table[name].to_pylist()] for name in plain}
    return Cells(file, cells, list(range(1, table.num_rows + 1)))
