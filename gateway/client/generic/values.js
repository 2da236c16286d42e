// What a value is, from its form alone, and how it reads in words. Pure.

/**
 * How a value is shown.
 * @typedef {"number" | "progress" | "vector" | "bars" | "image" | "text" | "json"} Kind
 */

/** More parts than this are no bars that one could read. */
const MOST_BARS = 24;
/** `progress`, `upload_progress`, `upload-progress`, `uploadProgress`. */
const PROGRESS_KEY = /(^|[_\-.])progress$|Progress$/;

/**
 * @param {string} key
 * @param {any} value
 * @returns {Kind}
 */
export function kindOf(key, value) {
  if (progressOf(key, value)) return "progress";
  if (typeof value === "number") return "number";
  if (typeof value === "string") return /^data:image\//i.test(value) ? "image" : "text";
  if (Array.isArray(value)) return value.length >= 2 && value.every(isPlain) ? "vector" : "json";
  if (value !== null && typeof value === "object") return isBars(value) ? "bars" : "json";
  return "text";
}

/**
 * How far something is: `{done, total}`, or a number from 0 to 1 whose key says that it is progress.
 *
 * @param {string} key
 * @param {any} value
 * @returns {{ done: number, total: number } | null}
 */
export function progressOf(key, value) {
  if (typeof value === "number") {
    return PROGRESS_KEY.test(key) && value >= 0 && value <= 1 ? { done: value, total: 1 } : null;
  }
  const { done, total } = value ?? {};
  const fits = isPlain(done) && isPlain(total) && done >= 0 && total >= 0;
  return fits ? { done: Math.min(done, total), total } : null;
}

/**
 * A number that changes over time.
 * @typedef {{ at: number, value: number }} Sample `at`: ms of the page's clock
 */

/**
 * What is followed over time of a value: how far it is, or the number itself.
 *
 * @param {string} key
 * @param {any} value
 * @returns {number | null}
 */
export function sampleOf(key, value) {
  return progressOf(key, value)?.done ?? (isPlain(value) ? value : null);
}

/**
 * Milliseconds that are left at the pace since it last began, or null while that cannot be said.
 *
 * @param {readonly Sample[]} samples of how much is done
 * @param {number} total
 * @returns {number | null}
 */
export function timeLeft(samples, total) {
  let first = samples.length - 1;
  while (first > 0 && samples[first - 1].value <= samples[first].value) first -= 1;
  const [begin, last] = [samples[first], samples[samples.length - 1]];
  const done = last ? last.value - begin.value : 0;
  if (done <= 0 || last.value >= total) return null;
  return ((last.at - begin.at) / done) * (total - last.value);
}

/** @param {number} ms */
export function durationInWords(ms) {
  const seconds = Math.max(1, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** As short as it can be said without a change that one would see. @param {number} number */
export function numberInWords(number) {
  if (Number.isInteger(number) && Math.abs(number) < 1e15) return number.toLocaleString("en");
  return String(Number(number.toPrecision(6)));
}

/** @param {number} bytes */
export function sizeInWords(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

/** How the files of images begin that every browser shows. Not SVG: opened by itself it would run its
 * scripts as the gateway's page. @type {readonly [string, string][]} */
const IMAGES = [
  ["image/png", "\x89PNG\r\n\x1a\n"],
  ["image/jpeg", "\xff\xd8\xff"],
  ["image/gif", "GIF8"],
  ["image/bmp", "BM"],
];

/**
 * The type of the image that these bytes are, or null when they are none.
 *
 * @param {Uint8Array} bytes
 * @returns {string | null}
 */
export function imageType(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 12));
  if (head.startsWith("RIFF") && head.endsWith("WEBP")) return "image/webp";
  return IMAGES.find(([, begin]) => head.startsWith(begin))?.[0] ?? null;
}

/** @param {any} value */
function isPlain(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** @param {object} value */
function isBars(value) {
  const parts = Object.values(value);
  return parts.length >= 1 && parts.length <= MOST_BARS && parts.every((n) => isPlain(n) && n >= 0);
}
