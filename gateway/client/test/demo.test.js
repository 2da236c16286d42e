import assert from "node:assert/strict";
import { test } from "node:test";
import { initial, reducer } from "../demo/reducer.js";
import { parseNumber, parseVector, printVector } from "../demo/vector.js";
import { watchOwner } from "../demo/where.js";
import { connectionInWords, ownerInWords } from "../demo/words.js";
import { openSession } from "../single-state.js";
import { CONNECTING } from "../session.js";
import { fakeBrowser } from "./fake.js";

/** @typedef {import("../protocol.js").Message} Message */

/** @param {Message[]} messages */
const after = (...messages) => messages.reduce(reducer, initial);

/** @param {Partial<import("../demo/reducer.js").Owner>} fields */
const where = (fields = {}) => {
  return { tag: "where", session: "s", worker: 0, epoch: 1, restored: false, ...fields };
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

test("an unsent message is said in words", () => {
  assert.match(after({ tag: "_unsent" }).error, /^Not sent/);
});

test("an unknown tag changes nothing", () => {
  assert.equal(after({ tag: "later" }), initial);
});

test("the first owner is no loss", () => {
  assert.equal(after(where()).lost, false);
});

test("a new epoch that restored nothing is a loss, until it is dismissed", () => {
  const again = [where(), where({ epoch: 2 }), where({ epoch: 2 })];
  assert.equal(after(...again).lost, true);
  assert.equal(after(...again, { tag: "_dismiss_lost" }, where({ epoch: 2 })).lost, false);
});

test("a new epoch that restored the state is no loss", () => {
  assert.equal(after(where(), where({ epoch: 2, restored: true })).lost, false);
});

test("another session is no loss of this one", () => {
  assert.equal(after(where(), where({ session: "t", epoch: 2 })).lost, false);
});

test("a new connection starts from the picture that follows, not from old values", () => {
  const state = after({ tag: "assign", key: "count", value: 3 }, { tag: "_shave" }, { tag: "_opened" });
  assert.deepEqual(state.assigned, {});
  assert.equal(state.yaks, 1);
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

test("the owner's words tell when its worker does not answer", () => {
  const open = { ...CONNECTING, status: /** @type {const} */ ("open") };
  const late = [{ tag: "_unanswered" }, { tag: "_unanswered" }];
  assert.equal(ownerInWords(initial, open), "session: not known yet");
  assert.equal(ownerInWords(after(where()), open), "session s on worker 0, epoch 1");
  const away = ownerInWords(after(where(), ...late), open);
  assert.equal(away, "session s waiting for worker 0, epoch 1");
});

/** A page that watches its owner, with a tab to hide and ticks to make. */
function watch() {
  const browser = fakeBrowser();
  const { environment } = browser;
  const session = openSession({ initial, reducer, url: "ws://h/ws", environment });
  let tick = () => {};
  let shown = () => {};
  const document = { hidden: false, addEventListener: (/** @type {any} */ _, /** @type {any} */ f) => (shown = f) };
  watchOwner(session, { document: /** @type {any} */ (document), setInterval: (f) => (tick = f) });
  const answer = () => browser.socket.receive(JSON.stringify(where()));
  const asked = () => browser.socket.sent.length;
  return { browser, session, document, tick: () => tick(), shown: () => shown(), answer, asked };
}

test("the owner is asked for after each open and at each tick that follows an answer", () => {
  const page = watch();
  page.browser.socket.open();
  assert.deepEqual(page.browser.socket.sent, ['{"tag":"where"}']);
  page.answer();
  page.tick();
  assert.equal(page.asked(), 2);
  page.answer();
  page.browser.socket.fall();
  page.tick();
  assert.equal(page.session.view.state.unanswered, 0);
  page.browser.ring();
  page.browser.socket.open();
  assert.equal(page.asked(), 1);
});

test("an owner that does not answer is asked again seldom", () => {
  const page = watch();
  page.browser.socket.open();
  for (let i = 0; i < 10; i++) page.tick();
  assert.equal(page.asked(), 3);
});

test("a hidden tab asks nothing, and asks at once when it is shown", () => {
  const page = watch();
  page.browser.socket.open();
  page.answer();
  page.document.hidden = true;
  page.tick();
  assert.equal(page.asked(), 1);
  page.document.hidden = false;
  page.shown();
  assert.equal(page.asked(), 2);
});
