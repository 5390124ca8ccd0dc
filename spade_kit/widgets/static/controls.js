// Sliders, fields for numbers and dropdowns, with labels and values.

import { clamp, el, setText } from "./dom.js";

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

/** A field for a number to type, with a point or a comma: Enter or leaving it sets the number, arrows change it; what is none is undone. */
export class NumberField {
  /** @param {object} limits ``min``, ``max``, and ``step``: 1 for whole numbers */
  constructor(name, help, set, limits = {}) {
    this.input = el("input", { type: "text", inputmode: "decimal", autocomplete: "off", class: "sk-number", "aria-label": name, title: help });
    [this.limits, this.edited] = [{ min: -Number.MAX_VALUE, max: Number.MAX_VALUE, ...limits }, false];
    const take = (by = 0) => {
      const value = clamp(this.number + by, this.limits.min, this.limits.max);
      const taken = (this.edited || by) && !Number.isNaN(value);
      this.edited = false;
      if (taken) set(value);
      this.show(this.shown);
    };
    this.input.addEventListener("input", () => {
      this.edited = true;
      this.show(this.shown);
    });
    for (const end of ["change", "blur"]) this.input.addEventListener(end, () => take());
    this.input.addEventListener("keydown", ({ key }) => {
      const by = { Enter: 0, ArrowUp: 1, ArrowDown: -1 }[key]; // some notebooks keep Enter from changing a field
      if (by !== undefined) take(by);
    });
  }

  /** What is typed, NaN if it cannot be set. */
  get number() {
    const [value, { min, max, step }] = [+this.input.value.replace(",", "."), this.limits];
    return this.input.value.trim() && value >= min && value <= max && (step !== 1 || Number.isInteger(value)) ? value : NaN;
  }

  show(value) {
    this.shown = value;
    if (!this.edited) this.input.value = value;
    this.input.setCustomValidity(this.edited && Number.isNaN(this.number) ? "no number that is possible here" : "");
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
