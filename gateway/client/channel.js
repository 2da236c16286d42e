// The client half of a channel, as a pure reducer: which number an input has, which inputs are kept,
// what the page has of the outputs, and what is to be done about each thing that happens. No socket,
// no storage, no timer, no random in here; the effects are performed by conversation.js.
//
//   publish ──> kept, and sent when live                 hello ──> attach + 1, not live
//   ack n   ──> all up to n are settled                  welcome ──> live, the rest is sent again
//   [rev,…] ──> position first, then shown; once         reset ──> what was shown is discarded
//
// Inputs are numbered 1, 2, 3 … and keep their number for as long as anyone else may have seen it.
// When the channel cannot go on, another one is begun (`renew`).

import { NO_INPUTS, added, moved, restoredInputs, settledUpTo, withoutLong } from "./inputs.js";
import { encodeAck, encodeHello, encodeInput, longestBody } from "./protocol.js";

/** @typedef {import("./inputs.js").Input} Input */
/** @typedef {import("./inputs.js").Inputs} Inputs */
/** @typedef {import("./protocol.js").Position} Position */
/** @typedef {import("./protocol.js").Received} Received */
/** @typedef {import("./protocol.js").Welcome} Welcome */
/** @typedef {import("./protocol.js").ResetReason} ResetReason */
/** @typedef {import("./errors.js").PublishProblem} PublishProblem */

/** Outputs are acknowledged after so many, or so many bytes, or when the shell's timer says so. */
export const ACK_EVERY = 64;
export const ACK_EVERY_BYTES = 64 * 1024;

/**
 * @typedef {object} Channel
 * @property {string} id
 * @property {number} attach counts this channel's connections
 * @property {Inputs} inputs
 * @property {Position | null} seen
 * @property {number} epoch as the last welcome said
 * @property {boolean} live the hello of this connection was answered
 * @property {boolean} restored from a storage, which a browser may have put back to an older time
 * @property {number} unreported outputs that are not acknowledged
 * @property {number} unreportedBytes
 *
 * @typedef {{ type: "publish", input: Omit<Input, "number"> }
 *   | { type: "hello", session: string | null }
 *   | { type: "received", message: Received }
 *   | { type: "report" }
 *   | { type: "lost" }
 *   | { type: "renewed", id: string, problem: PublishProblem }} ChannelEvent
 *   `renewed` gives up what was sent; what was not goes to the new channel, unless the session ended
 *
 * @typedef {{ do: "keep", input: Input }
 *   | { do: "note" }
 *   | { do: "rewrite" }
 *   | { do: "send", data: string | Uint8Array<ArrayBuffer> }
 *   | { do: "report-soon" }
 *   | { do: "settle", inputs: readonly Input[], problem: PublishProblem | null }
 *   | { do: "show", body: unknown }
 *   | { do: "discard", reason: DiscardReason }
 *   | { do: "welcomed", welcome: Welcome, attached: boolean, replaced: boolean }
 *   | { do: "bye", bye: import("./protocol.js").Bye }
 *   | { do: "renew", problem: PublishProblem }
 *   | { do: "refuse", reason: string }} Effect
 *
 * @typedef {ResetReason | "ended"} DiscardReason
 * @typedef {{ channel: Channel, effects: Effect[] }} Step
 */

/**
 * @param {string} id
 * @returns {Channel}
 */
export function newChannel(id) {
  return {
    id,
    attach: 0,
    inputs: NO_INPUTS,
    seen: null,
    epoch: 0,
    live: false,
    restored: false,
    unreported: 0,
    unreportedBytes: 0,
  };
}

/**
 * A channel as an earlier life of the page has left it.
 *
 * @param {{ id: string, attach: number, last: number, unacked: Input[] }} saved
 * @returns {Channel}
 */
export function restoredChannel({ id, attach, last, unacked }) {
  const inputs = restoredInputs(last, unacked);
  return { ...newChannel(id), attach, inputs, restored: true };
}

/**
 * @param {Channel} channel
 * @param {ChannelEvent} event
 * @returns {Step}
 */
export function channelReducer(channel, event) {
  switch (event.type) {
    case "publish":
      return publish(channel, event.input);
    case "hello":
      return hello(channel, event.session);
    case "received":
      return received(channel, event.message);
    case "report":
      return reported(channel);
    case "lost":
      // The next hello says what was seen; an acknowledgement of it would be of another connection.
      return step({ ...channel, live: false, unreported: 0, unreportedBytes: 0 });
    case "renewed":
      return renewed(channel, event.id, event.problem);
  }
}

/**
 * @param {Channel} channel
 * @param {Omit<Input, "number">} unnumbered
 */
function publish(channel, unnumbered) {
  const inputs = added(channel.inputs, unnumbered);
  const input = { ...unnumbered, number: inputs.last };
  if (!channel.live) return step({ ...channel, inputs }, [{ do: "keep", input }]);
  return step({ ...channel, inputs: { ...inputs, sent: inputs.last } }, [
    // Kept before it is sent: after a reload its number must not come again with another body.
    { do: "keep", input },
    { do: "send", data: encodeInput(input.number, input.body) },
  ]);
}

/**
 * @param {Channel} channel
 * @param {string | null} session
 */
function hello(channel, session) {
  const attach = channel.attach + 1;
  const { id, seen } = channel;
  return step({ ...channel, attach, live: false }, [
    // Noted before it is sent: the same number must not be used by another connection.
    { do: "note" },
    { do: "send", data: encodeHello({ session, channel: id, attach, seen }) },
  ]);
}

/**
 * @param {Channel} channel
 * @param {Received} message
 * @returns {Step}
 */
function received(channel, message) {
  if (message.kind === "welcome") return welcomed(channel, message.welcome);
  if (message.kind === "bye") return step(channel, [{ do: "bye", bye: message.bye }]);
  if (message.kind === "reset") return reset(channel, message.reason);
  if (message.kind === "unknown") return step(channel);
  if (!channel.live) return refuse(channel, "the server has spoken before its welcome");
  if (message.kind === "output") return output(channel, message);
  if (message.number > channel.inputs.sent) return neverSent(channel);
  return settled(channel, message.number);
}

/**
 * The server has acknowledged more than was sent.
 *
 * @param {Channel} channel
 */
function neverSent(channel) {
  if (!channel.restored) return refuse(channel, "the server has acknowledged what was never sent");
  // The storage is of an older time than the session: the next numbers were used already.
  return step(channel, [{ do: "renew", problem: "channel_expired" }]);
}

/**
 * @param {Channel} channel
 * @param {Welcome} welcome
 * @returns {Step}
 */
function welcomed(channel, welcome) {
  const { epoch, resumed, applied } = welcome;
  if (applied !== null && applied > channel.inputs.sent) return neverSent(channel);
  const attached = !channel.live;
  const replaced = channel.epoch !== 0 && channel.epoch !== epoch;
  const first = channel.inputs.unacked[0]?.number ?? channel.inputs.last + 1;
  if (attached && applied !== null && applied < first - 1) {
    // It has forgotten what it had acknowledged: our next number would leave a gap for ever.
    return step(channel, [{ do: "renew", problem: "channel_expired" }]);
  }
  const seen = resumed && channel.seen ? { epoch, rev: channel.seen.rev } : null;
  const welcomed = { ...channel, epoch, seen, live: true };
  const { channel: next, effects } = settled(welcomed, applied ?? 0);
  // What was published before it was known how much the server takes.
  const { inputs, refused } = withoutLong(next.inputs, longestBody(welcome.limits));
  if (refused.length > 0) {
    effects.push({ do: "rewrite" }, { do: "settle", inputs: refused, problem: "too_long" });
  }
  // The gateway itself brings what it has taken to a new owner; what it never got, goes again only
  // over a new connection.
  const again = attached ? inputs.unacked : [];
  for (const { number, body } of again) effects.push({ do: "send", data: encodeInput(number, body) });
  if (!resumed) effects.push({ do: "discard", reason: "rolled_back" });
  effects.push({ do: "welcomed", welcome, attached, replaced });
  return step({ ...next, inputs: { ...inputs, sent: inputs.last } }, effects);
}

/**
 * All inputs up to `number` are applied for good.
 *
 * @param {Channel} channel
 * @param {number} number
 */
function settled(channel, number) {
  const { inputs, settled } = settledUpTo(channel.inputs, number);
  if (settled.length === 0) return step(channel);
  return step({ ...channel, inputs }, [{ do: "settle", inputs: settled, problem: null }]);
}

/**
 * @param {Channel} channel
 * @param {Extract<Received, { kind: "output" }>} output
 */
function output(channel, { rev, body, size }) {
  const { epoch } = channel;
  if (channel.seen && rev <= channel.seen.rev) return step(channel);
  const unreported = channel.unreported + 1;
  const unreportedBytes = channel.unreportedBytes + size;
  // The position stands before the app is called: whatever the app does, this is not shown twice.
  const next = { ...channel, seen: { epoch, rev }, unreported, unreportedBytes };
  /** @type {Effect} */
  const show = { do: "show", body };
  if (unreported >= ACK_EVERY || unreportedBytes >= ACK_EVERY_BYTES) {
    const report = reported(next);
    return step(report.channel, [...report.effects, show]);
  }
  return step(next, unreported === 1 ? [{ do: "report-soon" }, show] : [show]);
}

/**
 * @param {Channel} channel
 * @returns {Step}
 */
function reported(channel) {
  const { live, seen, unreported } = channel;
  if (!live || !seen || unreported === 0) return step(channel);
  const next = { ...channel, unreported: 0, unreportedBytes: 0 };
  return step(next, [{ do: "send", data: encodeAck(seen) }]);
}

/**
 * @param {Channel} channel
 * @param {ResetReason} reason
 */
function reset(channel, reason) {
  if (reason === "channel_expired") return step(channel, [{ do: "renew", problem: reason }]);
  const next = { ...channel, seen: null, unreported: 0, unreportedBytes: 0 };
  return step(next, [{ do: "discard", reason }]);
}

/**
 * @param {Channel} channel
 * @param {string} id
 * @param {PublishProblem} problem
 */
function renewed(channel, id, problem) {
  const isOver = problem === "ended";
  const all = { ...channel.inputs, sent: channel.inputs.last };
  const { inputs, given } = moved(isOver ? all : channel.inputs);
  return step({ ...newChannel(id), inputs }, [
    { do: "rewrite" },
    { do: "settle", inputs: given, problem },
    { do: "discard", reason: isOver ? "ended" : "channel_expired" },
  ]);
}

/**
 * @param {Channel} channel
 * @param {string} reason
 */
function refuse(channel, reason) {
  return step(channel, [{ do: "refuse", reason }]);
}

/**
 * @param {Channel} channel
 * @param {Effect[]} effects
 * @returns {Step}
 */
function step(channel, effects = []) {
  return { channel, effects };
}
