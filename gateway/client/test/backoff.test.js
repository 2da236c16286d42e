import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff } from "../backoff.js";

test("the longest wait doubles with each failure, from half a second", () => {
  assert.deepEqual([0, 1, 2, 3].map((i) => backoff(i, 1)), [500, 1000, 2000, 4000]);
});

test("no wait is longer than 30 seconds, after however many failures", () => {
  assert.equal(backoff(6, 1), 30_000);
  assert.equal(backoff(5_000, 1), 30_000);
});

test("the wait is drawn from the whole range down to nothing", () => {
  assert.equal(backoff(3, 0), 0);
  assert.equal(backoff(3, 0.25), 1000);
});
