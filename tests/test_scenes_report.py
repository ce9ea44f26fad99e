"""Is the report one file that shows what it was given?"""

import numpy as np

from scenes.report import Curve, Report, curves_svg, smooth


def test_the_page_holds_everything_itself(tmp_path):
    report = Report("A <title>")
    report.heading("Numbers")
    report.table(["what", "value"], [["AP & more", 0.51234], ["boxes", 7]])
    report.picture(np.full((8, 8, 3), 200, dtype=np.uint8), "grey")
    report.curves([Curve("loss", [0, 1, 2], [3.0, 2.0, 1.0])], "falls", "step", "loss")
    page = report.save(tmp_path / "deep" / "report.html").read_text()
    assert "A &lt;title&gt;" in page and "AP &amp; more" in page and "0.512" in page
    assert "data:image/jpeg;base64," in page and "<polyline" in page
    assert 'src="http' not in page and "href=" not in page


def test_a_rising_curve_rises_on_the_page():
    svg = curves_svg([Curve("up", [0, 1], [0.0, 1.0])], "x", "y", width=860, height=300)
    first, last = (tuple(map(float, p.split(","))) for p in svg.split('polyline points="')[1].split('"')[0].split())
    assert last[0] > first[0] and last[1] < first[1]


def test_curves_without_a_finite_point_say_so():
    assert "nothing recorded" in curves_svg([Curve("none", [0.0], [float("nan")])], "x", "y")


def test_smooth_drops_a_spike():
    assert smooth([1, 1, 1, 50, 1, 1, 1], window=3) == [1, 1, 1, 1, 1, 1, 1]
