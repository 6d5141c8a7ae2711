"use strict";
// Tables that can be sorted: by a click, or by the keyboard, on a column's title; a third time restores the order.
{
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  const number = (text) => {
    const time = text.match(/^(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)$/);
    if (time) return ((Number(time[1] ?? 0) * 24 + Number(time[2])) * 60 + Number(time[3])) * 60 + Number(time[4]);
    return parseFloat(text.replace(/[−]/g, "-").replace(/[,<[]/g, ""));
  };

  const compare = (one, other) => {
    const numbers = [number(one), number(other)];
    const missing = [one, other].map((text) => text === "-" || text === "");
    if (missing[0] || missing[1]) return missing[0] - missing[1];
    if (!numbers.some(Number.isNaN) && numbers[0] !== numbers[1]) return numbers[0] - numbers[1];
    return one.localeCompare(other, undefined, { numeric: true });
  };

  // Sections are sorted as one; but means and improvements stay below.
  const sectionsOf = (table) => [...table.tBodies].filter((section) => !section.classList.contains("summary"));

  const sort = (table, column, direction) => {
    const sections = sectionsOf(table);
    for (const section of sections) section.given ??= [...section.rows];
    if (direction === "none") {
      for (const section of sections) section.append(...section.given);
      return;
    }
    const text = (row) => row.cells[column].textContent.trim();
    const sign = direction === "descending" ? -1 : 1;
    const order = (one, other) => {
      const isMissing = [one, other].some((row) => text(row) === "-"); // stays last
      return (isMissing ? 1 : sign) * compare(text(one), text(other));
    };
    sections[0].append(...sections.flatMap((section) => section.given).sort(order));
  };

  for (const table of document.querySelectorAll("table.grid")) {
    if (sectionsOf(table).reduce((total, section) => total + section.rows.length, 0) < 2) continue;
    const titles = [...table.tHead.rows[0].cells];
    titles.forEach((title, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...title.childNodes);
      title.append(button);
      title.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const direction = NEXT[title.getAttribute("aria-sort")];
        for (const other of titles) other.setAttribute("aria-sort", "none");
        title.setAttribute("aria-sort", direction);
        sort(table, column, direction);
      });
    });
  }
}
