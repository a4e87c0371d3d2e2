"""The library of the C++ kernels: warnings of its compiler, its cache, and what happens without it."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from resnext_jax.ops import cpp_library

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kernels are built on Linux and macOS only")


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """The library, as the machine's compiler builds it."""
    if not shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]):
        pytest.skip("no C++ compiler")
    strict = [*cpp_library._compiler(), "-Wall", "-Wextra", "-Werror"]
    try:
        return cpp_library._build(strict, tmp_path_factory.mktemp("built"), "version").read_bytes()
    except subprocess.CalledProcessError as error:
        pytest.fail(f"the kernels do not compile without warnings:\n{error.stderr}")


@pytest.fixture
def compiler(content, tmp_path, monkeypatch) -> Path:
    """A compiler that takes no time: whatever it is given, it writes the library."""
    (tmp_path / "library").write_bytes(content)
    script = tmp_path / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        "for last; do :; done\n"
        '[ "$last" = --version ] && exit\n'
        f'echo compiled >> {tmp_path}/log; cp {tmp_path}/library "$last"\n'
    )
    script.chmod(0o700)
    monkeypatch.setenv("CXX", str(script))
    return script


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "cache"
    path.mkdir(mode=0o1777)
    monkeypatch.setenv("RESNEXT_JAX_CACHE", str(path))
    return path


@pytest.fixture
def load(caplog):
    """Load the library as a new process would: whether there is one, and the lines that were logged."""

    def load() -> tuple[bool, list[str]]:
        caplog.clear()
        library = cpp_library._library.__wrapped__()
        assert library is None or library.functions.resnext_jax_lanes() in (4, 8, 16)
        return library is not None, caplog.messages

    return load


@pytest.fixture
def kept(compiler, cache, load) -> Path:
    """The file of the library in the cache."""
    assert load() == (True, [])
    (file,) = cache.rglob("*.so")
    return file


def builds(compiler: Path) -> int:
    return len((compiler.parent / "log").read_text().splitlines())


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RESNEXT_JAX_KERNELS": "0"}, ""),
        ({"CXX": "no-such-compiler"}, "no C++ compiler no-such-compiler"),
        ({"CXX": "false"}, "no C++ kernels"),
        ({"CXX": "true"}, "no C++ kernels"),
        ({"CXX": ""}, "CXX= names no compiler"),
        ({"CXX": "'c++"}, "CXX='c++: No closing quotation"),
        ({"RESNEXT_JAX_CXXFLAGS": '"-O1'}, 'RESNEXT_JAX_CXXFLAGS="-O1: No closing quotation'),
    ],
    ids=["off", "no compiler", "failing compiler", "idle compiler", "empty", "open quote", "flags"],
)
def test_there_is_no_library(environment, words, cache, load, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, lines = load()
    assert not found
    assert len(lines) == bool(words)
    assert words in "".join(lines)
    assert "\n" not in "".join(lines)
    assert not list(cache.rglob("*.so"))


SCRIPT = """
import jax.numpy as jnp
from resnext_jax.ops import conv_general_dilated, cpp_kernels
x, w = jnp.ones((1, 5, 5, 8)), jnp.ones((3, 3, 8, 8))
y = conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
print(cpp_kernels.lanes(), y[0, 2, 2, 0])
"""


def test_operators_do_without(cache, monkeypatch):
    monkeypatch.setenv("CXX", "'")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "72.0"]
    assert len(done.stderr.splitlines()) == 1


def test_library_is_built_once_and_for_its_user_alone(compiler, cache, load):
    umask = os.umask(0)
    try:
        assert load() == (True, [])
    finally:
        os.umask(umask)
    (file,) = cache.rglob("*.so")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o700, 0o700]
    assert load() == (True, [])
    assert builds(compiler) == 1


DAMAGE = {
    "one bit": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_library_is_built_again(damage, kept, content, compiler, load):
    kept.unlink()  # not written to: this process has it loaded
    kept.write_bytes(DAMAGE[damage](content))
    found, (line,) = load()
    assert found
    assert f"{kept} are damaged" in line
    assert kept.read_bytes() == content
    assert load() == (True, [])
    assert builds(compiler) == 2


def test_folder_that_is_open_to_others_is_closed(kept, load):
    kept.parent.chmod(0o777)
    assert load() == (True, [])
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files to another user"
)
SOMEBODY = 12345


@needs_root
def test_library_of_another_user_is_not_loaded(kept, compiler, load):
    os.chown(kept, SOMEBODY, SOMEBODY)
    found, (line,) = load()
    assert found
    assert "damaged" in line
    assert kept.stat().st_uid == os.geteuid()
    assert builds(compiler) == 2


@pytest.mark.parametrize(
    "planted", [pytest.param("folder of another user", marks=needs_root), "link", "file in the way"]
)
def test_library_is_built_in_private_if_the_cache_is_not(planted, kept, compiler, load):
    """Nothing is loaded from a folder that somebody else may write, nor written there."""
    folder = kept.parent
    if planted == "folder of another user":
        os.chown(folder, SOMEBODY, SOMEBODY)
    elif planted == "link":
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")
    else:
        shutil.rmtree(folder)
        folder.touch()
    before = sorted(folder.parent.rglob("*"))
    for count in (2, 3):
        found, (line,) = load()
        assert found
        assert "built anew in each process" in line
        assert "RESNEXT_JAX_CACHE" in line
        assert builds(compiler) == count
    assert sorted(folder.parent.rglob("*")) == before
