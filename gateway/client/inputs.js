// Inputs that are not acknowledged: their numbers, and how many may be kept. Pure.

/** Unacknowledged inputs that are kept: messages … */
export const UNACKED_MESSAGES = 1024;
/** … and bytes, or one message if that is larger. */
export const UNACKED_BYTES = 1024 * 1024;

/**
 * @typedef {object} Input
 * @property {number} ticket unique in this page, also when the input goes to another channel
 * @property {number} number
 * @property {string | Uint8Array} body
 * @property {number} size
 * @property {string | null} key which it assigns
 *
 * @typedef {object} Inputs
 * @property {number} last highest number given
 * @property {number} sent highest number that someone else may have seen
 * @property {readonly Input[]} unacked with rising numbers, without gaps
 * @property {number} bytes of them
 */

/** @type {Readonly<Inputs>} */
export const NO_INPUTS = Object.freeze({ last: 0, sent: 0, unacked: [], bytes: 0 });

/**
 * Inputs as an earlier life of the page has left them; which of them it had sent is not known.
 *
 * @param {number} last
 * @param {readonly Input[]} unacked
 * @returns {Inputs}
 */
export function restoredInputs(last, unacked) {
  return { last, sent: last, unacked, bytes: sizeOf(unacked) };
}

/**
 * Whether an input of this size cannot be taken now.
 *
 * @param {Inputs} inputs
 * @param {number} size
 */
export function isFull({ unacked, bytes, last }, size) {
  const many = unacked.length >= UNACKED_MESSAGES || last >= Number.MAX_SAFE_INTEGER;
  return many || (unacked.length > 0 && bytes + size > UNACKED_BYTES);
}

/**
 * @param {Inputs} inputs
 * @param {Omit<Input, "number">} unnumbered
 * @returns {Inputs} with the input as the last one
 */
export function added(inputs, unnumbered) {
  const last = inputs.last + 1;
  const unacked = [...inputs.unacked, { ...unnumbered, number: last }];
  return { ...inputs, last, unacked, bytes: inputs.bytes + unnumbered.size };
}

/**
 * @param {Inputs} inputs
 * @param {number} number all up to this one are applied for good
 * @returns {{ inputs: Inputs, settled: readonly Input[] }}
 */
export function settledUpTo(inputs, number) {
  const count = inputs.unacked.findIndex((input) => input.number > number);
  const settled = count < 0 ? inputs.unacked : inputs.unacked.slice(0, count);
  const unacked = inputs.unacked.slice(settled.length);
  return { inputs: { ...inputs, unacked, bytes: inputs.bytes - sizeOf(settled) }, settled };
}

/**
 * Without inputs that are longer than the server takes, as far as nobody has seen their numbers: those
 * that follow move up.
 *
 * @param {Inputs} inputs
 * @param {number} longest
 * @returns {{ inputs: Inputs, refused: readonly Input[] }}
 */
export function withoutLong(inputs, longest) {
  const { unacked, sent } = inputs;
  const refused = unacked.filter(({ number, size }) => number > sent && size > longest);
  if (refused.length === 0) return { inputs, refused };
  const seen = unacked.filter(({ number }) => number <= sent);
  const short = unacked.filter(({ number, size }) => number > sent && size <= longest);
  const kept = [...seen, ...short.map((input, i) => ({ ...input, number: sent + 1 + i }))];
  return { inputs: { ...inputs, last: sent + short.length, unacked: kept, bytes: sizeOf(kept) }, refused };
}

/**
 * For another channel: what was sent is given up, since it may be applied or not. Nobody has seen
 * the numbers of the others, so they begin with 1 there.
 *
 * @param {Inputs} inputs
 * @returns {{ inputs: Inputs, given: readonly Input[] }}
 */
export function moved({ unacked, sent }) {
  const given = unacked.filter(({ number }) => number <= sent);
  const kept = unacked.slice(given.length).map((input, i) => ({ ...input, number: i + 1 }));
  return { inputs: { ...NO_INPUTS, last: kept.length, unacked: kept, bytes: sizeOf(kept) }, given };
}

/** @param {readonly Input[]} inputs */
function sizeOf(inputs) {
  return inputs.reduce((sum, { size }) => sum + size, 0);
}
