// The page's whole state, and what each message does to it: the session's messages, and the page's
// own, whose tags begin with `_` (such tags never come from a session). Pure.

/** @typedef {import("../protocol.js").Message} Message */

/**
 * Who owns the session: the answer to `{"tag":"where"}`.
 * @typedef {object} Owner
 * @property {string} session
 * @property {number} worker index
 * @property {number} epoch rises with each new ownership
 * @property {boolean} restored the owner loaded what an earlier one had saved
 */

/**
 * @typedef {object} DemoState
 * @property {number} yaks local: this counter never leaves the page
 * @property {Record<string, any>} assigned the session's mirrored values, by key
 * @property {string[] | null} items the notes, as last listed
 * @property {Owner | null} owner
 * @property {number} unanswered ticks since the owner was asked and has not answered
 * @property {boolean} lost the session started again and has forgotten its state
 * @property {string} error what last went wrong, in words
 */

/** @type {Readonly<DemoState>} */
export const initial = Object.freeze({
  yaks: 0,
  assigned: {},
  items: null,
  owner: null,
  unanswered: 0,
  lost: false,
  error: "",
});

/**
 * @param {DemoState} state
 * @param {Message} message
 * @returns {DemoState}
 */
export function reducer(state, message) {
  switch (message.tag) {
    case "assign":
      return { ...state, assigned: { ...state.assigned, [message.key]: message.value } };
    case "items":
      return { ...state, items: message.items };
    case "error":
      return { ...state, error: errorInWords(message) };
    case "where":
      return located(state, ownerOf(message));
    case "_shave":
      return { ...state, yaks: state.yaks + 1 };
    case "_opened":
      // The full picture follows, as assigns; what is not in it is gone.
      return { ...state, assigned: {}, items: null, unanswered: 0 };
    case "_unanswered":
      return { ...state, unanswered: state.unanswered + 1 };
    case "_unsent":
      return { ...state, error: "Not sent: there is no connection. Try again when it is back." };
    case "_dismiss_error":
      return { ...state, error: "" };
    case "_dismiss_lost":
      return { ...state, lost: false };
    default:
      return state;
  }
}

/**
 * Another owner that restored nothing has started the session from nothing. The values on the page
 * stay until they are replaced: which of them came from the new owner cannot be told any more.
 *
 * @param {DemoState} state
 * @param {Owner} owner
 */
function located(state, owner) {
  const before = state.owner;
  const same = before !== null && before.session === owner.session;
  const again = same && before.epoch !== owner.epoch && !owner.restored;
  return { ...state, owner, unanswered: 0, lost: state.lost || again };
}

/**
 * @param {Message} message
 * @returns {Owner}
 */
function ownerOf({ session, worker, epoch, restored }) {
  return { session, worker, epoch, restored };
}

/** @param {Message} message */
function errorInWords({ error, details }) {
  if (details === undefined || details === null || details === "") return String(error);
  return `${error}: ${typeof details === "string" ? details : JSON.stringify(details)}`;
}
