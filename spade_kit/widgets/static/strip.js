// A row of thumbnails, one of which is selected.

import { breakable, bytes, el, setText } from "./dom.js";

export class Strip {
  /** @param {function} pick called with the key of the selected card, and the click */
  constructor(name, pick) {
    this.pick = pick;
    this.cards = new Map();
    this.node = el("div", { class: "sk-strip", role: "group", "aria-label": name });
    this.moved = false; // whether the user has scrolled since a card was revealed
    this.node.addEventListener("keydown", (event) => {
      const next = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
      if (!next) return;
      event.target.closest(".sk-card")?.[next]?.focus();
      event.preventDefault();
    });
    for (const hand of ["wheel", "pointerdown"]) this.node.addEventListener(hand, () => (this.moved = true), { passive: true });
  }

  /** Show cards in this order; one is a tab stop, arrow keys reach the others.
   *  @param {Array} cards {key, top, kind, bottom, name, share, state} each */
  show(cards, picked) {
    const order = cards.map((card) => this.#update(card, card.key === picked));
    const stop = Math.max(0, cards.findIndex(({ key }) => key === picked));
    order.forEach((node, i) => (node.tabIndex = i === stop ? 0 : -1));
    const [now, held] = [this.node.children, this.node.querySelector(":focus")];
    if (order.length === now.length && order.every((node, i) => now[i] === node)) return;
    this.node.replaceChildren(...order);
    held?.focus({ preventScroll: true });
  }

  /** Set the picture of a card, a JPEG. */
  picture(key, view) {
    const card = this.cards.get(key) ?? this.#make(key);
    if (card.url || !view.byteLength) return; // the picture of a key never changes
    card.image.src = card.url = URL.createObjectURL(new Blob([bytes(view)], { type: "image/jpeg" }));
  }

  /** Scroll a card into view. */
  reveal(key) {
    this.moved = false;
    const node = this.cards.get(key)?.node;
    if (!node?.isConnected) return;
    const [left, right] = [this.node.scrollLeft, this.node.scrollLeft + this.node.clientWidth];
    if (node.offsetLeft < left || node.offsetLeft + node.offsetWidth > right)
      this.node.scrollLeft = node.offsetLeft - this.node.clientWidth / 2;
  }

  /** Drop all cards except those with these keys. */
  keep(keys) {
    const kept = new Set(keys);
    for (const [key, card] of this.cards) {
      if (kept.has(key)) continue;
      this.#forget(card);
      this.cards.delete(key);
    }
  }

  close() {
    this.keep([]);
  }

  #make(key) {
    const [top, bottom, image] = [el("span", { class: "top" }), el("span", { class: "bottom" }), el("img", { alt: "", draggable: "false" })];
    const [share, kind] = [el("span", { class: "share" }), el("span", { class: "kind" })];
    const node = el("button", { type: "button", class: "sk-card", onclick: (event) => this.pick(key, event) }, image, top, kind, bottom, share);
    const card = { node, image, top, kind, bottom, share };
    this.cards.set(key, card);
    return card;
  }

  #update({ key, top, kind = "", bottom, name, share = null, state = "" }, picked) {
    const card = this.cards.get(key) ?? this.#make(key);
    setText(card.top, top);
    setText(card.kind, breakable(kind));
    setText(card.bottom, bottom);
    card.node.className = `sk-card ${state}`;
    card.node.setAttribute("aria-label", name);
    card.node.title = name;
    card.node.setAttribute("aria-pressed", picked);
    card.node.dataset.key = key;
    card.share.style.width = share === null ? "0" : `${100 * share}%`;
    return card.node;
  }

  #forget(card) {
    if (card.url) URL.revokeObjectURL(card.url);
  }
}
