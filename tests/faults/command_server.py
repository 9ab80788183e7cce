"""Runs commands of sfplus in forked processes, which need no start-up time, with a fault at a chosen moment.

Reads requests from standard input, one JSON object per line, and answers with one: `start` gives the process ID, `wait`
its exit code, negative for a signal. A process gets its own folder, session and home, and writes `stdout` and `stderr`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.numpy

import sfplus

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SLOW_IMPORTS = (
    "matplotlib.pyplot", "onnxruntime", "onnxscript", "pooch", "requests", "timm",
    "torch.onnx._internal.exporter._core", "torch.utils.tensorboard", "torchvision", "sfplus.__main__",
)  # fmt: skip
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.utime", "os.truncate")


def on_changes(action: Callable[[], None], folder: Path) -> None:
    """Call a function before each change of a file below a folder: open for writing, fsync, rename, delete, mkdir."""
    prefix = str(folder)

    def below(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(prefix)  # noqa: PTH100 (of a file that may be missing)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and below(path):
                action()
        elif event in _CHANGES and below(arguments[0]):
            action()

    def with_action(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            action()
            return function(*arguments, **options)

        return call

    os.fsync = with_action(os.fsync)
    for module, name in ((pyarrow.parquet, "write_table"), (safetensors.numpy, "save_file")):
        setattr(module, name, with_action(getattr(module, name)))  # files that are not opened by Python
    sys.addaudithook(audit)


def install(fault: dict[str, Any], folder: Path) -> None:
    """Prepare the fault: `kill` or `errno` at the change number `change`, or when a file is longer than `bytes`."""
    if "bytes" in fault:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], resource.RLIM_INFINITY))
        if "errno" not in fault:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # dies in the middle of a write
        return
    count, lock = 0, threading.Lock()

    def on_change() -> None:
        nonlocal count
        with lock:
            count += 1
        if "log" in fault:
            with contextlib.suppress(OSError):
                os.pwrite(log, str(count).encode(), 0)
        elif "errno" in fault and count >= fault["change"]:
            raise OSError(fault["errno"], os.strerror(fault["errno"]))
        elif "errno" not in fault and count == fault["change"]:
            os.kill(os.getpid(), signal.SIGKILL)

    if "log" in fault:
        log = os.open(fault["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    on_changes(on_change, folder)


def run(request: dict[str, Any]) -> None:
    """Run a command in this process, which ends."""
    from sfplus.__main__ import main

    folder = Path(request["folder"])
    code: Any = 1
    try:
        os.chdir(folder)
        os.environ.update(request["environment"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(request[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.dup2(file, number)
            os.close(file)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for place, value in request["patches"].items():
            module, _, name = place.partition(":")
            setattr(importlib.import_module(module), name, value)
        if request["fault"]:
            install(request["fault"], folder)
        sys.argv = ["sfplus", *request["words"]]
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


def preload() -> None:
    """Import all modules, so that no command waits for an import."""
    for module in pkgutil.walk_packages(sfplus.__path__, "sfplus."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an optional extra
                importlib.import_module(module.name)
    for name in _SLOW_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def wait(pid: int, seconds: float) -> int:
    """Wait for a process, which is killed if it takes too long, and return its exit code."""
    timer = threading.Timer(seconds, os.killpg, (pid, signal.SIGKILL))
    timer.start()
    _, status = os.waitpid(pid, 0)
    timer.cancel()
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    preload()
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            pid = os.fork()
            if not pid:
                os.setsid()
                run(request)
            answer = pid
        else:
            answer = wait(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
