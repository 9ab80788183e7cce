import torch
from torch.testing import assert_close

from sfplus.detection.boxes import shift_boxes, to_squares


def test_squares_keep_the_centre_and_the_longest_side() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 80], [-7.5, 0, 12.5, 4]])
    assert_close(to_squares(boxes), torch.tensor([[-10.0, 20, 50, 80], [-7.5, -8, 12.5, 12]]))
    assert_close(to_squares(boxes, whole_pixels=True), torch.tensor([[-10.0, 20, 50, 80], [-7, -8, 12, 12]]))


def test_shifts_are_fractions_of_inclusive_sides() -> None:
    box, shift = torch.tensor([[10.0, 20, 19, 39]]), torch.tensor([[0.1, -0.2, 0.3, 0.05]])
    assert_close(shift_boxes(box, shift), torch.tensor([[11.0, 16, 22, 40]]))
