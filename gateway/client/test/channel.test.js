// The numbers of a channel. Where a test is about a mistake that others have made, its name says so.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ACK_EVERY, channelReducer, newChannel, restoredChannel } from "../channel.js";
import { UNACKED_BYTES, UNACKED_MESSAGES, isFull } from "../inputs.js";

/** @typedef {import("../channel.js").Channel} Channel */
/** @typedef {import("../channel.js").ChannelEvent} ChannelEvent */

/** A channel, and what it has asked for. @param {Channel} [channel] */
function run(channel = newChannel("channel-1")) {
  let ticket = 100;
  /** @type {any[]} */
  let effects = [];
  const self = {
    /** @param {ChannelEvent} event */
    apply(event) {
      const step = channelReducer(channel, event);
      channel = step.channel;
      effects = step.effects;
      return self;
    },
    /** @param {string[]} bodies */
    publish(...bodies) {
      for (const body of bodies) {
        const input = { ticket: ++ticket, body, size: body.length, key: null };
        self.apply({ type: "publish", input });
      }
      return self;
    },
    /** @param {object} fields */
    welcome(fields = {}) {
      const limits = { message_bytes: 0 };
      const welcome = /** @type {any} */ ({ session: "s", epoch: 1, resumed: true, applied: 0, limits, ...fields });
      return self.apply({ type: "received", message: { kind: "welcome", welcome } });
    },
    /** @param {object} fields */
    attach(fields = {}) {
      self.apply({ type: "hello", session: null });
      return self.welcome(fields);
    },
    /** @param {number} number */
    ack: (number) => self.apply({ type: "received", message: { kind: "ack", number } }),
    /** @param {number} rev */
    output: (rev) => self.apply({ type: "received", message: { kind: "output", rev, body: rev, size: 9 } }),
    /** @param {any} reason */
    reset: (reason) => self.apply({ type: "received", message: { kind: "reset", reason } }),
    lost: () => self.apply({ type: "lost" }),
    get channel() {
      return channel;
    },
    get effects() {
      return effects;
    },
    get sent() {
      return effects.filter((effect) => effect.do === "send").map(({ data }) => JSON.parse(data));
    },
    /** @param {string} what */
    effect: (what) => effects.find((effect) => effect.do === what),
  };
  return self;
}

test("inputs are numbered 1, 2, 3, and an input is kept before it is sent", () => {
  const at = run().attach().publish('"a"');
  assert.deepEqual(at.effects.map((effect) => effect.do), ["keep", "send"]);
  assert.deepEqual(at.sent, [[1, "a"]]);
  assert.deepEqual(at.publish('"b"').sent, [[2, "b"]]);
});

test("what is published without a connection goes when the hello is answered", () => {
  const at = run().publish('"a"', '"b"');
  assert.deepEqual(at.sent, []);
  assert.deepEqual(at.apply({ type: "hello", session: null }).sent.length, 1);
  assert.deepEqual(at.publish('"c"').sent, [], "not before the welcome");
  assert.deepEqual(at.welcome().sent, [[1, "a"], [2, "b"], [3, "c"]]);
});

test("after a new connection the inputs that are not applied go again with their numbers", () => {
  const at = run().attach().publish('"a"', '"b"', '"c"').lost();
  assert.deepEqual(at.attach({ applied: 1 }).sent, [[2, "b"], [3, "c"]]);
  assert.deepEqual(at.effect("settle").inputs.map((/** @type {any} */ input) => input.number), [1]);
});

test("a session that forgot the channel gets all that is kept", () => {
  const at = run().attach().publish('"a"', '"b"').ack(1).lost();
  assert.deepEqual(at.attach({ applied: null }).sent, [[2, "b"]]);
});

test("a welcome of a new owner over the same connection sends nothing again", () => {
  const at = run().attach().publish('"a"', '"b"', '"c"');
  at.welcome({ epoch: 2, applied: 1 });
  assert.deepEqual(at.sent, []);
  assert.deepEqual(at.channel.inputs.unacked.map(({ number }) => number), [2, 3]);
  assert.deepEqual(at.publish('"d"').sent, [[4, "d"]]);
});

test("counter reset at resume: numbers go on after a new connection, a reset and a new owner", () => {
  const at = run().attach().publish('"a"').ack(1).lost().attach({ applied: 1 });
  assert.deepEqual(at.publish('"b"').sent, [[2, "b"]]);
  assert.deepEqual(at.reset("rolled_back").publish('"c"').sent, [[3, "c"]]);
  assert.deepEqual(at.welcome({ epoch: 2, applied: 1, resumed: false }).publish('"d"').sent, [[4, "d"]]);
});

test("renumbering after a reset: unacknowledged inputs keep their numbers", () => {
  const at = run().attach().publish('"a"', '"b"').ack(1).reset("overflow").lost();
  assert.deepEqual(at.attach({ epoch: 9, applied: 1, resumed: false }).sent, [[2, "b"]]);
});

test("counts of the other direction: an output moves no input, and an ack no position", () => {
  const at = run().attach().publish('"a"').output(5);
  assert.equal(at.channel.inputs.unacked.length, 1);
  assert.deepEqual(at.ack(1).channel.seen, { epoch: 1, rev: 5 });
});

test("stale position of an old epoch: epoch and revision are one value, and change together", () => {
  const at = run().attach().output(5);
  assert.deepEqual(at.channel.seen, { epoch: 1, rev: 5 });
  assert.deepEqual(at.welcome({ epoch: 2 }).channel.seen, { epoch: 2, rev: 5 });
  assert.equal(at.welcome({ epoch: 3, resumed: false }).channel.seen, null);
  at.lost().apply({ type: "hello", session: null });
  assert.equal(at.sent[0][1].seen, undefined, "nothing is claimed of the newest epoch");
  assert.deepEqual(at.welcome({ epoch: 3, resumed: false }).output(2).channel.seen, { epoch: 3, rev: 2 });
});

test("handler before the position is stored: the position stands when the output is shown", () => {
  const at = run().attach().output(5);
  assert.equal(at.effect("show").body, 5);
  assert.deepEqual(at.channel.seen, { epoch: 1, rev: 5 });
});

test("an output that was seen is a duplicate and is dropped", () => {
  const at = run().attach().output(5);
  assert.deepEqual(at.output(5).effects, []);
  assert.deepEqual(at.output(4).effects, []);
  assert.equal(at.lost().attach({ epoch: 2 }).output(5).effects.length, 0, "also after a resume");
  assert.equal(at.output(6).effect("show").body, 6);
});

test("after a reset revisions may begin anywhere", () => {
  const at = run().attach().output(50).reset("rolled_back");
  assert.equal(at.effect("discard").reason, "rolled_back");
  assert.equal(at.output(3).effect("show").body, 3);
});

test("outputs are acknowledged together: at once after many, else when the timer says so", () => {
  const at = run().attach();
  assert.ok(at.output(1).effect("report-soon"));
  assert.equal(at.output(2).effect("report-soon"), undefined);
  assert.deepEqual(at.apply({ type: "report" }).sent, [["ack", 1, 2]]);
  assert.deepEqual(at.apply({ type: "report" }).sent, []);
  for (let rev = 3; rev < 2 + ACK_EVERY; rev++) assert.deepEqual(at.output(rev).sent, []);
  assert.deepEqual(at.output(2 + ACK_EVERY).sent, [["ack", 1, 2 + ACK_EVERY]]);
});

test("outputs of the connection before are acknowledged by the hello, not after it", () => {
  const at = run().attach().output(1).lost();
  assert.deepEqual(at.apply({ type: "hello", session: "t" }).sent[0][1].seen, [1, 1]);
  assert.deepEqual(at.welcome().apply({ type: "report" }).sent, []);
});

test("resume racing a takeover: each connection has a higher attach, noted before it is used", () => {
  const at = run();
  for (const attach of [1, 2, 3]) {
    at.apply({ type: "hello", session: null });
    assert.deepEqual(at.effects.map((effect) => effect.do), ["note", "send"]);
    assert.equal(at.sent[0][1].attach, attach);
    at.lost();
  }
});

test("wait for X, drop the rest: nothing that follows a resume is ignored", () => {
  const at = run().attach().output(1).lost().attach({ epoch: 2 });
  assert.ok(at.output(2).effect("show"));
  assert.ok(at.welcome({ epoch: 3 }).output(3).effect("show"));
});

test("expiry of dedup state: what was sent is given up, and another channel begins with 1", () => {
  const at = run().attach().publish('"a"', '"b"').ack(1).reset("channel_expired");
  assert.equal(at.effect("renew").problem, "channel_expired");
  at.apply({ type: "renewed", id: "channel-2", problem: "channel_expired" });
  assert.deepEqual(at.effect("settle").inputs.map((/** @type {any} */ input) => input.body), ['"b"']);
  assert.deepEqual([at.channel.id, at.channel.attach, at.channel.seen], ["channel-2", 0, null]);
  assert.deepEqual(at.attach().publish('"c"').sent, [[1, "c"]]);
});

test("what nobody has seen goes to the other channel", () => {
  const at = run().attach().publish('"sent"').lost().publish('"b"', '"c"');
  at.apply({ type: "renewed", id: "channel-2", problem: "channel_expired" });
  assert.deepEqual(at.attach().sent, [[1, "b"], [2, "c"]]);
});

test("nothing is said to a session that has ended, or to the one that follows it", () => {
  const at = run().publish('"b"').apply({ type: "renewed", id: "channel-2", problem: "ended" });
  assert.equal(at.effect("settle").problem, "ended");
  assert.deepEqual(at.attach().sent, []);
});

test("a server that acknowledges what was never sent is refused", () => {
  assert.ok(run().attach().publish('"a"').ack(2).effect("refuse"));
  assert.ok(run().attach({ applied: 1 }).effect("refuse"));
  assert.ok(run().publish('"a"').attach({ applied: 1 }).effect("refuse"));
});

test("a server that speaks before its welcome is refused", () => {
  assert.ok(run().apply({ type: "hello", session: null }).output(1).effect("refuse"));
});

test("a storage that is older than the session is not believed: another channel is begun", () => {
  const unacked = [{ ticket: 1, number: 5, body: '"old"', size: 5, key: null }];
  const restored = restoredChannel({ id: "channel-1", attach: 3, last: 5, unacked });
  const at = run(restored).publish('"new"').attach({ applied: 6 });
  assert.equal(at.effect("renew").problem, "channel_expired");
  at.apply({ type: "renewed", id: "channel-2", problem: "channel_expired" });
  assert.deepEqual(at.attach().sent, [[1, "new"]], "the old 5 and 6 were applied");
});

test("a session that has forgotten what it acknowledged gets another channel, not a gap", () => {
  const at = run().attach().publish('"a"', '"b"').ack(2).lost().attach({ applied: 1 });
  assert.equal(at.effect("renew").problem, "channel_expired");
});

test("a channel is full at its limits, and takes one larger message", () => {
  const at = run();
  for (let i = 0; i < UNACKED_MESSAGES - 1; i++) at.publish("1");
  assert.equal(isFull(at.channel.inputs, 1), false);
  assert.equal(isFull(at.publish("1").channel.inputs, 1), true);
  assert.equal(isFull(newChannel("channel-1").inputs, 2 * UNACKED_BYTES), false);
  assert.equal(isFull(run().publish("12").channel.inputs, UNACKED_BYTES - 2), false);
  assert.equal(isFull(run().publish("12").channel.inputs, UNACKED_BYTES - 1), true);
});

test("2^53: a channel that has counted so far takes nothing more instead of counting wrong", () => {
  const last = Number.MAX_SAFE_INTEGER;
  const at = restoredChannel({ id: "channel-1", attach: 1, last, unacked: [] });
  assert.equal(isFull(at.inputs, 1), true);
});
