#!/usr/bin/env bash
# A TPU pod slice, v5e-64: 16 hosts of 4 chips, a process on each host. NAME and ZONE are those of the slice;
# /shared is a file system that all hosts have mounted.
set -euo pipefail

gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command='
resnext-jax train --data /shared/imagenet --model resnext50_32x4d --dtype bfloat16 \
  --resize-size 256 --random-resized-crop 0.08 1.0 --flip \
  --batch-size 8192 --lr 0.1 --lr-base-size 256 --weight-decay 1e-4 --schedule cosine --epochs 90 \
  --out /shared/runs/imagenet --resume --distributed
'
