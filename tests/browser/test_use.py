"""What a reader does on a page works: searching, copying, changing the theme."""


def test_search_finds_blind_spots(tab, html):
    tab.goto((html / "search.html").as_uri() + "?q=blind+spot")
    tab.wait_for_selector("#search-results li a")
    found = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any("fig3_blind_spots" in address for address in found)
    assert any("check_blind_spots" in address for address in found)


def test_the_search_button_opens_a_field(tab, html):
    tab.goto((html / "book" / "index.html").as_uri())
    tab.get_by_role("button", name="Search").first.click()
    tab.keyboard.type("blind spot")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")


def test_copy_buttons_copy(tab, html):
    tab.goto((html / "book" / "index.html").as_uri())
    tab.hover("div.highlight-bash")
    tab.click("div.highlight-bash button.copybtn")
    tab.wait_for_selector("button.copybtn.success")
    assert tab.evaluate("navigator.clipboard.readText()").startswith("make book")


def test_the_theme_s_button_changes_the_theme(tab, html):
    tab.goto((html / "book" / "index.html").as_uri())
    seen = set()
    for _ in range(3):
        tab.click(".theme-switch-button:visible")
        seen.add(tab.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
