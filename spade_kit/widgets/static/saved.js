// A page without a kernel: the saved data serves as the model.

const decode = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

const unpackBytes = (value) => {
  if (Array.isArray(value)) return value.map(unpackBytes);
  if (value === null || typeof value !== "object") return value;
  if ("base64" in value) return new DataView(decode(value.base64).buffer);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, unpackBytes(item)]));
};

class SavedModel {
  /** @param {object} saved ``state`` by trait; ``photos`` and ``thumbs``, the per-photo traits and thumbnails by index;
   *  ``normals``, crops of normal photos by number */
  constructor({ state, photos, thumbs, normals }) {
    [this.state, this.photos, this.thumbs, this.normals] = [state, photos, thumbs, normals].map(unpackBytes);
    this.saved = Object.keys(photos).map(Number);
    this.listeners = {};
    Object.assign(this.state, this.photos[this.state.index]);
    this.#lookBeside();
  }

  get(name) {
    return this.state[name];
  }

  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    if (name === "index" && value in this.photos) {
      const { probe, ...photo } = this.photos[value];
      Object.assign(this.state, photo, this.state.pinned ? {} : { probe });
      for (const changed of ["photo", "neighbours", "matches", "layers_alone", "place_level", "probe"]) this.#fire(`change:${changed}`);
    }
    if (name === "beside") this.#lookBeside();
    this.#fire(`change:${name}`);
  }

  /** The second photo of an explorer is one of those saved. */
  #lookBeside() {
    this.state.other = this.photos[this.state.beside] ?? {};
    this.#fire("change:other");
  }

  save_changes() {}

  on(name, act) {
    (this.listeners[name] ??= []).push(act);
  }

  off(name, act) {
    this.listeners[name] = (this.listeners[name] ?? []).filter((other) => other !== act);
  }

  /** Serve thumbnails, and the crops of normal photos that were saved. */
  send(message) {
    if (message.kind === "hello") this.#fire("msg:custom", { kind: "thumbs", indexes: this.saved }, this.saved.map((index) => this.thumbs[index]));
    if (message.kind !== "normals") return;
    const images = message.images.filter((image) => image in this.normals);
    if (images.length) this.#fire("msg:custom", { kind: "normals", images }, images.map((image) => this.normals[image]));
  }

  #fire(name, ...told) {
    for (const act of this.listeners[name] ?? []) act(...told);
  }
}

/** The model of a page from its data, compressed JSON in base64. */
export async function openSaved(packed) {
  const json = new Blob([decode(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new SavedModel(await new Response(json).json());
}
