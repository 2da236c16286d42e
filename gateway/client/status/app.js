// The status page: asks for `/status` each second and draws it. Reads only.

import { WIDTH, pathOf } from "../generic/path.js";
import {
  NOTHING,
  aboutInWords,
  look,
  newest,
  rateInWords,
  roundTripInWords,
  stateInWords,
} from "./figures.js";

/** @typedef {import("./figures.js").Status} Status */
/** @typedef {import("./figures.js").Series} Series */
/** @typedef {import("./figures.js").Worker} Worker */

const EVERY_MS = 1000;
const HEIGHT = 32;

let history = NOTHING;

/** @param {string} id */
const place = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} children
 */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * @param {readonly number[]} values
 * @param {string} label
 */
function sparkline(values, label) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  if (values.length > 1) {
    const path = document.createElementNS(space, "path");
    path.setAttribute("d", pathOf(values, HEIGHT));
    svg.append(path);
  }
  return svg;
}

/**
 * @param {string} id
 * @param {string} title
 * @param {string} value
 * @param {readonly number[]} [past]
 */
function tile(id, title, value, past) {
  const drawn = past ? [sparkline(past, `${title}, the last two minutes`)] : [];
  return element(
    "article",
    { class: "card", id },
    element("h3", {}, title),
    element("p", { class: "big" }, value),
    ...drawn,
  );
}

/**
 * @param {Status} status
 * @param {Series} series
 */
function traffic({ connections, waiting, moving, moves }, series) {
  const { handoff, failover, reset } = moves;
  return [
    tile("connections", "Connections", String(connections), series.connections),
    tile("messages-in", "Messages in, a second", rateInWords(newest(series.in)), series.in),
    tile("messages-out", "Messages out, a second", rateInWords(newest(series.out)), series.out),
    tile("waiting", "Waiting for a worker", String(waiting)),
    tile("moving", "Moving home now", String(moving)),
    tile("moves", "Moved so far", `${handoff} handed over, ${failover} failed over, ${reset} reset`),
  ];
}

/**
 * @param {Worker} worker
 * @param {readonly number[]} said
 */
function workerCard(worker, said) {
  const { index, address, state, sessions, streams, incarnation, build, round_trip_us } = worker;
  /** @type {[string, string][]} */
  const facts = [
    ["sessions with a browser here", String(sessions)],
    ["streams", String(streams)],
    ["messages a second", rateInWords(newest(said))],
    ["round trip", roundTripInWords(round_trip_us)],
    ...loadFacts(worker),
    ["address", address],
    ["incarnation", String(incarnation ?? "–")],
    ["build", build ?? "–"],
  ];
  return element(
    "article",
    { class: "card", "data-worker": String(index), "data-state": state },
    element("h3", {}, `Worker ${index}`),
    element("p", { class: "state" }, stateInWords(worker)),
    sparkline(said, `Messages a second of worker ${index}, the last two minutes`),
    element("dl", {}, ...facts.flatMap(([name, value]) => [
      element("dt", {}, name),
      element("dd", {}, value),
    ])),
  );
}

/**
 * @param {Worker} worker
 * @returns {[string, string][]}
 */
function loadFacts({ load }) {
  if (!load) return [];
  const age = load.dirty === 0 ? "all committed" : `${load.dirty}, the oldest for ${load.oldest_change_ms} ms`;
  return [
    ["sessions in memory", String(load.sessions)],
    ["uncommitted", age],
    ["commits", String(load.commits)],
  ];
}

/** @param {Status["events"][number]} event */
function eventLine({ at_ms, what, worker }) {
  const time = new Date(at_ms);
  return element(
    "li",
    {},
    element("time", { datetime: time.toISOString() }, time.toLocaleTimeString()),
    " ",
    worker === null ? what : `worker ${worker}: ${what}`,
  );
}

function draw() {
  const { last, series } = history;
  if (last === null) return;
  const { status } = last;
  place("about").textContent = aboutInWords(status);
  place("traffic").replaceChildren(...traffic(status, series));
  const cards = status.workers.map((worker) => workerCard(worker, series.workers[worker.address]));
  place("workers").replaceChildren(...cards);
  place("events").replaceChildren(...status.events.map(eventLine));
}

/** @param {string} text empty: all is well */
function tell(text) {
  const trouble = place("trouble");
  if (trouble.textContent !== text) trouble.textContent = text;
  trouble.hidden = text === "";
}

async function ask() {
  try {
    const answer = await fetch("/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    history = look(history, await answer.json(), performance.now());
    tell("");
    draw();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    tell(`This gateway's /status cannot be had, so what follows is old: ${reason}.`);
  }
  // What nobody looks at need not be asked for.
  if (document.hidden) document.addEventListener("visibilitychange", ask, { once: true });
  else setTimeout(ask, EVERY_MS);
}

place("about").title = location.host;
ask();
