"""Arithmetic that does not depend on the settings of the program around: deterministic, float32 without TF32."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch

from sfplus.io.threads import fork_safe_lock

_backends: Any = torch.backends
_OPERATIONS = [
    *(_backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul),
    *(_backends.mkldnn.conv, _backends.mkldnn.rnn, _backends.mkldnn.matmul),
]

_lock = fork_safe_lock()
_settings = contextlib.ExitStack()  # restores the settings of the process
_users: list[int] = []  # the threads that compute exactly at the moment, once per context


def _keep_own_thread() -> None:
    """Restore the settings in a forked process, unless the only thread that it has computes exactly."""
    _users[:] = [user for user in _users if user == threading.get_ident()]
    if not _users:
        _settings.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_own_thread)


@contextlib.contextmanager
def exact_arithmetic(device_type: str) -> Iterator[None]:
    """Compute deterministically, and in float32 without TF32 or bfloat16, outside of any autocast.

    Weights must not change inside, see `exact_settings`.

    Args:
        device_type: `cpu` or `cuda`, for autocast.
    """
    with exact_settings(), torch.autocast(device_type, enabled=False):
        yield


@contextlib.contextmanager
def exact_settings() -> Iterator[None]:
    """Let torch compute deterministically, and products of float32 without TF32 or bfloat16.

    These settings of torch belong to the process: the first thread that enters changes them, and the last one restores
    them. A forked process has them restored at once, unless the thread that forks is itself inside. Autocast is left
    as it is, for training: autocast keeps 16-bit copies of weights until its outermost context ends, so that inside
    one context, even a disabled one, all steps would compute with the weights of the first.
    """
    user = threading.get_ident()
    with _lock:
        if not _users:
            _settings.enter_context(_exact_settings())
        _users.append(user)
    try:
        yield
    finally:
        with _lock:
            _users.remove(user)
            if not _users:
                _settings.close()


@contextlib.contextmanager
def _exact_settings() -> Iterator[None]:
    """Change the settings by torch's new names; those by the old names agree, since torch refuses a mixture.

    Afterwards operations follow again the precision of their backend, or `torch.backends.fp32_precision`, where they
    did before. Torch does not tell two cases apart: an operation that was set to the very precision of its backend
    follows the backend from then on; and convolutions and recurrent layers of a program that has set nothing keep
    torch's default, TF32, as if it had been set for them, so that a later setting of all backends does not reach them.
    """
    convolutions = _by_old_name(lambda: _backends.cudnn.allow_tf32)
    products = _by_old_name(torch.get_float32_matmul_precision)
    precisions = [operation.fp32_precision for operation in _OPERATIONS]
    deterministic, benchmark = _backends.cudnn.deterministic, _backends.cudnn.benchmark
    try:
        _set_by_old_names(None if convolutions is None else False, products and "highest")
        for operation in _OPERATIONS:
            operation.fp32_precision = "ieee"
        _backends.cudnn.deterministic, _backends.cudnn.benchmark = True, False
        yield
    finally:
        _set_by_old_names(convolutions, products)
        for operation, precision in zip(_OPERATIONS, precisions, strict=True):
            operation.fp32_precision = "none"  # that of the backend, or of all backends
            if operation.fp32_precision != precision:
                operation.fp32_precision = precision
        _backends.cudnn.deterministic, _backends.cudnn.benchmark = deterministic, benchmark


def _by_old_name(read: Any) -> Any:
    """Return a setting, or None where the program has set it by its new name alone."""
    try:
        return read()
    except RuntimeError:
        return None


def _set_by_old_names(convolutions: bool | None, products: str | None) -> None:
    if convolutions is not None:
        _backends.cudnn.allow_tf32 = convolutions
    if products is not None:
        torch.set_float32_matmul_precision(products)
