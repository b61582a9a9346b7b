// What scrolls can be reached by the keyboard, and the search says what it is.
document$.subscribe(() => {
  document.querySelectorAll(".md-search[role=dialog]").forEach((one) => one.setAttribute("aria-label", "Search"))
  document.querySelectorAll("pre code, .md-typeset__scrollwrap, .formula").forEach((one) => (one.tabIndex = 0))
})
