// A question and its answer: the query, what may be changed about it, its matches.

import { about, ask, index, picture, post, preview, seen, Trouble, upload } from "./api.js";
import { classPage, go, rowPage, start, write } from "./address.js";
import { combobox } from "./combobox.js";
import {
  bar, bytes, count, el, fileName, get, labelNode, mark, number, percent, plainLabel, printable, put, say,
} from "./dom.js";
import { intake } from "./intake.js";

const KEPT_PICTURES = 20, KEPT_ANSWERS = 20, SHARES = 8, CLOSEST = 24;

// Uploaded pictures by number: {file, name, url, vector}. They live as long as the page.
const pictures = new Map();
// Answers by question, for back and forward.
const answers = new Map();
let asked = start(), made = 0, showing = "", sampled = false;
// The label that the query has of itself; undefined until it is known.
let own;

const keep = (map, key, value, most, drop = () => {}) => {
  map.delete(key);
  map.set(key, value);
  for (const [oldest, entry] of map) {
    if (map.size <= most) break;
    map.delete(oldest);
    drop(entry);
  }
};

const subject = (question) => `${question.row ?? ""}|${question.picture ?? ""}`;
const same = (question) => subject(question) + write(question);

// Asking

const words = (question) => ({
  k: question.k,
  scope: question.scope,
  label: question.label,
  min_score: question.least,
});

async function answerTo(question, signal) {
  if (question.row !== null) {
    if (!/^\d{1,15}$/.test(question.row)) {
      throw new Trouble(
        `“${printable(question.row)}” is no row: a row is a whole number from 0, as in row=17.`);
    }
    const row = `v1/items/${Number(question.row)}`;
    const [item, answer] = await Promise.all([
      ask(row, {}, signal),
      ask(row + "/similar", words(question), signal),
    ]);
    return { ...answer, item };
  }
  const mine = pictures.get(question.picture);
  const set = Object.entries(words(question)).filter(([, value]) => value !== "");
  if (mine.vector) {
    const json = Object.fromEntries(set);
    if ("min_score" in json) json.min_score = Number(json.min_score);
    return post("v1/search/vector", { vector: mine.vector, ...json }, signal);
  }
  const form = new FormData();
  form.append("image", mine.file, "picture");
  for (const [name, value] of [...set, ["vector", "true"]]) form.append(name, value);
  const answer = await upload("v1/search", form, signal);
  mine.vector = answer.queries[0].vector ?? null;
  if (mine.vector) mine.file = null;
  return answer;
}

// The query

function showQuery(question) {
  get("search").classList.remove("start");
  get("invite").hidden = true;
  get("asked").hidden = false;
  get("answer").hidden = false;
  get("samples").hidden = true;
  if (showing === subject(question)) return;
  showing = subject(question);
  own = question.row === null ? null : undefined;
  const place = get("asked-picture"), text = get("asked-text");
  if (question.row === null) {
    const mine = pictures.get(question.picture);
    place.replaceChildren(preview(mine.url, `Your picture, ${mine.name}`));
    text.replaceChildren(
      el("p", { class: "kind" }, "Your picture"),
      el("p", { class: "path" }, el("bdi", {}, mine.name)),
      el("p", { class: "soft" }, bytes(mine.size)));
  } else {
    const row = Number(question.row);
    if (/^\d{1,15}$/.test(question.row)) {
      place.replaceChildren(picture(row, `Picture ${row} of the index`, { large: true }));
    } else place.replaceChildren();
    text.replaceChildren(el("p", { class: "kind" }, `Picture ${printable(question.row)} of the index`));
  }
}

function showItem(item) {
  own = item.label;
  const image = get("asked-picture").querySelector("img");
  if (image) image.alt = fileName(item.path);
  const facts = [];
  if (item.width && item.height) facts.push(`${number(item.width)} × ${number(item.height)}`);
  if (item.bytes) facts.push(bytes(item.bytes));
  put(get("asked-text"),
    el("p", { class: "kind" }, `Picture ${item.row} of the index`),
    el("p", { class: "name" }, item.label === null ? labelNode(null)
      : el("a", { href: classPage(item.label) }, labelNode(item.label))),
    el("p", { class: "path" }, el("bdi", {}, printable(item.path))),
    facts.length ? el("p", { class: "soft" }, facts.join(", ")) : null);
}

// Settings

const scopes = () => [...get("ask").elements.scope];
let label = null, timer = 0;

function showSettings(question, effective) {
  asked = question;
  for (const [id, value] of [["k", question.k], ["least", question.least]]) {
    const input = get(id);
    if (document.activeElement !== input || !timer) input.value = value;
    input.removeAttribute("aria-invalid");
  }
  get("number-hint").hidden = true;
  label.set(question.label);
  label.hint(own ? printable(own) : "none");
  for (const radio of scopes()) {
    radio.checked = radio.value === question.scope;
    // One that is chosen stays: an address may ask for what cannot be answered.
    radio.disabled = effective === null && radio.value !== "all" && !radio.checked;
  }
  get("scope-hint").hidden = effective !== null || !about.classCount;
  const among = { all: "all pictures", same: "its own class", other: "other classes" };
  get("settings-now").textContent = [
    `k = ${question.k}`, among[question.scope],
    ...(question.label ? [printable(question.label)] : []),
    ...(question.least ? [`score from ${question.least}`] : []),
  ].join(" · ");
}

function change(changes) {
  clearTimeout(timer);
  timer = 0;
  const question = { ...asked, ...changes };
  const effective = question.label || own;
  if (effective === null && question.scope !== "all") question.scope = "all";
  if (same(question) !== same(asked)) go({ ...question, stay: true });
}

function numbers() {
  clearTimeout(timer);
  timer = 0;
  const k = get("k"), least = get("least");
  const wrong = [
    k.checkValidity() ? "" : `k is a whole number from 1 to ${about.maxK}.`,
    least.checkValidity() ? "" : "The least score is a number from -1 to 1.",
  ];
  k.setAttribute("aria-invalid", String(Boolean(wrong[0])));
  least.setAttribute("aria-invalid", String(Boolean(wrong[1])));
  const hint = get("number-hint");
  hint.textContent = wrong.join(" ").trim();
  hint.hidden = !hint.textContent;
  if (hint.hidden) change({ k: Number(k.value), least: least.value });
  else say(hint.textContent);
}

const soon = () => {
  clearTimeout(timer);
  timer = setTimeout(numbers, 400);
};

// The answer

// The first pictures are what one came for.
const fast = (image, eager) => {
  if (eager) image.loading = "eager";
  return image;
};

function tile(match, { question, against, eager }) {
  const marked = against !== null;
  const right = match.label === against;
  return el("li", {},
    el("a", { class: "tile" + (marked ? (right ? " right" : " wrong") : ""),
              href: rowPage(match.row, match.label, question), title: printable(match.path) },
      el("span", { class: "pic" }, fast(picture(match.row, fileName(match.path)), eager)),
      el("span", { class: "caption" },
        el("span", { class: "head" },
          el("span", { class: "rank" }, marked ? mark(right) : null, `${match.rank}. `),
          el("span", { class: "name" }, labelNode(match.label))),
        el("span", { class: "score" }, "Score ", match.score.toFixed(4),
          match.probability === null ? "" : ` · ${percent(match.probability)} likely`),
        el("span", { class: "file", "aria-hidden": "true" },
          el("bdi", {}, fileName(match.path))))));
}

function showShares(answer, question) {
  const list = get("shares"), profile = about.classCount ? answer.correspondence : null;
  const found = (profile?.classes ?? []).filter((entry) => entry.count)
    .sort((a, b) => b.count - a.count || (b.best_score ?? -2) - (a.best_score ?? -2));
  const row = (name, entry, kind) => el("li", { class: kind },
    el("span", { class: "name" }, name),
    el("span", { class: "share" }, `${entry.count} of ${question.k}`, " ",
      el("b", {}, percent(entry.share))),
    bar(entry.share));
  const kind = (name) =>
    answer.label === null ? "" : name === answer.label ? "right" : "wrong";
  list.replaceChildren(...found.slice(0, SHARES).map((entry) =>
    row(labelNode(entry.label), entry, kind(entry.label))));
  const rest = found.slice(SHARES);
  if (rest.length) {
    const sum = rest.reduce((all, entry) => all + entry.count, 0);
    list.append(row(count(rest.length, "more class", "more classes"),
      { count: sum, share: sum / question.k }, kind(null)));
  }
  const bare = answer.matches.filter((match) => match.label === null).length;
  if (bare && profile) {
    list.append(row(labelNode(null), { count: bare, share: bare / question.k }, kind(null)));
  }
  list.hidden = !list.children.length;
  showClosest(profile, question);
}

// Made when it is opened: it is many pictures, and few look at it.
function showClosest(profile, question) {
  const box = get("closest");
  const best = (profile?.classes ?? []).filter((entry) => entry.best_row !== null)
    .sort((a, b) => b.best_score - a.best_score).slice(0, CLOSEST);
  box.hidden = best.length < 2;
  box.open = false;
  const list = box.querySelector("ul");
  list.replaceChildren();
  box.ontoggle = () => {
    if (!box.open || list.children.length) return;
    list.append(...best.map((entry) => el("li", {},
      el("a", { class: "tile", href: rowPage(entry.best_row, entry.label, question) },
        el("span", { class: "pic" }, picture(entry.best_row, "", { sizes: "9rem" })),
        el("span", { class: "caption" },
          el("span", { class: "name" }, labelNode(entry.label)),
          el("span", { class: "score" }, "Score ", entry.best_score.toFixed(4)))))));
  };
}

// What a random order would reach: the share of the class among the rows that can be found.
function chance(label, classes, question) {
  let rows = classes.counts[label] ?? 0, all = classes.count;
  if (question.row !== null) {
    all -= 1;
    if (own === label) rows -= 1;
  }
  return rows / Math.max(all, question.k, 1);
}

// Where nothing was found there is nothing that could be right.
const accuracyOf = (answer) =>
  (answer.matches.length ? answer.correspondence?.accuracy ?? null : null);

async function showAccuracy(answer, question, signal) {
  const box = get("accuracy"), value = accuracyOf(answer);
  box.hidden = value === null;
  if (value === null) return;
  box.querySelector("b").textContent = percent(value);
  const beside = get("chance");
  beside.textContent = "";
  try {
    const info = await index(signal);
    if (signal.aborted) return;
    const classes = { counts: info.classes, count: info.count };
    beside.textContent = `(chance ${percent(chance(answer.label, classes, question))})`;
  } catch {
    // The accuracy itself is there; what it is read against comes with the next answer.
  }
}

function remark(answer, question) {
  const found = answer.matches.length;
  const strange = answer.resemblance?.outlier ? "This picture resembles nothing here. " : "";
  const less = strange + (found < question.k
    ? `${count(question.k, "picture")} ${question.k === 1 ? "was" : "were"} asked for; no more qualify. ` : "");
  if (question.scope === "same") {
    return less + "Only pictures of the query's own class were looked at, so there is no accuracy to tell.";
  }
  if (question.scope === "other") {
    return less + "Only pictures of other classes were looked at, so none can be right.";
  }
  return less + (answer.label === null && about.classCount
    ? "The query has no class: the shares tell which classes look most like it." : "");
}

function showNone(question) {
  const why = question.least ? `No picture reaches a score of ${question.least}.`
    : question.scope === "same" ? "The index has no other picture of this class."
      : question.scope === "other" ? "The index has no picture of another class."
        : "The index has no other picture.";
  const wider = { ...question, least: "", scope: question.least ? question.scope : "all" };
  get("tiles").replaceChildren(el("li", { class: "nothing" },
    el("p", {}, why),
    same(wider) === same(question) ? null : el("button", {
      type: "button", onclick: () => go({ ...wider, stay: true }),
    }, question.least ? "Take any score" : "Look among all pictures")));
  return why;
}

async function showAnswer(answer, question, { signal, ready }) {
  const query = answer.queries[0];
  get("found").removeAttribute("aria-busy");
  get("found").hidden = false;
  if (answer.item) showItem(answer.item);
  showSettings(question, query.label);
  const found = query.matches.length;
  get("found-title").textContent =
    found ? `${count(found, "nearest picture", "nearest pictures")}` : "No match";
  const note = found ? remark(query, question) : "";
  get("remark").textContent = note;
  get("remark").hidden = !note;
  showShares(query, question);
  let spoken = note;
  get("tiles").classList.toggle("few", found <= 6);
  if (found) {
    get("tiles").replaceChildren(...query.matches.map((match, i) =>
      tile(match, { question, against: query.label, eager: i < 8 })));
  } else {
    get("shares").hidden = true;
    get("closest").hidden = true;
    spoken = showNone(question);
  }
  ready();
  await showAccuracy(query, question, signal);
  if (signal.aborted) return;
  const accuracy = accuracyOf(query);
  say([
    count(found, "match", "matches") + ".",
    accuracy === null ? ""
      : `Accuracy of correct matches by correspondence to other classes: ${percent(accuracy)}.`,
    spoken,
  ].join(" ").trim());
  const who = query.label ?? (answer.item ? fileName(answer.item.path) : null);
  document.title = `${who === null ? "Your picture" : plainLabel(who)} · ${printable(about.name)} · imgsearch`;
}

function ghosts(k) {
  for (const id of ["accuracy", "remark", "shares", "closest"]) get(id).hidden = true;
  get("found").hidden = false;
  get("found-title").textContent = "Looking …";
  get("tiles").replaceChildren(...Array.from({ length: Math.min(k, 12) }, () =>
    el("li", { class: "ghost", "aria-hidden": "true" }, el("span", { class: "pic" }))));
}

// The start

async function showStart(question, signal) {
  asked = { ...question, picture: null };
  own = undefined;
  showing = "";
  get("search").classList.add("start");
  get("invite").hidden = false;
  get("asked").hidden = true;
  get("answer").hidden = true;
  get("asked-picture").replaceChildren();
  get("tiles").replaceChildren();
  get("samples").hidden = !sampled;
  document.title = `${printable(about.name)} · imgsearch`;
  if (sampled) return;
  if (!about.count) {
    get("samples").hidden = true;
    return;
  }
  const info = await index(signal);
  const names = Object.keys(info.classes), wanted = Math.min(12, names.length);
  const chosen = Array.from({ length: wanted }, (_, i) => names[Math.floor((i * names.length) / wanted)]);
  const parts = chosen.length > 1
    ? await Promise.all(chosen.map((name) => ask("v1/items", { label: name, limit: 1 }, signal)))
    : [await ask("v1/items", { limit: 12 }, signal)];
  get("samples").querySelector("ul").replaceChildren(...parts.flatMap((part) => part.items).map((item) =>
    el("li", {},
      el("a", { class: "tile", href: rowPage(item.row, item.label), title: printable(item.path) },
        el("span", { class: "pic" }, picture(item.row, fileName(item.path))),
        el("span", { class: "caption" }, el("span", { class: "name" }, labelNode(item.label)))))));
  sampled = true;
  get("samples").hidden = false;
}

// To the outside

// `context` has the signal that ends it, `kept` where an answer from before will do, and `ready` to
// be called when what was asked for is there.
export async function show(question, context) {
  const { signal, kept } = context;
  if (question.row === null && !pictures.has(question.picture)) {
    await showStart(question, signal);
    if (question.picture !== null) {
      throw new Trouble("An uploaded picture is not kept when the page is left. Choose it again.");
    }
    return;
  }
  const key = same(question);
  const before = subject(question) === showing;
  showQuery(question);
  const known = kept ? answers.get(key) : undefined;
  if (known) {
    await showAnswer(known, question, context);
    return;
  }
  showSettings(question, question.label || own);
  const found = get("found");
  if (!before) ghosts(question.k);
  found.setAttribute("aria-busy", "true");
  if (question.row === null && !pictures.get(question.picture).vector) say("Sending your picture …");
  try {
    const answer = await answerTo(question, signal);
    seen(answer.generation);
    keep(answers, key, answer, KEPT_ANSWERS);
    await showAnswer(answer, question, context);
  } catch (error) {
    if (!signal.aborted) {
      found.hidden = true;
      // The query's picture may be missing for the same reason: the next try begins with it.
      showing = "";
    }
    throw error;
  } finally {
    if (!signal.aborted) found.removeAttribute("aria-busy");
  }
}

// The question that the page shows, for the way back from the classes.
export const last = () => asked;

export const title = () => (get("answer").hidden || get("found").hidden ? get("content") : get("found-title"));

export function begin(refuse) {
  label = combobox("label", async () => Object.entries((await index()).classes)
    .map(([name, n]) => [name, number(n)]), (name) => change({ label: name }));
  const form = get("ask");
  if (!about.classCount) {
    for (const field of [get("label"), scopes()[0]]) field.closest(".field").hidden = true;
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    numbers();
  });
  for (const radio of scopes()) radio.addEventListener("change", () => change({ scope: radio.value }));
  for (const id of ["k", "least"]) get(id).addEventListener("change", soon);
  // Beside the pictures there is room for the settings; on a phone they would push them out.
  const wide = window.matchMedia("(min-width: 48rem)"), settings = get("settings");
  const fit = () => { settings.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  const limits = get("limits");
  if (limits) limits.textContent = `${about.formats}, up to ${bytes(about.maxBytes)}`;
  intake((file, objection, others) => {
    if (objection) {
      refuse(objection);
      return;
    }
    const id = `${Date.now()}.${made++}`;
    const mine = {
      file, size: file.size, name: printable(file.name || "pasted picture"),
      url: URL.createObjectURL(file), vector: null,
    };
    keep(pictures, id, mine, KEPT_PICTURES, (old) => URL.revokeObjectURL(old.url));
    go({ ...start(), picture: id, k: asked.k, least: asked.least });
    if (others) {
      say(`One picture at a time: ${mine.name} was taken, ${count(others, "other")} left out.`);
    }
  }, refuse);
}
