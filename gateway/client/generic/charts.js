// Small drawings as SVG. Each is an image with words for those who do not see it.

import { html } from "./html.js";
import { WIDTH, boundsOf, pathOf, thinned } from "./path.js";
import { numberInWords } from "./values.js";

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

/** @param {readonly number[]} values */
function inWords(values) {
  const [low, high] = boundsOf(values);
  const last = values[values.length - 1];
  const words = [last, low, high].map(numberInWords);
  return `${values.length} values, last ${words[0]}, lowest ${words[1]}, highest ${words[2]}`;
}
