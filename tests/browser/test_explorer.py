"""The page Explore, by mouse, by keyboard, by finger, and for those who do not see its maps."""

import pytest

ADDRESS = "#pair={}&way=joint%2C+per+image&filter=0&image=1&orders=1&at=2,3"


@pytest.fixture
def page(tab, html):
    tab.goto("about:blank")
    tab.goto((html / "book" / "explore.html").as_uri())
    return tab


def words(page) -> str:
    return page.text_content(".explorer-words")


def pixels(page, k):
    """Return what is drawn of the k-th map."""
    return page.locator(".explorer-maps canvas").nth(k).evaluate("canvas => canvas.toDataURL()")


def test_orders_are_added_and_leave_less(page):
    page.focus("#explorer-orders")
    page.keyboard.press("Home")
    assert "nothing yet" in words(page) and "Left: 100 %" in words(page)
    none, rest = pixels(page, -2), pixels(page, -1)
    assert rest == pixels(page, 0)  # without an order all of x* is left
    page.keyboard.press("End")
    assert pixels(page, -2) != none and pixels(page, -1) != rest
    assert "Left: 100 %" not in words(page) and "x⁽⁰⁾ + x⁽¹⁾" in words(page)


def test_a_position_shows_its_values_in_all_maps_and_they_add_up(page):
    page.hover(".explorer-maps canvas >> nth=1")
    said = page.locator(".explorer-maps .value").all_text_contents()
    value = [float(text.replace("−", "-")) for text in said]
    target, *parts, total, rest = value
    assert abs(sum(parts) - total) < 0.03 and abs(target - total - rest) < 0.03
    assert "At row" in words(page)
    page.hover("article h1")
    assert "At row" not in words(page)


def test_the_keyboard_moves_a_position(page):
    page.focus(".explorer-maps")
    page.keyboard.press("ArrowRight")
    before = words(page)
    assert "At row" in before
    page.keyboard.press("ArrowDown")
    assert words(page) != before
    page.keyboard.press("Escape")
    assert "At row" not in words(page) and "explore.html" in page.url


def test_choices_change_the_address_and_the_address_the_page(page, html):
    keys = page.eval_on_selector_all("#explorer-pair option", "all => all.map(o => o.value)")
    for key in keys:
        page.goto("about:blank")
        page.goto((html / "book" / "explore.html").as_uri() + ADDRESS.format(key))
        assert page.input_value("#explorer-pair") == key
        assert page.input_value("#explorer-way") == "joint, per image"
        assert page.get_attribute(".explorer-images button >> nth=1", "aria-pressed") == "true"
        assert "At row 3, column 4" in words(page)
        page.click(".explorer-images button >> nth=0")
        assert "image=0" in page.url
        page.select_option("#explorer-way", "lowest first")
        assert "way=lowest+first" in page.url


def test_an_address_that_names_nothing_shows_something(page, html):
    page.goto((html / "book" / "explore.html").as_uri() + "#pair=none&filter=99&image=x&at=-1,1e9")
    page.reload()
    assert "Left:" in words(page) and "NaN" not in words(page)


def test_a_finger_shows_values_on_a_phone(browser, html):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto((html / "book" / "explore.html").as_uri())
    page.locator(".explorer-maps canvas").nth(2).tap()
    assert "At row" in words(page)
    context.close()


def test_maps_have_words_and_numbers(page):
    names = page.eval_on_selector_all(
        ".explorer-maps canvas", "all => all.map(c => c.getAttribute('aria-label'))"
    )
    assert len(names) == len(set(names)) >= 5 and all(names)
    page.click(".explorer-numbers summary")
    assert page.locator(".explorer-numbers tbody tr").count() == len(names)


def test_it_is_small(html):
    assert sum(file.stat().st_size for file in (html / "explorer").iterdir()) < 3e6
