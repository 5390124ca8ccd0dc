// Drawing where to look: the corners of a polygon on a photo, kept as Python in pixels of the original photo.

import { clamp, el, setText, svg } from "./dom.js";
import { button } from "./controls.js";

const REACH = 5; // from a corner, on a map of 224 pixels: within it a press takes hold of the corner
const STEPS = "Click to place corners, drag to move one; Enter or a click on the first closes, Backspace removes the last, Esc leaves. By keys: arrows, Space.";
const HOLDS = "Photos of this size are judged inside. Thresholds stay those of the fit; fit with roi=roi to find them inside, too.";

export class Polygon {
  /** @param {Pane} pane of the photo; @param {object} on ``put(corners)``, null for none, and ``copy(button, text)`` */
  constructor(pane, on) {
    [this.pane, this.on, this.corners, this.label] = [pane, on, null, pane.stage.getAttribute("aria-label")];
    this.draft = svg("g", { class: "sk-draft" });
    pane.marks.append(this.draft);
    this.pencil = button("draw roi", "Draw a polygon: only what lies inside is judged", () => (this.corners ? this.stop() : this.start()), { class: "python" });
    this.clearing = button("clear", "Judge the photos as fitted again", () => this.clear(), { class: "python" });
    this.copying = button("copy", "Copy the roi as Python", () => on.copy(this.copying, this.code.textContent), { "aria-label": "copy the roi as Python" });
    this.code = el("code");
    [this.remark, this.steps] = [el("p", { class: "sk-remark", role: "status" }), el("p", { class: "sk-remark" }, STEPS)];
    this.node = el("div", { class: "sk-roi" }, el("div", { class: "sk-group" }, this.pencil, this.clearing, this.copying), this.steps, this.code, this.remark);
  }

  /** Show the roi for a photo of this crop. @param {Array} roi its corners, or null; @param {Array} size of the photos that it is for */
  show(crop, roi, size) {
    if (this.corners && `${crop.photo}` !== `${this.crop.photo}`) this.corners = null;
    [this.crop, this.roi, this.size] = [crop, roi, size];
    this.paint();
  }

  start() {
    this.corners = this.fits() ? [...this.roi] : [];
    this.held = null;
    this.paint();
    this.pane.stage.focus();
  }

  stop() {
    this.corners = null;
    this.paint();
  }

  clear() {
    this.stop();
    this.on.put(null);
    this.pane.stage.focus();
  }

  close() {
    if (this.corners.length < 3) return;
    const corners = this.corners;
    this.stop();
    this.on.put(corners);
  }

  /** Whether the roi is for photos of this size. */
  fits() {
    return this.roi !== null && `${this.size}` === `${this.crop.photo}`;
  }

  /** A press takes hold of the corner there. @returns {boolean} whether there is one */
  press(place) {
    if (!this.corners) return false;
    const reach = (REACH * Math.max(this.pane.H, this.pane.W)) / 224;
    const far = this.corners.map((corner) => Math.hypot(...this.onMap(corner).map((at, axis) => at - place[axis] - 0.5)));
    const at = far.indexOf(Math.min(...far));
    this.held = far[at] <= reach ? { at, from: place, moved: false } : null;
    return this.held !== null;
  }

  /** The pointer moves to a place, with the corner that is held; small movements belong to a click. */
  move(place) {
    if (!this.corners) return;
    if (this.held) {
      this.held.moved ||= Math.hypot(place[0] - this.held.from[0], place[1] - this.held.from[1]) > 2;
      if (this.held.moved) this.corners[this.held.at] = this.onPhoto(place);
    }
    this.paint(place);
  }

  click(place) {
    const held = this.held;
    this.held = null;
    if (!held) this.drop(place);
    else if (held.at === 0 && !held.moved) this.close();
  }

  drop(place) {
    this.corners.push(this.onPhoto(place));
    this.paint(place);
  }

  undo(place) {
    this.corners.pop();
    this.paint(place);
  }

  /** @returns {boolean} whether the key belongs to drawing */
  key(key, place) {
    const act = { Enter: () => this.close(), " ": () => this.drop(place), Backspace: () => this.undo(place) }[key];
    if (!this.corners || !act) return false;
    act();
    return true;
  }

  /** The pixel of the photo at a pixel of the map: `Crop.on_photo`. */
  onPhoto(place) {
    const { photo, scaled, offset } = this.crop;
    return place.map((at, axis) => clamp(Math.round(((at + 0.5 + offset[axis]) * photo[axis]) / scaled[axis] - 0.5), 0, photo[axis] - 1));
  }

  /** Where the centre of a pixel of the photo is drawn. */
  onMap(corner) {
    const { photo, scaled, offset } = this.crop;
    return corner.map((at, axis) => ((at + 0.5) * scaled[axis]) / photo[axis] - offset[axis]);
  }

  /** @param {Array} place that the edge leads to while drawing */
  paint(place = null) {
    const corners = this.corners ?? this.roi ?? [];
    const points = (this.corners ?? []).map((corner) => this.onMap(corner).reverse());
    const ends = place && points.length && !this.held ? [[place[1] + 0.5, place[0] + 0.5]] : [];
    const path = points.length ? `M${[...points, ...ends].join("L")}Z` : "";
    const scale = Math.max(this.pane.H, this.pane.W) / 224;
    this.draft.replaceChildren(...["halo", "ink"].map((c) => svg("path", { class: c, d: path })), ...points.map(([cx, cy], i) => svg("circle", { cx, cy, r: (i ? 2.5 : 4) * scale })));
    this.pane.stage.classList.toggle("drawing", Boolean(this.corners));
    this.pane.stage.setAttribute("aria-label", this.corners ? "Roi: arrow keys move, Space places a corner, Backspace removes the last, Enter closes, Escape leaves" : this.label);
    this.pencil.setAttribute("aria-pressed", Boolean(this.corners));
    this.clearing.hidden = this.roi === null;
    this.copying.hidden = !corners.length;
    setText(this.code, corners.length ? `roi = [${corners.map((corner) => `(${corner.join(", ")})`).join(", ")}]` : "");
    const other = this.roi && this.size && !this.fits() ? `This roi is for photos of ${this.size.join(" x ")} px. This one has ${this.crop.photo.join(" x ")} px and is judged without it.` : "";
    this.steps.hidden = !this.corners;
    setText(this.remark, this.corners ? `Corners: ${corners.length}${corners.length < 3 ? " of at least 3" : ""}` : other || (this.roi ? HOLDS : ""));
  }
}
