// The match at one pixel, or at two side by side, as a table and as a sentence.

import { el, setText } from "./dom.js";

const percent = (part, whole) => (whole > 0 ? Math.round((100 * part) / whole) : 0);
/** The angle between two vectors of length 1, if it is known. */
export const tellAngle = (angle, sign = " · ") => (angle === null ? "" : `${sign}${Math.round(angle)}°`);
const pair = ([row, col]) => `(${row}, ${col})`;

/** @param {object} seen place and match: {image, neighbour, place, distance, parts, angles} */
export function sentence({ place, match }, layers) {
  const parts = layers.map((name, l) => `${name} ${percent(match.parts[l], match.distance)} %${tellAngle(match.angles[l], " at ")}`).join(", ");
  return `${pair(place)} → normal ${match.image}, neighbour ${match.neighbour + 1}, ${pair(match.place)}, distance ${match.distance.toFixed(3)}: ${parts}`;
}

export class Readout {
  constructor() {
    this.body = el("tbody");
    this.head = el("tr");
    this.live = el("p", { class: "sk-live", "aria-live": "polite" });
    this.node = el("div", { class: "sk-readout" }, el("table", {}, el("thead", {}, this.head), this.body), this.live);
  }

  /** @param {Array} seen [heading, match] of one pixel or two; @param {object} own matches of each layer alone */
  show(seen, layers, own) {
    const rows = [
      ["pixel", (s) => pair(s.place)],
      ["explained by", (s) => `normal ${s.match.image}`],
      ["neighbour", (s) => `${s.match.neighbour + 1}`],
      ["match at", (s) => pair(s.match.place)],
      ["map value", (s) => s.map.toFixed(3)],
      ...(seen[0][1].excess === null ? [] : [["excess", (s) => s.excess?.toFixed(3) ?? ""]]),
      ["distance", (s) => s.match.distance.toFixed(3)],
      ...(seen[0][1].ratio === undefined ? [] : [["ratio", (s) => s.ratio?.toFixed(2) ?? ""]]),
      ...layers.map((name, l) => [name, (s) => `${s.match.parts[l].toFixed(3)} · ${percent(s.match.parts[l], s.match.distance)} %${tellAngle(s.match.angles[l])}`]),
      ...(own ? layers.map((name, l) => [`${name} alone`, (s) => own(s, l)]) : []),
    ];
    this.#write([["", ...seen.map(([heading]) => heading)], ...rows.map(([name, cell]) => [name, ...seen.map(([, one]) => cell(one))])]);
    // announced once the pointer rests, not at every pixel
    clearTimeout(this.timer);
    const text = seen.map(([heading, s]) => (seen.length > 1 ? `${heading} ` : "") + sentence(s, layers)).join("; ");
    this.timer = setTimeout(() => setText(this.live, text), 150);
  }

  /** Write the table, first row as heading; cells are rebuilt only if the shape changes. */
  #write([head, ...rows]) {
    const shape = `${head.length} ${rows.length}`;
    if (this.shape !== shape) {
      this.shape = shape;
      this.head.replaceChildren(el("td"), ...head.slice(1).map(() => el("th", { scope: "col" })));
      this.body.replaceChildren(...rows.map((row) => el("tr", { class: row[0].endsWith(" alone") ? "own" : "" }, el("th", { scope: "row" }), ...row.slice(1).map(() => el("td")))));
    }
    [this.head, ...this.body.children].forEach((line, r) => [...line.children].forEach((cell, c) => setText(cell, [head, ...rows][r][c])));
  }

  close() {
    clearTimeout(this.timer);
  }
}
