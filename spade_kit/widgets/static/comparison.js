// Views side by side with a linked probe: each shows the normal pixel that it matches.

import { bytes, clamp, el, setText } from "./dom.js";
import { Cells, colours, contour, paintMap, unpack } from "./maps.js";
import { Choice, button } from "./controls.js";
import { Pane, Patch } from "./pane.js";
import { MapPage } from "./map_page.js";

const HELP = "Point at any picture: rings mark the pixel in all of them, and below each view is the normal pixel that it matches. Click to pin the probe; arrow keys move it, Escape unpins it. +, - and 0, or Ctrl and the wheel, enlarge all pictures; drag to move them. H, held, hides the marks. [ and ] go to the previous and next photo.";
const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"];

/** Ranks from 0, best first; ties share the better rank. */
const placesOf = (scores) => scores.map((score) => scores.filter((other) => other > score).length);

class Comparison extends MapPage {
  constructor(model, root) {
    super(model, root, "hover, zoom, colour scale and difference", "A photo under several views side by side, each with its anomaly map and the normal pixel that it matches.");
    this.signed = colours(bytes(this.about.signed));
    this.asking = false;
    this.offer();
    this.build();
    this.listen();
    this.answer();
  }

  // ---- layout -------------------------------------------------------------------------------------------------------

  build() {
    this.pointed = {
      hover: (row, col) => this.hover([row, col]),
      leave: () => this.leave(),
      pin: (row, col) => this.pin([row, col]),
    };
    const { photos } = this.about;
    this.photo = new Pane("Photo", { ...this.pointed, key: (event) => this.key(event) });
    this.photo.figure.classList.add("sk-view");
    this.normalRemark = el("p", { class: "sk-remark" });
    this.minus = [0, 1].map((at) => new Choice({ name: at ? "minus" : "show", help: at ? "View to subtract" : "View to subtract from", pick: () => this.subtract() }));
    this.pair = el("span", { class: "sk-group" }, ...this.minus.map(({ node }) => node));
    this.views = Array.from({ length: this.about.most }, (_, at) => this.#makeView(at));
    this.letLook([this.photo, ...this.views.map(({ pane }) => pane)]);
    this.photo.figure.append(el("div", {}, this.normalRemark, this.makeLegend({ truth: "ground truth" }, this.keys)));
    this.source = this.provenance;

    this.name = new Choice({ name: "photo", help: "Select a photo", plain: true, pick: (index) => this.put({ index: +index }) });
    this.name.offer(photos.map(([name], index) => [index, name]).filter(([index]) => !this.model.saved || index === this.get("index")));
    const step = (by, text, help, name) => button(text, help, () => this.step(by), { "aria-label": name, class: "python" });
    const several = photos.length > 1 && !this.model.saved;
    this.progress = el("span", { class: "sk-progress" });
    this.scales = ["own", "one"].map((scale) =>
      button({ own: "per view", one: "shared" }[scale], { own: "Colours of each view end at twice its reference level", one: "Colours of all views end at the same raw distance" }[scale], () => this.put({ scale })));
    this.subtracting = button("difference", "Show the difference of two views, in place of the first", () => this.put({ difference: this.get("difference") ? null : [0, this.get("views").length - 1] }));
    const head = el("div", { class: "sk-head" },
      several ? el("span", { class: "sk-group" }, step(-1, "‹", "Previous photo  [", "previous photo"), this.name.node, step(1, "›", "Next photo  ]", "next photo")) : "",
      el("span", { class: "sk-group", role: "group", "aria-label": "colour scale" }, ...this.scales), this.subtracting, this.spinner, this.progress, this.pair);
    this.answerText = el("p", { class: "sk-answer", role: "status" });
    this.scaleText = el("p", { class: "sk-remark" });
    this.panes = el("div", { class: "sk-compared" });
    this.makeHelp(HELP);
    this.root.append(head, this.problem, this.answerText, this.panes, this.scaleText, this.live, this.#makeForm(),
      el("div", { class: "sk-foot" }, this.saves.page, this.saves.png, this.helper, this.source), this.help);
  }

  /** The form that adds a view. */
  #makeForm() {
    const { start, most } = this.about;
    const choice = (name, help, options) => {
      const one = new Choice({ name, help, pick: () => name === "fit" && this.#offerLayers() });
      one.offer(options);
      one.select.classList.add("python");
      return one;
    };
    const number = (name, help) => el("input", { type: "text", inputmode: "numeric", pattern: "[0-9]*", title: help, placeholder: start[name.toLowerCase()] ?? "all", "aria-label": name, class: "python sk-number" });
    this.form = {
      of: choice("fit", "Fitted SPADE to use", []),
      layers: choice("layers", "Layers to search; several are searched together", []),
      weights: choice("weights", "Weights of the layers' squared distances", [["", "as fitted"], ["none", "none"], ["equal", "equal"]]),
      k: number("K", "Number of nearest normal photos to compare with"),
      kappa: number("kappa", "Number of nearest pixels to average"),
      radius: number("radius", "Largest distance of a match from the pixel's own position; leave empty to use the fitted value"),
    };
    const field = (name, input) => el("label", { class: "sk-choice" }, el("span", { class: "name" }, name), input);
    this.adding = button("add view", "Add this view to the comparison", () => this.add(), { class: "python" });
    this.full = el("span", { class: "sk-remark", hidden: true }, `At most ${most} views fit: remove one first.`);
    this.offerFits();
    const { of, layers: looked, weights, k, kappa, radius } = this.form;
    return el("div", { class: "sk-row sk-form" }, el("span", { class: "sk-heading" }, "New view"), of.node, looked.node, weights.node,
      field("K", k), field("kappa", kappa), field("radius", radius), this.adding, this.full);
  }

  /** The fitted SPADEs a view can use; more may be added. */
  offerFits() {
    this.about = this.get("about");
    this.source.replaceWith((this.source = this.provenance));
    const { bases } = this.about;
    this.form.of.offer(bases.map((name, base) => [base, name]));
    this.form.of.node.hidden = bases.length < 2;
    this.#offerLayers();
  }

  #offerLayers() {
    const layers = this.about.layers[+this.form.of.select.value || 0];
    const pairs = () => layers.flatMap((one, l) => [[one], ...layers.slice(l + 1).map((other) => [one, other])]);
    const any = () => Array.from({ length: 2 ** layers.length - 2 }, (_, bits) => layers.filter((_, l) => ((bits + 1) >> l) & 1));
    const some = (layers.length > 4 ? pairs() : any()).sort((a, b) => a.length - b.length); // of six layers, all 62 would be too many
    this.form.layers.offer([["", "all layers"], ...some.map((names) => [names.join(","), names.join(" + ")])]);
  }

  listen() {
    this.follow({
      "change:neighbours": () => this.offer(),
      "change:seen change:photo": () => {
        this.onAnswer();
        this.coming ??= queueMicrotask(() => this.answer()) ?? true;
      },
      "change:levels change:scale": () => this.paintMaps(),
      "change:difference": () => this.arrange(),
      "change:waiting": () => this.paintBusy(),
      "change:ranking": () => this.paintRanking(),
      "change:probe change:pinned": () => this.paintProbe(),
      "change:index change:views": () => this.paintBusy(),
      "change:about": () => this.offerFits(),
    });
    this.root.addEventListener("keydown", (event) => this.keyAnywhere(event));
    this.keepKeys(this.photo.stage);
  }

  // ---- messages from Python -----------------------------------------------------------------------------------------

  async answer() {
    this.coming = null;
    const [photo, seen] = [this.get("photo"), this.get("seen")];
    if (!photo.jpeg || !seen.length || seen[0].index !== photo.index) return;
    if (!(await this.fetchPicture(photo, seen))) return;
    this.shown = { photo, seen };
    this.asking = false;
    this.decoded = seen.map((one) => ({ name: one.name, cells: new Cells(one) }));
    const [H, W] = photo.size;
    this.photo.resize(H, W);
    this.photo.draw(this.bitmap);
    setText(this.photo.title, this.about.photos[photo.index][0]);
    setText(this.photo.remark, photo.judged);
    this.legend.truth.hidden = !photo.mask;
    this.truth = photo.mask ? contour(unpack(bytes(photo.mask), H * W), H, W, 0.5) : "";
    this.arrange();
    this.root.dataset.shown = `${photo.index}`;
  }

  showProblem(text) {
    super.showProblem(text);
    this.asking = false;
    if (this.shown) this.paintBusy();
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  step(by) {
    const to = clamp(this.get("index") + by, 0, this.about.photos.length - 1);
    if (!this.disconnected) this.put({ index: to });
  }

  key(event) {
    const by = event.shiftKey ? 16 : 4;
    const probe = this.byArrow(event.key, this.hovered ?? this.get("probe"), [by, by]);
    if (probe) {
      this.hovered = null;
      this.put({ probe });
    } else if (event.key === "Enter" || event.key === " ") this.put({ probe: this.hovered ?? this.get("probe"), pinned: true });
    else return;
    event.preventDefault();
  }

  keyAnywhere(event) {
    const typing = event.target.matches("input, select");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    if (event.key === "[") this.step(-1);
    else if (event.key === "]") this.step(1);
    else if (event.key === "?") this.toggleHelp();
    else if (event.key === "Escape" && this.get("pinned")) this.put({ pinned: false });
    else if (!this.lookCloser(event.key, this.hovered ?? this.get("probe"))) return;
    event.preventDefault();
    event.stopPropagation();
  }

  add() {
    const { of, layers, weights, k, kappa, radius } = this.form;
    if (![k, kappa, radius].every((input) => input.reportValidity())) return;
    const view = { base: +of.select.value || 0, layers: layers.select.value ? layers.select.value.split(",") : null };
    for (const [name, input] of Object.entries({ k, kappa, radius })) if (input.value !== "") view[name] = +input.value;
    if (weights.select.value) view.weights = weights.select.value === "none" ? null : "equal";
    this.change([...this.get("views"), view]);
  }

  takeAway(at) {
    this.change(this.get("views").filter((_, other) => other !== at), { difference: null });
  }

  change(views, more = {}) {
    if (this.disconnected) return;
    this.showProblem("");
    this.asking = true;
    this.put({ ...more, views });
    this.paintBusy();
  }

  subtract() {
    const [first, second] = this.minus.map((choice) => +choice.select.value);
    this.put({ difference: [first, second === first ? (first + 1) % this.decoded.length : second] });
  }

  // ---- painting -----------------------------------------------------------------------------------------------------

  /** Create and lay out one pane per view. */
  arrange() {
    if (!this.shown) return;
    const shown = this.views.slice(0, this.decoded.length);
    const figures = [this.photo.figure, ...shown.map(({ pane }) => pane.figure)];
    for (const { pane } of this.views.slice(shown.length)) pane.figure.remove();
    this.panes.append(...figures.filter((figure) => figure.parentNode !== this.panes)); // the others keep the focus
    this.panes.style.setProperty("--columns", Math.min(figures.length, 5));
    const [H, W] = this.shown.photo.size;
    for (const pane of [this.photo, ...shown.map(({ pane }) => pane)]) {
      pane.resize(H, W);
      pane.outline("truth", this.truth);
    }
    const names = this.decoded.map(({ name }, at) => [at, name]);
    this.pair.style.visibility = this.get("difference") ? "visible" : "hidden"; // it keeps its place
    this.minus.forEach((choice, at) => {
      choice.offer(names);
      choice.show(this.get("difference")?.[at] ?? at);
    });
    this.paintMaps();
    this.paintRanking();
    this.paintBusy();
  }

  #makeView(at) {
    const pane = new Pane("View", this.pointed);
    pane.figure.classList.add("sk-view");
    const patch = new Patch("Close-up of the match");
    const words = el("p", { class: "sk-remark" });
    const badge = el("span", { class: "sk-badge" });
    const away = button("×", "Remove this view", () => this.takeAway(at), { class: "sk-chip python", "aria-label": `remove view ${at + 1}`, disabled: this.disconnected });
    pane.figure.querySelector("figcaption").append(badge, away);
    pane.figure.append(el("div", { class: "sk-found-here" }, patch.canvas, words));
    return { pane, patch, words, badge, away };
  }

  /** The upper end of a view's colour scale. */
  end(at) {
    const levels = this.get("levels").map(({ level }) => level);
    return this.about.scale * (this.get("scale") === "one" ? Math.max(...levels) : levels[at]);
  }

  paintMaps() {
    if (!this.shown || this.get("levels").length !== this.decoded.length) return;
    const [H, W] = this.shown.photo.size;
    const own = this.get("scale") === "own";
    this.maps = this.decoded.map(({ cells }) => this.upsampler.map(cells.distance, cells.grid, [H, W], cells.sigma));
    this.maps.forEach((map, at) => {
      const { pane } = this.views[at];
      paintMap(pane.canvas, map, this.table, this.end(at));
      setText(pane.title, this.decoded[at].name);
      pane.canvas.setAttribute("aria-label", `Map of ${this.decoded[at].name}`);
    });
    this.scales.forEach((one, at) => one.setAttribute("aria-pressed", own === (at === 0)));
    const ends = this.decoded.map((_, at) => this.end(at).toFixed(1));
    setText(this.scaleText, (own
      ? `Colours: 0 to twice each view's reference level, the 99th percentile of normal pixels (${ends.join(", ")}). Raw distances are not comparable.`
      : `Colours: 0 to ${ends[0]} for all views (raw distance). Views with fewer channels are darker regardless of content.`) + (this.get("about").excess ? " All views show the map itself, not its excess." : "") + (this.get("levels").some(({ stale }) => stale) ? " Reference levels are estimated from a few normal photos so far." : ""));
    this.paintDifference();
    this.paintProbe();
  }

  paintDifference() {
    const pair = this.get("difference");
    this.subtracting.setAttribute("aria-pressed", Boolean(pair));
    if (!pair || !this.maps || Math.max(...pair) >= this.maps.length) return;
    const own = this.get("scale") === "own";
    const unit = pair.map((at) => (own ? this.get("levels")[at].level : 1));
    const [first, second] = pair.map((at) => this.maps[at]);
    const end = own ? 1 : this.end(0) / 2;
    const values = first.map((value, i) => value / unit[0] - second[i] / unit[1]);
    const [one, other] = pair.map((at) => this.decoded[at].name);
    const { pane } = this.views[pair[0]];
    paintMap(pane.canvas, values.map((value) => value + end), this.signed, 2 * end);
    setText(pane.title, `${one} - ${other}`);
    pane.canvas.setAttribute("aria-label", `${one} minus ${other}`);
    const told = own ? `${end} × reference level` : `${end.toFixed(1)} raw`;
    this.scaleText.append(` Orange: higher in ${one}; violet: higher in ${other}. Colour scale of the difference ±${told}.`);
  }

  paintRanking() {
    if (!this.shown) return;
    const { photo, over, kind, photos } = this.get("ranking");
    const names = this.decoded.map(({ name }) => name);
    const scores = photo?.length === names.length ? photo : null;
    const places = scores && placesOf(scores);
    this.views.slice(0, names.length).forEach(({ badge, pane }, at) => {
      setText(badge, scores && at !== this.get("difference")?.[0] ? `${ORDINALS[places[at]]} · AUPRO ${scores[at].toFixed(3)}` : "");
      pane.figure.classList.toggle("best", Boolean(scores) && places[at] === 0);
    });
    setText(this.answerText, scores ? `Best view of this ${kind ?? "defect"}: ${tellOrder(names, scores, (name, score) => `${name} (AUPRO ${score})`, ", then ", 4)}.${over && over.length === names.length ? ` Over ${photos} photos with ${kind}: ${tellOrder(names, over, (name, score) => `${name} ${score}`, ", ")}.` : ""}`
      : this.shown.photo.mask === null && kind === "good" ? "Good photo without a defect, so views are not ranked." : "No mask, so views are not ranked.");
  }

  paintBusy() {
    if (!this.shown) return;
    const awaited = this.asking || this.get("index") !== this.shown.photo.index || this.get("views").length !== this.decoded.length;
    this.awaitAnswer(awaited);
    this.name.show(this.get("index"));
    const waiting = (!this.disconnected && this.get("waiting")) || "";
    setText(this.progress, waiting);
    this.root.classList.toggle("waiting", Boolean(waiting));
    const count = this.get("views").length;
    this.full.hidden = count < this.about.most;
    this.adding.disabled = this.disconnected || count >= this.about.most;
    for (const { away } of this.views) away.disabled = this.disconnected || count <= this.about.fewest;
  }

  paintProbe() {
    if (!this.shown || !this.maps) return;
    const { size } = this.shown.photo;
    const [pinned, probe] = [this.get("pinned"), this.get("probe").map((at, axis) => Math.min(at, size[axis] - 1))];
    const place = this.hovered ?? probe;
    const panes = [this.photo, ...this.views.slice(0, this.decoded.length).map(({ pane }) => pane)];
    for (const pane of panes) {
      pane.point("pinned", pinned ? probe : null);
      pane.point("hovered", pinned && !this.hovered ? null : place);
    }
    setText(this.normalRemark, `probe (${place.join(", ")})${pinned && !this.hovered ? ", pinned" : ""}`);
    const told = this.decoded.map((view, at) => this.#tell(view, at, place, size));
    this.speak(this.live, `(${place.join(", ")}): ${told.join("; ")}`);
  }

  /** Show the match of a view at a pixel, and return it as text. */
  #tell(view, at, place, size) {
    const { image, number, there, distance } = view.cells.at(place, size);
    const bitmap = this.normals.get(number);
    const { patch, words } = this.views[at];
    if (bitmap) patch.draw(bitmap, there, size, view.cells.grid);
    const times = this.maps[at][place[0] * size[1] + place[1]] / this.get("levels")[at].level;
    setText(words, `normal ${image} (${there.join(",\u00a0")})\ndistance ${distance.toFixed(2)}\n${times.toFixed(2)} × reference`);
    return `${view.name} ${times.toFixed(2)} times the reference level, normal ${image}`;
  }
}

/** Views with their scores, best first; their badges tell the others. */
const tellOrder = (names, scores, tell, joint, most = names.length) => {
  const order = names.map((name, at) => [scores[at], name]).sort(([a], [b]) => b - a).slice(0, most);
  return order.map(([score, name]) => tell(name, score.toFixed(3))).join(joint);
};

export default Comparison.widget;
