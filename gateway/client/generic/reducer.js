// The page's whole state, and what each message does to it: the session's messages, and the page's
// own, whose tags begin with `_` (such tags never come from a session). Pure but for the clock that
// it is made with.

import { BINARY_TAG, utf8Length } from "../message.js";
import { imageType, sampleOf } from "./values.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {import("./values.js").Sample} Sample */

/** A number's past is kept for so many changes, … */
export const MOST_SAMPLES = 240;
/** … and so many lines of each list. */
export const MOST_LINES = 100;

/**
 * A mirrored key.
 * @typedef {{ value: any, bytes: number }} Entry
 *
 * Something that happened; what repeats itself at once is one line.
 * @typedef {{ id: number, at: number, title: string, body: string, times: number }} Line
 *
 * A message of this page. `outcome`: `waiting`, `taken` for good, or why it was given up.
 * @typedef {{ id: number, at: number, text: string, message: Message | null, outcome: string }} Sent
 *
 * @typedef {object} GenericState
 * @property {Record<string, Entry>} entries the session's mirrored values, by key
 * @property {Record<string, Sample[]>} samples how numbers came to be what they are, by key
 * @property {{ bytes: Uint8Array, type: string } | null} picture the last binary message that is one
 * @property {Line[]} events newest first
 * @property {Line[]} errors newest first
 * @property {Sent[]} sent newest first
 * @property {{ worker: number | null, epoch: number } | null} owner
 * @property {string} notice the error to be read now; empty: none
 * @property {number} count of lines so far
 */

/** @type {Readonly<GenericState>} */
export const initial = Object.freeze({
  entries: {},
  samples: {},
  picture: null,
  events: [],
  errors: [],
  sent: [],
  owner: null,
  notice: "",
  count: 0,
});

/**
 * @param {() => number} now ms of the page's clock
 * @returns {(state: GenericState, message: Message) => GenericState}
 */
export function reducerOf(now) {
  return (state, message) => {
    switch (message.tag) {
      case "assign":
        return assign(state, message.key, message.value, now());
      case "error": {
        const { error, details } = message;
        const next = note(state, "errors", String(error), textOf(details), now());
        return { ...next, notice: sentence(error, details) };
      }
      case BINARY_TAG:
        return binary(state, message.bytes, now());
      case "_welcome":
        return welcome(state, message, now());
      case "_publish": {
        const { id, text } = message;
        const line = { id, at: now(), text, message: message.message, outcome: "waiting" };
        return { ...state, sent: [line, ...state.sent].slice(0, MOST_LINES) };
      }
      case "_settled": {
        const { id, outcome } = message;
        return { ...state, sent: state.sent.map((sent) => (sent.id === id ? { ...sent, outcome } : sent)) };
      }
      case "_dismiss":
        return { ...state, notice: "" };
      case "_forget_errors":
        return { ...state, errors: [], notice: "" };
      case "_forget_events":
        return { ...state, events: [] };
      default: {
        const { tag, ...fields } = message;
        return note(state, "events", tag, textOf(fields), now());
      }
    }
  };
}

/**
 * What the session has said counts no more, since a full picture follows. What has happened stays,
 * and so does the past of numbers: they go on.
 *
 * @param {GenericState} state
 * @returns {GenericState}
 */
export function onReset(state) {
  return { ...state, entries: {} };
}

/**
 * @param {GenericState} state
 * @param {string} key
 * @param {any} value absent: the session does not have the key
 * @param {number} at
 * @returns {GenericState}
 */
function assign(state, key, value, at) {
  if (value === undefined) {
    const { [key]: _, ...entries } = state.entries;
    return { ...state, entries };
  }
  const entry = { value, bytes: utf8Length(JSON.stringify(value)) };
  const next = { ...state, entries: { ...state.entries, [key]: entry } };
  const sample = sampleOf(key, value);
  if (sample === null) return next;
  // Keys are the app's: one may be called as what every object has.
  const before = Object.hasOwn(state.samples, key) ? state.samples[key] : [];
  const samples = [...before, { at, value: sample }].slice(-MOST_SAMPLES);
  return { ...next, samples: { ...state.samples, [key]: samples } };
}

/**
 * @param {GenericState} state
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function binary(state, bytes, at) {
  const type = imageType(bytes);
  const next = note(state, "events", type ?? "binary", `${bytes.byteLength} bytes`, at);
  return type === null ? next : { ...next, picture: { bytes, type } };
}

/**
 * @param {GenericState} state
 * @param {Message} welcome
 * @param {number} at
 */
function welcome(state, { worker, epoch, resumed, replaced }, at) {
  const next = { ...state, owner: { worker, epoch } };
  if (!replaced) return next;
  const who = worker === null ? "Another worker" : `Worker ${worker}`;
  const how = resumed ? "nothing is missing" : "it goes on from what was last saved";
  return note(next, "events", "moved", `${who} has the session now; ${how}`, at);
}

/**
 * @param {GenericState} state
 * @param {"events" | "errors"} list
 * @param {string} title
 * @param {string} body
 * @param {number} at
 * @returns {GenericState}
 */
function note(state, list, title, body, at) {
  const [newest, ...older] = state[list];
  if (newest && newest.title === title && newest.body === body) {
    return { ...state, [list]: [{ ...newest, at, times: newest.times + 1 }, ...older] };
  }
  const line = { id: state.count + 1, at, title, body, times: 1 };
  return { ...state, count: line.id, [list]: [line, ...state[list]].slice(0, MOST_LINES) };
}

/** Bytes of all that is mirrored, as JSON. @param {GenericState} state */
export function mirroredBytes({ entries }) {
  return Object.values(entries).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** @param {any} value */
function textOf(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  return Object.keys(value).length === 0 ? "" : JSON.stringify(value);
}

/**
 * @param {any} error
 * @param {any} details
 */
function sentence(error, details) {
  const more = textOf(details);
  return more === "" ? String(error) : `${error} (${more})`;
}
