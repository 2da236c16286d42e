// The connection, the owner and its changes, and the figures of a training, in words.

import { worstMistake } from "./curve.js";

/** @typedef {import("../connection.js").Connection} Connection */
/** @typedef {import("./reducer.js").DemoState} DemoState */
/** @typedef {import("./reducer.js").Change} Change */

/**
 * @param {Connection} connection
 * @returns {string}
 */
export function connectionInWords({ status, retryIn, code, reason }) {
  const why = [code, reason].filter(Boolean).join(" ");
  switch (status) {
    case "connecting":
      return "connecting…";
    case "open":
      return "connected";
    case "waiting":
      return `no connection (${why}); trying again in ${(retryIn / 1000).toFixed(1)} s`;
    case "closed":
      return `closed (${why})`;
  }
}

/**
 * What stands in the way, and what its user can do.
 * @typedef {object} Trouble
 * @property {string} text
 * @property {boolean} urgent
 * @property {"fresh" | "reload" | null} way out: a new session, a reload, or nothing but patience
 */

/** After so many tries in a row, more than a hiccup is the matter. */
const MANY_FAILURES = 3;

/** What can be done about a connection that was closed for good. */
const CLOSED = new Map([
  [4401, "This link to the session has expired, or no server of this cluster made it."],
  [4403, "This session belongs to somebody else."],
  [4503, "This session is quarantined: it ended its worker again and again, or what was saved of it cannot be read. It is kept for whoever runs the server."],
]);


/**
 * @param {Pick<import("../single-state.js").View<unknown>, "connection" | "unacknowledged">} view
 * @param {boolean} late something has not been saved for a while, although there is a connection
 * @returns {Trouble | null}
 */
export function troubleInWords({ connection, unacknowledged }, late) {
  const { status, failures, code } = connection;
  const waiting = unacknowledged === 0 ? "" : ` ${changes(unacknowledged)} will be sent then.`;
  if (status === "closed") {
    const fresh = code !== null && CLOSED.get(code);
    if (fresh) return { text: fresh, urgent: true, way: "fresh" };
    const taken = "This session goes on in a copy of this tab.";
    const text = code === 4409 ? taken : "The connection was closed for good.";
    return { text, urgent: true, way: "reload" };
  }
  if (status !== "open" && code === 4429) {
    const text = `This session is open in too many tabs. Close some: this one tries again by itself.${waiting}`;
    return { text, urgent: true, way: null };
  }
  if (status !== "open" && failures >= MANY_FAILURES) {
    const text = `The server is away. This page tries again by itself; is your network up, and does the server run?${waiting}`;
    return { text, urgent: true, way: null };
  }
  if (status !== "open" && failures > 0) {
    return { text: `Reconnecting. You can go on working.${waiting}`, urgent: false, way: null };
  }
  if (status === "open" && late) {
    const text = `${changes(unacknowledged)} cannot be saved just now: the server may not reach its database. Keep this tab open; it is saved when that works again.`;
    return { text, urgent: true, way: null };
  }
  return null;
}

/** @param {number} count */
function changes(count) {
  return count === 1 ? "1 change" : `${count} changes`;
}

/**
 * @param {Pick<import("../single-state.js").View<unknown>, "unacknowledged" | "durability">} view
 * @returns {string}
 */
export function savingInWords({ unacknowledged, durability }) {
  if (durability === null) return unacknowledged === 0 ? "" : `${unacknowledged} not sent yet`;
  if (durability === "memory") return "this session is not saved";
  return unacknowledged === 0 ? "all saved" : `${unacknowledged} not saved yet`;
}

/**
 * @param {DemoState} state
 * @returns {string}
 */
export function ownerInWords({ owner }) {
  if (!owner) return "session: not known yet";
  return `session ${owner.session} on worker ${owner.worker}, process ${owner.process}`;
}

/** Of more workers in a row, only the last are told. */
const WORKERS_TOLD = 3;

/**
 * @param {Change} change
 * @returns {string}
 */
export function changeInWords({ owners, lost }) {
  const what = happening(owners);
  if (lost) {
    return (
      `${what}, and your session started again from nothing: what it held was not saved ` +
      "(with the store “memory:” nothing is)."
    );
  }
  return `${what}. Your session went on from where it was last saved.`;
}

/** @param {Change["owners"]} owners */
function happening(owners) {
  const workers = owners.map(({ worker }) => worker);
  const moves = workers.filter((worker, i) => worker !== workers[i - 1]).slice(-WORKERS_TOLD);
  const [first, next, last] = moves;
  if (next !== undefined) {
    const moved = `Your session moved from worker ${first} to worker ${next}`;
    if (last === undefined) return moved;
    return last === first ? `${moved} and back` : `${moved} and on to worker ${last}`;
  }
  const [before, now] = owners.slice(-2);
  if (before.process !== now.process) return `Worker ${now.worker} was restarted`;
  return `Worker ${now.worker} has loaded your session again`;
}

/**
 * @param {import("./handoffs.js").Handoff} handoff
 * @returns {string}
 */
export function handoffInWords({ epoch, from, to, pause }) {
  const moved = from === to ? `worker ${to} again` : `from worker ${from} to worker ${to}`;
  const how = pause === null ? "nothing was under way" : `a pause of ${Math.round(pause)} ms`;
  return `epoch ${epoch}: ${moved}, ${how}`;
}

/**
 * @param {number | null | undefined} ms
 * @returns {string} nothing as long as nobody knows
 */
export function timeInWords(ms) {
  if (typeof ms !== "number") return "";
  const seconds = Math.ceil(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** @param {number | null | undefined} share */
export function percent(share) {
  return typeof share === "number" ? `${(share * 100).toFixed(1)} %` : "–";
}

/**
 * The chart, for who does not see it.
 *
 * @param {import("./curve.js").Curve | null | undefined} curve
 */
export function lossesInWords(curve) {
  const train = curve?.train ?? [];
  const test = curve?.test ?? [];
  if (train.length === 0) return "Chart of the losses; no step was made yet";
  const [first, last] = [train[0], train[train.length - 1]];
  return `Chart of the losses: in training from ${first} to ${last}, in the test now ${test[test.length - 1]}`;
}

/** @param {number[][] | null | undefined} confusion */
export function mistakeInWords(confusion) {
  if (!confusion) return "Which digit (row) is read as which (column)";
  const all = confusion.flat().reduce((sum, count) => sum + count, 0);
  const right = confusion.reduce((sum, row, digit) => sum + row[digit], 0);
  const worst = worstMistake(confusion);
  const told = `${right} of ${all} digits (rows) are read right`;
  if (worst === null) return told;
  const times = worst.count === 1 ? "once" : `${worst.count} times`;
  return `${told}; a ${worst.digit} is read as a ${worst.readAs} (column) ${times}`;
}
