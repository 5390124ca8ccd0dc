// One window on all pictures: how much they are enlarged, and which part is seen.

import { clamp } from "./dom.js";

const LARGEST = 16;
const STEP = 1.5; // of a key
const DRAG = 4; // px from which a press is a drag and no click

export class Zoom {
  /** @param {Array<Pane>} panes that show the same part
   *  @param {function} remember returns what takes back a click, so that the first one of two does nothing */
  constructor(panes, remember) {
    [this.panes, this.remember, this.fingers, this.dragged] = [panes, remember, new Map(), 0];
    this.look(1, 0, 0);
    for (const { stage } of panes) this.#listen(stage);
  }

  /** Enlarge by a scale, from ``top`` and ``left``, fractions of the picture's sides. */
  look(scale, top, left) {
    this.scale = clamp(scale, 1, LARGEST);
    [this.top, this.left] = [top, left].map((at) => clamp(at, 0, 1 - 1 / this.scale));
    for (const pane of this.panes) pane.look(this.scale, this.top, this.left);
  }

  /** Enlarge by a factor; what is at these fractions of the stage, down and right, stays there. */
  by(factor, [down, right]) {
    const scale = clamp(this.scale * factor, 1, LARGEST);
    const room = 1 / this.scale - 1 / scale;
    this.look(scale, this.top + down * room, this.left + right * room);
  }

  /** Where a pixel of the first pane is on the stage, as fractions. */
  #on([row, col]) {
    const { H, W } = this.panes[0];
    return [((row + 0.5) / H - this.top) * this.scale, ((col + 0.5) / W - this.left) * this.scale];
  }

  key(key, place) {
    if (key === "0") return this.look(1, 0, 0);
    this.follow(place);
    this.by(key === "-" ? 1 / STEP : STEP, this.#on(place));
  }

  /** Bring a pixel into sight. */
  follow(place) {
    const [down, right] = this.#on(place);
    if (Math.min(down, right) >= 0 && Math.max(down, right) <= 1) return;
    this.look(this.scale, this.top + (down - 0.5) / this.scale, this.left + (right - 0.5) / this.scale);
  }

  #listen(stage) {
    const at = ({ clientX, clientY }) => {
      const box = stage.getBoundingClientRect();
      return [(clientY - box.top) / box.height, (clientX - box.left) / box.width];
    };
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.by(Math.exp(-clamp(event.deltaY, -60, 60) / 100), at(event));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      if (event.isPrimary) [this.dragged] = [0, this.fingers.clear()];
      if (!stage.classList.contains("drawing")) this.fingers.set(event.pointerId, event);
    });
    stage.addEventListener("pointermove", (event) => this.#drag(event, at));
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) stage.addEventListener(end, ({ pointerId }) => this.fingers.delete(pointerId));
    stage.addEventListener("click", (event) => {
      const back = event.detail > 1 && this.scale > 1 && !stage.classList.contains("drawing");
      if (event.detail === 1) this.undo = this.remember();
      if (back) this.look(1, 0, 0);
      if (back) this.undo?.();
      if (back || this.dragged > DRAG) event.stopImmediatePropagation();
    }, true);
  }

  /** One finger or the mouse moves the part that is seen, two also enlarge it. */
  #drag(event, at) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const others = [...this.fingers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    const [from, to] = [at(before), at(event)];
    this.fingers.set(event.pointerId, event);
    if (others.length) {
      const other = at(others[0]);
      const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      this.by(apart(to) / Math.max(apart(from), 1e-6), [(from[0] + other[0]) / 2, (from[1] + other[1]) / 2]);
    } else if (this.scale === 1) return;
    this.dragged += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    const share = (others.length ? 0.5 : 1) / this.scale;
    this.look(this.scale, this.top - (to[0] - from[0]) * share, this.left - (to[1] - from[1]) * share);
  }
}
