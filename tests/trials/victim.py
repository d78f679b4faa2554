"""Training run that kills itself with SIGKILL at the N-th pass of a point in the code.

Usage: victim.py checkpoint|validation|turn N <arguments of train.py>
"""

import os
import signal
import sys
from typing import Any

import torch

import train
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.module import GenerativeModule

place, count, *argv = sys.argv[1:]
calls = 0


def die_at_last_call() -> None:
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)


if place == "checkpoint":
    save = torch.save

    def save_half(content: Any, file: Any) -> None:
        save(content, file)
        file.truncate(file.tell() // 2)  # half of the bytes are on disk at the kill
        file.flush()
        die_at_last_call()
        file.seek(0)
        file.truncate()
        save(content, file)

    torch.save = save_half
elif place == "turn":
    answer = AdversarialModule._generator_backward

    def kill_before_generator(self: Any, *arguments: Any) -> None:
        die_at_last_call()  # D is updated, G is not yet
        answer(self, *arguments)

    AdversarialModule._generator_backward = kill_before_generator
else:
    begin = GenerativeModule.on_validation_batch_start

    def kill_before_validation(self: Any, *arguments: Any) -> None:
        die_at_last_call()
        begin(self, *arguments)

    GenerativeModule.on_validation_batch_start = kill_before_validation  # type: ignore[method-assign]
sys.exit(train.main(argv))
