// Pictures on their way in: dropped, pasted, chosen or photographed, and looked at before anything
// is sent.

import { about } from "./api.js";
import { bytes, get, printable } from "./dom.js";

const ascii = (head, from, to) => String.fromCharCode(...head.slice(from, to));

// By content, as the service does it: a name proves nothing.
const KINDS = [
  ["image/jpeg", "JPEG", (head) => head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff],
  ["image/png", "PNG", (head) => ascii(head, 0, 8) === "\x89PNG\r\n\x1a\n"],
  ["image/gif", "GIF", (head) => ascii(head, 0, 4) === "GIF8"],
  ["image/webp", "WebP", (head) => ascii(head, 0, 4) === "RIFF" && ascii(head, 8, 12) === "WEBP"],
  ["image/bmp", "BMP", (head) => ascii(head, 0, 2) === "BM"],
  ["image/avif", "AVIF", (head) => ascii(head, 4, 8) === "ftyp" && /avi[fs]/.test(ascii(head, 8, 64))],
  ["image/heic", "HEIC", (head) => ascii(head, 4, 8) === "ftyp" && /hei[cx]|mif1/.test(ascii(head, 8, 64))],
  ["image/tiff", "TIFF", (head) => ["II*\0", "MM\0*"].includes(ascii(head, 0, 4))],
  ["application/pdf", "PDF", (head) => ascii(head, 0, 5) === "%PDF-"],
];

// Why the service would refuse a file, or "" where only the service can tell.
export async function objection(file) {
  const name = `“${printable(file.name || "the picture")}”`;
  if (!file.size) return `${name} is empty.`;
  if (file.size > about.maxBytes) {
    return `${name} has ${bytes(file.size)}; the service takes up to ${bytes(about.maxBytes)}.`;
  }
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  } catch {
    return `${name} cannot be read. Is it a folder, or has it been moved?`;
  }
  const accepted = about.accept.split(",").map((type) => type.trim().toLowerCase());
  const kind = KINDS.find(([, , fits]) => fits(head));
  if (kind) {
    return accepted.includes(kind[0]) || accepted.includes("image/*") ? ""
      : `${name} is a ${kind[1]} file; the service takes ${about.formats}.`;
  }
  const known = KINDS.map(([type]) => type);
  return accepted.every((type) => known.includes(type))
    ? `${name} is not a picture that the service can read; it takes ${about.formats}.` : "";
}

// `take` gets a file, what speaks against it and how many others came with it; `refuse` a sentence.
export function intake(take, refuse) {
  const files = (carried) => [...(carried?.files ?? [])];
  const deliver = async (all) => {
    if (about.byImage) take(all[0], await objection(all[0]), all.length - 1);
    else refuse("This index was made without a model, so it cannot look at a new picture.");
  };

  for (const id of ["choose", "shoot"]) {
    const input = get(id);
    if (!input) continue;
    input.addEventListener("change", () => {
      const chosen = [...input.files];
      // So that the same file can be chosen again.
      input.value = "";
      if (chosen.length) deliver(chosen);
    });
  }

  document.addEventListener("paste", (event) => {
    const pasted = files(event.clipboardData);
    if (!pasted.length) return;
    event.preventDefault();
    deliver(pasted.filter((file) => file.type.startsWith("image/")).concat(pasted).slice(0, 1));
  });

  const veil = get("drop");
  let ours = false, depth = 0;
  const foreign = (event) => !ours && event.dataTransfer &&
    ["Files", "text/uri-list"].some((type) => event.dataTransfer.types.includes(type));
  const lift = () => {
    depth = 0;
    veil.hidden = true;
  };
  // A picture of the page that is dragged about is no new picture.
  document.addEventListener("dragstart", () => { ours = true; });
  document.addEventListener("dragend", () => { ours = false; });
  document.addEventListener("dragenter", (event) => {
    if (!foreign(event)) return;
    event.preventDefault();
    depth += 1;
    veil.hidden = false;
  });
  document.addEventListener("dragover", (event) => {
    if (!foreign(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("dragleave", (event) => {
    if (!foreign(event)) return;
    depth -= 1;
    if (depth <= 0) lift();
  });
  document.addEventListener("drop", (event) => {
    if (!foreign(event)) return;
    event.preventDefault();
    lift();
    const dropped = files(event.dataTransfer);
    if (dropped.length) deliver(dropped);
    else refuse("Only a file can be dropped here: save the picture first, or copy and paste it.");
  });
}
