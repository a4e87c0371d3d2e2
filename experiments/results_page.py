"""The tables of experiments/README.md, from records of runs in experiments/results/.

    python experiments/results_page.py                 # print the tables
    python experiments/results_page.py RUN...          # first keep records of these run directories

A record is what a run's own files say: command, seed, data, accuracies by epoch, time. Of runs with the same
command but for seeds and folds the tables give mean +- standard deviation.
Hardware: any. Expected: the tables as they are in experiments/README.md.
"""

import json
import re
import shlex
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tyro.conf import Positional

from resnext_jax.training import saved_config

RESULTS = Path(__file__).parent / "results"

# The full-size command of every experiment, and what was reported of it.
FULL = {
    "monkeypox_resnext50.py --data MONKEYPOX": "86.5 % (371 of 429)",
    "monkeypox_crossval.py --data MONKEYPOX": "82.96 ± 4.57 %",
    "monkeypox_resnext50_sgd.py --data MONKEYPOX": "-",
    "cifar10_resnet18.py --data-dir TFDS": "74.4 %",
    "cifar10_resnext29.py --data-dir TFDS": "96.35 %",
    "cifar10_resnext29.py --data-dir TFDS --model resnext29_16x64d": "96.42 %",
    "transfer_resnext50.py --data FOLDER": "-",
    "folders_resnext50_full.py --data FOLDERS": "-",
    "imagenet_resnext50.py v1 --data-dir TFDS": "77.618 %",
    "imagenet_resnext50.py v2 --data-dir TFDS": "81.198 %",
}
# Flags that tell runs of one row apart, with the number of their values.
VARIED = {"--seed": 1, "--split-seed": 1, "--out": 1, "--overwrite": 0}

Record = dict[str, Any]


def main(runs: Positional[tuple[Path, ...]] = ()) -> None:
    """Keep records of runs, and print the tables.

    Args:
        runs: run directories.
    """
    for run in runs:
        keep(record(run))
    print(tables())


def record(run: Path) -> Record:
    """What the files of a run directory say about the run."""
    about, summary = (json.loads((run / name).read_text()) for name in ("config.json", "summary.json"))
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    config = saved_config(run)
    names = {config.data: Path(config.data).name.upper()}
    if config.data_dir is not None:
        names[str(config.data_dir)] = "TFDS"
    words = [names.get(word, word) for word in shlex.split(about["command"])]
    ended = datetime.fromtimestamp((run / "summary.json").stat().st_mtime, UTC)
    return {
        "command": shlex.join(without_varied(words)),
        "seeds": [config.seed, config.split_seed],
        "fold": config.fold and config.fold[0],
        "best_val_top1": round(summary["best_val_top1"], 4),
        **{
            name: [round(row[name], 4) for row in rows]
            for name in ("val_top1", "train_top1", "train_loss", "seconds")
        },
        **{name: summary[name] for name in ("train_images", "val_images")},
        "date": ended.date().isoformat(),
        "jax": about["versions"]["jax"],
    }


def without_varied(words: list[str]) -> list[str]:
    """A command without what differs between the runs of a row."""
    kept, skip = [], 0
    for word in words:
        skip = VARIED[word] + 1 if word in VARIED else skip
        if not skip:
            kept.append(word)
        skip = max(skip - 1, 0)
    return kept


def keep(new: Record) -> None:
    """Write a record to its experiment's file, in the place of an older one of the same run."""
    path = RESULTS / f"{Path(new['command'].split()[0]).stem}.json"
    path.parent.mkdir(exist_ok=True)
    identity = ("command", "seeds", "fold")
    old = json.loads(path.read_text()) if path.exists() else []
    kept = [each for each in old if any(each[name] != new[name] for name in identity)] + [new]
    kept.sort(key=lambda each: [str(each[name]) for name in identity])
    path.write_text("[\n" + ",\n".join(json.dumps(each) for each in kept) + "\n]\n")


def tables() -> str:
    """What was measured on all images and on some, and what was not run at full size yet, as Markdown."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for path in sorted(RESULTS.glob("*.json")):
        for each in json.loads(path.read_text()):
            groups[each["command"]].append(each)
    head = [
        "| command, after `python experiments/` | reported, full size | best epoch | last epoch | "
        "in training | runs | images | epochs | time a run |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    in_order = sorted(groups.items(), key=lambda item: full_size(item[0]) not in FULL)
    on_all, on_some = (
        [row(command, group) for command, group in in_order if ("--train-limit" in command) is limited]
        for limited in (False, True)
    )
    done = set(map(full_size, groups))
    waiting = [
        f"| `python experiments/{command}` | {reported} |"
        for command, reported in FULL.items()
        if command not in done
    ]
    return "\n".join(
        [
            *("On all training images:", "", *head, *on_all, ""),
            *("On some of them:", "", *head, *on_some, ""),
            *("Not run as reported yet:", "", "| full size | reported |", "|---|---:|", *waiting),
        ]
    )


def full_size(command: str) -> str:
    """A command without its compute type, which changes the time alone."""
    return re.sub(r" --dtype \w+", "", command)


def row(command: str, group: list[Record]) -> str:
    """A row of what was measured, of the runs of one command."""
    script = command.split()[0]
    reported = next(figure for full, figure in FULL.items() if full.startswith(script))
    counts = sorted({f"{each['train_images']:,} / {each['val_images']:,}" for each in group})
    what = "folds" if group[0]["fold"] is not None else "seeds" if len(group) > 1 else "seed"
    cells = [
        f"`{command}`",
        reported,
        percent([each["best_val_top1"] for each in group]),
        percent([each["val_top1"][-1] for each in group]),
        percent([each["train_top1"][-1] for each in group]),
        f"{len(group)} {what}",
        ", ".join(counts),
        str(len(group[0]["val_top1"])),
        f"{np.median([sum(each['seconds']) for each in group]) / 60:.1f} min",
    ]
    return f"| {' | '.join(cells)} |"


def percent(shares: list[float]) -> str:
    """Mean, and of several the standard deviation."""
    mean = f"{100 * np.mean(shares):.1f}"
    return f"{mean} ± {100 * np.std(shares, ddof=1):.1f} %" if len(shares) > 1 else f"{mean} %"


if __name__ == "__main__":
    tyro.cli(main)
