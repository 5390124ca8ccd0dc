// Choosing a threshold: histograms, a line to drag, and the resulting error rates.

import { breakable, bytes, clamp, el, numbers, picture, setText, svg, ticks } from "./dom.js";
import { Upsampler, contour, decodeLevel, roiOf, unpack } from "./maps.js";
import { Choice, NumberField, button } from "./controls.js";
import { Page } from "./page.js";
import { Pane } from "./pane.js";

const KINDS = { normal: "normal photos (leave-one-out)", good: "test: good", defect: "test: defects", unknown: "test: unknown" };
const [WIDE, HIGH] = [512, 64]; // size of a histogram in SVG units
const NEAR = 4; // photos on each side of the line
const between = (list, place) => list[Math.floor(place)] + (place % 1) * (list[Math.ceil(place)] - list[Math.floor(place)]);
const percent = (part) => (part == null ? "?" : `${+(100 * part).toPrecision(part > 0.995 ? 3 : 2)} %`);

class Chooser extends Page {
  constructor(model, root) {
    super(model, root, "threshold line, counts and loaded photos", "How many normal and test photos, or their pixels, score at least the threshold, and the photos next to it.");
    this.pictures = new Map();
    this.wanted = new Set();
    this.upsampler = new Upsampler();
    this.build();
    this.listen();
    for (const one of this.get("pictures") ?? []) this.receive(one);
    this.paint();
  }

  build() {
    this.ofs = [["image", "whole photos", "Threshold for the score of each photo"], ["pixel", "pixels", "Threshold for each pixel of a map"]].map(([of, text, help]) =>
      [of, button(text, help, () => this.put({ of }), { class: "python" })]);
    this.rule = new Choice({ name: "threshold rule", help: "How the threshold is set; it is updated as more photos are judged", pick: (rule) => this.put({ rule }) });
    this.confidence = new Choice({ name: "confidence", help: "Probability that the true rate of false alarms is at most the selected one", pick: (value) => this.put({ confidence: value ? +value : null }) });
    this.confidence.node.classList.add("brief");
    for (const { select } of [this.rule, this.confidence]) select.classList.add("python");
    this.typed = new NumberField("threshold, typed", "Threshold (raw distance)", (value) => this.move(value));
    this.rule.node.append(this.typed.input);
    this.waitingText = el("span", { class: "sk-remark", role: "status" });
    this.line = el("input", { type: "range", min: 0, step: "any", "aria-label": "threshold", title: "Drag to set the threshold (raw distance)", oninput: () => this.move(+this.line.value) });
    this.rows = Object.entries(KINDS).map(([kind, name]) => {
      const bars = svg("svg", { class: `bars ${kind}`, viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": `Histogram: ${name}` }, svg("path", { class: "below" }), svg("path", { class: "above" }));
      const words = el("span", { class: "sk-remark" });
      const heights = el("div", { class: "sk-heights", "aria-hidden": "true" });
      return { kind, bars, words, heights, node: el("div", { class: "sk-histogram" }, el("div", { class: "name" }, el("span", {}, name), words), heights, bars) };
    });
    this.mark = el("div", { class: "sk-line", "aria-hidden": "true" }, el("span"));
    this.ticks = el("div", { class: "sk-ticks", "aria-hidden": "true" });
    this.axis = el("p", { class: "sk-axis" });
    this.plot = el("div", { class: "sk-plot" }, ...this.rows.map(({ node }) => node), this.mark, this.line);
    this.fact = Object.fromEntries(["rate", "found", "alarms"].map((name) => [name, [el("span"), el("strong")]]));
    this.facts = el("div", { class: "sk-facts" }, ...Object.values(this.fact).map((both) => el("div", {}, ...both)));
    this.sentence = el("p", { class: "sk-sentence", role: "status" });
    this.remarks = el("ul", { class: "sk-remarks" });
    this.sides = ["below", "above"].map((side) => {
      const cards = Array.from({ length: NEAR }, () => this.#makeCard());
      const none = el("p", { class: "sk-remark", hidden: true }, side === "below" ? "None: all photos score at least this." : "None: all photos score below this.");
      return { cards, none, node: el("div", { class: `sk-side ${side}` }, el("p", { class: "sk-heading" }, side === "below" ? "Photos just below the threshold" : "Photos just above the threshold"), none, el("div", { class: "cards" }, ...cards.map(({ figure }) => figure))) };
    });
    this.copy = button("copy justification", "Copy the justification of the threshold", () => this.copyText(this.copy, this.get("told").sentence));
    this.root.append(
      el("div", { class: "sk-head" }, el("span", { class: "sk-group", role: "group", "aria-label": "threshold for" }, ...this.ofs.map(([, one]) => one)), this.rule.node, this.confidence.node, this.spinner, this.waitingText),
      this.problem,
      el("div", { class: "sk-choosing" }, el("div", { class: "sk-histograms" }, this.plot, this.ticks, this.axis), el("div", { class: "sk-follows", tabindex: 0, role: "region", "aria-label": "what follows" }, this.facts, this.sentence, this.remarks)),
      el("div", { class: "sk-sides" }, ...this.sides.map(({ node }) => node)),
      this.makeLegend({ found: "at or above the threshold", truth: "ground truth" }, el("span", {}, "keys: H hides marks")),
      el("div", { class: "sk-foot" }, this.copy, this.saves.page, this.saves.png, this.provenance), this.text);
    this.legend.truth.hidden = true; // until a photo has a mask
  }

  #makeCard() {
    const pane = new Pane("");
    pane.figure.classList.add("sk-beside");
    pane.stage.after(pane.figure.firstChild); // the caption is below
    return pane;
  }

  listen() {
    this.follow({
      "change:told": () => {
        this.onAnswer();
        this.paintLine();
        this.paintSentence();
        this.paintConfidence();
      },
      "change:study change:photos": () => (this.coming ??= queueMicrotask(() => { this.coming = null; this.paint(); }) ?? true),
      "change:threshold change:rule": () => this.paintLine(),
      "change:rule change:confidence": () => this.paintConfidence(),
      "change:of": () => this.paintBusy(),
    });
  }

  onMessage(message, buffers) {
    super.onMessage(message, buffers);
    if (message.kind !== "photo") return;
    this.receive({ ...message, ...Object.fromEntries(message.names.map((name, i) => [name, buffers[i]])) });
  }

  /** Store a photo with its distances, to segment it at any threshold. */
  async receive(photo) {
    const [H, W] = photo.size;
    const map = this.upsampler.map(numbers(photo.distance, Float32Array), photo.grid, photo.size, photo.sigma);
    const truth = photo.mask ? contour(unpack(bytes(photo.mask), H * W), H, W, 0.5) : "";
    this.legend.truth.hidden &&= !truth;
    const level = photo.level_size && this.upsampler.map(decodeLevel(photo), photo.level_size, photo.size, 0);
    const excess = level && map.map((value, i) => value - level[i]);
    this.pictures.set(photo.at, { map, excess, truth, roi: roiOf(photo), size: photo.size, bitmap: await picture(photo.jpeg) });
    this.wanted.delete(photo.at);
    this.paintNear();
  }

  move(threshold) {
    const { end } = this.get("study"); // despite rounding in the browser, the far end stays above the highest score
    this.put({ threshold: threshold > end - 1e-9 * Math.abs(end) ? end : threshold, rule: "hand", confidence: null });
  }

  // ---- painting -----------------------------------------------------------------------------------------------------

  paint() {
    const study = this.get("study");
    if (!study.counts) return;
    const photos = this.get("photos").filter(([, , , score]) => score !== null);
    this.sorted = photos.map(([at, name, label, score]) => ({ at, name, label, score })).sort((a, b) => a.score - b.score);
    this.above = Object.fromEntries(Object.entries(study.counts).map(([kind, counts]) => {
      const above = new Float64Array(counts.length + 1);
      for (let bin = counts.length - 1; bin >= 0; bin--) above[bin] = above[bin + 1] + counts[bin];
      return [kind, above];
    }));
    for (const row of this.rows) {
      row.total = this.above[row.kind][0];
      row.node.hidden = !row.total;
    }
    // start the axis near the lowest score, to use the full width
    const least = Math.min(...this.rows.map(({ kind }) => study.counts[kind].findIndex((count) => count)).filter((bin) => bin >= 0));
    this.first = Math.max(0, Math.floor((least - 2) / 4) * 4);
    this.begin = study.start + (this.first / study.counts.normal.length) * (study.end - study.start);
    [this.line.min, this.line.max] = [this.begin, study.end];
    const across = (value) => `left:${(100 * (value - this.begin)) / (study.end - this.begin)}%`;
    this.ticks.replaceChildren(...ticks(this.begin, study.end, 6).map((value) => el("span", { style: across(value) }, `${value}`)));
    setText(this.axis, `across: ${this.get("about").axis[study.of]}, raw distance; up: ${study.of === "pixel" ? "pixels, log scale" : "photos"}`);
    const { normals, tested } = this.get("about");
    const unread = this.get("photos").length - photos.length;
    setText(this.waitingText, (study.waiting ? `${normals + tested - study.waiting} of ${normals + tested} photos judged…` : "") + (unread ? ` ${unread} unreadable.` : ""));
    this.root.dataset.waiting = study.waiting;
    this.paintBars();
    this.paintLine();
    this.paintSentence();
    this.paintConfidence();
    this.paintBusy();
    this.root.dataset.shown = study.of;
  }

  /** Bar heights; logarithmic for pixels, since nearly all have low values. */
  paintBars() {
    const { counts, of } = this.get("study");
    const by = 4;
    this.bars = Math.ceil((counts.normal.length - this.first) / by);
    const scale = of === "pixel" ? (count) => Math.log10(1 + count) : (count) => count;
    this.heights = Object.fromEntries(this.rows.map((row) => {
      const { kind } = row;
      const bars = Array.from({ length: this.bars }, (_, i) => counts[kind].slice(this.first + i * by, this.first + (i + 1) * by).reduce((a, b) => a + b, 0));
      const [highest, scaled] = [Math.max(...bars), bars.map(scale)];
      const most = scale(highest) || 1;
      const round = of === "pixel" ? [1, 2, 3, 4, 5, 6, 7, 8].map((power) => 10 ** power) : ticks(1, highest, 2).filter(Number.isInteger);
      const fit = round.filter((count) => count <= highest && scale(count) / most > 0.2); // lower ones have no room
      const marks = fit.filter((_, i) => fit.length < 4 || (fit.length - 1 - i) % 2 === 0);
      row.heights.replaceChildren(...marks.map((count) => el("span", { style: `bottom:${(100 * scale(count)) / most}%` }, count.toLocaleString("en", { notation: "compact" }))));
      return [kind, scaled.map((value) => (value ? Math.max(value / most, 0.04) : 0))];
    }));
  }

  paintLine() {
    if (!this.above) return;
    const { start, end, band, of } = this.get("study");
    const threshold = this.get("threshold");
    const at = clamp((threshold - start) / (end - start), 0, 1); // as a fraction of the bins
    const across = clamp((threshold - this.begin) / (end - this.begin), 0, 1); // as a fraction of the plot
    this.line.value = clamp(threshold, this.begin, end);
    this.line.setAttribute("aria-valuetext", threshold.toFixed(2));
    this.mark.style.left = `${100 * across}%`;
    setText(this.mark.firstChild, threshold.toFixed(2));
    this.typed.show(threshold.toFixed(2));
    this.mark.firstChild.style.transform = `translateX(${-100 * across}%)`;
    for (const [name, one] of this.ofs) one.setAttribute("aria-pressed", name === this.get("of"));
    const [now, { rules }] = [this.get("rule"), this.get("study")];
    this.rule.offer(rules.some(([rule]) => rule === now) ? rules : [[now, `${+(100 * now).toFixed(2)} %`], ...rules]);
    this.rule.show(now);
    const count = Object.fromEntries(this.rows.map(({ kind }) => [kind, this.countAbove(kind, threshold, at)]));
    for (const { kind, bars, words, total } of this.rows) {
      const column = (i) => {
        const height = HIGH * this.heights[kind][i];
        return height ? `M${(i * WIDE) / this.bars} ${HIGH}V${HIGH - height}H${((i + 1) * WIDE) / this.bars - 1}V${HIGH}Z` : "";
      };
      const cut = Math.round(across * this.bars);
      const [below, above] = bars.children;
      below.setAttribute("d", Array.from({ length: cut }, (_, i) => column(i)).join(""));
      above.setAttribute("d", Array.from({ length: this.bars - cut }, (_, i) => column(cut + i)).join(""));
      const about = of === "pixel" && !this.isTold() ? "about " : "";
      setText(words, `${about}${Math.round(count[kind]).toLocaleString("en")} of ${total.toLocaleString("en")} at or above`);
    }
    this.paintFacts(count, at, band, of);
    this.paintNear();
    this.stale();
  }

  /** Whether Python has counted at this threshold. */
  isTold() {
    const [told, now] = [this.get("told"), this.get("threshold")];
    return told.of === this.get("study").of && Math.abs(told.threshold - now) <= 1e-6 * Math.abs(now);
  }

  /** Exact for photos, and for pixels where Python has counted; until then accurate to one bin. */
  countAbove(kind, threshold, at) {
    if (this.isTold()) return this.get("told").above[kind];
    if (this.get("study").of === "image") {
      const kindOf = ({ at: photo, label }) => (photo < 0 ? "normal" : label === null ? "unknown" : label === "good" ? "good" : "defect");
      return this.sorted.filter((photo) => photo.score >= threshold && kindOf(photo) === kind).length;
    }
    return between(this.above[kind], at * (this.above[kind].length - 1));
  }

  paintFacts(count, at, band, of) {
    const total = Object.fromEntries(this.rows.map((row) => [row.kind, row.total]));
    // the interval is indexed by the count for photos and by the bin for pixels
    const [low, high] = ["low", "high"].map((end) => (of === "image" ? band[end][count.normal] : between(band[end], at * (band[end].length - 1))));
    const tell = (name, title, text) => [title, text].forEach((words, i) => setText(this.fact[name][i], words));
    tell("rate", `false alarms among normal ${of === "image" ? "photos" : "pixels"}`, total.normal ? `${percent(count.normal / total.normal)}  (95 % CI: ${percent(low)} to ${percent(high)})` : "unknown");
    tell("found", "defects found (recall)", total.defect ? percent(count.defect / total.defect) : "no labels");
    const flagged = count.defect + count.good;
    tell("alarms", "defects among flagged (precision)", total.defect && total.good ? (flagged ? percent(count.defect / flagged) : "nothing flagged") : "no labels");
  }

  /** The photos nearest to the threshold on both sides, segmented at it. */
  paintNear() {
    if (!this.sorted) return;
    const threshold = this.get("threshold");
    const first = this.sorted.findIndex(({ score }) => score >= threshold);
    const cut = first < 0 ? this.sorted.length : first;
    const near = [this.sorted.slice(Math.max(0, cut - NEAR), cut).reverse(), this.sorted.slice(cut, cut + NEAR)];
    const missing = near.flat().map(({ at }) => at).filter((at) => !this.pictures.has(at) && !this.wanted.has(at));
    if (missing.length && !this.disconnected) {
      for (const at of missing) this.wanted.add(at);
      this.send({ kind: "photos", photos: missing });
    }
    this.sides.forEach(({ cards, none }, side) => {
      none.hidden = near[side].length > 0;
      cards.forEach((card, i) => this.#paintCard(card, near[side][i], threshold));
    });
  }

  #paintCard(pane, photo, threshold) {
    pane.figure.style.visibility = photo ? "visible" : "hidden";
    if (!photo) return;
    setText(pane.title, breakable(photo.name));
    setText(pane.remark, photo.score.toFixed(2));
    pane.canvas.setAttribute("aria-label", `${photo.name}, score ${photo.score.toFixed(2)}`);
    const seen = this.pictures.get(photo.at);
    pane.marks.style.visibility = pane.canvas.style.visibility = seen ? "inherit" : "hidden";
    if (!seen) return;
    pane.resize(...seen.size);
    pane.draw(seen.bitmap);
    pane.outline("truth", seen.truth);
    const map = this.get("about").excess[this.get("study").of] ? seen.excess : seen.map;
    pane.outline("found", contour(map, ...seen.size, threshold, seen.roi));
  }

  paintSentence() {
    const { sentence, remarks, images } = this.get("told");
    setText(this.sentence, sentence ?? "");
    this.remarks.replaceChildren(...[...(remarks ?? []), ...(images ?? [])].map((remark) => el("li", {}, remark)));
    this.stale();
  }

  /** Only rates of photos have a confidence: a manual threshold has none. */
  paintConfidence() {
    const { confidences = [] } = this.get("told");
    this.confidence.node.style.visibility = confidences.length && this.get("rule") > 0 ? "visible" : "hidden"; // it keeps its place
    this.confidence.offer(confidences);
    this.confidence.show(this.get("confidence") ?? "");
  }

  /** Mark the sentence from Python as stale if it belongs to another threshold. */
  stale() {
    for (const node of [this.sentence, this.remarks]) node.classList.toggle("stale", !this.isTold() || this.get("told").of !== this.get("of"));
  }

  paintBusy() {
    const study = this.get("study");
    this.awaitAnswer(study.of !== this.get("of"));
    if (study.waiting && !this.model.saved) this.root.classList.add("busy");
  }
}

export default Chooser.widget;
