// Sliders, fields for numbers and dropdowns, with labels and values.

import { el, setText } from "./dom.js";

export class Slider {
  /** @param {object} about name, help, min, max, step, ``format(value)`` and ``move(value)``; ``typed``, the step of a field for its number */
  constructor({ name, help, min, max, step = 1, format = String, move, typed = null }) {
    this.format = format;
    this.field = typed && new NumberField(`${name}, typed`, help, move, { min, step: typed });
    this.output = el("output", {});
    this.input = el("input", { type: "range", min, max, step, "aria-label": name, title: help });
    this.input.addEventListener("input", () => {
      this.send(+this.input.value);
      move(+this.input.value);
    });
    const value = this.field ? el("span", {}, this.field.input, this.output) : this.output;
    this.node = el(typed ? "div" : "label", { class: "sk-slider", title: help }, el("span", { class: "name" }, name), value, this.input);
  }

  send(value) {
    const [, number, rest] = /^([\d.]*)(.*)$/.exec(this.format(value));
    this.field?.show(number);
    if (this.field) this.field.input.placeholder = number ? "" : rest;
    setText(this.output, !this.field ? number + rest : number ? rest : "");
    this.input.setAttribute("aria-valuetext", this.format(value));
  }

  show(value, max = null) {
    if (max !== null) this.input.max = Math.max(max, value);
    if (+this.input.value !== value) this.input.value = value;
    this.send(value);
  }
}

/** A field for a number to type: Enter or leaving it sets the number; what is none is undone. */
export class NumberField {
  constructor(name, help, set, limits = { step: "any" }) {
    this.input = el("input", { type: "number", class: "sk-number", "aria-label": name, title: help, ...limits });
    this.edited = false;
    const take = () => {
      const valid = this.input.value !== "" && this.input.validity.valid;
      if (this.edited && valid) set(+this.input.value);
      this.edited = false;
      this.input.value = this.shown;
    };
    this.input.addEventListener("input", () => (this.edited = true));
    this.input.addEventListener("change", take);
    this.input.addEventListener("keydown", (event) => event.key === "Enter" && take()); // some notebooks keep Enter from changing a field
    this.input.addEventListener("blur", take);
  }

  show(value) {
    this.shown = value;
    if (!this.edited) this.input.value = value;
  }
}

export class Choice {
  /** @param {object} about name, help and ``pick(value)`` */
  constructor({ name, help, pick, plain = false }) {
    this.select = el("select", { "aria-label": name, title: help, onchange: () => pick(this.select.value) });
    this.node = plain ? this.select : el("label", { class: "sk-choice", title: help }, el("span", { class: "name" }, name), this.select);
  }

  /** @param {Array} options [value, text] each */
  offer(options) {
    const wanted = JSON.stringify(options);
    if (this.offered === wanted) return;
    this.offered = wanted;
    const picked = this.select.value;
    this.select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    if (options.some(([value]) => `${value}` === picked)) this.select.value = picked;
  }

  show(value) {
    this.select.value = value;
  }
}

export const button = (text, help, press, attributes = {}) =>
  el("button", { type: "button", title: help, onclick: press, ...attributes }, text);
