// Tables of class "experiments" get a filter and headers that sort. Without this they are plain tables.
"use strict";
for (const table of document.querySelectorAll("table.experiments")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const text = (row, column) => row.cells[column].textContent.trim();

  const find = document.createElement("div");
  find.className = "find";
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  input.id = "find-" + Math.max(0, [...document.querySelectorAll("table.experiments")].indexOf(table));
  label.htmlFor = input.id;
  label.textContent = "Show experiments with all of these words";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  find.append(label, input, count);
  table.before(find);
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => content.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} experiments`;
  };
  input.addEventListener("input", filter);
  filter();

  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const filled = rows.filter((row) => text(row, column) !== "");
      const empty = rows.filter((row) => text(row, column) === "");
      const numbers = filled.every((row) => !Number.isNaN(Number(text(row, column))));
      filled.sort((a, b) => {
        const [x, y] = [text(a, column), text(b, column)];
        return (up ? 1 : -1) * (numbers ? Number(x) - Number(y) : x.localeCompare(y, "en"));
      });
      body.append(...filled, ...empty);
    });
  });
}
