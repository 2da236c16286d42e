// The generic page: what it makes of values, of what is typed, of messages, and of troubles. All of
// it pure; the page itself is looked at by tests/tests/pages/ in a real browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFields, fromJson, toFields } from "../generic/compose.js";
import { WIDTH, pathOf, thinned } from "../generic/path.js";
import { MOST_LINES, MOST_SAMPLES, initial, mirroredBytes, onReset, reducerOf } from "../generic/reducer.js";
import { SLOW_SAVE_MS, troubleIn } from "../generic/troubles.js";
import {
  durationInWords,
  imageType,
  kindOf,
  numberInWords,
  progressOf,
  sizeInWords,
  timeLeft,
} from "../generic/values.js";
import { CONNECTING } from "../connection.js";

test("a value is shown as what its form says it is", () => {
  for (const [key, value, kind] of [
    ["loss", 0.25, "number"],
    ["progress", 0.25, "progress"],
    ["uploadProgress", 1, "progress"],
    ["progress", 7, "number"],
    ["anything", { done: 3, total: 10 }, "progress"],
    ["curve", [1, 2, 3], "vector"],
    ["curve", [1], "json"],
    ["names", ["a", "b"], "json"],
    ["counts", { setosa: 50, virginica: 0 }, "bars"],
    ["profit", { may: -5 }, "json"],
    ["picture", "data:image/png;base64,AAAA", "image"],
    ["page", "data:text/html,hello", "text"],
    ["state", "running", "text"],
    ["on", true, "text"],
    ["nothing", null, "text"],
    ["empty", {}, "json"],
  ]) {
    assert.equal(kindOf(/** @type {string} */ (key), value), kind, `${key} ${JSON.stringify(value)}`);
  }
});

test("progress is never more than all of it, and of nothing it is done", () => {
  assert.deepEqual(progressOf("x", { done: 12, total: 10 }), { done: 10, total: 10 });
  assert.deepEqual(progressOf("x", { done: 0, total: 0 }), { done: 0, total: 0 });
  assert.equal(progressOf("x", { done: -1, total: 10 }), null);
  assert.equal(progressOf("x", null), null);
});

test("the time left follows from the pace since it last began", () => {
  const at = (/** @type {number[][]} */ pairs) => pairs.map(([at, value]) => ({ at, value }));
  assert.equal(timeLeft(at([[0, 0], [1000, 10]]), 40), 3000);
  assert.equal(timeLeft(at([[0, 0], [9000, 90], [10_000, 0], [11_000, 10]]), 100), 9000, "begun anew");
  assert.equal(timeLeft(at([[0, 5]]), 100), null, "one look is no pace");
  assert.equal(timeLeft(at([[0, 5], [1000, 5]]), 100), null, "nothing goes on");
  assert.equal(timeLeft(at([[0, 0], [1000, 100]]), 100), null, "it is done");
  assert.equal(timeLeft([], 100), null);
});

test("numbers, sizes and durations are short", () => {
  assert.deepEqual([0, 1234567, -3, 0.1 + 0.2, 1e-9, 1e300].map(numberInWords), [
    "0", "1,234,567", "-3", "0.3", "1e-9", "1e+300",
  ]);
  assert.deepEqual([0, 1023, 1024, 1 << 20].map(sizeInWords), ["0 B", "1023 B", "1.0 KiB", "1.0 MiB"]);
  assert.deepEqual([1, 59_400, 61_000, 7_260_000].map(durationInWords), ["1 s", "59 s", "1 min 1 s", "2 h 1 min"]);
});

test("bytes are an image if they begin like one", () => {
  const bytes = (/** @type {string} */ text) => Uint8Array.from(text, (c) => c.charCodeAt(0));
  assert.equal(imageType(bytes("\x89PNG\r\n\x1a\n....")), "image/png");
  assert.equal(imageType(bytes("RIFF....WEBPVP8 ")), "image/webp");
  assert.equal(imageType(bytes("BM......")), "image/bmp");
  assert.equal(imageType(bytes("<svg xmlns=")), null, "it could have scripts");
  assert.equal(imageType(bytes("RIFF....WAVEfmt ")), null);
  assert.equal(imageType(bytes("")), null);
});

test("a form becomes a message: JSON where it reads as such, else a text", () => {
  const fields = [
    { name: "n", text: " 3 " },
    { name: "on", text: "true" },
    { name: "x", text: "[1, 2]" },
    { name: "word", text: "hello world" },
    { name: "digits", text: '"3"' },
    { name: "", text: " " },
  ];
  const message = { tag: "add", n: 3, on: true, x: [1, 2], word: "hello world", digits: "3" };
  assert.deepEqual(fromFields(" add ", fields), message);
  const form = toFields(message);
  assert.deepEqual(fromFields(form.tag, form.fields), message, "and back");
  assert.deepEqual(fromJson(JSON.stringify(message)), message);
});

test("what is wrong in a form is said in a sentence", () => {
  /** @type {[() => unknown, RegExp][]} */
  const mistakes = [
    [() => fromFields("", []), /needs a tag/],
    [() => fromFields("_step", []), /session's own/],
    [() => fromFields("add", [{ name: "n", text: "[1," }]), /^Error: n: this is not JSON: /],
    [() => fromFields("add", [{ name: "", text: "3" }]), /“3” has no name/],
    [() => fromFields("add", [{ name: "tag", text: "3" }]), /two fields “tag”/],
    [() => fromJson("{tag: 1}"), /^Error: This is not JSON: .*\.$/],
    [() => fromJson("[1]"), /is a JSON object/],
    [() => fromJson('{"n": 1}'), /no "tag"/],
    [() => fromJson('{"tag": "_step"}'), /session's own/],
  ];
  for (const [mistake, words] of mistakes) assert.throws(mistake, words);
});

test("assigns are the mirror, and numbers keep their past over a reset", () => {
  let now = 0;
  const reduce = reducerOf(() => ++now);
  let state = initial;
  for (let i = 0; i < MOST_SAMPLES + 5; i++) state = reduce(state, { tag: "assign", key: "loss", value: i });
  assert.equal(state.samples.loss.length, MOST_SAMPLES);
  state = reduce(state, { tag: "assign", key: "word", value: "é" });
  assert.equal(mirroredBytes(state), "244".length + '"é"'.length + 1);
  state = onReset(state);
  assert.deepEqual(state.entries, {});
  assert.equal(state.samples.loss.length, MOST_SAMPLES);
  state = reduce(state, { tag: "assign", key: "loss", value: 1 });
  state = reduce(state, { tag: "assign", key: "loss", value: undefined });
  assert.deepEqual(state.entries, {}, "a key that the session does not have");
  for (const key of ["constructor", "__proto__"]) {
    state = reduce(state, { tag: "assign", key, value: 1 });
    assert.deepEqual(Object.keys(state.entries), [key], "a key like others");
    state = reduce(state, { tag: "assign", key, value: undefined });
  }
});

test("errors and events are listed, newest first; what repeats itself is one line", () => {
  const reduce = reducerOf(() => 5);
  let state = reduce(initial, { tag: "error", error: "no", details: "while handling" });
  state = reduce(state, { tag: "error", error: "no", details: "while handling" });
  assert.equal(state.notice, "no (while handling)");
  assert.deepEqual(state.errors.map(({ title, times }) => [title, times]), [["no", 2]]);
  assert.equal(reduce(state, { tag: "_dismiss" }).notice, "");
  for (let i = 0; i < MOST_LINES + 5; i++) state = reduce(state, { tag: "row", i });
  assert.equal(state.events.length, MOST_LINES);
  assert.equal(state.events[0].body, `{"i":${MOST_LINES + 4}}`);
  const ids = new Set([...state.events, ...state.errors].map(({ id }) => id));
  assert.equal(ids.size, MOST_LINES + 1, "each line has a name of its own");
});

test("another owner is an event; the first one is not", () => {
  const reduce = reducerOf(() => 5);
  let state = reduce(initial, { tag: "_welcome", worker: 1, epoch: 7, resumed: false, replaced: false });
  assert.deepEqual([state.owner, state.events], [{ worker: 1, epoch: 7 }, []]);
  state = reduce(state, { tag: "_welcome", worker: 2, epoch: 8, resumed: true, replaced: true });
  assert.equal(state.events[0].body, "Worker 2 has the session now; nothing is missing");
});

test("a binary message that is an image is kept to be shown", () => {
  const reduce = reducerOf(() => 5);
  const bytes = Uint8Array.of(0x42, 0x4d, 0, 0);
  const state = reduce(initial, { tag: "_binary", bytes });
  assert.deepEqual(state.picture, { bytes, type: "image/bmp" });
  assert.equal(reduce(state, { tag: "_binary", bytes: Uint8Array.of(1) }).picture, state.picture);
});

test("each trouble has its words, and a way out where there is one", () => {
  const base = { online: true, unacknowledged: 0, waitedFor: 0 };
  const closed = (/** @type {number} */ code) =>
    troubleIn({ ...base, connection: { ...CONNECTING, status: "closed", code, reason: "" } });
  assert.deepEqual([4503, 4401, 4403, 4409, 4400].map((code) => closed(code)?.help), [
    "new", "new", "new", "reload", "reload",
  ]);
  assert.match(closed(4503)?.title ?? "", /quarantined/);
  const waiting = (/** @type {object} */ situation, code = 1006) =>
    troubleIn({ ...base, connection: { ...CONNECTING, status: "waiting", code, retryIn: 1500 }, ...situation });
  assert.match(waiting({})?.advice ?? "", /within 2 s/);
  assert.match(waiting({ unacknowledged: 3 })?.advice ?? "", /3 messages are kept/);
  assert.match(waiting({ online: false })?.title ?? "", /offline/);
  assert.match(waiting({}, 1012)?.title ?? "", /Reconnecting/);
  assert.match(waiting({}, 1013)?.title ?? "", /No worker/);
  const open = (/** @type {number} */ waitedFor) =>
    troubleIn({ ...base, unacknowledged: 1, waitedFor, connection: { ...CONNECTING, status: "open" } });
  assert.equal(open(SLOW_SAVE_MS - 1), null);
  assert.match(open(SLOW_SAVE_MS)?.title ?? "", /Not saved/);
  assert.equal(troubleIn({ ...base, connection: CONNECTING }), null, "the first try is no trouble");
});

test("a line goes from edge to edge, and has no more points than can be seen", () => {
  assert.equal(pathOf([0, 1], 36), `M0,34L${WIDTH},2`);
  assert.equal(pathOf([5, 5], 36), `M0,18L${WIDTH},18`, "what never changes lies in the middle");
  const many = Array.from({ length: 100_000 }, (_, i) => (i === 70_000 ? 9 : Math.sin(i)));
  const few = thinned(many);
  assert.ok(few.length <= 300, `${few.length}`);
  assert.equal(Math.max(...few), 9, "a peak stays");
});
