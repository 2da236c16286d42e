import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encodeAck, encodeHello, encodeInput } from "../protocol.js";

const WELCOME = {
  session: "token",
  epoch: 7,
  resumed: false,
  applied: null,
  durability: "relaxed",
  limits: { message_bytes: 1, frame_bytes: 4, unacked_messages: 2, unacked_bytes: 3 },
};

/** @param {unknown[]} envelope */
const decoded = (...envelope) => decode(JSON.stringify(envelope));

test("a hello leaves out what it has not: the session and what was seen", () => {
  const channel = { channel: "abcdefgh", attach: 1 };
  assert.equal(
    encodeHello({ session: null, ...channel, seen: null }),
    '["hello",{"channel":"abcdefgh","attach":1}]',
  );
  assert.equal(
    encodeHello({ session: "t", ...channel, seen: { epoch: 7, rev: 9 } }),
    '["hello",{"session":"t","channel":"abcdefgh","attach":1,"seen":[7,9]}]',
  );
});

test("inputs and acknowledgements bear their numbers", () => {
  assert.equal(encodeInput(3, '{"tag":"a"}'), '[3,{"tag":"a"}]');
  assert.equal(encodeAck({ epoch: 7, rev: 9 }), '["ack",7,9]');
});

test("a binary input begins with its number in eight bytes, also beyond 2^32", () => {
  assert.deepEqual(encodeInput(258, Uint8Array.of(9)), Uint8Array.of(0, 0, 0, 0, 0, 0, 1, 2, 9));
  const large = encodeInput(2 ** 40 + 1, Uint8Array.of());
  assert.deepEqual(large, Uint8Array.of(0, 0, 1, 0, 0, 0, 0, 1));
});

test("what a gateway says is decoded", () => {
  assert.deepEqual(decoded("welcome", WELCOME), { kind: "welcome", welcome: WELCOME });
  const older = { ...WELCOME, limits: { message_bytes: 1 } };
  assert.deepEqual(decoded("welcome", older), { kind: "welcome", welcome: older });
  assert.deepEqual(decoded("ack", 5), { kind: "ack", number: 5 });
  assert.deepEqual(decoded("ack", 0), { kind: "ack", number: 0 }, "nothing is applied for good yet");
  assert.deepEqual(decoded("reset", { reason: "overflow" }), { kind: "reset", reason: "overflow" });
  const bye = { reason: "restart", after_ms: 1, spread_ms: 2 };
  assert.deepEqual(decoded("bye", bye), { kind: "bye", bye });
  assert.deepEqual(decoded(7, { tag: "a" }), { kind: "output", rev: 7, body: { tag: "a" }, size: 15 });
});

test("a binary output begins with its revision", () => {
  const data = Uint8Array.of(0, 0, 0, 0, 0, 0, 1, 2, 9, 8).buffer;
  const output = { kind: "output", rev: 258, body: Uint8Array.of(9, 8), size: 10 };
  assert.deepEqual(decode(data), output);
});

test("a kind of envelope that a later gateway adds is no mistake", () => {
  assert.deepEqual(decoded("later", {}), { kind: "unknown" });
});

test("what is no envelope is not decoded", () => {
  const wrong = ["", "{", "null", "3", "{}", "[]", "[1]", "[1,2,3]", "[0,1]", "[-1,1]", "[1.5,1]"];
  for (const data of [...wrong, new ArrayBuffer(7), new ArrayBuffer(8), {}]) {
    assert.equal(decode(data), null, String(data));
  }
  for (const fields of [null, {}, { ...WELCOME, epoch: "7" }, { ...WELCOME, applied: -1 }]) {
    assert.equal(decoded("welcome", fields), null);
  }
  assert.equal(decoded("ack", "5"), null);
  assert.equal(decoded("reset", { reason: "because" }), null);
  assert.equal(decoded("bye", { after_ms: -1, spread_ms: 0 }), null);
});

test("2^53: a number that JavaScript cannot tell from its neighbours is no number", () => {
  assert.equal(decode("[9007199254740991,1]")?.kind, "output");
  assert.equal(decode("[9007199254740993,1]"), null);
  assert.equal(decode('["ack",9007199254740992]'), null);
  assert.equal(decoded("welcome", { ...WELCOME, epoch: 2 ** 53 }), null);
  assert.equal(decode(Uint8Array.of(0, 32, 0, 0, 0, 0, 0, 0).buffer), null);
});
