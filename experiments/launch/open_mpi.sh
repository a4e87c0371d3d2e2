#!/usr/bin/env bash
# Open MPI 4: 2 hosts of 8 GPUs, a process for each GPU.
set -euo pipefail

mpirun -np 16 --host host0:8,host1:8 --map-by ppr:8:node --bind-to none \
  resnext-jax train --data /shared/imagenet --model resnext50_32x4d --dtype bfloat16 \
  --resize-size 256 --random-resized-crop 0.08 1.0 --flip \
  --batch-size 2048 --lr 0.1 --lr-base-size 256 --weight-decay 1e-4 --schedule cosine --epochs 90 \
  --out /shared/runs/imagenet --resume --distributed --workers 12
