// DOM elements, and binary data from Python.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** A typed array of little-endian numbers; copied, since the data may be unaligned. */
export const numbers = (view, Kind) => new Kind(bytes(view).slice().buffer);

export const picture = (view) => createImageBitmap(new Blob([bytes(view)], { type: "image/jpeg" }));

export function download(name, view, type) {
  const url = URL.createObjectURL(new Blob([bytes(view)], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Set a text only if it changes, so that screen readers do not repeat it. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A name that may wrap between its words. */
export const breakable = (name) => name.replace(/[-_/]/g, "$&\u200b");

/** A distance in few digits; an excess may be small. */
export const brief = (value) => value.toFixed(Math.abs(value) < 10 ? 2 : 1);

/** Rows and columns that an arrow key goes. */
export const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

/** Round numbers from least to most, about so many: multiples of 1, 2 or 5 times a power of ten. */
export function ticks(least, most, wanted) {
  const rough = Math.max((most - least) / wanted, Number.MIN_VALUE), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough * 0.999);
  const first = Math.ceil(least / step), digits = Math.max(0, -Math.floor(Math.log10(step)));
  return Array.from({ length: Math.floor(most / step) - first + 1 }, (_, i) => +((first + i) * step).toFixed(digits));
}
