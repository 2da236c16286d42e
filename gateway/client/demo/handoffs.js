// Handoffs of the session, and how long the page has heard nothing because of each. Pure: what time
// it is, is told with everything that happens.

/**
 * The session went from one owner to the next.
 * @typedef {object} Handoff
 * @property {number} epoch of the new ownership
 * @property {number} from index of the worker
 * @property {number} to index of the worker
 * @property {number | null} pause in ms, between the last word of the one and the first of the
 *   other; null when the session had nothing to say, so that nobody can tell
 * @property {number | null} step of the training, if one runs
 */

/**
 * @typedef {object} Watch
 * @property {number} heard when the session last said something
 * @property {number} disturbed when this page last asked for a disturbance
 * @property {number | null | undefined} since while the new owner has not said anything: from when
 *   on its pause counts, or null if nobody can tell; else undefined
 * @property {number | null} pause of the handoff that is not listed yet
 * @property {boolean} busy the session talks all the time, since it trains a model
 */

/** @type {Readonly<Watch>} */
export const QUIET = Object.freeze({
  heard: -Infinity,
  disturbed: -Infinity,
  since: undefined,
  pause: null,
  busy: false,
});

/** More are not listed. */
export const MOST = 12;

/** A disturbance that was asked for takes effect within this time. */
const EFFECT_MS = 10_000;

/**
 * The session says something.
 *
 * @param {Watch} watch
 * @param {number} now
 * @returns {Watch}
 */
export function heard(watch, now) {
  if (watch.since === undefined) return { ...watch, heard: now };
  const pause = watch.since === null ? watch.pause : now - watch.since;
  return { ...watch, heard: now, since: undefined, pause };
}

/**
 * Another owner answers from now on.
 *
 * @param {Watch} watch
 * @param {number} now
 * @returns {Watch}
 */
export function replaced(watch, now) {
  // The one before has not said anything: it is one pause for who waits.
  if (typeof watch.since === "number") return watch;
  // What was heard since then came from an owner that it had not reached, or no more.
  const asked = watch.disturbed > watch.heard && now - watch.disturbed < EFFECT_MS;
  const since = asked ? watch.disturbed : null;
  return { ...watch, since: watch.busy ? watch.heard : since };
}

/**
 * @param {readonly Handoff[]} handoffs
 * @param {Handoff} handoff
 */
export function listed(handoffs, handoff) {
  return [...handoffs, handoff].slice(-MOST);
}
