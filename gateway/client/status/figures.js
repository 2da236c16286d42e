// From one `/status` after another to what the page shows: rates and their past. Pure.

/** So many looks are remembered: two minutes of one a second. */
export const KEPT = 120;

/**
 * @typedef {object} Worker as `/status` has it
 * @property {number} index
 * @property {string} address
 * @property {string} state
 * @property {boolean} retired
 * @property {number} sessions with a browser at this gateway
 * @property {number} streams
 * @property {number} messages_out what it has said to browsers of this gateway
 * @property {number | null} incarnation
 * @property {string | null} build
 * @property {number | null} round_trip_us
 * @property {Load | null} [load] what it says of itself, if the gateway may ask it
 *
 * @typedef {object} Load
 * @property {number} sessions in its memory
 * @property {number} dirty sessions with changes that are not committed
 * @property {number} oldest_change_ms age of the oldest of these changes
 * @property {number} commits
 *
 * @typedef {object} Status
 * @property {number | null} generation
 * @property {string | null} placement
 * @property {number} connections
 * @property {boolean} draining
 * @property {number} waiting
 * @property {number} moving
 * @property {{ handoff: number, failover: number, reset: number }} moves
 * @property {number} messages_in
 * @property {number} messages_out
 * @property {Worker[]} workers
 * @property {{ at_ms: number, what: string, worker: number | null }[]} events
 *
 * @typedef {object} Series numbers of the looks so far, oldest first
 * @property {number[]} connections
 * @property {number[]} in messages a second from browsers
 * @property {number[]} out messages a second to browsers
 * @property {Record<string, number[]>} workers messages a second of each, by address
 *
 * @typedef {object} History
 * @property {{ at: number, status: Status } | null} last
 * @property {Series} series
 */

/** @type {Readonly<History>} */
export const NOTHING = Object.freeze({
  last: null,
  series: { connections: [], in: [], out: [], workers: {} },
});

/**
 * One more look.
 *
 * @param {History} history
 * @param {Status} status
 * @param {number} at ms of the page's clock
 * @returns {History}
 */
export function look({ last, series }, status, at) {
  const seconds = last ? (at - last.at) / 1000 : 0;
  /** A counter that went back belongs to a process that was started again. */
  const rate = (/** @type {number} */ now, /** @type {number | undefined} */ before) =>
    before === undefined || seconds <= 0 || now < before ? 0 : (now - before) / seconds;
  const before = last?.status;
  /** @type {Record<string, number[]>} */
  const workers = {};
  for (const worker of status.workers) {
    const earlier = before?.workers.find(({ address }) => address === worker.address);
    const said = rate(worker.messages_out, earlier?.messages_out);
    workers[worker.address] = grown(series.workers[worker.address], said);
  }
  return {
    last: { at, status },
    series: {
      connections: grown(series.connections, status.connections),
      in: grown(series.in, rate(status.messages_in, before?.messages_in)),
      out: grown(series.out, rate(status.messages_out, before?.messages_out)),
      workers,
    },
  };
}

/**
 * @param {readonly number[]} [numbers]
 * @param {number} [next]
 */
function grown(numbers = [], next = 0) {
  return [...numbers, next].slice(-KEPT);
}

/** The newest number of a series. @param {readonly number[]} numbers */
export function newest(numbers) {
  return numbers[numbers.length - 1] ?? 0;
}

/** @param {number} perSecond */
export function rateInWords(perSecond) {
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

/** @param {number | null} us */
export function roundTripInWords(us) {
  if (us === null) return "–";
  return us < 1000 ? `${us} µs` : `${(us / 1000).toFixed(1)} ms`;
}

/**
 * What a state means for its sessions.
 *
 * @param {Worker} worker
 */
export function stateInWords({ state, retired }) {
  if (retired) return `${state}, not in the list any more`;
  switch (state) {
    case "up":
      return "up";
    case "draining":
      return "draining: it hands its sessions over";
    case "dialling":
      return "being dialled: its sessions wait";
    default:
      return "down: others have its sessions";
  }
}

/** @param {Status} status */
export function aboutInWords({ generation, placement, workers, draining }) {
  const listed = workers.filter(({ retired }) => !retired);
  const up = listed.filter(({ state }) => state === "up").length;
  const list = generation === null ? "no list of workers yet" : `generation ${generation}, placement ${placement}`;
  return `${up} of ${listed.length} workers up · ${list}${draining ? " · this gateway is draining" : ""}`;
}
