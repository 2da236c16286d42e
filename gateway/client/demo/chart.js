// The pictures of a training: its losses as lines (SVG, so that the page's colours are theirs), and
// which digits are taken for which (canvas).

import { useEffect, useRef, useState } from "preact/hooks";
import { plot } from "./curve.js";
import { html } from "./html.js";
import { lossesInWords, mistakeInWords } from "./words.js";

/** @typedef {import("./curve.js").Curve} Curve */
/** @typedef {import("./handoffs.js").Handoff} Handoff */

const [WIDTH, HEIGHT] = [400, 270];
const FRAME = { left: 36, top: 8, right: 392, bottom: 246 };
/** Names of handoffs that are near to each other stand on so many lines. */
const NAME_LINES = 4;

/** @param {{ curve: Curve | null | undefined, handoffs: readonly Handoff[] }} props */
export function Losses({ curve, handoffs }) {
  const { train, test, losses, steps, at } = plot(curve ?? { every: 1, train: [], test: [], accuracy: [] }, FRAME);
  const moves = handoffs.flatMap(({ step, epoch, to }) => {
    const x = step === null ? null : at(step);
    return x === null ? [] : [{ x, epoch, to }];
  });
  const { left, right, top, bottom } = FRAME;
  return html`<figure>
    <svg id="train-curve" class="chart" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img"
      aria-label=${lossesInWords(curve)}>
      ${losses.map(({ at, text }) => html`<path class="grid" d=${`M${left} ${at}H${right}`} />
        <text x=${left - 6} y=${at + 4} text-anchor="end">${text}</text>`)}
      ${steps.map(({ at, text }) => html`<text x=${at} y=${HEIGHT - 6} text-anchor=${at === left ? "start" : "end"}>${text}</text>`)}
      <text x=${(left + right) / 2} y=${HEIGHT - 6} text-anchor="middle">step</text>
      ${moves.map(({ x, epoch, to }, i) => html`<g class="handoff" key=${epoch}>
        <path d=${`M${x} ${top}V${bottom}`} />
        <text x=${Math.min(x + 4, right - 60)} y=${top + 10 + (i % NAME_LINES) * 13}>worker ${to}</text></g>`)}
      <polyline class="train" points=${train} />
      <polyline class="test" points=${test} />
    </svg>
    <figcaption class="legend">
      Loss <span class="train">in training</span> <span class="test">in the test</span>
    </figcaption>
  </figure>`;
}

const CELL = 26;
/** Room for the digits at the margins. */
const MARGIN = 22;
const SIDE = MARGIN + 10 * CELL;

/** @param {{ confusion: number[][] | null | undefined }} props */
export function Confusion({ confusion }) {
  /** @type {{ current: HTMLCanvasElement | null }} */
  const canvas = useRef(null);
  const scheme = useColourScheme();
  useEffect(() => {
    if (canvas.current) draw(canvas.current, confusion ?? []);
  }, [confusion, scheme]);
  return html`<figure>
    <canvas id="train-confusion" ref=${canvas} role="img" aria-label=${mistakeInWords(confusion)}></canvas>
    <figcaption class="note">${mistakeInWords(confusion)}</figcaption>
  </figure>`;
}

/**
 * Rows are what a digit is, columns what it was read as; the darker, the more of a row.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {number[][]} confusion
 */
function draw(canvas, confusion) {
  const scale = devicePixelRatio;
  [canvas.width, canvas.height] = [SIDE * scale, SIDE * scale];
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const style = getComputedStyle(canvas);
  /** @param {string} name */
  const colour = (name) => style.getPropertyValue(name);
  pen.scale(scale, scale);
  pen.font = `12px ${style.fontFamily}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  /** @param {number} i */
  const centre = (i) => MARGIN + (i + 0.5) * CELL;
  pen.fillStyle = colour("--soft");
  for (let i = 0; i < 10; i++) {
    pen.fillText(String(i), centre(i), MARGIN / 2);
    pen.fillText(String(i), MARGIN / 2, centre(i));
  }
  for (let row = 0; row < 10; row++) {
    const most = Math.max(1, (confusion[row] ?? []).reduce((sum, count) => sum + count, 0));
    for (let column = 0; column < 10; column++) {
      const count = confusion[row]?.[column] ?? 0;
      const share = count / most;
      const [x, y] = [MARGIN + column * CELL, MARGIN + row * CELL];
      pen.globalAlpha = count === 0 ? 0.06 : 0.15 + 0.85 * Math.sqrt(share);
      pen.fillStyle = colour(row === column ? "--accent" : "--bad");
      pen.fillRect(x + 1, y + 1, CELL - 2, CELL - 2);
      pen.globalAlpha = 1;
      pen.fillStyle = colour(share > 0.25 ? "--on-accent" : "--ink");
      if (count > 0) pen.fillText(String(count), centre(column), centre(row));
    }
  }
}

/** A canvas is not drawn anew by itself when the system's wish changes. */
function useColourScheme() {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const changed = () => setDark(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  return dark;
}
