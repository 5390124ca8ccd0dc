// A picture with its overlays in one coordinate system, map pixels. The pointer gives a pixel (row, col).

import { clamp, el, setText, svg } from "./dom.js";

const CELLS = 10; // width of a patch in cells of the finest grid

/** A ring with four ticks that leave its centre visible; dark under light, for any background. */
function ring(kind) {
  const shape = () => [
    svg("circle", { r: 8 }),
    svg("path", { d: "M-14 0H-8M8 0H14M0-14V-8M0 8V14" }),
  ];
  return svg("g", { class: `sk-ring ${kind}`, visibility: "hidden" }, svg("g", { class: "halo" }, ...shape()), svg("g", { class: "ink" }, ...shape()));
}

export class Pane {
  /**
   * @param {string} name accessible name of the picture
   * @param {object} on ``hover(row, col)``, ``leave()``, ``pin(row, col)``, ``key(event)``; null for a static pane.
   *  ``letGo()`` when its chip is pressed; ``press(row, col)``, true if the pointer is to be followed outside, too
   */
  constructor(name, on = null) {
    this.canvas = el("canvas", { class: "base", role: "img", "aria-label": name });
    this.over = el("canvas", { class: "over", "aria-hidden": "true" });
    this.veil = el("canvas", { class: "veil", "aria-hidden": "true" });
    this.truth = svg("g", { class: "sk-truth" }, svg("path", { class: "halo" }), svg("path", { class: "ink" }));
    this.border = svg("g", { class: "sk-border" }, svg("path", { class: "dim" }), svg("path", { class: "ink" })); // of the roi
    this.found = svg("g", { class: "sk-found" }, svg("path", { class: "halo" }), svg("path", { class: "ink" }));
    this.dots = svg("g", { class: "sk-dots" });
    this.rings = Object.fromEntries(["pinned", "hovered"].map((kind) => [kind, ring(kind)]));
    this.marks = svg("svg", { class: "marks", "aria-hidden": "true", preserveAspectRatio: "none" }, this.border, this.dots, this.truth, this.found, ...Object.values(this.rings));
    this.numbers = el("div", { class: "sk-numbers", "aria-hidden": "true" });
    this.stage = el("div", { class: "sk-stage" }, this.canvas, this.over, this.veil, this.marks, this.numbers);
    this.title = el("span", { class: "sk-title" });
    this.remark = el("span", { class: "sk-remark" });
    this.chip = el("button", { type: "button", class: "sk-chip", hidden: true, onclick: () => on.letGo() });
    this.figure = el("figure", {}, el("figcaption", {}, el("span", { class: "sk-mark" }, this.chip), this.title, this.remark), this.stage);
    [this.scale, this.top, this.left, this.numbered] = [1, 0, 0, []];
    if (on) this.#listen(on);
  }

  resize(H, W) {
    if (this.H === H && this.W === W) return;
    [this.H, this.W, this.drawn] = [H, W, null];
    for (const canvas of [this.canvas, this.over, this.veil]) [canvas.width, canvas.height] = [W, H];
    this.look(this.scale, this.top, this.left);
    this.stage.style.aspectRatio = `${W} / ${H}`;
    const width = H > W ? `calc(${W / H} * max(420px, 62vh))` : ""; // a tall picture leaves room for the controls
    [this.stage.style.maxWidth, this.figure.style.maxWidth] = [width, width && `max(240px, ${width})`];
  }

  /** Enlarge the picture, from ``top`` and ``left`` as fractions of its sides; marks keep their size on the screen. */
  look(scale, top, left) {
    [this.scale, this.top, this.left] = [scale, top, left];
    this.stage.classList.toggle("zoomed", scale > 1);
    if (!this.H) return;
    for (const { style } of [this.canvas, this.over, this.veil]) style.transform = scale > 1 ? `scale(${scale}) translate(${-100 * left}%, ${-100 * top}%)` : "";
    this.marks.setAttribute("viewBox", `${left * this.W} ${top * this.H} ${this.W / scale} ${this.H / scale}`);
    for (const mark of this.marks.querySelectorAll('[data-row][visibility="visible"]')) this.put(mark, [+mark.dataset.row, +mark.dataset.col]);
    this.number(this.numbered);
  }

  draw(bitmap) {
    if (this.drawn === bitmap) return;
    this.drawn = bitmap;
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0, this.W, this.H);
  }

  /** Put a ring on a pixel, or hide it. */
  point(kind, place) {
    this.put(this.rings[kind], place);
  }

  /** Put any mark on a pixel, or hide it; marks are drawn for a map of 224 pixels. */
  put(mark, place) {
    mark.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    const scale = Math.max(this.H, this.W) / 224 / this.scale;
    mark.setAttribute("transform", `translate(${place[1] + 0.5} ${place[0] + 0.5}) scale(${scale})`);
    [mark.dataset.row, mark.dataset.col] = place;
  }

  /** Show a chip with a remark on this picture; pressing it undoes the remark's cause. */
  mark(text, help = "") {
    this.chip.hidden = !text;
    setText(this.chip, text ? `${text} ×` : "");
    this.chip.title = help;
  }

  outline(which, path) {
    for (const line of this[which].children) line.setAttribute("d", path);
  }

  /** Number some pixels from 1, each on the side towards the middle. */
  number(places) {
    this.numbered = places;
    const spots = places.map(([row, col]) => [((row + 0.5) / this.H - this.top) * this.scale, ((col + 0.5) / this.W - this.left) * this.scale]);
    this.numbers.replaceChildren(...spots.map(([down, right], i) =>
      el("span", { class: right > 0.5 ? "left" : "", hidden: Math.min(down, right) < 0 || Math.max(down, right) > 1, style: `--top: ${100 * down}%; left: ${100 * right}%` }, `${i + 1}`)));
  }

  #listen(on) {
    const place = (event) => {
      const box = this.stage.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height / this.scale + this.top) * this.H);
      const col = Math.floor(((event.clientX - box.left) / box.width / this.scale + this.left) * this.W);
      return [clamp(row, 0, this.H - 1), clamp(col, 0, this.W - 1)];
    };
    this.stage.classList.add("pointed");
    let under = null; // clicks have whole screen pixels and may be off by one from the hovered place
    this.stage.addEventListener("pointermove", (event) => on.hover(...(under = place(event))));
    this.stage.addEventListener("pointerleave", () => on.leave((under = null)));
    if (on.press) this.stage.addEventListener("pointerdown", (event) => on.press(...(under ?? place(event))) && this.stage.setPointerCapture(event.pointerId));
    this.stage.addEventListener("click", (event) => on.pin(...(under ?? place(event))));
    if (on.key) {
      this.stage.tabIndex = 0;
      this.stage.setAttribute("role", "application");
      this.stage.setAttribute("aria-label", "Probe: arrow keys move it, Enter pins it, Escape unpins it");
      this.stage.addEventListener("keydown", on.key);
    }
  }
}

/** The enlarged surroundings of a pixel, with a frame around its cell; both patches of a pair share one scale. */
export class Patch {
  constructor(name) {
    this.canvas = el("canvas", { width: 120, height: 120, role: "img", "aria-label": name });
  }

  draw(bitmap, [row, col], [H, W], [h, w]) {
    const context = this.canvas.getContext("2d");
    const [height, width] = [H / h, W / w]; // size of a cell
    const side = CELLS * Math.max(height, width);
    const scale = this.canvas.width / side;
    const [top, left] = [row + 0.5 - side / 2, col + 0.5 - side / 2];
    context.fillStyle = "#808080";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform((scale * W) / bitmap.width, 0, 0, (scale * H) / bitmap.height, -left * scale, -top * scale);
    context.drawImage(bitmap, 0, 0);
    context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
    const cell = [Math.floor((col * w) / W) * width, Math.floor((row * h) / H) * height, width, height];
    for (const [ink, thick] of [["#000", 4], ["#fff", 2]]) {
      [context.strokeStyle, context.lineWidth] = [ink, thick / scale];
      context.strokeRect(...cell);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }
}
