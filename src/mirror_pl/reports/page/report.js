"use strict";
// Sorting, filtering and hiding detectors. Without it the page shows everything, in the order of the report.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  const figure = (row, column) => {
    const cell = row.cells[column];
    if (cell === undefined) return null;
    const text = cell.textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(number) ? (cell.tagName === "TH" || cell.classList.contains("text") ? text : null) : number;
  };
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b;
  };
  const sort = (table, head, column) => {
    const falling = head.getAttribute("aria-sort") !== "descending" && !head.classList.contains("text");
    const direction = head.classList.contains("text") ? (head.getAttribute("aria-sort") === "ascending" ? -1 : 1) : falling ? -1 : 1;
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction < 0 ? "descending" : "ascending");
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => row.dataset.row !== undefined);
      const end = rows.length ? rows[rows.length - 1].nextSibling : null;
      const keyed = rows.map((row) => [figure(row, column), row]);
      // What is undefined stays at the end, whichever way.
      keyed.sort(([a], [b]) => (a === null || b === null ? compare(a, b) : direction * compare(a, b)));
      for (const [, row] of keyed) body.insertBefore(row, end);
    }
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((head, column) => {
      const button = make("button", "", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }

  const tools = document.getElementById("tools");
  const sections = all("details.benchmark");
  if (tools !== null) {
    const input = make("input", "", { type: "search", placeholder: "Filter benchmarks", "aria-label": "Filter benchmarks" });
    const open = make("button", "Open all", { type: "button" });
    const close = make("button", "Close all", { type: "button" });
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const element of all("[data-benchmark]")) {
        element.classList.toggle("off", !element.dataset.benchmark.toLowerCase().includes(wanted));
      }
      for (const body of all("table.headline tbody")) {
        const rows = all("tr[data-benchmark]", body);
        if (rows.length > 0) body.classList.toggle("off", rows.every((row) => row.classList.contains("off")));
      }
    });
    open.addEventListener("click", () => sections.forEach((section) => (section.open = true)));
    close.addEventListener("click", () => sections.forEach((section) => (section.open = false)));
    tools.append(input, open, close);
    tools.hidden = false;
  }

  const detectors = all(".detectors li");
  if (detectors.length > 1) {
    for (const item of detectors) {
      const button = make("button", "Hide", { type: "button", "aria-pressed": "false", "aria-label": `Hide ${item.dataset.label}` });
      button.addEventListener("click", () => {
        const hide = button.getAttribute("aria-pressed") === "false";
        button.setAttribute("aria-pressed", String(hide));
        button.textContent = hide ? "Hidden" : "Hide";
        for (const element of all(`[data-series="${item.dataset.detector}"]`)) element.classList.toggle("off", hide);
      });
      item.append(button);
    }
  }

  addEventListener("beforeprint", () => all("details").forEach((section) => (section.open = true)));
  const follow = () => {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    if (target !== null && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", follow);
  follow();
})();
