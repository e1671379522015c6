"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  const compare = (a, b) => {
    // What is missing goes last, in either direction.
    if (a === "" || b === "") return null;
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };

  const sort = (column) => {
    const direction = heads[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      return compare(x, y) === null ? (x === "") - (y === "") : direction * compare(x, y);
    });
    body.append(...rows);
  };

  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => sort(column)));

  const search = document.querySelector(`input[data-searches="${table.id}"]`);
  const shown = document.querySelector(`output[for="${search?.id}"]`);
  search?.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      visible += row.hidden ? 0 : 1;
    }
    shown.textContent = `${visible} of ${body.rows.length}`;
  });
}

for (const button of document.querySelectorAll("button[data-copies]")) {
  const label = button.firstChild;
  const usual = label.textContent;
  const source = document.getElementById(button.dataset.copies);
  const done = (said) => {
    label.textContent = said;
    setTimeout(() => { label.textContent = usual; }, 1500);
  };
  const select = () => {
    getSelection().selectAllChildren(source);
    done(document.execCommand("copy") ? "Copied" : "Selected");
  };
  button.addEventListener("click", () => {
    if (!navigator.clipboard) return select();
    navigator.clipboard.writeText(source.textContent).then(() => done("Copied"), select);
  });
}

for (const section of document.querySelectorAll("[data-options]")) {
  const options = JSON.parse(section.dataset.options || "[]");
  const slider = section.querySelector("input[type=range]");
  if (!slider) continue;
  const allowed = section.querySelector("input[type=number]");
  const show = (name, text) => { section.querySelector(`[data-shows="${name}"]`).textContent = text; };

  const pick = (number) => {
    const one = options[number];
    slider.value = number;
    slider.setAttribute("aria-valuetext", `${one.layers}, ${one.accuracy}`);
    section.querySelector("output").textContent = one.layers;
    show("layers", one.layers);
    show("accuracy", one.accuracy);
    show("drop", one.drop);
    show("holdout", one.holdout || "not measured");
    show("cost", one.cost || "not timed");
    show("state", `${one.is_met ? "met" : "missed"}${one.is_plan ? "; this is the plan" : ""}`);
    section.querySelector("#picked-command").textContent = one.command || "this is the plan";
    section.querySelector("#picked-names").textContent = one.names.join("\n") || "none";
    for (const point of section.querySelectorAll(".point")) {
      point.classList.toggle("picked", point.dataset.option === String(number));
    }
  };

  slider.addEventListener("input", () => pick(Number(slider.value)));
  allowed.addEventListener("input", () => {
    // The cheapest that some target within this drop chooses; the surest where none is.
    const drop = Number(allowed.value);
    const known = options.map((one, number) => ({ ...one, number })).filter((one) => one.allowed !== null);
    const found = known.find((one) => one.allowed <= drop + 1e-9) ?? known.at(-1);
    if (allowed.value !== "" && found) pick(found.number);
  });
  for (const point of section.querySelectorAll(".point[data-option]")) {
    point.addEventListener("click", () => pick(Number(point.dataset.option)));
  }
  section.querySelector(".controls").hidden = false;
  pick(Number(slider.value));
}

// A table that is wider than its place is shown as one card for each row.
const tables = [...document.querySelectorAll(".scroll > table:not(.side)")].filter((table) => table.tHead);
for (const table of tables) {
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, column) => { cell.dataset.label = heads[column]; });
  }
}
const fit = (table) => {
  table.classList.remove("stacked");
  table.classList.toggle("stacked", table.scrollWidth > table.parentElement.clientWidth);
};
let width = 0;
new ResizeObserver(() => {
  if (width === document.body.clientWidth) return;
  width = document.body.clientWidth;
  tables.forEach(fit);
}).observe(document.body);
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => tables.filter((table) => details.contains(table)).forEach(fit));
}
