from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfplus.datasets.pairs import (
    read_pairs,
)
from sfplus.errors import PairsError


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(st.sampled_from("ab/.\\\t ,\n\r01-\x00é²"), max_size=60).map(str.encode),
        st.lists(
            st.sampled_from(["2\t1", "1", "a\t1\t2", "a\t1\tb\t2", "a b 1", "a,b,0", "a b 1 0", ""]), max_size=8
        ).map(lambda lines: "\n".join(lines).encode()),
    )
)
def test_any_file_is_read_or_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(data)
    try:
        pairs = read_pairs(path)
    except PairsError as error:
        assert error.where.startswith(str(path)) and error.reason
    else:
        assert all(".." not in name.split("/") and not name.startswith("/") for name in pairs.photos)
