// Sort the table of cases by the column whose heading is clicked; what is undefined stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.firstElementChild.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? Number(x) - Number(y) || 0 : x.localeCompare(y, undefined, { numeric: true });
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
// When `mambamed view` serves the report, each row leads to its case there.
if (location.protocol === "http:") {
  for (const cell of document.querySelectorAll("table.sortable tbody td:first-child")) {
    const link = Object.assign(document.createElement("a"), { textContent: cell.textContent, target: "viewer" });
    link.href = `./#${new URLSearchParams({ case: cell.textContent })}`;
    cell.replaceChildren(link);
  }
}
