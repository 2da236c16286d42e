// How long to wait before the next try. Full jitter: after a gateway restarts, its browsers must
// not all come back in the same moment, so the wait is drawn from the whole range, not around it.

export const FIRST_MS = 500;
export const LONGEST_MS = 30_000;

/**
 * `random(0, min(30 s, 0.5 s * 2^i))`, in milliseconds.
 *
 * @param {number} i tries that failed before this one: 0, 1, 2 …
 * @param {number} random from 0 up to 1, as `Math.random()` gives it
 * @returns {number}
 */
export function backoff(i, random) {
  return random * Math.min(LONGEST_MS, FIRST_MS * 2 ** i);
}
