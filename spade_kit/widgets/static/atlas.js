// All photos on one map: points to hover, to walk with arrow keys, and to select with a lasso.

import { ARROWS, brief, bytes, el, numbers, picture, setText, svg } from "./dom.js";
import { Choice, button } from "./controls.js";
import { Page } from "./page.js";
import { Strip } from "./strip.js";

const PROJECTIONS = { pca: "PCA", tsne: "t-SNE" };
const COLOURS = { kind: "kind", score: "image score", neighbours: "neighbour count" };
const SHAPES = { o: "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z", s: "M-5-5H5V5H-5Z", D: "M0-6.5L6.5 0L0 6.5L-6.5 0Z", "^": "M0-6L6 5H-6Z", v: "M0 6L6-5H-6Z" };
const PATHS = Object.fromEntries(Object.entries(SHAPES).map(([marker, shape]) => [marker, new Path2D(shape)]));
const [NEAR, EDGE, MOST] = [14, 16, 200]; // px around the pointer and around all points; cards
const [EDGING, RIM] = [2, 4]; // px, in the colour of the kind if the points have other colours; behind it, since some are pale
const [GREY, RING] = ["#808080", "#d55e00"]; // visible in both themes
const rangeOf = (values) => values.reduce(([low, high], value) => [value < low ? value : low, value > high ? value : high], [Infinity, -Infinity]); // without NaN
const group = (count) => count.toLocaleString("en");

class Atlas extends Page {
  constructor(model, root) {
    super(model, root, "hovering, colours and selecting", "Each point is a photo; photos with similar pooled vectors are close together.");
    this.about = this.get("about");
    this.looks = new Map(this.about.kinds.map(([kind, ...look]) => [kind, look]));
    [this.near, this.asked] = [new Map(), new Set()];
    this.point = this.path = null; // under the pointer or the keys; the lasso
    this.build();
    this.listen();
  }

  build() {
    this.projection = new Choice({ name: "projection", help: "t-SNE shows groups, and takes longer", pick: (projection) => this.put({ projection }) });
    this.colour = new Choice({ name: "colour", help: "What the colours stand for", pick: (colour) => this.put({ colour }) });
    this.all = button("show all", "Select nothing (Escape)", () => this.select([]));
    this.progress = el("span", { class: "sk-remark", role: "status" });
    [this.kinds, this.scale, this.chosen] = [{}, {}, { role: "status" }].map((role) => el("div", { class: "sk-kinds", ...role }));
    [this.base, this.over] = [el("canvas", { class: "base", role: "img", "aria-label": "Map of all photos" }), el("canvas", { "aria-hidden": "true" })];
    this.picture = el("img", { class: "sk-thumb", alt: "", hidden: true });
    this.stage = el("div", { class: "sk-stage sk-atlas", tabindex: 0, role: "application", "aria-label": "Map: arrow keys go from point to point, Enter selects, Escape shows all" }, this.base, this.over, this.picture);
    [this.axes, this.lost] = [el("p", { class: "sk-remark" }), el("p", { class: "sk-remark" })];
    this.strip = new Strip("selected photos", (at) => this.go(at));
    this.root.append(
      el("div", { class: "sk-head" }, this.projection.node, this.colour.node, this.all, el("span", { class: "sk-group" }, this.spinner, this.progress)),
      this.problem, this.kinds, this.scale, this.stage, this.axes, this.live, this.chosen, this.strip.node, this.lost,
      el("div", { class: "sk-foot" }, this.saves.page, this.saves.png, this.provenance));
  }

  listen() {
    this.follow({
      "change:places change:values change:told change:projection change:colour change:selection change:selected_normals change:waiting": () =>
        (this.coming ??= queueMicrotask(() => { this.coming = null; this.paint(); }) ?? true),
    });
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.stage);
    const on = {
      pointerdown: (event) => {
        this.path = [[event.offsetX, event.offsetY]];
        this.stage.setPointerCapture(event.pointerId);
      },
      pointermove: ({ offsetX: x, offsetY: y }) => {
        if (!this.path) return this.go(this.find(([a, b]) => Math.hypot(a - x, b - y), NEAR));
        this.path.push([x, y]);
        this.paintOver();
      },
      pointerup: (event) => this.path && this.encircle(event.shiftKey),
      pointercancel: () => (this.path = null),
      pointerleave: () => this.path || this.go(null),
      keydown: (event) => this.key(event),
    };
    for (const [name, act] of Object.entries(on)) this.stage.addEventListener(name, act);
    this.keepKeys(this.stage);
  }

  onMessage(message, buffers) {
    super.onMessage(message, buffers);
    if (message.kind !== "points") return;
    message.points.forEach((at, i) => {
      this.near.set(at, message.near[i]);
      this.strip.picture(at, buffers[i]);
    });
    this.go(this.point);
  }

  setConnected(yes) {
    super.setConnected(yes);
    this.asked.clear();
    this.paint();
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  /** The point whose place has the lowest value, if that is below a limit. */
  find(value, limit) {
    let [best, least] = [null, limit];
    for (const [at, place] of this.places.entries()) if (value(place) < least) [best, least] = [at, value(place)];
    return best;
  }

  key(event) {
    const others = this.selected.filter((at) => at !== this.point);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) this.walk(ARROWS[event.key]);
    else if (event.key === "Escape") this.select([]);
    else if (event.key === "Enter" && this.point !== null) this.select(others.length < this.selected.length ? others : [...others, this.point]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Go to the nearest point in a direction; the first step, to the one nearest the middle. */
  walk([down, right]) {
    const [x, y] = this.places[this.point] ?? [this.W / 2, this.H / 2];
    const to = this.find(([a, b]) => {
      const [along, aside] = [(a - x) * right + (b - y) * down, Math.abs((a - x) * down) + Math.abs((b - y) * right)];
      return this.point === null ? Math.hypot(a - x, b - y) : along > 0 ? along + 2 * aside : Infinity;
    }, Infinity);
    if (to !== null) this.go(to);
  }

  get selected() {
    return [...this.get("selection"), ...this.get("selected_normals").map((at) => at + this.about.tested)];
  }

  select(points) {
    const { tested } = this.about;
    const sorted = [...new Set(points)].sort((a, b) => a - b);
    this.put({ selection: sorted.filter((at) => at < tested), selected_normals: sorted.filter((at) => at >= tested).map((at) => at - tested) });
  }

  /** The lasso is closed around points, or it was a click on one. */
  encircle(more) {
    const path = this.path;
    this.path = null;
    const click = path.every(([x, y]) => Math.hypot(x - path[0][0], y - path[0][1]) < 4);
    const outline = new Path2D(`M${path.map((place) => place.join(" ")).join("L")}Z`);
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    const inside = [...this.places.keys()].filter((at) => (click ? at === this.point : context.isPointInPath(outline, ...this.places[at], "evenodd")));
    this.select([...(more ? this.selected : []), ...inside]);
    this.paintOver();
  }

  /** Show a point with its neighbours, or none. */
  go(at) {
    this.point = at;
    if (at !== null) this.ask([at]);
    const told = at === null ? [] : [`${at < this.about.tested ? "test " : ""}${this.get("photos")[at][0]}`];
    const [score, count] = ["score", "neighbours"].map((name) => this.values[name][at]);
    if (score === score && at !== null) told.push(`score ${score.toFixed(2)}`);
    if (count >= 0) told.push(`neighbour of ${count} test photo${count === 1 ? "" : "s"}`);
    const near = this.near.get(at) ?? [];
    if (at !== null && this.disconnected && !this.near.has(at)) told.push("its picture and neighbours need Python");
    if (near.length) told.push(`its neighbours: normal ${near.slice(0, 8).join(", ")}${near.length > 8 ? ` and ${near.length - 8} more` : ""}`);
    setText(this.live, told.join(", "));
    const [[x, y], url] = [this.places[at] ?? [0, 0], this.strip.cards.get(at)?.url];
    this.picture.hidden = !url;
    if (url) this.picture.src = url;
    this.picture.style.translate = `${x + (x > this.W / 2 ? -96 : 12)}px ${y + (y > this.H / 2 ? -96 : 12)}px`;
    this.paintOver();
  }

  /** Ask for the neighbours and thumbnails of some points. */
  ask(points) {
    const missing = points.filter((at) => !this.asked.has(at));
    for (const at of missing) this.asked.add(at);
    if (missing.length && this.disconnected) this.cut(missing);
    else if (missing.length) this.send({ kind: "points", points: missing });
  }

  /** Without Python, take them from those that were saved: their pictures are the tiles of one. */
  async cut(points) {
    const { points: saved = [], near, side, columns, jpeg } = this.get("pictures");
    const found = points.map((at) => [at, saved.indexOf(at)]).filter(([, i]) => i >= 0);
    for (const [at, i] of found) this.near.set(at, near[i]);
    if (!found.length) return;
    const [sheet, tile] = [await (this.sheet ??= picture(jpeg)), el("canvas", { width: side, height: side })];
    const context = tile.getContext("2d", { willReadFrequently: true });
    for (const [at, i] of found) {
      context.drawImage(sheet, -side * (i % columns), -side * Math.floor(i / columns));
      const encoded = atob(tile.toDataURL("image/jpeg").split(",")[1]); // at once, unlike blobs of canvases
      this.strip.picture(at, Uint8Array.from(encoded, (letter) => letter.charCodeAt(0)));
    }
    this.go(this.point);
  }

  // ---- painting -----------------------------------------------------------------------------------------------------

  resize() {
    [this.W, this.H] = [this.stage.clientWidth, this.stage.clientHeight];
    for (const canvas of [this.base, this.over]) [canvas.width, canvas.height] = [this.W * devicePixelRatio, this.H * devicePixelRatio];
    this.paint();
  }

  paint() {
    if (!this.W) return; // not visible yet
    const [places, projection, colour] = ["places", "projection", "colour"].map(this.get);
    this.shown = projection in places ? projection : "pca";
    this.values = Object.fromEntries(Object.entries(this.get("values")).map(([name, view]) => [name, numbers(view, Float32Array)]));
    this.ends = rangeOf(this.values[colour] ?? []);
    const offer = (names, known) => Object.entries(names).filter(([name]) => !this.disconnected || known(name));
    this.projection.offer(offer(PROJECTIONS, (name) => name in places));
    this.colour.offer(offer(COLOURS, (name) => name === "kind" || rangeOf(this.values[name])[0] < Infinity));
    this.projection.show(projection);
    this.colour.show(colour);
    this.lay(numbers(places[this.shown], Float32Array));
    setText(this.axes, this.get("told").axes[this.shown]);
    const kept = this.get("pictures").points?.length ?? 0, all = this.get("photos").length;
    const few = this.disconnected && kept < all ? `Without Python, ${group(kept)} of ${group(all)} photos have pictures and neighbours here.` : "";
    setText(this.lost, [this.get("told").lost, few].filter(Boolean).join(" "));
    setText(this.progress, this.disconnected ? "" : this.get("waiting"));
    this.awaitAnswer(false);
    this.root.classList.toggle("busy", Boolean(this.progress.textContent));
    this.paintLegend();
    this.paintPoints();
    this.paintSelection();
    this.go(this.point);
    this.root.dataset.shown = this.shown;
  }

  /** The places on the screen, NaN where unknown; both axes have the same scale. */
  lay(flat) {
    const axes = [0, 1].map((axis) => flat.filter((value, i) => i % 2 === axis));
    const ends = axes.map(rangeOf);
    const scale = Math.min(...ends.map(([low, high], axis) => ([this.W, this.H][axis] - 2 * EDGE) / (high - low || 1)));
    const [x, y] = ends.map(([low, high]) => (low + high) / 2);
    this.places = Array.from(axes[0], (value, at) => [this.W / 2 + scale * (value - x), this.H / 2 - scale * (axes[1][at] - y)]);
  }

  colourOf(value) {
    const [low, high] = this.ends;
    const step = 3 * Math.round((255 * (value - low)) / (high - low || 1));
    return Number.isNaN(value) ? GREY : `rgb(${bytes(this.about.colours).slice(step, step + 3)})`;
  }

  clear(canvas) {
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.W, this.H);
    return context;
  }

  /** Test photos on top of normal ones; those that are not selected are faint. */
  paintPoints() {
    const [context, values, picked, photos] = [this.clear(this.base), this.values[this.get("colour")], new Set(this.selected), this.get("photos")];
    for (const [at, [x, y]] of [...this.places.entries()].reverse()) {
      if (Number.isNaN(x)) continue;
      const [colour, marker] = this.looks.get(photos[at][1]);
      context.fillStyle = values ? this.colourOf(values[at]) : colour;
      context.globalAlpha = !picked.size || picked.has(at) ? 1 : 0.3;
      context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, devicePixelRatio * x, devicePixelRatio * y);
      const stroke = (lineWidth, strokeStyle) => Object.assign(context, { lineWidth, strokeStyle }).stroke(PATHS[marker]);
      if (values) stroke(RIM, GREY);
      context.fill(PATHS[marker]);
      stroke(EDGING, values ? colour : GREY);
    }
    context.globalAlpha = 1;
  }

  /** The lines to the neighbours, a ring around the point, and the lasso. */
  paintOver() {
    const [context, here] = [this.clear(this.over), this.places[this.point]];
    [context.strokeStyle, context.fillStyle] = [RING, "#80808040"];
    const draw = (width, trace) => {
      context.lineWidth = width;
      context.beginPath();
      trace();
      context.stroke();
    };
    if (here) draw(1, () => (this.near.get(this.point) ?? []).forEach((near) => [here, this.places[near + this.about.tested]].forEach((place, end) => context[end ? "lineTo" : "moveTo"](...place))));
    if (here) draw(3, () => context.arc(...here, 9, 0, 7));
    if (this.path) draw(2, () => this.path.forEach((place) => context.lineTo(...place)));
    if (this.path) context.fill("evenodd");
  }

  paintLegend() {
    const [colour, photos, [low, high]] = [this.get("colour"), this.get("photos"), this.ends];
    const sign = (kind, marker) => {
      const [fill, edges] = colour === "kind" ? [kind, [[EDGING, GREY]]] : ["none", [[RIM, GREY], [EDGING, kind]]];
      return svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, ...edges.map(([width, stroke]) => svg("path", { d: SHAPES[marker], fill, stroke, "stroke-width": width })));
    };
    this.kinds.replaceChildren(...this.about.kinds.map(([kind, fill, marker]) =>
      el("span", {}, sign(fill, marker), `${kind} (${group(photos.filter(([, other]) => other === kind).length)})`)));
    const steps = Array.from({ length: 9 }, (_, i) => this.colourOf(low + (i / 8) * (high - low)));
    this.scale.replaceChildren(...(low <= high ? [`${COLOURS[colour]}: ${brief(low)}`, el("span", { class: "bar", style: `background: linear-gradient(to right, ${steps})` }), brief(high)] : []));
  }

  /** What is selected, as cards with names. */
  paintSelection() {
    const [points, photos, tests] = [this.selected, this.get("photos"), this.get("selection").length];
    setText(this.chosen, points.length ? `${group(tests)} test and ${group(points.length - tests)} normal photos selected${points.length > MOST ? `; the first ${MOST}:` : ""}` : "Draw around points, or click on one, to select photos; hold Shift to add more.");
    this.all.disabled = !points.length;
    this.rescueKeys();
    this.strip.show(points.slice(0, MOST).map((at) => {
      const [score, [name, kind]] = [this.values.score[at], photos[at]];
      return { key: at, top: name.split(/[/ ]/).at(-1), kind, bottom: Number.isNaN(score) ? "" : brief(score), name };
    }), this.point);
    this.ask(points.slice(0, MOST));
  }

  close() {
    super.close();
    this.watch.disconnect();
  }
}

export default Atlas.widget;
