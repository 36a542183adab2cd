"use strict";
const at = id => document.getElementById(id);
let words = [], current = -1, file = null, busy = false, links = [], talk = null;

function say(text, bad) { at("status").textContent = text; at("status").className = bad ? "bad" : ""; }
function clock(s, mark) {
  const ms = Math.round(s * 1000), two = n => String(n).padStart(2, "0");
  const whole = two(Math.floor(ms / 60000) % 60) + ":" + two(Math.floor(ms / 1000) % 60);
  if (!mark) return (ms >= 3600000 ? Math.floor(ms / 3600000) + ":" : "") + whole;
  return two(Math.floor(ms / 3600000)) + ":" + whole + mark + String(ms % 1000).padStart(3, "0");
}
function running(words) { return words.map(word => (word.joined ? "" : " ") + word.text).join(""); }
function link(blob) { const url = URL.createObjectURL(blob); links.push(url); return url; }

async function transcribe() {
  if (!file || busy) return;
  busy = true;
  at("result").hidden = true;
  say("Transcribing " + file.name + " …");
  const started = performance.now();
  try {
    const headers = at("token").value ? { authorization: "Bearer " + at("token").value } : {};
    const query = new URLSearchParams({ format: "json", name: file.name, language: at("language").value });
    const answer = await fetch("transcribe?" + query, { method: "POST", body: file, headers });
    const found = await answer.json();
    at("token-row").hidden = answer.status !== 401;
    if (!answer.ok) { say(found.error.message, true); return; }
    show(found);
    say(found.words.length + " words in " + clock(found.duration_s) + " of audio, after "
      + ((performance.now() - started) / 1000).toFixed(1) + " s");
  } catch (error) {
    say("The server is unreachable or closed the connection.", true);
  } finally { busy = false; }
}

function show(found) {
  links.forEach(url => URL.revokeObjectURL(url));
  links = [];
  current = -1;
  at("player").src = link(file);
  at("words").replaceChildren();
  let last = -10;
  words = found.words.map(word => {
    if (word.start_s - last >= 10) {
      const time = document.createElement("time");
      time.textContent = clock(word.start_s);
      at("words").append(time);
      last = word.start_s;
    }
    const button = document.createElement("button");
    button.textContent = word.text;
    button.title = clock(word.start_s, ".") + " to " + clock(word.end_s, ".") + ", confidence " + word.confidence.toFixed(2);
    if (word.confidence < 0.6) button.classList.add("unsure");
    button.onclick = () => { at("player").currentTime = word.start_s; at("player").play(); };
    if (!word.joined) at("words").append(" ");
    at("words").append(button);
    return { start: word.start_s, end: word.end_s, button };
  });
  at("srt").href = link(new Blob([subtitles(found.words)], { type: "application/x-subrip" }));
  at("result").hidden = false;
}

async function speak() {
  if (talk) { talk.end(); return; }
  if (busy) return;
  let media;
  try { media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } }); }
  catch (error) { say("Cannot use the microphone: " + (error.message || "this page needs HTTPS for it"), true); return; }
  busy = true;
  const context = new AudioContext(), pieces = [], heard = [];
  const query = new URLSearchParams({ rate: context.sampleRate, language: at("language").value });
  const address = new URL("stream?" + query, location.href).href.replace(/^http/, "ws");
  const socket = new WebSocket(address);
  const source = context.createMediaStreamSource(media), tap = context.createScriptProcessor(2048, 1, 1);
  let sent = 0, over = false;
  const send = () => { while (socket.readyState === 1 && sent < pieces.length) socket.send(pieces[sent++]); };
  const quiet = () => {
    tap.onaudioprocess = null;
    media.getTracks().forEach(track => track.stop());
    if (context.state !== "closed") context.close();
  };
  const finish = () => {
    quiet();
    talk = null; busy = false; over = true;
    at("speak").textContent = "Speak"; at("speak").className = "";
    at("live").hidden = true;
    if (!pieces.length) return;
    file = new File([recording(pieces, context.sampleRate)], "spoken.wav", { type: "audio/wav" });
    show({ words: heard });
  };
  tap.onaudioprocess = event => {
    pieces.push(Int16Array.from(event.inputBuffer.getChannelData(0), s => Math.max(-1, Math.min(1, s)) * 32767));
    send();
  };
  socket.onopen = () => {
    if (at("token").value) socket.send(JSON.stringify({ token: at("token").value }));
    say("Listening …");
    source.connect(tap);
    tap.connect(context.destination);
  };
  socket.onmessage = event => {
    const found = JSON.parse(event.data);
    if (found.error) {
      at("token-row").hidden = found.error.code !== "no_token";
      say(found.error.message, true);
      over = true;
      return;
    }
    heard.push(...found.stable);
    const faint = document.createElement("span");
    faint.textContent = running(found.tentative);
    at("live").replaceChildren(running(heard.slice(-60)), faint);
    if (found.last) { over = true; say(heard.length + " words in " + clock(found.heard_s)); }
  };
  socket.onclose = () => {
    if (!over) say("The server is unreachable or closed the connection.", true);
    finish();
  };
  talk = { end: () => { quiet(); send(); if (socket.readyState === 1) socket.send('{"finish": true}'); else socket.close(); } };
  at("speak").textContent = "Stop"; at("speak").className = "on";
  at("result").hidden = true;
  at("live").hidden = false;
  at("live").replaceChildren();
}

function recording(pieces, rate) {
  const bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0), head = new DataView(new ArrayBuffer(44));
  const text = (place, letters) => [...letters].forEach((letter, i) => head.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt "); head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); head.setUint16(22, 1, true); head.setUint32(24, rate, true); head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true); text(36, "data"); head.setUint32(40, bytes, true);
  return new Blob([head, ...pieces]);
}

function subtitles(all) {
  const cues = [];
  for (const word of all) {
    const cue = cues[cues.length - 1];
    if (!cue || word.start_s - cue.end > 0.8 || word.end_s - cue.start > 6 || (cue.text + word.text).length > 80)
      cues.push({ start: word.start_s, end: word.end_s, text: word.text });
    else { cue.end = word.end_s; cue.text += running([word]); }
  }
  return cues.map((c, i) => (i + 1) + "\n" + clock(c.start, ",") + " --> " + clock(c.end, ",") + "\n" + c.text + "\n\n").join("");
}

at("player").ontimeupdate = () => {
  const now = at("player").currentTime;
  const index = words.findIndex(word => word.start <= now && now < word.end);
  if (index === current) return;
  if (current >= 0) words[current].button.classList.remove("now");
  if (index >= 0) words[index].button.classList.add("now");
  current = index;
};
at("file").onchange = () => { file = at("file").files[0]; transcribe(); };
at("again").onclick = () => file ? transcribe() : speak();
at("speak").onclick = speak;
fetch("health").then(answer => answer.json()).then(found => {
  at("speak").hidden = !found.streaming;
  const languages = Object.entries(found.languages);
  at("language-row").hidden = languages.length < 2;
  if (languages.length > 1) at("language").append(...[["", "any"], ...languages].map(([code, name]) => new Option(name, code)));
}, () => {});
for (const kind of ["dragenter", "dragover"])
  addEventListener(kind, event => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files.length) { file = event.dataTransfer.files[0]; transcribe(); }
});
