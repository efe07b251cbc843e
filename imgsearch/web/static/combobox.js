// Choose one of many names by typing. Never more than SHOWN of them are in the page.

import { el, get, number, printable } from "./dom.js";

const SHOWN = 50;

// `names` gives a promise of [name, note] pairs; `picked` is told the name chosen, "" for none.
export function combobox(id, names, picked) {
  const input = get(id), list = get(id + "-list"), pop = get(id + "-pop");
  const more = get(id + "-more"), clear = get(id + "-clear");
  let value = "", options = [], active = -1, loaded = [];

  const plain = () => printable(value);

  const close = () => {
    pop.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const set = (name) => {
    value = name;
    input.value = plain();
    clear.hidden = !name;
    close();
  };

  const pick = (name) => {
    const changed = name !== value;
    set(name);
    if (changed) picked(name);
  };

  const point = (to) => {
    list.children[active]?.removeAttribute("aria-selected");
    active = options.length ? (to + options.length) % options.length : -1;
    const option = list.children[active];
    if (!option) return;
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  };

  const fill = (wanted) => {
    const text = wanted.trim().toLowerCase();
    const found = loaded.filter((entry) => entry.low.includes(text));
    if (text) found.sort((a, b) => b.low.startsWith(text) - a.low.startsWith(text));
    options = found.slice(0, SHOWN);
    active = -1;
    input.removeAttribute("aria-activedescendant");
    list.replaceChildren(...options.map((entry, i) =>
      el("li", { id: `${id}-${i}`, role: "option", "data-i": i },
        el("bdi", {}, entry.plain), el("span", { class: "soft" }, entry.note))));
    list.hidden = !options.length;
    const left = found.length - options.length;
    more.textContent = !found.length ? "No class has this in its name."
      : left ? `${number(left)} more: type to narrow down.` : "";
    more.hidden = !more.textContent;
    pop.hidden = false;
    input.setAttribute("aria-expanded", String(Boolean(options.length)));
  };

  const open = async (wanted) => {
    try {
      loaded = (await names()).map(([name, note]) => {
        const shown = printable(name);
        return { name, note, plain: shown, low: shown.toLowerCase() };
      });
    } catch {
      // Without the list the field still keeps what it has; the search itself tells of trouble.
      return;
    }
    if (document.activeElement === input) fill(wanted);
  };

  const settle = () => {
    const text = input.value.trim();
    if (text === plain()) set(value);
    else if (!text) pick("");
    else {
      const exact = loaded.find((entry) => entry.plain === text) ??
        loaded.find((entry) => entry.low === text.toLowerCase());
      if (exact) pick(exact.name);
      else set(value);
    }
  };

  input.addEventListener("input", () => open(input.value));
  input.addEventListener("click", () => { if (pop.hidden) open(""); });
  input.addEventListener("blur", settle);
  input.addEventListener("keydown", async (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (pop.hidden) {
        await open("");
        point(step > 0 ? 0 : -1);
      } else point(active < 0 && step < 0 ? -1 : active + step);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (active >= 0) pick(options[active].name);
      else if (options.length === 1 && !pop.hidden && input.value.trim()) pick(options[0].name);
      else settle();
    } else if (event.key === "Escape" && !pop.hidden) {
      event.preventDefault();
      set(value);
    }
  });
  // Before the field loses focus, which would put the old text back.
  list.addEventListener("mousedown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) pick(options[Number(option.dataset.i)].name);
  });
  clear.addEventListener("click", () => {
    pick("");
    input.focus();
  });

  return { set, hint: (text) => { input.placeholder = text; } };
}
