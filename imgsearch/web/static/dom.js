// Elements, and text that is safe to show: names come from strangers' disks.

export const get = (id) => document.getElementById(id);

const present = (children) =>
  children.flat().filter((child) => child !== null && child !== undefined);

// In place of what a node holds.
export const put = (node, ...children) => node.replaceChildren(...present(children));

const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
};

export const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Control, invisible and bidi characters and lone surrogates, as imgsearch.text.printable has them.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

export const printable = (text) =>
  text.replace(HIDDEN, (character) => {
    // Joiners are part of ordinary words in Persian and Indic scripts and of emoji.
    if (character === "\u200c" || character === "\u200d") return character;
    if (SHORT[character]) return SHORT[character];
    const code = character.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) return "\\x" + (code - 0xdc00).toString(16);
    const [lead, width] = code < 0x100 ? ["\\x", 2] : code < 0x10000 ? ["\\u", 4] : ["\\U", 8];
    return lead + code.toString(16).padStart(width, "0");
  });

export const plainLabel = (label) => (label === null ? "no label" : printable(label));
export const labelNode = (label) =>
  label === null ? el("span", { class: "soft" }, "no label") : el("bdi", {}, printable(label));
export const fileName = (path) => printable(path.slice(path.lastIndexOf("/") + 1) || path);

export const percent = (value) => (100 * value).toFixed(2) + "%";
export const number = (value) => value.toLocaleString("en");
export const count = (value, noun, plural = noun + "s") =>
  number(value) + " " + (value === 1 ? noun : plural);

export const bytes = (value) => {
  if (value < 1e6) return number(Math.max(1, Math.round(value / 1e3))) + "\u00a0kB";
  const binary = value % 1048576 === 0;
  return number(Math.round((10 * value) / (binary ? 1048576 : 1e6)) / 10) + "\u00a0MB";
};

export const mark = (right) =>
  el(
    "span",
    { class: right ? "mark right" : "mark wrong" },
    svg("svg", { "aria-hidden": "true", focusable: "false" },
      svg("use", { href: right ? "#yes" : "#no" })),
    el("span", { class: "vh" }, right ? "right class: " : "wrong class: "),
  );

// A share of 1 as a bar; where they are known, a line for its interval and a tick for chance.
export function bar(value, interval = null, chance = null) {
  const at = (share) => percent(Math.min(1, Math.max(0, share)));
  const drawing = svg("svg", { class: "bar", "aria-hidden": "true", focusable: "false" },
    svg("rect", { class: "back", y: 5, width: "100%", height: 10, rx: 2 }),
    svg("rect", { class: "value", y: 5, width: at(value), height: 10, rx: 2 }));
  if (interval) {
    const [low, high] = interval.map(at);
    drawing.append(
      svg("line", { x1: low, x2: high, y1: 10, y2: 10 }),
      svg("line", { x1: low, x2: low, y1: 6, y2: 14 }),
      svg("line", { x1: high, x2: high, y1: 6, y2: 14 }));
  }
  if (chance !== null) {
    drawing.append(svg("line", { class: "tick", x1: at(chance), x2: at(chance), y1: 0, y2: 20 }));
  }
  return drawing;
}

let said = 0;

// For screen readers. The same sentence twice in a row is said twice.
export const say = (text) => {
  said += 1;
  get("status").textContent = text + (said % 2 ? "" : "\u00a0");
};
