// Painting defects: the page draws the stroke at once; Python paints it and replies with the new map.

import { brief, bytes, clamp, el, setText, svg } from "./dom.js";
import { Cells, colourStrip, contour, paintMap, roiOf, unpack } from "./maps.js";
import { Choice, Slider, button } from "./controls.js";
import { Pane } from "./pane.js";
import { MapPage } from "./map_page.js";

const TOOLS = {
  brush: ["brush", "Opaque paint"],
  scratch: ["scratch", "A groove with a bright floor and dark rims"],
  stain: ["stain", "A dried drop that the surface shows through"],
  blur: ["blur", "Out-of-focus blur"],
  colour: ["recolour", "Another hue at the same lightness"],
  move: ["move", "Drag a patch to copy it to another place"],
  erase: ["erase", "Restore the original photo"],
};
const HELP = "Choose a tool and draw on the photo; the map updates while you draw. Move: press on the patch to copy and release at the target. Keys on the photo: arrows move the pen, Enter paints (for move twice: source, target), Ctrl+Z undoes, Ctrl+Shift+Z redoes. +, - and 0 on the photo, or Ctrl and the wheel, enlarge all pictures; H, held, hides the marks. Point at the map to see which normal pixel explains it.";
const LEAST_MOVE = 2; // map pixels: a plain click moves nothing
const GRAIN = 1 / 8; // least spacing of a stroke's points, as a fraction of its size; at least one map pixel

class Painting extends MapPage {
  constructor(model, root) {
    super(model, root, "hover, zoom and marks", "A photo with a painted defect, its anomaly map, and for each pixel the normal pixel that explains it.");
    const short = Math.min(...model.get("photo").size); // short side of the crop
    this.largest = Math.floor(short / 2);
    this.own = Object.fromEntries(this.about.tools.map(([tool, part, strength, colour]) => [tool, { size: Math.max(1, Math.round(part * short)), strength, colour }]));
    [this.tool, this.drawing, this.count, this.asked] = ["scratch", null, 0, 0]; // asked: number of pending replies
    this.offer();
    this.build();
    this.listen();
    this.answer();
  }

  // ---- layout -------------------------------------------------------------------------------------------------------

  build() {
    const pointed = { hover: (row, col) => this.hover([row, col]), leave: () => this.hover(null), pin: () => {} };
    this.photo = new Pane("Photo to paint on", { ...pointed, key: (event) => this.key(event) });
    this.photo.stage.setAttribute("aria-label", "Paint: arrow keys move the pen, Enter paints");
    this.photo.stage.classList.add("painted", "drawing"); // its drags are strokes
    [this.pen, this.source] = [0, 1].map(() => svg("g", { class: "sk-pen", visibility: "hidden" }, ...["halo", "ink"].map((c) => svg("circle", { class: c }))));
    this.photo.marks.append(this.source, this.pen);
    this.map = new Pane("Anomaly map", pointed);
    this.normal = new Pane("Normal photo that explains the probe");
    this.letLook([this.photo, this.map, this.normal]);

    this.tools = this.about.tools.map(([tool]) => {
      const [text, help] = TOOLS[tool];
      return [tool, button(text, help, () => this.take(tool), { class: "python" })];
    });
    this.size = new Slider({ name: "size", help: "Diameter in map pixels", min: 1, max: this.largest, typed: "any", format: (value) => `${value} px`, move: (size) => this.set({ size }) });
    this.strength = new Slider({ name: "strength", help: "Strength of the effect", min: 5, max: 100, step: 5, typed: 1, format: (value) => `${value} %`, move: (strength) => this.set({ strength: strength / 100 }) });
    this.ink = el("input", { type: "color", "aria-label": "colour", title: "Colour of brush, stain and recolour", oninput: () => this.set({ colour: this.ink.value }) });
    const ask = (kind, text, help) => button(text, help, () => this.ask({ kind }), { class: "python" });
    this.history = { undo: ask("undo", "undo", "Undo the last stroke  Ctrl+Z"), redo: ask("redo", "redo", "Redo the stroke  Ctrl+Shift+Z"), clear: ask("clear", "clear all", "Undo all strokes") };
    this.name = new Choice({ name: "photo", help: "Select a photo", plain: true, pick: (index) => this.put({ index: +index }) });
    this.score = el("div", { class: "sk-score", role: "status" });
    this.label = el("input", { type: "text", value: "painted", "aria-label": "defect type", title: "Defect type, used as a folder name", class: "python", size: 12 });
    this.keeping = button("keep as test photo", `Save the photo and its mask to the folder ${this.about.folder} and add it to the test photos`, () => this.ask({ kind: "keep", label: this.label.value }), { class: "python" });
    this.pair = button("photo + mask", "Download both as PNG", () => this.send({ kind: "pair" }), { class: "python" });
    this.kept = el("span", { class: "sk-remark", role: "status" });
    this.ends = ["0", el("span", { class: "wide" }, "reference "), ""].map((part) => el("span", {}, part, el("span")));
    this.map.figure.append(el("div", { class: "sk-scale" }, colourStrip(this.table), el("div", { class: "ends" }, ...this.ends)));
    this.photo.figure.append(this.makeLegend({ truth: "painted", found: "above reference level" }, this.keys));
    this.words = el("p", { class: "sk-remark" });
    this.normal.figure.append(this.words);
    this.makeHelp(HELP);
    const several = this.get("photos").length > 1 && !this.model.saved;
    for (const { input, field } of [this.size, this.strength]) field.limits.max = +input.max;
    for (const control of [this.name.select, ...[this.size, this.strength].flatMap(({ input, field }) => [input, field.input])]) control.classList.add("python");
    this.root.append(
      el("div", { class: "sk-head" }, several ? this.name.node : "", el("span", { class: "sk-group", role: "group", "aria-label": "tool" }, ...this.tools.map(([, one]) => one)), this.spinner, this.score),
      this.problem,
      el("div", { class: "sk-pens" }, this.size.node, this.strength.node, el("label", { class: "sk-choice" }, el("span", { class: "name" }, "colour"), this.ink), el("span", { class: "sk-group" }, ...Object.values(this.history))),
      el("div", { class: "sk-views" }, this.photo.figure, this.map.figure, this.normal.figure), this.live,
      el("div", { class: "sk-row sk-form" }, el("label", { class: "sk-choice" }, el("span", { class: "name" }, "type"), this.label), this.keeping, this.kept),
      el("div", { class: "sk-foot" }, this.pair, this.saves.page, this.saves.png, this.helper, this.provenance), this.help);
    this.take(this.tool);
  }

  listen() {
    this.follow({
      "change:neighbours": () => this.offer(),
      "change:photo": () => {
        this.onAnswer();
        this.asked = Math.max(0, this.asked - 1);
        this.answer();
      },
      "change:photos": () => this.paintNames(),
      "change:normals change:waiting": () => this.paintMap(),
      "change:probe": () => this.paintProbe(),
      "change:kept": () => this.paintKept(),
      "change:index": () => {
        this.paintNames();
        this.awaitAnswer(this.get("index") !== this.get("photo").index);
      },
    });
    const { stage } = this.photo;
    stage.addEventListener("pointerdown", (event) => this.begin(event));
    stage.addEventListener("pointermove", (event) => this.draw(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => this.end());
    this.root.addEventListener("keydown", (event) => this.keyAnywhere(event));
    this.keepKeys(stage);
  }

  // ---- messages from Python -----------------------------------------------------------------------------------------

  async answer() {
    const photo = this.get("photo");
    if (!photo.jpeg) return;
    if (!(await this.fetchPicture(photo, photo))) return;
    this.shown = photo;
    this.seen = new Cells(photo.seen);
    const [H, W] = photo.size;
    for (const pane of [this.photo, this.map, this.normal]) pane.resize(H, W);
    this.photo.draw(this.bitmap);
    this.values = this.takeOff(this.upsampler.map(this.seen.distance, this.seen.grid, [H, W], this.seen.sigma));
    const painted = photo.mask ? contour(unpack(bytes(photo.mask), H * W), H, W, 0.5) : "";
    for (const pane of [this.photo, this.map]) pane.outline("truth", painted);
    if (this.drawing?.changed && !this.asked) this.sendStroke(); // the user has kept drawing
    else if (!this.drawing && !this.asked) this.clearLine();
    this.history.undo.disabled = this.history.clear.disabled = this.disconnected || !photo.strokes;
    this.history.redo.disabled = this.disconnected || !photo.undone;
    this.keeping.disabled = this.disconnected || !photo.mask;
    this.pair.disabled = this.disconnected || !photo.strokes;
    this.awaitAnswer(this.asked > 0);
    this.paintNames();
    this.paintKept();
    this.paintMap();
    this.root.dataset.shown = `${photo.index} ${photo.strokes}`;
  }

  setConnected(yes) {
    super.setConnected(yes);
    this.ink.disabled = this.disconnected || !this.own[this.tool].colour;
    if (this.shown) this.answer();
  }

  showProblem(text) {
    super.showProblem(text);
    if (!text) return;
    this.asked = 0;
    this.awaitAnswer(false);
    this.clearLine();
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  take(tool) {
    this.tool = tool;
    this.from = null;
    for (const [name, one] of this.tools) one.setAttribute("aria-pressed", name === tool);
    this.set({});
    const { colour } = this.own[tool];
    this.ink.disabled = this.disconnected || !colour;
    this.ink.value = colour ?? "#808080";
    this.circle(this.source, null);
  }

  set(changes) {
    const { size, strength } = Object.assign(this.own[this.tool], changes);
    this.size.show(size);
    this.strength.show(Math.round(100 * strength));
    this.circle(this.pen, this.hovered);
  }

  /** The pointer position in fractional map pixels, possibly outside the map. */
  place(event) {
    const { stage, scale, top, left, H, W } = this.photo;
    const box = stage.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height / scale + top) * H - 0.5, ((event.clientX - box.left) / box.width / scale + left) * W - 0.5];
  }

  begin(event) {
    if (this.disconnected || event.button > 0 || !this.shown) return;
    this.photo.stage.focus({ preventScroll: true });
    this.photo.stage.setPointerCapture(event.pointerId);
    this.start(this.place(event));
    event.preventDefault();
  }

  start(place) {
    this.drawing = { tool: this.tool, ...this.own[this.tool], points: [place], drawn: `${Date.now()} ${this.count++}`, changed: true };
    this.paintLine();
    if (this.tool !== "move" && !this.asked) this.sendStroke();
  }

  draw(event) {
    if (!this.drawing) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) this.extend(this.place(one));
    this.paintLine();
    if (this.tool !== "move" && !this.asked) this.sendStroke();
  }

  extend(place) {
    const { points, tool, size } = this.drawing;
    const [row, col] = points.at(-1);
    if (tool === "move") points.splice(1, 1, place);
    else if (Math.hypot(place[0] - row, place[1] - col) >= Math.max(1, GRAIN * size)) points.push(place);
    else return;
    this.drawing.changed = true;
  }

  end() {
    if (!this.drawing) return;
    const { tool, points, changed } = this.drawing;
    const [[row, col], [toRow, toCol]] = [points[0], points.at(-1)];
    const whole = tool !== "move" || Math.hypot(toRow - row, toCol - col) >= LEAST_MOVE;
    const last = this.drawing;
    this.drawing = null;
    if (whole && changed) this.sendStroke(last);
    else if (!whole || !this.asked) this.clearLine();
    this.circle(this.source, null);
  }

  /** Send the stroke so far; Python replaces its earlier, shorter version. */
  sendStroke(stroke = this.drawing) {
    stroke.changed = false;
    const { changed, ...message } = stroke;
    if (message.tool === "move" && message.points.length < 2) return;
    this.ask({ kind: "stroke", ...message, points: message.points.map((place) => place.map((at) => Math.round(at * 100) / 100)) });
  }

  ask(message) {
    if (this.disconnected) return;
    if (message.kind !== "stroke") this.showProblem("");
    if (message.kind !== "keep") this.asked += 1;
    this.awaitAnswer(this.asked > 0);
    this.send(message);
  }

  hover(place) {
    super.hover(place);
    this.circle(this.pen, this.hovered);
  }

  key(event) {
    const by = event.shiftKey ? 16 : 4;
    const to = this.byArrow(event.key, this.hovered ?? this.get("probe"), [by, by]);
    if (to) this.hover(to);
    else if (event.key === "Enter" || event.key === " ") this.dab(this.hovered ?? this.get("probe"));
    else return;
    event.preventDefault();
  }

  /** Paint by key: a dab, or for move first the source, then the target. */
  dab(place) {
    if (this.disconnected) return;
    if (this.tool === "move" && !this.from) {
      this.from = place;
      this.circle(this.source, place);
      return;
    }
    this.start(this.from ?? place);
    if (this.from) this.extend(place);
    this.from = null;
    this.end();
  }

  keyAnywhere(event) {
    if (event.target.matches("input[type=text]")) return;
    const back = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    if (back && event.shiftKey) this.history.redo.click();
    else if (back) this.history.undo.click();
    else if ((event.ctrlKey || event.metaKey) && event.key === "y") this.history.redo.click();
    else if (event.key === "?") this.toggleHelp();
    else if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select") || !this.lookCloser(event.key, this.hovered ?? this.get("probe"))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  // ---- painting -----------------------------------------------------------------------------------------------------

  /** Preview the current stroke until Python has painted it. */
  paintLine() {
    const { tool, points, size, colour } = this.drawing;
    if (tool === "move") {
      this.circle(this.source, points[0]);
      return;
    }
    const context = this.photo.over.getContext("2d");
    context.clearRect(0, 0, this.photo.W, this.photo.H);
    context.strokeStyle = colour ?? "#ffffff";
    [context.lineWidth, context.lineCap, context.lineJoin] = [Math.max(size, 1), "round", "round"];
    context.beginPath();
    context.moveTo(points[0][1] + 0.5, points[0][0] + 0.5);
    for (const [row, col] of points) context.lineTo(col + 0.5, row + 0.5);
    context.stroke();
    this.photo.over.style.opacity = 0.35;
  }

  clearLine() {
    this.photo.over.getContext("2d").clearRect(0, 0, this.photo.W, this.photo.H);
  }

  /** Place a circle the size of the tool. */
  circle(mark, place) {
    mark.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    for (const one of mark.children) one.setAttribute("r", this.own[this.tool].size / 2);
    mark.setAttribute("transform", `translate(${place[1] + 0.5} ${place[0] + 0.5})`);
  }

  paintMap() {
    if (!this.shown) return;
    const { level, scores, of } = this.get("normals");
    const end = this.endOf(this.values, level);
    const [H, W] = this.shown.size;
    paintMap(this.map.canvas, this.values, this.table, end);
    const { score } = this.shown;
    const found = score === null ? "" : contour(this.values, H, W, level, roiOf(this.shown));
    for (const pane of [this.photo, this.map]) pane.outline("found", found);
    this.root.classList.toggle("waiting", score === null);
    const reached = scores.filter((other) => other >= score).length;
    const among = scores.length < of ? `${scores.length} (of ${of})` : `${of}`;
    const rank = !scores.length ? "" : reached ? `: ${reached} of ${scores.length} normal photos score at least this` : `: above all ${among} normal photos`;
    setText(this.score, score === null ? this.get("waiting") : `score ${score.toFixed(2)} (before ${this.shown.before.toFixed(2)})${rank}`);
    setText(this.photo.title, `${this.get("photos")[this.shown.index][0]}, painted`);
    setText(this.photo.remark, `${this.shown.strokes} ${this.shown.strokes === 1 ? "stroke" : "strokes"}; ${this.shown.judged}`);
    setText(this.map.title, this.mapName);
    this.ends[1].hidden = !scores.length;
    setText(this.ends[1].lastChild, `level: ${brief(level)}`);
    setText(this.ends[2].lastChild, `≥ ${brief(end)}`);
    this.paintProbe();
  }

  paintProbe() {
    if (!this.shown) return;
    const { size } = this.shown;
    const place = ((this.drawing ? null : this.hovered) ?? this.get("probe")).map((at, axis) => clamp(Math.round(at), 0, size[axis] - 1));
    const { image, number, there, distance } = this.seen.at(place, size);
    const bitmap = this.normals.get(number);
    if (bitmap) this.normal.draw(bitmap);
    this.map.point("hovered", place);
    this.photo.point("hovered", this.hovered || this.drawing ? null : place);
    this.normal.point("hovered", there);
    setText(this.normal.title, `Normal ${image}`);
    setText(this.normal.remark, `explains (${place.join(", ")})`);
    setText(this.words, `pixel (${there.join(", ")}), distance ${distance.toFixed(2)}; ${this.mapName === "Excess" ? "excess" : "map"} ${this.values[place[0] * size[1] + place[1]].toFixed(2)}`);
    this.speak(this.live, `(${place.join(", ")}) → normal ${image}, (${there.join(", ")}), distance ${distance.toFixed(3)}`);
  }

  paintNames() {
    this.name.offer(this.get("photos").map(([name], index) => [index, name]));
    this.name.show(this.get("index"));
  }

  paintKept() {
    const kept = this.get("kept");
    setText(this.kept, kept.length ? `Kept: ${kept.slice(-3).join(", ")}${kept.length > 3 ? ` and ${kept.length - 3} earlier` : ""}` : "");
  }
}

export default Painting.widget;
