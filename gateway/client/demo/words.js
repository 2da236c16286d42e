// The connection, the owner and its change, in words.

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
      return `closed (${why}); reload the page to start over`;
  }
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

/**
 * @param {Change} change
 * @returns {string}
 */
export function changeInWords({ from, to, lost }) {
  const what = happening(from, to);
  if (lost) {
    return (
      `${what}, and your session started again from nothing: what it held was not saved ` +
      "(with the store “memory:” nothing is)."
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
