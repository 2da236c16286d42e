import assert from "node:assert/strict";
import { test } from "node:test";
import { CONNECTING } from "../connection.js";
import { initial, onReset, reducer } from "../demo/reducer.js";
import { parseNumber, parseVector, printVector } from "../demo/vector.js";
import { changeInWords, connectionInWords, ownerInWords, savingInWords } from "../demo/words.js";

/** @typedef {import("../message.js").Message} Message */

/** @param {Message[]} messages */
const after = (...messages) => messages.reduce(reducer, initial);

/** @param {Partial<import("../demo/reducer.js").Owner>} fields */
const where = (fields = {}) => {
  return { tag: "where", session: "s", worker: 0, process: 7, epoch: 1, born: "a", ...fields };
};

/**
 * What the page says of a change of the owner.
 *
 * @param {Message[]} messages
 */
const said = (...messages) => {
  const { change } = after(...messages);
  return change && { lost: change.lost, words: changeInWords(change) };
};

test("assign keeps the newest value of each key", () => {
  const assign = (/** @type {string} */ key, /** @type {any} */ value) => {
    return { tag: "assign", key, value };
  };
  const state = after(assign("count", 1), assign("loss", 0.5), assign("count", 2));
  assert.deepEqual(state.assigned, { count: 2, loss: 0.5 });
});

test("items are listed", () => {
  assert.deepEqual(after({ tag: "items", items: ["a", "b"] }).items, ["a", "b"]);
});

test("an error of a handler is shown with its details until it is dismissed", () => {
  const error = { tag: "error", error: "broken", details: "on purpose" };
  assert.equal(after(error).error, "broken: on purpose");
  assert.equal(after({ tag: "error", error: "broken", details: { at: 3 } }).error, 'broken: {"at":3}');
  assert.equal(after({ tag: "error", error: "broken" }).error, "broken");
  assert.equal(after(error, { tag: "_dismiss_error" }).error, "");
});

test("a message that was not taken or was given up is said in words", () => {
  const reason = "given up: the session has ended";
  assert.equal(after({ tag: "_unsent", reason }).error, "A message was given up: the session has ended.");
});

test("an unknown tag changes nothing", () => {
  assert.equal(after({ tag: "later" }), initial);
});

test("the first owner, and the same one again, is no change", () => {
  assert.equal(said(where(), where()), null);
});

test("a restarted worker that has the session as it was saved is told calmly, until dismissed", () => {
  const again = [where(), where({ process: 8, epoch: 2 })];
  assert.match(said(...again)?.words ?? "", /^Worker 0 was restarted\. Your session went on/);
  assert.equal(said(...again)?.lost, false);
  assert.equal(said(...again, { tag: "_dismiss_change" }, where({ process: 8, epoch: 2 })), null);
});

test("a move to another worker, and a fresh load by the same process, are told as what they are", () => {
  const moved = said(where(), where({ worker: 2, process: 9, epoch: 2 }));
  assert.match(moved?.words ?? "", /^Your session moved from worker 0 to worker 2\./);
  const loaded = said(where(), where({ epoch: 2 }));
  assert.match(loaded?.words ?? "", /^Worker 0 has loaded your session again\./);
});

test("a session that began anew is a loss, also when the page learns of it late", () => {
  const change = said(where(), where({ process: 8, epoch: 2, born: "b" }));
  assert.match(change?.words ?? "", /^Worker 0 was restarted, and your session started again from nothing/);
  assert.equal(change?.lost, true);
  assert.equal(said(where(), where({ process: 9, epoch: 3, born: "b" }))?.lost, true);
});

test("a loss stays in sight when the worker is restarted once more", () => {
  const twice = [where(), where({ epoch: 2, born: "b" }), where({ epoch: 3, born: "b" })];
  assert.equal(said(...twice)?.lost, true);
});

test("an answer of an owner that is gone changes nothing", () => {
  const now = [where(), where({ epoch: 2 }), { tag: "_dismiss_change" }];
  assert.deepEqual(after(...now, where()), after(...now));
});

test("another session is no loss of this one", () => {
  assert.equal(said(where(), where({ session: "t", epoch: 2, born: "b" })), null);
});

test("a reset takes back what the session has said; what is the page's own stays", () => {
  const assign = { tag: "assign", key: "count", value: 3 };
  const before = after(assign, where(), { tag: "items", items: ["a"] }, { tag: "_shave" });
  const { assigned, items, owner, yaks } = onReset(before);
  assert.deepEqual([assigned, items, yaks], [{}, [], 1], "a list that was shown is asked for again");
  assert.equal(owner, before.owner, "else a loss could not be told");
  assert.equal(onReset(initial).items, null);
});

test("vectors are numbers with commas between", () => {
  assert.deepEqual(parseVector("x", " 1, -2.5 ,3e2"), [1, -2.5, 300]);
  assert.equal(printVector([1, -2.5]), "1, -2.5");
  assert.equal(printVector(undefined), "");
});

test("input errors name the field and the place", () => {
  assert.throws(() => parseNumber("a", " "), { message: "a is empty; write a number" });
  assert.throws(() => parseNumber("a", "1/0"), { message: "a: “1/0” is not a number" });
  assert.throws(() => parseNumber("a", "Infinity"), /is not a number/);
  assert.throws(() => parseVector("x", "1, two"), { message: "x, number 2: “two” is not a number" });
  assert.throws(() => parseVector("x", "1,,2"), { message: "x, number 2 is empty; write a number" });
});

test("each state of the connection has its words", () => {
  const words = (/** @type {object} */ fields) => connectionInWords({ ...CONNECTING, ...fields });
  assert.equal(words({}), "connecting…");
  assert.equal(words({ status: "open" }), "connected");
  const waiting = { status: "waiting", retryIn: 1540, code: 1012, reason: "restart" };
  assert.equal(words(waiting), "no connection (1012 restart); trying again in 1.5 s");
  assert.match(words({ status: "closed", code: 4409 }), /^closed \(4409\)/);
});

test("the owner is shown as last heard of", () => {
  assert.equal(ownerInWords(initial), "session: not known yet");
  assert.equal(ownerInWords(after(where())), "session s on worker 0, process 7");
});

test("the page says whether its messages are safe", () => {
  const words = (/** @type {number} */ unacknowledged, /** @type {any} */ durability) =>
    savingInWords({ unacknowledged, durability });
  assert.equal(words(0, null), "");
  assert.equal(words(2, null), "2 not sent yet");
  assert.equal(words(0, "relaxed"), "all saved");
  assert.equal(words(2, "durable"), "2 not saved yet");
  assert.equal(words(1, "memory"), "this session is not saved");
});
