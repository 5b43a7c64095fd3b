"use strict";
// Sort a table by the column whose head is pressed; again turns the order round. Numbers by value, dashes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const sortBy = (head, column) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const numeric = head.classList.contains("n");
    const key = (row) => row.cells[column].textContent.trim();
    const compare = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true});
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === "-" || b === "-") return (a === "-") - (b === "-");
      return descending ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...rows);
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("span");
    button.addEventListener("click", () => sortBy(head, column));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sortBy(head, column);
    });
  });
}
// Nothing is folded away on paper, nor left to be loaded.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  for (const each of document.querySelectorAll("img")) each.loading = "eager";
});
