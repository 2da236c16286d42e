// What a tab keeps of its channel in `sessionStorage`, so that a reload goes on with it: one item
// for the channel and one for each unacknowledged input, since an input of many must not cost the
// writing of all. When the storage is full or forbidden, the page goes on without.

/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("./inputs.js").Input} Input */

/**
 * @typedef {object} Saved
 * @property {string} id
 * @property {number} attach
 * @property {number} last
 * @property {string | null} session
 * @property {boolean} open the page has not gone since; see claim.js
 * @property {{ number: number, body: string | Uint8Array }[]} inputs
 */

const TEXT = "t";
const BINARY = "b";

/**
 * @param {import("./environment.js").Environment} environment
 * @param {string} wanted
 * @returns {{ store: Store, release: () => void }}
 */
export function openStore({ storage, inUse }, wanted) {
  let key = wanted;
  // A page that opens a session twice has two channels, and a reload finds both.
  for (let i = 2; inUse.has(key); i++) key = `${wanted}#${i}`;
  inUse.add(key);
  return { store: new Store(storage, key), release: () => void inUse.delete(key) };
}

export class Store {
  /**
   * @param {import("./environment.js").Environment["storage"]} storage
   * @param {string} key
   */
  constructor(storage, key) {
    this.storage = storage;
    this.key = key;
    /** @type {string | null} */
    this.session = null;
  }

  /** @returns {Saved | null} null: nothing, or nothing that makes sense */
  load() {
    try {
      const head = JSON.parse(this.storage?.getItem(this.key) ?? "null");
      if (typeof head?.session === "string") this.session = head.session;
      if (typeof head?.id !== "string" || !isCount(head.attach) || !isCount(head.last)) return null;
      const { id, attach, open } = head;
      const inputs = this.inputNumbers().map((number) => ({ number, body: this.body(number) }));
      const last = Math.max(head.last, inputs.at(-1)?.number ?? 0);
      // Numbers are never used twice and never left out; a record with a hole allows neither.
      const whole = inputs.every(({ number }, i) => number === last - inputs.length + 1 + i);
      return whole ? { id, attach, last, session: this.session, open: open === true, inputs } : null;
    } catch (error) {
      this.giveUp(error);
      return null;
    }
  }

  /**
   * @param {Channel} channel
   * @param {boolean} open
   */
  note({ id, attach, inputs: { last } }, open = true) {
    this.write(this.key, JSON.stringify({ id, attach, last, session: this.session, open }));
  }

  /** @param {Input} input */
  keep({ number, body }) {
    const text = typeof body === "string" ? TEXT + body : BINARY + toBase64(body);
    this.write(this.itemKey(number), text);
  }

  /**
   * @param {readonly { number: number }[]} inputs which are settled
   * @param {Channel} channel
   */
  forget(inputs, channel) {
    // The highest number is noted before the input that bears it goes: it must not come again.
    this.note(channel);
    for (const { number } of inputs) this.storage?.removeItem(this.itemKey(number));
  }

  /**
   * Another channel takes this one's place.
   *
   * @param {Channel} channel
   */
  rewrite(channel) {
    this.clear();
    this.note(channel);
    channel.inputs.unacked.forEach((input) => this.keep(input));
  }

  /** Forgets the channel; which session it was stays, for the next one. */
  end() {
    this.clear();
    if (this.session !== null) this.write(this.key, JSON.stringify({ session: this.session }));
  }

  clear() {
    for (const number of this.inputNumbers()) this.storage?.removeItem(this.itemKey(number));
    this.storage?.removeItem(this.key);
  }

  /** @param {number} number */
  itemKey(number) {
    return `${this.key}/${number}`;
  }

  inputNumbers() {
    const { storage, key } = this;
    const numbers = [];
    for (let i = 0; i < (storage?.length ?? 0); i++) {
      const [head, number] = splitLast(storage?.key(i) ?? "");
      if (head === key && isCount(number)) numbers.push(number);
    }
    return numbers.sort((a, b) => a - b);
  }

  /** @param {number} number */
  body(number) {
    const text = this.storage?.getItem(this.itemKey(number)) ?? "";
    return text[0] === BINARY ? fromBase64(text.slice(1)) : text.slice(1);
  }

  /**
   * @param {string} key
   * @param {string} text
   */
  write(key, text) {
    try {
      this.storage?.setItem(key, text);
    } catch (error) {
      this.giveUp(error);
    }
  }

  /** A record with holes would be worse than none, so all of it goes. @param {unknown} error */
  giveUp(error) {
    console.warn("single-state: sessionStorage takes no more; a reload may lose unsaved input", error);
    try {
      this.clear();
    } catch {
      // What cannot be written may not be removable either; then it has holes, and is not loaded.
    }
    this.storage = null;
  }
}

/** @param {string} key */
function splitLast(key) {
  const slash = key.lastIndexOf("/");
  return /** @type {const} */ ([key.slice(0, slash), Number(key.slice(slash + 1))]);
}

/** @param {any} value */
function isCount(value) {
  return Number.isSafeInteger(value) && value >= 0;
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  let text = "";
  // In pieces, since a function takes only so many arguments.
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
