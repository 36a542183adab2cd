// The queue: files and recordings, one after the other to the server.
const UNREACHABLE = "The server does not answer. Check that it still runs, then press Again.";
const ADVICE = {
  bad_audio: "Choose another file, or convert it to WAV, FLAC or MP3 first.",
  busy: "Press Again in a moment.",
  no_diarizer: "Choose other speakers under Options.",
  too_slow: "The connection is slow: send the file as MP3 or in parts.",
  gone: "Press Again.",
};
const SOUND = /\.(wav|wave|mp3|flac|ogg|oga|opus|m4a|aac|mp4|m4v|mov|webm|mkv|avi|wma|aif|aiff|aifc|caf|amr|3gp|g722|wv|au|snd|sph|w64|mp2|mka|ts)$/i;
const RETRIES = 5, PARALLEL = 2;  // a short file is not kept waiting by a long one

const items = [];
const active = new Set();

class ServerError extends Error {
  constructor(error) {
    const advice = ADVICE[error.code], text = error.message.replace(/\.$/, "");
    super(advice ? text.split(/;| \(/)[0] + ". " + advice : text + ".");
    this.code = error.code;
  }
}

function newItem(name, blob) {
  return {
    name, blob, size: blob?.size ?? 0, url: blob ? URL.createObjectURL(blob) : "", state: "waiting", about: "waiting",
    share: null, words: [], warnings: [], before: [], duration: null, unsaved: false, tries: 0,
  };
}

function addFiles(files) {
  hideError();
  const added = [...files].map(file => newItem(file.webkitRelativePath || file.path || file.name, file));
  for (const item of added) enqueue(item);
  items.push(...added);
  listQueue();
  if (added.length && (!shown || shown.state === "done" || shown.state === "failed")) open(added[0]);
  if (added.length > 1) announce(count(added.length, "recording") + " added");
}

// Files of folders: those that may hold sound; the others are counted.
function addFolder(files) {
  const sound = files.filter(file => /^(audio|video)\//.test(file.type) || SOUND.test(file.name));
  const other = files.filter(file => !sound.includes(file) && !file.name.startsWith("."));
  sound.sort((a, b) => (a.webkitRelativePath || a.path || a.name).localeCompare(b.webkitRelativePath || b.path || b.name, undefined, { numeric: true }));
  addFiles(sound);
  if (!sound.length) fail(new Error("This folder holds no audio or video files. Choose another one."));
  else if (other.length) fail(new Error(count(other.length, "file") + " without sound skipped, such as " + other[0].name + "."));
}

async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(entry => entry.isDirectory)) { addFiles(transfer.files); return; }
  const files = [];
  const read = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((found, failed) => entry.file(found, failed));
      files.push(Object.assign(file, { path: path + entry.name }));
      return;
    }
    const reader = entry.createReader();
    for (;;) {  // a reader gives at most 100 entries at a time
      const part = await new Promise((found, failed) => reader.readEntries(found, failed));
      if (!part.length) return;
      for (const one of part) await read(one, path + entry.name + "/");
    }
  };
  try { for (const entry of entries) await read(entry, ""); } catch (error) { fail(new Error("The folder cannot be read: " + error.message)); }
  addFolder(files);
}

function enqueue(item) {
  item.state = "waiting";
  item.about = "waiting";
  queueMicrotask(next);
}

function next() {
  while (active.size < PARALLEL && at("token-form").hidden) {
    const item = items.find(one => one.state === "waiting");
    if (!item) break;
    active.add(item);
    if (!shown) open(item);
    transcribe(item);
  }
  listQueue();
}

function transcribe(item) {
  const request = new XMLHttpRequest(), query = new URLSearchParams({ format: "json", stream: "true", name: item.name, ...choices() });
  let read = 0, last = null, began = performance.now();
  Object.assign(item, { state: "uploading", about: "uploading", share: 0, request });
  item.words = [];
  item.warnings = [];
  if (item === shown) { selected = -1; renderWords(); update(item); }
  const events = () => {
    const text = request.responseText;
    for (let end; (end = text.indexOf("\n\n", read)) >= 0; read = end + 2) told(JSON.parse(text.slice(read + 6, end)));
  };
  const told = event => {
    if (event.type === "words") {
      item.words.push(...event.words);
      if (item === shown) appendWords(event.words);
    } else if (event.type === "progress") {
      progressed(item, event.heard_s, (performance.now() - began) / 1000);
    } else { last = event; }
  };
  const over = error => {
    active.delete(item);
    if (error) failItem(item, error);
    else { item.took = (performance.now() - began) / 1000; finish(item, last); }
    next();
  };
  request.upload.onprogress = event => {
    item.share = event.total ? event.loaded / event.total : null;
    item.about = "uploading " + size(event.loaded) + " of " + size(event.total);
    changed(item);
  };
  request.upload.onload = () => {
    began = performance.now();
    Object.assign(item, { state: "transcribing", share: null, about: "transcribing" });
    changed(item);
  };
  request.onprogress = () => { if (request.status === 200) events(); };
  request.onload = () => {
    if (request.status === 200) {
      events();
      over(last?.type === "done" ? null : last?.error ? new ServerError(last.error) : new Error(UNREACHABLE));
      return;
    }
    let found;
    try { found = JSON.parse(request.responseText).error; } catch { found = { message: "The server answered " + request.status }; }
    if (request.status === 401) { item.state = "waiting"; item.about = "waiting for the token"; active.delete(item); askToken(); changed(item); return; }
    if (request.status === 429 && item.tries++ < RETRIES) {
      item.state = "busy"; item.about = "the server is busy; waiting";
      changed(item);
      setTimeout(() => { active.delete(item); if (items.includes(item)) enqueue(item); next(); }, 1000 * (request.getResponseHeader("retry-after") || 1));
      return;
    }
    over(new ServerError(found));
  };
  request.onerror = () => over(new Error(UNREACHABLE));
  request.onabort = () => { active.delete(item); next(); };
  try {
    request.open("POST", "transcribe?" + query);
    if (token) request.setRequestHeader("authorization", "Bearer " + token);
    request.send(item.blob);
  } catch (error) { over(new Error("The file cannot be sent: " + error.message)); }
  changed(item);
}

function progressed(item, heard, took) {
  const total = item.duration, speed = heard / Math.max(took, 0.01);
  const naming = total && heard >= total - 0.5 && at("who").value === "diarize";
  item.state = naming ? "naming" : "transcribing";
  item.share = naming || !total ? null : Math.min(1, heard / total);
  item.about = naming ? "telling the speakers apart" : clock(heard) + (total ? " of " + clock(total) : "") + " · " + times(speed) + " real time"
    + (total && took > 2 ? " · " + span((total - heard) / speed) + " left" : "");
  changed(item);
}
function times(speed) { return (speed < 10 ? speed.toFixed(1) : Math.round(speed)) + "×"; }

function finish(item, found) {
  const same = item.words.length === found.words.length && found.words.every((word, i) => word.text === item.words[i].text && label(word) === label(item.words[i]));
  Object.assign(item, { state: "done", share: null, words: found.words, warnings: found.warnings ?? [], duration: found.duration_s });
  item.about = count(item.words.length, "word") + " · " + clock(item.duration)
    + (item.took ? " · " + span(item.took) + ", " + times(item.duration / item.took) + " real time" : "");
  if (item === shown && !same) { selected = -1; renderWords(); }
  if (item === shown && same) spans.forEach((one, i) => mark(one, item.words[i]));
  changed(item);
  announce(item.name + ": " + count(item.words.length, "word"));
}

function failItem(item, error) {
  Object.assign(item, { state: "failed", about: error.message.replace(item.name.split("/").at(-1) + ": is ", "This is "), share: null });
  if (!items.includes(item)) items.unshift(item);
  changed(item);
  if (error.code === "no_token") askToken();
  announce(item.name + ": " + item.about);
}

function removeItem(item) {
  if (item.unsaved && !confirm("Discard the corrections of " + item.name + "?")) return;
  const index = items.indexOf(item);
  items.splice(index, 1);
  if (active.has(item)) item.request.abort();
  if (shown === item) open(items[index] ?? items[index - 1] ?? null);
  URL.revokeObjectURL(item.url);
  listQueue();
}

// --- The list on the page ---

function changed(item) {
  listItem(item);
  update(item);
  const busy = active.size ? [...active][0] : null;
  document.title = busy ? (busy.share ? Math.round(busy.share * 100) + " % · " : "") + busy.name : "lalia";
}

function listQueue() {
  at("recordings").hidden = !items.length;
  const rows = items.map(item => item.row ??= makeRow(item));
  if (rows.some((row, i) => at("queue").children[i] !== row) || at("queue").children.length !== rows.length) at("queue").replaceChildren(...rows);
  items.forEach(listItem);
  const finished = items.filter(item => item.state === "done" && item.words.length);
  at("all").hidden = finished.length < 2;
}

function makeRow(item) {
  const name = make("button", { type: "button", className: "name" }, make("b", { textContent: item.name }), make("small"));
  name.onclick = () => { open(item); listQueue(); };
  const again = make("button", { type: "button", className: "icon again", title: "Again" }, icon("again"));
  again.setAttribute("aria-label", "Again: " + item.name);
  again.onclick = () => retry(item);
  const remove = make("button", { type: "button", className: "icon remove", title: "Remove" }, icon("close"));
  remove.setAttribute("aria-label", "Remove " + item.name);
  remove.onclick = () => removeItem(item);
  return make("li", {}, name, again, remove, make("progress", { max: 1, hidden: true, ariaHidden: "true" }));
}

function listItem(item) {
  const row = item.row;
  if (!row) return;
  row.className = item.state + (item === shown ? " shown" : "");
  row.querySelector("b").textContent = item.name;
  row.querySelector("small").textContent = item.about;
  row.querySelector(".again").hidden = item.state !== "failed" || !item.blob;
  if (item === shown) row.firstChild.setAttribute("aria-current", "true"); else row.firstChild.removeAttribute("aria-current");
  const bar = row.querySelector("progress");
  bar.hidden = !["uploading", "transcribing", "naming"].includes(item.state);
  if (item.share === null) bar.removeAttribute("value"); else bar.value = item.share;
}
function retry(item) {
  if (item.unsaved && !confirm("Discard the corrections of " + item.name + "?")) return;
  Object.assign(item, { tries: 0, before: [], unsaved: false });
  enqueue(item);
}
at("retry").onclick = () => retry(shown);
for (const button of document.querySelectorAll("[data-all]"))
  button.onclick = () => saveAll(items.filter(item => item.state === "done" && item.words.length), button.dataset.all);
