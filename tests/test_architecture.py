"""The architecture page: every file is on it, and every environment variable."""

import re

import architecture
from test_layout import PACKAGE


def test_the_page_lists_the_files_as_they_are():
    assert architecture.PAGE.read_text() == architecture.page(), "run: python tests/architecture.py"


def test_every_file_has_a_sentence():
    for file in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.h"), *PACKAGE.rglob("*.cc")]:
        assert architecture.sentence(file).endswith("."), f"{file}: expected a first sentence"


def test_every_environment_variable_is_on_the_page():
    read = re.compile(r'environ(?:\.get\(|\[)\s*"([A-Z_]+)"|"(RESNEXT_JAX_[A-Z_]+)"')
    texts = (file.read_text() for file in PACKAGE.rglob("*.py"))
    found = {one or other for text in texts for one, other in read.findall(text)}
    assert {"RESNEXT_JAX_CACHE", "RESNEXT_JAX_GROUPED", "CXX"} <= found
    page = architecture.PAGE.read_text()
    assert not {name for name in found if f"`{name}" not in page}
