"""Published numbers reproduced on a GPU: `make gpu-records`.

The reproductions train at the same time, each in its own process (`reproduce.py run ID`), because
each of these small networks uses only a part of the GPU. On an H100, nanoGPT's configuration takes
2 minutes; the others take longer. Runs that exceed the time limit are stopped; the next call
resumes them. The exit code is 1 if a run fails otherwise.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORDS = [
    "gpt-shakespeare-nanogpt-gpu",
    "gan-mnist-parzen",
    "cgan-mnist-parzen",
    "dcgan-mnist-1nn",
    "vae-mnist-nll",
]


def main() -> None:
    """Run the reproductions and print their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", default=RECORDS, help="ids of the reproductions to run")
    parser.add_argument("--seconds", type=float, default=360, help="time limit in seconds")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    running = {
        name: subprocess.Popen(
            [sys.executable, "reproduce.py", "run", name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        for name in options.ids
    }
    failed = False
    for name, process in running.items():
        stopped = False
        try:
            said, _ = process.communicate(timeout=max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()  # train.py saves a checkpoint first
            stopped = True
            said, _ = process.communicate()
        path = ROOT / "results" / f"{name}.json"
        if process.returncode == 0:
            print(json.dumps(json.loads(path.read_text(encoding="utf-8"))), flush=True)
        else:
            outcome = "not finished" if stopped else "failed"
            failed |= not stopped
            print(f"{name}: {outcome}: {said.strip().splitlines()[-2:]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
