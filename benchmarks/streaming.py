"""Memory, waiting time and exact resume of a training on generated shards: 10 minutes with 5 GB.

    python benchmarks/streaming.py --gb 5 --out DIR

A DCGAN of 64 pixels trains on JPEG files in shards. The script measures the largest resident memory
of the run with its loader processes, and the time outside of training steps, which includes waiting
for batches. Times are medians, since saves of checkpoints are outside of steps too. A second run is
killed with SIGKILL and resumed. Its weights must have the same bits.
"""

import argparse
import csv
import io
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from common.progress import track

IMAGES, SIZE, SHARD = 500, 176, 100 * 10**6


def generate(out: Path, size: int) -> None:
    """Write shards of `size` bytes with JPEG files of about 20 kB, of which 500 are different."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=88)
        files.append(buffer.getvalue())
    mean = sum(map(len, files)) / IMAGES
    print(f"{IMAGES} images of {mean / 1000:.1f} kB on average")
    per_shard = int(SHARD / (mean + 1024))
    for number in track(range(max(2, size // SHARD)), "writing shards"):
        split = "val" if number == 0 else "train"
        with tarfile.open(out / f"{split}-{number:06d}.tar", "w") as tar:
            for key in range(per_shard):
                info = tarfile.TarInfo(f"{number:06d}{key:06d}.jpg")
                content = files[(number * per_shard + key) % IMAGES]
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def resident(pid: int) -> int:
    """Return the resident memory of a process and of its children, in bytes; 0 if it has ended.

    Pages that several processes share are counted once for each of them.
    """
    try:
        kibibytes = sum(
            int(line.split()[1])
            for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
            if line.startswith("VmRSS")
        )
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return 0
    return 1024 * kibibytes + sum(resident(int(child)) for child in children)


def train(run: Path, argv: list[str], kill_at: int | None = None) -> int:
    """Train in a new process; kill it at an update. Return the largest resident memory in bytes."""
    process = subprocess.Popen(
        [sys.executable, "train.py", "fit", "--run_dir", str(run), *argv], cwd=ROOT
    )
    largest = 0
    while process.poll() is None:
        largest = max(largest, resident(process.pid))
        if kill_at is not None and len(rows(run)) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return largest
        time.sleep(0.2)
    if kill_at is not None:
        raise SystemExit("the run has ended before it could be killed; give more --steps")
    if process.returncode:
        raise SystemExit(f"train.py has failed with code {process.returncode}")
    return largest


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's throughput.csv, one per update."""
    path = run / "throughput.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=5.0, help="size of the shards in GB")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards and runs")
    parser.add_argument("--steps", type=int, default=60, help="number of updates of each run")
    options = parser.parse_args()
    shards = options.out / "shards"
    if not shards.is_dir():
        shards.mkdir(parents=True)
        generate(shards, int(options.gb * 10**9))
    argv = ["--config", "configs/dcgan/shards.yaml", "--data.folder", str(shards)]
    argv += ["--data.root", str(options.out), "--data.num_workers", "1", "--model.width", "32"]
    argv += ["--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "1"]
    argv += ["--trainer.max_steps", str(options.steps), "--trainer.accelerator", "cpu"]
    argv += ["--checkpoint.every_n_train_steps", "10", "--previews.every_n_train_steps", "100000"]
    largest = train(options.out / "whole", argv)
    train(options.out / "killed", argv, kill_at=options.steps // 2)
    train(options.out / "killed", ["--ckpt_path", "last"])
    whole, killed = (
        torch.load(options.out / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    )
    same = all(torch.equal(value, killed[name]) for name, value in whole.items())
    later = rows(options.out / "whole")[options.steps // 6 :]
    seconds = statistics.median(float(row["seconds"]) for row in later)
    outside = statistics.median(float(row["seconds_outside_steps"]) for row in later)
    total = sum(path.stat().st_size for path in shards.glob("*.tar"))
    print(f"shards: {total / 1e9:.2f} GB, {len(list(shards.glob('*.tar')))} files")
    print(f"largest resident memory of the run and its loader: {largest / 1e9:.2f} GB")
    print(f"median update: {seconds:.2f} s, and outside of steps {outside / seconds:.1%} of it")
    print(f"killed and resumed run: {'the same bits' if same else 'OTHER WEIGHTS'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
