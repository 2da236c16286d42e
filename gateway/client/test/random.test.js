// Everything at once, in random order: two tabs of one session, cut cables, takeovers, owners that
// die with what they had not committed, reloads, crashed tabs, storages put back. Whatever happens,
// each message is applied at most once, exactly once if its page could know, and in order; and in
// the end every tab shows what the session has. A failure names its seed: SEED=n runs that one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, fakeBrowser } from "./fake.js";
import { Cable, Model } from "./model.js";
import { initial, openPage, reducer, rest } from "./page.js";

const SEEDS = 400;
const STEPS = 250;
/** Keys that pages assign. */
const OWN_KEYS = ["a", "b"];

/** Numbers from 0 up to 1, the same for each seed. @param {number} seed */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** One tab over its reloads. */
class Tab {
  storage = new FakeStorage();
  older = new FakeStorage();
  isOld = false;
  /** @type {Cable[]} */
  cables = [];
  /** Published, with what became of it. @type {{ item: string, fate: string }[]} */
  items = [];

  /** @param {string} name @param {Model} model @param {() => number} random */
  constructor(name, model, random) {
    this.name = name;
    this.model = model;
    this.random = random;
    this.open();
  }

  open() {
    const browser = fakeBrowser({ storage: this.storage, random: this.random });
    const { cables } = this;
    browser.environment.WebSocket = /** @type {any} */ (
      class extends Cable {
        /** @param {string} url @param {string[]} protocols */
        constructor(url, protocols) {
          super(url, protocols);
          cables.push(this);
        }
      }
    );
    let last = 0;
    const options = {
      /** @type {typeof reducer} */
      reducer: (state, message) => {
        // What the page itself assigns waits for its acknowledgement, and may come out of turn.
        const isInTurn = message.rev !== undefined && !OWN_KEYS.includes(message.key);
        if (isInTurn && message.rev <= last) this.model.violations.push("shown twice or out of turn");
        if (isInTurn) last = message.rev;
        return reducer(state, message);
      },
      onReset: () => ((last = 0), initial),
    };
    this.page = openPage(options, browser);
  }

  /** @param {boolean} crashed */
  reload(crashed) {
    if (!crashed) this.page?.browser.signal("hide");
    if (this.random() < 0.5) this.older = this.storage.copy();
    // What is on its way arrives or not, but nobody is told.
    for (const cable of this.cables) cable.close();
    if (crashed) this.doubt();
    this.open();
  }

  /** The browser crashed and puts back what it had written some time before. */
  putBack() {
    this.doubt();
    for (const cable of this.cables) cable.close();
    this.isOld = true;
    this.storage = this.older;
    this.older = this.storage.copy();
    this.open();
  }

  /** The tab's memory is gone: what it does not know to be applied may be applied or not. */
  doubt() {
    for (const item of this.items) if (item.fate === "pending") item.fate = "unknown";
  }

  publish() {
    const { session } = this.page ?? assert.fail();
    if (this.random() < 0.3) {
      const value = `${this.name} ${this.items.length} ${this.random()}`;
      void session.publish({ tag: "assign", key: OWN_KEYS[this.random() < 0.5 ? 0 : 1], value });
      return;
    }
    // On top of a storage that is too old, a number may be one that an earlier life has used, and
    // whose message is still on its way. Then only "at most once" holds, until all is acknowledged.
    const { durability, unacknowledged } = session.view;
    if (durability !== null && unacknowledged === 0) this.isOld = false;
    const item = { item: `${this.name}-${this.items.length}`, fate: this.isOld ? "unknown" : "pending" };
    this.items.push(item);
    session.publish({ tag: "append", item: item.item }).then(
      () => item.fate === "pending" && (item.fate = "applied"),
      () => (item.fate = "unknown"),
    );
  }

  /** One message arrives, in one direction. @param {Cable} cable */
  deliver(cable) {
    if (cable.readyState === 0 && !cable.isCut && !cable.isLet) return cable.open();
    const up = this.random() < 0.5 ? cable.toServer.shift() : undefined;
    if (up !== undefined) return this.model.receive(cable, up);
    if (cable.isLet) return;
    const down = cable.toClient.shift();
    if (down?.startsWith("close")) return this.fall(cable, Number(down.split(" ")[1]));
    if (down !== undefined) cable.receive(down);
  }

  /** @param {Cable} cable @param {number} code */
  fall(cable, code) {
    cable.isLet = true;
    cable.fall(code);
  }

  /** @param {Cable} cable */
  cut(cable) {
    cable.isCut = true;
    const keep = Math.floor(this.random() * 3);
    cable.toServer.splice(keep);
    cable.toClient.splice(keep);
    // The gateway notices at once, or not before another connection takes over.
    if (this.random() < 0.5) this.model.attached.delete(cable);
    // The page notices at once, or not before its patience ends.
    if (this.random() < 0.7 && !cable.isLet) this.fall(cable, 1006);
  }

  get alive() {
    return this.cables.filter((cable) => !cable.isCut && (!cable.isLet || cable.toServer.length > 0));
  }
}

/** @param {Tab} tab @param {Model} model @param {() => number} random @param {{ faults: boolean }} how */
function step(tab, model, random, { faults }) {
  const { browser } = tab.page ?? assert.fail();
  const { alive } = tab;
  const cable = alive[Math.floor(random() * alive.length)];
  const dice = random();
  if (dice < 0.6 && cable) return tab.deliver(cable);
  if (dice < 0.75) return tab.publish();
  if (dice < 0.85) return browser.advance(random() * 2_000);
  if (dice < 0.9) return model.commit();
  if (!faults) return;
  if (dice < 0.94 && cable) return tab.cut(cable);
  if (dice < 0.96) return model.crash();
  if (dice < 0.98) return tab.reload(false);
  if (dice < 0.984) return tab.reload(true);
  if (dice < 0.988) return tab.putBack();
  browser.signal("online");
}

/** @param {number} seed */
async function run(seed) {
  const random = generator(seed);
  const model = new Model(random);
  const tabs = ["left", "right"].map((name) => new Tab(name, model, random));
  for (let i = 0; i < STEPS; i++) {
    step(tabs[Math.floor(random() * 2)] ?? assert.fail(), model, random, { faults: true });
    // Promises are told only now; before, a page that crashed could not have heard of them.
    if (random() < 0.1) await rest();
  }
  for (const tab of tabs) tab.page?.browser.signal("online");
  for (let i = 0; i < 40; i++) {
    for (const tab of tabs) {
      tab.page?.browser.advance(30_000);
      for (let n = 0; n < 2_000 && tab.alive.some(isBusy); n++) tab.alive.forEach((c) => tab.deliver(c));
    }
    model.commit();
  }
  await rest();
  judge(model, tabs);
}

/** @param {Cable} cable */
function isBusy({ readyState, isLet, toServer, toClient }) {
  return toServer.length > 0 || (!isLet && (toClient.length > 0 || readyState === 0));
}

/** @param {Model} model @param {Tab[]} tabs */
function judge(model, tabs) {
  assert.deepEqual(model.violations, []);
  const { items, log } = model.committed;
  assert.equal(new Set(items).size, items.length, "applied twice");
  for (const tab of tabs) {
    const certain = tab.items.filter(({ fate }) => fate !== "unknown").map(({ item }) => item);
    const own = items.filter((item) => certain.includes(item));
    assert.deepEqual(own, certain, "each once and in order");
    const view = tab.page?.session.view;
    assert.deepEqual([view?.connection.status, view?.unacknowledged], ["open", 0]);
    const told = Object.fromEntries([...log].map(([key, { value }]) => [key, value]));
    assert.deepEqual(sorted(view?.state.keys ?? {}), sorted(told), "the mirror");
  }
}

/** @param {Record<string, any>} keys */
function sorted(keys) {
  return Object.entries(keys).sort(([a], [b]) => (a < b ? -1 : 1));
}

test(`${SEEDS} random lives of two tabs`, async () => {
  const only = Number(process.env.SEED);
  const seeds = only ? [only] : Array.from({ length: SEEDS }, (_, i) => i + 1);
  for (const seed of seeds) {
    await run(seed).catch((cause) => {
      throw new Error(`SEED=${seed} shows it`, { cause });
    });
  }
});
