"use strict";
// Right-aligns columns of numbers and dashes. A click on a header sorts by its column, another one reverses the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const text = (row, column) => row.cells[column].textContent.trim();
  const sortBy = (head, column) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const numeric = head.classList.contains("n");
    const compare = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true});
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [text(one, column), text(other, column)];
      if (a === "-" || b === "-") return (a === "-") - (b === "-");
      return descending ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
  };
  heads.forEach((head, column) => {
    const rows = [...body.rows];
    if (rows.every(row => text(row, column) === "-" || !Number.isNaN(Number(text(row, column) || "x")))) {
      for (const row of [table.tHead.rows[0], ...rows]) row.cells[column].classList.add("n");
    }
    const button = document.createElement("span");
    Object.assign(button, {tabIndex: 0, role: "button"});
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(head, column));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sortBy(head, column);
    });
  });
}
// For printing, expand all sections and load all pictures.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  for (const each of document.querySelectorAll("img")) each.loading = "eager";
});
