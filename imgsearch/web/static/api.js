// The service: one way to ask, one kind of trouble, pictures with and without a key.

import { el, get, svg } from "./dom.js";

const given = document.body.dataset;

export const about = {
  name: given.name,
  count: Number(given.count),
  classCount: Number(given.classCount),
  byImage: given.byImage === "1",
  accept: given.accept,
  maxBytes: Number(given.maxBytes),
  formats: given.formats,
  defaultK: Number(given.defaultK),
  maxK: Number(given.maxK),
};

export class Trouble extends Error {
  // `again`: asking once more may help. `wait`: seconds after which the service wants to be asked.
  constructor(message, { status = 0, again = false, wait = 0 } = {}) {
    super(message);
    this.status = status;
    this.again = again;
    this.wait = wait;
  }
}

// The key

const STORE = "imgsearch-key";
let keyed = given.needsKey === "1";
let key = null;
try {
  key = sessionStorage.getItem(STORE);
} catch {
  // A browser that keeps nothing: the key then lives as long as the page.
}
let asking = null;

function askKey(refused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = get("key"), form = get("key-form"), input = get("key-value");
    const text = get("key-text");
    text.textContent = refused
      ? "The service did not take this key. Check it and try again."
      : "This service answers only with a key.";
    input.value = "";
    input.removeAttribute("aria-invalid");
    let taken = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      const value = input.value.trim();
      // Others cannot stand in a header.
      if (!/^[\x20-\x7e]+$/.test(value)) {
        text.textContent = value ? "A key has only plain letters, digits and signs." : "Enter a key.";
        input.setAttribute("aria-invalid", "true");
        input.focus();
        return;
      }
      key = value;
      try {
        sessionStorage.setItem(STORE, key);
      } catch {
        // As above.
      }
      taken = true;
      dialog.close();
    };
    get("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      asking = null;
      if (taken) resolve();
      else reject(new Trouble("This service answers only with a key.", { status: 401, again: true }));
    };
    dialog.showModal();
  });
  return asking;
}

// Requests

const sentence = (text) =>
  text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

async function troubleOf(response) {
  let said = null;
  try {
    said = await response.json();
  } catch {
    // Something between the page and the service answered.
  }
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const message = typeof said?.message === "string" ? said.message : "";
  if (response.status === 429) {
    const when = wait ? ` Try again in ${wait === 1 ? "a second" : wait + " seconds"}.` : "";
    return new Trouble("The service is busy at the moment." + when, { status: 429, again: true, wait });
  }
  return new Trouble(sentence(message) || `The service answered with an error (${response.status}).`, {
    status: response.status,
    again: response.status >= 500,
    wait,
  });
}

const unreachable = () =>
  new Trouble("The service cannot be reached. Check your connection and that it is still running.", {
    again: true,
  });

async function send(path, options = {}) {
  for (;;) {
    options.signal?.throwIfAborted();
    if (keyed && key === null) await askKey(false);
    const used = key;
    let response;
    try {
      response = await fetch(path, {
        ...options,
        headers: { ...options.headers, ...(used === null ? {} : { "X-API-Key": used }) },
      });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw unreachable();
    }
    if (response.status === 401) {
      keyed = true;
      // Another request may have got a new key meanwhile.
      if (key === used) {
        await askKey(used !== null);
      }
      continue;
    }
    if (!response.ok) throw await troubleOf(response);
    return response;
  }
}

async function answer(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw unreachable();
  }
}

// A path and what it is asked; nothing is sent for what is null or empty.
export function ask(path, words, signal) {
  const given = Object.entries(words).filter(([, value]) => value !== null && value !== "");
  return answer(path + (given.length ? "?" + new URLSearchParams(given) : ""), { signal });
}

export const post = (path, json, signal) =>
  answer(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(json),
    signal,
  });

export const upload = (path, form, signal) => answer(path, { method: "POST", body: form, signal });

// The index: its classes and how many pictures each has.

let known = null;

export async function index(signal) {
  known ??= await ask("v1/index", {}, signal);
  return known;
}

// Each answer of a search names its generation: with a new one the classes are asked for anew.
export function seen(generation) {
  if (known && known.generation !== generation) known = null;
}

// Pictures

const SMALL = 320, LARGE = 640;
const address = (row, size) => `v1/items/${row}/image?size=${size}`;

// What was fetched with a key, until its element is gone: a blob's URL, or the request for it.
const held = new Map();
const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      fetchPicture(entry.target);
    }
  },
  { rootMargin: "400px" },
);

const none = (alt) =>
  el("span", { class: "none", role: "img", "aria-label": alt + " (no picture)" },
    svg("svg", { "aria-hidden": "true", focusable: "false" }, svg("use", { href: "#gone" })),
    el("span", { "aria-hidden": "true" }, "no picture"));

const lose = (image) => image.replaceWith(none(image.alt));

async function fetchPicture(image, again = true) {
  const going = new AbortController();
  held.set(image, { stop: () => going.abort() });
  try {
    const response = await send(image.dataset.address, { signal: going.signal });
    const url = URL.createObjectURL(await response.blob());
    held.set(image, { stop: () => URL.revokeObjectURL(url) });
    image.src = url;
  } catch (error) {
    if (going.signal.aborted) return;
    if (again && error.again && error.status === 429) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.wait || 1)));
      if (image.isConnected) await fetchPicture(image, false);
    } else {
      held.delete(image);
      lose(image);
    }
  }
}

// `large` asks for the size that fills the query's place; `sizes` is the width it is shown at.
export function picture(row, alt, { large = false, sizes = "(max-width: 48rem) 45vw, 18rem" } = {}) {
  const size = large ? LARGE : SMALL;
  const image = el("img", {
    alt, width: size, height: size, loading: "lazy", decoding: "async", draggable: "false",
  });
  if (keyed) {
    const dense = window.devicePixelRatio > 1.25 || large;
    image.dataset.address = address(row, dense ? LARGE : SMALL);
    near.observe(image);
    return image;
  }
  let left = 1;
  image.addEventListener("error", () => {
    // A busy service may have it in a moment; a picture that is gone does not come back.
    image.classList.add("failed");
    if (left-- > 0) setTimeout(() => { if (image.isConnected) image.src = image.src; }, 2000);
    else lose(image);
  });
  image.addEventListener("load", () => image.classList.remove("failed"));
  if (large) {
    image.src = address(row, 1024);
  } else {
    image.sizes = sizes;
    image.srcset = `${address(row, SMALL)} ${SMALL}w, ${address(row, LARGE)} ${LARGE}w`;
    image.src = address(row, SMALL);
  }
  return image;
}

// A picture that the browser itself holds.
export function preview(url, alt) {
  const image = el("img", {
    alt, src: url, width: LARGE, height: LARGE, decoding: "async", draggable: "false",
  });
  image.addEventListener("error", () => lose(image));
  return image;
}

export function sweep() {
  for (const [image, holding] of held) {
    if (image.isConnected) continue;
    holding.stop();
    held.delete(image);
  }
}
