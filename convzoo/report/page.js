// Sorts tables by the column whose heading is pressed. Without it the page is complete, only not sortable.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const isNumber = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const falling = before ? before === "ascending" : isNumber;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => isNumber ? Number(row.cells[column].dataset.value) : row.cells[column].textContent;
      const compare = isNumber
        ? (a, b) => a[0] - b[0]
        : (a, b) => a[0].localeCompare(b[0], undefined, { numeric: true });
      const sorted = [...table.tBodies[0].rows].map((row) => [key(row), row]).sort(compare);
      if (falling) sorted.reverse();
      table.tBodies[0].append(...sorted.map((pair) => pair[1]));
    });
  });
}
