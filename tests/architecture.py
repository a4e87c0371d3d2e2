"""The list of files in resnext_jax/README.md, from the first sentence of each.

Run:  python tests/architecture.py    after a file was added, renamed or described anew
"""

import ast
import re
from pathlib import Path

from test_layout import FLOORS, PACKAGE

PAGE = PACKAGE / "README.md"
BEGIN, END = "<!-- files: written by tests/architecture.py -->\n", "<!-- end of files -->\n"


def page() -> str:
    """The page with its list of files as they are now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(map(section, FLOORS)) + "\n" + END + after


def section(part: str) -> str:
    """A part: its own sentence, and a row for each of its files."""
    folder = PACKAGE / part
    if not folder.is_dir():
        return f"**{part}.py** {sentence(folder.with_suffix('.py'))}\n"
    lines = [f"**{part}/** {sentence(folder / '__init__.py')}", "", "| file | |", "|---|---|"]
    files = sorted(file for file in folder.rglob("*") if file.suffix in {".py", ".h", ".cc"})
    for file in files:
        name = file.relative_to(folder).as_posix().removesuffix("/__init__.py")
        if name != "__init__.py":
            lines.append(f"| {name}{'/' if file.name == '__init__.py' else ''} | {sentence(file)} |")
    return "\n".join(lines) + "\n"


def sentence(file: Path) -> str:
    """The first sentence of a module's docstring, or of a C++ file's first comment."""
    text = file.read_text()
    if file.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"(?://.*\n)+", text)
        text = re.sub(r"^// ?", "", comment[0], flags=re.MULTILINE) if comment else ""
    first = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
    return re.split(r"(?<=[.])\s+(?=[A-Z])", first)[0]


if __name__ == "__main__":
    PAGE.write_text(page())
