// Pictures of normal photos: thumbnails arrive with the matches, full crops on first use.

import { picture } from "./dom.js";

const KEPT = 80; // crops

export class NormalPictures {
  /** @param {function} ask requests the crops of some images; @param {function} changed called when a picture arrives */
  constructor(ask, changed) {
    [this.ask, this.changed] = [ask, changed];
    [this.small, this.whole, this.asked, this.wanted] = [new Map(), new Map(), new Set(), new Set()];
  }

  offer(images, views) {
    for (const [image, bitmap] of this.small) {
      bitmap.close?.();
      this.small.delete(image);
    }
    this.views = new Map(images.map((image, i) => [image, views[i]]));
  }

  /** The best available picture; a full crop is requested if missing. */
  get(image) {
    if (!this.whole.has(image)) this.#want(image);
    else this.whole.set(image, this.#take(image)); // most recently used last
    return this.whole.get(image) ?? this.#shrunk(image);
  }

  /** Reset: the numbers refer to other photos now. */
  forget() {
    for (const bitmap of this.whole.values()) bitmap.close();
    for (const some of [this.whole, this.asked, this.wanted]) some.clear();
  }

  async receive(images, views) {
    const bitmaps = await Promise.all(views.map(picture));
    images.forEach((image, i) => {
      this.asked.delete(image);
      this.whole.set(image, bitmaps[i]);
    });
    for (const image of this.whole.keys()) {
      if (this.whole.size <= KEPT) break;
      this.#take(image).close();
    }
    this.changed();
  }

  close() {
    for (const bitmap of [...this.small.values(), ...this.whole.values()]) bitmap.close?.();
  }

  #take(image) {
    const bitmap = this.whole.get(image);
    this.whole.delete(image);
    return bitmap;
  }

  #want(image) {
    if (this.asked.has(image)) return;
    this.asked.add(image);
    if (!this.wanted.size)
      queueMicrotask(() => {
        this.ask([...this.wanted]);
        this.wanted.clear();
      });
    this.wanted.add(image);
  }

  #shrunk(image) {
    const view = this.views?.get(image);
    if (!view || this.small.has(image)) return this.small.get(image) || null;
    this.small.set(image, false); // being decoded
    picture(view).then((bitmap) => {
      if (this.views.get(image) !== view) return bitmap.close();
      this.small.set(image, bitmap);
      this.changed();
    });
    return null;
  }
}
