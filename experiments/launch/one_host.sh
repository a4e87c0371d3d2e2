#!/usr/bin/env bash
# One host of 8 GPUs: one process uses them all. Repeated, it goes on where it stopped.
set -euo pipefail

resnext-jax train --data /data/imagenet --model resnext50_32x4d --dtype bfloat16 \
  --resize-size 256 --random-resized-crop 0.08 1.0 --flip \
  --batch-size 1024 --lr 0.1 --lr-base-size 256 --weight-decay 1e-4 --schedule cosine --epochs 90 \
  --out checkpoints/imagenet --resume
