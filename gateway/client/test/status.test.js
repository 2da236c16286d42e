// The status page: rates from one look to the next, and words. Pure; the page itself is looked at by
// tests/tests/pages/ in a real browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { KEPT, NOTHING, aboutInWords, look, rateInWords, roundTripInWords, stateInWords } from "../status/figures.js";

/** @type {import("../status/figures.js").Worker} */
const WORKER = {
  index: 0,
  address: "a:1",
  state: "up",
  retired: false,
  sessions: 1,
  streams: 1,
  messages_out: 100,
  incarnation: 1,
  build: "0.1.0",
  round_trip_us: 200,
};

/** @type {import("../status/figures.js").Status} */
const STATUS = {
  generation: 3,
  placement: "modulo",
  connections: 1,
  draining: false,
  waiting: 0,
  moving: 0,
  moves: { handoff: 0, failover: 0, reset: 0 },
  messages_in: 10,
  messages_out: 100,
  workers: [WORKER],
  events: [],
};

test("rates are what was counted since the last look", () => {
  let history = look(NOTHING, STATUS, 1000);
  assert.deepEqual(history.series.in, [0], "one look is no rate");
  const workers = [{ ...WORKER, messages_out: 300 }];
  history = look(history, { ...STATUS, messages_in: 14, workers }, 3000);
  assert.deepEqual([history.series.in, history.series.workers["a:1"]], [[0, 2], [0, 100]]);
});

test("a gateway that was started again has sent nothing negative, and a new worker has no past", () => {
  let history = look(NOTHING, STATUS, 1000);
  const workers = [{ ...WORKER, messages_out: 5 }, { ...WORKER, index: 1, address: "b:1" }];
  history = look(history, { ...STATUS, messages_in: 1, workers }, 2000);
  assert.deepEqual(history.series.in, [0, 0]);
  assert.deepEqual(history.series.workers, { "a:1": [0, 0], "b:1": [0] });
});

test("two minutes are remembered", () => {
  let history = NOTHING;
  for (let i = 0; i < KEPT + 10; i++) history = look(history, STATUS, i * 1000);
  assert.equal(history.series.connections.length, KEPT);
});

test("figures and states have words", () => {
  assert.deepEqual([0, 0.25, 9.96, 1234.5].map(rateInWords), ["0", "0.3", "10.0", "1,235"]);
  assert.deepEqual([null, 200, 1500].map(roundTripInWords), ["–", "200 µs", "1.5 ms"]);
  assert.match(stateInWords({ ...WORKER, state: "down" }), /others have its sessions/);
  assert.match(stateInWords({ ...WORKER, retired: true }), /not in the list/);
  assert.equal(aboutInWords(STATUS), "1 of 1 workers up · generation 3, placement modulo");
  assert.match(aboutInWords({ ...STATUS, generation: null, workers: [] }), /no list of workers yet/);
  assert.match(aboutInWords({ ...STATUS, draining: true }), /draining/);
});
