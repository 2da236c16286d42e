// A browser for tests: sockets that open and close when the test says so, a clock that moves when it
// says so, a random that is always 1, a storage that outlives pages, and locks that do not.

/** @typedef {import("../environment.js").Environment} Environment */
/** @typedef {import("../environment.js").Signal} Signal */

export class FakeSocket {
  readyState = 0;
  binaryType = "blob";
  /** @type {any[]} */
  sent = [];
  /** @type {number | undefined} */
  closedWith = undefined;
  /** @type {any} */
  onopen;
  /** @type {any} */
  onmessage;
  /** @type {any} */
  onclose;

  /**
   * @param {string} url
   * @param {string[]} protocols
   */
  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  /** @param {any} data */
  send(data) {
    if (this.readyState === 0) throw new Error("a socket that is not open was written to");
    this.sent.push(data);
  }

  /** @param {number} code */
  close(code) {
    this.readyState = 2;
    this.closedWith = code;
  }

  open() {
    this.readyState = 1;
    this.onopen({});
  }

  /** @param {unknown} data */
  receive(data) {
    this.onmessage({ data });
  }

  /** @param {unknown[]} envelope */
  say(...envelope) {
    this.receive(JSON.stringify(envelope));
  }

  fall(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }

  /** Opens, and answers the hello. @param {object} [fields] of the welcome */
  welcome(fields = {}) {
    if (this.readyState === 0) this.open();
    this.say("welcome", {
      session: "token",
      epoch: 1,
      resumed: false,
      applied: 0,
      durability: "relaxed",
      limits: {
        message_bytes: 1024 * 1024,
        frame_bytes: 256 * 1024,
        unacked_messages: 1024,
        unacked_bytes: 256 * 1024,
      },
      ...fields,
    });
  }

  /** What was said in the newest hello. */
  get hello() {
    const hellos = this.envelopes.filter(([name]) => name === "hello");
    return hellos[hellos.length - 1]?.[1];
  }

  /** Text messages that were sent. */
  get envelopes() {
    return this.sent.filter((data) => typeof data === "string").map((text) => JSON.parse(text));
  }

  /** Inputs that were sent as text. */
  get inputs() {
    return this.envelopes.filter(([number]) => typeof number === "number");
  }
}

/** `sessionStorage` with a limit. */
export class FakeStorage {
  /** @type {Map<string, string>} */
  items = new Map();
  quota = Infinity;

  get length() {
    return this.items.size;
  }

  /** @param {number} index */
  key(index) {
    return [...this.items.keys()][index] ?? null;
  }

  /** @param {string} key */
  getItem(key) {
    return this.items.get(key) ?? null;
  }

  /** @param {string} key @param {string} value */
  setItem(key, value) {
    if (key.length + value.length > this.quota) throw new Error("quota exceeded");
    this.items.set(key, value);
  }

  /** @param {string} key */
  removeItem(key) {
    this.items.delete(key);
  }

  /** What a duplicated tab gets. */
  copy() {
    const copy = new FakeStorage();
    copy.items = new Map(this.items);
    return copy;
  }
}

/** Web Locks that decide at once, as far as promises can. */
export class FakeLocks {
  /** @type {Set<string>} */
  held = new Set();

  /** @param {string} name @param {any} options @param {any} callback @returns {Promise<any>} */
  async request(name, options, callback) {
    if (this.held.has(name)) {
      await new Promise((_, reject) => options.signal.addEventListener("abort", () => reject("aborted")));
    }
    this.held.add(name);
    await callback({});
    this.held.delete(name);
  }
}

let pages = 0;

/**
 * One page; a reload is another one with the same storage.
 *
 * @param {{ storage?: FakeStorage, locks?: FakeLocks | null, random?: () => number }} [options]
 */
export function fakeBrowser({ storage = new FakeStorage(), locks = null, random = () => 1 } = {}) {
  /** @type {FakeSocket[]} */
  const sockets = [];
  /** @type {Map<number, { callback: () => void, at: number }>} */
  const timers = new Map();
  /** @type {Map<Signal, Set<() => void>>} */
  const listeners = new Map();
  let lastTimer = 0;
  let lastId = 0;
  const page = ++pages;
  const clock = { now: 0, wall: 1_000_000 };

  class Recorded extends FakeSocket {
    /** @param {string} url @param {string[]} protocols */
    constructor(url, protocols) {
      super(url, protocols);
      sockets.push(this);
    }
  }

  /** @type {Environment} */
  const environment = {
    WebSocket: /** @type {any} */ (Recorded),
    setTimeout(callback, ms) {
      timers.set(++lastTimer, { callback, at: clock.now + ms });
      return lastTimer;
    },
    clearTimeout: (timer) => void timers.delete(timer),
    now: () => clock.now,
    wall: () => clock.wall,
    random,
    randomId: () => `channel-${page}-${++lastId}`,
    storage,
    locks: /** @type {any} */ (locks),
    inUse: new Set(),
    listen(type, callback) {
      const set = listeners.get(type) ?? new Set();
      listeners.set(type, set.add(callback));
      return () => void set.delete(callback);
    },
  };

  return {
    environment,
    storage,
    sockets,
    timers,
    clock,
    /** The newest socket. */
    get socket() {
      return sockets[sockets.length - 1];
    },
    /** Lets time pass, and rings what is due on the way. @param {number} ms */
    advance(ms) {
      const end = clock.now + ms;
      for (;;) {
        const [id, next] = [...timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
        if (!next || id === undefined || next.at > end) break;
        timers.delete(id);
        clock.wall += next.at - clock.now;
        clock.now = next.at;
        next.callback();
      }
      clock.wall += end - clock.now;
      clock.now = end;
    },
    /** @param {Signal} type */
    signal(type) {
      for (const callback of [...(listeners.get(type) ?? [])]) callback();
    },
    /** How many ways the page still listens. */
    get listening() {
      return [...listeners.values()].reduce((sum, set) => sum + set.size, 0);
    },
  };
}
