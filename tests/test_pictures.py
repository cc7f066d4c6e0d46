"""Maps in results: with few and small images, read as they were written, told whose they are."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from kclib.book import pictures, plots, records
from kclib.errors import InputError


def gradient(count: int, side: int) -> torch.Tensor:
    """Return images that grow brighter from left to right."""
    ramp = torch.linspace(0, 255, side).round().to(torch.uint8)
    return ramp.expand(count, 3, side, side)


@pytest.mark.parametrize(("count", "side"), [(1, 32), (6, 64), (12, 112), (7, 224)])
def test_few_images_are_held_and_small_ones(count, side):
    found = pictures.held(gradient(count, side), {})["images"]
    least = min(side, pictures.SIDE)
    assert found.shape == (min(count, pictures.MOST), 3, least, least) and found.dtype == np.uint8
    # Shrunk, not cut out: the whole ramp is there.
    np.testing.assert_allclose(found[0, 0, 0], gradient(1, least)[0, 0, 0], atol=3)


def test_maps_are_read_as_they_were_held(tmp_path):
    maps = {"joint, per image": {"x(0)": torch.rand(3, 4, 5)}, "joint": {"x*": torch.rand(3, 4, 5)}}
    images = gradient(3, 48)
    np.savez(tmp_path / "fig.npz", **pictures.held(images, maps))
    found = pictures.read(tmp_path / "fig.npz", "a run")
    assert found.origin == "a run" and torch.equal(found.images, images)
    assert torch.equal(found.of("joint, per image")["x(0)"], maps["joint, per image"]["x(0)"])
    assert list(found.of("joint, per image")) == ["x(0)"]
    assert found.of("lowest first") == {}


def test_rows_without_an_image_say_so_and_a_row_has_one_scale():
    maps = {"a, x*": torch.ones(3, 2, 2), "a, g(x), joint": -4 * torch.ones(3, 2, 2)}
    figure = plots.recorded(pictures.Pictures("a run", gradient(2, 8), maps), "a")
    rows = [figure.axes[3 * k : 3 * k + 3] for k in range(3)]
    said = [[text.get_text() for text in row[0].texts] for row in rows]
    assert said == [[], [], ["not\nrecorded"]]
    assert [axes.get_title() for axes in rows[0]] == ["image", "x*", "g(x)\njoint"]
    assert {axes.images[0].get_clim() for row in rows for axes in row[1:]} == {(-4.0, 4.0)}
    assert figure.get_suptitle() == "a run"
    plt.close("all")


#: What figures recorded; the page Explore has maps of its own, and a test of how much they are.
FIGURES = [p for p in sorted(records.RECORDED.glob("*/*.npz")) if p.stem != "atlas"]


@pytest.mark.parametrize("path", FIGURES, ids=str)
def test_committed_images_are_few_and_small_and_files_are_too(path):
    assert path.stat().st_size < 300_000
    images = pictures.read(path, "").images
    assert len(images) <= pictures.MOST and max(images.shape[2:], default=0) <= pictures.SIDE


def test_the_images_shown_are_those_in_which_every_filter_answers():
    strength = torch.tensor([[1.0, 5.0, 4.0, 0.0, 3.0], [9.0, 1.0, 8.0, 7.0, 2.0]])
    maps = strength[:, :, None, None] * torch.randn(1, 1, 6, 6)
    assert pictures.answering(maps[0]).tolist() == [1, 2, 4]
    assert pictures.answering(*maps).tolist() == [2]


def test_the_filter_shown_is_the_one_asked_for_or_the_one_that_varies_most():
    x = torch.randn(9, 4, 3, 3) * torch.tensor([1.0, 0.0, 7.0, 2.0])[:, None, None]
    assert pictures.filter_shown(x, -1, "tap") == 2
    assert pictures.filter_shown(x, 3, "tap") == 3
    for channel in (1, 4):
        with pytest.raises(InputError, match=rf"{channel}; .* 0 to 3 of tap, except .*\(1\); -1"):
            pictures.filter_shown(x, channel, "tap")


def test_a_damaged_file_is_refused_by_name(tmp_path):
    (tmp_path / "fig.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="fig.npz is damaged .* Get it back from git"):
        pictures.read(tmp_path / "fig.npz", "a run")
