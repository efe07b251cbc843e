// The address is the question. An uploaded picture does not fit into it: history keeps its number.

import { about } from "./api.js";

const SCOPES = ["all", "same", "other"];

export function read(search = location.search, picture = history.state?.picture ?? null) {
  const words = new URLSearchParams(search);
  if (words.get("view") === "classes") {
    return {
      view: "classes",
      label: words.get("label"),
      cell: words.get("cell"),
      other: words.get("with"),
    };
  }
  const k = Number(words.get("k") || about.defaultK);
  const least = words.get("min_score") || "";
  const row = words.get("row");
  return {
    view: "search",
    row,
    picture: row === null ? picture : null,
    k: Number.isInteger(k) && k > 0 ? Math.min(k, about.maxK) : about.defaultK,
    scope: SCOPES.includes(words.get("scope")) ? words.get("scope") : "all",
    label: words.get("label") || "",
    least: least.trim() !== "" && Math.abs(Number(least)) <= 1 ? least.trim() : "",
  };
}

export function write(question) {
  const words = new URLSearchParams();
  const put = (name, value) => {
    if (value !== null && value !== undefined && value !== "") words.set(name, value);
  };
  if (question.view === "classes") {
    put("view", "classes");
    put("label", question.label);
    put("cell", question.cell);
    put("with", question.other);
  } else {
    if (question.row === null && question.picture === null) return "./";
    put("row", question.row);
    put("k", question.k);
    put("scope", question.scope);
    put("label", question.label);
    put("min_score", question.least);
  }
  return "?" + words;
}

export const start = () => ({
  view: "search", row: null, picture: null, k: about.defaultK, scope: "all", label: "", least: "",
});

export const classPage = (label) => write({ view: "classes", label });
export const cellPage = (cell, other) => write({ view: "classes", cell, other });

// A stored picture: it brings its own class, and only what has one can be asked within classes.
export const rowPage = (row, label, from = start()) =>
  write({
    ...from,
    row: String(row),
    picture: null,
    label: "",
    scope: label === null ? "all" : from.scope,
  });

// Moving

const places = new Map();
let arrive = null, here = null, made = 0;

const identify = (picture) => ({ id: `${Date.now()}.${made++}`, picture });

const leave = () => places.set(here, window.scrollY);

export function go(question) {
  const to = new URL(write(question), location.href);
  const picture = question.picture ?? null;
  if (to.search === location.search && picture === (history.state?.picture ?? null)) {
    arrive({ kept: false, top: null });
    return;
  }
  leave();
  const state = identify(picture);
  here = state.id;
  history.pushState(state, "", to);
  arrive({ kept: false, top: question.stay ? null : 0 });
}

// `then` is called with `kept` (an answer from before will do) and `top` (where to scroll, or null).
export function begin(then) {
  arrive = then;
  history.scrollRestoration = "manual";
  if (!history.state?.id) history.replaceState(identify(null), "");
  here = history.state.id;
  window.addEventListener("popstate", (event) => {
    // A link to a place within the page has no state of ours.
    if (!event.state?.id) history.replaceState(identify(null), "");
    leave();
    here = history.state.id;
    arrive({ kept: true, top: places.get(here) ?? 0 });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const to = new URL(link.href);
    if (to.origin !== location.origin || to.pathname !== location.pathname || to.hash) return;
    event.preventDefault();
    go(read(to.search, null));
  });
  arrive({ kept: false, top: null });
}
