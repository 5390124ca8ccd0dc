// Layer weights of squared distances: a base weight (1, or the equal weight) times a factor set by the user.

export class Weights {
  /** @param {object} model ``read()`` gives null, "equal" or weights by name; ``equal()`` the equal weights;
   *  ``write(weights)`` */
  constructor(names, model) {
    [this.names, this.model] = [names, model];
    this.base = null; // weights before the user changed them
    this.unmuted = {}; // layer -> factor before muting
  }

  /** The base weight of each layer, and the factors set by the user. */
  factors() {
    const [weights, ones] = [this.model.read(), this.names.map(() => 1)];
    if (weights === null) this.base = null;
    if (weights === null) return { base: ones, by: ones };
    if (weights === "equal") return { base: this.model.equal(), by: ones };
    const base = this.base ?? ones;
    return { base, by: this.names.map((name, l) => (weights[name] ?? 1) / base[l]) };
  }

  weigh(layer, value) {
    const { base, by } = this.factors();
    this.#set(base, by.map((old, l) => (l === layer ? value : old)));
  }

  mute(layer) {
    const { base, by } = this.factors();
    const muted = by[layer] === 0;
    if (!muted) this.unmuted[layer] = by[layer];
    this.#set(base, by.map((old, l) => (l === layer ? (muted ? (this.unmuted[layer] ?? 1) : 0) : old)));
  }

  solo(layer) {
    const { base, by } = this.factors();
    const already = by.every((value, l) => value > 0 === (l === layer));
    if (!already) by.forEach((value, l) => (this.unmuted[l] = value || 1));
    this.#set(base, by.map((old, l) => (already || l === layer ? (this.unmuted[l] ?? 1) : 0)));
  }

  #set(base, by) {
    const equal = this.model.read() === "equal" || this.base?.some((value) => value !== 1);
    this.base = base;
    if (by.every((value) => value === 1)) this.model.write(equal ? "equal" : null);
    else if (by.some((value) => value > 0)) this.model.write(Object.fromEntries(this.names.map((name, l) => [name, base[l] * by[l]])));
  }
}
