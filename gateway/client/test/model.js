// A session with its gateway, as far as clients can tell: it applies inputs by their numbers, commits
// now and then, dies and comes back as it was committed, and speaks through cables that can be cut.
// What a client must never do is noted in `violations`.

import { FakeSocket } from "./fake.js";

/** @typedef {{ rev: number, value: any }} Entry */
/** @typedef {{ items: string[], log: Map<string, Entry>, rev: number, channels: Map<string, number> }} State */

/** One websocket and what is on its way, in both directions. */
export class Cable extends FakeSocket {
  /** @type {any[]} */
  toServer = [];
  /** @type {string[]} */
  toClient = [];
  /** @type {string | null} */
  channel = null;
  /** What the gateway keeps for the next owner. @type {[number, any][]} */
  kept = [];
  /** Position of what was sent. */
  seen = { epoch: 0, rev: 0 };
  isCut = false;
  isLet = false;

  /** @param {any} data */
  send(data) {
    if (!this.isCut) this.toServer.push(data);
  }

  close() {
    this.isLet = true;
    this.toClient = [];
  }
}

export class Model {
  epoch = 1;
  /** @type {State} */
  state = { items: [], log: new Map(), rev: 0, channels: new Map() };
  committed = copy(this.state);
  /** The revisions with which epochs began. @type {{ epoch: number, base: number }[]} */
  bases = [];
  /** @type {Map<string, number>} */
  attaches = new Map();
  /** @type {Set<Cable>} */
  attached = new Set();
  /** @type {string[]} */
  violations = [];

  /** @param {() => number} random decides how much of what was seen is sent once more */
  constructor(random) {
    this.random = random;
  }

  /** @param {Cable} cable @param {string} data */
  receive(cable, data) {
    const [head, ...rest] = JSON.parse(data);
    if (head === "hello") return this.hello(cable, rest[0]);
    if (!this.attached.has(cable)) return;
    if (head === "ack") {
      const isFuture = rest[0] === this.epoch && rest[1] > cable.seen.rev;
      if (isFuture) this.violations.push(`acknowledged revision ${rest[1]} of the future`);
      return;
    }
    cable.kept.push([head, rest[0]]);
    this.input(cable, head, rest[0]);
  }

  /** @param {Cable} cable @param {any} hello */
  hello(cable, { channel, attach, seen }) {
    if (attach <= (this.attaches.get(channel) ?? 0)) return this.end(cable, 4409);
    for (const other of this.attached) if (other.channel === channel) this.end(other, 4409);
    this.attaches.set(channel, attach);
    cable.channel = channel;
    this.attached.add(cable);
    if (seen && seen[0] > this.epoch) this.violations.push("has seen an epoch of the future");
    if (seen) cable.seen = { epoch: seen[0], rev: seen[1] };
    const isNew = attach === 1;
    if (isNew) this.state.channels.set(channel, 0);
    this.welcome(cable, Boolean(seen), isNew ? 0 : (this.committed.channels.get(channel) ?? null));
  }

  /** @param {Cable} cable @param {boolean} hasSeen @param {number | null} applied */
  welcome(cable, hasSeen, applied) {
    const { seen } = cable;
    const next = this.bases.find(({ epoch }) => epoch > seen.epoch);
    const resumed = hasSeen && (!next || seen.rev <= next.base);
    const limits = { message_bytes: 0 };
    say(cable, "welcome", { session: "s", epoch: this.epoch, resumed, applied, durability: "relaxed", limits });
    if (hasSeen && !resumed) say(cable, "reset", { reason: "rolled_back" });
    // A server may know less well than a client what has arrived.
    const repeated = Math.floor(this.random() * 4);
    cable.seen = { epoch: this.epoch, rev: resumed ? Math.max(0, seen.rev - repeated) : 0 };
    this.pump(cable);
  }

  /** @param {Cable} cable @param {number} number @param {any} body */
  input(cable, number, body) {
    const { channels, items } = this.state;
    const last = channels.get(cable.channel ?? "");
    if (last !== undefined && number <= last) return this.ack(cable);
    if (last !== undefined && number !== last + 1) {
      this.violations.push(`input ${number} after ${last}`);
      return this.end(cable, 4400);
    }
    channels.set(cable.channel ?? "", number);
    if (body.tag === "append") items.push(body.item);
    this.assign(body.tag === "append" ? "count" : body.key, body.tag === "append" ? items.length : body.value);
    // When this owner dies before it commits, its key is gone, and must go from every page.
    this.assign(`of ${this.epoch}`, number);
    this.attached.forEach((tab) => this.pump(tab));
  }

  /** @param {string} key @param {any} value */
  assign(key, value) {
    const { log } = this.state;
    if (log.get(key)?.value === value) return;
    log.delete(key);
    log.set(key, { rev: ++this.state.rev, value });
  }

  /** @param {Cable} cable */
  pump(cable) {
    // What is committed stays until the commit that replaces it: else a page that saw what lies
    // between, and not the replacement, would resume at the next owner without either.
    const entries = [...this.committed.log, ...this.state.log].sort(([, a], [, b]) => a.rev - b.rev);
    for (const [key, { rev, value }] of entries) {
      if (rev <= cable.seen.rev) continue;
      say(cable, rev, { tag: "assign", key, value, rev });
      cable.seen.rev = rev;
    }
  }

  /** @param {Cable} cable */
  ack(cable) {
    const number = this.committed.channels.get(cable.channel ?? "");
    if (number === undefined) return;
    cable.kept = cable.kept.filter(([kept]) => kept > number);
    say(cable, "ack", number);
  }

  commit() {
    this.committed = copy(this.state);
    this.attached.forEach((cable) => this.ack(cable));
  }

  /** The owner dies; the next one has what was committed, and gateways bring it what they keep. */
  crash() {
    this.state = copy(this.committed);
    this.epoch += 1;
    this.bases.push({ epoch: this.epoch, base: this.state.rev });
    for (const cable of this.attached) {
      this.welcome(cable, true, this.state.channels.get(cable.channel ?? "") ?? null);
      for (const [number, body] of cable.kept) this.input(cable, number, body);
    }
  }

  /** @param {Cable} cable @param {number} code */
  end(cable, code) {
    this.attached.delete(cable);
    cable.toServer = [];
    if (!cable.isCut) cable.toClient.push(`close ${code}`);
  }
}

/** @param {Cable} cable @param {unknown[]} envelope */
function say(cable, ...envelope) {
  if (!cable.isCut && !cable.isLet) cable.toClient.push(JSON.stringify(envelope));
}

/** @param {State} state @returns {State} */
function copy({ items, log, rev, channels }) {
  return { items: [...items], log: new Map(log), rev, channels: new Map(channels) };
}
