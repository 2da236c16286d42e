// The page's whole state, and what each message does to it: the session's messages, and the page's
// own, whose tags begin with `_` (such tags never come from a session). Pure.

import { MOST, QUIET, heard, listed, replaced } from "./handoffs.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {import("./handoffs.js").Handoff} Handoff */
/** @typedef {import("./handoffs.js").Watch} Watch */

/**
 * Who owns the session: the answer to `{"tag":"where"}`.
 * @typedef {object} Owner
 * @property {string} session
 * @property {number} worker index
 * @property {number} process the worker's process number
 * @property {number} epoch rises with each new ownership
 * @property {string} born another one than before: the session has started from nothing
 */

/**
 * The session has another owner than before. A worker that died is soon back, and so is its session:
 * that it was elsewhere is told as long as nobody has read it.
 * @typedef {object} Change
 * @property {readonly Owner[]} owners the one before, and those since; the last ones
 * @property {boolean} lost it started again from nothing: what it held was not saved
 */

/**
 * @typedef {object} DemoState
 * @property {number} yaks local: this counter never leaves the page
 * @property {Record<string, any>} assigned the session's mirrored values, by key
 * @property {string[] | null} items the notes, as last listed
 * @property {Owner | null} owner
 * @property {Change | null} change of the owner, until it is dismissed
 * @property {readonly Handoff[]} handoffs since the page was loaded, the last ones
 * @property {Watch} watch
 * @property {Dev | null} dev
 * @property {string} error what last went wrong, in words
 */

/**
 * `gateway dev` obeys this page.
 * @typedef {object} Dev
 * @property {number} workers how many it runs
 * @property {boolean} asked the page waits for its answer
 */

/** @type {Readonly<DemoState>} */
export const initial = Object.freeze({
  yaks: 0,
  assigned: {},
  items: null,
  owner: null,
  change: null,
  handoffs: [],
  watch: QUIET,
  dev: null,
  error: "",
});

/**
 * @param {DemoState} state
 * @param {Message} message
 * @param {number} now in ms, by a clock that never steps
 * @returns {DemoState}
 */
export function reducer(state, message, now) {
  if (message.tag.startsWith("_")) return own(state, message, now);
  return said({ ...state, watch: heard(state.watch, now) }, message);
}

/**
 * A message of the session.
 *
 * @param {DemoState} state
 * @param {Message} message
 * @returns {DemoState}
 */
function said(state, message) {
  switch (message.tag) {
    case "assign":
      return assigned(state, message.key, message.value);
    case "items":
      return { ...state, items: message.items };
    case "error":
      return { ...state, error: errorInWords(message) };
    case "where":
      return located(state, ownerOf(message));
    default:
      return state;
  }
}

/**
 * @param {DemoState} state
 * @param {string} key
 * @param {any} value
 * @returns {DemoState}
 */
function assigned(state, key, value) {
  const isTraining = key === "training";
  const watch = isTraining ? { ...state.watch, busy: value === "running" } : state.watch;
  return { ...state, watch, assigned: { ...state.assigned, [key]: value } };
}

/**
 * A message of the page to itself.
 *
 * @param {DemoState} state
 * @param {Message} message
 * @param {number} now
 * @returns {DemoState}
 */
function own(state, message, now) {
  const { watch } = state;
  switch (message.tag) {
    case "_replaced":
      return { ...state, watch: replaced(watch, now) };
    case "_disturbed":
      return { ...state, watch: { ...watch, disturbed: now } };
    case "_dev":
      return { ...state, dev: message.dev };
    case "_failed":
      return { ...state, error: message.error };
    case "_shave":
      return { ...state, yaks: state.yaks + 1 };
    case "_unsent":
      return { ...state, error: `A message was ${message.reason}.` };
    case "_dismiss_error":
      return { ...state, error: "" };
    case "_dismiss_change":
      return { ...state, change: null };
    default:
      return state;
  }
}

/**
 * What the session has said counts no more, since a full picture follows; what is the page's own
 * stays. A list that was shown is empty until it is asked for again: see cards.js.
 *
 * @param {DemoState} state
 * @returns {DemoState}
 */
export function onReset(state) {
  return { ...state, assigned: {}, items: state.items && [] };
}

/**
 * A later owner has what the one before had saved, and what the page sends again.
 *
 * @param {DemoState} state
 * @param {Owner} owner
 * @returns {DemoState}
 */
function located(state, owner) {
  const from = state.owner;
  if (from === null || from.session !== owner.session) {
    return { ...state, owner, change: null, handoffs: [] };
  }
  // The answer of an owner that is gone already may come late, or once more.
  if (owner.epoch < from.epoch) return state;
  if (owner.epoch === from.epoch) return { ...state, owner };
  const { pause, busy } = state.watch;
  const step = busy ? (state.assigned.progress?.done ?? null) : null;
  const handoff = { epoch: owner.epoch, from: from.worker, to: owner.worker, pause, step };
  return {
    ...state,
    owner,
    change: changed(state.change, from, owner),
    handoffs: listed(state.handoffs, handoff),
    watch: { ...state.watch, pause: null },
  };
}

/**
 * What nobody has read yet is not hidden by what follows it.
 *
 * @param {Change | null} unread
 * @param {Owner} from
 * @param {Owner} to
 * @returns {Change}
 */
function changed(unread, from, to) {
  const lost = from.born !== to.born || (unread?.lost ?? false);
  return { owners: [...(unread?.owners ?? [from]), to].slice(-MOST), lost };
}

/**
 * @param {Message} message
 * @returns {Owner}
 */
function ownerOf({ session, worker, process, epoch, born }) {
  return { session, worker, process, epoch, born };
}

/** @param {Message} message */
function errorInWords({ error, details }) {
  if (details === undefined || details === null || details === "") return String(error);
  return `${error}: ${typeof details === "string" ? details : JSON.stringify(details)}`;
}
