"""The .bin files of insightface are read without running any code in them."""

import io
import os
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from slow_cases import mostly_slow, partly_slow

from sfplus.datasets.pairs import read_pairs
from sfplus.datasets.verification_bin import read_bin, unpack_bin
from sfplus.errors import PairsError
from sfplus.images import read_photo


def photo(shade: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, form)
    return file.getvalue()


PHOTOS = [photo(10 * i) for i in range(6)]
LABELS = [True, False, True]
PYTHON_2 = (  # what Python 2's pickle writes for (['ab', 'c' * 300], [True]) by protocol 2, and by protocol 1
    b"\x80\x02]q\x00(U\x02abq\x01T\x2c\x01\x00\x00" + b"c" * 300 + b"q\x02e]q\x03\x88a\x86q\x04.",
    b"(]q\x00(U\x02abq\x01T\x2c\x01\x00\x00" + b"c" * 300 + b"q\x02e]q\x03I01\natq\x04.",
)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_reads_pickles_of_python_3(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((PHOTOS, LABELS), protocol))
    verification_set = read_bin(path)
    assert verification_set.images == PHOTOS and verification_set.same.tolist() == LABELS
    assert (verification_set.left.tolist(), verification_set.right.tolist()) == ([0, 2, 4], [1, 3, 5])
    path.write_bytes(pickle.dumps([PHOTOS, [1, 0, 1]], protocol))
    assert read_bin(path).same.tolist() == LABELS


@pytest.mark.parametrize("data", PYTHON_2)
def test_reads_pickles_of_python_2(data: bytes, tmp_path: Path) -> None:
    assert pickle.loads(data, encoding="bytes") == ([b"ab", b"c" * 300], [True])
    (tmp_path / "old.bin").write_bytes(data)
    verification_set = read_bin(tmp_path / "old.bin")
    assert verification_set.images == [b"ab", b"c" * 300] and verification_set.same.tolist() == [True]


def arrays(photos: list[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(photo, np.uint8) for photo in photos]


USERS = {  # what users write, by the kind of photos and of labels
    "1-D uint8 arrays": (arrays(PHOTOS), LABELS),
    "arrays in memory that is written to": ([array.copy() for array in arrays(PHOTOS)], LABELS),
    "arrays with gaps": ([np.repeat(array, 2)[::2] for array in arrays(PHOTOS)], LABELS),
    "columns, as of cv2.imencode": ([array.reshape(-1, 1) for array in arrays(PHOTOS)], LABELS),
    "bytearrays": ([bytearray(photo) for photo in PHOTOS], LABELS),
    "tuples": (tuple(PHOTOS), tuple(LABELS)),
    "an array of bytes": (np.array(PHOTOS), LABELS),
    "an array of objects": (np.array(PHOTOS, object), np.array(LABELS, object)),
    "an array of arrays": (np.array([*arrays(PHOTOS), None], object)[:-1], LABELS),
    "numpy booleans": (PHOTOS, [np.bool_(label) for label in LABELS]),
    "numpy integers": (PHOTOS, [np.int64(label) for label in LABELS]),
    "an array of booleans": (PHOTOS, np.array(LABELS)),
    "a column of booleans": (PHOTOS, np.array(LABELS)[:, None]),
    "an array of integers": (PHOTOS, np.array(LABELS, ">i4")),
    "an array of floats": (PHOTOS, np.array(LABELS, np.float32)),
    "integers": (PHOTOS, [1, 0, 1]),
    "floats": (PHOTOS, [1.0, 0.0, 1.0]),
    "long integers": (PHOTOS, [np.array(label, object).item() for label in (1, 0, 1)]),
    "one photo in many pairs": ([PHOTOS[i] for i in (0, 1, 0, 2, 0, 3)], LABELS),
}


@pytest.mark.parametrize("protocol", mostly_slow(range(6), [0, 2, 4]))
@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("numpy_1", [False, True])
def test_reads_what_users_write(kind: str, protocol: int, numpy_1: bool, tmp_path: Path) -> None:
    photos, labels = USERS[kind]
    data = pickle.dumps((photos, labels), protocol)
    if numpy_1:  # its name of the module is one letter shorter
        data = data.replace(b"numpy._core.", b"numpy.core.").replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
        data = data.replace(b"\x8c\x13numpy.core", b"\x8c\x12numpy.core")
    (tmp_path / "own.bin").write_bytes(data)
    found = read_bin(tmp_path / "own.bin")
    expected = pickle.loads(pickle.dumps((photos, labels)))[0]
    sides = [found.images[i] for pair in zip(found.left.tolist(), found.right.tolist(), strict=True) for i in pair]
    assert sides == [bytes(photo) for photo in expected] and found.same.tolist() == LABELS


def test_unpacked_photos_have_the_names_of_the_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(([*PHOTOS[:5], photo(200, "PNG")], LABELS)))
    assert unpack_bin(path, tmp_path / "photos") == 6
    names = sorted(file.name for file in (tmp_path / "photos").iterdir())
    assert names == ["00000.jpg", "00001.jpg", "00002.jpg", "00003.jpg", "00004.jpg", "00005.png"]
    assert [name.split(".")[0] for name in names] == read_pairs(path).photos
    assert read_photo(tmp_path / "photos/00005.png")[0, 0].tolist() == [200] * 3
    path.write_bytes(pickle.dumps(([b"text", *PHOTOS[:5]], LABELS)))
    with pytest.raises(PairsError, match=r"photo 0 .* is not JPEG"):
        unpack_bin(path, tmp_path / "more")
    assert not (tmp_path / "more").exists()


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "first photo", "label", "behind the end"])
def test_malicious_pickles_run_no_code(protocol: int, place: str, tmp_path: Path) -> None:
    payload = Payload(tmp_path / "owned")
    value = {
        "alone": payload,
        "first photo": ([payload, *PHOTOS[1:]], LABELS),
        "label": (PHOTOS, [payload, *LABELS[1:]]),
        "behind the end": (PHOTOS, LABELS, payload),
    }[place]
    path = tmp_path / "evil.bin"
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(PairsError, match=r"instruction .* it may run code, and nothing was run"):
        read_bin(path)
    assert not payload.path.exists()
    pickle.loads(path.read_bytes())
    assert payload.path.exists(), "the payload works, so the test can fail"


CALLS = {  # the instruction or the name that is refused, and a pickle with it
    "GLOBAL (os.system)": b"cos\nsystem\n(S'touch owned'\ntR.",
    "INST": b"(S'touch owned'\nios\nsystem\n.",
    "STACK_GLOBAL (os.system)": b"\x8c\x02os\x8c\x06system\x93.",
    "GLOBAL (posix.system)": b"(cposix\nsystem\nS'touch owned'\no.",
    "GLOBAL (builtins.eval)": b"cbuiltins\neval\n(Vopen('owned', 'w')\ntR.",
    "GLOBAL (builtins.getattr)": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nVtofile\ntR.",
    "GLOBAL (numpy.load)": b"cnumpy\nload\n(Vowned\ntR.",
    "GLOBAL (numpy.core.multiarray.fromfile)": b"cnumpy.core.multiarray\nfromfile\n(Vowned\ntR.",
    "GLOBAL (_codecs.lookup)": b"c_codecs\nlookup\n(Vowned\ntR.",
    "OBJ": b"(cnumpy\nndarray\nI1\no.",
    "REDUCE": b"]]R.",
    "REDUCE ": b"cnumpy\nndarray\n(I999999999\ntR.",
    "BUILD": b"]]b.",
    "BUILD ": b"c_codecs\nencode\n}b.".replace(b"}", b")"),
    "NEWOBJ": b"])\x81.",
    "NEWOBJ_EX": b"])]\x92.",
    "EXT1": b"\x82\x01.",
    "PERSID": b"Pid\n.",
    "BINPERSID": b"]Q.",
    "EMPTY_DICT": b"}.",
    "NEXT_BUFFER": b"\x97.",
}


@pytest.mark.parametrize("name", CALLS)
def test_forbidden_instructions_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.bin"
    path.write_bytes(CALLS[name])
    with pytest.raises(PairsError, match=rf"contains the pickle instruction {re.escape(name.strip())} at byte"):
        read_bin(path)
    assert list(tmp_path.iterdir()) == [path]


ARRAY = (  # an array of two bytes, as protocol 0 writes it, with any shape
    "(cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntc_codecs\nencode\n(Vb\nVlatin1\ntRtR(I1\n{}0\n"
    "cnumpy\ndtype\n(Vu1\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntbI00\nc_codecs\nencode\n(Vab\nVlatin1\ntRtb]t."
)
ARRAY_WITHOUT_CONTENT = b"(cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR]t."
TEXT_USED_AGAIN = (
    b"]X" + struct.pack("<I", 10**4) + b"a" * 10**4 + b"q\x00a" + b"c_codecs\nencode\nh\x00\x85Ra" * 3 + b"."
)
BROKEN = {
    "": "is damaged near byte 0",
    "short bytes": (b"C\x05ab.", "is damaged"),
    "huge bytes": (b"\x8e" + b"\xff" * 8 + b".", "is damaged"),
    "negative length": (b"T\xff\xff\xff\xffab.", "is damaged"),
    "no stop": (b"]", "is damaged"),
    "trailing": (pickle.dumps((PHOTOS, LABELS)) + b"]", "does not end with a single object"),
    "two values": (b"]].", "does not end"),
    "open mark": (b"(].", "does not end"),
    "append to nothing": (b"\x88a.", "takes more objects than there are"),
    "append below the mark": (b"](\x88a.", "takes more objects than there are"),
    "appends without mark": (b"]e.", "closes a mark that was never opened"),
    "tuple of nothing": (b"\x86.", "takes more objects than there are"),
    "tuple below the mark": (b"]](\x86.", "takes more objects than there are"),
    "memo of nothing": (b"q\x00.", "takes more objects than there are"),
    "unknown memo": (b"h\x07.", "never stored"),
    "number": (b"I42\n.", "does not contain two lists"),
    "recursive": (b"]q\x00h\x00a.", "does not contain two lists"),
    "no lists": (pickle.dumps((b"a", b"b"), 4), "does not contain two lists"),
    "one photo short": (pickle.dumps((PHOTOS[1:], LABELS)), "5 photos and 3 labels"),
    "nothing": (pickle.dumps(([], [])), "0 photos and 0 labels"),
    "labels for photos": (pickle.dumps(([True] * 6, LABELS)), "photo 0 .* is a boolean, not an encoded photo"),
    "photos for labels": (pickle.dumps((PHOTOS, PHOTOS[:3])), "label 0 .* is a byte string, not a boolean"),
    "seven": (pickle.dumps((PHOTOS, [7, 0, 1])), "labels other than true and false"),
    "append to a tuple": (b"))a.", "appends to an object that is not a list"),
    "huge integer": (b"\x8b\xff\xff\xff\x7f.", "is damaged"),
    "huge shape": (ARRAY.format(f"(I{2**70}\nI0\ntp").encode(), "is damaged"),
    "negative shape": (ARRAY.format("(I-2\ntp").encode(), "an array has an impossible shape"),
    "wrong shape": (ARRAY.format("(I3\ntp").encode(), "an array of 3 elements has data for 2"),
    "bytes of a number": (b"cbuiltins\nbytes\n(I999999999999\ntR.", "bytes are not made of text or bytes"),
    "text used again": (TEXT_USED_AGAIN, "builds more bytes than it holds"),
    "array of text": (pickle.dumps((np.array(["a"] * 6), LABELS)), "elements of type U1"),
    "array of records": (pickle.dumps((np.zeros(6, [("a", "u1")]), LABELS)), "elements of type V1"),
    "array without content": (ARRAY_WITHOUT_CONTENT, "does not contain two lists"),
    "pixels": (
        pickle.dumps(([np.zeros((8, 8, 3), np.uint8)] * 6, LABELS)),
        r"photo 0 .* is an array uint8 \(8, 8, 3\) of pixels",
    ),
    "all pixels": (
        pickle.dumps((np.zeros((6, 8, 8, 3), np.uint8), LABELS)),
        "photo 0 .* of pixels, not an encoded photo",
    ),
    "text labels": (pickle.dumps((PHOTOS, ["yes", "no", "yes"])), "label 0 .* is text, not a boolean"),
    "not a number": (pickle.dumps((PHOTOS, [float("nan"), 0.0, 1.0])), "labels other than true and false"),
    "paths": (pickle.dumps((["a.jpg"] * 6, LABELS)), "photo 0 .* is text, not an encoded photo"),
    "a scalar": (pickle.dumps((np.array(3), LABELS)), "does not contain two lists"),
    "empty photo": (pickle.dumps(([b"", *PHOTOS[1:]], LABELS)), "photo 0 .* has 0 bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    data, words = BROKEN[name] if name else (b"", BROKEN[name])
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    with pytest.raises(PairsError, match=words) as caught:
        read_bin(path)
    assert caught.value.where == str(path) and caught.value.remedy


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="cannot be read"):
        read_bin(tmp_path / "x.bin")


def test_instructions_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFPLUS_MAX_PICKLE_INSTRUCTIONS", "1000")
    (tmp_path / "x.bin").write_bytes(b"]" * 2000 + b".")
    with pytest.raises(PairsError, match="more than 1,000 instructions, too many for its 2,001 bytes"):
        read_bin(tmp_path / "x.bin")


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(data: st.DataObject, tmp_path: Path) -> None:
    good = bytearray(pickle.dumps(([b"aa", b"bb", b"cc", b"dd"], [True, False]), data.draw(st.sampled_from([3, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        kind = data.draw(st.sampled_from(["change", "drop", "insert", "swap"]))
        byte = data.draw(st.integers(0, 255))
        if kind == "change":
            good[at] = byte
        elif kind == "insert":
            good.insert(at, byte)
        elif kind == "drop" and len(good) > 1:
            del good[at]
        else:
            good[at:] = good[at:][::-1]
    _read_or_refuse(bytes(good), tmp_path)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([bytes([c]) for c in b"](tlae)q\x85\x86\x87\x88\x89\x94hK\x80CU."]), max_size=40))
def test_programs_of_allowed_instructions_never_crash(tmp_path: Path, codes: list[bytes]) -> None:
    _read_or_refuse(b"".join(codes), tmp_path)


def _read_or_refuse(data: bytes, folder: Path) -> None:
    (folder / "x.bin").write_bytes(data)
    try:
        verification_set = read_bin(folder / "x.bin")
    except PairsError as error:
        assert error.where
    else:
        assert len(verification_set.left) == len(verification_set.right) == len(verification_set.same) > 0
        assert max(verification_set.left.max(), verification_set.right.max()) < len(verification_set.images)


PHOTO = b"\xff\xd8\xff" + bytes(range(256)) * 4000
ALIASED = b"".join(b"\x94h" + bytes([number]) + b"\x86" for number in range(100))  # (x, x) of (x, x) of ...
SMALL_AND_LONG = {  # a pickle, and the words of the error, or None if it is read
    "one photo in 200,000 pairs": (pickle.dumps(([PHOTO] * 400_000, [True] * 200_000), 4), None),
    "arrays of one photo": (
        pickle.dumps(([np.frombuffer(PHOTO, np.uint8)] * 400_000, [True] * 200_000), 4), None
    ),
    "doubled tuples": (b"\x80\x04)" + ALIASED + b".", "does not contain two lists|0 labels|two photos per label|not a"),
    "doubled tuples as a photo": (b"\x80\x04](()" + ALIASED + b"eK\x01\x85\x86.", "damaged|photo"),
    "doubled tuples as a name": (b"\x80\x04)" + ALIASED + b"\x8c\x01a\x93.", "tuple in place of text"),
    "doubled tuples as a byte order": (
        b"\x80\x02)" + ALIASED + b"cnumpy\ndtype\nU\x02u1\x85RK\x03h\x63\x86b.", "tuple in place of text"
    ),
    "nested tuples": (b"\x80\x04)" + b"\x85" * 100_000 + b".", "does not contain two lists"),
    "nested lists": (b"]" * 500_000 + b"a" * 499_999 + b".", "does not contain two lists"),
    "marks": (b"(" * 2_000_000, "instructions, too many for its 2,000,000 bytes"),
    "objects": (b"N" * 2_000_000 + b".", "instructions, too many for its"),
    "digits": (b"I" + b"9" * 100_000 + b"\n.", "damaged"),
    "digits of a long integer": (b"L" + b"9" * 100_000 + b"L\n.", "damaged"),
    "a key of digits": (b")p" + b"9" * 5000 + b"\n.", "damaged"),
    "sides": (ARRAY.format(f"(I{2**39}\nI{2**39}\nI{2**39}\ntp").encode(), "damaged"),
    "dimensions": (ARRAY.format("(" + "I1\n" * 100 + "tp").encode(), "impossible shape"),
    "rows without columns": (
        pickle.dumps((np.zeros((2_000_000, 0), np.uint8), np.zeros(1_000_000, bool)), 4), "photo 0 .* is an array"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    partly_slow(SMALL_AND_LONG, ["arrays of one photo", "nested lists", "marks", "objects"]),
)
def test_small_files_of_long_programs_end(name: str, tmp_path: Path) -> None:
    data, words = SMALL_AND_LONG[name]
    (tmp_path / "x.bin").write_bytes(data)
    if words is None:
        verification_set = read_bin(tmp_path / "x.bin")
        assert verification_set.images == [PHOTO] and len(verification_set.same) == 200_000
    else:
        with pytest.raises(PairsError, match=words):
            read_bin(tmp_path / "x.bin")


def test_arrays_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Each of 1,000 arrays is another object with the same megabyte."""
    dtype = b"cnumpy\ndtype\nU\x02u1\x85R"
    array = b"cnumpy.core.numeric\n_frombuffer\n(h\x00%bJ" + struct.pack("<i", len(PHOTO)) + b"\x85X\x01\0\0\0CtR"
    photo = b"T" + struct.pack("<i", len(PHOTO)) + PHOTO + b"q\x00"
    arrays = array.replace(b"%b", dtype + b"q\x01") + array.replace(b"%b", b"h\x01") * 998
    (tmp_path / "x.bin").write_bytes(b"\x80\x02](" + photo + arrays + b"e](" + b"\x88" * 500 + b"e\x86.")
    with pytest.raises(PairsError, match="its photos have more bytes than the file"):
        read_bin(tmp_path / "x.bin")
