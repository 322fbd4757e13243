"use strict";
// What the page does beyond being read: sort, filter, choose columns, point at values, learning curves, differences, and,
// behind a server, taking over new records. Text goes into text nodes only; nothing here writes HTML.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const POLL = 2000; // ms
  const HUES = 8, DASHES = ["", "8 4", "2 3"]; // together 24 looks; neighbours differ in both
  let data = JSON.parse(one("#data").textContent);
  const sorted = {}; // table id: [key, "ascending" or "descending"]
  const hidden = new Set(); // keys of columns
  let epoch = null; // of the readout; null: the last one

  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "line", "polyline", "polygon", "text", "circle"].includes(name);
    const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children); // strings become text nodes
    return made;
  }

  // --- table ---------------------------------------------------------------------------------------------------------

  const words = (cell) => cell.dataset.text ?? cell.textContent;

  function order(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    rows.forEach((row, i) => (row.dataset.place ??= i));
    const [key, direction] = sorted[table.id] ?? [];
    const head = all("thead th", table);
    const column = head.findIndex((cell) => cell.dataset.key === key);
    head.forEach((cell, i) => cell.setAttribute("aria-sort", i === column ? direction : "none"));
    const sign = direction === "descending" ? -1 : 1;
    rows.sort((a, b) => (column < 0 ? 0 : compare(a.cells[column], b.cells[column], sign)) || a.dataset.place - b.dataset.place);
    body.append(...rows);
  }

  function compare(a, b, sign) {
    const x = words(a), y = words(b);
    const p = a.dataset.value, q = b.dataset.value;
    if (p === undefined && q === undefined) return !x - !y || sign * x.localeCompare(y, "en", { numeric: true });
    return (p === undefined) - (q === undefined) || sign * (p - q);
  }

  function turn(button) {
    const table = button.closest("table"), key = button.closest("th").dataset.key;
    const [last, direction] = sorted[table.id] ?? [];
    if (last !== key) sorted[table.id] = [key, "ascending"];
    else if (direction === "ascending") sorted[table.id] = [key, "descending"];
    else delete sorted[table.id]; // as it was: the order of the roadmap
    order(table);
  }

  function filter() {
    const text = one("#filter").value.trim().toLowerCase();
    const group = one("#group")?.value ?? "", resolved = one("#resolved").checked;
    let shown = 0, total = 0;
    for (const row of all(".sortable tbody tr")) {
      const seen = [...row.cells].filter((cell) => !cell.hidden).map(words).join("\n").toLowerCase();
      const inGroup = !group || row.closest("table").id !== "rows" || row.dataset.group === group;
      const judged = one("th[data-key=verdict]", row.closest("table")); // rows without effects of their own have no verdict
      row.hidden = !(seen.includes(text) && inGroup && (!resolved || !judged || row.dataset.verdict === "resolved"));
      total += 1;
      shown += !row.hidden;
    }
    one("#count").textContent = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
  }

  function columns() {
    for (const table of all(".sortable"))
      all("thead th", table).forEach((head, i) => {
        for (const row of table.rows) row.cells[i].hidden = hidden.has(head.dataset.key);
      });
    filter();
  }

  function columnMenu() {
    const menu = one("#columns"), keys = new Map();
    for (const head of all(".sortable thead th")) keys.set(head.dataset.key, keys.get(head.dataset.key) ?? head.textContent);
    keys.delete("label"); // without it no row could be told from another
    menu.replaceChildren(
      ...[...keys].map(([key, heading]) => {
        const box = element("input", { type: "checkbox", id: `column-${key}`, "data-key": key });
        box.checked = !hidden.has(key);
        return element("label", { class: "box" }, box, heading);
      }),
    );
  }

  // --- values at the pointer and at the focus ------------------------------------------------------------------------

  const tip = one("#tip");
  const tipped = (target) => (target instanceof Element ? target.closest("[data-tip]") : null);

  let pointed = null; // what the tip speaks of: a scroll moves the tip with it

  function point(target) {
    pointed = target;
    if (!target) return void (tip.hidden = true);
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = (one("circle", target.matches(".point") ? target : document.createElement("i")) ?? target).getBoundingClientRect();
    const { width, height } = tip.getBoundingClientRect();
    const below = box.bottom + 8, top = below + height > innerHeight ? box.top - height - 8 : below;
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }

  // Arrow keys walk through the rows of the figure or the points of the plot, so that each is one stop of the Tab key.
  function rove() {
    for (const name of [".chart .row", ".plot .point"]) {
      const items = all(name);
      if (!items.some((item) => item === document.activeElement)) items.forEach((item, i) => item.setAttribute("tabindex", i ? -1 : 0));
    }
  }

  function walk(event) {
    const item = tipped(event.target), step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!item || !(step || event.key === "Home" || event.key === "End")) return;
    const items = all(item.matches(".point") ? ".plot .point" : ".chart .row");
    const next = step ? items[items.indexOf(item) + step] : items.at(event.key === "Home" ? 0 : -1);
    event.preventDefault();
    if (!next) return;
    items.forEach((other) => other.setAttribute("tabindex", other === next ? 0 : -1));
    next.focus();
  }

  // --- learning curves -----------------------------------------------------------------------------------------------

  const look = (row) => ({ class: `s${row % HUES}`, "stroke-dasharray": DASHES[row % DASHES.length] });
  const digits = () => (one("#metric").value === "2" ? 2 : 4);

  function chosenCurves() {
    const metric = Number(one("#metric").value);
    return all("#pills input:checked").map((box) => {
      const row = Number(box.dataset.row);
      const histories = data.runs.filter((run) => run.row === row).map((run) => run.history);
      const points = [];
      for (let i = 0; i < data.epochs; i++) {
        const values = histories.map((history) => history[i]?.[metric]).filter((value) => Number.isFinite(value));
        if (values.length) points.push({ epoch: i + 1, ...spread(values) });
      }
      return { row, label: data.rows[row], points };
    });
  }

  function spread(values) {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return { n: values.length, mean, std: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0 };
  }

  function ticks(low, high, count) {
    const rough = (high - low || Math.abs(high) || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
    const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: Math.max(last, first + 1) - first + 1 }, (_, i) => [(first + i) * step, ((first + i) * step).toFixed(places)]);
  }

  function drawCurves() {
    const box = one("#plot"), curves = chosenCurves(), points = curves.flatMap((curve) => curve.points);
    box.replaceChildren();
    if (!points.length) {
      box.append(element("p", { class: "empty" }, curves.length ? "The chosen rows have no epochs yet." : "Choose rows to draw their curves."));
      return one("#readout").replaceChildren();
    }
    const svg = element("svg", { "aria-hidden": "true" });
    box.append(svg); // an empty box is low
    const names = box.clientWidth > 620 ? 130 : 12;
    const frame = { left: 48, right: box.clientWidth - names, top: 12, bottom: box.clientHeight - 40 };
    const up = ticks(Math.min(...points.map((p) => p.mean - p.std)), Math.max(...points.map((p) => p.mean + p.std)), 5);
    const low = up[0][0], high = up.at(-1)[0], span = Math.max(1, data.epochs - 1);
    const x = (value) => frame.left + ((value - 1) / span) * (frame.right - frame.left);
    const y = (value) => frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top);
    for (const [value, name] of up)
      svg.append(
        element("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(value), y2: y(value) }),
        element("text", { x: frame.left - 8, y: y(value) + 4, "text-anchor": "end" }, name),
      );
    const round = ticks(1, data.epochs, 6).map(([value]) => value).filter((value) => value > 1 && value <= data.epochs && Number.isInteger(value));
    for (const value of [1, ...round]) svg.append(element("text", { x: x(value), y: frame.bottom + 18, "text-anchor": "middle" }, `${value}`));
    svg.append(element("text", { x: frame.right, y: frame.bottom + 34, "text-anchor": "end" }, "epoch"));
    for (const curve of curves) svg.append(...line(curve, x, y));
    if (names > 12) svg.append(...ends(curves, x, y, frame));
    svg.append(element("line", { class: "cursor", y1: frame.top, y2: frame.bottom }));
    box.place = x;
    read(curves);
  }

  function line(curve, x, y) {
    const at = (sign) => curve.points.map((p) => `${x(p.epoch)},${y(p.mean + sign * p.std)}`);
    const style = look(curve.row);
    const band = element("polygon", { class: style.class, points: [...at(1), ...at(-1).reverse()].join(" ") });
    const marks = curve.points.length > 20 ? [] : curve.points.map((p) => element("circle", { class: style.class, cx: x(p.epoch), cy: y(p.mean), r: 3 }));
    return [band, element("polyline", { ...style, "data-row": curve.row, points: at(0).join(" ") }), ...marks];
  }

  function ends(curves, x, y, frame) {
    const last = curves.filter((curve) => curve.points.length).map((curve) => ({ label: curve.label, ...curve.points.at(-1) }));
    last.sort((a, b) => b.mean - a.mean);
    let free = frame.top - 8;
    return last.map((p) => {
      free = Math.max(free + 14, y(p.mean) + 4);
      const short = p.label.length > 18 ? `${p.label.slice(0, 17)}…` : p.label;
      return element("text", { class: "end", x: x(p.epoch) + 9, y: free }, short);
    });
  }

  function read(curves) {
    const at = Math.min(epoch ?? data.epochs, data.epochs), cursor = one("#plot .cursor"), place = one("#plot").place;
    cursor.setAttribute("x1", place(at));
    cursor.setAttribute("x2", place(at));
    const items = curves.map((curve) => {
      const found = curve.points.find((p) => p.epoch === at);
      const swatch = element("svg", { "aria-hidden": "true" }, element("line", { ...look(curve.row), x1: 0, x2: 30, y1: 6, y2: 6 }));
      const deviation = found?.n > 1 ? ` ± ${found.std.toFixed(digits())}` : "";
      return element("li", {}, swatch, `${curve.label}: ${found ? `${found.mean.toFixed(digits())}${deviation} (n = ${found.n})` : "no value"}`);
    });
    const metric = one("#metric").selectedOptions[0].textContent;
    one("#readout").replaceChildren(element("b", {}, `epoch ${at} of ${data.epochs}, ${metric}`), element("ul", {}, ...items));
  }

  function moveEpoch(event) {
    const to = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    toEpoch((epoch ?? data.epochs) + to);
  }

  function toEpoch(value) {
    const next = Math.max(1, Math.min(data.epochs, value));
    if (next === epoch || !one("#plot .cursor")) return;
    epoch = next;
    read(chosenCurves());
  }

  // --- differences between two runs ----------------------------------------------------------------------------------

  function runMenus() {
    const known = data.runs.filter((run) => run.settings);
    for (const [select, start] of [[one("#run-first"), 0], [one("#run-second"), known.length - 1]]) {
      const value = select.value || known[start]?.run;
      select.replaceChildren(...known.map((run) => element("option", { value: run.run }, `${data.rows[run.row]}, seed ${run.seed} (${run.run})`)));
      if (value) select.value = value;
    }
    differences();
  }

  const written = (value) => (value === undefined ? "not set" : typeof value === "string" ? value : JSON.stringify(value));

  function differences() {
    const [a, b] = ["#run-first", "#run-second"].map((id) => data.runs.find((run) => run.settings && run.run === one(id).value));
    const out = one("#difference");
    if (!a || !b) return out.replaceChildren(element("p", { class: "empty" }, "No run is done yet."));
    const keys = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])].sort();
    const unequal = keys.filter((key) => JSON.stringify(a.settings[key]) !== JSON.stringify(b.settings[key]));
    const same = Object.keys(data.shared).length + keys.length - unequal.length;
    if (!unequal.length) return out.replaceChildren(element("p", {}, `No difference: all ${same} settings are the same.`));
    const head = ["setting", a.run, b.run].map((text) => element("th", { scope: "col" }, text));
    const rows = unequal.map((key) =>
      element("tr", {}, element("th", { scope: "row" }, key), ...[a, b].map((run) => element("td", {}, written(run.settings[key])))));
    const caption = element("caption", { class: "unseen" }, "Differences");
    const table = element("table", {}, caption, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
    const box = element("div", { class: "scroll", id: "difference-box", tabindex: 0, role: "region", "aria-label": "Differences, table" }, table);
    out.replaceChildren(element("p", {}, `${unequal.length} of ${same + unequal.length} settings differ.`), box);
  }

  // --- new records, from a server ------------------------------------------------------------------------------------

  // The server's page is read without running anything in it, and those parts are taken over that it wrote otherwise.
  const parts = (page) => new Map(all("[data-part]", page).map((part) => [part.id, part.outerHTML]));
  let source = parts(document);

  function takeOver(page) {
    const fresh = parts(page), focus = document.activeElement?.id;
    if ([...source.keys()].join() !== [...fresh.keys()].join()) return location.reload(); // a plan became a fault, or the other way
    const scrolled = new Map(all(".scroll").map((box) => [box.id, [box.scrollLeft, box.scrollTop]]));
    const inputs = new Map(all("[data-part] input").map((input) => [input.id, input.checked]));
    for (const [id, html] of fresh) if (html !== source.get(id)) one(`#${id}`).replaceWith(document.adoptNode(one(`#${id}`, page)));
    for (const [id, checked] of inputs) if (one(`#${CSS.escape(id)}`)) one(`#${CSS.escape(id)}`).checked = checked;
    source = fresh;
    data = JSON.parse(one("#data", page).textContent);
    document.body.dataset.state = page.body.dataset.state;
    enhance();
    for (const box of all(".scroll")) [box.scrollLeft, box.scrollTop] = scrolled.get(box.id) ?? [0, 0];
    if (focus && document.activeElement?.id !== focus) one(`#${CSS.escape(focus)}`)?.focus({ preventScroll: true });
  }

  async function poll() {
    try {
      const answer = await (await fetch("state.json", { cache: "no-store" })).json();
      if (answer.state !== document.body.dataset.state) {
        const text = await (await fetch("./", { cache: "no-store" })).text();
        takeOver(new DOMParser().parseFromString(text, "text/html"));
      }
      one("#lost")?.remove();
    } catch {
      if (!one("#lost")) one("main").prepend(element("p", { id: "lost", role: "status" }, "The server does not answer; trying again."));
    }
    setTimeout(poll, POLL);
  }

  // --- start ---------------------------------------------------------------------------------------------------------

  function enhance() {
    if (!one("#rows")) return;
    all(".sortable").forEach(order);
    columnMenu();
    columns();
    rove();
    drawCurves();
    runMenus();
  }

  function listen() {
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.(".sortable thead button");
      if (button) turn(button);
      if (event.target.id === "clear") {
        all("#pills input").forEach((box) => (box.checked = false));
        drawCurves();
      }
    });
    document.addEventListener("input", (event) => {
      const { id, dataset, checked } = event.target;
      if (["filter", "group", "resolved"].includes(id)) filter();
      if (dataset.key) columns(hidden[checked ? "delete" : "add"](dataset.key));
      if (id === "metric" || event.target.closest("#pills")) drawCurves();
      if (id.startsWith("run-")) differences();
    });
    document.addEventListener("mouseover", (event) => point(tipped(event.target) ?? tipped(document.activeElement)));
    document.addEventListener("focusin", (event) => point(tipped(event.target)));
    document.addEventListener("focusout", () => point(null));
    document.addEventListener("scroll", () => tip.hidden || point(pointed), { capture: true, passive: true });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        point(null);
        if (one("#choose[open]")?.contains(document.activeElement)) one("#choose > summary").focus();
        one("#choose")?.removeAttribute("open");
      }
      if (event.target.id === "plot") moveEpoch(event);
      walk(event);
    });
    one("#plot")?.addEventListener("pointermove", (event) => {
      const box = event.currentTarget, left = box.getBoundingClientRect().left;
      if (!box.place) return;
      const first = box.place(1), step = box.place(2) - first;
      toEpoch(Math.round((event.clientX - left - first) / step) + 1);
    });
    if (one("#plot")) new ResizeObserver(drawCurves).observe(one("#plot"));
  }

  document.documentElement.classList.add("script");
  listen();
  enhance();
  if (document.body.dataset.state !== undefined) setTimeout(poll, POLL);
})();
