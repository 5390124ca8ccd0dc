// The base of pages with maps: a photo, a hovered pixel, and pictures of the normal photos that explain it.

import { ARROWS, bytes, clamp, el, picture, setText } from "./dom.js";
import { Upsampler, colours, decodeLevel } from "./maps.js";
import { NormalPictures } from "./pictures.js";
import { Page } from "./page.js";
import { Zoom } from "./zoom.js";

const REST = 150; // ms for which the pointer must rest before its pixel is announced

export class MapPage extends Page {
  constructor(...of) {
    super(...of);
    const [model] = of;
    this.about = model.get("about");
    this.table = colours(bytes(this.about.colours));
    this.upsampler = new Upsampler();
    this.hovered = null; // the pixel under the pointer
    this.normals = new NormalPictures(
      (images) => this.send({ kind: "normals", images }),
      () => this.paintProbe(),
    );
  }

  /** Register thumbnails of the retrieved normal photos. */
  offer() {
    const { images = [], jpegs = [] } = this.get("neighbours");
    this.normals.offer(images, jpegs);
  }

  onMessage(message, buffers) {
    super.onMessage(message, buffers);
    if (message.kind === "normals") this.normals.receive(message.images, buffers);
  }

  /** Decode the photo of a reply. @returns {boolean} false if a newer reply has arrived meanwhile */
  async fetchPicture(photo, answer) {
    this.latest = answer;
    if (photo === this.pictured) return true;
    const bitmap = await picture(photo.jpeg);
    if (this.latest !== answer) {
      bitmap.close();
      return false;
    }
    this.bitmap?.close();
    [this.bitmap, this.pictured] = [bitmap, photo];
    return true;
  }

  /** The judged map: without what is taken off for the excess, once that is known. */
  takeOff(values) {
    const pack = this.get("place_level");
    this.mapName = pack?.values ? "Excess" : "Anomaly map";
    const level = pack?.values && decodeLevel(pack);
    return level ? values.map((value, i) => value - level[i]) : values;
  }

  /** The end of the colours: twice the reference level or, if that is not above 0, the highest value. */
  endOf(values, level) {
    return level > 0 ? this.about.scale * level : values.reduce((most, value) => Math.max(most, value), 0) || 1;
  }

  hover(place) {
    this.hovered = place;
    this.paintProbe();
  }

  /** The pointer has left: its last pixel becomes the probe unless one is pinned. */
  leave() {
    const place = this.hovered;
    this.hovered = null;
    if (place && !this.get("pinned")) this.put({ probe: place });
    this.paintProbe();
  }

  /** Pin a pixel or, if it is pinned already, unpin it. */
  pin(place) {
    const [row, col] = this.get("probe"), near = Math.max(this.photo.H, this.photo.W) / 75;
    const again = this.get("pinned") && Math.hypot(place[0] - row, place[1] - col) < near;
    this.put(again ? { pinned: false } : { probe: place, pinned: true });
  }

  /** Let the panes be looked at more closely, enlarged together. */
  letLook(panes) {
    this.zoom = new Zoom(panes, () => {
      const [probe, pinned] = [this.get("probe"), this.get("pinned")];
      return () => pinned !== undefined && this.put({ probe, pinned });
    });
    this.keys = el("span", {}, "keys: H hides marks, +\u00a0\u2212\u00a00\u00a0zoom");
  }

  /** @returns {boolean} whether a key is one for that */
  lookCloser(key, place) {
    const known = this.shown && ["+", "=", "-", "0"].includes(key);
    if (known) this.zoom.key(key, place);
    return known;
  }

  /** Where an arrow key leads from a place, in steps of so many rows and columns; the enlarged part follows. Null for other keys. */
  byArrow(key, place, steps) {
    const direction = this.shown && ARROWS[key];
    if (!direction) return null;
    const size = [this.photo.H, this.photo.W];
    const to = place.map((at, axis) => clamp(at + Math.round(direction[axis] * steps[axis]), 0, size[axis] - 1));
    this.zoom.follow(to);
    return to;
  }

  /** Announce a text to screen readers once the pointer rests. */
  speak(node, text) {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => setText(node, text), REST);
  }

  close() {
    super.close();
    clearTimeout(this.speaking);
    this.normals.close();
    this.bitmap?.close();
  }
}
