// The explorer's page: all state lives in the model, and every change of it triggers a repaint.

import { brief, bytes, clamp, el, numbers, setText, svg } from "./dom.js";
import { Matches, cellOf, colourStrip, contour, decodeAlone, decodeLevel, degrees, inside, meanOfTop, middleOf, paintMap, roiOf, unpack } from "./maps.js";
import { Pane, Patch } from "./pane.js";
import { Choice, NumberField, Slider, button } from "./controls.js";
import { Beside } from "./beside.js";
import { MapPage } from "./map_page.js";
import { NearPlaces } from "./near_places.js";
import { Polygon } from "./polygon.js";
import { Readout, tellAngle } from "./readout.js";
import { Regions, findRegions } from "./regions.js";
import { Retrieved } from "./retrieved.js";
import { Strip } from "./strip.js";
import { Weights } from "./weights.js";

const OPTIONS = ["kappa", "radius", "weights", "combine", "without", "only"];
const SORTED_AFTER = 300; // ms
const PART = 500000; // bytes of an upload in one message
const SHAPES = ["M-7 0A7 7 0 1 0 7 0A7 7 0 1 0-7 0Z", "M-6-6H6V6H-6Z", "M0-9L9 0L0 9L-9 0Z", "M0-9L8 6H-8Z", "M0 9L8-6H-8Z", "M0-10L2.4-3.2L9.5-3.1L3.8 1.2L5.9 8.1L0 4L-5.9 8.1L-3.8 1.2L-9.5-3.1L-2.4-3.2Z"]; // one per layer, distinguishable without colour
const MARKS = { found: "detected", truth: "ground truth", numbers: "regions", border: "roi" };
const EXCESS = "What normal photos reach at this place is taken off";
const RATIO = "How ambiguous each match is: the distance to the best place of its normal photo, over that to the best distant place";
const SIGNS = ["○", "□", "◇", "△", "▽", "☆"]; // the same shapes as text
const ANGLE = "angle between the vectors of the two pixels at a layer, whose own squared distance is 2 - 2 cos of it";
const HELP = [
  ["K", "number of nearest normal photos to compare with"],
  ["kappa", "number of nearest pixels to average"],
  ["radius", "largest distance of a match from the pixel's own position"],
  ["sigma", "smoothing of the map; distances of single pixels stay unsmoothed"],
  ["excess", "the map less what normal photos reach at each place"],
  ["ratio", "the distance to the best place of the normal photo that explains a pixel, over that to the best distant place there: near 0 the match is unique, at 1 another place is as near"],
  ["← ↑ → ↓", "move the probe by one cell (Shift: four), or a second probe if it is pinned; click a picture first, or Tab to the photo"],
  ["Enter", "pin the probe"],
  ["+  -  0", "enlarge all pictures around the probe, reduce them, show them whole; also Ctrl and the wheel, or a pinch; drag to move them; a double click shows them whole"],
  ["Esc", "close this help; unpin the probe; deselect a neighbour; compare with all again"],
  ["[  ]", "previous, next photo"],
  ["B", "keep this photo beside the next ones, or none: both are pointed at in the same place; in the strip, that photo"],
  ["H", "hold it to see the bare pictures, without marks and overlay; a click on the legend switches one kind of mark"],
  ["?", "this help"],
];

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** At most four pictures in a row, rows of equal length where possible. */
const columnsFor = (count) => Math.ceil(count / Math.ceil(count / 4));

class Explorer extends MapPage {
  constructor(model, root) {
    super(model, root, "hover, zoom, K, sigma, threshold and overlay", "A photo, its anomaly map, and for each pixel the normal pixel that explains it.");
    this.asking = false; // for requests that do not change options: an upload, a correction
    this.labels = this.about.labels;
    this.weights = new Weights(this.about.layers, {
      read: () => this.get("weights"),
      equal: () => this.shown.matches.factors,
      write: (weights) => this.put({ weights }),
    });
    this.retrieved = new Retrieved({
      put: (changes) => this.put(changes),
      changed: () => {
        this.paintNeighbours();
        this.paintProbe();
      },
      correct: (message) => this.correct(message),
    });
    this.build();
    this.listen();
    this.answer();
  }

  // ---- layout -------------------------------------------------------------------------------------------------------

  build() {
    const { masks, unit } = this.about;
    const pointed = { hover: (...place) => this.hover(place), leave: () => this.leave(), pin: (...place) => this.pin(place) };
    const drawn = {
      press: (row, col) => this.polygon.press([row, col]),
      pin: (row, col) => (this.polygon.corners ? this.polygon.click([row, col]) : this.pin([row, col])),
    };
    this.photo = new Pane("Photo", { ...pointed, ...drawn, key: (event) => this.key(event), letGo: () => this.retrieved.choose(null) });
    this.polygon = new Polygon(this.photo, { put: (roi) => this.put({ roi_size: roi && this.shown.photo.crop.photo, roi }), copy: (pressed, text) => this.copyText(pressed, text) });
    this.map = new Pane("Anomaly map", { ...pointed, letGo: () => this.put({ only: null, without: [] }) });
    this.map.chip.classList.add("python");
    this.maps = [["map", "The distances themselves"], ["excess", EXCESS], ["ratio", RATIO]].map(([name, help]) => button(name, help, () => this.look(name)));
    this.map.title.after(el("span", { class: "sk-group sk-judged", role: "group", "aria-label": "shown map" }, ...this.maps));
    this.normal = new Pane("Normal photo that explains the probe");
    this.near = new NearPlaces(this.normal, colourStrip(this.table), {
      ask: ([row, col], image) => this.send({ kind: "distances", row, col, image }),
      changed: () => this.paintProbe(),
      paint: (canvas, grid, end) => paintMap(canvas, this.upsample(grid, this.matches.h, this.matches.w, 0), this.table, end),
    });
    this.own = this.labels.map((name, l) => {
      const mark = svg("g", { class: `sk-own own${(l + Math.floor(l / 6)) % 6}`, visibility: "hidden" }, ...["halo", "ink"].map((c) => svg("path", { class: c, d: SHAPES[l % 6] })));
      this.normal.marks.append(mark);
      return mark;
    });
    this.layers = this.labels.map((name, l) => {
      const pane = new Pane(`Contribution of ${name}`, pointed);
      const weight = new Slider({
        name: "weight", help: `Weight of the squared distance of ${name}`, min: 0, max: 3, step: 0.05,
        format: (value) => `× ${value.toFixed(2)}`, move: (value) => this.weights.weigh(l, value),
      });
      const solo = button("solo", `Use only ${name}`, () => this.weights.solo(l), { class: "python", "aria-label": `solo ${name}` });
      const mute = button("mute", `Ignore ${name}`, () => this.weights.mute(l), { class: "python", "aria-label": `mute ${name}` });
      weight.input.classList.add("python");
      weight.input.setAttribute("aria-label", `weight of ${name}`);
      pane.figure.append(el("div", { class: "sk-weigh" }, weight.node, solo, mute));
      return { name, pane, weight, solo, mute };
    });

    this.second = new Beside(this);
    this.letLook([this.photo, this.map, this.normal, ...this.second.panes, ...this.layers.map(({ pane }) => pane)]);

    // choosing a photo
    this.name = new Choice({ name: "photo", help: "Select a photo", plain: true, pick: (index) => this.put({ index: +index }) });
    this.beside = new Choice({ name: "beside", help: "Show a second photo on the same scale, pointed at in the same place  B; or Shift and a click on a photo below", pick: (index) => this.put({ beside: index === "" ? null : +index }) });
    this.filter = new Choice({ name: "show", help: "Filter the strip; anomalous photos (▲), misses and false alarms are those of the image threshold", pick: () => this.paintPhotos() });
    this.order = new Choice({ name: "order", help: "Sort the strip", pick: () => this.paintPhotos() });
    this.order.offer([["listed", "as listed"], ["score", "highest score first"]]);
    this.file = el("input", { type: "file", accept: "image/*", hidden: true, "aria-label": "photo from disk", onchange: () => this.upload(this.file.files[0]) });
    this.judge = button("this is normal", "", () => this.correct(this.shown.photo.normal === null ? { kind: "add" } : { kind: "remove", image: this.shown.photo.normal }), { class: "python" });
    this.scoring = new Choice({ name: "image score", help: "How a photo is scored", plain: true, pick: (score) => this.put({ score }) });
    this.scoring.select.classList.add("python");
    this.score = el("span", { class: "sk-score", role: "status" });
    this.imageRule = new Choice({ name: "image threshold", help: "How the threshold for scores of whole photos is set: the list and its filters follow it", pick: (value) => this.put({ image_threshold_rule: value }) });
    this.imageRule.select.classList.add("python");
    this.imageRule.select.setAttribute("aria-label", "image threshold rule");
    this.imageThreshold = new NumberField("image threshold", "Threshold for scores of whole photos", (value) => this.put({ image_threshold: value, image_threshold_rule: "hand" }));
    this.verdict = el("span", { class: "sk-verdict" });
    this.progress = el("span", { class: "sk-progress" });
    this.compacting = button("compact", "One row of controls above the pictures; layers, regions and retrieved photos folded", () => this.put({ compact: !this.get("compact") }));
    this.filling = button("full screen", "Fill the screen; Esc leaves", () => (document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen()), { class: "sk-filling" });
    this.filling.hidden = !document.fullscreenEnabled;
    const opener = button("open a photo", "Open your own photo, or drop it here", () => this.file.click(), { class: "python" });
    this.head = el("div", { class: "sk-head" },
      el("span", { class: "sk-group" },
        button("‹", "Previous photo  [", () => this.step(-1), { "aria-label": "previous photo" }),
        this.name.node,
        button("›", "Next photo  ]", () => this.step(1), { "aria-label": "next photo" })),
      this.beside.node, this.filter.node, this.order.node,
      opener, this.file, this.judge, this.compacting, this.filling,
      this.spinner, el("span", { class: "sk-scored" }, this.scoring.node, this.score),
      el("span", { class: "sk-scored" }, this.imageRule.node, this.imageThreshold.input, this.verdict), this.progress);
    this.strip = new Strip("photos", (index, { shiftKey }) => this.put(shiftKey ? { beside: index } : { index }));

    // parameters
    const slider = (name, key, help, about) => new Slider({ name, help, ...about, move: (value) => this.put({ [key]: about.read ? about.read(value) : value }) });
    this.sliders = {
      k: slider("K", "k", "Number of nearest normal photos to compare with", { min: 1, max: 1, typed: 1, format: (value) => `${value} of ${this.get("gallery").normals}` }),
      kappa: slider("kappa", "kappa", "Number of nearest pixels to average", { min: 1, max: 10, typed: 1 }),
      radius: slider("radius", "radius", "Largest distance of a match from the pixel's own position, in cells of the finest grid", {
        min: 0, max: 56, typed: 1, format: (value) => (value >= this.everywhere ? "all" : `${value}`), read: (value) => (value >= this.everywhere ? null : value),
      }),
      sigma: slider("sigma", "sigma", "Smoothing of the map, in pixels", { min: 0, max: 16, step: 0.5, typed: "any" }),
      opacity: slider("overlay", "opacity", "Opacity of the map over the photo", { min: 0, max: 1, step: 0.05, format: (value) => `${Math.round(100 * value)} %` }),
    };
    for (const { input, field } of [this.sliders.kappa, this.sliders.radius]) for (const control of [input, field.input]) control.classList.add("python");
    this.weighing = new Choice({ name: "weights", help: "Weights of the layers' squared distances", pick: (value) => this.put({ weights: value === "equal" ? "equal" : null }) });
    this.weighing.offer([["none", "unweighted"], ["equal", "equal"], ["hand", "custom"]]);
    this.combining = new Choice({ name: "matching", help: "One match for all layers together, or one per layer with the distances averaged", pick: (value) => this.put({ combine: value }) });
    this.combining.offer([["concat", "all layers together"], ["ensemble", "per layer, averaged"]]);
    this.rule = new Choice({ name: "pixel threshold", help: "How the threshold for pixels is set, which outlines and regions follow; it is updated when options change", pick: (value) => this.put({ threshold_rule: value }) });
    this.rule.select.setAttribute("aria-label", "threshold rule");
    this.typed = new NumberField("pixel threshold", "Pixel threshold (raw distance)", (value) => this.put({ threshold: value, threshold_rule: "hand" }));
    this.rule.node.append(this.typed.input);
    for (const choice of [this.weighing, this.combining, this.rule]) choice.select.classList.add("python");
    this.controls = el("div", { class: "sk-controls" },
      ...Object.values(this.sliders).map((one) => one.node), this.rule.node,
      button("reset", "Reset all options to their initial values", () => this.reset(), { class: "reset python" }));

    // colour scale with the threshold slider
    this.threshold = el("input", { type: "range", min: 0, step: "any", "aria-label": "threshold", title: "Pixel threshold (raw distance)",
      oninput: () => this.put({ threshold: +this.threshold.value, threshold_rule: "hand" }) });
    this.level = el("span", { class: "level" }, el("span", {}));
    this.ends = [el("span", {}, "0"), el("span", {})];
    this.levelText = el("span");
    this.level.firstChild.append(el("span", { class: "wide" }, "reference "), this.levelText);
    this.bar = el("div", { class: "sk-bar" }, el("div", { class: "scale" }, colourStrip(this.table), this.level, this.threshold), el("div", { class: "ends" }, ...this.ends));
    this.map.figure.append(this.bar);
    this.unpin = button("×", "Unpin  Esc", () => this.put({ pinned: false }), { class: "sk-chip", "aria-label": "unpin" });
    this.photo.figure.append(this.makeLegend(MARKS, el("span", { class: "pointed" }, "hover"), el("span", { class: "pin" }, "pinned ", this.unpin)));
    this.regions = new Regions((place) => {
      this.hovered = null;
      this.put({ probe: place, pinned: true });
    });

    // the explanation of the probe
    this.patches = [new Patch("Close-up of the probe"), new Patch("Close-up of the match")];
    this.patchNames = [el("span"), el("span")];
    const close = el("div", { class: "sk-patches" }, ...this.patches.map((patch, i) => el("figure", {}, patch.canvas, el("figcaption", {}, this.patchNames[i]))));
    this.readout = new Readout();
    this.readout.node.classList.toggle("angles", unit);
    this.alone = ["shares", "each alone"].map((text, i) =>
      button(text, ["Each layer's share of the map", "Map of each layer searched alone"][i], () => this.put({ alone: i === 1 })));
    const switcher = el("div", { class: "sk-group", role: "group", "aria-label": "layer display" }, ...this.alone);
    this.marking = el("input", { type: "checkbox", checked: true, onchange: () => this.paintMaps() });
    this.marks = el("label", { hidden: true, title: "Shade cells where the layer alone matches a different normal pixel than all layers together" }, this.marking, " shade disagreements");
    this.layersRemark = el("span", { class: "sk-remark", role: "status" });

    // export, help and corrections
    this.copy = button("copy as Python", "Copy Python code that reproduces this view", () => this.copyText(this.copy, this.get("as_python")));
    this.makeHelp(el("p", {}, "Point at the photo, the map or a layer: rings mark the pixel and the normal pixel that explains it. Click to pin the pixel and compare it with others; click it again to unpin it. Click a row of the table below the map to go to that region. Click a retrieved normal photo to see which part of the map it explains."),
      el("dl", {}, ...[...HELP, ...(unit ? [["°", ANGLE]] : [])].flatMap(([keys, text]) => [el("dt", {}, keys), el("dd", {}, text)])));
    this.corrected = el("span", { class: "sk-remark", role: "status" });
    this.undoing = button("undo", "Undo the last correction", () => this.correct({ kind: "undo" }), { class: "python" });
    this.correcting = el("span", { class: "sk-corrected", hidden: true }, this.corrected, this.undoing);
    this.source = el("span", { class: "sk-source" });

    this.asker = button("ask the normal photos", "Compute how much place explains of the normal photos, under these options", () => this.send({ kind: "ask" }), { class: "python" });
    this.placed = el("span", { class: "sk-remark", role: "status" });
    this.place = el("div", { class: "sk-row sk-place" }, el("span", { class: "sk-heading" }, "Place"), this.asker, this.placed);
    this.retrieved.head.append(this.correcting);
    this.root.append(this.head, this.problem, this.strip.node, this.controls,
      el("div", { class: "sk-views sk-stay" }, this.photo.figure, this.map.figure, this.normal.figure),
      el("div", { class: "sk-places" }, this.polygon.node, this.regions.node),
      el("div", { class: "sk-row" }, el("span", { class: "sk-heading" }, "Layers"), switcher, this.combining.node, this.weighing.node, this.marks, this.layersRemark),
      el("div", { class: "sk-below" }, el("div", { class: "sk-layers", style: `--columns: ${columnsFor(this.layers.length)}` }, ...this.layers.map((layer) => layer.pane.figure)), el("div", { class: "sk-why" }, close, this.readout.node)),
      this.retrieved.head, this.retrieved.strip.node, this.place,
      el("div", { class: "sk-foot" }, this.copy, this.saves.page, this.saves.png, this.helper, this.source), this.text, this.help);
    this.rule.masks = masks;
    const folded = [this.beside.node, this.filter.node, this.order.node, opener, this.judge, this.rule.node, ...this.root.querySelectorAll(".reset, .sk-views ~ :not(.sk-foot, .sk-help, .sk-code)")];
    for (const node of folded) node.classList.add("folds");
  }

  listen() {
    this.follow({
      "change:matches change:photo change:gallery": () => {
        this.onAnswer();
        this.coming ??= queueMicrotask(() => this.answer()) ?? true; // wait for the whole message
      },
      "change:other": () => this.shown && this.second.answer(this.get("other")),
      "change:waiting": () => this.paintWaiting(),
      "change:k change:sigma change:judged change:score change:layers_alone change:alone change:ratio change:ratios change:normals change:layer_levels": () => this.paintMaps(),
      "change:place_level": () => this.get("matches") === this.shown?.matches && this.paintMaps(), // else they come together
      "change:threshold change:threshold_rule": () => this.paintThreshold(),
      "change:image_threshold change:image_threshold_rule": () => this.shown && [this.paintScore(), this.paintPhotos()], // the list follows it
      "change:opacity": () => this.paintOpacity(),
      "change:compact": () => this.paintCompact(),
      "change:placed change:normals": () => this.paintPlace(),
      "change:probe change:pinned": () => this.paintProbe(),
      "change:roi": () => this.paintPolygon(),
      "change:photos change:selection": () => this.paintPhotos(),
      "change:scores": () => this.paintScores(),
      [["index", "beside", ...OPTIONS].map((name) => `change:${name}`).join(" ")]: () => this.paintOptions(),
    });
    this.root.addEventListener("keydown", (event) => this.keyAnywhere(event));
    this.keepKeys(this.photo.stage);
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.upload(event.dataTransfer.files[0]);
    });
  }

  close() {
    super.close();
    clearTimeout(this.sorting);
    for (const part of [this.strip, this.retrieved, this.readout]) part.close();
  }

  // ---- messages from Python -----------------------------------------------------------------------------------------

  /** Show a new photo with its matches; the old view stays until both can be drawn. */
  async answer() {
    this.coming = null;
    const [photo, matches] = [this.get("photo"), this.get("matches")];
    if (!matches.grid || photo.index !== matches.index) return;
    if (!(await this.fetchPicture(photo, matches))) return;
    if (matches !== this.shown?.matches) this.matches = new Matches(matches);
    const [neighbours, gallery] = [this.get("neighbours"), this.get("gallery")];
    if (this.shown && gallery !== this.shown.gallery) {
      this.normals.forget(); // the numbers refer to other photos now
      this.retrieved.forget();
    }
    if (neighbours !== this.shown?.neighbours || gallery !== this.shown.gallery) {
      this.offer();
      this.retrieved.offer(neighbours.images, neighbours.jpegs, this.get("without"));
    }
    if (photo !== this.shown?.photo) this.retrieved.chosen = null;
    this.asking = false;
    this.shown = { photo, matches, neighbours, gallery };
    const [H, W] = (this.size = photo.size);
    for (const pane of [this.photo, this.map, this.normal, ...this.layers.map((layer) => layer.pane)]) pane.resize(H, W);
    this.root.classList.toggle("tall", H > W);
    this.photo.draw(this.bitmap);
    const truth = photo.mask ? contour(unpack(bytes(photo.mask), H * W), H, W, 0.5) : "";
    for (const pane of [this.photo, this.map]) pane.outline("truth", truth);
    this.legend.truth.hidden = !photo.mask;
    this.roi = roiOf(photo);
    const border = this.roi ? `M-9-9H${W + 9}V${H + 9}H-9Z${contour(this.roi, H, W, 0.5)}` : "";
    for (const pane of [this.photo, this.map]) pane.outline("border", border);
    this.legend.border.hidden = !border;
    this.paintPolygon();
    this.paintMaps();
    this.paintOptions();
    this.paintOpacity();
    this.paintCompact();
    this.paintGallery();
    this.paintWaiting();
    if (this.second.latest !== this.get("other")) this.second.answer(this.get("other"));
    this.root.dataset.shown = `${photo.index}`;
  }

  onMessage(message, buffers) {
    super.onMessage(message, buffers);
    if (message.kind === "distances") this.near.receive({ row: message.row, col: message.col, image: message.image }, numbers(buffers[0], Float32Array));
    if (message.kind === "thumbs") this.paintPhotos();
  }

  setConnected(yes) {
    super.setConnected(yes);
    if (this.shown) this.paintPhotos();
  }

  showProblem(text) {
    super.showProblem(text);
    this.asking = false;
    this.paintBusy();
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  /** Show the map, its excess or the ratio of distances; the first two are also judged. */
  look(name) {
    if (this.get("ratio") !== (name === "ratio")) this.put({ ratio: name === "ratio" });
    if (name !== "ratio") this.judgeBy(name);
  }

  /** Show and judge the map or its excess. A saved page keeps the threshold of each; otherwise Python sets it. */
  judgeBy(judged) {
    const [now, saved] = [this.judged(), this.model.saved];
    if (judged === now) return;
    const [threshold, threshold_rule] = [this.get("threshold"), this.get("threshold_rule")];
    this.left = { ...this.left, [now]: { threshold, threshold_rule } };
    const there = (saved && this.left[judged]) || this.reference(judged);
    const rule = (saved || threshold_rule === "hand") && there.threshold_rule;
    this.put({ judged, ...("threshold" in there ? { threshold: there.threshold } : {}), ...(rule ? { threshold_rule: rule } : {}) });
  }

  reset() {
    this.retrieved.choose(null);
    this.put({ ...this.about.start });
  }

  step(by) {
    const indexes = this.listed().map((card) => card.key);
    const at = indexes.indexOf(this.get("index"));
    const to = indexes[at < 0 ? 0 : clamp(at + by, 0, indexes.length - 1)];
    if (to !== undefined && (!this.disconnected || this.model.saved)) this.put({ index: to });
  }

  key(event) {
    if (this.polygon.key(event.key, this.hovered ?? this.get("probe"))) return event.preventDefault();
    const pinned = this.get("pinned");
    const steps = this.shown && ["h", "w"].map((side, axis) => ((event.shiftKey ? 4 : 1) * this.shown.photo.size[axis]) / this.matches[side]);
    const place = this.byArrow(event.key, (pinned && this.hovered) || this.get("probe"), steps);
    if (place) {
      this.hovered = pinned ? place : null; // a second probe next to the pinned one
      if (pinned) this.paintProbe();
      else this.put({ probe: place });
    } else if (event.key === "Enter" || event.key === " ") this.put({ probe: this.hovered ?? this.get("probe"), pinned: true });
    else return;
    event.preventDefault();
  }

  keyAnywhere(event) {
    const typing = event.target.matches("textarea, input:not([type=range]), select");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    if (event.key === "[") this.step(-1);
    else if (event.key === "]") this.step(1);
    else if (event.key === "?") this.toggleHelp();
    else if (event.key.toLowerCase() === "b") this.toggleBeside(event.target.closest(".sk-card")?.dataset.key);
    else if (event.key === "Escape") {
      if (!this.help.hidden) this.toggleHelp();
      else if (this.polygon.corners) this.polygon.stop();
      else if (this.get("pinned")) this.put({ pinned: false });
      else if (this.retrieved.chosen !== null) this.retrieved.choose(null);
      else if (this.get("only") !== null && !this.disconnected) this.put({ only: null });
    } else if (!this.lookCloser(event.key, this.hovered ?? this.get("probe"))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Keep a photo of the strip, or the current one, beside those to come, or none. */
  toggleBeside(key = this.get("index")) {
    if (!this.disconnected || this.model.saved) this.put({ beside: this.get("beside") === null ? +key : null });
  }

  upload(file) {
    if (!file || this.disconnected) return;
    this.showProblem("");
    this.ask();
    const parts = Math.max(1, Math.ceil(file.size / PART));
    file.arrayBuffer().then((content) => {
      for (let part = 0; part < parts; part++)
        this.send({ kind: "upload", name: file.name, part, parts }, [content.slice(part * PART, (part + 1) * PART)]);
      this.file.value = "";
    });
  }

  /** Wait for a reply to a request that changes no option. */
  ask() {
    this.asking = true;
    this.paintBusy();
  }

  correct(message) {
    if (this.disconnected) return;
    this.showProblem("");
    this.ask();
    this.send(message);
  }

  // ---- painting -----------------------------------------------------------------------------------------------------

  /** Compute maps from matches, for the current K, sigma and scale. */
  paintMaps() {
    if (!this.shown) return;
    const { h, w, least, most } = this.matches;
    const [H, W] = this.shown.photo.size;
    const sigma = this.get("sigma");
    this.k = clamp(this.get("k"), least, most);
    this.steps = this.matches.at(this.k);
    this.raw = this.upsample(this.matches.grid(this.steps), h, w, sigma);
    this.taken = this.takenNow();
    this.excess = this.taken && this.raw.map((value, i) => value - this.taken.values[i]);
    this.values = (this.judged() === "excess" && this.excess) || this.raw;
    const highest = (map) => map.reduce((most, value) => Math.max(most, value), 0);
    const score = this.get("score");
    this.imageScore = score === "max" ? highest(inside(this.raw, this.roi)) : score === "excess" && this.comparable() ? this.excess && meanOfTop(inside(this.excess, this.roi)) : meanOfTop(inside(this.raw, this.roi));
    const whole = this.endOf(this.raw, this.reference("map").level);
    this.end = this.values === this.raw ? whole : this.endOf(this.values, this.reference().level);
    this.ratios = this.ratiosNow();
    if (this.ratios) paintMap(this.map.canvas, this.upsample(this.ratios, h, w, 0), this.table, 1);
    else paintMap(this.map.canvas, this.values, this.table, this.end);
    this.photo.over.getContext("2d").drawImage(this.map.canvas, 0, 0);
    const alone = this.aloneNow();
    const ends = this.layerEnds(alone) ?? this.layers.map(() => (alone ? whole : whole / 2)); // shares add up to the map, so each is small
    this.layers.forEach(({ name, pane }, l) => {
      const found = alone?.[l];
      const map = found ? this.upsample(found.distance, ...found.grid, sigma) : this.upsample(this.matches.grid(this.steps, l), h, w, sigma);
      paintMap(pane.canvas, map, this.table, ends[l]);
      this.veil(pane, found && this.marking.checked ? found.agrees : null, "disagree");
      setText(pane.title, found ? `${name} alone` : `${name} share`);
      pane.canvas.setAttribute("aria-label", found ? `Map of ${name} searched alone` : `Contribution of ${name} to the map`);
      if (found) {
        const agreeing = found.agrees.reduce((a, b) => a + b, 0) / (h * w);
        setText(pane.remark, `${SIGNS[l % 6]} ${Math.round(100 * agreeing)} % agree`);
      }
    });
    this.alone.forEach((one, i) => one.setAttribute("aria-pressed", this.get("alone") === (i === 1)));
    this.marks.hidden = !alone;
    setText(this.layersRemark, this.get("alone") && !alone ? `searching each of ${this.layers.length} layers` : same(ends, ends.map(() => ends[0])) ? `colour scale 0 to ${brief(ends[0])}` : `each layer's own colour scale, 0 to twice its reference level: ${ends.map(brief).join(", ")}`);
    const others = this.get("gallery").normals - (this.shown.photo.normal === null ? 0 : 1);
    this.sliders.k.show(this.k, this.model.saved ? most : others); // a saved page only has the neighbours stored in it
    this.sliders.sigma.show(sigma, 16);
    this.paintThreshold();
    this.paintNeighbours();
    this.paintProbe();
    this.paintBusy();
  }

  upsample(grid, h, w, sigma) {
    return this.upsampler.map(grid, [h, w], this.shown.photo.size, sigma);
  }

  /** The end of each layer's colours: twice its own reference level, if that is known under these options; K and sigma hardly change it. */
  layerEnds(alone) {
    const { levels, ...of } = this.get("layer_levels");
    const { options } = this.shown.matches;
    const known = levels && of.alone === Boolean(alone) && ["kappa", "radius", "weights", "combine"].every((name) => same(of[name], options[name]));
    return known && levels.every((level) => level > 0) ? levels.map((level) => this.about.scale * level) : null;
  }

  /** Whether normal photos differ, so that each can be judged against the others. */
  comparable() {
    return "stale" in this.get("normals");
  }

  /** Which map is judged. */
  judged() {
    return this.comparable() ? this.get("judged") : "map";
  }

  /** The reference level and the rates of normal pixels for a map, as far as they are known. */
  reference(judged = this.judged()) {
    const normals = this.get("normals");
    return normals.judged === judged ? normals : normals.other ?? {};
  }

  /** What is taken off the map for its excess; ``stale`` under another K or sigma, null until it is known. */
  takenNow() {
    const pack = this.get("place_level");
    const { index, options } = this.shown.matches;
    if (pack.index !== index || !same(pack.options, options)) return null;
    if (this.unpacked?.pack !== pack) this.unpacked = { pack, values: decodeLevel(pack) };
    return { values: this.unpacked.values, stale: pack.k !== this.get("k") || pack.sigma !== this.get("sigma") };
  }

  /** Whether a reply belongs to the current view. */
  current(reply) {
    const { index, options } = this.shown.matches;
    return reply.index === index && reply.k === this.get("k") && same(reply.options, options);
  }

  /** The ratio of distances of each cell, if it is shown and known. */
  ratiosNow() {
    const pack = this.get("ratios");
    return this.get("ratio") && this.current(pack) ? numbers(pack.distance, Float32Array) : null;
  }

  /** The matches of each layer alone, if they belong to the current view. */
  aloneNow() {
    const alone = this.get("layers_alone");
    if (!this.get("alone") || !this.current(alone)) return null;
    if (this.decoded?.alone !== alone) this.decoded = { alone, layers: this.about.layers.map((name) => decodeAlone(alone.layers[name])) };
    return this.decoded.layers;
  }

  /** Darken the cells of a pane with value 0 in a list. */
  veil(pane, shown, kind) {
    const context = pane.veil.getContext("2d");
    context.clearRect(0, 0, pane.W, pane.H);
    pane.veil.dataset.kind = shown ? kind : "";
    if (!shown) return;
    const { h, w } = this.matches;
    context.fillStyle = "#000";
    for (let i = 0; i < h * w; i++)
      if (!shown[i]) context.fillRect(((i % w) * pane.W) / w, (Math.floor(i / w) * pane.H) / h, pane.W / w, pane.H / h);
  }

  paintThreshold() {
    if (!this.shown) return;
    const [threshold, normals, { level }] = [this.get("threshold"), this.get("normals"), this.reference()];
    const excess = this.values !== this.raw;
    const stale = Boolean(normals.stale || (excess && this.taken.stale));
    const [H, W] = this.shown.photo.size;
    const why = this.unjudged();
    const judged = !why;
    const path = judged ? contour(this.values, H, W, threshold, this.roi) : "";
    const within = this.roi ? this.values.map((value, i) => (this.roi[i] ? value : NaN)) : this.values;
    this.regions.show(judged ? findRegions(within, H, W, threshold) : null, this.shown.photo.crop, (place) => this.see(place));
    for (const pane of [this.photo, this.map]) {
      pane.outline("found", path);
      pane.number(this.regions.listed.map(({ label }) => label));
    }
    const judging = inside(this.values, this.roi);
    const marked = judging.reduce((count, value) => count + (value >= threshold), 0) / judging.length;
    this.threshold.max = this.end;
    this.threshold.value = Math.min(threshold, this.end);
    this.threshold.setAttribute("aria-valuetext", threshold.toFixed(2));
    this.typed.show(threshold.toFixed(2));
    const ratio = Boolean(this.ratios);
    [ratio ? "0: no other place" : "0", ratio ? "1: others as near" : `≥ ${brief(this.end)}`].forEach((text, i) => setText(this.ends[i], text));
    this.threshold.hidden = ratio;
    this.level.hidden = ratio || !(level > 0);
    if (level > 0) {
      this.level.style.left = `${(100 * level) / this.end}%`;
      setText(this.levelText, `level: ${brief(level)}`);
    }
    this.bar.classList.toggle("stale", stale);
    this.bar.title = !stale ? "" : this.model.saved ? "Normal photos were judged under the K and sigma of the saved page" : "The reference level for these options is still being computed";
    this.bar.classList.toggle("unused", !judged);
    this.legend.found.hidden = !judged;
    this.legend.numbers.hidden = !this.regions.listed.length;
    const name = ratio ? "Ratio of distances" : excess ? "Excess" : "Anomaly map";
    setText(this.map.title, judged && !ratio ? `${name} ≥ ${threshold.toFixed(2)}` : name);
    this.map.canvas.setAttribute("aria-label", name);
    this.map.title.classList.toggle("waiting", excess && this.taken.stale);
    const seen = this.get("ratio") ? "ratio" : this.judged();
    for (const one of this.maps) one.setAttribute("aria-pressed", one.textContent === seen);
    this.maps[2].disabled = Boolean(this.model.saved && !this.current(this.get("ratios")));
    this.maps[1].disabled = !this.comparable() || Boolean(this.model.saved && !this.taken);
    this.maps[1].title = this.comparable() ? EXCESS : "The excess needs at least two different normal photos";
    const unknown = this.get("ratio") && (this.model.saved ? `ratios are known for K = ${this.get("ratios").k}` : this.disconnected ? "ratios need Python" : this.get("waiting") || "ratios of distances come next");
    setText(this.map.remark, ratio ? "best place / best distant place" : unknown ? unknown : judged ? `${(100 * marked).toFixed(1)} % of this photo${this.rate(threshold)}` : why);
    this.offerRules(this.rule, "pixel", this.get("threshold_rule"), this.rule.masks ? [["f1", "best F1 (uses test labels)"]] : []);
    this.scoring.offer([["max", "maximum of the map"], ["top", "highest 1 % of the map"], ...(this.comparable() ? [["excess", "highest 1 % of the excess"]] : [])]);
    this.scoring.show(this.get("score") === "excess" && !this.comparable() ? "top" : this.get("score"));
    this.paintScore();
    this.second.paint(this.get("sigma"), judged ? threshold : null);
  }

  /** Offer the rules for one of the thresholds, with the current one. */
  offerRules(choice, kind, now, more = []) {
    const { rates = [], scores = [] } = this.get("normals");
    const rules = rates.filter((rule) => rule.startsWith(kind));
    if (now !== "hand" && now !== "f1" && !rules.includes(now)) rules.push(now);
    const tell = (rule) => {
      const [of, rate] = rule.split(" ");
      if (of === "image" && !rates.includes(rule)) return `highest of ${scores.length} normal photos`;
      return `${+(100 * rate).toFixed(2)} % of normal ${of === "pixel" ? "pixels" : "photos"}`;
    };
    choice.offer([...rules.map((rule) => [rule, tell(rule)]), ...more, ["hand", "manual"]]);
    choice.show(now);
  }

  /** Why the threshold, which assumes a comparison with all normal photos, does not apply to the map; "" if it does. */
  unjudged() {
    if (this.judged() === "excess" && !this.excess) return this.get("waiting") || "the excess is not known yet";
    if (this.shown.matches.options.only !== null) return "no threshold";
    const apart = (this.get("score") === "excess") !== (this.get("judged") === "excess") && this.comparable(); // only one is an excess
    if (apart && this.get("threshold_rule").startsWith("image")) return "the threshold is for image scores";
    const judged = this.get("scores").filter(([, fresh]) => fresh).length;
    const awaited = this.get("threshold_rule") === "f1" && judged < this.get("scores").length;
    return awaited && !this.model.saved ? `best F1: ${judged} of ${this.get("scores").length} photos judged` : "";
  }

  /** The fraction of normal pixels at or above a threshold. */
  rate(threshold) {
    const { curve } = this.reference();
    if (!curve) return "";
    const part = (threshold - curve.start) / (curve.end - curve.start);
    const at = clamp(part * (curve.marked.length - 1), 0, curve.marked.length - 1);
    const [low, high] = [curve.marked[Math.floor(at)], curve.marked[Math.ceil(at)]];
    const rate = threshold > curve.end ? 0 : low + (at % 1) * (high - low);
    return `, ${(100 * rate).toFixed(rate < 0.001 ? 2 : 1)} % of normal pixels`;
  }

  /** Scores arrive one by one: with thousands of photos, do not re-sort the strip for each. */
  paintScores() {
    this.sorting ??= setTimeout(() => {
      this.sorting = null;
      this.paintThreshold();
      this.paintPhotos();
    }, SORTED_AFTER);
  }

  /** What the background computes, and how far it is. */
  paintWaiting() {
    if (!this.shown) return;
    const waiting = (!this.disconnected && this.get("waiting")) || "";
    setText(this.progress, waiting);
    this.progress.title = waiting;
    if (this.unjudged() || this.get("ratio")) this.paintThreshold();
    this.paintPlace();
  }

  paintScore() {
    const { scores, of, stale, score } = this.get("normals");
    const { index, options } = this.shown.matches;
    const [all, fresh] = this.get("scores")[index] ?? [null, false];
    const by = this.get("score");
    let text = `score ${this.imageScore?.toFixed(2) ?? "not known yet"}`;
    if (fresh && all !== null && (options.only !== null || options.without.length)) text += ` (${all.toFixed(2)} with all)`;
    if (options.only !== null) text += `, compared with normal ${options.only} only`;
    else if (score === by && this.imageScore !== null) {
      const reached = scores.filter((other) => other >= this.imageScore).length;
      const among = scores.length < of ? `${scores.length} (of ${of})` : `${of}`;
      text += reached ? `: ${reached} of ${scores.length} normal photos score at least this` : `: above all ${among} normal photos`;
      if (stale) text += " so far";
    }
    setText(this.score, text);
    const threshold = this.get("image_threshold");
    this.offerRules(this.imageRule, "image", this.get("image_threshold_rule"));
    this.imageThreshold.show(threshold.toFixed(2));
    setText(this.verdict, options.only !== null || this.imageScore === null || !this.scoreable() ? "" : this.imageScore >= threshold ? "▲ anomalous" : "normal");
    this.score.classList.toggle("stale", Boolean(stale));
    setText(this.photo.remark, this.shown.photo.normal === null ? "" : `normal ${this.shown.photo.normal}, judged against the others`);
  }

  /** The corrections so far, and those possible for this photo. */
  paintGallery() {
    const { normals, corrected, undo } = this.get("gallery");
    const { normal } = this.shown.photo;
    setText(this.judge, normal === null ? "this is normal" : "not normal");
    this.judge.title = normal === null ? "Add this photo to the normal ones" : "Remove this photo from the normal ones";
    const before = corrected.length > 3 ? `${corrected.length - 3} earlier, ` : "";
    setText(this.corrected, `${normals} normal photos now: ${before}${corrected.slice(-3).join(", ")}`);
    this.correcting.hidden = !corrected.length;
    this.undoing.disabled = this.disconnected || !undo;
    this.source.title = this.about.backbone;
    setText(this.source, `${this.about.backbone.replace(/, SHA-256 \w+$/, "")}; ${this.shown.photo.judged}; ${normals} normal photos`);
  }

  /** How much place explains of the normal photos, or the button to ask. */
  paintPlace() {
    const { asked, text } = this.get("placed");
    this.place.hidden = !this.comparable() || (!text && Boolean(this.model.saved));
    this.asker.hidden = Boolean(asked || text);
    setText(this.placed, text ? `${text}\n${this.about.advice}` : asked ? this.get("waiting") || "all other work comes first" : "does what is normal depend on place, and do parts lie alike?");
  }

  /** The drawn roi and what it is for. */
  paintPolygon() {
    if (!this.shown) return;
    this.polygon.show(this.shown.photo.crop, this.get("roi"), this.get("roi_size"));
    this.paintBusy();
  }

  paintOpacity() {
    for (const pane of [this.photo, this.second.photo]) pane.over.style.opacity = this.get("opacity");
    this.sliders.opacity.show(this.get("opacity"));
  }

  paintCompact() {
    const compact = this.root.classList.toggle("compact", this.get("compact"));
    this.compacting.setAttribute("aria-pressed", compact);
    if (compact === this.head.contains(this.controls)) return; // keeps the focus
    if (compact) this.compacting.before(this.controls);
    else this.strip.node.after(this.controls);
  }

  paintOptions() {
    if (!this.shown) return;
    const [radius, weights] = [this.get("radius"), this.get("weights")];
    this.everywhere = Math.max(this.matches.h, this.matches.w);
    this.sliders.radius.show(radius ?? this.everywhere, this.everywhere);
    this.sliders.kappa.show(this.get("kappa"), 10);
    this.weighing.show(weights === null ? "none" : weights === "equal" ? "equal" : "hand");
    this.combining.show(this.get("combine"));
    const { by } = this.weights.factors();
    this.layers.forEach(({ weight, solo, mute }, l) => {
      weight.show(Math.round(100 * by[l]) / 100, 3);
      const only = by.every((value, other) => value > 0 === (other === l));
      solo.setAttribute("aria-pressed", only);
      mute.setAttribute("aria-pressed", by[l] === 0);
      mute.disabled = this.disconnected || only;
    });
    this.paintPhotos();
    this.paintBusy();
  }

  /** Show whether a reply for the current settings is pending. */
  paintBusy() {
    if (!this.shown) return;
    const { matches } = this.shown;
    const k = this.get("k");
    const covered = k >= this.matches.least && k <= this.matches.most;
    const awaited =
      this.get("index") !== matches.index ||
      !same([this.get("roi"), this.get("roi_size")], this.shown.photo.drawn) ||
      OPTIONS.some((name) => !same(this.get(name), matches.options[name])) ||
      (!covered && matches.asked_k !== k) ||
      (this.get("alone") && !this.aloneNow()) ||
      this.get("beside") !== (this.get("other").photo?.index ?? null);
    this.awaitAnswer(awaited || this.asking);
    const levelled = this.comparable() && [this.get("judged"), this.get("score")].includes("excess");
    const awaiting = (levelled && !(this.taken && !this.taken.stale)) || (this.get("ratio") && !this.ratios);
    if (awaiting && !this.disconnected) this.root.classList.add("busy");
  }

  /** Whether the image threshold is one for the current image score. */
  scoreable() {
    return !this.comparable() || this.get("normals").score === this.get("score") || this.get("image_threshold_rule") === "hand";
  }

  /** All photos with their scores; ``wrong`` marks those where image threshold and label disagree. */
  known() {
    const [scores, saved] = [this.get("scores"), this.model.saved];
    const threshold = this.scoreable() ? this.get("image_threshold") : NaN;
    const photos = this.get("photos").map(([name, label], index) => {
      const [score, fresh] = scores[index] ?? [null, false];
      const above = score !== null && score >= threshold;
      const wrong = label === "good" ? above && "alarms" : label !== null && score !== null && score < threshold && "misses";
      return { index, name, label, score, fresh, above, wrong };
    });
    return saved ? photos.filter(({ index }) => saved.includes(index)) : photos;
  }

  /** The photos in the strip as cards, in display order. */
  listed() {
    const [wanted, selection] = [this.filter.select.value || "all", this.get("selection")];
    const shown = this.known()
      .filter(({ index }) => !selection.length || selection.includes(index))
      .filter(({ label, wrong }) => wanted === "all" || wanted === `label ${label}` || wanted === wrong)
      .map(({ index, name, label, score, fresh, above }) => ({
        key: index, name: `photo ${name}${score === null ? "" : `, score ${score.toFixed(2)}`}${above ? ", anomalous" : ""}`, top: name.split("/").at(-1), kind: label ?? "",
        bottom: score === null ? (fresh ? "unreadable" : "not yet") : `${above ? "▲ " : ""}${brief(score)}`, score, state: `${fresh ? "" : "stale"} ${index === this.get("beside") ? "second" : ""}`,
      }));
    return this.order.select.value === "score" ? shown.sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity)) : shown;
  }

  paintPhotos() {
    const photos = this.get("photos");
    const names = photos.map(([name], index) => [index, name]).filter(([index]) => !this.model.saved || this.model.saved.includes(index));
    this.name.offer(names);
    this.name.show(this.get("index"));
    this.beside.offer([["", "none"], ...names]);
    this.beside.show(this.get("beside") ?? "");
    this.paintFilter();
    const cards = this.listed();
    this.strip.show(cards, this.get("index"));
    const picked = `${this.get("index")} ${this.order.select.value} ${this.filter.select.value}`;
    if (this.picked !== picked || !this.strip.moved) this.strip.reveal(this.get("index"));
    this.picked = picked;
    setText(this.photo.title, photos[this.shown?.photo.index]?.[0] ?? "");
  }

  /** The filter options with their counts; misses and alarms are counted per photo. */
  paintFilter() {
    const photos = this.known();
    const count = (name, key) => photos.filter((photo) => photo[key] === name).length;
    const labels = [...new Set(photos.map(({ label }) => label))].filter((label) => label !== null);
    const wrong = labels.length ? [["misses", `misses (${count("misses", "wrong")})`], ["alarms", `false alarms (${count("alarms", "wrong")})`]] : [];
    this.filter.offer([["all", `all (${photos.length})`], ...labels.map((label) => [`label ${label}`, `${label} (${count(label, "label")})`]), ...wrong]);
    const wanted = this.filter.select.value;
    const few = this.get("selection").length ? `Only the ${this.get("selection").length} photos selected on the map. ` : "";
    const none = wrong.some(([value, text]) => value === wanted && text.endsWith("(0)")) ? "None at this image threshold." : "";
    this.strip.node.dataset.remark = few + none;
  }

  paintNeighbours() {
    if (!this.shown) return;
    const seen = { pack: this.shown.matches, matches: this.matches, steps: this.steps, k: this.k, size: this.shown.photo.size };
    this.retrieved.show({ ...seen, without: this.get("without"), only: this.get("only"), disconnected: this.disconnected });
    const { part } = this.retrieved;
    for (const pane of [this.map, this.photo]) this.veil(pane, part?.explained, "part");
    this.photo.mark(part ? `bright: explained by normal ${part.image}` : "", "Show the whole photo  Esc");
    this.markComparison();
  }

  /** Mark the map if it is not compared with all normal photos. */
  markComparison() {
    const [only, without] = [this.shown.matches.options.only, this.shown.matches.options.without];
    if (only !== null) this.map.mark(`normal ${only} only`, "Threshold and ranks assume all normal photos. Click to compare with all  Esc");
    else if (without.length) this.map.mark(`without normal ${without.join(", ")}`, "Threshold and ranks assume all normal photos. Click to compare with all");
    else this.map.mark("");
  }

  /** The match and the map value at a pixel of this photo or of the one beside. */
  see(place, { size, matches, steps, raw, values, ratios } = this) {
    const grid = [matches.h, matches.w];
    const cell = cellOf(place, size, grid);
    const { there, ...match } = matches.describe(steps[cell]);
    match.image = matches.neighbours[match.neighbour][0];
    match.place = middleOf(there, size, grid);
    const at = place[0] * size[1] + place[1];
    return { place, cell, match, ratio: ratios?.[cell], map: raw[at], excess: values === raw ? null : values[at] };
  }

  /** The match of a layer alone at a pixel. */
  seeAlone(place, found) {
    const { size } = this.shown.photo;
    const cell = cellOf(place, size, found.grid);
    return { neighbour: found.image[cell], distance: found.distance[cell], angle: degrees(found.angles, cell), place: middleOf(found.place[cell], size, found.grid) };
  }

  paintProbe() {
    if (!this.shown) return;
    const { matches, photo } = this.shown;
    const [pinned, probe] = [this.get("pinned"), this.get("probe").map((at, axis) => Math.min(at, photo.size[axis] - 1))];
    const pin = pinned ? this.see(probe) : null;
    const hover = this.hovered ? this.see(this.hovered) : pinned ? null : this.see(probe);
    const seen = hover ?? pin;
    for (const pane of [this.photo, this.map, ...this.layers.map((layer) => layer.pane)]) {
      pane.point("pinned", pin?.place);
      pane.point("hovered", hover?.place);
    }
    this.polygon.move(seen.place);
    this.regions.mark(pin?.place);
    if (this.unpin.hidden === pinned) this.unpin.hidden = !pinned;
    const { part } = this.retrieved;
    const measured = pin && this.near.on; // the pinned pixel's normal photo stays
    const image = part && (measured || !this.hovered) ? part.image : (measured ? pin : seen).match.image;
    const bitmap = this.normals.get(image);
    if (bitmap) this.normal.draw(bitmap);
    this.normal.point("pinned", pin?.match.image === image ? pin.match.place : null);
    this.normal.point("hovered", hover?.match.image === image ? hover.match.place : null);
    this.near.show(pin?.cell ?? null, image, matches);
    if (hover && !this.disconnected) this.near.prepare(hover.cell, part?.image ?? hover.match.image, matches);
    this.normal.dots.replaceChildren(...(image === part?.image ? part.dots : []));
    const rank = matches.neighbours.findIndex(([other]) => other === image);
    setText(this.normal.title, `Normal ${image}`);
    setText(this.normal.remark, `neighbour ${rank + 1} of ${this.k}`);

    const { h, w } = this.matches;
    this.patches[0].draw(this.bitmap, seen.place, photo.size, [h, w]);
    const other = this.normals.get(seen.match.image);
    if (other) this.patches[1].draw(other, seen.match.place, photo.size, [h, w]);
    setText(this.patchNames[0], `probe (${seen.place.join(", ")})`);
    setText(this.patchNames[1], `match (${seen.match.place.join(", ")})`);

    const alone = this.aloneNow();
    const own = alone?.map((found) => this.seeAlone(seen.place, found));
    this.own.forEach((mark, l) => this.normal.put(mark, own && matches.neighbours[own[l].neighbour][0] === image ? own[l].place : null));
    if (!alone) this.layers.forEach(({ pane }, l) => setText(pane.remark, `${seen.match.distance ? Math.round((100 * seen.match.parts[l]) / seen.match.distance) : 0} % here`));
    const second = this.second.point(pin?.place, hover?.place);
    const nameOf = (index) => this.get("photos")[index][0];
    const both = second ? [[nameOf(photo.index), seen], [nameOf(this.second.shown.photo.index), second]] : pin && hover ? [["pinned", pin], ["hover", hover]] : [[pin ? "pinned" : this.hovered ? "hover" : "probe", seen]];
    this.readout.show(both, this.labels, alone && ((s, l) => this.tellAlone(s, alone[l])));
  }

  tellAlone(seen, found) {
    const own = this.seeAlone(seen.place, found);
    return `${own.distance.toFixed(3)}${tellAngle(own.angle)} · ${found.agrees[seen.cell] ? "same pixel" : `neighbour ${own.neighbour + 1}, (${own.place.join(", ")})`}`;
  }
}

export default Explorer.widget;
