// The connection, the owner and its change, in words.

/** @typedef {import("../session.js").Connection} Connection */
/** @typedef {import("./reducer.js").DemoState} DemoState */
/** @typedef {import("./reducer.js").Change} Change */

/** Ticks without an answer after which the page says that the worker is away. */
const LATE = 2;

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
      return `closed (${why}); reload the page to start over`;
  }
}

/**
 * @param {DemoState} state
 * @param {Connection} connection
 * @returns {string}
 */
export function ownerInWords({ owner, unanswered }, connection) {
  if (!owner) return "session: not known yet";
  const { session, worker, process } = owner;
  const away = connection.status === "open" && unanswered >= LATE;
  const where = away ? `waiting for worker ${worker}` : `on worker ${worker}, process ${process}`;
  return `session ${session} ${where}`;
}

/**
 * @param {Change} change
 * @returns {string}
 */
export function changeInWords({ from, to, lost }) {
  const what = happening(from, to);
  if (lost) {
    return (
      `${what}, and your session started again from nothing: what it held was not saved ` +
      "(with the store “memory:” nothing is). Values on this page may be from before."
    );
  }
  return `${what}. Your session went on from where it was last saved.`;
}

/**
 * @param {Change["from"]} from
 * @param {Change["to"]} to
 */
function happening(from, to) {
  if (from.worker !== to.worker) {
    return `Your session moved from worker ${from.worker} to worker ${to.worker}`;
  }
  if (from.process !== to.process) return `Worker ${to.worker} was restarted`;
  return `Worker ${to.worker} has loaded your session again`;
}
