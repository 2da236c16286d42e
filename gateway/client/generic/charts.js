// Small drawings as SVG. Each is an image with words for those who do not see it.

import { html } from "./html.js";
import { numberInWords } from "./values.js";

/** Wider than this a line has no more points than pixels. */
const MOST_POINTS = 300;
const WIDTH = 300;

/**
 * The past of a number.
 *
 * @param {{ id?: string, values: readonly number[], height?: number }} props
 */
export function Sparkline({ id, values, height = 36 }) {
  if (values.length < 2) return null;
  return html`<svg id=${id} class="chart" role="img" viewBox="0 0 ${WIDTH} ${height}"
    preserveAspectRatio="none" style=${`height: ${height}px`} aria-label=${inWords(values)}>
    <path d=${pathOf(thinned(values), height)} />
  </svg>`;
}

/**
 * A vector over its index, with the bounds of both axes.
 *
 * @param {{ id?: string, values: readonly number[] }} props
 */
export function Plot({ id, values }) {
  const [low, high] = boundsOf(values);
  return html`<figure class="plot">
    <${Sparkline} id=${id} values=${values} height=${120} />
    <figcaption>
      <span>${values.length} numbers</span>
      <span>lowest ${numberInWords(low)}, highest ${numberInWords(high)}</span>
    </figcaption>
  </figure>`;
}

/**
 * Named amounts beside each other.
 *
 * @param {{ parts: Record<string, number> }} props
 */
export function Bars({ parts }) {
  const most = Math.max(...Object.values(parts)) || 1;
  return html`<table class="bars">
    ${Object.entries(parts).map(
      ([name, amount]) => html`<tr>
        <th scope="row">${name}</th>
        <td class="track"><span style=${`width: ${(amount / most) * 100}%`}></span></td>
        <td>${numberInWords(amount)}</td>
      </tr>`,
    )}
  </table>`;
}

/**
 * The line through all values, from the left edge to the right.
 *
 * @param {readonly number[]} values
 * @param {number} height
 */
export function pathOf(values, height) {
  const [low, high] = boundsOf(values);
  const step = WIDTH / (values.length - 1);
  // What never changes lies in the middle.
  const scale = high > low ? (height - 4) / (high - low) : 0;
  const base = high > low ? height - 2 : height / 2;
  const points = values.map((value, i) => `${round(i * step)},${round(base - (value - low) * scale)}`);
  return `M${points.join("L")}`;
}

/**
 * No more points than can be seen: of each stretch its lowest and its highest.
 *
 * @param {readonly number[]} values
 */
export function thinned(values) {
  if (values.length <= MOST_POINTS) return values;
  const stretch = Math.ceil(values.length / (MOST_POINTS / 2));
  const points = [];
  for (let i = 0; i < values.length; i += stretch) {
    points.push(...boundsOf(values.slice(i, i + stretch)));
  }
  return points;
}

/** @param {readonly number[]} values */
function boundsOf(values) {
  // A spread of very many values is too much for a call.
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [
    Infinity,
    -Infinity,
  ]);
}

/** @param {readonly number[]} values */
function inWords(values) {
  const [low, high] = boundsOf(values);
  const last = values[values.length - 1];
  const words = [last, low, high].map(numberInWords);
  return `${values.length} values, last ${words[0]}, lowest ${words[1]}, highest ${words[2]}`;
}

/** @param {number} number */
function round(number) {
  return Math.round(number * 10) / 10;
}
