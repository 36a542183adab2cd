// One transcript on the page: its words, playing, correcting, saving.
const at = id => document.getElementById(id);
const make = (tag, facts = {}, ...inside) => {
  const made = Object.assign(document.createElement(tag), facts);
  made.append(...inside);
  return made;
};
function icon(name) {
  const svg = document.querySelector(".logo").cloneNode(true);
  svg.removeAttribute("class");
  svg.firstChild.setAttribute("href", "#i-" + name);
  return svg;
}
function announce(text) { at("status").textContent = text; }

let shown = null, spans = [], selected = -1, playing = -1, scrolled = -1e9;

// --- Words on the page ---

function appendWords(words) {
  const text = at("text");
  let turn = text.lastElementChild, length = turn ? turn.words : 0;
  for (const word of words) {
    const index = spans.length, before = shown.words[index - 1];
    if (begins(word, before, length)) {
      turn = make("article");
      const time = make("button", { type: "button", className: "time", textContent: clock(word.start_s), tabIndex: -1 });
      time.setAttribute("aria-label", "Play from " + clock(word.start_s));
      const made = turn;
      time.onclick = () => playWord(made.querySelector(".word").index);
      const side = make("div", { className: "side" }, time);
      if (label(word)) side.append(speakerButton(word));
      turn.append(side, make("p", { dir: "auto" }));
      text.append(turn);
      length = 0;
    }
    const made = wordSpan(word);
    made.index = index;
    if (!word.joined && length) turn.lastChild.append(" ");
    turn.lastChild.append(made);
    spans.push(made);
    turn.words = ++length;
  }
  const entry = spans[Math.max(selected, 0)];  // where Tab enters the text
  if (entry) entry.tabIndex = 0;
}

function wordSpan(word) {
  const made = make("span", { textContent: word.text, tabIndex: -1 });
  made.setAttribute("role", "button");
  mark(made, word);
  return made;
}

function mark(made, word) {
  const kind = word.was !== undefined ? "corrected" : word.confidence < DOUBTFUL ? "doubtful" : word.confidence < UNSURE ? "unsure" : "";
  made.className = "word " + kind;
  if (kind) made.setAttribute("aria-label", word.text + ", " + (kind === "corrected" ? "corrected" : "unsure"));
  else made.removeAttribute("aria-label");
}

// Put the words `made` in the place of the one at `index`, without writing an hour of other words again.
function replaceWord(index, made) {
  const old = spans[index], turn = old.closest("article"), fresh = made.map(wordSpan);
  fresh.forEach((one, i) => old.before(...(i && !made[i].joined ? [" "] : []), one));
  if (!fresh.length && old.previousSibling?.nodeType === Node.TEXT_NODE) old.previousSibling.remove();
  old.remove();
  spans.splice(index, 1, ...fresh);
  for (let i = index; i < spans.length; i++) spans[i].index = i;
  turn.words += fresh.length - 1;
  if (!turn.words) turn.remove();
  playing = -1;
}

function speakerButton(word) {
  const name = label(word), names = [...new Set(shown.words.map(label).filter(Boolean))];
  const button = make("button", { type: "button", className: "speaker s" + names.indexOf(name) % 6, title: "Rename this speaker" });
  button.textContent = word.speaker ? (/^[A-Z0-9]{1,3}$/.test(name) ? "Speaker " + name : name) : "Channel " + name;
  button.onclick = () => {
    const box = make("input", { value: word.speaker, className: "rename", placeholder: button.textContent });
    box.setAttribute("aria-label", "Name of " + button.textContent);
    let over = false;
    const close = save => {
      if (over) return;
      over = true;
      const text = box.value.trim();
      if (!save || !text || text === name) { box.replaceWith(button); button.focus(); return; }
      change(shown.words.map(other => label(other) === name ? { ...other, speaker: text } : other), renderWords, button.textContent + " is now " + text);
    };
    box.onkeydown = event => { if (event.key === "Enter") close(true); if (event.key === "Escape") close(false); event.stopPropagation(); };
    box.onblur = () => close(true);
    button.replaceWith(box);
    box.select();
  };
  return button;
}

function renderWords() {
  at("text").replaceChildren();
  at("text").classList.toggle("voices", shown.words.some(label));
  spans = [];
  playing = -1;
  appendWords(shown.words);
}

function open(item) {
  if (shown === item) return;
  at("audio").pause();
  shown = item;
  selected = -1;
  document.body.classList.toggle("working", Boolean(item));
  at("transcript").hidden = !item;
  if (!item) return;
  renderWords();
  if (item.url) at("audio").src = item.url; else at("audio").removeAttribute("src");
  at("clock").textContent = clock(0);
  at("seek").value = 0;
  drawWave();
  update(item);
}

// What changes while a recording is processed; its words are appended elsewhere.
function update(item) {
  if (item !== shown) return;
  const done = item.state === "done";
  at("title").textContent = item.name;
  at("about").textContent = item.about;
  at("progress").hidden = !["uploading", "transcribing", "naming"].includes(item.state);
  if (item.share === null) at("progress").removeAttribute("value"); else at("progress").value = item.share;
  at("warnings").replaceChildren(...item.warnings.map(text => make("li", { textContent: sentence(text) })));
  at("transcript").classList.toggle("failed", item.state === "failed");
  at("tools").hidden = at("copy").hidden = at("formats").hidden = !done || !item.words.length;
  at("save").hidden = !done && item.state !== "failed";
  at("retry").hidden = !item.blob;
  at("text").classList.toggle("empty", done && !item.words.length);
  if (done && !item.words.length) at("text").replaceChildren(make("p", { textContent: "No speech was recognised in this recording." }));
  if (done) { inspect(); paintWave(); }
}

// A warning of the server in the page's words.
function sentence(text) {
  const told = text.replace("channels=each keeps them apart", "to keep them apart, choose “one on each channel” under Options and press Again");
  return told[0].toUpperCase() + told.slice(1) + (/[.?!]$/.test(told) ? "" : ".");
}

// --- Selecting and correcting ---

function select(index, focus) {
  if (!spans[index]) return;
  spans[Math.max(selected, 0)]?.classList.remove("selected");
  if (spans[Math.max(selected, 0)]) spans[Math.max(selected, 0)].tabIndex = -1;
  selected = index;
  spans[index].classList.add("selected");
  spans[index].tabIndex = 0;
  if (focus) { spans[index].focus({ preventScroll: true }); spans[index].scrollIntoView({ block: "nearest" }); }
  inspect();
}

function inspect() {
  if (!shown) return;
  const word = shown.words[selected], unsure = shown.words.filter(one => one.confidence < UNSURE).length;
  at("inspector").hidden = false;
  at("correct").hidden = !word;
  at("next").hidden = !unsure;
  at("undo").hidden = !shown.before.length;
  if (!word) { at("inspected").textContent = unsure ? count(unsure, "unsure word") + ". Click a word to hear it." : "Click a word to hear it."; return; }
  const sure = word.was !== undefined ? "was “" + word.was + "”" : Math.round(word.confidence * 100) + " % sure";
  at("inspected").replaceChildren(make("b", { textContent: word.text, dir: "auto" }), make("span", { textContent: clock(word.start_s) + " · " + sure }));
}

function edit(index) {
  const word = shown?.words[index], old = spans[index];
  if (!word || shown.state !== "done") return;
  select(index);
  at("audio").pause();
  const box = make("input", { className: "edit", value: word.text, dir: "auto", size: Math.max(4, word.text.length + 1), spellcheck: true });
  box.setAttribute("aria-label", "Correct “" + word.text + "”. Enter saves, Escape cancels.");
  let over = false;
  const close = (save, step = 0) => {
    if (over) return;
    over = true;
    const text = box.value.trim().replace(/\s+/g, " ");
    box.replaceWith(old);
    let next = index + step;
    if (save && text !== word.text) {
      const made = corrected(word, text), words = [...shown.words];
      words.splice(index, 1, ...made);
      next = step > 0 ? index + made.length : next;
      selected = -1;
      change(words, () => replaceWord(index, made), made.length ? "“" + word.text + "” is now “" + text + "”" : "“" + word.text + "” removed");
    }
    select(Math.max(0, Math.min(next, spans.length - 1)), true);
    if (step && spans[next]) edit(next);
  };
  box.onkeydown = event => {
    event.stopPropagation();
    if (event.isComposing) return;
    if (event.key === "Enter") { event.preventDefault(); close(true); }
    if (event.key === "Escape") close(false);
    if (event.key === "Tab") { event.preventDefault(); close(true, event.shiftKey ? -1 : 1); }
  };
  box.oninput = () => { box.size = Math.max(4, box.value.length + 1); };
  box.onblur = () => close(true);
  old.replaceWith(box);
  box.select();
}

function change(words, render, told) {
  shown.before.push(shown.words);
  shown.words = words;
  shown.unsaved = true;
  render();
  inspect();
  announce(told);
}

function undo() {
  const item = shown;
  if (!item?.before.length) return;
  item.words = item.before.pop();
  const index = Math.min(selected, item.words.length - 1);
  renderWords();
  select(index, true);
  announce("Undone");
}

function playWord(index, focus) {
  select(index, focus);
  playFrom(shown.words[index].start_s);
}

function nextUnsure() {
  const total = shown.words.length;
  for (let step = 1; step <= total; step++) {
    const index = (selected + step) % total;
    if (shown.words[index].confidence >= UNSURE) continue;
    select(index, true);
    playFrom(shown.words[index].start_s, shown.words[index].end_s + 0.2);
    return;
  }
}

// The word above or below the one at `index`, as it is on the screen.
function vertical(index, direction) {
  const here = spans[index].getBoundingClientRect(), middle = here.left + here.width / 2;
  let best = -1, distance = Infinity, line = null;
  for (let i = index + direction; spans[i]; i += direction) {
    const box = spans[i].getBoundingClientRect();
    if (Math.abs(box.top - here.top) < 4) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > 4) break;
    const away = Math.abs(box.left + box.width / 2 - middle);
    if (away < distance) { best = i; distance = away; }
  }
  return best;
}

at("text").addEventListener("click", event => {
  const word = event.target.closest(".word");
  if (!word || shown.state === "failed") return;
  playWord(word.index, true);
});
at("text").addEventListener("dblclick", event => {
  const word = event.target.closest(".word");
  if (word) { event.preventDefault(); edit(word.index); }
});
at("text").addEventListener("focusin", event => {
  if (event.target.classList.contains("word") && event.target.index !== selected) select(event.target.index);
});
at("correct").onclick = () => edit(selected);
at("next").onclick = nextUnsure;
at("undo").onclick = undo;

addEventListener("keydown", event => {
  const target = event.target, word = target.classList?.contains("word") ? target.index : -1;
  if (!shown || shown.state !== "done" || event.altKey || event.isComposing) return;
  if (target.matches?.("input, textarea, select")) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !event.shiftKey) { event.preventDefault(); undo(); return; }
  if (event.ctrlKey || event.metaKey) return;
  const rtl = word >= 0 && getComputedStyle(spans[word].parentNode).direction === "rtl";
  const keys = {
    " ": () => word >= 0 ? (at("audio").paused ? playWord(word) : at("audio").pause()) : toggle(),
    n: nextUnsure,
    ...(word < 0 ? {} : {
      ArrowRight: () => select(word + (rtl ? -1 : 1), true), ArrowLeft: () => select(word + (rtl ? 1 : -1), true),
      ArrowDown: () => select(vertical(word, 1), true), ArrowUp: () => select(vertical(word, -1), true),
      Home: () => select(0, true), End: () => select(spans.length - 1, true), Enter: () => edit(word), F2: () => edit(word),
    }),
  };
  if (!keys[event.key] || (event.key === " " && word < 0 && target.matches?.("button, summary, label"))) return;
  event.preventDefault();
  keys[event.key]();
});

// --- Playing ---

let stopAt = Infinity;

function playFrom(start, end = Infinity) {
  const audio = at("audio");
  if (audio.error) { announce("This browser cannot play the recording"); return; }
  stopAt = end;
  audio.currentTime = start;
  audio.play().catch(() => {});
}
function toggle() {
  stopAt = Infinity;
  if (at("audio").paused) at("audio").play().catch(() => {}); else at("audio").pause();
}

// The last word that began at `time`, if it is still spoken.
function wordAt(time) {
  let low = 0, high = shown.words.length;
  while (low < high) {
    const middle = low + high >> 1;
    if (shown.words[middle].start_s <= time) low = middle + 1; else high = middle;
  }
  return low && time < shown.words[low - 1].end_s + 0.15 ? low - 1 : -1;
}

function tick() {
  const audio = at("audio");
  if (!shown) return;
  if (audio.currentTime >= stopAt) { audio.pause(); stopAt = Infinity; }
  at("clock").textContent = clock(audio.currentTime) + " / " + clock(audio.duration || shown.duration || 0);
  at("seek").value = audio.currentTime;
  at("seek").setAttribute("aria-valuetext", clock(audio.currentTime));
  paintWave();
  const index = wordAt(audio.currentTime);
  if (index !== playing) {
    spans[playing]?.classList.remove("now");
    spans[index]?.classList.add("now");
    playing = index;
    if (index >= 0 && !audio.paused && performance.now() - scrolled > 4000) {
      const box = spans[index].getBoundingClientRect();
      if (box.top < 60 || box.bottom > innerHeight - at("tools").offsetHeight - 20) spans[index].scrollIntoView({ block: "center" });
    }
  }
  if (!audio.paused) requestAnimationFrame(tick);
}
for (const kind of ["wheel", "touchmove"]) addEventListener(kind, () => { scrolled = performance.now(); }, { passive: true });
at("audio").onplay = at("audio").onpause = () => {
  const name = at("audio").paused ? "play" : "pause";
  at("play").replaceChildren(icon(name));
  at("play").setAttribute("aria-label", name === "play" ? "Play" : "Pause");
  tick();
};
at("audio").onseeked = tick;
at("audio").onloadedmetadata = () => {
  const length = at("audio").duration;
  at("play").disabled = false;
  if (!Number.isFinite(length)) return;
  at("seek").max = length;
  if (shown) shown.duration ||= length;
  tick();
};
at("audio").onerror = () => {
  at("play").disabled = true;
  at("clock").textContent = "This browser cannot play this format; the text is complete.";
};
at("play").onclick = toggle;
at("seek").oninput = () => { stopAt = Infinity; at("audio").currentTime = at("seek").value; };
at("rate").onchange = () => { at("audio").playbackRate = at("rate").value; };
at("audio").addEventListener("loadeddata", () => { at("audio").playbackRate = at("rate").value; });

// --- The wave behind the position ---

const WAVE_S = 1200, BARS = 300;

async function drawWave() {
  const item = shown;
  paintWave();
  if (item.peaks || item.size > 40e6 || (item.duration ?? 0) > WAVE_S) return;
  try {
    const sound = await new OfflineAudioContext(1, 1, 8000).decodeAudioData(await item.blob.arrayBuffer());
    const samples = sound.getChannelData(0), step = Math.max(1, Math.floor(samples.length / BARS));
    item.peaks = Array.from({ length: BARS }, (_, bar) => {
      let sum = 0;
      for (let i = bar * step; i < Math.min(samples.length, (bar + 1) * step); i++) sum += Math.abs(samples[i]);
      return sum / step;
    });
    const most = Math.max(...item.peaks, 1e-4);
    item.peaks = item.peaks.map(peak => peak / most);
  } catch { item.peaks = null; }
  if (item === shown) paintWave();
}

function paintWave() {
  const canvas = at("wave"), width = canvas.clientWidth, scale = devicePixelRatio || 1;
  if (!width || !shown) return;
  canvas.width = width * scale;
  canvas.height = 40 * scale;
  const draw = canvas.getContext("2d"), style = getComputedStyle(canvas), peaks = shown.peaks;
  const share = at("audio").duration ? at("audio").currentTime / at("audio").duration : 0, bars = Math.floor(width / 4);
  draw.scale(scale, scale);
  for (let bar = 0; bar < bars; bar++) {
    const here = peaks ? Math.max(...peaks.slice(Math.floor(bar * BARS / bars), Math.floor((bar + 1) * BARS / bars) || 1), 0) : 0;
    const tall = Math.max(3, here * 36);
    draw.fillStyle = bar / bars < share ? style.getPropertyValue("accent-color") : style.color;
    draw.beginPath();
    draw.roundRect(bar * 4, 20 - tall / 2, 2.5, tall, 1.2);
    draw.fill();
  }
}
addEventListener("resize", paintWave);

// --- Saving ---

function savedAs(item, format) { return item.name.replace(/\.[^.]{1,5}$/, "") + "." + format; }

async function render(item, format) {
  const words = item.words.map(({ was, ...word }) => word);
  const answer = await ask("render?format=" + format, { method: "POST", body: JSON.stringify({ audio: item.name, duration_s: item.duration ?? 0, words }) });
  return answer.text();
}

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function save(format) {
  const item = shown;
  try {
    download(savedAs(item, format), new Blob([await render(item, format)]));
    item.unsaved = false;
    announce(savedAs(item, format) + " saved");
  } catch (error) { fail(error, "Your corrections stay on this page."); }
}

async function saveAll(items, format) {
  try {
    const entries = [], names = {};
    for (const item of items) {
      const name = savedAs(item, format), same = names[name] = (names[name] ?? 0) + 1;
      entries.push({ name: same > 1 ? name.replace(/\.(\w+)$/, " (" + same + ").$1") : name, text: await render(item, format) });
      item.unsaved = false;
    }
    download("transcripts.zip", zip(entries));
    announce(count(entries.length, "transcript") + " saved");
  } catch (error) { fail(error, "Your corrections stay on this page."); }
}

for (const button of document.querySelectorAll("[data-save]")) button.onclick = () => save(button.dataset.save);
at("copy").onclick = async () => {
  try {
    const text = [...at("text").querySelectorAll("article > p")].map(turn => turn.textContent).join("\n");
    await navigator.clipboard.writeText(text);
    at("copy").textContent = "Copied";
    announce("Text copied");
  } catch { at("copy").textContent = "Select it"; }
  setTimeout(() => { at("copy").textContent = "Copy"; }, 2000);
};
