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
    table.dispatchEvent(new Event("searched"));
  });
}

// A layer by its name: its row, its boxes in the drawings, and the drawer with all that is known.
for (const drawer of document.querySelectorAll(".drawer")) {
  const table = document.getElementById("layer-table");
  const maps = document.querySelector(".maps");
  const facts = JSON.parse(maps?.dataset.layers ?? "[]");
  const numbers = new Map(facts.map((layer, number) => [layer.name, number]));
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.cells[1].textContent.trim(), row]));
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
  const boxes = [...document.querySelectorAll(".map [data-layers]")];
  const own = (box) => box.dataset.layers.split(" ").map(Number);
  let opener = null;

  const reveal = (view, focus = false) => {
    for (const part of maps?.querySelectorAll("[data-view]") ?? []) {
      part.hidden = Number(part.dataset.view) !== view;
      if (!part.hidden && focus) {
        part.querySelector("h3").focus({ preventScroll: true });
        part.scrollIntoView({ block: "nearest" });
      }
    }
    for (const box of boxes) {
      if (box.classList.contains("box-block")) box.setAttribute("aria-expanded", Number(box.dataset.opens) === view);
    }
  };

  const say = (title, ...parts) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = title;
    text.append(...parts);
    drawer.querySelector("dl").append(term, text);
  };

  const link = (name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "opens-layer";
    button.textContent = name;
    button.addEventListener("click", () => open(name));
    return button;
  };

  const histograms = JSON.parse(drawer.dataset.histograms || "{}");
  const blank = drawer.querySelector("svg");
  const node = (kind, attributes, ...parts) => {
    const made = document.createElementNS(blank.namespaceURI, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...parts);
    return made;
  };
  const steps = (heights, from, to) => heights.map((height, at) =>
    `V${1 - height}H${from + ((to - from) * (at + 1)) / heights.length}`).join("");

  const draw = (one) => {
    const [from, to] = one.span;
    const heights = [...one.bars].map((digit) => parseInt(digit, 36) / 35);
    const picture = node("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", role: "img", "aria-label": `${one.what}: ${one.sentences.join(" ")}` },
      node("path", { d: `M${from} 1${steps(heights, from, to)}V1z` }));
    for (const kind of ["original", "repaired"]) {
      for (const x of one[kind] ?? []) picture.append(node("line", { class: kind, x1: x, x2: x, y1: 0, y2: 1 }));
    }
    const title = document.createElement("h4");
    title.textContent = one.what;
    const parts = [title, picture];
    for (const sentence of one.sentences) {
      const text = document.createElement("p");
      text.textContent = sentence;
      parts.push(text);
    }
    if (one.channels.length > 1) {
      const label = `Largest value of ${one.channels.length} output channels, the largest first`;
      parts.push(node("svg", { class: "channels", viewBox: "0 0 1 1", preserveAspectRatio: "none", role: "img", "aria-label": label },
        node("path", { d: `M0 1${steps(one.channels, 0, 1)}V1z` })));
      const words = document.createElement("p");
      words.className = "caption";
      words.textContent = `${label}.`;
      parts.push(words);
    }
    return parts;
  };

  const mark = (name) => {
    const layer = facts[numbers.get(name)];
    const unit = layer?.unit ?? name;
    for (const row of table.tBodies[0].rows) row.classList.toggle("picked", row === rows.get(unit));
    for (const box of boxes) box.classList.toggle("picked", own(box).some((number) => facts[number].name === name || facts[number].unit === name));
  };

  const open = (name) => {
    const layer = facts[numbers.get(name)] ?? facts.find((one) => one.unit === name);
    const row = rows.get(layer?.unit ?? name);
    drawer.querySelector("h2").textContent = layer?.name ?? name;
    drawer.querySelector("dl").replaceChildren();
    if (layer && layer.unit !== layer.name) say("Unit", layer.unit);
    if (layer) say("Format", layer.format || "not quantized");
    if (layer?.operation) say("Operation", layer.operation);
    // The name and the quantizers, first and last, have places of their own.
    for (const [column, head] of heads.entries()) {
      const text = row?.cells[column].textContent.trim();
      if (text && column !== 1 && column < heads.length - 1) say(head, text);
    }
    const quantizers = [...(row?.querySelectorAll("li") ?? [])].map((item) => item.textContent);
    if (quantizers.length) say("Quantizers", quantizers.join(", "));
    for (const [title, names] of [["Reads from", layer?.before], ["Read by", layer?.after]]) {
      if (names?.length) say(title, ...names.map(link));
    }
    drawer.querySelector(".histograms").replaceChildren(...(histograms[layer?.unit ?? name] ?? []).flatMap(draw));
    if (layer?.view) reveal(layer.view);
    mark(layer?.name ?? name);
    drawer.hidden = false;
    drawer.focus({ preventScroll: true });
  };

  const close = () => {
    drawer.hidden = true;
    mark(null);
    opener?.focus({ preventScroll: true });
  };

  const choose = (box) => {
    opener = box;
    if (box.classList.contains("box-layer")) return open(facts[own(box)[0]].name);
    if (Number(box.dataset.opens) > 0) return reveal(Number(box.dataset.opens), true);
    return open(facts[own(box)[0]].name);
  };

  for (const box of boxes) {
    box.addEventListener("click", () => choose(box));
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(box);
    });
  }
  for (const button of table.querySelectorAll(".opens-layer")) {
    button.addEventListener("click", () => {
      opener = button;
      open(button.textContent.trim());
    });
  }
  for (const button of document.querySelectorAll(".view .close")) {
    button.addEventListener("click", () => {
      const box = boxes.find((one) => one.dataset.opens === button.closest(".view").dataset.view && one.checkVisibility());
      reveal(0);
      box?.focus();
    });
  }
  drawer.querySelector(".close").addEventListener("click", close);
  drawer.querySelector(".to-table").addEventListener("click", (event) => {
    event.preventDefault();
    const row = table.querySelector("tr.picked");
    drawer.hidden = true;
    if (row) row.hidden = false;
    (row ?? table).scrollIntoView({ block: "center" });
    row?.querySelector("button").focus({ preventScroll: true });
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !drawer.hidden) close();
  });

  const search = document.getElementById("search");
  const mirror = document.querySelector("[data-mirrors]");
  mirror?.addEventListener("input", () => {
    search.value = mirror.value;
    search.dispatchEvent(new Event("input"));
  });
  table.addEventListener("searched", () => {
    if (mirror && mirror.value !== search.value) mirror.value = search.value;
    const found = new Set([...rows].filter(([, row]) => !row.hidden).map(([name]) => name));
    for (const box of boxes) box.classList.toggle("dim", !own(box).some((number) => found.has(facts[number].unit)));
    for (const output of document.querySelectorAll("output[for=search-map]")) {
      output.textContent = search.value ? document.querySelector("output[for=search]").textContent : "";
    }
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
    show("state", `${one.state}${one.is_plan ? "; this is the plan" : ""}`);
    section.querySelector("#picked-command").textContent = one.command || "this is the plan";
    section.querySelector("[data-copies='picked-command']").hidden = !one.command;
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
