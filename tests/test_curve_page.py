"""Loss curves on a page: the picture says what the numbers say, and is not there where nothing was trained."""

import itertools
import re

from ridgepoint.report.html_curve import curve_section, loss_chart


def curve(steps):
    def side(first, factor):
        loss = [first * factor**i for i in range(steps)]
        return {"loss": loss, "low": [x - 0.1 for x in loss], "high": [x + 0.1 for x in loss], "before": first,
                "after": loss[-1], "after_low": loss[-1] - 0.1, "after_high": loss[-1] + 0.1}  # fmt: skip

    b = {**side(3.0, 0.95), "difference": -0.2, "difference_low": -0.3, "difference_high": -0.1}
    return {"measured": True, "sides": {"full": side(3.0, 0.99), "lora:r=8<": b}, "steps": steps, "seeds": [0, 1, 2],
            "text": "t.txt", "batch": 4, "length": 64, "definition": "d.v1"}  # fmt: skip


def test_a_picture_for_each_side_beside_a_and_none_where_nothing_was_trained():
    assert curve_section({}) == ""
    page = curve_section(curve(20))
    assert page.count("<svg") == 1 and "lora:r=8&lt;" in page and "lora:r=8<" not in page and "better" in page


def test_the_line_falls_as_the_loss_does():
    chart = loss_chart(curve(30), "full", "lora:r=8<")
    a, b = (
        [float(p.split(",")[1]) for p in re.search(rf'points="([^"]*)" class="curve {s}"', chart)[1].split()]
        for s in "ab"
    )
    assert len(a) == len(b) == 30 and a[0] == b[0]
    assert all(x < y for x, y in itertools.pairwise(a)) and b[-1] > a[-1], "down is a larger y"
    assert loss_chart(curve(1), "full", "lora:r=8<")
