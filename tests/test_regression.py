"""The whole chain from images to shares, against numbers recorded once.

Untrained networks are used, because training magnifies rounding: their features differ between
machines only by float32's own. ``python tests/test_regression.py`` records the numbers anew.
"""

import json
from pathlib import Path

import pytest

from kclib import fit, networks
from kclib.features import extract
from kclib.images import creatures

RECORDED = Path(__file__).with_name("regression.json")
#: Relative; float32 sums in another order change the shares by about 1e-5.
TOLERANCE = 1e-3
CASES = [
    ("alexnet", 4, "conv5", "image"),
    ("vgg16", 1, "conv4_3", "image"),
    ("vgg16", 1, "conv4_3", "dataset"),
    ("resnet34", 2, "last_conv", "dataset"),
]


def chain(architecture: str, stem_stride: int, tap: str, norm: str) -> dict[str, float]:
    """Return the shares of order 0 and of the rest between two untrained networks."""
    images = creatures.render(256, classes=4, size=32, split="train").images
    x, target = (
        extract(
            networks.build(
                architecture, classes=4, width=0.125, size=32, stem_stride=stem_stride, seed=seed
            ),
            images,
            tap,
        )
        for seed in (0, 5)
    )
    result = fit(x, target, order=0, kernel_size=1, norm=norm)
    return {"explained": result.explained[0], "residual": result.residual}


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_shares_are_the_recorded_ones(case):
    recorded = json.loads(RECORDED.read_text())[" ".join(map(str, case))]
    assert chain(*case) == pytest.approx(recorded, rel=TOLERANCE)


if __name__ == "__main__":
    numbers = {" ".join(map(str, case)): chain(*case) for case in CASES}
    RECORDED.write_text(json.dumps(numbers, indent=1) + "\n")
