// Which view is shown, and what is said when something goes wrong.

import { about, sweep, Trouble } from "./api.js";
import { begin, go, read } from "./address.js";
import * as classes from "./classes.js";
import { el, get, printable, put } from "./dom.js";
import * as search from "./search.js";

let going = null;

function tell(error, again = null) {
  if (!(error instanceof Trouble)) console.error(error);
  const message = error instanceof Trouble ? error.message : "Something went wrong on this page.";
  const offered = again && (error.again ?? true);
  put(get("trouble"), el("div", { class: "box" },
    el("p", {}, message),
    offered ? el("button", {
      type: "button",
      onclick: () => {
        put(get("trouble"));
        again();
      },
    }, error.status === 401 ? "Enter the key" : "Try again") : null));
  get("trouble").scrollIntoView({ block: "nearest" });
}

const refuse = (message) => tell(new Trouble(message));

async function arrive({ kept, top }) {
  going?.abort();
  going = new AbortController();
  const { signal } = going;
  put(get("trouble"));
  const question = read(), browsing = question.view === "classes";
  const view = browsing ? classes : search;
  get("search").hidden = browsing;
  get("classes").hidden = !browsing;
  get("to-search").toggleAttribute("aria-current", false);
  get("to-classes").toggleAttribute("aria-current", false);
  get(browsing ? "to-classes" : "to-search").setAttribute("aria-current", "page");
  if (top !== null && !kept) window.scrollTo(0, 0);

  let settled = false;
  const ready = () => {
    if (settled || signal.aborted) return;
    settled = true;
    sweep();
    if (top === null) return;
    if (kept) window.scrollTo(0, top);
    const focused = document.activeElement;
    if (!focused || focused === document.body) view.title().focus({ preventScroll: true });
  };
  try {
    await view.show(question, { signal, kept, ready, tell });
  } catch (error) {
    if (signal.aborted) return;
    tell(error, () => arrive({ kept: false, top: null }));
  }
  ready();
}

get("name").textContent = printable(about.name);
const model = get("model");
if (model) model.textContent = printable(model.textContent);
// Back to the question that one came from, not to an empty page.
get("to-search").addEventListener("click", (event) => {
  const plain = !(event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!plain || read().view !== "classes") return;
  event.preventDefault();
  go(search.last());
});
search.begin(refuse);
begin(arrive);
