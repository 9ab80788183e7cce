"""People keep their numbers, names and corrections when photos are added, removed or grouped differently."""

from __future__ import annotations

import numpy as np
import pytest

from sfplus.people.assignment import assign_people

FEATURES = np.eye(8, dtype=np.float32)


@pytest.mark.parametrize(
    ("groups", "earlier", "pinned", "expected"),
    [
        pytest.param([0, 0, 1], [-1, -1, -1], [-1] * 3, [9, 9, 10], id="first run"),
        pytest.param([0, 0, 1], [4, 4, 2], [-1] * 3, [4, 4, 2], id="unchanged"),
        pytest.param([0, 0, 0, 1], [4, 4, -1, 2], [-1] * 4, [4, 4, 4, 2], id="a photo more"),
        pytest.param([0, 0, 1, 2], [4, 4, 2, -1], [-1] * 4, [4, 4, 2, 9], id="a new person"),
        pytest.param([0, 0, 0, 0], [4, 4, 4, 2], [-1] * 4, [4] * 4, id="two groups become one"),
        pytest.param([0, 0, 0, 1], [4, 4, 4, 4], [-1] * 4, [4, 4, 4, 9], id="one group becomes two"),
        pytest.param([0, 0, 0, 1], [4, 4, 4, 4], [4] * 4, [4] * 4, id="a named person stays whole"),
        pytest.param([0, 0, 0], [4, 4, 2], [4, 4, 2], [4, 4, 2], id="two named people stay apart"),
        pytest.param([0, 0, 0], [4, 4, 4], [-1, -1, 7], [4, 4, 7], id="a moved face leaves the others"),
        pytest.param([0, 0, 1], [4, 4, 2], [-1, -1, 4], [9, 9, 4], id="a number is not used twice"),
        pytest.param([], [], [], [], id="no face"),
    ],
)
def test_people_keep_their_numbers(
    groups: list[int], earlier: list[int], pinned: list[int], expected: list[int]
) -> None:
    arrays = [np.array(values, np.int64) for values in (groups, earlier, pinned)]
    people, free = assign_people(arrays[0], FEATURES[: len(groups)], arrays[1], arrays[2], 9)
    assert people.tolist() == expected
    assert free == max([9, *(number + 1 for number in expected)])


def test_a_new_face_joins_the_most_similar_of_the_people_in_its_group() -> None:
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.8, 0.6], [0.6, 0.8], [1, 0], [0, 1]], np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    groups = np.array([0, 0, 0, 0, 0, 1, 1])
    earlier = np.array([4, 4, 2, -1, -1, 3, -1])
    pinned = np.array([4, 4, 2, -1, -1, 3, -1])
    people, _ = assign_people(groups, features, earlier, pinned, 9)
    assert people.tolist() == [4, 4, 2, 4, 2, 3, 3]
