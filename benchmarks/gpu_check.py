"""Checks of this template on a machine with a GPU, in at most 8 minutes: `make gpu-check`.

The parts, in this order:

- training: 50 updates of every recipe on embedded data, in fp32 and in bf16-mixed. Losses must be
  finite. The fp32 checkpoint is sampled on the CPU and on the device with the same seeds: images
  must agree to 1e-3 of their range, texts exactly. No line of code may wait for the device between
  two logged updates, except in Seq2Seq, whose packed sequences need lengths on the host.
- resuming: for every system, a run with `--trainer.deterministic true` is stopped after 10 of 20
  updates and resumed; its final state must equal that of an uninterrupted run bit for bit.
- graphs: the weights of every system with `--graph_updates` must agree with those without, in the
  median over parameters, to 1e-3 of a parameter's standard deviation. A stopped and resumed run
  with graphs must equal an uninterrupted one bit for bit.
- distributed: the final state with DDP or FSDP2 in one process must equal that of a run without a
  parallel strategy bit for bit.
- speed: updates per second of `train.py`, of `train.py --updates_per_step 1`, of `train.py
  --graph_updates` and of a plain loop with the data on the device, in turns, and of `train.py
  --compile inductor`.

Every check runs in its own process. The checks of one part run in parallel, except for speed.
Results are written after each check, as JSON and as Markdown. A check that has passed is not run
again if commit, device and PyTorch are the same and no change is uncommitted: an interrupted run
continues. `--device cpu --tiny` tests the script itself.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from benchmarks.device_checks import PARTS, Result, Settings
from callbacks.run_files import origin

FORKS = multiprocessing.get_context("forkserver")


def perform(part: str, name: str, settings: Settings, folder: str) -> None:
    """Run one check in its own process; write its result and its output to files in `folder`."""
    with open(Path(folder, "output.txt"), "w", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        if part != "speed":  # other checks run at the same time
            torch.set_num_threads(1)
            os.environ["OMP_NUM_THREADS"] = "1"  # otherwise Lightning's DDP sets this variable
        result = PARTS[part][0](name, settings)
    Path(folder, "result.json").write_text(json.dumps(result), encoding="utf-8")


def run_check(part: str, name: str, settings: Settings) -> Result:
    """Run one check in a fork of a process that has all imports, and return its result."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        process = FORKS.Process(target=perform, args=(part, name, settings, folder))
        process.start()
        process.join()
        if Path(folder, "result.json").exists():
            result: Result = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
        else:
            said = Path(folder, "output.txt").read_text(encoding="utf-8").strip().splitlines()
            errors = [line for line in said if "error" in line.lower()]
            result = {"passed": False, "error": errors[-8:] or said[-8:]}
    return result | {"seconds": round(time.perf_counter() - begin, 1)}


def pending(settings: Settings, results: Result) -> Iterator[tuple[str, list[str]]]:
    """Yield each part with the names of its checks that have not passed yet."""
    for part in settings.parts:
        _, names = PARTS[part]
        done = {name for name, one in results.get(part, {}).items() if one["passed"]}
        yield part, [name for name in names() if name not in done]


def report(results: Result) -> str:
    """Format all results as Markdown."""
    lines = [f"# GPU check: {results['device']}", "", f"PyTorch {results['torch']}", ""]
    for part in PARTS:
        checks: Result = results.get(part, {})
        if checks:
            passed = sum(one["passed"] for one in checks.values())
            lines += [f"## {part}: {passed} of {len(checks)} passed", "", "| check | result |"]
            lines += ["|---|---|"]
        for name, one in sorted(checks.items()):
            figures = {key: value for key, value in one.items() if key != "passed"}
            sign = "" if one["passed"] else "**failed** "
            lines.append(f"| {name} | {sign}{json.dumps(figures)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run all checks that have not passed yet, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="device as named by PyTorch")
    parser.add_argument("--tiny", action="store_true", help="run few updates of small networks")
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="parts to run"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu-check"), help="folder of the results"
    )
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 4), help="checks run in parallel"
    )
    settings = parser.parse_args(namespace=Settings())
    os.environ["DEBUG"] = "1"  # failed checks print tracebacks
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    FORKS.set_forkserver_preload(["benchmarks.device_checks", "train", "cli.training"])
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "gpu-check.json"
    card = "CPU" if settings.device == "cpu" else torch.cuda.get_device_name()
    results = setup = {
        **{"device": card, "torch": torch.__version__, "tiny": settings.tiny},
        **{name: origin()[name] for name in ("git_commit", "git_dirty")},
    }
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if {name: before.get(name) for name in setup} == setup and not setup["git_dirty"]:
            results = before
        else:
            print("earlier results are of another commit or device: all checks run again")
    for part, names in pending(settings, results):
        with ThreadPoolExecutor(1 if part == "speed" else settings.jobs) as pool:
            waiting = {pool.submit(run_check, part, name, settings): name for name in names}
            for done in as_completed(waiting):
                name = waiting[done]
                results.setdefault(part, {})[name] = result = done.result()
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                path.with_suffix(".md").write_text(report(results), encoding="utf-8")
                print(part, name, "passed" if result["passed"] else "FAILED", flush=True)
    print(report(results))
    sys.exit(not all(one["passed"] for part in PARTS for one in results.get(part, {}).values()))


if __name__ == "__main__":
    main()
