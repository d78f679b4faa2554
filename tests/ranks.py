"""Processes of distributed tests: forks of a server that has imported everything.

Importing PyTorch and Lightning takes longer than a tiny run. The fork server of multiprocessing
imports them once per session, before any thread starts or generator is used. Every run uses new
forks, so no state passes from one run to the next.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from tests.runs import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["tests.ranks", "tests.parallel", "train", "torch.nn.parallel", "torch.distributed"]
)
SECONDS = 300


def fork(
    function: Callable[..., int],
    *arguments: Any,
    count: int,
    log: Path,
    seconds: float = SECONDS,
) -> None:
    """Call `function` in new processes and wait until all of them have ended.

    Args:
        function: Function at the top level of a module; returns the exit code.
        *arguments: Arguments of `function`.
        count: Number of processes; several processes form a distributed run.
        log: Folder of the output of each process, `rank<number>.txt`.
        seconds: Time limit of all processes together, in seconds.

    Raises:
        AssertionError: If a process fails or exceeds the limit, with the end of each output. All
            processes are killed first.
    """
    log.mkdir(parents=True, exist_ok=True)
    world = {}
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes: list[Any] = []
    end, late = time.monotonic() + seconds, False
    try:
        with pytest.MonkeyPatch.context() as patch:  # inherited by the server when it starts
            patch.chdir(ROOT)
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("OMP_NUM_THREADS", "1")
            for rank in range(count):
                place = {**world, "NODE_RANK": "0", "LOCAL_RANK": str(rank)} if world else {}
                task = ({**os.environ, **place}, log / f"rank{rank}.txt", rank, function, arguments)
                process = SERVER.Process(target=_begin, args=task)
                process.start()
                processes.append(process)
        running = processes
        while running and not late and not any(process.exitcode for process in processes):
            late = not wait([process.sentinel for process in running], end - time.monotonic())
            running = [process for process in running if process.exitcode is None]
    finally:
        for process in processes:  # others would wait for a failed one
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    if late or any(codes):
        what = f"not done in {seconds} s" if late else f"exit codes {codes}"
        said = [
            f"{path.name}: {path.read_text(encoding='utf-8')[-3000:]}"
            for path in sorted(log.glob("rank*"))
        ]
        raise AssertionError("\n".join([what, *said]))


def _begin(
    environment: dict[str, str],
    log: Path,
    rank: int,
    function: Callable[..., int],
    arguments: tuple[Any, ...],
) -> None:
    """Run `function` in a forked process, with its output in `log`, and exit with its code."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    rank_zero_only.rank = rank  # Lightning read LOCAL_RANK in the server, where it is not set
    code = function(*arguments)
    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 hosts the store and must end last
        torch.distributed.destroy_process_group()
    sys.exit(code)


def train(argv: list[str]) -> int:
    """Run `python train.py` with these arguments."""
    from train import main

    sys.argv = ["train.py", *argv]
    return main(argv)
