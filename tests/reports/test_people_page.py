"""The pages of grouped and found photos."""

from __future__ import annotations

from pathlib import Path

from sfplus.reports.people_page import FaceView, PeopleTable, PeopleTotals, PersonView, render_matches, render_people


def test_people_and_faces_are_counted(tmp_path: Path) -> None:
    face = FaceView("a/1.jpg", 0, tmp_path / "gone.jpg", "../a/1.jpg")
    person = PersonView("person-00001", "Anna", 40, [face], more=39)
    table = PeopleTable([("person-00001", "Anna", 40, 40)])
    page = render_people("Holiday", [person], PeopleTotals(50, 60, 3, 4), table)
    assert "40 photos, 40 faces" in page and "and 39 more" in page and "2 people are not shown" in page


def test_matches_are_divided_at_one_half(tmp_path: Path) -> None:
    faces = [FaceView(f"{p}.jpg", 0, tmp_path / "gone.jpg", confidence=p) for p in (0.97, 0.4)]
    page = render_matches("Anna", faces[:1], faces, more=3)
    assert page.index("97 %") < page.index("less likely than not") < page.index("40 %")
    assert "3 photos are not shown" in page
