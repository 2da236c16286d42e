// What Preact components here need of the browser: the time, the network, and addresses of bytes.

import { useEffect, useMemo, useState } from "preact/hooks";

/**
 * The time, told anew each second for as long as somebody wants to know.
 *
 * @param {boolean} wanted
 * @returns {number} ms
 */
export function useNow(wanted) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!wanted) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [wanted]);
  return now;
}

/** Whether the browser has a network. */
export function useOnline() {
  const [online, setOnline] = useState(() => navigator.onLine);
  useEffect(() => {
    const look = () => setOnline(navigator.onLine);
    addEventListener("online", look);
    addEventListener("offline", look);
    return () => {
      removeEventListener("online", look);
      removeEventListener("offline", look);
    };
  }, []);
  return online;
}

/**
 * An address at which the page finds these bytes, for as long as it shows them.
 *
 * @param {Uint8Array} bytes
 * @param {string} type
 */
export function useObjectUrl(bytes, type) {
  const url = useMemo(
    () => URL.createObjectURL(new Blob([/** @type {BlobPart} */ (bytes)], { type })),
    [bytes, type],
  );
  useEffect(() => () => URL.revokeObjectURL(url), [url]);
  return url;
}

/**
 * Since when nothing of what is unacknowledged was saved; null while nothing is.
 *
 * @param {number} unacknowledged
 * @returns {number | null} ms
 */
export function useUnsavedSince(unacknowledged) {
  const [known, setKnown] = useState(() => ({ count: 0, since: 0 }));
  if (unacknowledged !== known.count) {
    // More of them is no news of a save; fewer is.
    const begins = known.count === 0 || unacknowledged < known.count;
    setKnown({ count: unacknowledged, since: begins ? Date.now() : known.since });
  }
  return unacknowledged === 0 ? null : known.since;
}
