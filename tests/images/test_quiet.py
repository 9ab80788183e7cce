"""The warnings of Pillow do not reach people, and the warnings of a program are as before."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier

from sfplus.errors import PhotoError
from sfplus.images import decode_photo
from sfplus.images.quiet import IgnoredWarnings


def encode(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def damaged_exif() -> bytes:
    return encode("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\xff\0\0\xf0\0\0\0")


def malformed_mpo() -> bytes:
    content = encode("JPEG")
    return content[:2] + b"\xff\xe2\x00\x10MPF\0II*\0\x08\0\0\0\0\0" + content[2:]


def invalid_apng() -> bytes:
    content = encode("PNG")
    return content[:33] + b"\0\0\0\x08acTL" + bytes(8) + b"\x00\x00\x00\x00" + content[33:]


PHOTOS = {"damaged EXIF": damaged_exif, "malformed MPO": malformed_mpo, "invalid APNG": invalid_apng}


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("action", ["default", "always", "error"])
def test_decoding_shows_no_warning_whatever_the_filters(name: str, action: str) -> None:
    content = PHOTOS[name]()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter(action)  # type: ignore[arg-type]
        try:
            assert decode_photo(content, Path("a")).shape == (24, 32, 3)
        except PhotoError as error:
            assert "Warning" not in str(error)
        assert shown == []


def test_a_program_sees_nothing_on_standard_error() -> None:
    code = f"""
from pathlib import Path
from sfplus.images import decode_photo
decode_photo({damaged_exif()!r}, Path("a"))
"""
    process = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr == ""


def test_the_warnings_of_the_program_and_of_other_threads_are_shown() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def decode() -> None:
        with IgnoredWarnings():
            inside.set()
            go_on.wait()
            warnings.warn("of this thread", stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        thread = threading.Thread(target=decode)
        thread.start()
        inside.wait()
        warnings.warn("of another thread", stacklevel=1)
        with Image.open(io.BytesIO(damaged_exif())) as image:
            image.getexif()  # the program's own use of Pillow
        go_on.set()
        thread.join()
        warnings.warn("afterwards", stacklevel=1)
    # the garbage collector may report files that other tests left open at any time
    texts = [str(warning.message) for warning in shown if warning.category is not ResourceWarning]
    assert texts[0] == "of another thread" and texts[-1] == "afterwards"
    assert len(texts) > 2  # Pillow's own, whose words differ between its versions
    assert "of this thread" not in texts


def test_the_filters_of_a_program_stay_as_they_are() -> None:
    def filters() -> list[object]:
        return [entry for entry in warnings.filters if entry[0] != "ignore" or entry[2] is not Warning]

    with warnings.catch_warnings():
        before = filters()
        for _ in range(5):
            warnings.simplefilter("error")
            warnings.simplefilter("default")
            decode_photo(encode("PNG"), Path("a"))
        after = filters()
    assert [entry for entry in after if entry in before] == before
    with warnings.catch_warnings():
        count = len(warnings.filters)
        for _ in range(5):
            warnings.filterwarnings("error", message="never")
            decode_photo(encode("PNG"), Path("a"))
        assert len(warnings.filters) <= count + 2


def test_contexts_may_be_nested_and_left_by_exceptions() -> None:
    def fail() -> None:
        with IgnoredWarnings(), IgnoredWarnings():
            raise ValueError

    call: Callable[[], None] = fail
    with pytest.raises(ValueError):
        call()
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)


def test_scikit_learn_still_copies_the_filters_to_its_threads() -> None:
    decode_photo(encode("PNG"), Path("a"))
    assert pickle.loads(pickle.dumps(warnings.filters)) and copy.deepcopy(warnings.filters)
    values = np.arange(40.0).reshape(20, 2)
    forest = RandomForestClassifier(n_estimators=2, n_jobs=2).fit(values, values[:, 0] > 10)
    assert forest.predict(values).shape == (20,)
