// The base of all pages: repainting on model changes, the kernel connection, and error messages.

import { download, el, setText } from "./dom.js";
import { button } from "./controls.js";

export const PATIENCE = 5000; // ms to wait for a reply before the page counts as disconnected

export class Page {
  /** The page as anywidget takes it. */
  static get widget() {
    return { render: ({ model, el: root }) => {
      const page = new this(model, root);
      return () => page.close();
    } };
  }

  /** @param {string} alive what still works without a kernel; @param {string} sees what the page shows */
  constructor(model, root, alive, sees) {
    [this.model, this.root, this.alive, this.sees] = [model, root, alive, sees];
    this.disconnected = false;
    this.before = null; // the state before what was put last, or since a reply is pending
    this.problemText = el("span");
    this.problem = el("div", { class: "sk-problem", role: "alert", hidden: true }, this.problemText, button("×", "Close this message", () => this.dismiss(), { class: "sk-chip", "aria-label": "close this message" }));
    this.saves = { page: button("save page", "Save as one file that works offline", () => this.save("page"), { class: "python" }), png: button("PNG", "Save a picture for slides", () => this.save("png"), { class: "python" }) };
    this.text = el("textarea", { class: "sk-code", readonly: true, rows: 3, hidden: true, "aria-label": "text to copy" });
    this.spinner = el("span", { class: "sk-spinner", role: "img", "aria-label": "computing" });
    this.live = el("p", { class: "sk-live", "aria-live": "polite" });
    root.classList.add("spade-kit");
  }

  /** What the pictures come from, in words; hashes of weights and of rois show when it is pointed at. */
  get provenance() {
    const { source } = this.get("about");
    return el("span", { class: "sk-source", title: source }, source.replace(/, SHA-256 \w+| [0-9a-f]{12}\b/g, ""));
  }

  get = (name) => this.model.get(name);

  put(changes) {
    const before = Object.fromEntries(Object.keys(changes).map((name) => [name, this.get(name)]));
    this.before = this.pending ? this.before && { ...before, ...this.before } : before;
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

  /** Follow the model. @param {object} on handlers by event names, such as "change:name change:other" */
  follow(on) {
    const all = { comm_live_update: () => this.setConnected(false), "change:problem": () => this.showProblem(this.get("problem")), "msg:custom": (message, buffers) => this.onMessage(message, buffers), ...on };
    const each = (act) => {
      for (const [names, what] of Object.entries(all)) for (const name of names.split(" ")) act(name, what);
    };
    each((name, what) => this.model.on(name, what));
    this.off = () => each((name, what) => this.model.off(name, what));
    // keeps key presses from the notebook, which checks this mark on the focused element
    this.root.addEventListener("focusin", ({ target }) => ((this.focused = target).dataset.lmSuppressShortcuts = "true"));
    if (this.model.saved) this.root.prepend(el("header", {}, el("h1", {}, document.title), el("p", {}, `${this.sees} Saved from spade_kit; works offline: ${this.alive}. Greyed controls need Python.`)));
    this.setConnected(!this.model.saved);
    for (const [index, view] of Object.entries(this.get("thumbs") ?? {})) this.strip?.picture(+index, view);
    this.send({ kind: "hello" });
    this.expect("greeting", PATIENCE / 2);
  }

  onMessage(message, buffers) {
    if (message.kind === "here") this.setConnected(true);
    if (message.kind === "thumbs") message.indexes.forEach((index, i) => this.strip.picture(index, buffers[i]));
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
    if (this.disconnected) this.takeBack();
    if (yes) this.showProblem(this.get("problem"));
    else if (!this.model.saved) this.showProblem(`No kernel connected: run this cell to recompute. Still available: ${this.alive}.`);
  }

  showProblem(text) {
    this.problem.hidden = !text;
    this.problem.classList.toggle("calm", this.disconnected);
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

  /** Copy a text to the clipboard and confirm on the button; without a clipboard, show the text for manual copying. */
  async copyText(pressed, text) {
    try {
      await navigator.clipboard.writeText(text);
      pressed.dataset.name ??= pressed.textContent; // after a quick second press it already reads "copied"
      setText(pressed, "copied");
      setTimeout(() => setText(pressed, pressed.dataset.name), 1500);
    } catch {
      this.text.hidden = false;
      this.text.value = text;
      this.text.select();
    }
  }

  /** A legend that switches kinds of marks, each with its text; ``more`` is below it. H, held, hides all. */
  makeLegend(marks, ...more) {
    const make = (mark, text) => button(text, `Show or hide: ${text}. Hold H to hide all marks`, () => {
      const hidden = this.root.classList.toggle(`no-${mark}`);
      this.legend[mark].setAttribute("aria-pressed", !hidden);
    }, { class: mark, "aria-pressed": "true" });
    this.legend = Object.fromEntries(Object.entries(marks).map(([mark, text]) => [mark, make(mark, text)]));
    this.root.addEventListener("keydown", (event) => {
      if (event.key.toLowerCase() !== "h" || event.ctrlKey || event.metaKey || event.target.matches("input[type=text], textarea")) return;
      event.preventDefault(); // a menu would look for a name with this letter
      this.root.classList.add("bare");
    });
    for (const end of ["keyup", "focusout"]) this.root.addEventListener(end, () => this.root.classList.remove("bare"));
    return el("div", { class: "sk-legend" }, ...Object.values(this.legend), ...more);
  }

  /** A text to be shown by its button, and brought into sight. */
  makeHelp(...texts) {
    this.help = el("div", { class: "sk-help", hidden: true }, ...texts);
    this.helper = button("?", "Help and shortcuts  ?", () => this.toggleHelp(), { "aria-label": "help", "aria-expanded": "false" });
  }

  toggleHelp() {
    this.helper.setAttribute("aria-expanded", !this.help.toggleAttribute("hidden"));
    this.help.scrollIntoView({ block: "nearest" });
  }

  /** A reply arrived: reconnect if the page was disconnected. */
  onAnswer() {
    if (this.disconnected && !this.model.saved) this.setConnected(true);
  }

  /** Keep keys working: focus this element after a click on one that takes no focus, and when the focused one is gone. */
  keepKeys(home) {
    this.home = home;
    this.root.addEventListener("click", () => {
      if (!this.root.contains(this.root.getRootNode().activeElement)) home.focus({ preventScroll: true });
    });
  }

  /** Take the focus from a control that has become disabled or has gone. */
  rescueKeys() {
    const now = this.root.getRootNode().activeElement;
    const gone = document.activeElement === document.body && this.focused?.checkVisibility() === false;
    if (gone || (now?.disabled && this.root.contains(now))) this.home?.focus({ preventScroll: true });
  }

  /** Show whether a reply is pending; report a lost connection if none arrives. */
  awaitAnswer(awaited) {
    this.pending = awaited;
    this.root.classList.toggle("busy", awaited);
    this.root.setAttribute("aria-busy", awaited);
    this.rescueKeys();
    clearTimeout(this.waiting);
    if (awaited && (this.before || !this.disconnected)) this.expect("waiting", this.disconnected ? 0 : PATIENCE);
  }

  /** Take back what was asked for without a reply: menus and pictures agree again. */
  takeBack() {
    const before = (this.pending && this.before) || {};
    this.before = null;
    for (const [name, value] of Object.entries(before)) this.model.set(name, value);
    this.model.save_changes();
  }

  /** Without a reply within so many ms, the page counts as disconnected, unless Jupyter says that the kernel is busy. */
  expect(timer, patience) {
    if (this.model.saved) return;
    const busy = () => this.model.widget_manager?.kernel?.status === "busy";
    this[timer] = setTimeout(() => (busy() ? this.expect(timer, PATIENCE) : this.setConnected(false)), patience);
  }

  close() {
    this.off();
    [this.greeting, this.waiting].forEach(clearTimeout);
    this.strip?.close();
  }
}
