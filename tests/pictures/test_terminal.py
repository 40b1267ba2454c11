import numpy as np

from metalearn_cli.pictures.terminal import plot


def test_marks_stand_where_their_points_are_and_later_ones_on_top() -> None:
    x = np.array([0.0, 1.0, 2.0])
    drawn = plot({".": (x, x), "o": (x[1:2], x[1:2])}, width=5, height=3).splitlines()
    assert drawn[0] == "    2.00 |    ."
    assert drawn[1] == "         |  o"
    assert drawn[2] == "    0.00 |."
    assert "0.00" in drawn[3]
    assert "2.00" in drawn[3]


def test_a_constant_is_drawn_too() -> None:
    assert "*" in plot({"*": (np.zeros(3), np.zeros(3))})
