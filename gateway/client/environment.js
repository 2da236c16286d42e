// What a browser provides, in one place. Tests hand in their own.

/**
 * @typedef {object} Environment
 * @property {new (url: string, protocols: string[]) => WebSocket} WebSocket
 * @property {(callback: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} now monotonic milliseconds
 * @property {() => number} wall milliseconds of the calendar, which go on while a computer sleeps
 * @property {() => number} random from 0 up to 1
 * @property {() => string} randomId letters that nobody can guess
 * @property {Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length"> | null} storage
 * @property {Pick<LockManager, "request"> | null} locks null where pages are not served securely
 * @property {Set<string>} inUse what this page's sessions hold in the storage
 * @property {(type: Signal, callback: () => void) => () => void} listen returns what ends it
 */

/**
 * `online`: there is a network again. `visible`: the page is looked at. `hide`, `show`: the page
 * goes, perhaps for ever; it is back after all.
 * @typedef {"online" | "visible" | "hide" | "show"} Signal
 */

/** @type {Set<string>} */
const inUse = new Set();

/** @returns {Environment} */
export function browserEnvironment() {
  return {
    WebSocket,
    setTimeout: (callback, ms) => setTimeout(callback, ms),
    clearTimeout: (timer) => clearTimeout(timer),
    now: () => performance.now(),
    wall: () => Date.now(),
    random: Math.random,
    randomId,
    storage: sessionStorageIfAny(),
    // Absent in pages that are served over plain HTTP from elsewhere than this machine.
    locks: navigator.locks ?? null,
    inUse,
    listen,
  };
}

/** 128 bits; `crypto.randomUUID` is not there in pages that are not served securely. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function sessionStorageIfAny() {
  try {
    return sessionStorage;
  } catch {
    // The user has forbidden it, or the page is sandboxed.
    return null;
  }
}

/**
 * @param {Signal} type
 * @param {() => void} callback
 */
function listen(type, callback) {
  const [target, name] = /** @type {const} */ ({
    online: [window, "online"],
    visible: [document, "visibilitychange"],
    hide: [window, "pagehide"],
    show: [window, "pageshow"],
  })[type];
  /** @param {Event} event */
  const heard = (event) => {
    if (type === "visible" && document.visibilityState !== "visible") return;
    // The first `pageshow` of a page is no return.
    if (type === "show" && !(/** @type {PageTransitionEvent} */ (event).persisted)) return;
    callback();
  };
  target.addEventListener(name, heard);
  return () => target.removeEventListener(name, heard);
}
