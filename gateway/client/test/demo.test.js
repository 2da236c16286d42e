import assert from "node:assert/strict";
import { test } from "node:test";
import { CONNECTING } from "../connection.js";
import { niceCeiling, plot, worstMistake } from "../demo/curve.js";
import { MOST } from "../demo/handoffs.js";
import { initial, onReset, reducer } from "../demo/reducer.js";
import { parseNumber, parseVector, printVector } from "../demo/vector.js";
import {
  changeInWords,
  connectionInWords,
  handoffInWords,
  lossesInWords,
  mistakeInWords,
  ownerInWords,
  percent,
  savingInWords,
  timeInWords,
  troubleInWords,
} from "../demo/words.js";

/** @typedef {import("../message.js").Message} Message */

/** @param {Message[]} messages */
const after = (...messages) => at(...messages.map((message) => ({ now: 0, message })));

/** @param {{ now: number, message: Message }[]} events */
const at = (...events) => events.reduce((state, { now, message }) => reducer(state, message, now), initial);

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

test("an unknown tag shows nothing", () => {
  const { watch, ...shown } = after({ tag: "later" });
  assert.deepEqual({ ...shown, watch: initial.watch }, initial);
  assert.equal(after({ tag: "_later" }), initial);
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

test("a session that was elsewhere while its worker was away is told both, until dismissed", () => {
  const away = [where(), where({ worker: 1, process: 8, epoch: 2 })];
  const home = where({ process: 9, epoch: 3 });
  assert.match(said(...away, home)?.words ?? "", /^Your session moved from worker 0 to worker 1 and back\./);
  const read = said(...away, { tag: "_dismiss_change" }, home);
  assert.match(read?.words ?? "", /^Your session moved from worker 1 to worker 0\./);
  const further = said(...away, where({ worker: 2, process: 9, epoch: 3 }));
  assert.match(further?.words ?? "", /^Your session moved from worker 0 to worker 1 and on to worker 2\./);
  const again = said(...away, home, where({ worker: 1, process: 10, epoch: 4 }));
  assert.match(again?.words ?? "", /^Your session moved from worker 1 to worker 0 and back\./);
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
  const { watch, ...shown } = after(...now, where());
  assert.deepEqual({ ...shown, watch }, after(...now));
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
  assert.match(words({ status: "closed", code: 4409 }), /^closed \(4409\)$/);
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

const running = { tag: "assign", key: "training", value: "running" };
/** @param {number} done */
const progress = (done) => ({ tag: "assign", key: "progress", value: { done, total: 100 } });

test("while a model trains, the pause of a handoff is how long nothing was heard", () => {
  const { handoffs } = at(
    { now: 0, message: where({ worker: 2 }) },
    { now: 10, message: running },
    { now: 1000, message: progress(40) },
    { now: 1060, message: { tag: "_replaced" } },
    { now: 1084, message: progress(38) },
    { now: 1090, message: where({ worker: 1, epoch: 2 }) },
  );
  assert.deepEqual(handoffs, [{ epoch: 2, from: 2, to: 1, pause: 84, step: 38 }]);
  assert.equal(handoffInWords(handoffs[0]), "epoch 2: from worker 2 to worker 1, a pause of 84 ms");
});

test("a pause is measured also when all that was mirrored is discarded, and over two owners", () => {
  let state = at({ now: 0, message: where() }, { now: 10, message: running }, { now: 20, message: progress(5) });
  state = reducer(onReset(state), { tag: "_replaced" }, 100);
  state = reducer(onReset(state), { tag: "_replaced" }, 200);
  state = reducer(state, running, 220);
  state = reducer(state, where({ epoch: 3 }), 230);
  assert.deepEqual(state.handoffs.map(({ pause }) => pause), [200]);
});

test("the pause of a quiet session counts from when this page disturbed it, if it did", () => {
  const quiet = (/** @type {Message[]} */ ...before) =>
    at(
      { now: 0, message: where() },
      ...before.map((message, i) => ({ now: 50_000 + i, message })),
      { now: 50_200, message: { tag: "_replaced" } },
      { now: 50_300, message: where({ process: 8, epoch: 2 }) },
    ).handoffs;
  assert.deepEqual(quiet({ tag: "_disturbed" }).map(({ pause }) => pause), [300]);
  assert.deepEqual(quiet().map(({ pause }) => pause), [null]);
  const heardSince = quiet({ tag: "_disturbed" }, { tag: "items", items: [] });
  assert.deepEqual(heardSince.map(({ pause }) => pause), [null], "it had its effect before");
  assert.equal(handoffInWords(quiet()[0]), "epoch 2: worker 0 again, nothing was under way");
});

test("a page lists the last handoffs only, and those of its own session", () => {
  const many = Array.from({ length: MOST + 3 }, (_, i) => where({ epoch: i + 1 }));
  const { handoffs } = after(...many);
  assert.equal(handoffs.length, MOST);
  assert.equal(handoffs[MOST - 1].epoch, MOST + 3);
  assert.deepEqual(after(...many, where({ session: "t" })).handoffs, []);
});

test("trouble is told with what can be done about it", () => {
  const told = (/** @type {object} */ fields, late = false, unacknowledged = 0) =>
    troubleInWords({ connection: { ...CONNECTING, ...fields }, unacknowledged }, late);
  assert.equal(told({}), null, "at first a page connects");
  assert.equal(told({ status: "open" }), null);
  const waiting = { status: "waiting", retryIn: 1000, failures: 1 };
  assert.match(told(waiting)?.text ?? "", /^Reconnecting\. You can go on working\.$/);
  assert.match(told(waiting, false, 2)?.text ?? "", /2 changes will be sent then\.$/);
  assert.match(told({ ...waiting, failures: 3 })?.text ?? "", /^The server is away\./);
  assert.match(told({ status: "open" }, true, 1)?.text ?? "", /^1 change cannot be saved just now/);
  const closed = (/** @type {number} */ code) => told({ status: "closed", code })?.way;
  assert.deepEqual([4401, 4403, 4503].map(closed), Array(3).fill("fresh"));
  assert.deepEqual([4400, 4409].map(closed), Array(2).fill("reload"));
  assert.match(told({ ...waiting, code: 4429 })?.text ?? "", /^This session is open in too many tabs\./);
});

test("numbers of a training are short and can be read", () => {
  assert.deepEqual([undefined, null, 0, 900, 61_000].map(timeInWords), ["", "", "0 s", "1 s", "1 min 1 s"]);
  assert.deepEqual([undefined, 0.97222].map(percent), ["–", "97.2 %"]);
  const confusion = [
    [5, 0, 1],
    [0, 4, 2],
    [0, 0, 6],
  ];
  assert.equal(mistakeInWords(confusion), "15 of 18 digits (rows) are read right; a 1 is read as a 2 (column) 2 times");
  assert.equal(mistakeInWords([[1]]), "1 of 1 digits (rows) are read right");
  assert.equal(worstMistake([[1]]), null);
  const curve = { every: 2, train: [2, 1], test: [2.1, 1.5], accuracy: [0.1, 0.2] };
  assert.equal(lossesInWords(curve), "Chart of the losses: in training from 2 to 1, in the test now 1.5");
});

test("a chart holds all points, and no step beyond them", () => {
  const frame = { left: 10, top: 0, right: 110, bottom: 50 };
  const curve = { every: 5, train: [2, 1, 0.5], test: [2, 1.5, 1], accuracy: [0, 0, 0] };
  const { train, test, losses, steps, at } = plot(curve, frame);
  assert.equal(train, "43.33,0 76.67,25 110,37.5");
  assert.equal(test, "43.33,0 76.67,12.5 110,25");
  assert.deepEqual(losses.map(({ text }) => text), ["0", "1", "2"]);
  assert.deepEqual(steps, [{ at: 10, text: "0" }, { at: 110, text: "15" }]);
  assert.deepEqual([at(0), at(15), at(16)], [10, 110, null]);
  assert.equal(plot({ every: 1, train: [], test: [], accuracy: [] }, frame).train, "");
});

test("scales end at round numbers", () => {
  assert.deepEqual([0.1, 0.3, 1, 2.4, 7, 9].map(niceCeiling), [0.1, 0.3, 1, 3, 8, 10]);
});
