// The classes: how well they separate, which are taken for which, and the pictures behind each
// figure.

import { about, ask, index, picture } from "./api.js";
import { cellPage, classPage, rowPage } from "./address.js";
import {
  bar, count, el, fileName, get, labelNode, mark, number, percent, plainLabel, printable, put, say,
} from "./dom.js";

const PAGE = 60, ROWS = 24, FEW = 12, CONFUSIONS = 10, KEPT_LISTS = 5;
const MEASURE = "precision_at_k";

let evaluated = null;
// What was loaded of a class, for the way back.
const lists = new Map();

const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });

// Ask until it is computed. A busy service is asked again when it wants to be.
async function until(path, words, signal) {
  for (;;) {
    let wait = 1;
    try {
      const got = await ask(path, { ...words, k: about.defaultK }, signal);
      if (got.ready !== false) return got;
    } catch (error) {
      if (error.status !== 429) throw error;
      wait = error.wait || 1;
    }
    await pause(1000 * wait, signal);
  }
}

async function evaluation(signal, kept) {
  if (!kept || !evaluated) evaluated = await until("v1/evaluation", {}, signal);
  return evaluated;
}

const between = (interval) => (interval ? `${percent(interval[0])} to ${percent(interval[1])}` : "");

const heading = (...children) => el("h2", { id: "classes-title", tabindex: "-1" }, ...children);
const crumb = () => el("p", { class: "crumb" }, el("a", { href: "?view=classes" }, "All classes"));
const wait = (text) => el("p", { class: "soft waiting" }, text);

function name(title) {
  document.title = `${title} · ${printable(about.name)} · imgsearch`;
}

// All classes

function lead(figures, labelled) {
  const value = figures.overall[MEASURE];
  if (value === undefined) return el("p", { class: "soft" }, "There is no accuracy to tell.");
  const k = figures.k;
  const who = figures.sampled
    ? `${number(figures.n_queries)} of ${count(labelled, "picture")}, taken evenly, were asked`
    : `Each of ${count(figures.n_queries, "picture")} was asked`;
  return el("div", { class: "lead" },
    el("b", {}, percent(value)),
    el("div", {},
      el("p", {}, `Accuracy of correct matches by correspondence to other classes (precision@${k}): the share of its own class among the ${k === 1 ? "nearest picture" : k + " nearest pictures"} of a picture.`),
      el("p", { class: "soft" }, [
        figures.intervals[MEASURE] ? `95% interval ${between(figures.intervals[MEASURE])}` : "",
        `chance ${percent(figures.chance[MEASURE])}`,
        `${who}; none is its own match`,
      ].filter(Boolean).join(" · ")),
      figures.learned_from_queries ? el("p", {}, LEARNED) : ""));
}

const LEARNED = "This index was learned from the labels of these very pictures: the figures are too good. Ask a folder of other pictures (imgsearch evaluate INDEX TEST).";

const ORDERS = {
  name: ["By name", () => 0],
  most: ["Most pictures first", (a, b) => b.n - a.n],
  worst: ["Lowest accuracy first", (a, b) => (a.value ?? 2) - (b.value ?? 2)],
  best: ["Highest accuracy first", (a, b) => (b.value ?? -1) - (a.value ?? -1)],
};

function classList(info) {
  const all = Object.entries(info.classes).map(([label, n]) =>
    ({ label, n, low: printable(label).toLowerCase(), value: null, figures: null }));
  let shown = ROWS, computed = false;
  const find = el("input", { type: "search", id: "find", autocomplete: "off", spellcheck: "false" });
  const order = el("select", { id: "order" },
    ...Object.entries(ORDERS).map(([value, [text]]) => el("option", { value }, text)));
  const state = el("p", { class: "soft", role: "status" });
  const body = el("tbody");
  const more = el("button", { type: "button" });

  const row = (entry) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: classPage(entry.label) }, labelNode(entry.label))),
    el("td", { class: "num" }, number(entry.n)),
    el("td", { class: "figures" }, entry.figures
      ? [
        el("span", { class: "line" }, el("b", {}, percent(entry.value)),
          bar(entry.value, entry.figures.intervals?.[MEASURE], entry.figures.chance[MEASURE])),
        el("small", {}, [
          entry.figures.intervals?.[MEASURE]
            ? `95% interval ${between(entry.figures.intervals[MEASURE])}` : "",
          `chance ${percent(entry.figures.chance[MEASURE])}`,
        ].filter(Boolean).join(" · ")),
      ]
      : el("span", { class: "soft" }, computed ? "not asked" : "…")));

  const draw = () => {
    const text = find.value.trim().toLowerCase();
    const found = all.filter((entry) => entry.low.includes(text)).sort(ORDERS[order.value][1]);
    put(body, found.slice(0, shown).map(row));
    const left = found.length - shown;
    more.hidden = left <= 0;
    more.textContent = left > 0 ? `Show ${number(Math.min(left, 2 * ROWS))} more` : "";
    state.textContent = text || left > 0
      ? `${number(Math.min(shown, found.length))} of ${count(found.length, "class", "classes")}${text ? " with this in the name" : ""}` : "";
  };
  find.addEventListener("input", () => { shown = ROWS; draw(); });
  order.addEventListener("change", () => { shown = ROWS; draw(); });
  more.addEventListener("click", () => {
    const at = body.rows.length;
    shown += 2 * ROWS;
    draw();
    body.rows[at]?.querySelector("a").focus();
  });
  draw();

  const bare = info.count - all.reduce((sum, entry) => sum + entry.n, 0);
  const node = el("div", { class: "list" },
    all.length > 1 ? el("div", { class: "filter" },
      all.length > 8 ? el("div", { class: "field wide" },
        el("label", { for: "find" }, "Find a class"), find) : null,
      el("div", { class: "field" }, el("label", { for: "order" }, "Order"), order)) : null,
    state,
    el("table", { class: "classes" },
      el("caption", { class: "vh" }, "Classes, their pictures and accuracy"),
      el("thead", {}, el("tr", {},
        el("th", { scope: "col" }, "Class"),
        el("th", { scope: "col", class: "num" }, "Pictures"),
        el("th", { scope: "col" }, "Accuracy, its interval and chance"))),
      body),
    more,
    bare > 0 ? el("p", { class: "soft" },
      `${count(bare, "picture")} ${bare === 1 ? "has" : "have"} no class.`) : null);

  const complete = (figures) => {
    computed = true;
    for (const entry of all) {
      entry.figures = Object.hasOwn(figures.per_class, entry.label) ? figures.per_class[entry.label] : null;
      entry.value = entry.figures ? entry.figures[MEASURE] : null;
    }
    draw();
  };
  return { node, complete };
}

const shade = (value) => (value > 0 ? "h" + Math.max(1, Math.round(10 * value)) : "h0");

function written(value, fine) {
  if (fine) return (100 * value).toFixed(2);
  const whole = Math.round(100 * value);
  return value > 0 && whole === 0 ? "<1" : String(whole);
}

// One stop for the Tab key, then the arrows.
function rove(table, at) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  let stop = null;
  const go = (link) => {
    if (stop) stop.tabIndex = -1;
    stop = link;
    stop.tabIndex = 0;
  };
  const where = new Map();
  for (const [place, link] of at) {
    link.tabIndex = -1;
    where.set(link, place.split(",").map(Number));
  }
  go(at.values().next().value);
  const rows = table.tBodies[0].rows.length;
  table.addEventListener("focusin", (event) => {
    if (where.has(event.target)) go(event.target);
  });
  table.addEventListener("keydown", (event) => {
    const step = steps[event.key], from = where.get(event.target);
    if (!step || !from || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    let [r, c] = from, next;
    do {
      r += step[0];
      c += step[1];
      next = at.get(`${r},${c}`);
    } while (!next && r >= 0 && c >= -1 && r < rows && c < rows);
    next?.focus();
  });
}

function matrix(labels, shares) {
  const fine = labels.length <= FEW, at = new Map();
  const table = el("table", { class: fine ? "matrix" : "matrix many" },
    el("caption", {}, "Of the matches of a row's pictures, the percentage of each column's class. A cell opens its pictures."),
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "Pictures of"),
      ...labels.map((label) => el("th", { scope: "col", title: printable(label) },
        el("span", { class: "cut" }, labelNode(label)))))),
    el("tbody", {}, ...labels.map((label, r) => {
      const head = el("a", { href: classPage(label), title: printable(label) },
        el("span", { class: "cut" }, labelNode(label)));
      at.set(`${r},-1`, head);
      return el("tr", {},
        el("th", { scope: "row" }, head),
        ...labels.map((other, c) => {
          const value = shares[r]?.[c] ?? null;
          const kind = (r === c ? "own " : "") + (value === null ? "h0" : shade(value));
          if (!value) return el("td", { class: kind }, value === null ? "\u2013" : written(0, fine));
          const link = el("a", {
            href: cellPage(label, other),
            title: `Pictures of ${printable(label)} with matches of ${printable(other)}`,
          }, written(value, fine));
          at.set(`${r},${c}`, link);
          return el("td", { class: kind }, link);
        }));
    })));
  rove(table, at);
  return el("div", { class: "scroll" }, table);
}

function confusions(pairs) {
  if (!pairs.length) return null;
  const line = (pair) => el("li", {},
    el("a", { href: cellPage(pair.query_label, pair.match_label) },
      labelNode(pair.query_label), el("span", { "aria-hidden": "true" }, " \u2192 "),
      el("span", { class: "vh" }, " taken for "), labelNode(pair.match_label)),
    " ", el("span", { class: "share" }, percent(pair.share)));
  const list = el("ol", { class: "pairs" }, ...pairs.slice(0, CONFUSIONS).map(line));
  const more = pairs.length > CONFUSIONS ? el("button", {
    type: "button",
    onclick: () => {
      const at = list.children.length;
      list.append(...pairs.slice(CONFUSIONS).map(line));
      more.remove();
      list.children[at].querySelector("a").focus();
    },
  }, `Show all ${pairs.length}`) : null;
  return el("section", {},
    el("h2", {}, "Most often taken for another"),
    el("p", { class: "soft" }, "The share of the second class among the matches of the first one's pictures."),
    list, more);
}

async function overview(section, { signal, kept, ready }) {
  name("Classes");
  const info = await index(signal);
  if (!Object.keys(info.classes).length) {
    await pictures(section, null, { signal, kept, ready });
    return;
  }
  const list = classList(info), top = el("div", {}, wait("The accuracy is being computed …"));
  const rest = el("div");
  put(section, heading("How well the classes separate"), top, list.node, rest);
  // Where it is known already, its place is taken before one scrolls back to it.
  if (!kept || !evaluated) ready();
  let figures;
  try {
    figures = await evaluation(signal, kept);
  } catch (error) {
    put(top);
    throw error;
  }
  const labelled = Object.values(info.classes).reduce((sum, n) => sum + n, 0);
  put(top, lead(figures, labelled));
  list.complete(figures);
  const { labels, matrix: shares } = figures.correspondence;
  put(rest,
    shares && labels.length ? el("section", {}, el("h2", {}, "Correspondence to other classes"), matrix(labels, shares)) : null,
    confusions(figures.confusions ?? []));
  ready();
  const value = figures.overall[MEASURE];
  if (value !== undefined) say(`Accuracy ${percent(value)}, chance ${percent(figures.chance[MEASURE])}.`);
}

// The pictures of one class, or all pictures where there are no classes

const tile = (item, extra = {}) =>
  el("a", { class: "tile" + (extra.kind ?? ""), href: rowPage(item.row, item.label), title: printable(item.path) },
    el("span", { class: "pic" }, picture(item.row, fileName(item.path), { sizes: extra.sizes })),
    el("span", { class: "caption" }, extra.head ?? null,
      el("span", { class: "file", "aria-hidden": "true" }, el("bdi", {}, fileName(item.path)))));

async function pictures(section, label, { signal, kept, ready, tell }) {
  const title = label === null ? "Pictures" : plainLabel(label);
  name(title);
  const key = label ?? "";
  let held = kept ? lists.get(key) : undefined;
  const note = el("p", { class: "soft" });
  const grid = el("ul", { class: "tiles", role: "list" });
  const more = el("button", { type: "button", hidden: true }, "More");
  const head = label === null ? heading("All pictures") : heading(labelNode(label));
  const waiting = wait("Loading …");
  put(section, label === null ? null : crumb(), head, note, held ? null : waiting, grid, more);

  const load = (offset) => ask("v1/items", { label, offset, limit: PAGE }, signal);
  const add = (items) => grid.append(...items.map((item) => el("li", {}, tile(item))));
  const update = () => {
    const left = held.total - held.items.length;
    more.hidden = left <= 0;
    more.textContent = `Show ${number(Math.min(left, PAGE))} more of ${number(left)}`;
  };
  more.onclick = async () => {
    more.disabled = true;
    try {
      const part = await load(held.items.length);
      const at = held.items.length;
      held.total = part.items.length ? part.total : at;
      held.items.push(...part.items);
      add(part.items);
      say(`${number(held.items.length)} of ${count(held.total, "picture")} are shown.`);
      more.disabled = false;
      update();
      if (more.hidden) grid.children[at]?.querySelector("a").focus();
    } catch (error) {
      more.disabled = false;
      if (!signal.aborted) tell(error, () => more.click());
    }
  };

  if (!held) {
    try {
      held = await load(0);
    } finally {
      waiting.remove();
    }
    lists.delete(key);
    lists.set(key, held);
    if (lists.size > KEPT_LISTS) lists.delete(lists.keys().next().value);
  }
  add(held.items);
  update();
  note.textContent = held.total ? count(held.total, "picture") : "There is no picture.";
  ready();
  if (label === null) return;
  let figures;
  try {
    figures = (await evaluation(signal, true)).per_class;
  } catch {
    // The pictures are what was asked for.
    return;
  }
  if (!Object.hasOwn(figures, label)) return;
  const of = figures[label];
  note.append([
    ` · accuracy ${percent(of[MEASURE])}`,
    of.intervals?.[MEASURE] ? ` (95% interval ${between(of.intervals[MEASURE])})` : "",
    ` · chance ${percent(of.chance[MEASURE])}`,
  ].join(""));
}

// A cell of the matrix

async function cell(section, own, other, { signal, ready }) {
  name(`${plainLabel(own)}, ${plainLabel(other)}`);
  const waiting = wait("Looking …");
  const title = own === other
    ? heading("Pictures of ", labelNode(own), " with matches of their own class")
    : heading("Pictures of ", labelNode(own), " with matches of ", labelNode(other));
  put(section, crumb(), title, waiting);
  let found;
  try {
    found = await until("v1/evaluation/cell", { query_label: own, match_label: other }, signal);
  } finally {
    waiting.remove();
  }
  const { total, items } = found;
  const right = own === other;
  section.append(
    el("p", { class: "soft" }, !total ? "There is none."
      : total > items.length ? `The first ${items.length} of ${count(total, "picture")}` : count(total, "picture")),
    el("ol", { class: "cases", role: "list" }, ...items.map((item) => el("li", {},
      tile(item, { sizes: "11rem", head: el("span", { class: "head" }, el("span", { class: "name" }, labelNode(item.label))) }),
      el("ol", { class: "tiles small", role: "list" }, ...item.matches.map((match) => el("li", {},
        tile(match, {
          kind: right ? " right" : " wrong",
          sizes: "9rem",
          head: [
            el("span", { class: "head" },
              el("span", { class: "rank" }, mark(right), `${match.rank}. `),
              el("span", { class: "name" }, labelNode(match.label))),
            el("span", { class: "score" }, "Score ", match.score.toFixed(4)),
          ],
        }))))))));
  ready();
  say(total ? `${count(total, "picture")}.` : "There is none.");
}

export async function show(question, context) {
  const section = get("classes");
  if (question.cell !== null) {
    await cell(section, question.cell, question.other ?? question.cell, context);
  } else if (question.label !== null) await pictures(section, question.label, context);
  else await overview(section, context);
}

export const title = () => get("classes-title") ?? get("content");
