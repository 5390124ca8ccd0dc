// The method in one picture: a card for each stage, from an image to its segmentation, and below them the open one.

import { ARROWS, brief, bytes, clamp, el, picture, setText, svg } from "./dom.js";
import { Matches, cellOf, contour, middleOf, paintMap, roiOf, unpack } from "./maps.js";
import { Choice, Slider, button } from "./controls.js";
import { MapPage } from "./map_page.js";
import { findRegions } from "./regions.js";

const FINE = 2; // canvas pixels per map pixel
const SMALL = 0.64; // of a card's side: each of two pictures in it
const by = (shape) => shape.join(" × ");
const tuple = (shape) => `(${shape.join(", ")})`;
const several = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const titleOf = ({ name }) => name[0].toUpperCase() + name.slice(1);
const frame = ({ x, y, w, h }) => `M${x} ${y}h${w}v${h}h${-w}Z`;

/** Pictures with marks in one coordinate system, map pixels: overlapping in a card, or side by side. */
class Scene {
  constructor(wide) {
    this.wide = wide;
    this.canvas = el("canvas", wide ? { role: "img", "aria-label": "the open stage" } : { "aria-hidden": "true" });
    this.svg = svg("svg", { class: "marks", "aria-hidden": "true" });
    this.tags = el("span", { "aria-hidden": "true" });
    this.node = el("span", { class: "sk-stage sk-scene", ...(wide && { tabindex: 0, role: "application" }) }, this.canvas, this.svg, this.tags);
  }

  /** Start again, for crops of a size. ``boxes`` are the places of two pictures, ``whole`` is that of one. */
  clear([H, W]) {
    const [side, gap, small] = [Math.max(H, W), W / 28, this.wide ? 1 : SMALL], [w, h] = [W * small, H * small];
    const [width, height] = this.wide ? [2 * W + gap, H] : [side, side];
    Object.assign(this, { H, W, gap, width, height, hot: [] }); // hot: [box, act(down, right, click)]
    Object.assign(this.canvas, { width: FINE * width, height: FINE * height });
    this.node.style.aspectRatio = `${width} / ${height}`;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.context = this.canvas.getContext("2d");
    this.context.scale(FINE, FINE);
    this.boxes = [{ x: 0, y: 0, w, h }, { x: width - w, y: height - h, w, h }];
    this.whole = this.wide ? this.boxes[0] : { x: (side - W) / 2, y: (side - H) / 2, w: W, h: H };
    for (const drawn of [this.svg, this.tags]) drawn.replaceChildren();
  }

  /** A picture in a box; side by side with others it has a name. */
  draw(source, box, name = "", crisp = false) {
    this.context.imageSmoothingEnabled = !crisp;
    if (source) this.context.drawImage(source, box.x, box.y, box.w, box.h);
    if (name) this.tag(name, box);
  }

  /** A line, dark under light, in map pixels of a box. */
  mark(kind, d, box = null) {
    const transform = box && `translate(${box.x} ${box.y}) scale(${box.w / this.W} ${box.h / this.H})`;
    this.svg.append(svg("g", { class: kind, transform }, ...["halo", "ink"].map((one) => svg("path", { class: one, d }))));
  }

  /** Rings on pixels (row, col) of the boxes, joined by a line. */
  spot(places, boxes) {
    const r = Math.max(this.W, this.H) / (this.wide ? 36 : 22);
    const [[x, y], [a, b] = [x, y]] = places.map(([row, col], i) => [boxes[i].x + ((col + 0.5) * boxes[i].w) / this.W, boxes[i].y + ((row + 0.5) * boxes[i].h) / this.H]);
    const part = r / Math.max(Math.hypot(a - x, b - y), 2 * r), [right, down] = [part * (a - x), part * (b - y)];
    const ring = (cx, cy) => `M${cx - r} ${cy}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
    this.mark("sk-spot", `${ring(x, y)}${ring(a, b)}M${x + right} ${y + down}L${a - right} ${b - down}`);
  }

  /** A name at a place; a card has room for short ones alone. */
  tag(text, { x, y }, short = "") {
    if (this.wide || short) this.tags.append(el("span", { class: "sk-tag", style: `left: ${(100 * x) / this.width}%; top: ${(100 * y) / this.height}%` }, this.wide ? text : short));
  }

  /** The pointer moves, or clicks. @returns whether there is something to point at */
  point({ clientX, clientY, type }) {
    const { left, top, width, height } = this.node.getBoundingClientRect();
    const [px, py] = [((clientX - left) / width) * this.width, ((clientY - top) / height) * this.height];
    const [box, act] = this.hot.find(([{ x, y, w, h }]) => px >= x && px < x + w && py >= y && py < y + h) ?? [];
    act?.((py - box.y) / box.h, (px - box.x) / box.w, type === "click");
    return Boolean(act);
  }
}

// Each stage: what happens, the call and the arrays that it gives, a fact for its card, what is told of the probe, and how
// a scene of it is painted. ``of`` is the page.
const STAGES = [
  {
    name: "image",
    what: (of) => `The image is resized, and a crop of ${by(of.size)} pixels is cut out for the network. What lies outside the crop is not judged.`,
    call: () => "crop = spade.read(image).image",
    arrays: (of) => [["crop", [...of.size, 3]]],
    fact: (of) => `${by(of.size)} pixels`,
    tell: (of) => `${of.photo.judged}.`,
    paint(scene, of) {
      const [rows, columns] = of.photo.photo, [top, left, bottom, right] = of.photo.box, { whole } = scene;
      const scale = Math.min(whole.w / columns, whole.h / rows), [w, h] = [columns * scale, rows * scale];
      const place = { x: whole.x + (whole.w - w) / 2, y: whole.y + (whole.h - h) / 2, w, h };
      const crop = frame({ x: place.x + left * scale, y: place.y + top * scale, w: (right - left) * scale, h: (bottom - top) * scale });
      scene.draw(of.whole, place, `image, ${by([rows, columns])}`);
      scene.svg.append(svg("path", { class: "dim", d: frame(place) + crop }));
      scene.mark("sk-spot", crop);
      if (scene.wide) scene.draw(of.bitmap, scene.boxes[1], `crop, ${by(of.size)}`);
    },
  }, {
    name: "pyramid",
    what: (of) => `A pretrained network describes every cell of ${several(of.levels.length, "grid")}, fine to coarse, by a vector; similar colours stand for similar vectors. One more vector, pooled, describes the whole image.`,
    call: () => "query = extract_features(image, backbone)\ngallery = extract_features(normal_images, backbone)",
    arrays: (of) => [...of.levels.map(({ shape }, i) => [`query.levels[${i}]`, shape]), ["query.pooled", of.pooled.shape]],
    fact: (of) => `${several(of.levels.length, "level")} + pooled`,
    tell(of) {
      const channels = of.levels.map(({ shape: [, c] }) => c), cells = of.levels.map(({ name, shape: [, , ...grid] }) => `(${of.cell(grid).join(", ")}) of ${name}`);
      return `Pixel (${of.probe.join(", ")}) lies in the cells ${cells.join(", ")}: ${channels.join(" + ")} = ${channels.reduce((a, b) => a + b)} numbers describe it.`;
    },
    paint(scene, of) {
      const { gap, wide, H, W } = scene, bar = scene.height * (wide ? 0.1 : 0.26), unit = wide ? 1 - (bar + gap) / H : SMALL;
      let y = 0;
      of.levels.forEach(({ name, shape: [, c, h, w], source }, i) => {
        const part = i ? unit * Math.min(w / of.levels[0].shape[3], 0.9 / (of.levels.length - 1)) : unit;
        const box = { x: i ? unit * W + gap : 0, y, w: part * W, h: part * H }, [row, col] = of.cell([h, w]);
        scene.draw(source, box, "", true);
        scene.mark("sk-spot", frame({ x: (col * W) / w, y: (row * H) / h, w: W / w, h: H / h }), box);
        scene.tag(`${name}: ${by([c, h, w])}`, { x: i ? box.x + box.w : 0, y });
        scene.hot.push([box, of.probeAt]);
        if (i) y += box.h + gap;
      });
      scene.draw(of.pooled.source, { x: 0, y: scene.height - bar, w: scene.width, h: bar }, `pooled: ${of.pooled.shape[1]}`, true);
    },
  }, {
    name: "retrieval",
    what: (of) => `Each of the ${of.ranking.of} normal images has a pooled vector, too; a bar is its distance from that of this image. Only the K nearest (filled bars) are compared with this image from here on.`,
    call: (of) => `near = nearest_images(query, gallery, k=${of.k})`,
    arrays: (of) => ["index", "distance"].map((name) => [`near.${name}`, [1, of.k]]),
    fact: (of) => `${of.k} of ${of.ranking.of} nearest`,
    tell(of) {
      const { nearest } = of.ranking, [image, distance] = nearest[of.rank], mean = nearest.slice(0, of.k).reduce((sum, [, one]) => sum + one, 0) / of.k;
      return `Rank ${of.rank + 1}: normal ${image}, distance ${distance.toFixed(3)}${of.rank < of.k ? "" : ", not retrieved"}. Mean of the nearest ${of.k}: ${mean.toFixed(3)}, the paper's image score.`;
    },
    paint(scene, of) {
      const { gap, wide, width } = scene, near = of.ranking.nearest, step = width / near.length, chart = { x: 0, y: 0, w: width, h: scene.height * (wide ? 0.5 : 0.6) };
      const bars = near.map(([, distance], rank) => [rank, (0.9 * chart.h * distance) / (near.at(-1)[1] || 1)]).map(([rank, h]) => frame({ x: (rank + 0.1) * step, y: chart.h - h, w: 0.8 * step, h }));
      scene.svg.append(svg("path", { class: "near", d: bars.slice(0, of.k).join("") }), svg("path", { class: "far", d: bars.slice(of.k).join("") }));
      scene.mark("sk-limit", `M${of.k * step} 0V${chart.h}`);
      scene.tag(`K = ${of.k}`, { x: Math.min(of.k * step, width * 0.92), y: 0 });
      scene.tag(`up: distance, 0 to ${brief(near.at(-1)[1] / 0.9)}`, { x: !wide || of.k * step > width / 2 ? 0 : of.k * step + 0.12 * width, y: 0 }, "distance");
      scene.hot.push([chart, (down, right) => wide && of.choose(Math.floor(right * near.length))]);
      const h = scene.height - chart.h - gap, w = (h * scene.W) / scene.H, place = (i) => ({ x: i * (w + gap), y: scene.height - h, w, h });
      const own = wide ? 1 : 0, room = Math.floor((width + gap) / (w + gap)) - own, first = clamp(of.rank - 1, 0, Math.max(0, near.length - room));
      if (wide) scene.draw(of.bitmap, place(0), "this image");
      near.slice(first, first + room).forEach(([image], i) => {
        scene.draw(of.normals.get(image), place(i + own), `${first + i + 1}: normal ${image}`);
        scene.hot.push([place(i + own), (down, right, click) => click && of.choose(first + i)]);
      });
      if (wide) for (const chosen of [bars[of.rank], frame(place(of.rank - first + own))]) scene.mark("sk-spot", chosen);
    },
  }, {
    name: "correspondence",
    what: (of) => `Every pixel looks for the most similar pixel in the ${of.k} retrieved images, ${of.about.radius === null ? "wherever it lies" : `at most ${several(of.about.radius, "cell")} from its own place`}. Their distance says how badly normal images explain it: point at the image, or use the arrow keys.`,
    call: (of) => `found = match_pixels(query, gallery.select(near.index[0])${of.about.matching})`,
    arrays: (of) => [["found.distance", of.grid], ...["image", "row", "col"].map((name) => [`found.${name}`, [of.about.kappa, ...of.grid]])],
    fact: (of) => `distance ${brief(of.match.distance)}`,
    tell: ({ probe, match: { image, rank, there, distance } }) => `Pixel (${probe.join(", ")}) is explained by pixel (${there.join(", ")}) of normal ${image}, rank ${rank + 1}, at distance ${distance.toFixed(2)}.`,
    paint(scene, of) {
      scene.draw(of.bitmap, scene.boxes[0], "this image");
      scene.draw(of.normals.get(of.match.image), scene.boxes[1], `normal ${of.match.image}`);
      scene.spot([of.probe, of.match.there], scene.boxes);
      scene.hot.push([scene.boxes[0], of.probeAt]);
    },
  }, {
    name: "map",
    what: (of) => `The distances of the ${by(of.grid)} cells are enlarged to the size of the crop and smoothed by a Gaussian of standard deviation sigma. A larger sigma removes speckle, but blurs small defects. The maximum is the image score.`,
    call: (of) => `anomaly_map = make_map(found.distance, ${tuple(of.size)}, sigma=${of.sigma})`,
    arrays: (of) => [["anomaly_map", of.size]],
    fact: (of) => `maximum ${brief(of.highest)}`,
    tell: (of) => `Maximum: ${of.highest.toFixed(2)}. Pixel (${of.probe.join(", ")}): distance ${of.match.distance.toFixed(2)}, after smoothing ${of.map[of.probe[0] * of.size[1] + of.probe[1]].toFixed(2)}. The brightest colour stands for ${brief(of.end)} and more.`,
    paint(scene, of) {
      const { x, y, w, h } = scene.whole, parts = [[of.raw, `distances, ${by(of.grid)} cells`, true], [of.smooth, `anomaly map, sigma ${of.sigma}`]];
      if (scene.wide) {
        parts.forEach(([source, ...look], i) => {
          scene.draw(source, scene.boxes[i], ...look);
          scene.spot([of.probe], [scene.boxes[i]]);
          scene.hot.push([scene.boxes[i], of.probeAt]);
        });
        return;
      }
      scene.draw(of.smooth, scene.whole);
      scene.context.imageSmoothingEnabled = false;
      scene.context.drawImage(of.raw, 0, 0, of.grid[1] / 2, of.grid[0], x, y, w / 2, h); // the left half before smoothing
    },
  }, {
    name: "segmentation",
    what: (of) => `Pixels of the map that reach the threshold are anomalous (solid line${of.truth && "; dashed: the mask of the defect"}), and so is an image that has any. The threshold comes from normal images alone, each judged against the others.`,
    call: (of) => `anomalous = anomaly_map >= ${+of.threshold.toPrecision(6)}`,
    arrays: (of) => [["anomalous", of.size]],
    fact: (of) => of.verdict,
    tell(of) {
      const { scores } = of.get("normals"), { k, sigma } = of.about.start, reached = scores.filter((score) => score >= of.threshold).length;
      const found = of.regions.length ? `${several(of.regions.length, "region")}, ${of.marked.toLocaleString("en")} of ${of.map.length.toLocaleString("en")} pixels` : "no pixel reaches the threshold";
      return `${of.verdict}: ${found}.${scores.length ? ` With K ${k} and sigma ${sigma}, ${reached} of ${scores.length} normal images reach it.` : ""}`;
    },
    paint(scene, of) {
      const pictures = scene.wide ? [[of.bitmap, scene.boxes[0], "this image"], [of.smooth, scene.boxes[1], "anomaly map"]] : [[of.bitmap, scene.whole]];
      for (const [source, box, name] of pictures) {
        scene.draw(source, box, name);
        for (const which of ["truth", "found"]) scene.mark(`sk-${which}`, of[which], box);
      }
    },
  },
];
const IMPORTS = "# spade as fitted on normal_images, image as judged\nfrom spade_kit import extract_features, match_pixels, nearest_images\nfrom spade_kit.scores import make_map\n\nbackbone = spade.backbone";

class Stages extends MapPage {
  constructor(model, root) {
    super(model, root, "all stages, the probe, K, sigma and the threshold", "What each stage of SPADE makes of an image.");
    this.rank = 0; // of the normal image that is looked at
    this.build();
    this.listen();
    this.answer();
  }

  build() {
    const slider = (name, key, help, about) => new Slider({ name, help, ...about, move: (value) => this.put({ [key]: value }) });
    this.controls = {
      retrieval: slider("K", "k", "Number of normal images to retrieve", { min: 1, max: 1, typed: 1, format: (value) => `${value} of ${this.ranking.of}` }),
      map: slider("sigma", "sigma", "Standard deviation of the Gaussian, in map pixels", { min: 0, max: 12, step: 0.5, typed: "any", format: (value) => `${value} px` }),
      segmentation: slider("threshold", "threshold", "Pixels of the map at or above it are anomalous", { min: 0, max: 1, step: "any", typed: "any", format: (value) => value.toFixed(2) }),
    };
    this.name = new Choice({ name: "image", help: "Select an image", pick: (index) => this.put({ index: +index }) });
    this.name.select.classList.add("python");
    this.score = el("span", { class: "sk-score", role: "status" });
    this.parts = STAGES.map((stage, i) => this.makePart(stage, i));
    this.big = new Scene(true);
    this.told = el("p", { class: "sk-told", "aria-live": "polite" });
    this.open = el("section", { class: "sk-open", "aria-label": "the open stage" }, el("div", {}, this.big.node, this.told), el("div", { class: "sk-blocks" }, ...this.parts.map(({ block }) => block)));
    this.copied = button("copy as Python", "The calls of all stages", () => this.copyText(this.copied, [IMPORTS, ...STAGES.map(({ call }) => call(this))].join("\n")));
    this.root.append(
      el("div", { class: "sk-head" }, this.name.node, this.spinner, this.score), this.problem,
      el("ol", { class: "sk-steps" }, ...this.parts.map(({ card }) => el("li", {}, card))), this.open,
      el("div", { class: "sk-foot" }, this.saves.page, this.saves.png, this.copied, this.provenance), this.text);
  }

  /** The card of a stage, and what is said of it: all take the same place, so that the layout does not jump. */
  makePart(stage, i) {
    const [scene, fact, what, call, arrays] = [new Scene(false), el("span", { class: "fact" }), el("p"), el("code"), el("ul")];
    const card = el("button", { type: "button", class: "sk-step", onclick: () => this.put({ stage: this.get("stage") === stage.name ? null : stage.name }) },
      el("span", { class: "number" }, `${i + 1}`), el("span", { class: "name" }, titleOf(stage)), scene.node, fact);
    const after = (i + 1) % STAGES.length, go = button(`${after ? "next" : "again"}: ${titleOf(STAGES[after])}`, "Open this stage", () => {
      this.put({ stage: STAGES[after].name });
      requestAnimationFrame(() => this.parts[after].go.focus({ preventScroll: true }));
    });
    const block = el("div", { class: "sk-block" }, el("h2", {}, `${i + 1} ${titleOf(stage)}`), what, this.controls[stage.name]?.node ?? "", el("pre", {}, call), arrays, go);
    return { stage, scene, fact, card, block, what, call, arrays, go };
  }

  listen() {
    this.follow({
      "change:photo change:matches change:neighbours": () => this.answer(),
      "change:index change:k": () => this.awaitAnswer(!this.answered),
      "change:stage change:k change:sigma change:threshold change:probe": () => this.paintProbe(),
    });
    const { node } = this.big, on = {
      pointermove: (event) => this.big.point(event) || this.hover(null),
      pointerleave: () => this.hover(null),
      click: (event) => this.big.point(event),
      keydown: (event) => this.key(event),
    };
    for (const [name, act] of Object.entries(on)) node.addEventListener(name, act);
  }

  /** The arrays of an image have arrived. */
  async answer() {
    const [photo, pyramid, ranking, matches] = ["photo", "pyramid", "ranking", "matches"].map(this.get);
    if (photo.index !== matches.index) return;
    this.onAnswer();
    this.offer();
    const pictures = pyramid.map(async ([name, shape, rgba]) => ({ name, shape, source: await createImageBitmap(new ImageData(new Uint8ClampedArray(bytes(rgba)), shape.at(-1))) }));
    const [whole, ...levels] = await Promise.all([picture(photo.whole), ...pictures]);
    if (!(await this.fetchPicture(photo, matches))) return;
    [this.photo, this.size, this.whole, this.ranking, this.levels, this.pooled] = [photo, photo.size, whole, ranking, levels, levels.pop()];
    [this.matches, this.roi, this.made] = [new Matches(matches), roiOf(photo), ""];
    this.grid = [this.matches.h, this.matches.w];
    this.truth = photo.mask ? contour(unpack(bytes(photo.mask), photo.size[0] * photo.size[1]), ...photo.size, 0.5) : "";
    this.paintProbe();
  }

  setConnected(yes) {
    super.setConnected(yes);
    this.paintProbe();
  }

  /** Whether Python has sent what the page asked for. */
  get answered() {
    const { index, k_range: [least, most] } = this.get("matches"), k = this.get("k");
    return index === this.get("index") && least <= k && k <= most;
  }

  /** The cell of a grid that contains the probe. */
  cell(grid) {
    return this.probe.map((at, axis) => Math.floor((at * grid[axis]) / this.size[axis]));
  }

  /** The pointer is at these fractions of a picture; a click moves the probe there. */
  probeAt = (down, right, click) => {
    const place = [down, right].map((part, axis) => clamp(Math.floor(part * this.size[axis]), 0, this.size[axis] - 1));
    if (click) this.put({ probe: place });
    this.hover(place);
  };

  choose(rank) {
    this.rank = clamp(rank, 0, this.ranking.nearest.length - 1);
    this.paintProbe();
  }

  /** Arrows move the probe by a cell, or go through the normal images. */
  key(event) {
    const step = ARROWS[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.get("stage") === "retrieval") this.choose(this.rank + step[0] + step[1]);
    else this.put({ probe: this.get("probe").map((at, axis) => clamp(at + Math.round((step[axis] * this.size[axis]) / this.grid[axis]), 0, this.size[axis] - 1)) });
    event.preventDefault();
    event.stopPropagation();
  }

  /** What follows from K and sigma, and then from the threshold. */
  compute() {
    const [sigma, threshold, { level }] = ["sigma", "threshold", "normals"].map(this.get), { least, most } = this.matches;
    const k = clamp(this.get("k"), least, most), made = `${k} ${sigma} ${level}`;
    if (this.made !== made) {
      this.steps = this.matches.at(k);
      const cells = this.matches.grid(this.steps), map = this.upsampler.map(cells, this.grid, this.size, sigma);
      this.end = this.endOf(map, level);
      [this.smooth, this.raw] = [this.paintValues(map, this.size), this.paintValues(cells, this.grid)];
      this.map = this.roi ? map.map((value, i) => (this.roi[i] ? value : NaN)) : map;
      this.highest = this.map.reduce((high, value) => (value > high ? value : high), -Infinity);
      [this.made, this.k, this.sigma, this.threshold] = [made, k, sigma, null];
    }
    if (this.threshold === threshold) return;
    this.threshold = threshold;
    this.found = contour(this.map, ...this.size, threshold, this.roi);
    this.regions = findRegions(this.map, ...this.size, threshold);
    this.marked = this.regions.reduce((sum, { pixels }) => sum + pixels, 0);
    this.verdict = this.regions.length ? "anomalous" : "normal";
  }

  paintValues(values, [height, width]) {
    const canvas = el("canvas", { width, height });
    paintMap(canvas, values, this.table, this.end);
    return canvas;
  }

  paintProbe() {
    if (!this.photo) return;
    this.coming ??= requestAnimationFrame(() => {
      this.coming = null;
      this.compute();
      this.probe = this.hovered ?? this.get("probe");
      const { neighbour: rank, there, distance } = this.matches.describe(this.steps[cellOf(this.probe, this.size, this.grid)]);
      this.match = { rank, distance, image: this.matches.neighbours[rank][0], there: middleOf(there, this.size, this.grid) };
      this.parts.forEach((part) => this.paintPart(part));
      this.paintControls();
      this.root.dataset.shown = this.photo.index;
    });
  }

  paintPart({ stage, scene, fact, card, block, what, call, arrays }) {
    const here = stage.name === this.get("stage"), shapes = stage.arrays(this).map(([array, shape]) => `${array} ${tuple(shape)}`);
    scene.clear(this.size);
    stage.paint(scene, this);
    card.setAttribute("aria-expanded", here);
    block.classList.toggle("here", here);
    for (const [node, text] of [[fact, stage.fact(this)], [what, stage.what(this)], [call, stage.call(this)]]) setText(node, text);
    if (arrays.textContent !== shapes.join("")) arrays.replaceChildren(...shapes.map((one) => el("li", {}, el("code", {}, one))));
    if (here) this.paintOpen(stage);
  }

  paintOpen(stage) {
    this.big.clear(this.size);
    stage.paint(this.big, this);
    this.big.node.classList.toggle("pointed", this.big.hot.length > 0);
    this.big.node.setAttribute("aria-label", stage.name === "retrieval" ? "Normal images: arrow keys go through them" : "Probe: arrow keys move it");
    setText(this.told, stage.tell(this));
  }

  paintControls() {
    const { least, most } = this.matches, { retrieval, map, segmentation } = this.controls;
    this.name.offer(this.get("photos").map(([name], i) => [i, name]));
    this.name.show(this.get("index"));
    setText(this.score, `image score ${this.highest.toFixed(2)}: ${this.verdict}`);
    [retrieval.input.min, retrieval.input.max] = this.disconnected ? [least, most] : [1, this.ranking.of];
    retrieval.show(this.k);
    map.show(this.sigma, 12);
    segmentation.show(this.threshold, Math.max(this.highest, this.end));
    this.open.hidden = !this.get("stage");
    this.awaitAnswer(!this.answered);
  }

  close() {
    cancelAnimationFrame(this.coming);
    super.close();
  }
}

export default Stages.widget;
