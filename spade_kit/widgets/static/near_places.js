// How unique a match is: the distance from the pinned pixel to every place of the shown normal photo.

import { brief, el, setText, svg } from "./dom.js";
import { button } from "./controls.js";
import { middleOf } from "./maps.js";

const FAR = 0.1; // of the longer side: a place farther than this from the best one is another place

const alike = (one, other) => one && other && ["row", "col", "image", "of"].every((name) => one[name] === other[name]);

/** The best place of a grid of distances, and the best one far from it; null if there is none. */
export function findTwo(distances, h, w) {
  const least = (allowed) => distances.reduce((best, value, i) => (allowed(i) && (best === null || value < distances[best]) ? i : best), null);
  const best = least(() => true);
  const far = FAR * Math.max(h, w);
  const apart = (i) => Math.max(Math.abs(Math.floor(i / w) - Math.floor(best / w)), Math.abs((i % w) - (best % w)));
  return [best, least((i) => apart(i) > far)];
}

export class NearPlaces {
  /** @param {Pane} pane of the normal photo; @param {Element} strip of the colours; @param {object} do_ ``ask(place, image)``, ``changed()``, ``paint(canvas, distances, end)`` */
  constructor(pane, strip, do_) {
    [this.pane, this.do, this.on, this.wanted, this.known, this.asked] = [pane, do_, false, null, null, null];
    this.pressed = button("distances", "How unique is the match? Show the distance from the pinned pixel to every place of this normal photo", () => this.turn(), { class: "python", "aria-pressed": "false" });
    this.told = el("span", { class: "sk-remark", role: "status" });
    this.runner = svg("g", { class: "sk-own sk-runner", visibility: "hidden" }, ...["halo", "ink"].map((c) => svg("path", { class: c, d: "M-7-7L7 7M-7 7L7-7" })));
    pane.marks.append(this.runner);
    this.ends = [el("span"), el("span")];
    this.scale = el("span", { class: "scale", hidden: true }, this.ends[0], strip, this.ends[1]);
    pane.figure.append(el("div", { class: "sk-near" }, this.pressed, this.scale, this.told));
  }

  turn() {
    [this.on, this.asked] = [!this.on, null];
    this.pressed.setAttribute("aria-pressed", this.on);
    this.do.changed();
  }

  /** Show the distances from a pinned cell, null for none, to a normal photo; ``of`` are the matches that they belong to. */
  show(cell, image, of) {
    const wanted = this.on && cell !== null ? this.#from(cell, image, of) : null;
    setText(this.told, wanted ? this.told.textContent : this.on ? "pin a pixel" : "");
    if (wanted ? alike(wanted, this.wanted) : this.wanted === null) return;
    this.wanted = wanted;
    this.pane.stage.classList.remove("measured");
    this.scale.hidden = true;
    this.pane.put(this.runner, null);
    if (!wanted) return;
    if (alike(wanted, this.known)) return this.paint(this.known);
    setText(this.told, `measuring ${of.grid[0] * of.grid[1]} places of normal ${image}`);
    this.#ask(wanted);
  }

  /** Ask ahead for the cell under the pointer, one at a time: its distances are there when it is pinned. */
  prepare(cell, image, of) {
    if (!this.on) return;
    this.next = this.#from(cell, image, of);
    if (!this.asked) this.#ask(this.next);
  }

  #from(cell, image, of) {
    const [row, col] = middleOf(cell, [this.pane.H, this.pane.W], of.grid);
    return { row, col, image, of };
  }

  #ask(one) {
    if (alike(one, this.asked) || alike(one, this.known)) return;
    this.asked = one;
    this.do.ask([one.row, one.col], one.image);
  }

  receive(place, distances) {
    if (!alike({ of: this.asked?.of, ...place }, this.asked)) return;
    [this.known, this.asked] = [{ ...this.asked, distances }, null];
    if (alike(this.known, this.wanted)) this.paint(this.known);
    if (this.on && this.next) this.#ask(this.next);
  }

  paint({ distances, of: { grid: [h, w] } }) {
    const [best, second] = findTwo(distances, h, w);
    const ends = [distances[best], Math.max(...distances)]; // of this pixel: those of a defect all lie above the scale of the map
    this.do.paint(this.pane.over, distances.map((value) => value - ends[0]), ends[1] - ends[0] || 1);
    this.ends.forEach((end, i) => setText(end, brief(ends[i])));
    this.scale.hidden = false;
    this.pane.stage.classList.add("measured");
    const place = (cell) => middleOf(cell, [this.pane.H, this.pane.W], [h, w]);
    this.pane.put(this.runner, second === null ? null : place(second));
    const told = `nearest ${brief(distances[best])} at (${place(best).join(", ")})`;
    setText(this.told, second === null ? told : `${told}; next ✕ ${brief(distances[second])} at (${place(second).join(", ")}): ratio ${(distances[second] > 0 ? distances[best] / distances[second] : 1).toFixed(2)}`);
  }
}
