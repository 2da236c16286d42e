// The effects of a channel: performs what channel.js decides, with a socket, a storage, a lock and
// timers; and decides who has the channel, after a reload or in a copy of a tab.

import { channelReducer, newChannel, restoredChannel } from "./channel.js";
import { holdChannel } from "./claim.js";
import { isFull } from "./inputs.js";
import {
  ENDED_CODE,
  PROTOCOL_CODE,
  SUPERSEDED_CODE,
  TOKEN_CODE,
  TOO_LONG_CODE,
  decode,
} from "./protocol.js";
import { watchSilence } from "./silence.js";
import { keepOpen } from "./socket.js";
import { listenForWake } from "./wake.js";

/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./channel.js").ChannelEvent} ChannelEvent */
/** @typedef {import("./channel.js").DiscardReason} DiscardReason */
/** @typedef {import("./channel.js").Effect} Effect */
/** @typedef {import("./connection.js").Connection} Connection */
/** @typedef {import("./environment.js").Environment} Environment */
/** @typedef {import("./errors.js").PublishProblem} PublishProblem */
/** @typedef {import("./inputs.js").Input} Input */
/** @typedef {import("./protocol.js").Welcome} Welcome */
/** @typedef {import("./store.js").Store} Store */

/** Outputs are acknowledged at the latest after so long. */
export const REPORT_MS = 250;
/** Gateways park a browser for a minute while no worker can be reached, and only then send it away. */
export const HELLO_PATIENCE_MS = 75_000;
/**
 * With something unacknowledged, silence is given up after this long. It doubles each time, since a
 * store that is away makes sessions as silent as a cut cable does.
 */
export const SILENCE_MS = 10_000;
export const LONGEST_SILENCE_MS = 60_000;

/** After these a reload must not ask for the same session with the same words again. */
const FORGET_SESSION_CODES = [PROTOCOL_CODE, TOKEN_CODE, 4403, 4503];

/**
 * What the page does about it.
 * @typedef {object} Page
 * @property {(connection: Connection) => void} onConnection
 * @property {(body: unknown) => void} onOutput
 * @property {(reason: DiscardReason) => void} onDiscard
 * @property {(inputs: readonly Input[], problem: PublishProblem | null) => void} onSettled
 * @property {(welcome: Welcome, change: { attached: boolean, replaced: boolean }) => void} onWelcome
 */

/**
 * @param {object} options
 * @param {string} options.url
 * @param {Store} options.store
 * @param {{ channel: Parameters<typeof restoredChannel>[0], open: boolean } | null} options.restored
 * @param {Page} options.page
 * @param {Environment} options.environment
 */
export function converse({ url, store, restored, page, environment }) {
  let channel = restored ? restoredChannel(restored.channel) : newChannel(environment.randomId());
  let patience = SILENCE_MS;
  let isOver = false;
  /** @type {any} */
  let reportTimer = null;

  const silence = watchSilence({
    environment,
    onSilent() {
      patience = Math.min(patience * 2, LONGEST_SILENCE_MS);
      socket.drop(1006, "no sign of life");
    },
  });

  const socket = keepOpen({
    url,
    environment,
    onConnection: page.onConnection,
    onOpen() {
      apply({ type: "hello", session: store.session });
    },
    onData(data) {
      const message = decode(data);
      silence.heard();
      if (message) apply({ type: "received", message });
      else refuse("the server has sent what is no envelope");
    },
    onLost(code) {
      stopReporting();
      silence.rest();
      apply({ type: "lost" });
      if (code === ENDED_CODE) renew("ended");
      else if (code === TOO_LONG_CODE) renew("too_long");
      // A stale number of the storage, or a tab that had no lock to say that it lives.
      else if (code === SUPERSEDED_CODE && channel.restored) renew("channel_expired");
      else return false;
      return true;
    },
  });

  /** @param {ChannelEvent} event */
  function apply(event) {
    const step = channelReducer(channel, event);
    channel = step.channel;
    for (const effect of step.effects) perform(effect);
    if (channel.live && channel.inputs.unacked.length === 0) silence.rest();
    else if (channel.live) silence.expect(patience);
    else if (event.type === "hello") silence.expect(HELLO_PATIENCE_MS);
  }

  /** @param {Effect} effect */
  function perform(effect) {
    switch (effect.do) {
      case "keep":
        return store.keep(effect.input);
      case "note":
        return store.note(channel);
      case "rewrite":
        return store.rewrite(channel);
      case "send":
        return socket.send(effect.data);
      case "report-soon":
        reportTimer ??= environment.setTimeout(report, REPORT_MS);
        return;
      case "settle":
        if (effect.problem === null) store.forget(effect.inputs, channel);
        patience = SILENCE_MS;
        return page.onSettled(effect.inputs, effect.problem);
      case "show":
        return page.onOutput(effect.body);
      case "discard":
        return page.onDiscard(effect.reason);
      case "welcomed":
        store.session = effect.welcome.session;
        store.note(channel);
        socket.welcomed();
        return page.onWelcome(effect.welcome, effect);
      case "bye":
        return socket.willClose(effect.bye);
      case "renew":
        renew(effect.problem);
        return socket.drop(1000, "begins another channel");
      case "refuse":
        return refuse(effect.reason);
    }
  }

  function report() {
    reportTimer = null;
    apply({ type: "report" });
  }

  function stopReporting() {
    environment.clearTimeout(reportTimer);
    reportTimer = null;
  }

  /** @param {string} reason the server does not keep to the protocol */
  function refuse(reason) {
    console.error(`single-state: ${reason}`);
    socket.close(PROTOCOL_CODE, reason);
  }

  /** @param {PublishProblem} problem why the channel cannot go on */
  function renew(problem) {
    letGo();
    const id = environment.randomId();
    letGo = hold(id, false, () => {});
    apply({ type: "renewed", id, problem });
  }

  /**
   * @param {string} id
   * @param {boolean} marked
   * @param {(isOurs: boolean) => void} onDecided
   */
  function hold(id, marked, onDecided) {
    return holdChannel({ environment, id, marked, onDecided });
  }

  const ends = [
    environment.listen("hide", () => store.note(channel, false)),
    environment.listen("show", () => store.note(channel)),
    listenForWake(environment, () => socket.wake()),
  ];

  let letGo = () => {};
  function start() {
    if (!isOver) socket.connect();
  }

  return {
    /** Begins; what was restored is used if no other tab has it. */
    start() {
      if (!restored) {
        letGo = hold(channel.id, false, () => {});
        return start();
      }
      letGo = hold(channel.id, restored.open, (isOurs) => {
        if (!isOurs) renew("channel_expired");
        start();
      });
    },

    get unacked() {
      return channel.inputs.unacked;
    },

    /** @param {number} size */
    isFull: (size) => isFull(channel.inputs, size),

    /** @param {Omit<Input, "number">} input */
    publish(input) {
      apply({ type: "publish", input });
    },

    /**
     * The connection is closed for good, whoever wanted it: gives up what is unacknowledged.
     *
     * @param {number} code
     */
    end(code) {
      if (isOver) return;
      isOver = true;
      stopReporting();
      silence.rest();
      ends.forEach((end) => end());
      letGo();
      if (FORGET_SESSION_CODES.includes(code)) store.session = null;
      store.end();
      const { unacked } = channel.inputs;
      channel = newChannel(channel.id);
      page.onSettled(unacked, "closed");
    },

    close() {
      socket.close(1000, "closed by the page");
    },
  };
}
