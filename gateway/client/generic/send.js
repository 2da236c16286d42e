// The box from which any message goes to the session, and what has become of those that went.

import { useState } from "preact/hooks";
import { fromFields, fromJson, toFields } from "./compose.js";
import { html } from "./html.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {import("./compose.js").Field} Field */
/** @typedef {import("./reducer.js").Sent} Sent */

const BLANK = { name: "", text: "" };

/**
 * @param {{ sent: readonly Sent[], send: (message: Message) => void,
 *   sendFile: (file: File) => void }} props
 */
export function Send({ sent, send, sendFile }) {
  const [asJson, setAsJson] = useState(false);
  const [tag, setTag] = useState("");
  const [fields, setFields] = useState([BLANK]);
  const [json, setJson] = useState('{"tag": ""}');
  const [problem, setProblem] = useState("");

  /** Does it, or says what is wrong. @param {() => void} action */
  function attempt(action) {
    try {
      setProblem("");
      action();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    attempt(() => send(asJson ? fromJson(json) : fromFields(tag, fields)));
  }

  /** @param {Message} message */
  function fill(message) {
    const form = toFields(message);
    setTag(form.tag);
    setFields([...form.fields, BLANK]);
    setJson(JSON.stringify(message, null, 2));
  }

  /** What was typed goes along, if it can be read; an empty form begins anew. @param {boolean} to */
  function change(to) {
    if (to === asJson) return;
    const isEmpty = to ? tag.trim() === "" : json.trim() === "" || /"tag":\s*""/.test(json);
    attempt(() => {
      if (!isEmpty) fill(to ? fromFields(tag, fields) : fromJson(json));
      setAsJson(to);
    });
  }

  /** @param {{ currentTarget: HTMLInputElement }} event */
  function onFile({ currentTarget }) {
    const file = currentTarget.files?.[0];
    if (file) sendFile(file);
    // The same file may be sent again.
    currentTarget.value = "";
  }

  return html`<section class="card" aria-labelledby="send-title">
    <h2 id="send-title">Send a message</h2>
    <form id="send" onSubmit=${submit}>
      <fieldset class="choice">
        <legend class="unseen">How to write the message</legend>
        <${Choice} id="send-as-fields" label="Fields" chosen=${!asJson} onChoose=${() => change(false)} />
        <${Choice} id="send-as-json" label="JSON" chosen=${asJson} onChoose=${() => change(true)} />
      </fieldset>
      ${asJson
        ? html`<label for="send-json">message</label>
            <textarea id="send-json" rows="6" spellcheck=${false} value=${json}
              onInput=${(/** @type {any} */ event) => setJson(event.currentTarget.value)}></textarea>`
        : html`<${Fields} tag=${tag} onTag=${setTag} fields=${fields} onFields=${setFields}
            tags=${tagsIn(sent)} />`}
      <p class="problem" id="send-problem" role="alert">${problem}</p>
      <div class="row">
        <button id="send-run">Send</button>
        <label class="file" for="send-file">Send a file as bytes</label>
        <input class="unseen" id="send-file" type="file" onChange=${onFile} />
      </div>
    </form>
    ${sent.length > 0 && html`<${History} sent=${sent} onAgain=${(/** @type {Message} */ message) => {
      setProblem("");
      fill(message);
    }} />`}
  </section>`;
}

/** @param {{ id: string, label: string, chosen: boolean, onChoose: () => void }} props */
function Choice({ id, label, chosen, onChoose }) {
  return html`<input class="unseen" type="radio" name="send-as" id=${id} checked=${chosen} onChange=${onChoose} />
    <label for=${id}>${label}</label>`;
}

/**
 * @param {{ tag: string, onTag: (tag: string) => void, fields: readonly Field[],
 *   onFields: (fields: Field[]) => void, tags: readonly string[] }} props
 */
function Fields({ tag, onTag, fields, onFields, tags }) {
  /** Below the last that is used there is always an empty one. */
  const rows = fields.some(({ name, text }) => name === "" && text === "") ? fields : [...fields, BLANK];
  /**
   * @param {number} at
   * @param {Partial<Field>} change
   */
  const set = (at, change) => onFields(rows.map((row, i) => (i === at ? { ...row, ...change } : row)));
  return html`<div class="field">
      <label for="send-tag">tag</label>
      <input id="send-tag" type="text" autocomplete="off" autocapitalize="off" spellcheck=${false}
        list="send-tags" placeholder="add" value=${tag}
        onInput=${(/** @type {any} */ event) => onTag(event.currentTarget.value)} />
      <datalist id="send-tags">${tags.map((known) => html`<option value=${known}></option>`)}</datalist>
    </div>
    ${rows.map(
      (row, i) => html`<div class="field pair">
        <input type="text" id=${`send-name-${i}`} aria-label=${`name of field ${i + 1}`} placeholder="field"
          autocomplete="off" autocapitalize="off" spellcheck=${false} value=${row.name}
          onInput=${(/** @type {any} */ event) => set(i, { name: event.currentTarget.value })} />
        <input type="text" id=${`send-value-${i}`} aria-label=${`value of field ${i + 1}`}
          placeholder="1, true, [1, 2] or a text" autocomplete="off" spellcheck=${false} value=${row.text}
          onInput=${(/** @type {any} */ event) => set(i, { text: event.currentTarget.value })} />
      </div>`,
    )}`;
}

/** @param {{ sent: readonly Sent[], onAgain: (message: Message) => void }} props */
function History({ sent, onAgain }) {
  return html`<h3>Sent from this page</h3>
    <ol class="lines" id="sent" tabindex="0">
      ${sent.map(
        ({ id, text, message, outcome }) => html`<li key=${id} data-outcome=${outcome}>
          <code>${text}</code>
          <span class="soft">${outcome}</span>
          ${message && html`<button class="quiet small" onClick=${() => onAgain(message)}
            aria-label=${`Take ${text} into the form again`}>Edit</button>`}
        </li>`,
      )}
    </ol>`;
}

/** @param {readonly Sent[]} sent */
function tagsIn(sent) {
  const tags = sent.flatMap(({ message }) => (message ? [message.tag] : []));
  return [...new Set([...tags, "assign"])].sort();
}
