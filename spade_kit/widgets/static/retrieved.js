// The retrieved normal photos: what each explains, which is selected, and which are excluded.

import { el, setText, svg } from "./dom.js";
import { button } from "./controls.js";
import { Strip } from "./strip.js";

const MANY = 300; // number of dots above which they shrink

export class Retrieved {
  /** @param {object} on ``put({without, only})``, ``changed()`` after a new selection, ``correct(message)`` */
  constructor(on) {
    this.on = on;
    this.chosen = null; // the selected normal photo
    this.strip = new Strip("retrieved normal photos, nearest first", (image) => this.choose(image));
    this.title = el("span", { class: "sk-heading" });
    this.actions = el("div", { class: "sk-chosen" });
    this.head = el("div", { class: "sk-row" }, this.title, this.actions);
  }

  /** Add pictures of neighbours and drop all others. */
  offer(images, jpegs, without) {
    this.strip.keep([...images, ...without]);
    images.forEach((image, rank) => this.strip.picture(image, jpegs[rank]));
  }

  /** Reset after a correction: the numbers refer to other photos now. */
  forget() {
    this.chosen = null;
    this.strip.keep([]);
  }

  choose(image) {
    this.chosen = this.chosen === image ? null : image;
    this.on.changed();
  }

  /** @param {object} seen raw ``pack``, ``matches``, ``steps`` at ``k``, ``size`` of the map, ``without``, ``only``, ``disconnected`` */
  show(seen) {
    const { pack, matches, steps, k } = seen;
    const shares = new Float64Array(pack.neighbours.length);
    for (const step of steps) shares[matches.image[step]] += 1 / steps.length;
    const near = pack.neighbours.slice(0, k);
    const out = pack.excluded.map(([image]) => image);
    const rank = near.findIndex(([image]) => image === this.chosen);
    if (rank < 0 && !out.includes(this.chosen)) this.chosen = null;
    this.part = rank < 0 ? null : this.#look(rank, shares[rank], seen);

    const largest = Math.max(...shares);
    const cards = near.map(([image, distance], at) => ({
      key: image, top: `${at + 1}`, bottom: distance.toFixed(2), share: shares[at] / largest,
      name: `neighbour ${at + 1}, normal ${image}, distance ${distance.toFixed(2)}, explains ${(100 * shares[at]).toFixed(1)} % of the pixels`,
    }));
    for (const [image, distance] of pack.excluded) {
      const card = { key: image, top: "✕", bottom: distance.toFixed(2), name: `normal ${image}, excluded`, state: "out" };
      const before = near.findIndex(([, other]) => other > distance);
      cards.splice(before < 0 ? cards.length : before + cards.length - near.length, 0, card);
    }
    this.strip.show(cards, this.chosen);
    setText(this.title, seen.only === null ? `${k} nearest normal photos` : `Compared with normal ${seen.only} only`);
    this.#offerActions(seen, near.length > 1);
  }

  /** The cells that a neighbour explains, and dots on its matched pixels. */
  #look(rank, share, { matches, steps, size: [H, W] }) {
    const explained = Uint8Array.from(steps, (step) => matches.image[step] === rank);
    const places = new Set([...steps].filter((step) => matches.image[step] === rank).map((step) => matches.place[step]));
    const r = (Math.max(H, W) / 180) * Math.min(1, Math.sqrt(MANY / places.size));
    const { h, w } = matches;
    const dots = [...places].map((place) => svg("circle", { cx: (((place % w) + 0.5) * W) / w, cy: ((Math.floor(place / w) + 0.5) * H) / h, r }));
    return { image: this.chosen, share, explained, dots };
  }

  #offerActions({ without, only, disconnected }, others) {
    const part = this.part;
    const wanted = JSON.stringify([this.chosen, part?.share, others, without, only, disconnected]);
    if (this.offered === wanted) return;
    this.offered = wanted;
    const python = { class: "python", disabled: disconnected };
    const out = (images) => this.on.put({ without: images.sort((a, b) => a - b) });
    const actions = [];
    if (part) actions.push(el("span", {}, `Normal ${part.image} explains ${(100 * part.share).toFixed(1)} % of the pixels (bright). Dots mark its matched pixels.`));
    if (part && others) {
      actions.push(button("exclude", "Compare without this normal photo", () => out([...without, part.image]), python));
      actions.push(button("only this one", "Compare with this normal photo only", () => this.on.put({ only: part.image }), python));
      actions.push(button("not normal", "Remove it from the normal photos", () => this.on.correct({ kind: "remove", image: part.image }), python));
    } else if (!part && this.chosen !== null) actions.push(button("include", "Compare with it again", () => out(without.filter((image) => image !== this.chosen)), python));
    if (only !== null) actions.push(button("compare with all", "Compare with all normal photos again", () => this.on.put({ only: null }), python));
    if (only === null && without.length) actions.push(button("include all", "Compare with all normal photos again", () => out([]), python));
    if (this.chosen !== null) actions.push(button("close", "Show the whole map  Esc", () => this.choose(null)));
    this.actions.replaceChildren(...actions);
  }

  close() {
    this.strip.close();
  }
}
