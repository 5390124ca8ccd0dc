// Reviewing the normal photos, most anomalous first: good, defect or unknown with one key.

import { brief, clamp, el, setText } from "./dom.js";
import { Cells, contour, inside, paintMap, roiOf } from "./maps.js";
import { button } from "./controls.js";
import { Pane, Patch } from "./pane.js";
import { MapPage } from "./map_page.js";
import { Strip } from "./strip.js";

const SIGNS = { kept: "✓ kept", dropped: "✕ dropped", unknown: "? unknown" };
const KEYS = { g: "keep", k: "keep", d: "drop", u: "skip", z: "undo" };

class Review extends MapPage {
  constructor(model, root) {
    super(model, root, "hover, zoom and marks", "Normal photos, each judged against the others, with the decisions so far and the map of one of them.");
    this.asking = false;
    this.queue = []; // what keys and buttons ask for while a reply is pending
    this.offer();
    this.build();
    this.listen();
    this.answer();
  }

  build() {
    const pointed = { hover: (row, col) => this.hover([row, col]), leave: () => this.hover(null), pin: () => {} };
    this.photo = new Pane("Normal photo under review", { ...pointed, key: () => {} });
    this.photo.stage.setAttribute("aria-label", "Photo under review: G good, D defect, U unknown, Z undoes the last decision; + - 0 enlarge the pictures, H hides the marks");
    this.map = new Pane("Anomaly map, judged against the others", pointed);
    this.normal = new Pane("Normal photo that explains the probe");
    this.letLook([this.photo, this.map, this.normal]);
    this.photo.figure.append(this.makeLegend({ found: "above reference level" }, this.keys));
    const act = (kind, text, help) => button(text, help, () => this.ask(() => this.decide(kind)), { class: `python ${kind}` });
    this.acts = {
      keep: act("keep", "good  G", "Confirm as normal and go to the next"),
      drop: act("drop", "defect  D", "Remove from the normal photos and go to the next"),
      skip: act("skip", "unknown  U", "Leave open and go to the next"),
      undo: act("undo", "undo  Z", "Undo the last decision"),
    };
    this.progress = el("div", { class: "sk-score", role: "status" });
    this.strip = new Strip("normal photos: decided, then most anomalous first", (index) => this.disconnected || this.put({ index }));
    this.patches = [new Patch("Close-up of the probe"), new Patch("Close-up of the match")];
    this.copy = button("copy as Python", "Copy Python code that removes the dropped photos", () => this.copyText(this.copy, this.get("state").code));
    this.root.append(
      el("div", { class: "sk-head" }, ...Object.values(this.acts), this.spinner, this.progress),
      this.problem, this.strip.node,
      el("div", { class: "sk-views" }, this.photo.figure, this.map.figure, this.normal.figure),
      el("div", { class: "sk-pair" }, ...this.patches.map(({ canvas }) => canvas), this.live),
      el("div", { class: "sk-foot" }, this.copy, this.saves.page, this.saves.png, this.provenance), this.text);
  }

  listen() {
    this.follow({
      "change:neighbours": () => this.offer(),
      "change:photo": () => {
        this.onAnswer();
        this.answer();
      },
      "change:suspects change:state change:waiting": () => this.paintStrip(),
      "change:index": () => this.awaitAnswer(this.awaited),
    });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.keepKeys(this.photo.stage);
  }

  async answer() {
    const photo = this.get("photo");
    if (!photo.jpeg) return;
    if (!(await this.fetchPicture(photo, photo))) return;
    this.shown = photo;
    this.asking = false;
    this.hovered = null;
    const { seen, size, level } = photo;
    this.seen = new Cells(seen);
    const [H, W] = size;
    for (const pane of [this.photo, this.map, this.normal]) pane.resize(H, W);
    this.photo.draw(this.bitmap);
    this.values = this.takeOff(this.upsampler.map(this.seen.distance, seen.grid, size, seen.sigma));
    paintMap(this.map.canvas, this.values, this.table, this.endOf(this.values, level));
    const roi = roiOf(photo);
    const highest = inside(this.values, roi).reduce((a, b) => Math.max(a, b), 0);
    const found = photo.score === null ? "" : contour(this.values, H, W, level, roi);
    for (const pane of [this.photo, this.map]) pane.outline("found", found);
    const at = this.values.findIndex((value, i) => value === highest && (!roi || roi[i]));
    this.highest = [Math.floor(at / W), at % W];
    setText(this.photo.title, `Normal ${photo.index}: ${this.about.names[photo.index]}`);
    setText(this.map.title, `${this.mapName} against the others`);
    setText(this.map.remark, photo.score === null ? "" : `score ${photo.score.toFixed(2)}; outline: reference level`);
    this.map.remark.title = "Reference level: the 99th percentile of normal pixels, each photo judged against the others";
    this.paintStrip();
    this.paintProbe();
    this.awaitAnswer(this.awaited);
    this.root.dataset.shown = photo.index;
    this.proceed();
  }

  setConnected(yes) {
    super.setConnected(yes);
    if (this.shown) this.paintStrip();
  }

  showProblem(text) {
    super.showProblem(text);
    this.asking = false;
    if (text) this.queue = [];
    if (this.shown) this.awaitAnswer(this.awaited);
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  /** Act now or, while a reply is pending, once the photo is shown that the reply leads to. */
  ask(act) {
    this.queue.push(act);
    this.proceed();
  }

  proceed() {
    while (this.queue.length && !this.awaited) this.queue.shift()();
  }

  get awaited() {
    return this.asking || this.get("index") !== this.shown?.index;
  }

  decide(kind) {
    if (this.disconnected || this.acts[kind].disabled) return;
    this.showProblem("");
    this.asking = true;
    this.send({ kind });
    this.awaitAnswer(this.awaited);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const kind = KEYS[event.key.toLowerCase()];
    const by = { "[": -1, "]": 1 }[event.key];
    if (kind) this.ask(() => this.decide(kind));
    else if (by && (this.asking || this.queue.length)) this.ask(() => this.step(by));
    else if (by) this.step(by);
    else if (!this.lookCloser(event.key, this.hovered ?? this.highest)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  step(by) {
    const order = this.get("suspects").map(([index]) => index);
    const to = order[clamp(order.indexOf(this.get("index")) + by, 0, order.length - 1)];
    if (!this.disconnected) this.put({ index: to });
  }

  // ---- painting -----------------------------------------------------------------------------------------------------

  paintStrip() {
    const suspects = this.get("suspects");
    this.strip.show(suspects.map(([index, score, fresh, decided]) => ({
      key: index, top: `${index}`, kind: SIGNS[decided] ?? "", bottom: score === null ? "…" : brief(score),
      state: `${decided === "dropped" ? "out" : ""} ${fresh || decided ? "" : "stale"}`,
      name: `normal ${index}, score ${score === null ? "unknown" : score.toFixed(2)}${decided ? `, ${decided}` : ""}${fresh || decided ? "" : ", not yet rescored"}`,
    })), this.get("index"));
    this.strip.reveal(this.get("index"));
    const { kept, dropped, left } = this.get("state");
    const count = (what) => suspects.filter(([, , , decided]) => decided === what).length;
    const [open, unknown] = [count(""), count("unknown")];
    const stale = suspects.filter(([, , fresh, decided]) => !fresh && !decided).length;
    const ranked = suspects.every(([, score]) => score !== null);
    this.root.classList.toggle("waiting", Boolean(this.get("waiting")));
    setText(this.progress, this.get("waiting") || `${kept} kept, ${dropped} dropped, ${unknown ? `${unknown} unknown, ` : ""}${open} to review; ${left} normal photos${stale ? `, ${stale} to rescore` : ""}`);
    const decided = suspects.find(([index]) => index === this.get("index"))?.[3];
    for (const kind of ["keep", "drop", "skip"]) this.acts[kind].disabled = this.disconnected || Boolean(decided) || !ranked;
    this.acts.undo.disabled = this.disconnected || open === suspects.length;
    setText(this.photo.remark, decided ? SIGNS[decided] : "");
    this.rescueKeys();
  }

  paintProbe() {
    if (!this.shown) return;
    const { size } = this.shown;
    const place = this.hovered ?? this.highest;
    const { image, number, there, distance } = this.seen.at(place, size);
    const bitmap = this.normals.get(number);
    this.patches[0].draw(this.bitmap, place, size, this.seen.grid);
    if (bitmap) {
      this.normal.draw(bitmap);
      this.patches[1].draw(bitmap, there, size, this.seen.grid);
    }
    for (const pane of [this.photo, this.map]) pane.point("hovered", place);
    this.normal.point("hovered", there);
    setText(this.normal.title, `Normal ${image}`);
    setText(this.normal.remark, `explains (${place.join(", ")})`);
    const text = `${this.hovered ? "" : "Most anomalous pixel: "}(${place.join(", ")}) → normal ${image}, (${there.join(", ")}), distance ${distance.toFixed(3)}`;
    this.speak(this.live, text);
  }
}

export default Review.widget;
