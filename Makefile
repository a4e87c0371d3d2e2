# Each target sets up what it needs in .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# The CUDA build of JAX where an NVIDIA GPU answers, the CPU build elsewhere.
CUDA := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo '[cuda12]')
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

KERNELS := resnext_jax/ops/kernels/*

.PHONY: demo test test-slow test-lowest test-py312 sanitize check lint types format bench clean

demo: .venv/.run
	$(BIN)/resnext-jax train --data demo --model resnext14_32x4d --image-size 64 --epochs 8 --batch-size 32 \
	  --optimizer adam --lr 1e-3 --schedule cosine --flip --out checkpoints/demo --overwrite
	$(BIN)/resnext-jax evaluate checkpoints/demo

# Of many cores four are enough: a worker holds up to 2 GiB, and compiling uses more than one core by itself.
test: .venv/.test
	$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 --dist worksteal

test-slow: .venv/.test
	$(BIN)/python -m pytest -m slow

# One file or two of each part: do they hold with the oldest packages that pyproject.toml allows, and the newest?
SUBSET := $(addprefix tests/test_,layout.py cli.py data_pipeline.py data_tfds.py models.py ops_kernels.py reports.py \
  training_fit.py weights_files.py weights_state_dict.py)

test-lowest: .venv-lowest/.test
	.venv-lowest/bin/python -m pytest -m "not slow" $(SUBSET)

test-py312: .venv-py312/.test
	.venv-py312/bin/python -m pytest -m "not slow" $(SUBSET)

# The tests of the C++ kernels under GCC's address and undefined-behaviour sanitizers. Python is not built for them,
# so they are preloaded. The first command fails if there are no kernels; the tests would skip.
SANITIZED := RESNEXT_JAX_CACHE=$(abspath .venv/sanitized) ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
  RESNEXT_JAX_CXXFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all' \
  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)"
sanitize: .venv/.test
	$(SANITIZED) $(BIN)/python -c 'from resnext_jax.ops import cpp_kernels; assert cpp_kernels.lanes()'
	$(SANITIZED) $(BIN)/python -m pytest --capture=no -p no:faulthandler tests/test_ops_kernels.py tests/test_ops_bfloat16.py \
	  tests/test_ops_conv_affine.py

check: lint types

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(KERNELS)

types: .venv/.test
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: .venv/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(KERNELS)

bench: .venv/.test
	$(BIN)/resnext-jax bench resnext50_32x4d --mode train --batch-size 8 --against torch

clean:
	rm -rf .venv .venv-lowest .venv-py312

# Stamps: a set-up is repeated only when pyproject.toml changes.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.$(CUDA)'
	touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[test$(if $(CUDA),$(comma)cuda12)]'
	touch $@ .venv/.run

.venv-lowest/.test: pyproject.toml .ci/lowest.py
	python3.11 -m venv --clear .venv-lowest
	python3.11 .ci/lowest.py > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --requirement .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv-py312/.test: pyproject.toml
	python3.12 -m venv --clear .venv-py312
	.venv-py312/bin/python -m pip install --quiet --upgrade pytest pytest-xdist[psutil] hypothesis --editable .
	touch $@

comma := ,
