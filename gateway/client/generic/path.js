// Lines through numbers, as SVG draws them. Pure, and without a library: the status page has it too.

/** Units of a drawing from its left edge to its right. */
export const WIDTH = 300;
/** More points than that cannot be told from each other. */
const MOST_POINTS = 300;

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

/** The lowest and the highest. @param {readonly number[]} values */
export function boundsOf(values) {
  // A spread of very many values is too much for a call.
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [
    Infinity,
    -Infinity,
  ]);
}

/** @param {number} number */
function round(number) {
  return Math.round(number * 10) / 10;
}
