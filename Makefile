# Each target sets up what it needs in .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# The CUDA build of JAX where an NVIDIA GPU answers, the CPU build elsewhere.
CUDA := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo '[cuda12]')
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow lint format bench clean

demo: .venv/.run
	$(BIN)/resnext-jax train --data demo --model resnext14_32x4d --image-size 64 --epochs 8 --batch-size 32 \
	  --optimizer adam --lr 1e-3 --schedule cosine --flip --out checkpoints/demo --overwrite
	$(BIN)/resnext-jax evaluate checkpoints/demo

# Of many cores four are enough: a worker holds up to 2 GiB, and compiling uses more than one core by itself.
test: .venv/.test
	$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 --dist worksteal

test-slow: .venv/.test
	$(BIN)/python -m pytest -m slow

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.test
	$(BIN)/resnext-jax bench resnext50_32x4d --mode train --batch-size 8 --against torch

clean:
	rm -rf .venv

# Stamps: a set-up is repeated only when pyproject.toml changes.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.$(CUDA)'
	touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[test$(if $(CUDA),$(comma)cuda12)]'
	touch $@ .venv/.run

comma := ,
