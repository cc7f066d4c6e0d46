// From a file a page may not read another one, so that a search has no excerpts there.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// What the theme and Sphinx leave wrong for people who do not see a page, or speak to it: a button's
// name holds the words that are seen on it, icons and arrows have none, and a list holds the items
// of a list.
// Icons may have become pictures before or after the page was read.
function mend() {
  for (const picture of document.querySelectorAll("button[aria-label] > svg")) {
    picture.querySelector("title")?.remove();
    picture.setAttribute("aria-hidden", "true");
  }
  for (const icon of document.querySelectorAll("button > i")) {
    icon.removeAttribute("title");
    icon.setAttribute("aria-hidden", "true");
  }
  for (const named of document.querySelectorAll("button[aria-label], summary[aria-label]")) {
    if (named.textContent.trim()) named.removeAttribute("aria-label");
  }
  for (const arrow of document.querySelectorAll(".bd-sidebar-primary li > details > summary")) {
    const chapter = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages of ${chapter}`);
  }
  for (const reference of document.querySelectorAll(".citation-list > .citation")) {
    reference.setAttribute("role", "listitem");
  }
  for (const chinese of document.querySelectorAll("article:has(.chinese)")) chinese.lang = "zh-CN";
  for (const empty of document.querySelectorAll("thead th:empty")) {
    empty.setAttribute("role", "presentation");
  }
}

document.addEventListener("DOMContentLoaded", mend);
window.addEventListener("load", mend);
