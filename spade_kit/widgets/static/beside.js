// A second photo: its map on the scale of the first, and the same place in both, each with its own normal pixel.

import { brief, bytes, clamp, picture, setText } from "./dom.js";
import { Matches, contour, decodeLevel, paintMap, roiOf, unpack } from "./maps.js";
import { Pane } from "./pane.js";

export class Beside {
  /** @param {Explorer} page with the first photo */
  constructor(page) {
    [this.page, this.shown] = [page, null];
    const pointed = { hover: (...place) => page.hover(this.here(place)), leave: () => page.leave(), pin: (...place) => page.pin(this.here(place)) };
    this.photo = new Pane("Photo beside", { ...pointed, letGo: () => page.put({ beside: null }) });
    this.map = new Pane("Map of the photo beside", pointed);
    this.normal = new Pane("Normal photo that explains the probe in the photo beside");
    this.panes = [this.photo, this.map, this.normal];
  }

  /** Take over another photo, the same under other options, or none. */
  async answer(other) {
    this.latest = other;
    const bitmap = other.photo && (await picture(other.photo.jpeg));
    if (this.latest !== other) return bitmap?.close();
    [this.shown, this.size] = [other.photo ? other : null, other.photo?.size];
    this.page.root.classList.toggle("beside", Boolean(this.shown));
    const figures = this.panes.map(({ figure }) => figure);
    if (!this.shown) figures.forEach((figure) => figure.remove());
    if (!this.shown) return this.page.paintProbe();
    if (!figures[0].isConnected) this.page.normal.figure.after(...figures);
    this.matches = new Matches(other.matches);
    this.roi = roiOf(other.photo);
    this.page.normals.offer(other.neighbours.images, other.neighbours.jpegs);
    const [H, W] = this.size;
    for (const pane of this.panes) pane.resize(H, W);
    this.photo.draw(bitmap);
    bitmap.close();
    const truth = other.photo.mask ? contour(unpack(bytes(other.photo.mask), H * W), H, W, 0.5) : "";
    for (const pane of [this.photo, this.map]) pane.outline("truth", truth);
    this.page.paintMaps();
  }

  /** The same place of the first photo, and of this one. */
  here = (place) => this.#move(place, this.size, this.page.size);
  there = (place) => this.#move(place, this.page.size, this.size);
  #move = (place, from, to) => place.map((at, axis) => Math.floor(((at + 0.5) * to[axis]) / from[axis]));

  /** Compute and paint the map on the scale of the first one; nothing is outlined without a threshold. */
  paint(sigma, threshold) {
    if (!this.shown) return;
    const { page, matches, size } = this;
    this.steps = matches.at(clamp(page.k, matches.least, matches.most));
    this.raw = page.upsampler.map(matches.grid(this.steps), [matches.h, matches.w], size, sigma);
    const level = page.values !== page.raw && (this.shown.place_level ?? page.get("place_level").other);
    const taken = level?.values && decodeLevel(level);
    this.values = taken ? this.raw.map((value, i) => value - taken[i]) : this.raw;
    paintMap(this.map.canvas, this.values, page.table, page.end);
    this.photo.over.getContext("2d").drawImage(this.map.canvas, 0, 0);
    const found = threshold === null ? "" : contour(this.values, ...size, threshold, this.roi);
    for (const pane of [this.photo, this.map]) pane.outline("found", found);
    const { name, score, above } = page.known().find(({ index }) => index === this.shown.photo.index) ?? {};
    setText(this.photo.title, name ?? "");
    this.photo.mark(page.disconnected ? "" : "beside", "Show the first photo alone  B");
    setText(this.photo.remark, score == null ? "" : `score ${score.toFixed(2)}, ${above ? "▲ anomalous" : "normal"}`);
    setText(this.map.title, taken ? "Excess" : "Anomaly map");
    setText(this.map.remark, `same scale, 0 to ${brief(page.end)}`);
  }

  /** Show the pinned and the hovered place of the first photo, or null, here. @returns {object} what is seen, null if nothing */
  point(...places) {
    if (!this.shown || !this.values) return null;
    const [pin, hover] = places.map((place) => place && this.page.see(this.there(place), this));
    const { match, place } = hover ?? pin;
    const bitmap = this.page.normals.get(match.image);
    if (bitmap) this.normal.draw(bitmap);
    for (const [kind, seen] of [["pinned", pin], ["hovered", hover]]) {
      for (const pane of [this.photo, this.map]) pane.point(kind, seen?.place);
      this.normal.point(kind, seen?.match.image === match.image ? seen.match.place : null);
    }
    setText(this.normal.title, `Normal ${match.image}`);
    setText(this.normal.remark, `distance ${match.distance.toFixed(2)} from (${place.join(", ")})`);
    return hover ?? pin;
  }
}
