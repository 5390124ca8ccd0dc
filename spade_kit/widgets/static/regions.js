// The connected regions of a thresholded map: numbers beside their outlines, and a table that leads to each.

import { brief, el, setText } from "./dom.js";
import { button } from "./controls.js";

const MOST = 20; // regions that are numbered and listed
const HEADS = ["region", "area", "peak", "where in the image", "explained by"];

/** The 8-connected pixels at or above a level, the most anomalous first: `Result.regions`. */
export function findRegions(map, H, W, level) {
  const [seen, regions] = [new Uint8Array(map.length), []];
  for (let start = 0; start < map.length; start++) {
    if (seen[start] || !(map[start] >= level)) continue;
    let [peak, top, left, bottom, right] = [start, H, W, 0, 0];
    const inside = [start];
    seen[start] = 1;
    for (const at of inside) { // grows meanwhile
      const [row, col] = [Math.floor(at / W), at % W];
      if (map[at] > map[peak] || (map[at] === map[peak] && at < peak)) peak = at;
      [top, left, bottom, right] = [Math.min(top, row), Math.min(left, col), Math.max(bottom, row + 1), Math.max(right, col + 1)];
      for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, H - 1); r++)
        for (let c = Math.max(col - 1, 0); c <= Math.min(col + 1, W - 1); c++)
          if (!seen[r * W + c] && map[r * W + c] >= level) seen[inside[inside.push(r * W + c) - 1]] = 1;
    }
    const place = [Math.floor(peak / W), peak % W];
    let label = place[1]; // the number stands beside the outline, towards the middle
    while (label > 0 && label < W - 1 && map[place[0] * W + label] >= level) label += place[1] > W / 2 ? -1 : 1;
    regions.push({ pixels: inside.length, peak: map[peak], place, label: [place[0], label], top, left, bottom, right });
  }
  return regions.sort((a, b) => b.peak - a.peak);
}

/** First and last pixel of the photo whose centre lies between two edges on the crop, at least the middle one. */
function onPhoto(from, to, photo, scaled, offset) {
  const [first, last] = [from, to].map((edge) => Math.ceil((2 * (offset + edge) * photo - scaled) / (2 * scaled)));
  const middle = Math.floor(((offset + (from + to) / 2) * photo) / scaled);
  return `${Math.min(Math.max(first, 0), middle)} to ${Math.max(Math.min(last, photo) - 1, middle)}`;
}

export class Regions {
  /** @param {function} go called with the place of a region's peak */
  constructor(go) {
    this.go = go;
    this.body = el("tbody");
    this.table = el("table", {}, el("thead", {}, el("tr", {}, ...HEADS.map((head) => el("th", { scope: "col" }, head)))), this.body);
    this.remark = el("p", { class: "sk-remark", role: "status" });
    this.node = el("div", { class: "sk-regions" }, this.table, this.remark);
  }

  /** @param {Array} found of `findRegions`, null if nothing is judged; @param {object} crop of the photo; @param {function} see the match at a place */
  show(found, { photo, scaled, offset }, see) {
    this.listed = (found ?? []).slice(0, MOST);
    const rows = this.listed.map(({ pixels, peak, place, top, left, bottom, right }) => {
      const area = (pixels * photo[0] * photo[1]) / (scaled[0] * scaled[1]);
      const where = [onPhoto(top, bottom, photo[0], scaled[0], offset[0]), onPhoto(left, right, photo[1], scaled[1], offset[1])];
      const { image, place: there } = see(place).match;
      return [`${area < 10 ? area.toFixed(1) : Math.round(area).toLocaleString("en")} px²`, brief(peak), `rows ${where[0]}, cols ${where[1]}`, `normal ${image}, (${there.join(", ")})`];
    });
    this.table.hidden = !rows.length;
    setText(this.remark, !found ? "" : !rows.length ? "No region reaches the threshold." : found.length > MOST ? `${found.length - MOST} more, with lower peaks` : "");
    const written = JSON.stringify(rows);
    if (this.written === written) return; // keeps the focus
    this.written = written;
    this.body.replaceChildren(...rows.map((cells, i) =>
      el("tr", { onclick: () => this.go(this.listed[i].place) },
        el("th", { scope: "row" }, button(`${i + 1}`, "Go to this region and the normal pixel that explains its peak", null, { class: "sk-chip", "aria-label": `go to region ${i + 1}` })),
        ...cells.map((cell) => el("td", {}, cell)))));
    this.mark(this.pinned);
  }

  /** Mark the region whose peak is pinned. */
  mark(pinned) {
    this.pinned = pinned;
    [...this.body.children].forEach((row, i) => row.classList.toggle("here", `${this.listed[i].place}` === `${pinned}`));
  }
}
