// What pages with maps have: a photo, a place that is pointed at, and pictures of the normal photos that explain it.

import { bytes, picture, setText } from "./dom.js";
import { Upsampler, colours } from "./maps.js";
import { NormalPictures } from "./pictures.js";
import { Page } from "./page.js";

const REST = 150; // ms until a pointer rests, and what it points at is spoken

export class MapPage extends Page {
  constructor(model, root, alive) {
    super(model, root, alive);
    this.about = model.get("about");
    this.table = colours(bytes(this.about.colours));
    this.upsampler = new Upsampler();
    this.hovered = null; // a place under the pointer
    this.normals = new NormalPictures(
      (images) => this.send({ kind: "normals", images }),
      () => this.paintProbe(),
    );
  }

  /** Small pictures of the normal photos that were retrieved. */
  offer() {
    const { images = [], jpegs = [] } = this.get("neighbours");
    this.normals.offer(images, jpegs);
  }

  onMessage(message, buffers) {
    super.onMessage(message, buffers);
    if (message.kind === "normals") this.normals.receive(message.images, buffers);
  }

  /** Have a photo's picture at hand for an answer. @returns {boolean} false where another answer has come meanwhile */
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

  hover(place) {
    this.hovered = place;
    this.paintProbe();
  }

  /** The pointer has left: the place stays, unless another one is pinned. */
  leave() {
    const place = this.hovered;
    this.hovered = null;
    if (place && !this.get("pinned")) this.put({ probe: place });
    this.paintProbe();
  }

  /** Tell those who cannot see it, not at every pixel on the way. */
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
