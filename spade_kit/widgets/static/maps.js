// Everything that a page computes itself: running minimum over neighbours, upsampling, smoothing, colours, contours.
// The Python modules correspondence.py and scores.py are the reference; tests compare both.

import { bytes, el, numbers } from "./dom.js";

/** The matches of one photo: for every cell the nearest pixel among the first k neighbours, for every k sent. */
export class Matches {
  constructor(pack) {
    const counts = numbers(pack.count, Uint16Array);
    [this.h, this.w] = pack.grid;
    this.layers = pack.layers;
    [this.least, this.most] = pack.k_range;
    this.neighbours = pack.neighbours;
    this.k = numbers(pack.k, Uint16Array);
    this.image = numbers(pack.image, Uint16Array);
    this.place = numbers(pack.place, Uint32Array);
    this.distance = numbers(pack.distance, Float32Array);
    this.parts = numbers(pack.parts, Uint16Array);
    this.angles = pack.angles && numbers(pack.angles, Uint16Array);
    this.first = new Uint32Array(counts.length + 1);
    for (let i = 0; i < counts.length; i++) this.first[i + 1] = this.first[i] + counts[i];
  }

  /** For every cell, the index of the breakpoint that applies to the first k neighbours. */
  at(k) {
    const steps = new Uint32Array(this.h * this.w);
    for (let i = 0; i < steps.length; i++) {
      let step = this.first[i];
      while (step + 1 < this.first[i + 1] && this.k[step + 1] <= k) step++;
      steps[i] = step;
    }
    return steps;
  }

  /** Distances (h w), or one layer's share of them. */
  grid(steps, layer = null) {
    const grid = new Float32Array(steps.length);
    const offset = layer === null ? 0 : layer * this.k.length;
    for (let i = 0; i < steps.length; i++) {
      const part = layer === null ? 1 : this.parts[offset + steps[i]] / 65535;
      grid[i] = this.distance[steps[i]] * part;
    }
    return grid;
  }

  /** One breakpoint: neighbour, matched cell, distance, and each layer's share of it and angle. */
  describe(step) {
    const parts = this.layers.map((_, l) => (this.distance[step] * this.parts[l * this.k.length + step]) / 65535);
    const angles = this.layers.map((_, l) => degrees(this.angles, l * this.k.length + step));
    return { neighbour: this.image[step], there: this.place[step], distance: this.distance[step], parts, angles };
  }
}

/** Distances and nearest pixels on the search's own grid, as packed by Python. */
export class Cells {
  constructor({ grid, sigma, normals, distance, image, place }) {
    [this.grid, this.sigma, this.normals] = [grid, sigma, normals];
    this.distance = numbers(distance, Float32Array);
    this.image = numbers(image, Uint16Array);
    this.place = numbers(place, Uint32Array);
  }

  /** The match of a map pixel: its normal image, the number to request it by, its pixel and the distance. */
  at(pixel, size) {
    const cell = cellOf(pixel, size, this.grid);
    const [image, number] = this.normals[this.image[cell]];
    return { image, number, there: middleOf(this.place[cell], size, this.grid), distance: this.distance[cell] };
  }
}

/** The matches of a layer alone, by cell of its own grid. */
export const decodeAlone = ({ grid, distance, image, place, agrees, angles }) => ({
  grid,
  distance: numbers(distance, Float32Array),
  image: numbers(image, Uint16Array),
  place: numbers(place, Uint32Array),
  agrees: bytes(agrees), // by cell of the finest grid
  angles: angles && numbers(angles, Uint16Array),
});

/** An angle, sent in hundredths of a degree; null if it is unknown. */
export const degrees = (angles, at) => (!angles || angles[at] === 65535 ? null : angles[at] / 100);

/** The cell of a grid (h w) that contains a pixel of the map (H W). */
export const cellOf = ([row, col], [H, W], [h, w]) => Math.floor((row * h) / H) * w + Math.floor((col * w) / W);

/** The centre pixel of a cell. */
export const middleOf = (cell, [H, W], [h, w]) => [
  Math.floor(((Math.floor(cell / w) + 0.5) * H) / h),
  Math.floor((((cell % w) + 0.5) * W) / w),
];

const reflect = (i, n) => {
  const j = ((i % (2 * n)) + 2 * n) % (2 * n);
  return j < n ? j : 2 * n - 1 - j;
};

/** Bilinear upsampling aligned at cell centres, then a Gaussian with reflection at the border, as one matrix.
 *  Each row is stored from its first to its last nonzero entry. */
export function upsampler(from, to, sigma) {
  const reach = Math.floor(4 * sigma + 0.5);
  const bell = Float64Array.from({ length: 2 * reach + 1 }, (_, i) => (sigma ? Math.exp(-0.5 * ((i - reach) / sigma) ** 2) : 1));
  const whole = bell.reduce((a, b) => a + b, 0);
  return Array.from({ length: to }, (_, i) => {
    const row = new Float64Array(from);
    for (let o = -reach; o <= reach; o++) {
      const source = Math.max(((reflect(i + o, to) + 0.5) * from) / to - 0.5, 0);
      const low = Math.min(Math.floor(source), from - 1);
      const weight = bell[o + reach] / whole;
      row[low] += weight * (1 - (source - low));
      row[Math.min(low + 1, from - 1)] += weight * (source - low);
    }
    let [first, last] = [0, from];
    while (row[first] === 0) first++;
    while (row[last - 1] === 0) last--;
    return { first, weights: row.slice(first, last) };
  });
}

/** Turn a grid (h w) into a map (H W), with one matrix for rows and one for columns. */
export function makeMap(grid, w, rows, cols) {
  const [H, W] = [rows.length, cols.length];
  const half = new Float64Array(w);
  const map = new Float32Array(H * W);
  for (let i = 0; i < H; i++) {
    const { first, weights } = rows[i];
    half.fill(0);
    for (let r = 0; r < weights.length; r++) {
      const start = (first + r) * w;
      for (let c = 0; c < w; c++) half[c] += weights[r] * grid[start + c];
    }
    for (let j = 0; j < W; j++) {
      const { first: from, weights: across } = cols[j];
      let sum = 0;
      for (let c = 0; c < across.length; c++) sum += across[c] * half[from + c];
      map[i * W + j] = sum;
    }
  }
  return map;
}

/** Makes maps from grids; the matrices are cached by size and sigma. */
export class Upsampler {
  constructor() {
    this.made = new Map();
  }

  map(grid, [h, w], [H, W], sigma) {
    return makeMap(grid, w, this.#operator(h, H, sigma), this.#operator(w, W, sigma));
  }

  #operator(from, to, sigma) {
    const key = `${from} ${to} ${sigma}`;
    if (!this.made.has(key)) {
      if (this.made.size > 40) this.made.clear();
      this.made.set(key, upsampler(from, to, sigma));
    }
    return this.made.get(key);
  }
}

/** What normal photos reach at each place of a photo. */
export function decodeLevel({ low, high, values }) {
  return Float32Array.from(numbers(values, Uint16Array), (value) => low + ((high - low) * value) / 65535);
}

/** The mean of the highest 1 % of a map. */
export function meanOfTop(map) {
  const top = map.slice().sort().subarray(-Math.max(1, Math.floor(map.length / 100)));
  return top.reduce((sum, value) => sum + value, 0) / top.length;
}

/** 256 RGB colours as canvas pixels. */
export const colours = (table) =>
  Uint32Array.from({ length: 256 }, (_, i) => (255 << 24) | (table[3 * i + 2] << 16) | (table[3 * i + 1] << 8) | table[3 * i]);

/** Paint a map on the scale from 0 to ``end``. */
export function paintMap(canvas, map, table, end) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const scale = 256 / end;
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[Math.min(255, Math.max(0, map[i] * scale) | 0)];
  context.putImageData(image, 0, 0);
}

/** The colours from the lowest to the highest, as a strip. */
export function colourStrip(table) {
  const strip = el("canvas", { width: 256, height: 1, "aria-hidden": "true", class: "sk-gradient" });
  paintMap(strip, Float32Array.from({ length: 256 }, (_, i) => i), table, 256);
  return strip;
}

// For each of the 16 cases of a square of four pixel centres, the sides where the contour enters and leaves: 0 top,
// 1 right, 2 bottom, 3 left; the inside is on the left.
const SIDES = [[], [2, 3], [1, 2], [1, 3], [0, 1], [0, 1, 2, 3], [0, 2], [0, 3], [3, 0], [2, 0], [3, 0, 1, 2], [1, 0], [3, 1], [2, 1], [3, 2], []];

/** The outline of the pixels at or above a level, as an SVG path in map pixels (marching squares), closed at the border and at that of a roi. */
export function contour(map, H, W, level, roi = null) {
  const inside = (r, c) => r >= 0 && c >= 0 && r < H && c < W && map[r * W + c] >= level && (!roi || roi[r * W + c] === 1);
  const value = (r, c) => (r >= 0 && c >= 0 && r < H && c < W ? map[r * W + c] : level - 1e-6);
  const next = new Map();
  const points = new Map();
  const id = (r, c, side) => {
    // a side belongs to two squares: use the key of the one where it is the top or left side
    if (side === 2) [r, side] = [r + 1, 0];
    if (side === 1) [c, side] = [c + 1, 3];
    const key = ((r + 1) * (W + 2) + c + 1) * 2 + (side === 0 ? 0 : 1);
    if (!points.has(key)) {
      const [r1, c1] = side === 0 ? [r, c + 1] : [r + 1, c];
      const [a, b] = [value(r, c), value(r1, c1)];
      const t = a === b ? 0.5 : Math.min(Math.max((level - a) / (b - a), 0), 1);
      const x = Math.min(Math.max(c + t * (c1 - c) + 0.5, 0), W);
      const y = Math.min(Math.max(r + t * (r1 - r) + 0.5, 0), H);
      points.set(key, `${x.toFixed(1)} ${y.toFixed(1)}`);
    }
    return key;
  };
  for (let r = -1; r < H; r++) {
    for (let c = -1; c < W; c++) {
      const code = inside(r, c) * 8 + inside(r, c + 1) * 4 + inside(r + 1, c + 1) * 2 + inside(r + 1, c) * 1;
      const sides = SIDES[code];
      for (let s = 0; s < sides.length; s += 2) next.set(id(r, c, sides[s]), id(r, c, sides[s + 1]));
    }
  }
  let path = "";
  while (next.size) {
    const [start] = next.keys();
    path += `M${points.get(start)}`;
    for (let at = start; next.has(at); ) {
      const to = next.get(at);
      next.delete(at);
      if (to !== start) path += `L${points.get(to)}`;
      at = to;
    }
    path += "Z";
  }
  return path;
}

/** The roi of a photo as numbers 0 and 1; null if all of it is judged. */
export const roiOf = ({ roi, size: [H, W] }) => (roi ? unpack(bytes(roi), H * W) : null);

/** The values of a map in a roi. */
export const inside = (map, roi) => (roi ? map.filter((_, i) => roi[i]) : map);

/** Unpack a mask of one bit per pixel, in row-major order, to numbers 0 and 1. */
export function unpack(bits, count) {
  return Float32Array.from({ length: count }, (_, i) => (bits[i >> 3] >> (7 - (i & 7))) & 1);
}
