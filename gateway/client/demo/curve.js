// From losses to lines: what a chart of them looks like. Pure geometry, without colours or markup.

/**
 * What the session assigns as `curve`: point `i` is of step `(i + 1) * every`.
 * @typedef {object} Curve
 * @property {number} every
 * @property {number[]} train
 * @property {number[]} test
 * @property {number[]} accuracy
 */

/**
 * @typedef {object} Frame the room for the lines, in the chart's own units
 * @property {number} left
 * @property {number} top
 * @property {number} right
 * @property {number} bottom
 */

/**
 * @typedef {object} Tick
 * @property {number} at
 * @property {string} text
 */

/** The loss of who guesses one of ten digits; there a training begins. */
const GUESSING = Math.log(10);

/**
 * @param {Curve} curve
 * @param {Frame} frame
 */
export function plot({ every, train, test }, frame) {
  const last = Math.max(train.length * every, 2);
  const highest = niceCeiling(Math.max(...train, ...test, train.length === 0 ? GUESSING : 0.1));
  /** @param {number} step */
  const x = (step) => round(frame.left + ((frame.right - frame.left) * step) / last);
  /** @param {number} loss */
  const y = (loss) => round(frame.bottom - ((frame.bottom - frame.top) * loss) / highest);
  /** @param {number[]} losses */
  const line = (losses) => losses.map((loss, i) => `${x((i + 1) * every)},${y(loss)}`).join(" ");
  return {
    train: line(train),
    test: line(test),
    /** @type {Tick[]} */
    losses: [0, highest / 2, highest].map((loss) => ({ at: y(loss), text: String(round(loss)) })),
    /** @type {Tick[]} */
    steps: [0, last].map((step) => ({ at: x(step), text: String(step) })),
    /** Where a step is, or null outside the chart. @param {number} step */
    at: (step) => (step > last ? null : x(step)),
  };
}

/**
 * The least round number that is not below, and whose half is round too.
 *
 * @param {number} value above 0
 */
export function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 1.5, 2, 3, 4, 6, 8].find((factor) => factor * power >= value) ?? 10;
  return Number((factor * power).toPrecision(3));
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 100) / 100;
}

/**
 * The mistake that was made most often.
 *
 * @param {number[][]} confusion how many images of a digit (outer index) were read as which
 * @returns {{ digit: number, readAs: number, count: number } | null} null if all is right
 */
export function worstMistake(confusion) {
  let worst = null;
  for (const [digit, row] of confusion.entries()) {
    for (const [readAs, count] of row.entries()) {
      if (digit !== readAs && count > (worst?.count ?? 0)) worst = { digit, readAs, count };
    }
  }
  return worst;
}
