// What all pages have: a model whose changes are painted, Python that may not answer, and what it complains of.

import { download, el, setText } from "./dom.js";
import { button } from "./controls.js";

export const PATIENCE = 5000; // ms without an answer, until that is said

export class Page {
  /** @param {string} alive what still works where Python does not answer */
  constructor(model, root, alive) {
    [this.model, this.root, this.alive] = [model, root, alive];
    this.disconnected = false;
    this.problemText = el("span");
    this.problem = el("div", { class: "sk-problem", role: "alert", hidden: true }, this.problemText, button("×", "Close this message", () => this.dismiss(), { class: "sk-chip", "aria-label": "close this message" }));
    this.saves = { page: button("save page", "One file that works without Python", () => this.save("page"), { class: "python" }), png: button("PNG", "A picture for slides", () => this.save("png"), { class: "python" }) };
    this.text = el("textarea", { class: "sk-code", readonly: true, rows: 3, hidden: true, "aria-label": "text to copy" });
    root.classList.add("spade-kit");
  }

  get = (name) => this.model.get(name);

  put(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.model.save_changes();
  }

  send(message, buffers = []) {
    try {
      this.model.send(message, undefined, buffers);
    } catch {
      this.setConnected(false);
    }
  }

  /** Follow the model. @param {object} on what to do at each change, by "change:name change:other" */
  follow(on) {
    const all = { "change:problem": () => this.showProblem(this.get("problem")), "msg:custom": (message, buffers) => this.onMessage(message, buffers), ...on };
    const each = (act) => {
      for (const [names, what] of Object.entries(all)) for (const name of names.split(" ")) act(name, what);
    };
    each((name, what) => this.model.on(name, what));
    this.off = () => each((name, what) => this.model.off(name, what));
    // keys pressed here are not the notebook's, which looks for this mark at what has the focus
    this.root.addEventListener("focusin", (event) => (event.target.dataset.lmSuppressShortcuts = "true"));
    this.setConnected(!this.model.saved);
    this.send({ kind: "hello" });
    if (!this.model.saved) this.greeting = setTimeout(() => this.setConnected(false), PATIENCE / 2);
  }

  onMessage(message, buffers) {
    if (message.kind === "here") this.setConnected(true);
    if (message.kind === "file") {
      const kind = message.name.endsWith(".png") ? "png" : "page";
      this.saves[kind].removeAttribute("aria-busy");
      download(message.name, buffers[0], kind === "png" ? "image/png" : "text/html");
    }
  }

  setConnected(yes) {
    clearTimeout(this.greeting);
    this.disconnected = !yes;
    for (const control of this.root.querySelectorAll(".python")) control.disabled = this.disconnected;
    this.root.classList.toggle("disconnected", this.disconnected);
    if (yes) this.showProblem(this.get("problem"));
    else if (!this.model.saved) this.showProblem(`Python does not answer. ${this.alive} work all the same; for the rest, run the cell again.`);
  }

  showProblem(text) {
    this.problem.hidden = !text;
    setText(this.problemText, text);
    for (const save of Object.values(this.saves)) save.removeAttribute("aria-busy");
  }

  dismiss() {
    this.showProblem("");
    if (this.get("problem") && !this.disconnected) this.put({ problem: "" });
  }

  save(kind) {
    this.saves[kind].setAttribute("aria-busy", "true");
    this.send({ kind });
  }

  /** Put a text on the clipboard, and say so on the button; where there is no clipboard, show it to be copied by hand. */
  async copyText(pressed, text) {
    try {
      await navigator.clipboard.writeText(text);
      pressed.dataset.name ??= pressed.textContent; // pressed again, it says "copied" already
      setText(pressed, "copied");
      setTimeout(() => setText(pressed, pressed.dataset.name), 1500);
    } catch {
      this.text.hidden = false;
      this.text.value = text;
      this.text.select();
    }
  }

  /** Python has answered after all. */
  onAnswer() {
    if (this.disconnected && !this.model.saved) this.setConnected(true);
  }

  /** After a click on what takes no focus, or loses it, keys are for this. */
  keepKeys(stage) {
    this.root.addEventListener("click", () => {
      if (!this.root.contains(this.root.getRootNode().activeElement)) stage.focus({ preventScroll: true });
    });
  }

  /** What has the focus and can no longer be pressed gives it to this. */
  rescueKeys(stage) {
    const now = this.root.getRootNode().activeElement;
    if (now?.disabled && this.root.contains(now)) stage.focus({ preventScroll: true });
  }

  /** Whether an answer is awaited; when it does not come, that is said. */
  awaitAnswer(awaited) {
    this.root.classList.toggle("busy", awaited);
    this.root.setAttribute("aria-busy", awaited);
    clearTimeout(this.waiting);
    if (awaited && !this.model.saved) this.waiting = setTimeout(() => this.setConnected(false), PATIENCE);
  }

  close() {
    this.off();
    [this.greeting, this.waiting].forEach(clearTimeout);
  }
}
